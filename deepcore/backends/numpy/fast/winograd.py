"""Winograd's convolution with 3 x 3 filters: 2.25 times fewer products, or 4 times fewer with larger tiles.

F(m x m, 3 x 3) computes a tile of m x m numbers of Y from a tile d of (m + 2) x (m + 2) numbers of the image:

    Y = A^T ((G g G^T) * (B^T d B)) A        * number by number, g the filter

B^T d B, sums and differences, is taken once for each channel of an image, G g G^T once for each filter. What
remains is a product for each of the (m + 2)^2 numbers of a tile, instead of 9 for each of its m^2 results;
and summed over the channels it is a product of matrices for each of them:

    M[x, f, p] = sum over c of U[x, f, c] V[x, c, p]       x < (m + 2)^2, p a tile

The numbers d_ij of all tiles of an image, one tile after the other, are a plane of their own, so that tiles
side by side are vectors (see `Tiles`). The results are the phases of Y: number (a, b) of each of its tiles.

Tiles of several small images are taken together, as many as the cache has room for: vectors are full, and
each number of U, which are many where images are small, is fetched once for all of them.

dX is the convolution of dY with the filters turned round. The gradient of the filters has the same form:

    dW = G^T (sum over p of V * (A dY A^T)) G

Y is a product of polynomials, known from its values at m + 2 points: G holds the powers of the points, A^T
too, and B^T interpolates. F(2 x 2) has the points 0, 1, -1 and infinity, sums and differences, and errs by
5e-7 of the largest number. For F(4 x 4) books add 2 and -2, whose powers up to 32 lose a digit, 1e-5. Here
the four points are 3/4 and 3/2 and their opposites: 2e-6 to 3e-6 for 64 to 512 channels, as torch errs by.
B^T and A^T are exact in float32. Points come in pairs, so that half of the sums are shared (`multiplied`).
Infinities and NaN reach all of their tile.

Lavin and Gray 2016, arXiv:1509.09308; on the points, Barabasz et al. 2020, arXiv:1803.10986.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from deepcore.backends.numpy.fast.compiled import InParts, flat, step
from deepcore.backends.numpy.fast.phases import add_threads, apart, join_phases
from deepcore.backends.numpy.fast.simd import (
    OF_TILE,
    PANEL,
    ROWS,
    VECTORS,
    copy,
    deinterleave_overlapping,
    keep_apart,
    panel_product,
    side_by_side,
    tile_product,
    transform,
    turn,
    vectors_of,
)
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.fast.workspace import room, steps
from deepcore.backends.numpy.fast.writer import FLOATS, INT, LANES, OFFSETS, standing_alone
from deepcore.backends.numpy.memory import Out, empty
from deepcore.shapes import Padding

POINTS = {2: (0, 1, -1), 4: (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)}  # for each m; and infinity


def transforms(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """B^T, G and A^T of F(m x m, 3 x 3): a row of B^T and G, and a column of A^T, for each point."""
    points = np.array(POINTS[m])
    BT, G, AT = (np.zeros(shape) for shape in ((m + 2, m + 2), (m + 2, 3), (m, m + 2)))
    for k, point in enumerate(points):
        others = np.delete(points, k)
        BT[k, : m + 1] = np.poly(others)[::-1]  # the polynomial that is 0 at the other points
        G[k] = point ** np.arange(3) / np.prod(point - others)
        AT[:, k] = point ** np.arange(m)
    BT[-1] = np.poly(points)[::-1]
    G[-1, -1] = AT[-1, -1] = 1  # at infinity only the leading power counts
    return BT, G, AT


(BT_2, G_2, AT_2), (BT_4, G_4, AT_4) = transforms(2), transforms(4)
image_2, image_4 = transform(BT_2), transform(BT_4)
result_2, result_4 = transform(AT_2), transform(AT_4)
gradient_2, gradient_4 = transform(AT_2.T), transform(AT_4.T)
filter_2, filter_4 = transform(G_2), transform(G_4)
sums_2, sums_4 = transform(G_2.T), transform(G_4.T)

_DEPTH = 128  # products summed up at once: longer sums lose digits, and need more of V than the cache holds
_TILES = 64  # in a block: what is fetched of U serves all of them, and what they become stays in the caches
_TAPS = steps(9, LANES)  # where the numbers of LANES filters stand, side by side


class Tiles(NamedTuple):
    """Some rows of tiles of a channel, of which number d_ij of tile p stands at place (i, j) + p.

    In memory: for each i < m and j < m + 2 a plane, in it number (i, j) of all tiles, row by row. What is
    (i, j) in one tile with i >= m is (i - m, j) in the tile below, a row further on.

    Before that, for each i < m the rows of pixels i, m + i, 2 m + i ..., each as long as its tiles, without
    gaps: so that vectors of tiles are taken out of them whatever the length of a row.
    """

    height: int  # of the image that comes in
    width: int
    top: int  # padding before the first row and the first column
    left: int
    m: int
    row: int  # tiles in a row
    plane: int  # numbers from a plane to the next
    count: int  # tiles in all of the image

    @classmethod
    def of(cls, m: int, shape: Sequence[int], padding: Padding, out: Sequence[int], run: int) -> Tiles:
        """With room for all rows that `run` tiles may lie in."""
        (top, _), (left, _) = padding
        rows, row = (-(-size // m) for size in out)
        most = min(rows, -(-(run - 1) // row) + 1)
        plane = apart((most + 1) * row + LANES)  # a vector may look beyond the last row
        return cls(*shape, top, left, m, row, plane, rows * row)  # pyright: ignore[reportCallIssue]

    def numbers(self) -> np.ndarray:
        """As compiled code takes them."""
        return np.array(self, np.int64)

    @property
    def pixels(self) -> int:
        """Numbers in rows of pixels."""
        return self.m * self.m * self.plane

    @property
    def size(self) -> int:
        """Numbers in planes."""
        return self.m * (self.m + 2) * self.plane

    def places(self) -> np.ndarray:
        i, j = np.divmod(np.arange((self.m + 2) ** 2), self.m + 2)
        return (i % self.m * (self.m + 2) + j) * self.plane + i // self.m * self.row


class Plan(NamedTuple):
    """How the tiles of a thread's images are cut into blocks: part of a large image, or some small ones."""

    tiles: Tiles
    numbers: np.ndarray
    places: np.ndarray  # where the numbers of a tile stand in the image
    run: int  # tiles of an image in a block
    group: int  # images in a block; only where a run is a whole image, more than 1
    columns: int  # of a block at most, vectors that look beyond the last image included


