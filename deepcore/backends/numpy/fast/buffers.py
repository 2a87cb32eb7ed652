"""Memory for large results, used again once nobody refers to it.

The system takes large blocks back when they are freed, and hands them out page by page, cleared, when they
are written to: for a copy of 131 MB that is 20 of 31 ms.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np

_LARGE = 1 << 18  # bytes from which on it pays
_MOST_IDLE = 1 << 28  # bytes that may lie idle; a single buffer may be larger

_pool: list[np.ndarray] = []  # the newest last
_lock = threading.Lock()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array like np.empty's, which may lie in the memory of one that nothing refers to any more."""
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _LARGE:
        return np.empty(shape, dtype)
    with _lock:
        idle = [i for i, count in enumerate(_references(_pool)) if count == _references_if_idle]
        fitting = [i for i in idle if _pool[i].nbytes == nbytes]
        if fitting:
            buffer = _pool[fitting[-1]]
        else:
            buffer = np.empty(nbytes, np.uint8)
            _drop_oldest(idle)
            _pool.append(buffer)
        return buffer.view(dtype).reshape(shape)  # NumPy makes `buffer` the base of all views of it


def _drop_oldest(idle: list[int]) -> None:
    """Of the idle buffers keep the newest, as many as may lie idle."""
    kept = 0
    for i in reversed(idle):
        kept += _pool[i].nbytes
        if kept > _MOST_IDLE:
            del _pool[i]


def _references(pool: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(buffer) for buffer in pool]


(_references_if_idle,) = _references([np.empty(0)])  # Python's versions count differently
