"""Files: arrays by name (`safetensors`, `pt`), a net as text (`architecture`), both together (`net_file`).

Other programs' files: torch's weights (`torch_state`), ONNX graphs (`onnx_write`, `onnx_read`), and a net as
a program (`python`, `formulas`). None needs the class Net: a net that a file describes is built by the name
of its class, which `architecture` knows.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcore.io.onnx_read import load_onnx
    from deepcore.io.onnx_write import save_onnx
    from deepcore.io.torch_state import load_torch, save_torch

__all__ = ["load_onnx", "load_torch", "save_onnx", "save_torch"]

# imported when first asked for: together they would take a tenth of the time that importing deepcore takes
_HOMES = {
    "load_onnx": "deepcore.io.onnx_read",
    "load_torch": "deepcore.io.torch_state",
    "save_onnx": "deepcore.io.onnx_write",
    "save_torch": "deepcore.io.torch_state",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