@functools.lru_cache(maxsize=64)
def _plan(
    m: int, shape: tuple[int, ...], padding: Padding, out: tuple[int, ...], images: int, most: int = _TILES
) -> Plan:
    count = math.prod(-(-size // m) for size in out)
    run = min(count, _TILES)
    tiles = Tiles.of(m, shape[1:], padding, out, run)
    group = min(images, -(-most // run)) if run == count else 1
    return Plan(tiles, tiles.numbers(), tiles.places(), run, group, apart(group * run + LANES))


def convolve(
    m: int,
    X: np.ndarray,
    W: np.ndarray,
    turned_round: bool,
    bias: np.ndarray,
    padding: Padding,
    shape: tuple[int, ...],
    out: Out,
) -> np.ndarray:
    """Y of a shape, by tiles of m x m. With `turned_round`, X is dY, and Y is dX."""
    n, c = X.shape[:2]
    f = shape[1]
    threads, numbers, length = min(pool.parts(), n), (m + 2) ** 2, whole_vectors(c)
    plan = _plan(m, X.shape[1:], padding, shape[2:], -(-n // threads))
    size = whole_vectors(plan.group * plan.tiles.count) + LANES  # of a row of results
    Y = empty(shape, np.float32) if out is None else out
    U, pixels, images, V, M, results, filters = room(
        threads,
        *(-(-numbers * apart(f * length) // threads), plan.tiles.pixels, plan.tiles.size),
        *(numbers * apart(c * plan.columns), numbers * apart(f * plan.columns)),
        *(m * m * apart(f * size) + PANEL, 9 * LANES * LANES),
    )
    U = U.reshape(-1)
    _transform_filters.run(threads, m, flat(W), f, c, turned_round, filters, U)
    _convolve.run(
        *(threads, flat(X), plan.numbers, plan.places, plan.run, plan.group, plan.columns),
        *(U, steps(f, length, ROWS), steps(f, plan.columns, ROWS), steps(numbers, apart(f * plan.columns))),
        *(bias, Y.reshape(-1), n, c, f, *shape[2:], pixels, images, V, M, results, size),
    )
    return Y


def convolve_dW(m: int, dY: np.ndarray, X: np.ndarray, padding: Padding) -> np.ndarray:
    """dW of 3 x 3 filters, by tiles of m x m."""
    n, f, *out = dY.shape
    c = X.shape[1]
    threads, numbers, width = pool.parts(), (m + 2) ** 2, whole_vectors(f)
    # whose sums are larger than what is summed had better all be taken by one thread
    by_channels = n * math.prod(-(-size // m) for size in out) < c
    threads = min(threads, c if by_channels else n)
    most, part = (-(-c // threads), n) if by_channels else (c, -(-n // threads))
    plan = _plan(m, X.shape[1:], padding, tuple(out), part, _DEPTH if by_channels else _TILES)
    row = plan.tiles.row * m  # of dY, padded to whole tiles
    dW = empty((f, c, 3, 3), np.float32)
    pixels, images, dY_turned, V, Z, dU, sums = room(
        threads,
        *(plan.tiles.pixels, plan.tiles.size, plan.tiles.count * m * m * width),
        *(numbers * apart(most * plan.columns), numbers * apart(plan.group * plan.run * width)),
        *(numbers * apart(most * width), 9 * c * width),
    )
    i, j = np.divmod(np.arange(m * m), m)
    _convolve_dW.run(
        *(threads, flat(X), plan.numbers, plan.places, plan.run, plan.group, plan.columns),
        *(flat(dY), (i * row + j) * width, steps(most, plan.columns, ROWS), steps(most, width, ROWS)),
        *(steps(numbers, apart(most * width)), n, c, f, *out, by_channels, most),
        *(pixels, images, dY_turned, V, Z, dU, sums),
    )
    add_threads.run(threads, sums[:1] if by_channels else sums, f, dW.reshape(-1))
    return dW


def whole_vectors(count: int) -> int:
    """At least so many numbers, filling vectors."""
    return -(-count // LANES) * LANES


_split_2, _split_4 = deinterleave_overlapping(2, 2), deinterleave_overlapping(4, 2)


@standing_alone(FLOATS, INT, OFFSETS, INT, INT, FLOATS, FLOATS)
def split_tiles(X, x, tiles, first, rows, pixels, image):
    """Rows of tiles, from row `first` on, of a channel that starts at X[x].   tiles: the numbers of a Tiles

    What lies beside the image in a row of pixels is 0 already.
    """
    height, width, top, left = tiles[0], tiles[1], tiles[2], tiles[3]
    m, row, plane = tiles[4], tiles[5], tiles[6]
    h0, length = m * first - top, m * row
    within = min(width, length - left)  # columns of the image that lie in a row of pixels; two may lie beyond
    i, target = 0, 0
    for h in range(h0, h0 + m * rows + 2):
        at = i * m * plane + target
        if 0 <= h < height:
            for w in range(0, within, LANES):  # zeros beyond its end: the next row overwrites them
                copy(X, x + h * width + w, pixels, at + left + w, within - w)
        else:
            for w in range(0, length, LANES):
                copy(X, x, pixels, at + w, 0)
        i += 1
        if i == m:
            i, target = 0, target + length
    for i in range(m):
        for p in range(0, (rows + 1) * row, LANES):
            source, at = i * m * plane + m * p, i * (m + 2) * plane + p
            if m == 2:
                _split_2(pixels, source, image, at, plane)
            else:
                _split_4(pixels, source, image, at, plane)
    for j in range(2):  # what the last tile of a row shares with no other isn't in the row of pixels
        w = length - left + j
        for i in range(m):
            at = (i * (m + 2) + m + j) * plane - 1
            for h in range(h0 + i, h0 + m * rows + 2, m):
                at += row
                image[at] = X[x + h * width + w] if w < width and 0 <= h < height else 0


@InParts
def _transform_filters(thread, threads, m, W, f, c, turned_round, filters, U):
    """U[x, g, k] = G W[g, k] G^T for some of the filters g, LANES channels k at a time."""
    length = -(-c // LANES) * LANES
    taps = _TAPS[::-1].copy() if turned_round else _TAPS
    of_these = filters[thread]
    first, last = f * thread // threads, f * (thread + 1) // threads
    block = LANES if turned_round else 1  # filters that are read at once, where they lie side by side
    for g0 in range(first, last, block):
        some = min(block, last - g0)
        for k0 in range(0, c, LANES):
            few = min(LANES, c - k0)
            if turned_round:
                turn(W, (k0 * f + g0) * 9, few, 9 * some, 9 * f, of_these, 0, LANES)
            else:
                turn(W, (g0 * c + k0) * 9, few, 9, 9, of_these, 0, LANES)
            for g in range(some):
                at = (g0 + g) * length + k0
                if m == 2:
                    filter_2(of_these, 9 * LANES * g, taps, U, at, apart(f * length))
                else:
                    filter_4(of_these, 9 * LANES * g, taps, U, at, apart(f * length))


_streaming_tiles = tile_product(ROWS, VECTORS, streams=True)


@standing_alone(INT, INT, *OF_TILE)
def streaming_product(
    rows, vectors, A, a, A_rows, A_taps, A_step, B, b, B_places, B_taps, B_step,
    i, taps, K, C, c, C_rows, start, s, follow, lanes
):  # fmt: skip
    """`panel_product`, which for whole panels streams A."""
    of_A, of_B = (A, a, A_rows, A_taps, A_step), (B, b, B_places, B_taps, B_step)
    lengths, of_C = (taps, K), (C, c, C_rows, start, s, follow, lanes)
    if vectors == VECTORS:
        _streaming_tiles(-(-rows // ROWS), *of_A, *of_B, i, *lengths, *of_C)
    else:
        panel_product(rows, vectors, *of_A, *of_B, i, *lengths, *of_C)


@step
def _transform_images(X, first, some, c, k0, k1, T, p, tiles, pixels, image, places, V, columns, V_step):
    """V[x, k, q] = B^T d B for channels k0 .. k1 - 1 of the tiles from p on of some images."""
    m, row = T[4], T[5]
    top = p // row
    rows = (p + tiles - 1) // row + 1 - top
    for n in range(some):
        for k in range(k0, k1):
            split_tiles(X, ((first + n) * c + k) * T[0] * T[1], T, top, rows, pixels, image)
            for v in range(0, tiles, LANES):
                at = (k - k0) * columns + n * tiles + v
                if m == 2:
                    image_2(image, p - top * row + v, places, V, at, V_step)
                else:
                    image_4(image, p - top * row + v, places, V, at, V_step)


@step
def _multiply(numbers, U, U_rows, length, V, c, columns, some, M, M_rows, f, places, zeros):
    """M[x, g, q] = sum over k of U[x, g, k] V[x, k, q] for the first columns q"""
    keep_apart()
    for x in range(numbers):
        for q in range(0, some, PANEL):
            vectors, _ = vectors_of(min(PANEL, some - q))
            at = x * apart(f * columns) + q
            for k in range(0, c, _DEPTH):
                start, s, follow = (M, at, 1) if k else (zeros, 0, 0)
                streaming_product(
                    *(f, vectors, U, x * apart(f * length) + k, U_rows, places, 1),
                    *(V, x * apart(c * columns) + k * columns + q, places, places, columns),
                    *(0, 1, min(_DEPTH, c - k), M, at, M_rows, start, s, follow, LANES),
                )


@step
def _transform_result(m, M, M_places, f, columns, some, result, p, size):
    """The m x m phases of Y at `some` tiles from p on: A^T M A"""
    for g in range(f):
        for v in range(0, some, LANES):
            at = g * size + p + v
            if m == 2:
                result_2(M, g * columns + v, M_places, result, at, apart(f * size))
            else:
                result_4(M, g * columns + v, M_places, result, at, apart(f * size))


@InParts
def _convolve(
    thread, threads, X, T, places, run, group, columns, U, U_rows, M_rows, M_places, bias, Y,
    n, c, f, height, width, pixels, images, V, M, results, size
):  # fmt: skip
    """Each thread takes some of the images.   T: the numbers of a Tiles"""
    m, row, count = T[4], T[5], T[7]
    numbers, length = (m + 2) ** 2, -(-c // LANES) * LANES
    image, result, panel, zeros = (
        images[thread],
        results[thread],
        side_by_side(),
        np.zeros(PANEL, np.float32),
    )
    pixels[thread, :] = 0
    last = n * (thread + 1) // threads
    for first in range(n * thread // threads, last, group):
        some = min(group, last - first)
        for p in range(0, count, run):
            tiles = min(run, count - p)
            _transform_images(
                *(X, first, some, c, 0, c, T, p, tiles),
                *(pixels[thread], image, places, V[thread], columns, apart(c * columns)),
            )
            _multiply(
                *(numbers, U, U_rows, length, V[thread], c, columns, some * tiles),
                *(M[thread], M_rows, f, panel, zeros),
            )
            _transform_result(m, M[thread], M_places, f, columns, some * tiles, result, p, size)
        for k in range(some):
            y = (first + k) * f * height * width
            join_phases(result[k * count :], f, size, row, m, m, bias, Y, y, height, width)


@step
def _pad_turned(dY, y, f, height, width, row, dY_turned):
    """dY_turned[(i row + j), g] = dY[g, i, j]: filters side by side."""
    lanes = -(-f // LANES) * LANES
    for i in range(height):
        turn(dY, y + i * width, f, width, height * width, dY_turned, i * row * lanes, lanes)


@step
def _transform_dY(m, dY_turned, places, tile_row, p, tiles, f, Z, q, columns):
    """Z[x, q, g] = A dY A^T for some tiles from p on."""
    width = -(-f // LANES) * LANES
    for t in range(tiles):
        at = ((p + t) // tile_row * m * tile_row + (p + t) % tile_row) * m * width
        for g in range(0, f, LANES):
            there = (q + t) * width + g
            if m == 2:
                gradient_2(dY_turned, at + g, places, Z, there, apart(columns * width))
            else:
                gradient_4(dY_turned, at + g, places, Z, there, apart(columns * width))


@step
def _multiply_dW(
    numbers, V, V_rows, c, V_step, Z, Z_columns, f, some, dU, dU_rows, dU_places, is_first, zeros, places
):
    """dU[x, k, g] += sum over q of V[x, k, q] Z[x, q, g] for k < c"""
    keep_apart()
    width = -(-f // LANES) * LANES
    for x in range(numbers):
        for g in range(0, f, PANEL):
            vectors, _ = vectors_of(min(PANEL, f - g))
            at = dU_places[x] + g
            start, s, follow = (zeros, 0, 0) if is_first else (dU, at, 1)
            streaming_product(
                *(c, vectors, V, x * V_step, V_rows, places, 1),
                *(Z, x * apart(Z_columns * width) + g, places, places, width),
                *(0, 1, some, dU, at, dU_rows, start, s, follow, LANES),
            )


@InParts
def _convolve_dW(
    thread, threads, X, T, places, run, group, columns, dY, dY_places, V_rows, dU_rows, dU_places,
    n, c, f, height, width, by_channels, most, pixels, images, dY_turned, V, Z, dU, sums
):  # fmt: skip
    """Each thread adds up some of the images, or all of them for some, at most `most`, of the channels.

    T: the numbers of a Tiles
    """
    lanes, zeros = -(-f // LANES) * LANES, np.zeros(PANEL, np.float32)
    m, row, count, numbers = T[4], T[5], T[7], (T[4] + 2) ** 2
    image, panel = images[thread], side_by_side()
    dY_turned[thread, :] = 0
    pixels[thread, :] = 0
    begin, last, k0, k1, total = n * thread // threads, n * (thread + 1) // threads, 0, c, sums[thread]
    if by_channels:
        begin, last, k0, k1, total = 0, n, c * thread // threads, c * (thread + 1) // threads, sums[0]
    for first in range(begin, last, group):
        some = min(group, last - first)
        for p in range(0, count, run):
            tiles, is_first = min(run, count - p), first == begin and p == 0
            _transform_images(
                *(X, first, some, c, k0, k1, T, p, tiles),
                *(pixels[thread], image, places, V[thread], columns, apart(most * columns)),
            )
            for k in range(some):
                if p == 0:
                    y = (first + k) * f * height * width
                    _pad_turned(dY, y, f, height, width, row * m, dY_turned[thread])
                _transform_dY(
                    *(m, dY_turned[thread], dY_places, row, p, tiles, f),
                    *(Z[thread], k * tiles, group * run),
                )
            _multiply_dW(
                *(numbers, V[thread], V_rows, k1 - k0, apart(most * columns), Z[thread], group * run, f),
                *(some * tiles, dU[thread], dU_rows, dU_places, is_first, zeros, panel),
            )
    for k in range(k1 - k0):
        for g in range(0, lanes, LANES):
            at, there = k * lanes + g, (k0 + k) * 9 * lanes + g
            if m == 2:
                sums_2(dU[thread], at, dU_places, total, there, lanes)
            else:
                sums_4(dU[thread], at, dU_places, total, there, lanes)
