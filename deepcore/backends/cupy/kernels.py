"""CUDA kernels from the .cu files beside this one: found, compiled once, launched on rows.

A kernel is called `<name>_<dtype>`, such as softmax_float32. It is compiled when it is first wanted, with its
family and for its dtype alone, and CuPy keeps what it compiled on disk, under a key made of the source.
Nothing here imports CuPy before a kernel is wanted.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

FAMILIES = ("softmax", "loss")  # each a .cu file
CTYPE = {"float16": "float16", "bfloat16": "bfloat16", "float32": "float", "float64": "double"}
NULL = 0  # for an array that isn't there: CuPy takes None only since 14.1

_HELD = 4  # vectors of 16 bytes that a thread holds; HELD in rows.cuh
_MOST_THREADS = 512
_WARP = 32
_ROWS_OF_A_BLOCK = 4  # where a warp does for a row


def source(family: str, dtype: str) -> str:
    """The CUDA C++ of a family's kernels for one dtype: one text, so that no compiler needs a path."""
    names = ("rows.cuh", f"{family}.cu")
    texts = (files("deepcore.backends.cupy").joinpath(name).read_text("utf-8") for name in names)
    parts = (f'#line 1 "{name}"\n{text}' for name, text in zip(names, texts, strict=True))
    return "".join(parts) + f"\nKERNELS({CTYPE[dtype]}, {dtype})\n"


def kernel(family: str, name: str, dtype: Any) -> Any:
    """A compiled kernel, a cupy.RawKernel: call it with grid, block and arguments.

    Ints arrive as long long, floats as double, arrays as pointers, whatever their strides are.
    """
    return _kernel(family, name, dtype.name)


@functools.cache
def _kernel(family: str, name: str, dtype: str) -> Any:
    return _module(family, dtype).get_function(f"{name}_{dtype}")


@functools.cache
def _module(family: str, dtype: str) -> Any:
    import cupy

    return cupy.RawModule(code=source(family, dtype))


def row_launch(n: int, C: int, itemsize: int) -> tuple[tuple[int], tuple[int, int]]:
    """Grid and block for a kernel on the rows of (n, C): enough threads to hold a row in a chunk, if any.

    >>> row_launch(8, 1000, 4)  # 250 vectors, 4 a thread
    ((8,), (64, 1))
    >>> row_launch(7, 10, 4)  # a warp is enough
    ((2,), (32, 4))
    """
    vectors = -(-C * itemsize // 16) + 1  # a row that starts within a vector touches one more
    wanted = 1 << max(-(-vectors // _HELD) - 1, 0).bit_length()
    threads = min(max(wanted, _WARP), _MOST_THREADS)
    rows = _ROWS_OF_A_BLOCK if threads == _WARP else 1
    return (-(-n // rows),), (threads, rows)


def serves(X: Any, C: int) -> bool:
    """Whether the kernels take X with rows of C: a dtype of theirs, not empty, and 30 bits for a column."""
    return X.size > 0 and X.dtype.name in CTYPE and C < 1 << 30


def aligned(X: Any) -> Any:
    """X row-major and from a 16-byte boundary on, as the kernels read it: a copy, if it isn't so."""
    import cupy

    X = cupy.ascontiguousarray(X)
    return X if X.data.ptr % 16 == 0 else X.copy()
