"""NumPy, the default backend: `xp` is numpy itself, which speaks the standard since 2.1.

Not array_api_compat.numpy: it costs 125 ms to import and 10 us for a clip.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.base import Backend, import_optional
from deepcore.backends.numpy import fast, memory, threads
from deepcore.errors import DTypeError

threads.wait_briefly()


class NumpyBackend(Backend):
    """Arrays on the host, with native kernels in two tiers: beside this file, and compiled ones in `fast`."""

    name = "numpy"
    aliases = ("cpu",)
    package = "numpy"
    namespace = "numpy"
    kernels = "deepcore.backends.numpy"
    on_host = True

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Not np.matrix and masked arrays, in which * and sums mean something else."""
        masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())  # imported by those who use them
        return issubclass(kind, np.ndarray | np.generic) and not issubclass(kind, (np.matrix, masked))

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> np.ndarray:
        if device not in (None, "cpu"):
            raise self.no_device(device, ["cpu"])
        return np.asarray(x, dtype=None if dtype is None else self.dtype(dtype))

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def dtype(self, name: str) -> Any:
        """NumPy's dtype called `name`; bfloat16 is that of ml_dtypes, where this is installed."""
        if name != "bfloat16":
            return super().dtype(name)
        dtype = bfloat16()
        if dtype is None:
            raise DTypeError("NumPy has no bfloat16 of its own; add it with: pip install ml_dtypes")
        return dtype

    def device(self, x: Any) -> str:
        return "cpu"

    def memory_owner(self, x: Any) -> Any:
        while getattr(x, "base", None) is not None:
            x = x.base
        return x

    def tiers(self, family: str, name: str) -> list[Callable[..., Any]]:
        """The compiled kernel, and that in NumPy alone, as far as there are such."""
        kernels = fast.kernel(family, name), self.kernel(family, name)
        return [kernel for kernel in kernels if kernel is not None]

    def unheld(self, table: dict[str, Any], name: str, times: int = 1) -> bool:
        return memory.unheld(table, name, times)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        from deepcore.backends.numpy.program import Compiled  # it costs an import that few need

        return Compiled(function)

    def share_memory(self, a: Any, b: Any) -> bool:
        return a is not b and np.shares_memory(a, b)


def bfloat16() -> np.dtype | None:
    """The dtype that the package ml_dtypes adds to NumPy, or None where that is not installed."""
    ml_dtypes = import_optional("ml_dtypes")
    return None if ml_dtypes is None else np.dtype(ml_dtypes.bfloat16)
