"""Files: arrays by name (`safetensors`, `pt`), a net as text (`architecture`), and both together (`state`).

Other programs' files: torch's weights (`torch_state`), ONNX graphs (`onnx_write`, `onnx_read`), and a net as
a program (`python`, `formulas`). None needs the class Net: a net that a file describes is built by the name
of its class, which `architecture` knows.
"""

from deepcore.io.onnx_read import load_onnx
from deepcore.io.onnx_write import save_onnx
from deepcore.io.torch_state import load_torch, save_torch

__all__ = ["load_onnx", "load_torch", "save_onnx", "save_torch"]
