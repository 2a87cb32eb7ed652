"""Files: arrays by name (`safetensors`, `pt`), a net as text (`architecture`), and both together (`state`).

Other programs' files: torch's weights (`torch_state`). All of them are here, and none needs the class Net:
a net that a file describes is built by the name of its class, which `architecture` knows.
"""

from deepcore.io.torch_state import load_torch, save_torch

__all__ = ["load_torch", "save_torch"]
