"""Memory for large arrays, used again: the first touch of a new page costs more than the arithmetic on it.

A buffer is handed out as the base of an array, and kept. It is free once nothing else refers to it: then
the array and all views of it are gone, whoever had them. So nobody has to give anything back.

Arrays start where a line of the cache does: NumPy's own start 16 bytes later, so that each vector of 64 bytes
lies in two lines, and a product of 65536 numbers takes 17 us instead of 8.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

_SMALL = 1 << 14  # bytes up to which an array costs more to place than it could gain
_LARGE = 1 << 17  # bytes from which on a buffer is kept: malloc gives such memory back, and gets new pages
_MOST = 1 << 29  # bytes that are kept, in use or not; of more, those that were handed out first are let go
_LINE = 64  # bytes of a cache line, where arrays start
_FIRST_BYTE: Any = ctypes.c_char.from_buffer

Out = np.ndarray | None  # memory that a kernel is told to write a result into

_buffers: dict[int, deque[np.ndarray]] = {}  # by their bytes, those handed out last at the end


def empty(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """As np.empty, for an array that is about to be written to in full."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size <= _SMALL:
        return np.empty(shape, dtype)
    buffer = np.empty(size + _LINE, np.uint8) if size < _LARGE else _kept_buffer(size + _LINE)
    address = ctypes.addressof(_FIRST_BYTE(buffer))  # in a quarter of the time of buffer.ctypes.data
    return np.ndarray(shape, dtype, buffer, -address % _LINE)


def empty_like(X: np.ndarray) -> np.ndarray:
    """An array of X's shape and dtype, in C order."""
    return empty(X.shape, X.dtype)


def _kept_buffer(size: int) -> np.ndarray:
    """A buffer of that size which nothing refers to but the books."""
    alike = _buffers[size] = _buffers.pop(size, None) or deque()  # now the last size to be let go
    buffer = _free_buffer(alike)
    if buffer is None:
        buffer = np.empty(size, np.uint8)
        _let_go(size)
    alike.append(buffer)
    return buffer


def _free_buffer(alike: deque[np.ndarray]) -> np.ndarray | None:
    """A buffer which nothing refers to, taken out of the books; or None.

    That which was handed out last, as long as there is one: of all, it is the likeliest to lie in the cache.
    Whoever takes a buffer out is the only one to look at it: two threads cannot find the same one.
    """
    for _ in range(len(alike)):
        try:
            buffer = alike.pop()
        except IndexError:  # another thread has them all
            return None
        if sys.getrefcount(buffer) <= _ALONE:
            return buffer
        alike.appendleft(buffer)
    return None


def unheld(table: dict[str, Any], name: str, times: int = 1) -> bool:
    """Whether table[name] is a large array that nothing refers to but this dict and times - 1 others.

    Nothing refers to a view of it either: a view refers to the array, or to the buffer in which both lie.
    The same of a dict table[name] and each of its arrays.
    """
    if not _ONE_AT_A_TIME or sys.getrefcount(table[name]) != _IN_A_DICT + times - 1:
        return False
    if type(table[name]) is dict:
        inner = table[name]
        return all(unheld(inner, key) for key in inner if isinstance(inner[key], np.ndarray))
    if type(table[name]) is not np.ndarray or table[name].nbytes < _LARGE:
        return False
    buffer = table[name].base
    if buffer is None:
        return table[name].flags.owndata
    if type(buffer) is not np.ndarray or not buffer.flags.owndata:
        return False
    in_books = [*map(id, list(_buffers.get(buffer.size, ())))].count(id(buffer))
    return sys.getrefcount(buffer) == _ALONE + 1 + in_books  # the array itself refers to it


def _let_go(size: int) -> None:
    """Make room for a buffer of that size: those of the size that was asked for longest ago go first."""
    kept = sum(other * len(alike) for other, alike in list(_buffers.items()))
    for other, alike in list(_buffers.items()):
        if kept + size <= _MOST:
            return
        kept -= other * len(alike)
        alike.clear()
        if other != size:
            _buffers.pop(other, None)


def _references() -> int:
    """What sys.getrefcount says in this version of Python of a buffer that one local variable holds."""
    books = deque([np.empty(0, np.uint8)])
    buffer = books.popleft()
    return sys.getrefcount(buffer)


def _references_of_a_dict() -> int:
    """The same of an array that one dict holds."""
    table = {"X": np.empty(0, np.uint8)}
    return sys.getrefcount(table["X"])


_ALONE = _references()
_IN_A_DICT = _references_of_a_dict()
# whether one thread at a time runs Python; else another may take hold of what has just been counted
_ONE_AT_A_TIME = getattr(sys, "_is_gil_enabled", lambda: True)()
