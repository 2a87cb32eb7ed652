"""Memory that compiled kernels work in, and tables of offsets."""

from __future__ import annotations

import functools
import threading

import numpy as np

_LINE = 16  # float32 numbers in a cache line: a vector that straddles two takes twice as long to load


class _Memory(threading.local):
    """One for each Python thread, so that two may run kernels at once."""

    floats = np.empty(0, np.float32)


_memory = _Memory()


def room(threads: int, *sizes: int) -> list[np.ndarray]:
    """For each size an array (threads, size), aligned; what stands in it is left over from earlier calls.

    It is valid until this Python thread asks again. New memory for each call would cost more than many a
    kernel: the system clears every page of it at first touch.
    """
    rounded = [-(-size // _LINE) * _LINE for size in sizes]
    wanted = threads * sum(rounded) + _LINE
    if _memory.floats.size < wanted:
        _memory.floats = np.empty(wanted, np.float32)
    floats = _memory.floats
    start = -floats.ctypes.data // floats.itemsize % _LINE
    arrays = []
    for size in rounded:
        arrays.append(floats[start : start + threads * size].reshape(threads, size))
        start += threads * size
    return arrays


def is_float32(*arrays: np.ndarray | None) -> bool:
    """Whether all that are given hold float32, in this machine's byte order."""
    return all(A is None or (A.dtype == np.float32 and A.dtype.isnative) for A in arrays)


@functools.lru_cache(maxsize=256)
def steps(count: int, step: int, multiple: int = 1) -> np.ndarray:
    """0, step, 2 step ...: `count` offsets, the last one repeated up to a multiple of a number."""
    return step * np.minimum(np.arange(-(-count // multiple) * multiple), count - 1)
