"""Softmax on NumPy, a block of rows at a time, so that a block stays in the cache from step to step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BLOCK = 65536  # elements: 256 KiB in float32, a fraction of the level-2 cache


@np.errstate(over="ignore")
def softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = e^(X - max X) / sum"""
    if _unsupported(X):
        return NotImplemented
    rows = _rows(X, axis)
    Y = np.empty(rows.shape, rows.dtype)
    for block in row_blocks(*rows.shape):
        D, E = rows[block], Y[block]
        np.subtract(D, np.maximum.reduce(D, axis=1, keepdims=True), out=E)
        np.exp(E, out=E)
        E /= np.add.reduce(E, axis=1, keepdims=True)
    return _unrows(Y, X, axis)


def softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = Y (dY - sum Y dY)"""
    if _unsupported(Y):
        return NotImplemented
    P, dP = _rows(Y, axis), _rows(dY, axis)
    dX = np.empty(P.shape, P.dtype)
    for block in row_blocks(*P.shape):
        p, dp, dx = P[block], dP[block], dX[block]
        np.multiply(p, dp, out=dx)
        np.subtract(dp, np.add.reduce(dx, axis=1, keepdims=True), out=dx)
        dx *= p
    return _unrows(dX, Y, axis)


@np.errstate(over="ignore")
def log_softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = D - log(1 + s), D = X - max X, s = sum e^D but for one largest entry"""
    if _unsupported(X):
        return NotImplemented
    rows = _rows(X, axis)
    Y = np.empty(rows.shape, rows.dtype)
    for block in row_blocks(*rows.shape):
        D = Y[block]
        s = shift_and_sum(rows[block], D)[1]
        D -= np.log1p(s)[:, None]
    return _unrows(Y, X, axis)


def log_softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = dY - e^Y sum dY"""
    if _unsupported(Y):
        return NotImplemented
    logP, dP = _rows(Y, axis), _rows(dY, axis)
    dX = np.empty(logP.shape, logP.dtype)
    for block in row_blocks(*logP.shape):
        dp, dx = dP[block], dX[block]
        np.exp(logP[block], out=dx)
        dx *= np.add.reduce(dp, axis=1, keepdims=True)
        np.subtract(dp, dx, out=dx)
    return _unrows(dX, Y, axis)


def row_blocks(n: int, C: int) -> Iterator[slice]:
    """The rows of an (n, C) array in slices of about 65536 elements."""
    step = max(1, _BLOCK // C)
    return (slice(start, start + step) for start in range(0, n, step))
