"""Pooling on NumPy: one pass over each position within the window, all windows at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.conv import place_inside
from deepcore.backends.numpy.memory import empty
from deepcore.backends.quiet import quietly
from deepcore.shapes import Padding, Windows, pool_output_shape, window_slices

_BLOCK = 1 << 20  # bytes of images at a time, so that they stay in the cache while all positions pass
_SHARE = 1 << 21  # bytes of images that are worth a thread


def max_pool(
    X: np.ndarray, kernel: Sequence[int], stride: Sequence[int], padding: Padding
) -> tuple[np.ndarray, np.ndarray]:
    """A running maximum; each position is copied first, as NumPy compares strided numbers slowly."""
    shape = pool_output_shape(X.shape, kernel, stride, padding)
    X = pad_lowest(X, padding)
    positions = list(window_slices(kernel, stride, (1,) * len(kernel), shape[2:]))
    Y, index = empty(shape, X.dtype), empty(shape, np.uint8 if len(positions) <= 256 else np.int32)
    index[...] = first_inside(kernel, stride, padding, shape[2:]) if any(map(any, padding)) else 0
    step = _images(_BLOCK, X)

    def part(start: int, stop: int) -> None:
        for block in range(start, stop, step):
            images = slice(block, min(block + step, stop))
            _running_maximum(X[images], positions, Y[images], index[images])

    threads.share(part, len(X), _images(_SHARE, X))
    return Y, index


def _running_maximum(
    X: np.ndarray, positions: Sequence[tuple[Any, ...]], Y: np.ndarray, index: np.ndarray
) -> None:
    first, *others = positions
    Y[...] = X[first]
    A = np.empty_like(Y)
    for k, position in enumerate(others, start=1):
        A[...] = X[position]
        better = (A > Y).view(np.uint8)
        np.maximum(Y, A, out=Y)
        # k only grows: the maximum of the winners' k is the last winner's
        np.maximum(index, np.multiply(better, k, dtype=index.dtype), out=index)
    if np.isnan(Y).any():  # each NaN is better than what came before
        for k, position in enumerate(positions):
            index[np.isnan(X[position])] = k


def _images(nbytes: int, X: np.ndarray) -> int:
    """How many images have so many bytes: at least one."""
    return max(1, nbytes * len(X) // max(1, X.nbytes))


def pad_lowest(X: np.ndarray, padding: Padding) -> np.ndarray:
    """(n, c, *sizes) -> (n, c, *sizes + lo + hi), filled with -inf"""
    if not any(map(any, padding)):
        return X
    inside, sizes = place_inside(X.shape[2:], padding)
    padded = np.full((*X.shape[:2], *sizes), -np.inf, X.dtype)
    padded[inside] = X
    return padded


def first_inside(
    kernel: Sequence[int], stride: Sequence[int], padding: Padding, out: Sequence[int]
) -> np.ndarray:
    """The first position of each window that lies in X, not in its padding: the one to beat.   (*out)"""
    starts = [
        np.maximum(lo - s * np.arange(o), 0) for s, (lo, _), o in zip(stride, padding, out, strict=True)
    ]
    return np.ravel_multi_index(np.ix_(*starts), tuple(kernel))


@quietly
def max_pool_backward(
    dY: np.ndarray,
    index: np.ndarray,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
) -> np.ndarray:
    """For each position within the window: the gradients that it won, and zeros."""
    n, c, *sizes = shape
    inside, padded_sizes = place_inside(sizes, padding)
    wide = np.ascontiguousarray(dY, np.promote_types(dY.dtype, np.float32))
    bits = wide.view(f"i{wide.itemsize}")
    dX = empty((n, c, *padded_sizes), wide.dtype)
    overlap = any(k > s for k, s in zip(kernel, stride, strict=True))
    if overlap or [k * o for k, o in zip(kernel, dY.shape[2:], strict=True)] != padded_sizes:
        dX[...] = 0  # else all of it is written below
    positions = list(window_slices(kernel, stride, (1,) * len(kernel), dY.shape[2:]))

    def part(start: int, stop: int) -> None:
        images = slice(start, stop)
        for k, position in enumerate(positions):
            won = index[images] == k  # times the bits, not the numbers: 0 NaN would be NaN
            if overlap:
                dX[images][position] += np.multiply(bits[images], won).view(wide.dtype)
            else:
                np.multiply(bits[images], won, out=dX.view(bits.dtype)[images][position])

    threads.share(part, n, _images(_SHARE, dX))
    return np.ascontiguousarray(dX[inside], dY.dtype)


@quietly
def window_sum(X: np.ndarray, windows: Sequence[Windows]) -> np.ndarray:
    """Slices instead of the reference's takes; and a whole image at once, which NumPy adds pairwise."""
    Y = np.ascontiguousarray(X, np.promote_types(X.dtype, np.float32))
    if all(along == ((0, size),) for along, size in zip(windows, X.shape[2:], strict=True)):
        n, c, *sizes = X.shape
        return np.add.reduce(Y.reshape(n, c, math.prod(sizes)), axis=2).reshape(n, c, *(1 for _ in sizes))
    for axis, along in enumerate(windows, start=2):
        starts = [min(start, Y.shape[axis] - 1) for start, _ in along]
        first = _at(axis, _as_slice(starts))
        total = Y[first].copy() if isinstance(first[axis], slice) else Y.take(starts, axis)
        total[_at(axis, [p for p, (start, stop) in enumerate(along) if start == stop])] = 0
        for k in range(1, max(stop - start for start, stop in along)):
            there = [p for p, (start, stop) in enumerate(along) if start + k < stop]
            numbers = _as_slice([along[p][0] + k for p in there])
            total[_at(axis, _as_slice(there))] += Y[_at(axis, numbers)]
        Y = total
    return Y


def _at(axis: int, index: slice | list[int]) -> tuple[Any, ...]:
    """What indexes one axis."""
    return (slice(None),) * axis + (index,)


def _as_slice(index: list[int]) -> slice | list[int]:
    """Equal steps as a slice: a view, where a list would be a copy."""
    step = index[1] - index[0] if len(index) > 1 else 1
    even = step > 0 and index == list(range(index[0], index[-1] + 1, step))
    return slice(index[0], index[-1] + 1, step) if even else index
