"""Winograd's convolution F(4x4, 3x3), of NumPy alone: 2.25 products for each number of Y instead of 9.

m numbers of Y come from m + 2 numbers d of the image and a filter g of 3. As polynomials, g times m numbers y
is known from its values at m + 2 points, one of them infinity, where it is the leading coefficient:

    evaluate both, multiply, interpolate:   V^-1 ((G g) * (A y))        V, G, A: the powers of the points

Transposed, that is what slides: Y = A^T ((G g) * (B^T d)) with B^T = V^-T; and with rows and columns,

    Y = A^T ((G g G^T) * (B^T d B)) A        * number by number

Summed over the channels, the middle is a matrix product for each of the (m + 2)^2 numbers k of a tile d,

    M[k, f, p] = sum over c of U[k, f, c] Z[k, p, c]        p a tile

and the outer ones are products too, with the Kronecker products of the matrices: (B^T x B^T) d is B^T d B for
all tiles at once. The gradient of the filters has the same form:

    dW = G^T (sum over p of (A dY A^T) * (B^T d B)) G

The points decide how much is lost by rounding: with 0, 1, -1, 2 and -2, which are in all the books, 1e-5 of
the largest number. From 3/4 to its inverse all powers are near 1, and it is 1e-6 to 3e-6 for 64 to 256
channels, as much as in torch's dW. (One after the other the products lose 4e-7.) Infinities and NaN reach all
of their tile.

Lavin and Gray 2016, arXiv:1509.09308; on the points, Barabasz et al. 2020, arXiv:1803.10986.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.memory import empty
from deepcore.shapes import Padding

_POINTS = 0, 3 / 4, -3 / 4, 4 / 3, -4 / 3  # and infinity
_M = len(_POINTS) - 1  # numbers of Y in a tile's row
_D = _M + 2  # numbers of the image
_MANY, _MOST = 48, 512  # channels and filters: with fewer it isn't faster, with more 4e-6 would be lost
_FILTERS = 1 << 13  # that are worth a thread
_LONG = 64  # tiles that are worth a thread: rows of matrices are then long enough for BLAS
_BLOCK, _NUMBERS = 190, 32768  # tiles at a time, and tiles times channels


def _powers(k: int) -> np.ndarray:
    """1, x ... x^(k - 1) for each point x; for infinity, the leading one alone.   (6, k)"""
    return np.vstack([np.vander(_POINTS, k, increasing=True), np.eye(k)[-1]])


def _both_ways(A: np.ndarray) -> np.ndarray:
    """For a matrix of tiles as columns: A along both of a tile's axes."""
    return np.kron(A, A).astype(np.float32)


_BB = _both_ways(np.linalg.inv(_powers(_D)).T)  # (36, 36)
_GG = _both_ways(_powers(3))  # (36, 9)
_AA = _both_ways(_powers(_M).T)  # (16, 36)


def suits(
    X_dtype: np.dtype,
    W_shape: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out: Sequence[int],
) -> bool:
    """Whether this is faster: what it saves in products it loses in transforms if channels are few."""
    f, c, *kernel = W_shape
    return (
        [*kernel, *stride, *dilation, groups] == [3, 3, 1, 1, 1, 1, 1]
        and min(f, c) >= _MANY
        and max(f, c) <= _MOST
        and min(out) >= _D  # of smaller ones, tiles would stick out too far
        and X_dtype == np.float32
    )


def convolve(
    X: np.ndarray, W: np.ndarray, b: np.ndarray | None, padding: Padding, Y: np.ndarray, turned: bool = False
) -> np.ndarray:
    """Y = W * X + b, into Y. With `turned`, X is the dY of a convolution by W, and Y its dX."""
    U = _filters(W, turned)
    f, *out = Y.shape[1:]
    tiles = Tiles(X.shape, padding, out)

    def part(first: int, last: int) -> None:
        room = Room(tiles, max(f, X.shape[1]), last - first)
        for images in tiles.blocks(first, last):
            Z = tiles.of_images(X[images], room)
            p = Z.shape[1]
            M = np.matmul(U, Z.swapaxes(1, 2), out=room.first(_D * _D, f, p))
            results = np.matmul(_AA, M.reshape(_D * _D, -1), out=room.second(_M * _M, f * p))
            if b is not None:
                results = results.reshape(_M * _M, f, p)
                results += b.reshape(f, 1)
            tiles.write(results, Y[images], room)

    threads.share(part, len(X), tiles.least)
    return Y


