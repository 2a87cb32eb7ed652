"""Pooling in one, two and three dimensions, and its gradients: one code for them all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import is_narrow
from deepcore.ops.conv import add_windows, pad
from deepcore.ops.dispatch import op
from deepcore.shapes import Padding, Windows, pool_output_shape, window_slices, windows_of_places


@op
def max_pool(X: Any, kernel: Sequence[int], stride: Sequence[int], padding: Padding) -> tuple[Any, Any]:
    """Y = the largest number of each window, index = its position within the window, in row-major order.

    X: (n, c, *sizes)   Y, index: (n, c, *out)   index: uint8, or int32 if the window has over 256 positions

    Ties go to the first position. Padding never wins, not even against -inf. A window with a NaN gives
    NaN, and the last NaN is the winner, as in torch.
    """
    xp = array_namespace(X)
    out = pool_output_shape(X.shape, kernel, stride, padding)[2:]
    start = first_inside(X, kernel, stride, padding, out)
    X = pad(X, padding, -math.inf)
    first, *others = window_slices(kernel, stride, (1,) * len(kernel), out)
    Y = X[first]
    index = xp.zeros_like(Y, dtype=start.dtype) + start
    for k, position in enumerate(others, start=1):
        A = X[position]
        better = (A > Y) | xp.isnan(A)
        Y = xp.where(better, A, Y)
        index = xp.where(better, xp.full_like(index, k), index)
    return Y, index


@op
def max_pool_backward(
    dY: Any,
    index: Any,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
) -> Any:
    """dX = dY where a number won, summed over the windows that it won; 0 elsewhere.

    dY, index: (n, c, *out)   shape: that of X   dX: (n, c, *sizes)
    """
    xp = array_namespace(dY)
    zeros = xp.zeros_like(dY)
    # (n, c, *out) -> (n, c, k, *out)
    columns = xp.stack([xp.where(index == k, dY, zeros) for k in range(math.prod(kernel))], axis=2)
    return add_windows(columns, shape, kernel, stride, padding, (1,) * len(kernel))


def max_pool_mask(
    index: Any,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dtype: Any,
) -> Any:
    """How many windows each number won: 0 or 1 if windows don't overlap.   (n, c, *out) -> (n, c, *sizes)

    This is the local gradient: with dY = 1 everywhere, dX is the mask. dtype: one, or its name.
    """
    xp = array_namespace(index)
    dtype = backend_of(index).dtype(dtype) if isinstance(dtype, str) else dtype
    return max_pool_backward(xp.ones_like(index, dtype=dtype), index, shape, kernel, stride, padding)


def first_inside(
    X: Any, kernel: Sequence[int], stride: Sequence[int], padding: Padding, out: Sequence[int]
) -> Any:
    """The first position of each window that lies in X, not in its padding: the one to beat.   (*out)"""
    xp = array_namespace(X)
    device = backend_of(X).device(X)
    index = xp.zeros((), dtype=xp.int32, device=device)
    for k, s, (lo, _), o in zip(kernel, stride, padding, out, strict=True):
        start = lo - s * xp.arange(o, dtype=xp.int32, device=device)
        start = xp.where(start > 0, start, xp.zeros_like(start))
        index = index[..., None] * k + start  # (*out so far) -> (*out so far, o)
    return xp.astype(index, xp.uint8 if math.prod(kernel) <= 256 else xp.int32)


# ---- averages, and windows of any length: one axis after the other


def avg_pool(X: Any, windows: Sequence[Windows], counts: Sequence[Sequence[int]]) -> Any:
    """Y = the sum of each window over its count.   (n, c, *sizes) -> (n, c, *out)

    windows, counts: for each spatial axis those of its windows; a window of several axes is their product.
    """
    return array_namespace(X).astype(divide(window_sum(X, windows), counts), X.dtype, copy=False)


def avg_pool_backward(
    dY: Any, windows: Sequence[Windows], counts: Sequence[Sequence[int]], sizes: Sequence[int]
) -> Any:
    """dX = at each place the sum of dY / count over the windows that hold it: a window_sum again."""
    places = tuple(map(windows_of_places, windows, sizes))
    return array_namespace(dY).astype(window_sum(divide(dY, counts), places), dY.dtype, copy=False)


@op
def window_sum(X: Any, windows: Sequence[Windows]) -> Any:
    """The sum of each window, 0 if it is empty; of float16 in float32.   (n, c, *sizes) -> (n, c, *out)"""
    xp = array_namespace(X)
    Y: Any = xp.astype(X, xp.float32) if is_narrow(X) else X
    for axis, along in enumerate(windows, start=2):
        if along == ((0, Y.shape[axis]),):
            Y = xp.sum(Y, axis=axis, keepdims=True)
        else:
            Y = sum(xp.where(there, A, xp.zeros_like(A)) for A, _, there in members(Y, along, axis))
    return Y


def divide(X: Any, counts: Sequence[Sequence[int]]) -> Any:
    """X over the product of its place's counts, one along each spatial axis."""
    xp = array_namespace(X)
    same = math.prod(along[0] for along in counts if len(set(along)) == 1)
    for axis, along in enumerate(counts, start=2):
        if len(set(along)) > 1:
            X = X / xp.astype(on_axis(X, along, axis), X.dtype)
    return X / same


