"""Max pooling: a vector of windows side by side at a time, and back to the places that won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from deepcore.backends.numpy.fast.compiled import InParts, Kernel, flat, plain, served, share, step
from deepcore.backends.numpy.fast.writer import FLOATS, INT, LANES, USABLE, ZERO, Writer, written
from deepcore.backends.numpy.memory import Out, empty
from deepcore.shapes import Padding, pool_output_shape

_MOST = 256  # places in a window that one byte can count
BYTES = types.uint8[::1]
_PLACES = ir.VectorType(ir.IntType(32), LANES)


def max_pool(
    X: np.ndarray,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    out: tuple[Out, Out] = (None, None),
) -> Any:
    """Y = the largest number of each window, index = its place there. In two dimensions."""
    if not _suits(kernel, X):
        return NotImplemented
    shape = pool_output_shape(X.shape, kernel, stride, padding)
    dtypes = X.dtype, np.dtype(np.uint8)
    Y, index = (empty(shape, of) if there is None else there for of, there in zip(dtypes, out, strict=True))
    before = padding[0][0], padding[1][0]
    # the first window that lies in X, and the one behind the last, along each axis
    first = [min(o, -(-lo // s)) for o, lo, s in zip(shape[2:], before, stride, strict=True)]
    whole = [
        (size - k + lo) // s + 1 for size, k, lo, s in zip(X.shape[2:], kernel, before, stride, strict=True)
    ]
    last = [min(o, max(w, f)) for o, w, f in zip(shape[2:], whole, first, strict=True)]
    _max_pool(
        *(X.size, _images(plain(X)), *map(tuple, (kernel, stride, before, first, last))),
        *(_images(Y), _images(index)),
    )
    return Y, index


@Kernel
def _max_pool(images, kernel, step, before, first, last, largest, places):
    _, height, width = images.shape
    X, Y, index = images.reshape(-1), largest.reshape(-1), places.reshape(-1)
    rows, columns = largest.shape[1:]
    for n in range(len(images)):
        x = n * height * width
        for p in range(rows):
            row, y = p * step[0] - before[0], (n * rows + p) * columns
            whole = first[0] <= p < last[0] and step[1] <= 2
            start, stop = (first[1], last[1]) if whole else (0, 0)  # of the windows that vectors take
            for q in range(start, stop, LANES):
                at = x + row * width + q * step[1] - before[1]
                count = min(LANES, stop - q)
                if step[1] == 1:
                    _windows_1(X, at, width, kernel[0], kernel[1], Y, index, y + q, count)
                else:
                    _windows_2(X, at, width, kernel[0], kernel[1], Y, index, y + q, count)
            for side in ((0, start), (stop, columns)):
                for q in range(side[0], side[1]):
                    column = q * step[1] - before[1]
                    Y[y + q], index[y + q] = _window(X, x, height, width, row, column, kernel)


@step
def _window(X, x, height, width, row, column, kernel):
    """The largest number of one window, and its place in it; what lies outside of the image doesn't count."""
    kh, kw = kernel
    top, place = np.float32(-math.inf), max(0, -row) * kw + max(0, -column)
    for i in range(max(0, -row), min(kh, height - row)):
        for j in range(max(0, -column), min(kw, width - column)):
            a = X[x + (row + i) * width + column + j]
            if a > top or a != a:
                top, place = a, i * kw + j
    return top, place


def _largest_of_windows(step: int) -> Any:
    """Y[y + q], index[y + q] = the largest number of window q, and its place, for q < count <= LANES.

    Window q is rows x columns numbers from X[x + step q] on, `pitch` from one row to the next.
    """

    @written(FLOATS, INT, INT, INT, INT, FLOATS, BYTES, INT, INT)
    def largest(w, X, x, pitch, rows, columns, Y, index, y, count):
        b = w.builder

        def challenge(i: Any, j: Any, at: Any, top: Any, place: Any) -> list[Any]:
            """By columns step j, step j + 1 .. of row i, as many as there are."""
            first = w.times(j, step)
            left = w.add(columns, w.times(first, -1))
            for k, a in enumerate(_every(w, step, w.at(X, at), count, left)):
                better = b.or_(b.fcmp_ordered(">", a, top), b.fcmp_unordered("uno", a, a))
                if k:
                    better = b.and_(better, w.everywhere(b.icmp_signed("<", w.int(k), left)))
                number = w.add(w.add(w.times(i, columns), first), k)
                place = b.select(better, w.everywhere(b.trunc(number, ir.IntType(32))), place)
                top = b.select(better, a, top)
            return [w.add(at, step), top, place]

        def challenge_row(i: Any, at: Any, top: Any, place: Any) -> list[Any]:
            groups = b.sdiv(w.add(columns, step - 1), w.int(step))
            _, top, place = w.loop(groups, [at, top, place], lambda j, *carried: challenge(i, j, *carried))
            return [w.add(at, pitch), top, place]

        lowest = w.everywhere(ir.Constant(ir.FloatType(), -math.inf))
        _, top, place = w.loop(rows, [x, lowest, ir.Constant(_PLACES, [0] * LANES)], challenge_row)
        w.store(top, w.at(Y, y), count)
        w.store(w.in_bytes(place), w.at(index, y), count)

    return largest