def _filters(W: np.ndarray, turned: bool) -> np.ndarray:
    """U = G g G^T, (36, f, c); of filters that are turned round, with inputs and outputs exchanged."""
    f, c = W.shape[:2]
    g, GG = W.reshape(f * c, 9).T, _GG[:, ::-1] if turned else _GG
    U = empty((_D * _D, f * c), np.float32)

    def part(first: int, last: int) -> None:
        some = slice(first * c, last * c)
        np.matmul(GG, g[:, some], out=U[:, some])

    with threads.one_blas_thread():
        threads.share(part, f, -(-_FILTERS // c))
    U = U.reshape(-1, f, c)
    return U.swapaxes(1, 2) if turned else U


def convolve_dW(dY: np.ndarray, X: np.ndarray, padding: Padding) -> np.ndarray:
    """dW of 3 x 3 filters."""
    c, (f, *out) = X.shape[1], dY.shape[1:]
    tiles = Tiles(X.shape, padding, out)

    def part(first: int, last: int) -> np.ndarray:
        room = Room(tiles, max(f, c), last - first)
        dU, more = (empty((_D * _D, f, c), np.float32) for _ in range(2))
        for images in tiles.blocks(first, last):
            Z = tiles.of_images(X[images], room)
            dM = tiles.of_gradients(dY[images], room).swapaxes(1, 2)
            if images.start == first:
                np.matmul(dM, Z, out=dU)
            else:
                dU += np.matmul(dM, Z, out=more)
        return dU.reshape(_D * _D, f * c).T @ _GG  # (f c, 9)

    return threads.total(part, len(X), tiles.least).reshape(f, c, 3, 3)


class Tiles:
    """How images are cut into tiles, some images at a time.

    What is cut has its channels last: all that a tile's number has lies side by side, and is copied at a
    stretch. With the tiles last it would be 7 numbers of an image of 28 x 28, in twice the time.
    """

    def __init__(self, shape: Sequence[int], padding: Padding, out: Sequence[int]) -> None:
        c, *sizes = shape[1:]
        self.rows, self.columns = (-(-size // _M) for size in out)
        self.covered = self.rows * _M, self.columns * _M  # by the results of the tiles
        self.whole = self.covered == tuple(out)
        self.padded = self.covered[0] + 2, self.covered[1] + 2, c
        inside = (slice(lo, lo + size) for (lo, _), size in zip(padding, sizes, strict=True))
        self.inside = slice(None), *inside
        self.result = slice(None), *map(slice, out)
        block = max(_LONG, min(_BLOCK, _NUMBERS // c))
        self.least, self.images = (-(-tiles // (self.rows * self.columns)) for tiles in (_LONG, block))

    def blocks(self, first: int, last: int) -> Iterator[slice]:
        return (slice(k, min(k + self.images, last)) for k in range(first, last, self.images))

    def grid(self, X: np.ndarray, size: int) -> np.ndarray:
        """Numbers i, j < size of each tile, a view: [i, j, n, r, s, c] is X[n, 4 r + i, 4 s + j, c]"""
        image, row, number, channel = X.strides
        shape = size, size, len(X), self.rows, self.columns, X.shape[3]
        return as_strided(X, shape, (row, number, image, _M * row, _M * number, channel))

    def of_images(self, X: np.ndarray, room: Room) -> np.ndarray:
        """Z = B^T d B   (36, tiles, c)"""
        n, c = X.shape[:2]
        padded = room.padded[:n]
        padded[self.inside] = _channels_last(X)
        d = room.first(_D, _D, n, self.rows, self.columns, c)
        d[...] = self.grid(padded, _D)
        Z = room.second(_D * _D, n * self.rows * self.columns, c)
        np.matmul(_BB, d.reshape(_D * _D, -1), out=Z.reshape(_D * _D, -1))
        return Z

    def of_gradients(self, dY: np.ndarray, room: Room) -> np.ndarray:
        """A dY A^T   (36, tiles, f)"""
        n, f = dY.shape[:2]
        covered = _channels_last(dY)
        if not self.whole:
            covered = np.zeros((n, *self.covered, f), np.float32)
            covered[self.result] = _channels_last(dY)
        y = room.third(_M, _M, n, self.rows, self.columns, f)
        y[...] = self.grid(covered, _M)
        dM = room.first(_D * _D, n * self.rows * self.columns, f)
        np.matmul(_AA.T, y.reshape(_M * _M, -1), out=dM.reshape(_D * _D, -1))
        return dM

    def write(self, results: np.ndarray, Y: np.ndarray, room: Room) -> None:
        """Tiles of 4 x 4 numbers, side by side."""
        n, f = Y.shape[:2]
        covered = Y if self.whole else room.third(n, f, *self.covered)
        tiles = results.reshape(_M, _M, f, n, self.rows, self.columns)
        self.grid(_channels_last(covered), _M)[...] = np.moveaxis(tiles, 2, 5)
        if not self.whole:
            _channels_last(Y)[...] = _channels_last(covered)[self.result]


def _channels_last(X: np.ndarray) -> np.ndarray:
    """(n, c, h, w) -> (n, h, w, c), a view"""
    return X.transpose(0, 2, 3, 1)


class Room:
    """Memory that a thread works in, the same for every block: it stays in the cache."""

    def __init__(self, tiles: Tiles, channels: int, images: int) -> None:
        images = min(images, tiles.images)
        self.padded = np.zeros((images, *tiles.padded), np.float32)
        size = images * channels * tiles.rows * tiles.columns
        self._pieces = [empty((numbers * size,), np.float32) for numbers in (_D * _D, _D * _D, _M * _M)]

    def first(self, *shape: int) -> np.ndarray:
        return self._piece(0, shape)

    def second(self, *shape: int) -> np.ndarray:
        return self._piece(1, shape)

    def third(self, *shape: int) -> np.ndarray:
        return self._piece(2, shape)

    def _piece(self, number: int, shape: tuple[int, ...]) -> np.ndarray:
        return self._pieces[number][: math.prod(shape)].reshape(shape)