@op
def window_max(X: Any, windows: Sequence[Windows]) -> tuple[Any, tuple[Any, ...]]:
    """Y = the largest number of each window, and for each spatial axis the place where it stood.

    X: (n, c, *sizes)   Y: (n, c, *out)   the places: int32, for the first axis (n, c, *out), for each
    further one with the axes before it still of X's size, since the last axis is reduced first

    Ties go to the first in reading order; of several NaN the last wins, as in max_pool. No window is empty.
    """
    xp = array_namespace(X)
    places = []
    for axis in reversed(range(2, X.ndim)):
        numbers = members(X, windows[axis - 2], axis)
        X, first, _ = next(numbers)
        place = xp.zeros_like(X, dtype=first.dtype) + first
        for A, here, there in numbers:
            better = there & ((A > X) | xp.isnan(A))
            X = xp.where(better, A, X)
            place = xp.where(better, here, place)
        places.append(place)
    return X, tuple(reversed(places))


@op
def window_max_backward(
    dY: Any, places: Sequence[Any], windows: Sequence[Windows], sizes: Sequence[int]
) -> Any:
    """dX = dY where a number won, summed over the windows that it won; 0 elsewhere. Axis by axis, as above.

    dY: (n, c, *out)   places: of window_max   sizes: of X   dX: (n, c, *sizes)
    """
    xp = array_namespace(dY)
    for axis, (place, along, size) in enumerate(zip(places, windows, sizes, strict=True), start=2):
        holders = windows_of_places(along, size)
        here = on_axis(dY, range(size), axis)
        winners = (winner for winner, _, _ in members(place, holders, axis))
        gradients = zip(members(dY, holders, axis), winners, strict=True)
        dY = sum(xp.where(there & (won == here), A, xp.zeros_like(A)) for (A, _, there), won in gradients)
    return dY


def members(X: Any, windows: Windows, axis: int) -> Iterator[tuple[Any, Any, Any]]:
    """The first number of every window along an axis, then the second, and so on.

    Yields the numbers, their places on the axis, and where the window has so many: (..., out, ...) each.
    """
    xp = array_namespace(X)
    size = X.shape[axis]
    for k in range(max(stop - start for start, stop in windows)):
        index = [min(start + k, size - 1) for start, _ in windows]
        there = [start + k < stop for start, stop in windows]
        here = on_axis(X, index, axis)
        yield xp.take(X, xp.reshape(here, (-1,)), axis=axis), here, on_axis(X, there, axis, xp.bool)


def on_axis(X: Any, numbers: Sequence[int], axis: int, dtype: Any = None) -> Any:
    """Whole numbers, one for each place of an axis of X.   (1, ..., len, ..., 1)"""
    xp = array_namespace(X)
    dtype = xp.int32 if dtype is None else dtype
    array = xp.asarray(list(numbers), dtype=dtype, device=backend_of(X).device(X))
    return xp.reshape(array, (1,) * axis + (-1,) + (1,) * (X.ndim - axis - 1))
