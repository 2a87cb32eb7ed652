"""Memory that compiled kernels work in, and tables of offsets."""

from __future__ import annotations

import functools
import itertools
import threading

import numpy as np

LINE = 16  # float32 numbers in a cache line: a vector that straddles two takes twice as long to load
_ROOMS = 64  # layouts that are remembered: to cut memory into five arrays takes 5 us
_FLOAT32 = np.dtype(np.float32)


class _Memory(threading.local):
    """One for each Python thread, so that two may run kernels at once."""

    def __init__(self) -> None:
        self.floats = np.empty(0, np.float32)
        self.rooms: dict[tuple[int, ...], tuple[np.ndarray, ...]] = {}  # what `room` gave, all in `floats`


_memory = _Memory()


def room(threads: int, *sizes: int) -> tuple[np.ndarray, ...]:
    """For each size an array (threads, size), aligned; what stands in it is left over from earlier calls.

    It is valid until this Python thread asks again. New memory for each call would cost more than many a
    kernel: the system clears every page of it at first touch.
    """
    return _memory.rooms.get((threads, *sizes)) or _laid_out(threads, *sizes)


def _laid_out(threads: int, *sizes: int) -> tuple[np.ndarray, ...]:
    rounded = [-(-size // LINE) * LINE for size in sizes]
    wanted = threads * sum(rounded) + LINE
    if _memory.floats.size < wanted or len(_memory.rooms) == _ROOMS:
        _memory.rooms.clear()
    if _memory.floats.size < wanted:
        _memory.floats = np.empty(wanted, np.float32)
    floats = _memory.floats
    start = -floats.ctypes.data // floats.itemsize % LINE
    ends = [start + threads * end for end in itertools.accumulate(rounded, initial=0)]
    arrays = tuple(floats[a:b].reshape(threads, -1) for a, b in itertools.pairwise(ends))
    _memory.rooms[threads, *sizes] = arrays
    return arrays


def is_float32(*arrays: np.ndarray | None) -> bool:
    """Whether all that are given hold float32, in this machine's byte order."""
    return all(A is None or A.dtype == _FLOAT32 for A in arrays)


@functools.lru_cache(maxsize=256)
def steps(count: int, step: int, multiple: int = 1) -> np.ndarray:
    """0, step, 2 step ...: `count` offsets, the last one repeated up to a multiple of a number."""
    return step * np.minimum(np.arange(-(-count // multiple) * multiple), count - 1)
