"""CuPy: NumPy's arrays on an NVIDIA GPU, through array_api_compat.cupy, with CUDA kernels beside this file.

No library is imported here: this module is looked at to classify any array type.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.errors import BackendUnavailable

_INSTALL = 'pip install "deepcore[cuda13]" (or "deepcore[cuda12]" for a driver of CUDA 12)'
_NO_DEVICE = "cudaErrorNoDevice"


class CupyBackend(Backend):
    """Arrays on a GPU. A device is its number, as in `net.to("cupy", device=0)`.

    New arrays, and the results of an operation, lie on CuPy's *current* device: to work on another GPU
    than the first, put the work into `with cupy.cuda.Device(1):`, as always in CuPy.
    bfloat16 needs the package ml_dtypes; CuPy itself computes little in it.
    """

    name = "cupy"
    aliases = ("gpu", "cuda")
    package = "cupy"
    namespace = "array_api_compat.cupy"
    kernels = "deepcore.backends.cupy"

    @classmethod
    def why_unusable(cls) -> str | None:
        return _why_unusable()

    @classmethod
    def owns(cls, kind: type) -> bool:
        return any(f"{base.__module__}.{base.__name__}" == "cupy.ndarray" for base in kind.__mro__)

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        if device is not None:
            device = self._number(device)
        return super().asarray(x, dtype, device)

    def to_numpy(self, x: Any) -> np.ndarray:
        return self.xp.asnumpy(x)

    def dtype(self, name: str) -> Any:
        if name != "bfloat16":
            return super().dtype(name)
        try:
            return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        except ImportError as error:
            raise BackendUnavailable(f"cupy: bfloat16 needs {error.name}: pip install ml_dtypes") from error

    def device(self, x: Any) -> int:
        return x.device.id

    def memory_owner(self, x: Any) -> Any:
        while getattr(x, "base", None) is not None:
            x = x.base
        return x

    def share_memory(self, a: Any, b: Any) -> bool:
        # where their ends overlap, as those of two column slices do, shares_memory compares all addresses
        return a is not b and bool(self.xp.may_share_memory(a, b)) and self.xp.shares_memory(a, b)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A CUDA graph; the function itself where that can't be captured."""
        return importlib.import_module("deepcore.backends.cupy.graph").Captured(function)

    def synchronize(self) -> None:
        self.xp.cuda.Device().synchronize()

    def _number(self, device: Any) -> int:
        """A device's number, from a number or a cupy.cuda.Device."""
        number, count = int(device), self.xp.cuda.runtime.getDeviceCount()
        if not 0 <= number < count:
            raise BackendUnavailable(f"cupy: wanted device {number}, but there are {count}, counted from 0")
        return number


@functools.cache
def _why_unusable() -> str | None:
    """Whether CuPy imports, counts a device, and compiles and runs a kernel: asked once, and kept."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        return f"CuPy is not installed ({error}); {_INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()  # importing cupy needs no driver; this does
    except RuntimeError as error:
        if _NO_DEVICE not in str(error):
            return f"no NVIDIA driver that fits this CuPy ({error}); install or update the driver"
        count = 0
    if count == 0:
        return "no GPU is visible; see what nvidia-smi lists, and whether CUDA_VISIBLE_DEVICES hides it"
    try:
        works = float((cupy.arange(3, dtype=cupy.float32) + 1).sum()) == 6.0
    except Exception as error:  # of many kinds: a missing library, a header, the compiler, the device
        return (
            f"a small kernel does not compile or run ({type(error).__name__}: {error}); "
            f"CuPy's extra [ctk] brings CUDA's compiler and headers: {_INSTALL} installs it"
        )
    return None if works else "a small kernel gave a wrong result; check the GPU and its driver"
