"""Normalisation on NumPy, a block at a time, so that it stays in the cache from step to step.

x: X as (N, C, S), or (N, C) where there is one place; statistics of the channels then are (C, 1) or (C,).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

_BLOCK = 65536  # elements
_ROWS = 16  # so few are added one after the other in float32
_quiet = np.errstate(over="ignore", invalid="ignore")  # an overflow shows in the result


@_quiet
def batch_norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2

    The mean is taken in float64, and subtracted in two parts: rounded, and what the rounding lost.
    """
    if X.dtype.itemsize < 4:
        return NotImplemented
    x, n = _flat(X), _count(X)
    mean = _column(np.add.reduce(x, axis=_all_but_channels(x), dtype=np.float64) / n, x)
    rounded = mean.astype(x.dtype)
    lost = (mean - rounded).astype(x.dtype)
    H, Y = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    total = np.zeros(x.shape[1])
    for block in _blocks(x):
        D = np.subtract(x[block], rounded, out=H[block])
        D -= lost
        total += _sums(D * D)
    var = _column(total / n, x)
    r = (1 / np.sqrt(var + epsilon)).astype(x.dtype)
    gamma, beta = gamma.reshape(r.shape), beta.reshape(r.shape)
    for block in _blocks(x):
        h, y = H[block], Y[block]
        h *= r
        np.multiply(h, gamma, out=y)
        y += beta
    shape = (1, X.shape[1]) + (1,) * (X.ndim - 2)
    mean, var = rounded.reshape(shape), var.astype(x.dtype).reshape(shape)
    return Y.reshape(X.shape), H.reshape(X.shape), r.reshape(shape), mean, var


@_quiet
def batch_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY"""
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dy, h, n = _flat(dY), _flat(H), _count(dY)
    dgamma, dbeta = _sums_of(dy, h)
    mean_hdy = _column(dgamma / n, dy).astype(dy.dtype)
    mean_dy = _column(dbeta / n, dy).astype(dy.dtype)
    scale = _column(gamma * r, dy)
    dX = np.empty(dy.shape, dy.dtype)
    for block in _blocks(dy):
        dx = np.multiply(h[block], mean_hdy, out=dX[block])
        np.subtract(dy[block], dx, out=dx)
        dx -= mean_dy
        dx *= scale
    return dX.reshape(dY.shape), _like(gamma, dgamma), _like(gamma, dbeta)


@_quiet
def batch_norm_inference(
    X: np.ndarray, mean: np.ndarray, var: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float
) -> np.ndarray:
    """Y = gamma (X - mean) (var + epsilon)^-1/2 + beta"""
    if X.dtype.itemsize < 4:
        return NotImplemented
    Y = X - mean
    Y *= gamma / np.sqrt(var + epsilon)
    Y += beta
    return Y


@_quiet
def batch_norm_inference_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, var: np.ndarray, gamma: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r dY, dgamma = sum(H dY), dbeta = sum dY"""
    if dY.dtype.itemsize < 4:
        return NotImplemented
    r = 1 / np.sqrt(var + epsilon)
    H = X - mean
    H *= r
    dgamma, dbeta = _sums_of(_flat(dY), _flat(H))
    return gamma * r * dY, _like(gamma, dgamma), _like(gamma, dbeta)


@_quiet
def group_norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if X.dtype.itemsize < 4:
        return NotImplemented
    x, m = _flat(X), max(1, math.prod(X.shape[1:]) // groups)
    gamma, beta = _column(gamma, x), _column(beta, x)
    H, Y, r = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype), np.empty((len(x) * groups, 1), x.dtype)
    for samples, rows in _samples(x, groups):
        h = H[samples].reshape(-1, m)
        np.subtract(x[samples].reshape(-1, m), _mean(x[samples].reshape(-1, m)), out=h)
        h -= _mean(h)
        np.divide(1, np.sqrt(_mean(h * h) + epsilon), out=r[rows])
        h *= r[rows]
        y = np.multiply(H[samples], gamma, out=Y[samples])
        y += beta
    return Y.reshape(X.shape), H.reshape(X.shape), r


