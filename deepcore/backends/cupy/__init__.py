"""CuPy: NumPy's arrays on an NVIDIA GPU, through array_api_compat.cupy, with CUDA kernels beside this file.

No library is imported here: this module is looked at to classify any array type.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.errors import BackendUnavailable

_INSTALL = 'pip install "deepcore[cuda13]" (or "deepcore[cuda12]" for a driver of CUDA 12)'
_NO_DEVICE = "cudaErrorNoDevice"
_NO_CUDNN = "no cuDNN (deepcore[cudnn], and nvidia-cudnn-cu12 or -cu13): convolution by im2col"


class CupyBackend(Backend):
    """Arrays on a GPU. A device is its number, as in `net.to("cupy", device=0)`.

    New arrays, and the results of an operation, lie on CuPy's *current* device: to work on another GPU
    than the first, put the work into `with cupy.cuda.Device(1):`, as always in CuPy.
    bfloat16 needs the package ml_dtypes; CuPy itself computes little in it.

    A call only starts its kernels. An error that one of them meets on the GPU is raised by a later call, the
    first that waits: reading a number, `synchronize`. CUDA_LAUNCH_BLOCKING=1 makes every call wait.
    Where memory runs out, CuPy's OutOfMemoryError, a MemoryError, says how much was wanted, and nothing has
    changed.
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

    def devices(self) -> list[str]:
        """Each GPU's number, model and memory."""
        runtime, found = self.xp.cuda.runtime, []
        for number in range(runtime.getDeviceCount()):
            properties = runtime.getDeviceProperties(number)
            name, size = properties["name"].decode(), properties["totalGlobalMem"] / 2**30
            found.append(f"{number}: {name}, {size:.1f} GiB")
        return found

    def features(self) -> list[str]:
        """The precision of matrix products, and which of NVIDIA's libraries there are."""
        tf32 = os.environ.get("CUPY_TF32") == "1"
        cublaslt = importlib.import_module("deepcore.backends.cupy.cublaslt").load() is not None
        cudnn = importlib.import_module("deepcore.backends.cupy.cudnn").load()
        return [
            "products of float32 in TF32 (CUPY_TF32=1)" if tf32 else "products of float32 in float32",
            "cuBLASLt" if cublaslt else "no cuBLASLt: products by CuPy, and no step is captured in a graph",
            f"convolution by cuDNN {cudnn.backend_version_string()}" if cudnn else _NO_CUDNN,
        ]

    def reference(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """What it makes of bfloat16 is rounded to that: a Python float, or `where`, widens it on CuPy."""

        def rounded(y: Any, dtype: Any) -> Any:
            if isinstance(y, tuple):
                return tuple(rounded(part, dtype) for part in y)
            return y.astype(dtype) if getattr(getattr(y, "dtype", None), "name", "") == "float32" else y

        @functools.wraps(function)
        def call(X: Any, *rest: Any, **options: Any) -> Any:
            Y = function(X, *rest, **options)
            return rounded(Y, X.dtype) if X.dtype.name == "bfloat16" else Y

        return call

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

    def together(self) -> AbstractContextManager[None]:
        """One launch for all weights that move by the same rule."""
        return importlib.import_module("deepcore.backends.cupy.update").together()

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
