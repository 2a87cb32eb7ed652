"""Convolution on NumPy: windows become columns, and matrix products do the rest.

A few images at a time, so that BLAS finds their columns still in the cache.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.shapes import Padding, conv_output_shape, window_slices, window_span

_BLOCK = 1 << 19  # bytes of columns at a time: well inside a core's second-level cache


def quiet(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """An overflow shows in the result, as inf, and needs no warning."""
    return np.errstate(over="ignore", invalid="ignore")(kernel)


def float16_in_float32(kernel: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Compute in float32 what is given in float16: faster, and sums don't overflow at 65,504."""

    @functools.wraps(kernel)
    def widened(X: np.ndarray, *rest: Any) -> np.ndarray:
        if X.dtype != np.float16:
            return kernel(X, *rest)
        wide = (A.astype(np.float32) if isinstance(A, np.ndarray) else A for A in (X, *rest))
        return kernel(*wide).astype(np.float16)

    return widened


@quiet
@float16_in_float32
def conv(
    X: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """Y = W columns(X) + b."""
    n, f, *out = conv_output_shape(X.shape, W.shape, stride, padding, dilation, groups)
    Y = np.empty((n, f, *out), X.dtype)
    columns = Columns(X, W.shape, stride, padding, dilation, groups)
    first, *others = columns.matrices(W)
    for images, (columns_first, *columns_others) in columns.blocks():
        Y_block = Y[images].reshape(-1, groups, f // groups, math.prod(out))
        np.matmul(first, columns_first, out=Y_block)
        for A, columns_A in zip(others, columns_others, strict=True):
            Y_block += A @ columns_A
        if b is not None:
            Y[images] += b
    return Y


@quiet
@float16_in_float32
def conv_dW(
    dY: np.ndarray,
    X: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """dW = dY columns(X)^T. Each place within a block keeps a sum of its own; they meet in float64."""
    f = dY.shape[1]
    columns = Columns(X, (f, X.shape[1] // groups, *kernel), stride, padding, dilation, groups)
    dW = np.zeros((columns.products, columns.step, groups, f // groups, columns.height), X.dtype)
    dY = np.ascontiguousarray(dY).reshape(-1, groups, f // groups, columns.places)
    for images, views in columns.blocks():
        dY_block = dY[images]
        for dW_row, view in zip(dW, views, strict=True):
            dW_row[: len(dY_block)] += dY_block @ view.swapaxes(-1, -2)
    return columns.kernels(dW.sum(axis=1, dtype=np.float64).astype(X.dtype))


@quiet
@float16_in_float32
def channel_sum(dY: np.ndarray) -> np.ndarray:
    """In float64, first over the images: rows are added faster than short columns."""
    n, f, *out = dY.shape
    rows = np.ascontiguousarray(dY).reshape(n, f * math.prod(out))
    sums = np.add.reduce(rows, axis=0, dtype=np.float64)
    total = np.add.reduce(sums.reshape(f, math.prod(out)), axis=1).astype(dY.dtype)
    return total.reshape(1, f, *(1 for _ in out))


@quiet
@float16_in_float32
def conv_dX(
    dY: np.ndarray,
    W: np.ndarray,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """At stride 1 a convolution of dY, mostly twice as fast as adding up columns."""
    spans = map(window_span, W.shape[2:], dilation)
    full = [(span - 1 - lo, span - 1 - hi) for span, (lo, hi) in zip(spans, padding, strict=True)]
    f, c = W.shape[:2]
    # with 8 times as many outputs as inputs, the columns of dY cost more than those of dX
    if set(stride) == {1} and min(map(min, full)) >= 0 and f // groups <= 8 * c:
        return conv(dY, turn_round(W, groups), None, stride, full, dilation, groups)
    return add_columns(dY, W, shape, stride, padding, dilation, groups)


def turn_round(W: np.ndarray, groups: int) -> np.ndarray:
    """Each kernel turned round, inputs and outputs exchanged.   (f, c/g, *kernel) -> (c, f/g, *kernel)"""
    f, c, *kernel = W.shape
    turned = np.flip(W, axis=tuple(range(2, W.ndim))).reshape(groups, f // groups, c, *kernel)
    return turned.swapaxes(1, 2).reshape(groups * c, f // groups, *kernel)


def add_columns(
    dY: np.ndarray,
    W: np.ndarray,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> np.ndarray:
    """dX = W^T dY, whose columns are added where windows overlap. Works at any stride."""
    f, out, kernel = W.shape[0], dY.shape[2:], W.shape[2:]
    n, c, *sizes = shape
    height = W.shape[1] * math.prod(kernel)
    WT = np.ascontiguousarray(W).reshape(groups, f // groups, height).swapaxes(1, 2)
    positions = window_slices(kernel, stride, dilation, out)
    inside, padded_sizes = place_inside(sizes, padding)
    step = images_per_block(c * len(positions) * math.prod(out) * dY.itemsize)
    dX = np.empty((n, c, *sizes), dY.dtype)
    dY = np.ascontiguousarray(dY).reshape(n, groups, f // groups, math.prod(out))
    for start in range(0, n, step):
        images = slice(start, min(start + step, n))
        columns = (WT @ dY[images]).reshape(-1, c, len(positions), *out)
        padded = np.zeros((columns.shape[0], c, *padded_sizes), dY.dtype)
        for k, position in enumerate(positions):
            padded[position] += columns[:, :, k]
        dX[images] = padded[inside]
    return dX


class Columns:
    """The windows of X as columns of matrices (images, g, height, places), a few images at a time.

    In general there is one matrix, with a row for each channel of a group and each position within
    the window. But at stride 1 the windows of kernel row i are those of row 0, moved by i image rows:
    it is enough to copy the columns of row 0, for all image rows, and the matrix of row i is a *view*.
    The product with W is then a sum of `products` products, one for each kernel row.
    """

    def __init__(
        self,
        X: np.ndarray,
        W_shape: Sequence[int],
        stride: Sequence[int],
        padding: Padding,
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        f, self.group_channels, *self.kernel = W_shape
        n, c, *sizes = X.shape
        _, _, *out = conv_output_shape(X.shape, W_shape, stride, padding, dilation, groups)
        self.X = X
        self.groups = groups
        self.inside, self.padded_sizes = place_inside(sizes, padding)
        copied, extent, self.products = self.kernel, out, 1
        copies_saved, sums_added = self.group_channels * math.prod(self.kernel[1:]), f // groups
        if stride[0] == 1 and 2 * copies_saved >= sums_added:  # a sum takes half the time of a copy
            copied, extent = [1, *self.kernel[1:]], [self.padded_sizes[0], *out[1:]]
            self.products = self.kernel[0]
        self.positions = window_slices(copied, stride, dilation, extent)
        self.height = self.group_channels * len(self.positions)
        self.places = math.prod(out)
        self.offset = dilation[0] * math.prod(out[1:])  # from one kernel row's windows to the next one's
        self.room = (c, len(self.positions), *extent)
        self.step = min(images_per_block(math.prod(self.room) * X.itemsize), max(n, 1))

    def blocks(self) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Yield a slice of images, and their `products` matrices, which the next block overwrites."""
        n, c = self.X.shape[:2]
        padded = np.zeros((self.step, c, *self.padded_sizes), self.X.dtype)
        copies = np.empty((self.step, *self.room), self.X.dtype)
        starts = [i * self.offset for i in range(self.products)]
        for start in range(0, n, self.step):
            images = slice(start, min(start + self.step, n))
            padded, copies = padded[: images.stop - start], copies[: images.stop - start]
            padded[self.inside] = self.X[images]
            for k, position in enumerate(self.positions):
                copies[:, :, k] = padded[position]
            matrix = copies.reshape(-1, self.groups, self.height, math.prod(self.room[2:]))
            yield images, [matrix[..., first : first + self.places] for first in starts]

    def matrices(self, W: np.ndarray) -> np.ndarray:
        """(f, c/g, *kernel) -> (products, g, f/g, height)"""
        f = W.shape[0]
        rows = np.ascontiguousarray(W).reshape(f, self.group_channels, self.products, -1)
        return rows.transpose(2, 0, 1, 3).reshape(self.products, self.groups, f // self.groups, self.height)

    def kernels(self, matrices: np.ndarray) -> np.ndarray:
        """(products, g, f/g, height) -> (f, c/g, *kernel)"""
        f = self.groups * matrices.shape[2]
        rows = matrices.reshape(self.products, f, self.group_channels, -1)
        return rows.transpose(1, 2, 0, 3).reshape(f, self.group_channels, *self.kernel)


def images_per_block(bytes_per_image: int) -> int:
    """How many images' columns fill a block: at least one."""
    return max(1, _BLOCK // max(1, bytes_per_image))


def place_inside(sizes: Sequence[int], padding: Padding) -> tuple[tuple[Any, ...], list[int]]:
    """Where an image stands in its padded image, and the padded sizes."""
    inside = (..., *(slice(lo, lo + size) for size, (lo, _) in zip(sizes, padding, strict=True)))
    return inside, [size + lo + hi for size, (lo, hi) in zip(sizes, padding, strict=True)]
