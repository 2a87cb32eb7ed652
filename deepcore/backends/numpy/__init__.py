"""NumPy, the default backend: `xp` is numpy itself, which speaks the standard since 2.1.

Not array_api_compat.numpy: it costs 125 ms to import and 10 us for a clip.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.base import Backend


class NumpyBackend(Backend):
    """Arrays on the host, with native kernels beside this file."""

    name = "numpy"
    aliases = ("cpu",)
    package = "numpy"
    namespace = "numpy"
    kernels = "deepcore.backends.numpy"

    @classmethod
    def owns(cls, kind: type) -> bool:
        return issubclass(kind, np.ndarray | np.generic)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x)

    def device(self, x: Any) -> str:
        return "cpu"

    def memory_owner(self, x: Any) -> Any:
        while getattr(x, "base", None) is not None:
            x = x.base
        return x

    def share_memory(self, a: Any, b: Any) -> bool:
        return a is not b and np.shares_memory(a, b)