def _every(w: Writer, step: int, pointer: Any, count: Any, left: Any) -> list[Any]:
    """The numbers at 0, step, 2 step ..., so many; for step 2 also the next ones, if `left` is above 1."""
    if step == 1:
        return [w.load(pointer, count)]
    length = w.add(w.add(w.times(count, 2), -1), w.zero_unless_below(1, 1, left))
    low, high = w.load(pointer, length), w.load(w.at(pointer, LANES), w.add(length, -LANES))
    return [w.pick(low, high, range(start, 2 * LANES, 2)) for start in (0, 1)]


_windows_1, _windows_2 = _largest_of_windows(1), _largest_of_windows(2)


def max_pool_backward(
    dY: np.ndarray,
    index: np.ndarray,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    out: Out = None,
) -> Any:
    """dX = dY where a number won, summed over the windows that it won; 0 elsewhere."""
    fit = dY.shape == index.shape and dY.shape[:2] == tuple(shape[:2])
    if not (fit and _suits(kernel, dY) and index.dtype == np.uint8):
        return NotImplemented
    dX = empty(tuple(shape), dY.dtype) if out is None else out
    rows = stride[0], padding[0][0]
    apart = padding[0][0] < kernel[0] <= stride[0] <= _MOST // 2  # which a byte can count
    if (kernel[1], stride[1], padding[1][0]) == (2, 2, 0) and apart:
        _spread_pairs(
            *(dX.size, flat(dY), flat(index), _images(dY).shape, rows, dX.reshape(-1), _images(dX).shape)
        )
        return dX
    before = padding[0][0], padding[1][0]
    _max_pool_backward(
        *(dX.size, _images(plain(dY)), _images(plain(index))),
        *(tuple(kernel), tuple(stride), before, _images(dX)),
    )
    return dX


@Kernel
def _max_pool_backward(dY, index, kernel, step, before, dX):
    width = dX.shape[2]
    places = np.empty(_MOST, np.int64)  # from the corner of a window to each of its places
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            places[i * kernel[1] + j] = i * width + j
    for n in range(len(dX)):
        dx = dX[n].reshape(-1)
        dx[:] = 0
        for p in range(dY.shape[1]):
            corner = (p * step[0] - before[0]) * width - before[1]
            for q in range(dY.shape[2]):
                dx[corner + q * step[1] + places[index[n, p, q]]] += dY[n, p, q]


@InParts
def _spread_pairs(thread, threads, dY, index, out, rows, dX, shape):
    """Where no two windows meet and each is two columns wide: a vector of them after the other."""
    (images, height, width), (step, before) = shape, rows
    for n in share(images, thread, threads):
        p, i = 0, before  # a row of windows, and which of their rows, or one between them
        for h in range(height):
            if i == step:
                p, i = p + 1, 0
            x, y = (n * height + h) * width, (n * out[1] + p) * out[2]
            count = out[2] if p < out[1] else 0  # windows
            for q in range(0, (width + 1) // 2, LANES):
                _pairs(dY, y + q, index, i, count - q, dX, x + 2 * q, width - 2 * q)
            i += 1


@written(FLOATS, INT, BYTES, INT, INT, FLOATS, INT, INT)
def _pairs(w, dY, y, index, i, count, dX, x, columns):
    """dX[x + 2 q + j] = dY[y + q] if index[y + q] is 2 i + j, else 0; for q < count <= LANES, j < 2."""
    b = w.builder
    gradient, place = w.load(w.at(dY, y), count), w.load_bytes(w.at(index, y), count)
    numbers = [b.trunc(w.add(w.times(i, 2), j), ir.IntType(8)) for j in (0, 1)]
    won = [b.icmp_unsigned("==", place, w.everywhere(number)) for number in numbers]
    left, right = (b.select(here, gradient, ZERO) for here in won)
    for half in (0, LANES // 2):
        lanes = [lane for k in range(half, half + LANES // 2) for lane in (k, LANES + k)]
        w.store(w.pick(left, right, lanes), w.at(dX, w.add(x, 2 * half)), w.add(columns, -2 * half))


def _suits(kernel: Sequence[int], X: np.ndarray) -> bool:
    return USABLE and X.ndim == 4 and math.prod(kernel) <= _MOST and X.dtype == np.float32 and served(X)


def _images(X: np.ndarray) -> np.ndarray:
    """(n, c, height, width) -> (n c, height, width)"""
    return X.reshape(-1, *X.shape[2:])