@_quiet
def group_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY"""
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dy, h = _flat(dY), _flat(H)
    groups = len(r) // len(dy) if len(dy) else 1
    m = max(1, math.prod(dY.shape[1:]) // groups)
    gamma_column = _column(gamma, dy)
    dX = np.empty(dy.shape, dy.dtype)
    for samples, rows in _samples(dy, groups):
        np.multiply(dy[samples], gamma_column, out=dX[samples])
        dx, hs = dX[samples].reshape(-1, m), h[samples].reshape(-1, m)
        mean, mean_hdh = _mean(dx), _mean(dx * hs)
        dx -= mean
        dx -= hs * mean_hdh
        dx *= r[rows]
    dgamma, dbeta = _sums_of(dy, h)
    return dX.reshape(dY.shape), _like(gamma, dgamma), _like(gamma, dbeta)


@_quiet
def rms_norm(X: np.ndarray, gamma: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    if X.dtype.itemsize < 4:
        return NotImplemented
    X = np.ascontiguousarray(X)
    H, Y, r = np.empty(X.shape, X.dtype), np.empty(X.shape, X.dtype), np.empty((len(X), 1), X.dtype)
    for rows, _ in _samples(X, 1):
        np.divide(1, np.sqrt(_mean(X[rows] * X[rows]) + epsilon), out=r[rows])
        np.multiply(X[rows], r[rows], out=H[rows])
        np.multiply(H[rows], gamma, out=Y[rows])
    return Y, H, r


@_quiet
def rms_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)"""
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dY = np.ascontiguousarray(dY)
    dX, dgamma = np.empty(dY.shape, dY.dtype), np.zeros(dY.shape[1])
    for rows, _ in _samples(dY, 1):
        dx = np.multiply(dY[rows], gamma, out=dX[rows])
        dx -= H[rows] * _mean(dx * H[rows])
        dx *= r[rows]
        dgamma += _sums(H[rows] * dY[rows])
    return dX, _like(gamma, dgamma)


def _mean(rows: np.ndarray) -> np.ndarray:
    """(R, m) -> (R, 1)"""
    return np.add.reduce(rows, axis=1, keepdims=True) / max(1, rows.shape[1])


def _samples(x: np.ndarray, groups: int) -> Iterator[tuple[slice, slice]]:
    """Whole samples, about 65536 elements at a time, and which rows their groups are."""
    step = max(1, _BLOCK * len(x) // max(1, x.size))
    for i in range(0, len(x), step):
        samples = slice(i, min(i + step, len(x)))
        yield samples, slice(samples.start * groups, samples.stop * groups)


def _flat(X: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C, S), or (N, C) where S = 1"""
    N, C, *spatial = X.shape
    S = math.prod(spatial)
    return np.ascontiguousarray(X).reshape((N, C) if S == 1 else (N, C, S))


def _column(statistic: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One number a channel, in the shape that broadcasts against x."""
    return statistic.reshape((-1,) + (1,) * (x.ndim - 2))


def _like(gamma: np.ndarray, total: np.ndarray) -> np.ndarray:
    """A sum over each channel in the shape and dtype of gamma."""
    return total.astype(gamma.dtype).reshape(gamma.shape)


def _all_but_channels(x: np.ndarray) -> tuple[int, ...]:
    return (0,) if x.ndim == 2 else (0, 2)


def _count(X: np.ndarray) -> int:
    """How many numbers a channel has; 1 for an empty batch, whose mean is then 0."""
    return max(1, X.size // max(1, X.shape[1]))


def _blocks(x: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Parts of x of about 65536 elements, with all channels."""
    N, C, S = (*x.shape, 1)[:3]
    places = max(256, _BLOCK // max(1, C))
    samples = max(1, _BLOCK // max(1, C * min(S, places)))
    for i in range(0, N, samples):
        for j in range(0, S, places):
            yield (slice(i, i + samples), slice(None), slice(j, j + places))[: x.ndim]


def _sums_of(dy: np.ndarray, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sum(h dy) and sum dy, (C,), in float64."""
    dgamma, dbeta = np.zeros(dy.shape[1]), np.zeros(dy.shape[1])
    for block in _blocks(dy):
        dgamma += _sums(h[block] * dy[block])
        dbeta += _sums(dy[block])
    return dgamma, dbeta


def _sums(A: np.ndarray) -> np.ndarray:
    """sum A over a block, (C,): float64, but the first additions in float32, which is 4 times as fast."""
    if A.ndim == 3:  # along the last axis NumPy adds pairwise, to full accuracy
        return np.add.reduce(np.add.reduce(A, axis=2), axis=0, dtype=np.float64)
    rows = len(A) // _ROWS
    if rows < _ROWS:
        return np.add.reduce(A, axis=0, dtype=np.float64)
    folded = np.add.reduce(A[: _ROWS * rows].reshape(_ROWS, rows, A.shape[1]), axis=0)
    rest = A[_ROWS * rows :]
    return np.add.reduce(folded, axis=0, dtype=np.float64) + np.add.reduce(rest, axis=0, dtype=np.float64)
