"""Convolution on NumPy: windows become columns, and matrix products do the rest.

A few images at a time, so that BLAS finds their columns still in the cache.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads, winograd
from deepcore.backends.numpy.memory import empty, empty_like
from deepcore.backends.numpy.reduce import last_sum
from deepcore.backends.quiet import quietly
from deepcore.shapes import Padding, conv_output_shape, window_span

_BLOCK = 1 << 19  # bytes of columns at a time: well inside a core's second-level cache
_ADDED = 1 << 22  # where they are added: more at a time, in fewer calls
_SHARE = 1 << 21  # bytes of columns that are worth a thread
_MANY_CHANNELS, _LARGEST_IMAGE = 16, 1 << 21  # channels, and bytes of an image's columns
_APART = 16  # numbers between planes, so that those of 4096 bytes don't all want the same lines of the cache


def float16_in_float32(kernel: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Compute in float32 what is given in float16: faster, and sums don't overflow at 65,504."""

    @functools.wraps(kernel)
    def widened(X: np.ndarray, *rest: Any) -> np.ndarray:
        if X.dtype != np.float16:
            return kernel(X, *rest)
        wide = (A.astype(np.float32) if isinstance(A, np.ndarray) else A for A in (X, *rest))
        return kernel(*wide).astype(np.float16)

    return widened


