"""Softmax on NumPy, a block of rows at a time, so that a block stays in the cache from step to step."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np

from deepcore.backends.numpy.reduce import row_sum
from deepcore.backends.quiet import ignoring

_BLOCK = 131072  # elements: 512 KiB in float32, so that an array and its result fit the level-2 cache


@ignoring("over")
def softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = E / sum E, E = e^(X - max X)"""
    if not _native(X):
        return NotImplemented
    rows = _rows(X, axis)
    Y = np.empty(rows.shape, rows.dtype)
    for block in row_blocks(*rows.shape):
        x, E = rows[block], Y[block]
        np.subtract(x, x.take(row_tops(x))[:, None], out=E)
        np.exp(E, out=E)
        E /= _exact_row_sum(E)[:, None]
    return _unrows(Y, X, axis)


def softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = Y (dY - sum Y dY)"""
    if not _native(Y):
        return NotImplemented
    P, dP = _rows(Y, axis), _rows(dY, axis)
    dX = np.empty(P.shape, P.dtype)
    for block in row_blocks(*P.shape):
        p, dp, dx = P[block], dP[block], dX[block]
        np.multiply(p, dp, out=dx)
        np.subtract(dp, row_sum(dx)[:, None], out=dx)
        dx *= p
    return _unrows(dX, Y, axis)


@ignoring("over")
def log_softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = D - log(1 + s), D = X - max X, s = sum e^D over all but one largest entry"""
    if not _native(X):
        return NotImplemented
    rows = _rows(X, axis)
    Y = np.empty(rows.shape, rows.dtype)
    for block in row_blocks(*rows.shape):
        x, D = rows[block], Y[block]
        top = row_tops(x)
        np.subtract(x, x.take(top)[:, None], out=D)
        E = np.exp(D)
        E.ravel()[top] -= 1  # from 1 to 0, and NaN stays
        D -= np.log1p(_exact_row_sum(E))[:, None]
    return _unrows(Y, X, axis)


def log_softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = dY - e^Y sum dY"""
    if not _native(Y):
        return NotImplemented
    logP, dP = _rows(Y, axis), _rows(dY, axis)
    dX = np.empty(logP.shape, logP.dtype)
    for block in row_blocks(*logP.shape):
        dp, dx = dP[block], dX[block]
        np.exp(logP[block], out=dx)
        dx *= row_sum(dp)[:, None]
        np.subtract(dp, dx, out=dx)
    return _unrows(dX, Y, axis)


def row_blocks(n: int, C: int) -> Iterator[slice]:
    """The rows of an (n, C) array in slices of about 131072 elements."""
    step = max(1, _BLOCK // C)
    return (slice(start, start + step) for start in range(0, n, step))


def row_tops(X: np.ndarray) -> np.ndarray:
    """Where the first largest entry of each row stands in X.ravel().   X: (n, C), row-major

    argmax and take cost half of np.maximum.reduce for few columns, and as much for many.
    """
    return X.argmax(1) + row_starts(*X.shape)


def _exact_row_sum(X: np.ndarray) -> np.ndarray:
    """(n, C) -> (n,), added in float64: in float32 the sums of softmax's rows are off by up to 6e-7."""
    return row_sum(X.astype(np.float64, copy=False)).astype(X.dtype, copy=False)


@functools.lru_cache(maxsize=8)
def row_starts(n: int, C: int) -> np.ndarray:
    """Where each row of an (n, C) array starts in its ravel()."""
    starts = np.arange(0, n * C, C)
    starts.flags.writeable = False
    return starts


def _native(X: np.ndarray) -> bool:
    """Whether the kernels here serve X: float16 must be summed in float32, and empty rows have no maximum."""
    return X.size > 0 and X.dtype.itemsize >= 4


def _rows(X: np.ndarray, axis: int) -> np.ndarray:
    """X as (n, C), row-major."""
    if axis not in (-1, X.ndim - 1):
        X = np.moveaxis(X, axis, -1)
    return np.ascontiguousarray(X).reshape(-1, X.shape[-1])


def _unrows(rows: np.ndarray, X: np.ndarray, axis: int) -> np.ndarray:
    """Rows back in the shape of X."""
    if axis in (-1, X.ndim - 1):
        return rows.reshape(X.shape)
    last = axis % X.ndim
    shape = (*X.shape[:last], *X.shape[last + 1 :], X.shape[last])
    return np.moveaxis(rows.reshape(shape), -1, last)
