"""Normalisation on NumPy, a block at a time, so that it stays in the cache from step to step.

x: X as (N, C, S), or (N, C) where there is one place; statistics of the channels then are (C, 1) or (C,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.broadcast import row_by_row
from deepcore.backends.numpy.memory import empty, empty_like
from deepcore.backends.numpy.reduce import last_sum
from deepcore.backends.quiet import quietly

_BLOCK = 131072  # elements
_SHARED_BLOCK = 393216  # where threads work side by side: only one at a time runs the Python between blocks
Block = tuple[slice, ...]  # what indexes it
_FEW_PLACES = 256
_NEGLIGIBLE = 3e-7  # of 1, the size of H
_ROWS = 16  # so few are added one after the other in float32


@quietly
def batch_norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2

    With D = X - m for a number m near the mean, mean X = m + mean D and var X = mean D^2 - (mean D)^2: D is
    no larger than a few times what X varies by, so that sums in float32 will do. As a rule the mean is near
    0 beside that: then m = 0, and D is X. At last Y = scale D + shift.
    """
    if X.dtype.itemsize < 4:
        return NotImplemented
    x, n = _flat(X), _count(X)
    row_by_row(_run(x))
    m, column = 0, None
    mean_D, mean_square = _means(x, column, n)
    far = np.isinf(mean_square) | (5 * mean_D * mean_D > 4 * mean_square)  # (mean D)^2 > 4 var loses digits
    if far.any():
        m = np.where(far, mean_D, 0).astype(x.dtype)
        column = _column(m, x)
        mean_D, mean_square = _means(x, column, n)

    exact, var = m + mean_D, mean_square - mean_D * mean_D
    r = 1 / np.sqrt(var + epsilon)
    scale = gamma.reshape(-1) * r
    shift = beta.reshape(-1) - mean_D * scale
    scale, shift = (_column(statistic.astype(x.dtype), x) for statistic in (scale, shift))
    Y = empty_like(x)

    def part(blocks: list[Block]) -> None:
        for block in blocks:
            D = _deviations(x[block], column, out=Y[block])
            y = np.multiply(D, scale, out=Y[block])
            y += shift

    _share(part, _blocks(x))
    mean = np.empty((2, *gamma.shape[1:]), x.dtype)
    mean[0] = exact.reshape(gamma.shape)
    mean[1] = exact.reshape(gamma.shape) - mean[0]
    return Y.reshape(X.shape), mean, _like(gamma, r), _like(gamma, var)


