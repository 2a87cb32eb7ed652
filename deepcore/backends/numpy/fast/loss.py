"""Losses in two passes over a row, which stays in the cache between them."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from deepcore.backends.numpy.fast.buffers import empty
from deepcore.backends.numpy.fast.compiled import Kernel, compiled, plain, row, served
from deepcore.backends.numpy.fast.rows import exp_and_sum, largest, scale

_INT64 = np.dtype(np.int64)
_NONE = np.iinfo(np.int64).min  # a label that no row has


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
    if weight is not None or label_smoothing or y.dtype is not _INT64 or y.ndim != 1 or not served(X):
        return NotImplemented
    X, y = plain(X), plain(y)
    ignored = _NONE if ignore_index is None else ignore_index
    kept = _count(y, X.shape[1], ignored)
    if kept < 0:
        return NotImplemented
    n = max(kept, 1) if reduction == "mean" else 1
    L = np.empty(len(y))
    dX = empty(X.shape if gradient else (0, 0), X.dtype)
    _label_losses(X.size, X, y, ignored, n, L, dX)
    if reduction == "none":
        return L.astype(X.dtype), dX if gradient else None
    return np.asarray(np.add.reduce(L) / n, X.dtype), dX if gradient else None


@compiled
def _count(y, classes, ignored):
    """How many rows count, or -1 if a label is none of the classes: it would be read outside of its row."""
    kept = 0
    wrong = 0
    for i in range(y.size):
        kept += y[i] != ignored
        wrong += (y[i] != ignored) & ((y[i] < 0) | (y[i] >= classes))
    return -1 if wrong else kept


@Kernel
def _label_losses(X, y, ignored, n, L, dX):
    """Into L the loss of each row, into dX its gradient divided by n, unless dX is empty."""
    for i in prange(len(y)):
        dx = dX[i] if dX.size else np.empty_like(X[i])
        if y[i] == ignored:
            L[i] = 0
            dx[:] = 0
        else:
            L[i] = _label_loss(X[i], y[i], n, dx)


@row
def _label_loss(x, label, n, dx):
    """L = log(s + e^d) - d = log1p(s + expm1 d) - d, exact where the label is the top and d = 0

    D = x - max x   d = D[label]   s: the sum of e^D over all classes but the label
    dx = e^D / (s + e^d), at the label -s / (s + e^d), all divided by n
    """
    top = largest(x)
    d = float(x[label]) - float(top)
    s = exp_and_sum(x[:label], top, dx[:label]) + exp_and_sum(x[label + 1 :], top, dx[label + 1 :])
    Z = n * (s + math.exp(d))
    scale(dx, dx.dtype.type(1 / Z))
    dx[label] = -s / Z
    return math.log1p(s + math.expm1(d)) - d
