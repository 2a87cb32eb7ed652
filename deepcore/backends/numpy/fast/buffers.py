"""Memory for large results, used again once nobody refers to it.

The system takes large blocks back when they are freed, and hands them out page by page, cleared, when
they are written to: for a copy of 131 MB that is 20 of 31 ms. Smaller blocks the C library keeps.
"""

from __future__ import annotations

import math
import sys
import threading

import numpy as np

_LARGE = 32 << 20  # bytes; below, the C library keeps what is freed
_MOST = (
    4  # buffers that are kept, in use or not: a training step's gradient is freed when the next one is made
)

_pool: list[np.ndarray] = []
_lock = threading.Lock()


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array like np.empty's, which may lie in the memory of one that nothing refers to any more."""
    size = math.prod(shape)
    nbytes = size * dtype.itemsize
    if nbytes < _LARGE:
        return np.empty(shape, dtype)
    with _lock:
        buffer = _idle_buffer(_pool, nbytes)
        if buffer is None:
            buffer = np.empty(nbytes, np.uint8)
            _pool.append(buffer)
            del _pool[:-_MOST]
        return buffer.view(dtype).reshape(shape)  # NumPy makes `buffer` the base of all views of it


def _idle_buffer(pool: list[np.ndarray], nbytes: int) -> np.ndarray | None:
    for buffer in pool:
        if buffer.nbytes == nbytes and sys.getrefcount(buffer) == _references_if_idle:
            return buffer
    return None


def _count_references() -> int:
    """How many references an idle buffer has: the pool's and the loop's, as this Python counts them."""
    for buffer in [np.empty(0)]:
        return sys.getrefcount(buffer)
    raise AssertionError


_references_if_idle = _count_references()
