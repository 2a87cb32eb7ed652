"""Files: arrays by name (`safetensors`), a net as text (`architecture`), and both together (`state`)."""
