"""CUDA kernels from the .cu files beside this one: found, compiled once, and how many threads they want.

A kernel is called `<name>_<dtype>`, such as softmax_float32. It is compiled when it is first wanted, with its
family and for its dtype alone, and CuPy keeps what it compiled on disk, under a key made of the source.
Nothing here imports CuPy before a kernel is wanted.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

FLOATS = ("float16", "bfloat16", "float32", "float64")
CTYPE = {
    "float16": "float16",
    "bfloat16": "bfloat16",
    "float32": "float",
    "float64": "double",
    "int32": "int",
    "int64": "int64",
}
FAMILIES = {  # each a .cu file -> the dtypes that it is written for
    "softmax": FLOATS,
    "loss": FLOATS,
    "labels": ("int64",),
    "reduce": FLOATS,
    "norm": FLOATS,
    "activation": FLOATS,
    "update": FLOATS,
    "random": ("int32",),
    "embedding": FLOATS,
    "pool": FLOATS,
    "conv": FLOATS,
}
NULL = 0  # for an array that isn't there: CuPy takes None only since 14.1

_HELD = 4  # vectors of 16 bytes that a thread holds; HELD in rows.cuh
_MOST_THREADS = 512
_WARP = 32
_ROWS_OF_A_BLOCK = 4  # where a warp does for a row
_BLOCK = 256  # threads that work on columns, or on one element after the other
_HEADERS = ("numbers.cuh", "flat.cuh", "rows.cuh", "columns.cuh", "windows.cuh")


def source(family: str, dtype: str) -> str:
    """The CUDA C++ of a family's kernels for one dtype: one text, so that no compiler needs a path."""
    names = (*_HEADERS, f"{family}.cu")
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


def persistent_launch(n: int, C: int, itemsize: int) -> tuple[tuple[int], tuple[int, int]] | None:
    """As row_launch, but a block walks over many rows; None where a row is off the boundaries or too long.

    Twice as many blocks as multiprocessors; more where a walker would add up over 128 rows in float32.
    """
    vectors, held = C * itemsize // 16, 2 if itemsize == 2 else _HELD
    if C * itemsize % 16 or vectors > held * _MOST_THREADS:
        return None
    threads = max(1 << max(-(-vectors // held) - 1, 0).bit_length(), _WARP)
    rows = _ROWS_OF_A_BLOCK if threads == _WARP else 1
    blocks = max(2 * multiprocessors(), -(-n // (128 * rows)))
    return (min(blocks, -(-n // rows)),), (threads, rows)


def column_launch(n: int, W: int, itemsize: int) -> tuple[tuple[int], tuple[int, int], int, int]:
    """Grid and block for a kernel on the columns of (n, W), and the tiles and slices that the grid is.

    Four blocks for each multiprocessor, if so many find 8 rows for each thread.
    """
    vectors = -(-W * itemsize // 16)
    x = min(1 << (vectors - 1).bit_length(), _WARP)
    y, tiles = _BLOCK // x, -(-vectors // x)
    slices = max(1, min(-(-4 * multiprocessors() // tiles), n // (8 * y)))
    return (tiles * slices,), (x, y), tiles, slices


def channel_launch(C: int, terms: int) -> tuple[tuple[int], tuple[int]]:
    """A block for each of C channels, which adds up so many terms."""
    return (C,), (min(max(1 << max(terms - 1, 0).bit_length(), _WARP), _BLOCK),)


def flat_launch(n: int, itemsize: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block for a kernel on n elements, each thread with 16 bytes of them."""
    return (-(-n * itemsize // (16 * _BLOCK)),), (_BLOCK,)


def multiprocessors() -> int:
    """How many multiprocessors the current GPU has."""
    import cupy

    return _multiprocessors(cupy.cuda.Device().id)


@functools.cache
def _multiprocessors(device: int) -> int:
    import cupy

    return cupy.cuda.Device(device).attributes["MultiProcessorCount"]


def serves(X: Any, C: int = 1) -> bool:
    """Whether the kernels take X with rows of C: a dtype of theirs, not empty, and 30 bits for a column."""
    return X.size > 0 and X.dtype.name in FLOATS and C < 1 << 30


def aligned(X: Any) -> Any:
    """X row-major and from a 16-byte boundary on, as the kernels read it: a copy, if it isn't so."""
    import cupy

    X = cupy.ascontiguousarray(X)
    return X if X.data.ptr % 16 == 0 else X.copy()