@quietly
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
    Y = empty((n, f, *out), X.dtype)
    if winograd.suits(X.dtype, W.shape, stride, dilation, groups, out):
        return winograd.convolve(X, W, b, padding, Y)
    columns = Columns(X, W.shape, stride, padding, dilation, groups)
    first, *others = columns.matrices(W)

    def part(start: int, stop: int) -> None:
        more = empty((columns.step, groups, f // groups, columns.places), X.dtype) if others else None
        for images, (columns_first, *columns_others) in columns.blocks(start, stop):
            Y_block = Y[images].reshape(-1, groups, f // groups, columns.places)
            np.matmul(first, columns_first, out=Y_block)
            for A, columns_A in zip(others, columns_others, strict=True):
                Y_block += np.matmul(A, columns_A, out=more[: len(Y_block)])
            if b is not None:
                Y[images] += b

    threads.share(part, n, columns.least)
    return Y


@quietly
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
    f, out = dY.shape[1], dY.shape[2:]
    if len(X) and winograd.suits(X.dtype, (f, X.shape[1], *kernel), stride, dilation, groups, out):
        return winograd.convolve_dW(dY, X, padding)
    if _pays_channels_last(X, kernel, groups, out):
        return _dW_of_channels_last(dY, X, kernel, stride, padding, dilation)
    columns = Columns(X, (f, X.shape[1] // groups, *kernel), stride, padding, dilation, groups)
    dY = np.ascontiguousarray(dY).reshape(-1, groups, f // groups, columns.places)

    def part(start: int, stop: int) -> np.ndarray:
        dW = np.zeros((columns.products, columns.step, groups, f // groups, columns.height), X.dtype)
        more = empty_like(dW[0])
        for images, views in columns.blocks(start, stop):
            dY_block = dY[images]
            for dW_row, view in zip(dW, views, strict=True):
                product = np.matmul(dY_block, view.swapaxes(-1, -2), out=more[: len(dY_block)])
                dW_row[: len(dY_block)] += product
        return dW.sum(axis=1, dtype=np.float64)

    dW = threads.total(part, len(dY), columns.least)
    return columns.kernels(dW.astype(X.dtype))


def _pays_channels_last(X: np.ndarray, kernel: Sequence[int], groups: int, out: Sequence[int]) -> bool:
    """Whether channels are so many that they are copied at a stretch, and an image's columns in the cache."""
    c, positions = X.shape[1], math.prod(kernel)
    image = math.prod(out) * positions * c * X.itemsize
    return groups == 1 and positions > 1 and c >= _MANY_CHANNELS and image <= _LARGEST_IMAGE


def _dW_of_channels_last(
    dY: np.ndarray,
    X: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> np.ndarray:
    """dW = dY columns(X)^T. The transpose is what is copied: BLAS takes a fifth longer if it must transpose.

    It has a row for each place, with the channels side by side at each position within the window. To come
    there, an image is first copied to where its planes lie a little further apart: 0.8 ns a number instead of
    3.6, where they are 32 x 32.
    """
    (n, f, *out), (c, *sizes) = dY.shape, X.shape[1:]
    inside, padded_sizes = place_inside(sizes, padding)
    places, height = math.prod(out), math.prod(kernel) * c
    dY = np.ascontiguousarray(dY).reshape(n, f, places)

    def part(start: int, stop: int) -> np.ndarray:
        planes = empty((c, math.prod(sizes) + _APART), X.dtype)[:, :-_APART].reshape(c, *sizes, copy=False)
        padded = np.zeros((*padded_sizes, c), X.dtype)
        columns_T = empty((*out, *kernel, c), X.dtype)
        *axes, channel = padded.strides
        along = [s * size for s, size in zip((*stride, *dilation), (*axes, *axes), strict=True)]
        windows = np.ndarray(columns_T.shape, padded.dtype, padded, 0, (*along, channel))
        dW, more = np.zeros((f, height), X.dtype), empty((f, height), X.dtype)
        for k in range(start, stop):
            planes[...] = X[k]
            padded[inside[1:]] = np.moveaxis(planes, 0, -1)
            columns_T[...] = windows
            dW += np.matmul(dY[k], columns_T.reshape(places, height), out=more)
        return dW.astype(np.float64)

    dW = threads.total(part, n, -(-_SHARE // max(1, places * height * X.itemsize)))
    return np.moveaxis(dW.astype(X.dtype).reshape(f, *kernel, c), -1, 1)


@quietly
@float16_in_float32
def channel_sum(dY: np.ndarray) -> np.ndarray:
    """Each channel of an image in float32, then in float64."""
    n, f, *out = dY.shape
    rows = np.ascontiguousarray(dY).reshape(n, f, math.prod(out))
    least = -(-_SHARE // max(1, rows[0].nbytes)) if n else 1
    sums = threads.total(lambda a, b: last_sum(rows[a:b]).sum(axis=0, dtype=np.float64), n, least)
    return sums.astype(dY.dtype).reshape(1, f, *(1 for _ in out))


@quietly
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
    if winograd.suits(dY.dtype, W.shape, stride, dilation, groups, shape[2:]) and min(map(min, full)) >= 0:
        return winograd.convolve(dY, W, None, full, empty(shape, dY.dtype), turned=True)
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
    """dX = W^T dY, whose columns are added where windows overlap. Works at any stride.

    The padded image is cut into its phases: for stride 2, its even and odd rows and columns. What all windows
    have at one position is one phase, moved; and moved means written to another start, as long as dY has as
    many rows and columns as a phase, with zeros: one long row of numbers for each channel, which is fast.
    """
    f, out, kernel = W.shape[0], dY.shape[2:], W.shape[2:]
    n, c, *sizes = shape
    axes = zip(sizes, padding, stride, strict=True)
    grid = [-(-(size + sum(pair)) // s) for size, pair, s in axes]
    count = math.prod(grid)
    unused = count - out[0] * math.prod(grid[1:])  # numbers of the last image, which are zeros
    # (f, c/g, *kernel) -> (g, kernel c/g, f/g)
    WT = np.moveaxis(W.reshape(groups, f // groups, c // groups, -1), (3, 2, 1), (1, 2, 3))
    WT = np.ascontiguousarray(WT).reshape(groups, -1, f // groups)
    positions = list(itertools.product(*map(range, kernel)))
    at = [[i * d for i, d in zip(position, dilation, strict=True)] for position in positions]
    phase = [tuple(i % s for i, s in zip(p, stride, strict=True)) for p in at]
    moved = [int(np.ravel_multi_index([i // s for i, s in zip(p, stride, strict=True)], grid)) for p in at]
    starts = {phase.index(number) for number in phase}  # positions that are written, not added to zeros
    if len(starts) < math.prod(stride) or any(moved[k] for k in starts):
        starts = set()
    image = WT.shape[1] * groups * count * dY.itemsize  # bytes
    step, least = images_per_block(image, _ADDED), -(-_SHARE // image)
    dX = empty((n, c, *sizes), dY.dtype)

    def part(start: int, stop: int) -> None:
        most = max(1, min(step, stop - start))
        spread = np.zeros((f, most, *grid), dY.dtype)
        columns = empty((groups, WT.shape[1], most * count), dY.dtype)
        planes = empty((*stride, groups, c // groups, most * count + max(moved)), dY.dtype)
        for first in range(start, stop, most):
            images = slice(first, min(first + most, stop))
            m = images.stop - first
            p = m * count - unused
            spread[(slice(None), slice(m), *map(slice, out))] = dY[images].swapaxes(0, 1)
            rows = spread.reshape(groups, f // groups, -1)[..., :p]
            product = np.matmul(WT, rows, out=columns[..., :p])
            product = product.reshape(groups, len(positions), c // groups, p, copy=False)
            if not starts:
                planes[...] = 0
            for k, (number, move) in enumerate(zip(phase, moved, strict=True)):
                plane = planes[number]
                if k in starts:
                    plane[..., :p], plane[..., p:] = product[:, k], 0
                else:
                    plane[..., move : move + p] += product[:, k]
            whole = planes[..., : m * count].reshape(*stride, c, m, *grid, copy=False)
            join(whole, padding, dX[images])

    threads.share(part, n, least)
    return dX


def join(phases: np.ndarray, padding: Padding, dX: np.ndarray) -> None:
    """Put images together.   phases: (*stride, c, n, *sizes of a phase) -> dX: (n, c, *sizes)

    Phase i of an axis has each s-th number of the padded image, from number i on.
    """
    stride = phases.shape[: len(padding)]
    for phase in itertools.product(*map(range, stride)):
        inside, image = [], []
        for i, s, (before, _), size in zip(phase, stride, padding, dX.shape[2:], strict=True):
            start = (i - before) % s
            first = (start + before) // s
            inside.append(slice(first, first - (start - size) // s))
            image.append(slice(start, None, s))
        dX[(..., *image)] = phases[(*phase, ..., *inside)].swapaxes(0, 1)


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
        self.height = self.group_channels * math.prod(copied)
        self.places = math.prod(out)
        self.offset = dilation[0] * math.prod(out[1:])  # from one kernel row's windows to the next one's
        self.room = (c, *copied, *extent)
        self.steps = (*dilation, *stride)  # from a position, and a place, to the next one
        image = max(1, math.prod(self.room) * X.itemsize)
        self.step = min(images_per_block(image), max(n, 1))
        self.least = -(-_SHARE // image)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Yield a slice of images, and their `products` matrices, which the next block overwrites."""
        c = self.X.shape[1]
        padded = np.zeros((self.step, c, *self.padded_sizes), self.X.dtype)
        copies = empty((self.step, *self.room), self.X.dtype)
        image, channel, *axes = padded.strides
        along = (s * size for s, size in zip(self.steps, (*axes, *axes), strict=True))
        # as_strided takes 4 us, and makes strings, whose table in the interpreter is then built anew, 1 MB
        windows = np.ndarray(copies.shape, padded.dtype, padded, 0, (image, channel, *along))
        starts = [i * self.offset for i in range(self.products)]
        for first in range(start, stop, self.step):
            images = slice(first, min(first + self.step, stop))
            m = images.stop - first
            padded[:m][self.inside] = self.X[images]
            copies[:m] = windows[:m]
            matrix = copies[:m].reshape(m, self.groups, self.height, math.prod(self.room[-len(axes) :]))
            yield images, [matrix[..., begin : begin + self.places] for begin in starts]

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


def images_per_block(bytes_per_image: int, block: int = _BLOCK) -> int:
    """How many images' columns fill a block: at least one."""
    return max(1, block // max(1, bytes_per_image))


def place_inside(sizes: Sequence[int], padding: Padding) -> tuple[tuple[Any, ...], list[int]]:
    """Where an image stands in its padded image, and the padded sizes."""
    inside = (..., *(slice(lo, lo + size) for size, (lo, _) in zip(sizes, padding, strict=True)))
    return inside, [size + lo + hi for size, (lo, hi) in zip(sizes, padding, strict=True)]
