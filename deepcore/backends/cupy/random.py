"""The random generator on CuPy: the words go from registers to where they are wanted."""

from __future__ import annotations

from typing import Any

import cupy
import numpy as np

from deepcore.backends.cupy.kernels import NULL, kernel

_BLOCK = 256


def threefry(like: Any, n: int, key: tuple[int, int], call: Any, start: int) -> Any:
    """Words start to start + n - 1, as int32."""
    words = cupy.empty(n, cupy.int32)
    _launch("threefry", words, n, start, key, call)
    return words


def at_least(like: Any, n: int, key: tuple[int, int], call: Any, start: int, least: int) -> Any:
    """Which words have upper 24 bits that are at least `least`."""
    mask = cupy.empty(n, cupy.bool_)
    _launch("at_least", mask, n, start, key, call, least)
    return mask


def _launch(name: str, out: Any, n: int, start: int, key: tuple[int, int], call: Any, *settings: int) -> None:
    """One thread for each pair of words."""
    if n == 0:
        return
    pairs = (start + n + 1) // 2 - start // 2
    number = (call, 0) if isinstance(call, cupy.ndarray) else (NULL, int(call))
    kernel("random", name, np.dtype("int32"))(
        (-(-pairs // _BLOCK),), (_BLOCK,), (out, n, start, *key, *number, *settings)
    )