def _means(x: np.ndarray, m: np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The means of D = x - m and of D^2 over each channel, (C,), in float64."""

    def part(blocks: list[Block]) -> np.ndarray:
        total = np.zeros((2, x.shape[1]))
        for block in blocks:
            D = _deviations(x[block], m)
            total += _sums(D), _sums(D, D)
        return total

    mean_D, mean_square = _share(part, _blocks(x), threads.total) / n
    return mean_D, mean_square


def _deviations(x: np.ndarray, m: np.ndarray | None, out: np.ndarray | None = None) -> np.ndarray:
    """D = x - m; x itself where m is None."""
    return x if m is None else np.subtract(x, m, out=out)


@quietly
def batch_norm_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY

    With D as in `batch_norm`, H = r (D - mean D): dX = scale (slope D + dY + shift).
    """
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dy, x, n = _flat(dY), _flat(X), _count(dY)
    row_by_row(_run(dy))
    mean, rest, r, scale = (statistic.reshape(-1) for statistic in (*mean, r, gamma * r))
    far = np.any(np.abs(mean) * r > 2)
    m, mean_D = (_column(mean, x), rest) if far else (None, np.add(mean, rest, dtype=np.float64))
    sum_ddy, dbeta = _sums_of(dy, x, m)
    dgamma = r * (sum_ddy - mean_D * dbeta)
    slope = -r * dgamma / n
    shift = -dbeta / n - slope * mean_D
    slope, shift, scale = (_column(statistic.astype(x.dtype), x) for statistic in (slope, shift, scale))
    dX = empty_like(dy)

    def part(blocks: list[Block]) -> None:
        for block in blocks:
            D = _deviations(x[block], m, out=dX[block])
            dx = np.multiply(D, slope, out=dX[block])
            dx += dy[block]
            dx += shift
            dx *= scale

    _share(part, _blocks(dy))
    return dX.reshape(dY.shape), _like(gamma, dgamma), _like(gamma, dbeta)


@quietly
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


@quietly
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


@quietly
def group_norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if X.dtype.itemsize < 4:
        return NotImplemented
    x, m = _flat(X), max(1, math.prod(X.shape[1:]) // groups)
    row_by_row(m)
    gamma, beta = _column(gamma, x), _column(beta, x)
    rows = len(x) * groups
    Y, mean, r = empty_like(x), np.empty((rows, 2), x.dtype), np.empty((rows, 1), x.dtype)

    def part(blocks: list[tuple[slice, slice]]) -> None:
        for samples, rows in blocks:
            x_rows, y_rows, y = x[samples].reshape(-1, m), Y[samples].reshape(-1, m), Y[samples]
            mean[rows, :1] = _mean(x_rows)
            np.subtract(x_rows, mean[rows, :1], out=y_rows)
            lost = _mean(y_rows)  # by rounding the mean
            np.divide(1, np.sqrt(_mean(y_rows, y_rows) - lost * lost + epsilon), out=r[rows])
            lost[np.abs(lost * r[rows]) < _NEGLIGIBLE] = 0
            if lost.any():
                y_rows -= lost
            mean[rows, 1:] = lost
            y_rows *= r[rows]
            y *= gamma
            y += beta

    _share(part, _samples(x, groups))
    return Y.reshape(X.shape), mean, r


@quietly
def group_norm_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY

    With D = X - mean X and E = r dY, so that D E = H dY: dX = gamma E - mean(gamma E) - D r^2 mean(D gamma E)
    """
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dy, x = _flat(dY), _flat(X)
    groups = len(r) // len(dy) if len(dy) else 1
    m = max(1, math.prod(dY.shape[1:]) // groups)
    row_by_row(m)
    gamma_column = _column(gamma, dy)
    dX = empty_like(dy)

    def part(blocks: list[tuple[slice, slice]]) -> np.ndarray:
        total = np.zeros((2, dy.shape[1]))
        D = empty(dX[blocks[0][0]].shape if blocks else (0,), dX.dtype)
        for samples, rows in blocks:
            d, dx = D[: samples.stop - samples.start], dX[samples]
            d_rows, dx_rows = d.reshape(-1, m), dx.reshape(-1, m)
            np.subtract(x[samples].reshape(-1, m), mean[rows, :1], out=d_rows)
            if mean[rows, 1:].any():
                d_rows -= mean[rows, 1:]
            np.multiply(dy[samples].reshape(-1, m), r[rows], out=dx_rows)
            total += _sums(d, dx), _sums(dy[samples])
            dx *= gamma_column
            mean_dx, mean_ddx = _mean(dx_rows), _mean(d_rows, dx_rows)
            d_rows *= mean_ddx * r[rows] ** 2
            dx_rows -= mean_dx
            dx_rows -= d_rows
        return total

    dgamma, dbeta = _share(part, _samples(dy, groups), threads.total)
    return dX.reshape(dY.shape), _like(gamma, dgamma), _like(gamma, dbeta)


@quietly
def rms_norm(X: np.ndarray, gamma: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    if X.dtype.itemsize < 4:
        return NotImplemented
    X = np.ascontiguousarray(X)
    row_by_row(X.shape[1])
    Y, r = empty_like(X), np.empty((len(X), 1), X.dtype)

    def part(blocks: list[tuple[slice, slice]]) -> None:
        for rows, _ in blocks:
            np.divide(1, np.sqrt(_mean(X[rows], X[rows]) + epsilon), out=r[rows])
            y = np.multiply(X[rows], r[rows], out=Y[rows])
            y *= gamma

    _share(part, _samples(X, 1))
    return Y, r


@quietly
def rms_norm_backward(
    dY: np.ndarray, X: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)

    With E = r dY, of which H dY = X E: dX = gamma E - X r^2 mean(X gamma E)
    """
    if dY.dtype.itemsize < 4:
        return NotImplemented
    dY, X = np.ascontiguousarray(dY), np.ascontiguousarray(X)
    row_by_row(dY.shape[1])
    dX = empty_like(dY)

    def part(blocks: list[tuple[slice, slice]]) -> np.ndarray:
        dgamma = np.zeros(dY.shape[1])
        for rows, _ in blocks:
            dx = np.multiply(dY[rows], r[rows], out=dX[rows])
            dgamma += _sums(X[rows], dx)
            dx *= gamma
            dx -= X[rows] * (_mean(X[rows], dx) * r[rows] ** 2)
        return dgamma

    return dX, _like(gamma, _share(part, _samples(dY, 1), threads.total))


def _mean(*factors: np.ndarray) -> np.ndarray:
    """The mean of each row of a matrix, or of the product of two.   (R, m) -> (R, 1)"""
    return last_sum(*factors)[..., None] / max(1, factors[0].shape[1])


def _samples(x: np.ndarray, groups: int) -> Iterator[tuple[slice, slice]]:
    """Whole samples, a block at a time, and which rows their groups are."""
    together = x.size > 2 * _SHARED_BLOCK and threads.count() > 1
    step = max(1, (_SHARED_BLOCK if together else _BLOCK) * len(x) // max(1, x.size))
    for i in range(0, len(x), step):
        samples = slice(i, min(i + step, len(x)))
        yield samples, slice(samples.start * groups, samples.stop * groups)


def _flat(X: np.ndarray) -> np.ndarray:
    """(N, C, ...) -> (N, C, S), or (N, C) where S = 1"""
    N, C, *spatial = X.shape
    S = math.prod(spatial)
    return np.ascontiguousarray(X).reshape((N, C) if S == 1 else (N, C, S))


def _column(statistic: np.ndarray, x: np.ndarray) -> np.ndarray:
    """One number a channel, in a shape that broadcasts against x: for few places one for each of them.

    NumPy then goes through all channels at a stretch, and not anew for each.
    """
    if x.ndim == 2:
        return statistic.reshape(-1)
    C, S = x.shape[1:]
    return statistic.reshape(C, 1) if S > _FEW_PLACES else np.repeat(statistic, S).reshape(C, S)


def _run(x: np.ndarray) -> int:
    """How many numbers stand one after the other that a statistic is broadcast to by `_column`."""
    return math.prod(x.shape[1:] if x.ndim == 2 or x.shape[2] <= _FEW_PLACES else x.shape[2:])


def _like(gamma: np.ndarray, total: np.ndarray) -> np.ndarray:
    """A sum over each channel in the shape and dtype of gamma."""
    return total.astype(gamma.dtype).reshape(gamma.shape)


def _count(X: np.ndarray) -> int:
    """How many numbers a channel has; 1 for an empty batch, whose mean is then 0."""
    return max(1, X.size // max(1, X.shape[1]))


def _share(
    part: Callable[[list[Any]], Any], blocks: Iterable[Any], share: Callable[..., Any] = threads.share
) -> Any:
    """A function of some of the blocks, in each thread."""
    blocks = list(blocks)
    return share(lambda first, last: part(blocks[first:last]), len(blocks))


def _blocks(x: np.ndarray) -> Iterator[Block]:
    """Parts of x of about 131072 elements, with all channels."""
    N, C, S = (*x.shape, 1)[:3]
    places = max(_FEW_PLACES, _BLOCK // max(1, C))
    samples = max(1, _BLOCK // max(1, C * min(S, places)))
    for i in range(0, N, samples):
        for j in range(0, S, places):
            yield (slice(i, i + samples), slice(None), slice(j, j + places))[: x.ndim]


def _sums_of(dy: np.ndarray, x: np.ndarray, m: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """sum(D dy) of D = x - m and sum dy, (C,), in float64."""

    def part(blocks: list[Block]) -> np.ndarray:
        total = np.zeros((2, dy.shape[1]))
        for block in blocks:
            total += _sums(_deviations(x[block], m), dy[block]), _sums(dy[block])
        return total

    dgamma, dbeta = _share(part, _blocks(dy), threads.total)
    return dgamma, dbeta


def _sums(*factors: np.ndarray) -> np.ndarray:
    """The sum of a block, or of a product of two, over each channel, (C,): float64, but first in float32."""
    A = factors[0]
    one = len(factors) == 1
    if A.ndim == 3:
        rows = np.einsum("ncs->nc", A) if one else np.vecdot(*factors)
        return np.add.reduce(rows, axis=0, dtype=np.float64)
    rows = len(A) // _ROWS
    folded = [B[: _ROWS * rows].reshape(_ROWS, rows, B.shape[1]) for B in factors]
    total = np.add.reduce(np.einsum("kic->ic" if one else "kic,kic->ic", *folded), axis=0, dtype=np.float64)
    rest = [B[_ROWS * rows :] for B in factors]
    return total + np.add.reduce(rest[0] if one else rest[0] * rest[1], axis=0, dtype=np.float64)
