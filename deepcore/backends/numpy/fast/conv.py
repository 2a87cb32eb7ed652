"""Convolution in two dimensions, compiled: no window is ever copied, a kernel of `simd` walks over the image.

Rows of a tile are filters, its vectors are places side by side. With the image padded and laid out row after
row, a vector of places p, p + 1, ... sees at one position of the window a vector of the image, moved by a
fixed offset:

    Y[f, p] = sum over taps t = (c, i, j) of W[f, t] image[offset of t + p]      p = row * width + column

The kernel's long sum runs over the channels, place by place of the window; where channels are few, over all
taps at once, each with an offset of its own in a table.

`width` is that of the padded image, so that some places lie beyond the end of a row: they are computed, and
left out when the rows of Y are copied from the result (7 % of them for 28 columns and a 3 x 3 kernel). Where
rows are just filled by vectors, 16 or 32 columns, each begins with a vector of its own instead.

A stride of s reads every s-th number. The image is therefore split into s x s *phases*, each with the rows
a, a + s, ... and the columns b, b + s, ..., and within a phase steps are 1 again. The gradient dX is the same
sum with the roles of c and f exchanged; there it is the *result* that has phases, each with taps of its own.

dW[f, t] = sum over p of dY[f, p] image[offset of t + s p]: here a row of a tile is a tap t, its vectors are
filters, and the sum runs over places.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from deepcore.backends import select
from deepcore.backends.numpy.fast.compiled import InParts, flat, share, step
from deepcore.backends.numpy.fast.phases import Split, add_threads, apart, join_phases, split_image
from deepcore.backends.numpy.fast.rows import total
from deepcore.backends.numpy.fast.simd import (
    DOT_COLUMNS,
    DOT_ROWS,
    PANEL,
    ROWS,
    VECTORS,
    add_dot_products,
    keep_apart,
    panel_product,
    side_by_side,
    turn,
    vectors_of,
)
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.fast.workspace import is_float32, room, steps
from deepcore.backends.numpy.fast.writer import LANES, USABLE
from deepcore.backends.numpy.memory import Out, empty
from deepcore.shapes import Padding, conv_output_shape

_MANY = 32  # channels and filters from which Winograd's transforms are soon made up for
_MOST = 512  # channels and filters up to which its larger tiles are known to lose no more than 3e-6
_CACHE = 12 << 10  # float32 numbers of the image that are taken at once: about the first-level cache
_SMALL = 1 << 12  # weights that stay in the first-level cache in any order
_FEW = 8  # channels below which taps and channels are one sum
_ZEROS = np.zeros(PANEL, np.float32)


def conv(
    X: np.ndarray,
    W: np.ndarray,
    b: np.ndarray | None,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
    out: Out = None,
) -> Any:
    """Y[f, p] = b[f] + sum over t of W[f, t] image[offset of t + p]"""
    if not _suits(groups, X, W, b) or X.shape[1] != W.shape[1] or (b is not None and b.size != len(W)):
        return NotImplemented
    shape = conv_output_shape(X.shape, W.shape, stride, padding, dilation, groups)
    bias = np.zeros(shape[1], np.float32) if b is None else flat(b)
    m = _winograd_tile(W.shape, stride, dilation, shape)
    if m:
        return _winograd().convolve(m, X, W, False, bias, tuple(padding), shape, out)
    plan = _forward_plan(X.shape[1:], W.shape, tuple(stride), tuple(padding), tuple(dilation), shape[2:])
    return _run(plan, X, W, False, bias, shape, out)


def conv_dX(
    dY: np.ndarray,
    W: np.ndarray,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
    out: Out = None,
) -> Any:
    """dX[c, q] = sum over t = (f, i, j) of W[c, t] dY[f, p], with p the place whose window has q at (i, j)"""
    if not _suits(groups, dY, W):
        return NotImplemented
    if dY.shape != conv_output_shape(shape, W.shape, stride, padding, dilation, groups):
        return NotImplemented
    full = tuple((2 - before, 2 - after) for before, after in padding)
    m = _winograd_tile(W.shape, stride, dilation, shape)
    if m and min(map(min, full)) >= 0:
        return _winograd().convolve(m, dY, W, True, np.zeros(shape[1], np.float32), full, tuple(shape), out)
    plan = _gradient_plan(
        dY.shape[1:], W.shape, tuple(stride), tuple(padding), tuple(dilation), tuple(shape[2:])
    )
    return _run(plan, dY, W, True, np.zeros(shape[1], np.float32), tuple(shape), out)


def conv_dW(
    dY: np.ndarray,
    X: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """dW[t, f] = sum over images and places p of image[offset of t + stride p] dY[p, f]"""
    if not _suits(groups, dY, X):
        return NotImplemented
    n, f, *out = dY.shape
    W_shape = (f, X.shape[1], *kernel)
    if dY.shape != conv_output_shape(X.shape, W_shape, stride, padding, dilation, groups):
        return NotImplemented
    m = _winograd_tile(W_shape, stride, dilation, dY.shape)
    if m:
        return _winograd().convolve_dW(m, dY, X, tuple(padding))
    if f <= LANES:
        return _few_filters_dW(dY, X, W_shape, tuple(stride), tuple(padding), tuple(dilation))
    (top, bottom), (left, right) = padding
    split = Split.of(X.shape[1:], (top, left), (bottom, right), (1, 1))
    taps, rows = _dW_offsets(W_shape, tuple(stride), tuple(dilation), split, out[0])
    width, weights = -(-f // LANES) * LANES, math.prod(W_shape[1:])
    places = math.prod(out)
    threads = min(pool.parts(), n)
    images, turned, sums = room(threads, split.size, places * width, len(taps) * width)
    dW = empty(W_shape, np.float32)
    _convolve_dW.run(
        *(threads, flat(X), split.numbers(), flat(dY), n, f, out[0], out[1], stride[1]),
        *(weights, taps, rows, steps(out[0], out[1] * width), steps(weights, width, ROWS)),
        *(images, turned, sums),
    )
    add_threads.run(threads, sums, f, dW.reshape(-1))
    return dW


def _few_filters_dW(dY, X, W_shape, stride, padding, dilation) -> np.ndarray:
    """dW where vectors of filters would be half empty: they run along places instead, row after row."""
    n, f = dY.shape[:2]
    plan = _few_filters_plan(X.shape[1:], W_shape, stride, padding, dilation, dY.shape[1:])
    sizes = *(split.size for split in plan.splits), math.prod(W_shape) * LANES
    images, gradients, sums = room(min(pool.parts(), n), *sizes)
    dW = empty(W_shape, np.float32)
    _add_few_filters.run(
        *(len(images), flat(X), plan.numbers[0], flat(dY), plan.numbers[1], n, f, plan.vectors),
        *(*plan.tables, images, gradients, sums),
    )
    _add_lanes.run(len(images), sums, dW.reshape(-1))
    return dW


class SumPlan(NamedTuple):
    """All that the gradient of few filters needs besides numbers."""

    splits: tuple[Split, Split]  # of X and of dY
    numbers: tuple[np.ndarray, np.ndarray]  # of these, as compiled code takes them
    vectors: int  # of places
    tables: tuple[np.ndarray, ...]  # where taps, rows of dY, rows of sums and numbers in these stand


@functools.lru_cache(maxsize=64)
def _few_filters_plan(X_shape, W_shape, stride, padding, dilation, dY_shape) -> SumPlan:
    f, c, *_ = W_shape
    weights, (_, *out) = math.prod(W_shape[1:]), dY_shape
    split, taps = _windows(X_shape, W_shape, stride, padding, dilation)
    split_dY = Split.of(dY_shape, (0, 0), (0, split.row - out[1]), (1, 1))
    vectors = -(-((out[0] - 1) * split.row + out[1]) // LANES)
    columns = steps(weights, 1, DOT_COLUMNS)
    taps = (np.arange(c)[:, None] * split.plane + taps).reshape(-1)[columns]
    rows = steps(f, split_dY.plane, DOT_ROWS), steps(f, weights * LANES, DOT_ROWS)
    tables = taps, *rows, columns * LANES
    return SumPlan((split, split_dY), (split.numbers(), split_dY.numbers()), vectors, tables)


def channel_sum(dY: np.ndarray) -> Any:
    """db[f] = sum over images and places of dY"""
    if not USABLE or dY.ndim < 3 or not dY.size or not is_float32(dY):
        return NotImplemented
    n, f, *out = dY.shape
    sums = np.zeros((min(pool.parts(), n), f))
    _add_channels.run(len(sums), flat(dY), n, f, math.prod(out), sums)
    return sums.sum(axis=0).astype(np.float32).reshape(1, f, *(1 for _ in out))


@functools.lru_cache(maxsize=64)
def _dW_offsets(W_shape, stride, dilation, split, out_rows) -> tuple[np.ndarray, np.ndarray]:
    """Where each weight meets its first number of the image, up to a multiple of ROWS; and rows of places."""
    _, c, kh, kw = W_shape
    t = steps(c * kh * kw, 1, ROWS)
    channel, i, j = np.unravel_index(t, (c, kh, kw))
    return split.offset(channel, i * dilation[0], j * dilation[1]), steps(out_rows, stride[0] * split.row)


def _winograd_tile(
    W_shape: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> int:
    """The m of Winograd's F(m x m, 3 x 3) where it is the fastest, or 0 for the direct sum.

    What it saves in products it must not lose again in its transforms, which cost as much for 8 channels as
    for 800, nor in tiles that stick out of a small Y. So the multiply-adds of each way are compared, those
    of vectors that are partly empty included.

    F(4 x 4) errs by 2e-6 to 3e-6 of the largest number up to _MOST channels, as torch's convolutions do (see
    `winograd` on its points), so that it needs no leave; with more it is taken if precision is "relaxed".
    """
    f, c, *kernel = W_shape
    if [*kernel, *stride, *dilation] != [3, 3, 1, 1, 1, 1] or min(f, c) < _MANY:
        return 0

    def products(m: int) -> int:
        tiles = out[0] * -(-out[2] // m) * -(-out[3] // m)
        return (m + 2) ** 2 * -(-tiles // LANES) * LANES

    keeps_digits = max(f, c) <= _MOST or select.precision.get() == "relaxed"
    m = 4 if keeps_digits and products(4) < products(2) else 2
    direct = 9 * out[0] * -(-out[2] * (out[3] + 2) // PANEL) * PANEL
    return m if products(m) < 0.8 * direct else 0


def _winograd() -> ModuleType:
    """Loaded when it is first wanted: it compiles kernels of its own, or reads them from disk."""
    from deepcore.backends.numpy.fast import winograd

    return winograd


def _suits(groups: int, X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None) -> bool:
    return USABLE and X.ndim == 4 and groups == 1 and is_float32(X, W, b) and 0 not in (*X.shape, *W.shape)


class Plan(NamedTuple):
    """All that a convolution needs besides numbers."""

    split: Split
    numbers: np.ndarray  # of split, as compiled code takes them
    W_row: int  # numbers from a filter to the next
    W_step: int  # and from a channel to the next
    turned: bool  # whether filters are copied, with their channels side by side
    W_taps: np.ndarray  # the offsets of the taps in a filter: of the first channel, or of all if they are few
    taps: np.ndarray  # and in the image
    channels: int  # 1 if they are few
    depth: int  # channels that are summed up at once
    phases: np.ndarray  # of the result: first tap, the one after the last, rows, columns
    step: tuple[int, int]  # from a row, and a column, of a phase to the next one in the result
    row: int  # numbers from a row of a phase to the next
    places: np.ndarray  # where in the image each vector of a phase starts


@functools.lru_cache(maxsize=64)
def _forward_plan(X_shape, W_shape, stride, padding, dilation, out) -> Plan:
    split, taps = _windows(X_shape, W_shape, stride, padding, dilation)
    return _plan(split, W_shape, False, np.arange(len(taps)), taps, [[0, len(taps), *out]], (1, 1))


def _windows(X_shape, W_shape, stride, padding, dilation) -> tuple[Split, np.ndarray]:
    """The phases of an image, and where the taps of its first window stand in them, of the first channel."""
    (top, bottom), (left, right) = padding
    split = Split.of(X_shape, (top, left), (bottom, right), stride)
    i, j = np.divmod(np.arange(math.prod(W_shape[2:])), W_shape[3])
    return split, split.offset(0, i * dilation[0], j * dilation[1])


@functools.lru_cache(maxsize=64)
def _gradient_plan(dY_shape, W_shape, stride, padding, dilation, sizes) -> Plan:
    """Pixel h of X meets tap i at place p if stride p + dilation i = h + padding."""
    kh, kw = W_shape[2:]
    spans = [
        [(i * d, low) for i in range(k)] for k, d, (low, _) in zip((kh, kw), dilation, padding, strict=True)
    ]
    # places before the first one and after the last one that some pixel would want
    before = [
        max(0, -((low - (k - 1) * d) // s))
        for k, d, s, (low, _) in zip((kh, kw), dilation, stride, padding, strict=True)
    ]
    after = [
        max(0, (x - 1 + low) // s - (o - 1))
        for x, s, o, (low, _) in zip(sizes, stride, dY_shape[1:], padding, strict=True)
    ]
    split = Split.of(dY_shape, before, after, (1, 1))
    tap_numbers, taps, phases = [], [], []
    for a in range(stride[0]):
        for b in range(stride[1]):
            rows = [
                (i, (a + low - at) // stride[0])
                for i, (at, low) in enumerate(spans[0])
                if (a + low - at) % stride[0] == 0
            ]
            columns = [
                (j, (b + low - at) // stride[1])
                for j, (at, low) in enumerate(spans[1])
                if (b + low - at) % stride[1] == 0
            ]
            first = len(taps)
            for i, p in rows:
                for j, q in columns:
                    tap_numbers.append(i * kw + j)
                    taps.append(split.offset(0, p + before[0], q + before[1]))
            height, width = -(-(sizes[0] - a) // stride[0]), -(-(sizes[1] - b) // stride[1])
            phases.append([first, len(taps), height, width])
    return _plan(split, W_shape, True, np.array(tap_numbers), np.array(taps), phases, stride)


def _plan(
    split: Split,
    W_shape: tuple[int, ...],
    inverse: bool,
    tap_numbers: np.ndarray,
    taps: np.ndarray,
    phases: list[list[int]],
    step: tuple[int, int],
) -> Plan:
    """tap_numbers: of each tap its place in the window, row by row   taps: its offset in the image

    In the results rows end to end have fewer vectors, or rows of whole vectors have.
    """
    channels, turned = split.channels, math.prod(W_shape) > _SMALL
    W_row, W_tap, W_step = _layout(W_shape, inverse, turned)
    longest, widest = max(rows for *_, rows, _ in phases), max(columns for *_, columns in phases)
    whole = -(-widest // LANES)  # vectors
    end_to_end = -(-((longest - 1) * split.row + widest) // LANES)
    even = VECTORS % whole == 0 or whole % VECTORS == 0  # so that vectors stand alike in all panels
    if even and longest * whole <= end_to_end:
        places = (np.arange(longest)[:, None] * split.row + LANES * np.arange(whole)).reshape(-1)
        row = whole * LANES
    else:
        places, row = steps(end_to_end, LANES), split.row
    W_taps, table = tap_numbers * W_tap, np.array(phases)
    if channels < _FEW:
        k = np.arange(channels)
        W_taps = (W_taps[:, None] + W_step * k).reshape(-1)
        taps = (taps[:, None] + split.plane * k).reshape(-1)
        table[:, :2] *= channels
        channels = depth = 1
    else:
        numbers = places[:VECTORS, None] + np.arange(LANES)  # of the image, for the first panel and tap
        depth = min(_depth(channels, taps[first:last, None, None] + numbers) for first, last, *_ in phases)
    W_taps, taps = (np.append(t, 0) for t in (W_taps, taps))  # a phase without taps looks at one too
    return Plan(
        *(split, split.numbers(), W_row, W_step, turned, W_taps, taps, channels, depth, table, step, row),
        places,
    )


def _layout(W_shape: tuple[int, ...], inverse: bool, turned: bool) -> tuple[int, int, int]:
    """Numbers from a filter, a tap and a channel to the next."""
    f, c, *kernel = W_shape
    taps = math.prod(kernel)
    if turned:
        channels = f if inverse else c
        return channels * taps, channels, 1
    return (taps, 1, c * taps) if inverse else (c * taps, 1, taps)


def _depth(channels: int, numbers: np.ndarray) -> int:
    """Of how many channels the cache holds the numbers that all filters take for a panel of places."""
    lines = len(np.unique(numbers // LANES)) + 1  # of a channel
    blocks = -(-channels * lines * LANES // _CACHE)
    return -(-channels // blocks)


def _run(
    plan: Plan,
    X: np.ndarray,
    W: np.ndarray,
    inverse: bool,
    bias: np.ndarray,
    shape: tuple[int, ...],
    out: Out,
) -> np.ndarray:
    """Y of a shape; `inverse` if X is dY and Y is dX, so that the channels of W change their roles."""
    n, f = shape[:2]
    Y = empty(shape, np.float32) if out is None else out
    if not Y.size:
        return Y
    split, size = plan.split, steps(len(plan.places), LANES, VECTORS).size * LANES
    images, results, (weights, *_) = room(
        min(pool.parts(), n), split.size, len(plan.phases) * apart(f * size) + PANEL, W.size
    )
    if not plan.turned:
        weights = flat(W)
    else:
        weights = weights.reshape(-1)
        _turn_filters(W.size, flat(W), f, X.shape[1], math.prod(W.shape[2:]), inverse, weights)
    _convolve.run(
        *(len(images), flat(X), plan.numbers, weights, steps(f, plan.W_row, ROWS), plan.W_taps, plan.W_step),
        *(plan.taps, plan.places, plan.channels, plan.depth, plan.phases, plan.row, steps(f, size, ROWS)),
        *(_ZEROS, bias, Y.reshape(-1), n, f, shape[2], shape[3], plan.step, size, images, results),
    )
    return Y


@InParts
def _turn_filters(thread, threads, W, f, c, taps, inverse, turned):
    """turned[g, t, k] = W[g, k, t], or with `inverse` W[k, g, t]: channels side by side."""
    for g in share(f, thread, threads):
        if inverse:
            turn(W, g * taps, c, taps, f * taps, turned, g * taps * c, c)
        else:
            turn(W, g * c * taps, c, taps, taps, turned, g * taps * c, c)


@step
def _convolve_image(
    image, W, W_rows, W_taps, W_step, taps, places, channels, depth, plane, f, count, result, r, Y_rows, zeros
):  # fmt: skip
    """result[r + f, p] = sum over channels and taps of W[f, c, t] image[c plane + taps[t] + places[p]]

    p: a vector of LANES places, of which there are `count`
    """
    keep_apart()
    for p in range(0, count, VECTORS):
        vectors, at = min(VECTORS, count - p), r + p * LANES
        for k in range(0, channels, depth):
            start, s, follow = (result, at, 1) if k else (zeros, 0, 0)
            panel_product(
                *(f, vectors, W, k * W_step, W_rows, W_taps, W_step),
                *(image, k * plane + places[p], places, taps, plane, 0, len(taps)),
                *(min(depth, channels - k), result, at, Y_rows, start, s, follow, LANES),
            )


@InParts
def _convolve(
    thread, threads, X, split, W, W_rows, W_taps, W_step, taps, places, channels, depth, phases, row,
    Y_rows, zeros, bias, Y, n, f, height, width, step, size, images, results
):  # fmt: skip
    """Each thread takes some of the images."""
    image, result = images[thread], results[thread]
    image[:] = 0
    for k in share(n, thread, threads):
        split_image(X, k * split[0] * split[1] * split[2], split, image)
        for x in range(len(phases)):
            first, last, rows, columns = phases[x]
            count, r = -(-((rows - 1) * row + columns) // LANES), x * apart(f * size)
            _convolve_image(
                *(image, W, W_rows, W_taps[first:last], W_step, taps[first:last], places),
                *(channels, depth, split[8], f, count, result, r, Y_rows, zeros),
            )
        y = k * f * height * width
        join_phases(result, f, size, row, step[0], step[1], bias, Y, y, height, width)


@step
def _add_image(image, weights, taps, rows, turned, turned_rows, f, columns, step, sums, sums_rows):
    """sums[t, f] += sum over p of image[taps[t] + step p] turned[p, f] for t < weights"""
    keep_apart()
    width, places = -(-f // LANES) * LANES, side_by_side()
    for g in range(0, f, PANEL):
        vectors, _ = vectors_of(min(PANEL, f - g))
        panel_product(
            *(weights, vectors, image, 0, taps, rows, step),
            *(turned, g, places, turned_rows, width),
            *(0, len(rows), columns, sums, g, sums_rows, sums, g, 1, LANES),
        )


@InParts
def _convolve_dW(
    thread, threads, X, split, dY, n, f, height, width, step, weights, taps, rows, turned_rows, sums_rows,
    images, turned, sums
):  # fmt: skip
    """Each thread adds up some of the images."""
    image, dY_turned, total = images[thread], turned[thread], sums[thread]
    places, lanes = height * width, -(-f // LANES) * LANES
    image[:] = 0
    dY_turned[:] = 0
    total[:] = 0
    for k in share(n, thread, threads):
        split_image(X, k * split[0] * split[1] * split[2], split, image)
        turn(dY, k * f * places, f, places, places, dY_turned, 0, lanes)
        _add_image(image, weights, taps, rows, dY_turned, turned_rows, f, width, step, total, sums_rows)


@InParts
def _add_few_filters(
    thread, threads, X, split, dY, split_dY, n, f, vectors, taps, dY_rows, sums_rows, sums_columns,
    images, gradients, sums
):  # fmt: skip
    """Each thread adds up some of the images, lane by lane."""
    image, gradient, total = images[thread], gradients[thread], sums[thread]
    image[:] = 0
    gradient[:] = 0
    total[:] = 0
    for k in share(n, thread, threads):
        split_image(X, k * split[0] * split[1] * split[2], split, image)
        split_image(dY, k * split_dY[0] * split_dY[1] * split_dY[2], split_dY, gradient)
        for g in range(0, f, DOT_ROWS):
            for t in range(0, len(taps), DOT_COLUMNS):
                add_dot_products(
                    *(gradient, 0, dY_rows, g, image, 0, taps, t),
                    *(vectors, total, sums_rows, sums_columns),
                )


@InParts
def _add_lanes(part, parts, sums, dW):
    """dW[k] = sum over threads and lanes of sums[thread, k, lane], for some k."""
    for k in share(len(dW), part, parts):
        weight = 0.0
        for thread in range(len(sums)):
            for lane in range(LANES):
                weight += sums[thread, k * LANES + lane]
        dW[k] = weight


@InParts
def _add_channels(thread, threads, dY, n, f, places, sums):
    """In float64."""
    for k in share(n, thread, threads):
        for g in range(f):
            row = k * f + g
            sums[thread, g] += total(dY[row * places : (row + 1) * places])
