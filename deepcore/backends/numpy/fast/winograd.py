"""Winograd's convolution with 3 x 3 filters: 2.25 times fewer products, or 4 times fewer with less accuracy.

F(m x m, 3 x 3) computes a tile of m x m numbers of Y from a tile d of (m + 2) x (m + 2) numbers of the image:

    Y = A^T ((G g G^T) * (B^T d B)) A        * number by number, g the filter

B^T d B, sums and differences, is taken once for each channel of an image, G g G^T once for each filter. What
remains is a product for each of the (m + 2)^2 numbers of a tile, instead of 9 for each of its m^2 results;
and summed over the channels it is a product of matrices for each of them:

    M[x, f, p] = sum over c of U[x, f, c] V[x, c, p]       x < (m + 2)^2, p a tile

With the image split into m x m phases (see `phases.Split`) tiles side by side are vectors: the numbers d_ij
of the tiles p, p + 1 ... stand side by side in phase (i mod m, j mod m). The results are the phases of Y.

dX is the convolution of dY with the filters turned round. The gradient of the filters has the same form:

    dW = G^T (sum over p of V * (A dY A^T)) G

F(2 x 2) has B and A of 0, 1 and -1 and loses no accuracy. F(4 x 4) loses a digit (1e-5 of the largest
number), and runs only where fit(precision="relaxed") allows it. Infinities and NaN reach all of their tile.

Lavin and Gray 2016, arXiv:1509.09308.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import get_num_threads, prange

from deepcore.backends.numpy.fast.compiled import compiled, flat, threaded
from deepcore.backends.numpy.fast.phases import Split, add_threads, apart, join_phases, split_image
from deepcore.backends.numpy.fast.simd import PANEL, ROWS, keep_apart, tile, transform, turn, vectors_of
from deepcore.backends.numpy.fast.workspace import room, steps
from deepcore.backends.numpy.fast.writer import LANES
from deepcore.backends.numpy.memory import empty
from deepcore.shapes import Padding

BT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
G = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
AT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


def turned(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """The transpose."""
    return [list(column) for column in zip(*matrix, strict=True)]


image_2, image_4 = transform(BT[2]), transform(BT[4])
result_2, result_4 = transform(AT[2]), transform(AT[4])
gradient_2, gradient_4 = transform(turned(AT[2])), transform(turned(AT[4]))
filter_2, filter_4 = transform(G[2]), transform(G[4])
sums_2, sums_4 = transform(turned(G[2])), transform(turned(G[4]))

_TAPS = steps(9, LANES)  # where the numbers of LANES filters stand, side by side


class Plan(NamedTuple):
    """What the tiles of an image are."""

    split: Split
    places: np.ndarray  # where the numbers of a tile stand in the image
    count: int  # tiles, those beyond the ends of rows included
    size: int  # the same, rounded up to whole panels


@functools.lru_cache(maxsize=64)
def _plan(m: int, shape: tuple[int, ...], padding: Padding, out: tuple[int, int]) -> Plan:
    (_, height, width), (top, left) = shape, (padding[0][0], padding[1][0])
    tiles = [-(-size // m) for size in out]
    after = m * tiles[0] + 2 - height - top, m * tiles[1] + 2 - width - left
    split = Split.of(shape, (top, left), after, (m, m))
    i, j = np.divmod(np.arange((m + 2) ** 2), m + 2)
    count = (tiles[0] - 1) * split.row + tiles[1]
    return Plan(split, split.offset(0, i, j), count, -(-count // PANEL) * PANEL)


def convolve(
    m: int,
    X: np.ndarray,
    W: np.ndarray,
    turned_round: bool,
    bias: np.ndarray,
    padding: Padding,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Y of a shape, by tiles of m x m. With `turned_round`, X is dY, and Y is dX."""
    n, c = X.shape[:2]
    f = shape[1]
    plan = _plan(m, X.shape[1:], padding, shape[2:])
    threads, numbers, length = min(get_num_threads(), n), (m + 2) ** 2, whole_vectors(c)
    Y = empty(shape, np.float32)
    U, images, V, M, results, filters = room(
        threads,
        *(-(-numbers * apart(f * length) // threads), plan.split.size),
        *(
            numbers * apart(c * PANEL),
            numbers * apart(f * PANEL),
            m * m * apart(f * plan.size) + PANEL,
            9 * LANES,
        ),
    )
    _convolve(
        *(m, flat(X), plan.split.numbers(), plan.places, plan.count, plan.size),
        *(flat(W), turned_round, U.reshape(-1), steps(f, length, ROWS), steps(f, PANEL, ROWS)),
        *(
            steps(numbers, apart(f * PANEL)),
            bias,
            Y.reshape(-1),
            n,
            c,
            f,
            *shape[2:],
            images,
            V,
            M,
            results,
            filters,
        ),
    )
    return Y


def convolve_dW(m: int, dY: np.ndarray, X: np.ndarray, padding: Padding) -> np.ndarray:
    """dW of 3 x 3 filters, by tiles of m x m."""
    n, f, *out = dY.shape
    c = X.shape[1]
    plan = _plan(m, X.shape[1:], padding, tuple(out))
    threads, numbers, width = min(get_num_threads(), n), (m + 2) ** 2, whole_vectors(f)
    rows, row = plan.count // plan.split.row + 1, plan.split.row * m  # dY padded to whole tiles
    dW = empty((f, c, 3, 3), np.float32)
    images, dY_turned, V, Z, dU, sums = room(
        threads,
        *(
            plan.split.size,
            rows * m * row * width,
            numbers * apart(c * PANEL),
            numbers * apart(PANEL * width),
        ),
        *(numbers * apart(c * width), 9 * c * width),
    )
    i, j = np.divmod(np.arange(m * m), m)
    _convolve_dW(
        *(m, flat(X), plan.split.numbers(), plan.places, plan.count, flat(dY), (i * row + j) * width, row),
        *(steps(c, PANEL, ROWS), steps(c, width, ROWS), steps(numbers, apart(c * width)), dW.reshape(-1)),
        *(n, c, f, *out, images, dY_turned, V, Z, dU, sums),
    )
    return dW


def whole_vectors(count: int) -> int:
    """At least so many numbers, filling vectors."""
    return -(-count // LANES) * LANES


@compiled
def _transform_filters(m, W, first, last, f, c, turned_round, filters, U):
    """U[x, g, k] = G W[g, k] G^T for the filters g from first to last, LANES channels k at a time."""
    length = -(-c // LANES) * LANES
    taps = _TAPS[::-1].copy() if turned_round else _TAPS
    for g in range(first, last):
        for k0 in range(0, c, LANES):
            few = min(LANES, c - k0)
            if turned_round:
                turn(W, (k0 * f + g) * 9, few, 9, f * 9, filters, 0, LANES)
            else:
                turn(W, (g * c + k0) * 9, few, 9, 9, filters, 0, LANES)
            if m == 2:
                filter_2(filters, 0, taps, U, g * length + k0, apart(f * length))
            else:
                filter_4(filters, 0, taps, U, g * length + k0, apart(f * length))


@compiled
def _transform_image(m, image, plane, c, p, tiles, places, V):
    """V[x, k, p] = B^T d B for some tiles from p on, of all channels."""
    for k in range(c):
        for v in range(0, tiles, LANES):
            if m == 2:
                image_2(image, k * plane + p + v, places, V, k * PANEL + v, apart(c * PANEL))
            else:
                image_4(image, k * plane + p + v, places, V, k * PANEL + v, apart(c * PANEL))


@compiled
def _multiply(numbers, U, U_rows, length, V, c, M, M_rows, f, tiles, one_tap, zeros):
    """M[x, g, p] = sum over k of U[x, g, k] V[x, k, p] for p < tiles"""
    keep_apart()
    vectors, _ = vectors_of(tiles)
    for x in range(numbers):
        for g in range(0, f, ROWS):
            tile(
                vectors,
                (U, x * apart(f * length), U_rows, one_tap, 1),
                (V, x * apart(c * PANEL), one_tap, PANEL),
                (g, 1, c),
                (M, x * apart(f * PANEL), M_rows),
                (zeros, 0, 0),
                LANES,
            )


@compiled
def _transform_result(m, M, M_places, f, p, tiles, result, size):
    """The m x m phases of Y, at some tiles from p on: A^T M A"""
    for g in range(f):
        for v in range(0, tiles, LANES):
            if m == 2:
                result_2(M, g * PANEL + v, M_places, result, g * size + p + v, apart(f * size))
            else:
                result_4(M, g * PANEL + v, M_places, result, g * size + p + v, apart(f * size))


@threaded
def _convolve(
    m, X, split, places, count, size, W, turned_round, U, U_rows, M_rows, M_places, bias, Y,
    n, c, f, height, width, images, V, M, results, filters
):  # fmt: skip
    threads, numbers, length = len(images), (m + 2) ** 2, -(-c // LANES) * LANES
    plane, row = split[8], split[7]
    for thread in prange(threads):
        first, last = f * thread // threads, f * (thread + 1) // threads
        _transform_filters(m, W, first, last, f, c, turned_round, filters[thread], U)
    for thread in prange(threads):
        image, result = images[thread], results[thread]
        one_tap, zeros = np.zeros(1, np.int64), np.zeros(PANEL, np.float32)
        image[:] = 0
        for k in range(n * thread // threads, n * (thread + 1) // threads):
            split_image(X, k * c * split[1] * split[2], split, image)
            for p in range(0, count, PANEL):
                tiles = min(PANEL, count - p)
                _transform_image(m, image, plane, c, p, tiles, places, V[thread])
                _multiply(
                    numbers, U, U_rows, length, V[thread], c, M[thread], M_rows, f, tiles, one_tap, zeros
                )
                _transform_result(m, M[thread], M_places, f, p, tiles, result, size)
            join_phases(result, f, size, row, m, m, bias, Y, k * f * height * width, height, width)


@compiled
def _pad_turned(dY, y, f, height, width, row, dY_turned):
    """dY_turned[(i row + j), g] = dY[g, i, j]: filters side by side."""
    lanes = -(-f // LANES) * LANES
    for i in range(height):
        turn(dY, y + i * width, f, width, height * width, dY_turned, i * row * lanes, lanes)


@compiled
def _transform_dY(m, dY_turned, places, row, tile_row, p, tiles, f, Z):
    """Z[x, p, g] = A dY A^T for some tiles from p on."""
    width = -(-f // LANES) * LANES
    for q in range(tiles):
        at = ((p + q) // tile_row * m * row + (p + q) % tile_row * m) * width
        for g in range(0, f, LANES):
            if m == 2:
                gradient_2(dY_turned, at + g, places, Z, q * width + g, apart(PANEL * width))
            else:
                gradient_4(dY_turned, at + g, places, Z, q * width + g, apart(PANEL * width))


@compiled
def _multiply_dW(numbers, V, V_rows, c, Z, f, tiles, dU, dU_rows, one_tap):
    """dU[x, k, g] += sum over p of V[x, k, p] Z[x, p, g]"""
    keep_apart()
    width = -(-f // LANES) * LANES
    for x in range(numbers):
        for g in range(0, f, PANEL):
            vectors, _ = vectors_of(min(PANEL, f - g))
            for k in range(0, c, ROWS):
                at = x * apart(c * width) + g
                tile(
                    vectors,
                    (V, x * apart(c * PANEL), V_rows, one_tap, 1),
                    (Z, x * apart(PANEL * width) + g, one_tap, width),
                    (k, 1, tiles),
                    (dU, at, dU_rows),
                    (dU, at, 1),
                    LANES,
                )


@threaded
def _convolve_dW(
    m, X, split, places, count, dY, dY_places, row, V_rows, dU_rows, dU_places, dW,
    n, c, f, height, width, images, dY_turned, V, Z, dU, sums
):  # fmt: skip
    threads, numbers, lanes = len(images), (m + 2) ** 2, -(-f // LANES) * LANES
    for thread in prange(threads):
        image, one_tap = images[thread], np.zeros(1, np.int64)
        image[:] = 0
        dY_turned[thread, :] = 0
        dU[thread, :] = 0
        for k in range(n * thread // threads, n * (thread + 1) // threads):
            split_image(X, k * c * split[1] * split[2], split, image)
            _pad_turned(dY, k * f * height * width, f, height, width, row, dY_turned[thread])
            for p in range(0, count, PANEL):
                tiles = min(PANEL, count - p)
                _transform_image(m, image, split[8], c, p, tiles, places, V[thread])
                _transform_dY(m, dY_turned[thread], dY_places, row, split[7], p, tiles, f, Z[thread])
                _multiply_dW(numbers, V[thread], V_rows, c, Z[thread], f, tiles, dU[thread], dU_rows, one_tap)
        for k in range(c):
            for g in range(0, lanes, LANES):
                at = k * lanes + g
                if m == 2:
                    sums_2(dU[thread], at, dU_places, sums[thread], k * 9 * lanes + g, lanes)
                else:
                    sums_4(dU[thread], at, dU_places, sums[thread], k * 9 * lanes + g, lanes)
    for thread in prange(threads):
        add_threads(sums, thread, f, dW)
