"""Losses on NumPy: plain labels, a block of rows at a time, in as few calls as possible."""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.softmax import row_blocks, row_starts, row_sum, row_tops

_ONE_BLOCK = 65536  # elements


@np.errstate(over="ignore")
def cross_entropy(
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """L = -log softmax(X)[y] and dX. With weights, smoothing or probabilities the reference runs."""
    if weight is not None or label_smoothing or y.ndim != 1 or X.dtype.itemsize < 4:
        return NotImplemented
    kept = len(y)
    if ignore_index is not None:
        ignored = y == ignore_index
        kept -= np.count_nonzero(ignored)
        if kept < len(y):
            y = np.where(ignored, 0, y)
    n = max(kept, 1) if reduction == "mean" else 1
    dX = np.empty(X.shape, X.dtype) if gradient else None
    L = _label_losses(np.ascontiguousarray(X), y, n, dX)
    if kept < len(y):
        L[ignored] = 0
        if gradient:
            dX[ignored] = 0
    if reduction != "none":
        L = np.asarray(np.add.reduce(L, dtype=np.float64) / n, X.dtype)
    return L, dX


def _label_losses(X: np.ndarray, y: np.ndarray, n: int, dX: np.ndarray | None) -> np.ndarray:
    """The rows' losses, (N,). Writes their gradient divided by n into dX."""
    if X.size <= _ONE_BLOCK:
        return _block_losses(X, y, n, dX)
    L = np.empty(len(y), X.dtype)
    for rows in row_blocks(*X.shape):
        L[rows] = _block_losses(X[rows], y[rows], n, None if dX is None else dX[rows])
    return L


def _block_losses(X: np.ndarray, y: np.ndarray, n: int, dX: np.ndarray | None) -> np.ndarray:
    """The same for a few rows.

    With D = X - max X, d = D[y], and s the sum of e^D over all classes but y:
    L = log(s + e^d) - d = log1p(s + expm1 d) - d, exact where y is the top and d = 0
    dX = e^D / (s + e^d), at y -s / (s + e^d): no digit is lost where the probability is near 1
    """
    D = np.subtract(X, X.take(row_tops(X))[:, None], out=dX)
    flat = D.ravel()
    target = row_starts(*X.shape) + y
    d = flat[target]
    E = np.exp(D, out=D)
    flat[target] = 0
    s = row_sum(E)
    Z = np.expm1(d)
    Z += s
    L = np.log1p(Z)
    L -= d
    if dX is not None:
        flat[target] = -s
        Z += 1
        if n > 1:
            Z *= n
        E /= Z[:, None]
    return L


@np.errstate(over="ignore")
def mean_square(
    X: np.ndarray, Y: np.ndarray, per: str = "element", reduction: str = "mean", gradient: bool = True
) -> tuple[np.ndarray, np.ndarray | None]:
    """L = (X - Y)^2 and dX = 2 (X - Y), over the number n that the mean divides by."""
    if X.dtype.itemsize < 4 or X.ndim == 0:
        return NotImplemented
    D = np.subtract(X, Y, order="C")
    n = 1
    if reduction == "mean":
        n = max(len(X) if per == "row" else X.size, 1)
    L = D * D
    if reduction != "none":
        L = np.asarray(np.add.reduce(L, axis=None) / n, X.dtype)
    elif per == "row":
        L = np.add.reduce(L, axis=tuple(range(1, X.ndim)))
    if not gradient:
        return L, None
    D *= 2 / n
    return L, D
