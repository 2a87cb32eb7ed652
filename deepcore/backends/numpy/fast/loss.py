"""Losses in two passes over a row, which stays in the cache between them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from deepcore.backends.numpy.fast.compiled import Steps, plain, row, served, share, shared_out
from deepcore.backends.numpy.fast.elementary import exp_of_negative, expm1_of_negative, log1p, maximum
from deepcore.backends.numpy.fast.rows import exp_and_sum, largest, total
from deepcore.backends.numpy.fast.writer import FLOATS, INT, LANES, on_stack, written
from deepcore.backends.numpy.memory import empty

_INT64 = np.dtype(np.int64)
_NONE = np.iinfo(np.int64).min  # a label that no row has
_FEW = 64  # classes up to which a row is shorter than some vectors
_BLOCK = 128  # rows that stay in the cache together
_BEYOND_CACHES = 1 << 24  # numbers of which no cache will hold the gradient
_sums_of_block = on_stack(types.float64, _BLOCK)


def cross_entropy(
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """L = log sum e^X - X[y] and dX, for labels without weights or smoothing."""
    wanted = weight is None and not label_smoothing and y.dtype is _INT64 and y.shape == X.shape[:1]
    if not (wanted and served(X, least=1)):
        return NotImplemented
    ignored = _NONE if ignore_index is None else ignore_index
    L = np.empty(len(y))
    dX = empty(X.shape if gradient else (0, 0), X.dtype)
    kernel = _losses_of_few if X.shape[1] <= _FEW else _losses_of_many
    loss = kernel(X.size, plain(X), plain(y), ignored, reduction == "mean", L, dX)
    if loss < 0:
        return NotImplemented
    if reduction == "none":
        return L.astype(X.dtype), dX if gradient else None
    return np.asarray(loss, X.dtype), dX if gradient else None


@Steps
def _losses_of_few(parts, in_threads, X, y, ignored, mean, L, dX):
    """Into L the loss of each row, into dX its gradient unless dX is empty. Returns the sum, or the mean.

    -1 if a label is none of the classes: it would be read outside of its row.
    """
    n = _divisor(y, X.shape[1], ignored, mean)
    if n < 0:
        return -1.0
    _losses_of_blocks(parts, in_threads, (X, y, ignored, n, L, dX))
    return total(L) / n


@Steps
def _losses_of_many(parts, in_threads, X, y, ignored, mean, L, dX):
    """The same for rows of many classes, one row at a time."""
    n = _divisor(y, X.shape[1], ignored, mean)
    if n < 0:
        return -1.0
    _losses_of_rows(parts, in_threads, (X, y, ignored, n, L, dX))
    return total(L) / n


@shared_out
def _losses_of_blocks(part, parts, X, y, ignored, n, L, dX):
    for block in share(-(-len(y) // _BLOCK), part, parts):
        rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
        _losses_of_block(X[rows], y[rows], ignored, n, L[rows], dX[rows])


@shared_out
def _losses_of_rows(part, parts, X, y, ignored, n, L, dX):
    past = dX.size >= _BEYOND_CACHES and X.shape[1] % LANES == 0 and dX.ctypes.data % 64 == 0
    E = np.empty(X.shape[1], X.dtype)  # e^D of a row, in the cache
    for i in share(len(y), part, parts):
        factor = X.dtype.type(0)
        if y[i] == ignored:
            E[:] = 0
            L[i] = 0
        else:
            L[i], factor = _label_loss(X[i], y[i], n, E)
        if past:
            scale_past_caches(E, factor, dX[i])
        elif dX.size:
            _scale_into(E, factor, dX[i])


@row
def _divisor(y, classes, ignored, mean):
    """How many rows count, or 1 if there is no mean to be taken; -1 if a label is none of the classes."""
    kept = 0
    wrong = 0
    for i in range(y.size):
        kept += y[i] != ignored
        wrong += (y[i] != ignored) & ((y[i] < 0) | (y[i] >= classes))
    if wrong:
        return -1
    return kept if mean and kept else 1


@row
def _losses_of_block(X, y, ignored, n, L, dX):
    """`_label_loss` of rows so short that the same is done to a number of many rows at once."""
    N, C = X.shape
    E = np.empty((C + 2, N), X.dtype)  # a column for each row of X
    top, factor, s = E[C], E[C + 1], _sums_of_block()
    for j in range(C):
        for i in range(N):
            E[j, i] = X[i, j]
    for i in range(N):
        top[i], s[i] = E[0, i], 0
    for j in range(1, C):
        for i in range(N):
            top[i] = maximum(top[i], E[j, i])
    for i in range(N):
        L[i] = 0.0 if y[i] == ignored else float(X[i, y[i]]) - float(top[i])
    for j in range(C):
        for i in range(N):
            E[j, i] = exp_of_negative(E[j, i] - top[i])
    for i in range(N):
        if y[i] != ignored:
            E[y[i], i] = 0
    for j in range(C):
        for i in range(N):
            s[i] += float(E[j, i])
    for i in range(N):
        Z = s[i] + expm1_of_negative(L[i])
        L[i] = log1p(Z) - L[i]
        factor[i] = X.dtype.type(1 / (n * (Z + 1)))
    for i in range(N):
        if y[i] == ignored:
            E[:C, i] = 0
            factor[i] = 0
            L[i] = 0
        else:
            E[y[i], i] = -s[i]
    for i in range(len(dX)):  # no rows without a gradient
        for j in range(C):
            dX[i, j] = factor[i] * E[j, i]


@row
def _label_loss(x, label, n, E):
    """The loss of a row, and a factor; times that, what is left in E is the gradient divided by n.

    D = x - max x   d = D[label]   s: the sum of e^D over all classes but the label
    L = log(s + e^d) - d = log1p(s + expm1 d) - d, exact where the label is the top and d = 0
    dx = e^D / (s + e^d), at the label -s / (s + e^d)
    """
    top = largest(x)
    d = float(x[label]) - float(top)
    s = exp_and_sum(x[:label], top, E[:label]) + exp_and_sum(x[label + 1 :], top, E[label + 1 :])
    E[label] = -s
    return math.log1p(s + math.expm1(d)) - d, x.dtype.type(1 / (n * (s + math.exp(d))))


@row
def _scale_into(x, factor, y):
    for j in range(len(x)):
        y[j] = factor * x[j]


@written(FLOATS, types.float32, FLOATS, INT)
def _scale_past_caches(w, x, factor, y, vectors):
    """y = factor x by stores that don't first fetch what they overwrite; for what no cache will hold."""

    def step(_: Any, at: Any) -> list[Any]:
        w.store_past_caches(w.times_number(w.load(w.at(x, at)), factor), w.at(y, at))
        return [w.add(at, LANES)]

    w.loop(vectors, [w.int(0)], step)
    w.builder.fence("seq_cst")  # such stores are seen late


def scale_past_caches(x: Any, factor: Any, y: Any) -> None:
    """y = factor x, both of whole vectors; y starts with a line of the cache."""
    raise NotImplementedError("only compiled code calls this")


@overload(scale_past_caches)
def _for_type(x, factor, y):
    if x.dtype == types.float32:
        return lambda x, factor, y: _scale_past_caches(x, factor, y, len(x) // LANES)
    return lambda x, factor, y: _scale_into(x, factor, y)
