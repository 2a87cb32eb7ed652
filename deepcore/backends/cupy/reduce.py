"""Accurate sums on CuPy: in float64, as the array is read, because the memory is the limit."""

from __future__ import annotations

import math
from typing import Any

import cupy

from deepcore.backends.cupy.kernels import aligned, channel_launch, column_launch, kernel, serves

_FEW = 16  # rows of a thread that are added sooner than a second launch begins


def column_sum(X: Any) -> Any:
    """Sum over the rows, with no atomics and so in the same order each time."""
    n, W = X.shape[0], math.prod(X.shape[1:])
    return totals(X, n, W, 1).reshape(1, *X.shape[1:]) if serves(X) else NotImplemented


def totals(X: Any, n: int, C: int, S: int) -> Any:
    """The sum of each channel of X, (n, C, S) in row-major order -> (C)."""
    grid, block, tiles, slices = column_launch(n, C * S, X.itemsize)
    if S == 1 and n <= _FEW * block[1]:
        sums = cupy.empty(C, X.dtype)
        kernel("reduce", "column_sum_of_few", X.dtype)((tiles,), block, (aligned(X), sums, n, C, tiles))
        return sums
    partial = cupy.empty((slices, C * S), cupy.float64)
    kernel("reduce", "column_sum", X.dtype)(grid, block, (aligned(X), partial, n, C * S, tiles, slices))
    sums = cupy.empty(C, X.dtype)
    launch = channel_launch(C, slices * S)
    kernel("reduce", "channel_totals", X.dtype)(*launch, (partial, sums, slices, C, S))
    return sums
