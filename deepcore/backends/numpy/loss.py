"""Losses on NumPy: a block of rows at a time, and plain labels in as few calls as possible."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.broadcast import row_by_row
from deepcore.backends.numpy.memory import empty_like
from deepcore.backends.numpy.reduce import row_sum
from deepcore.backends.numpy.softmax import row_blocks, row_starts, row_tops
from deepcore.backends.quiet import ignoring

_ONE_BLOCK = 65536  # elements
_FEW = 64  # numbers that Python has added up before NumPy starts
_ONE = {number: np.ones((), number) for number in (np.float32, np.float64)}  # sooner than a Python number


@ignoring("over")
def cross_entropy(
    X: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[np.ndarray, np.ndarray | None]:
    """L = -log softmax(X)[y] and dX, for labels; with probabilities the reference runs."""
    if y.ndim != 1 or X.dtype.itemsize < 4:
        return NotImplemented
    ignored = _ignored(y, ignore_index)
    kept = y if ignored is None else y[~ignored]
    if ignored is not None:
        y = np.where(ignored, 0, y)
    if weight is None and not label_smoothing:
        losses_of, settings, total = _label_losses, (), len(kept)
    else:
        w = np.ones(X.shape[1], X.dtype) if weight is None else weight.astype(X.dtype)
        losses_of, settings = _smooth_losses, (w, label_smoothing)
        total = float(np.add.reduce(w[kept], dtype=np.float64))
    n = (total or 1) if reduction == "mean" else 1
    dX = empty_like(X) if gradient else None
    L = _by_blocks(losses_of, np.ascontiguousarray(X), y, n, dX, *settings)
    if ignored is not None:
        L[ignored] = 0
        if dX is not None:
            dX[ignored] = 0
    if reduction != "none":
        L = np.array(_total(L) / n, X.dtype)
    return L, dX


def _total(L: np.ndarray) -> float:
    """The sum in float64."""
    return sum(L.tolist()) if len(L) <= _FEW else np.add.reduce(L, dtype=np.float64)


def _ignored(y: np.ndarray, ignore_index: int | None) -> np.ndarray | None:
    """Which rows count for nothing, or None if all count."""
    if ignore_index is None:
        return None
    ignored = y == ignore_index
    return ignored if np.count_nonzero(ignored) else None


def _by_blocks(
    losses_of: Callable[..., np.ndarray],
    X: np.ndarray,
    y: np.ndarray,
    n: float,
    dX: np.ndarray | None,
    *settings: object,
) -> np.ndarray:
    """The rows' losses, (N,). Writes their gradient divided by n into dX."""
    if X.size <= _ONE_BLOCK:
        return losses_of(X, y, n, dX, *settings)
    row_by_row(X.shape[1])
    L = np.empty(len(y), X.dtype)
    blocks = list(row_blocks(*X.shape))

    def part(first: int, last: int) -> None:
        for rows in blocks[first:last]:
            L[rows] = losses_of(X[rows], y[rows], n, None if dX is None else dX[rows], *settings)

    threads.share(part, len(blocks))
    return L


def _label_losses(X: np.ndarray, y: np.ndarray, n: float, dX: np.ndarray | None) -> np.ndarray:
    """The losses of a block of rows.

    With D = X - max X, d = D[y], and s the sum of e^D over all classes but y:
    L = log(s + e^d) - d = log1p(s + expm1 d) - d, exact where y is the top and d = 0
    dX = e^D / (s + e^d), at y -s / (s + e^d): no digit is lost where the probability is near 1
    """
    starts, one = row_starts(*X.shape), _ONE[X.dtype.type]
    D = np.subtract(X, X.take(X.argmax(1) + starts)[:, None], out=dX)
    flat = D.ravel()
    target = starts + y
    d = flat.take(target)
    E = np.exp(D, out=D)
    flat[target] = 0
    s = row_sum(E)
    Z = np.expm1(d)
    Z += s
    L = np.log1p(Z)
    L -= d
    if dX is not None:
        flat[target] = -s
        Z += one
        E *= np.divide(_inverse(n, X.dtype), Z, Z)[:, None]  # a product takes half the time of a quotient
    return L


@functools.lru_cache(maxsize=8)
def _inverse(n: float, dtype: np.dtype) -> np.ndarray:
    return np.array(1 / n, dtype)


def _smooth_losses(
    X: np.ndarray, y: np.ndarray, n: float, dX: np.ndarray | None, w: np.ndarray, smoothing: float
) -> np.ndarray:
    """The same with weights w of the classes, and a share b = smoothing / C of each target for every class.

    L = a (-log P[y]) + b sum_c w_c (-log P_c)      a = (1 - smoothing) w[y]
    dX = (a + b sum w) P - b w, at y -a (1 - P) + b (P sum w - w[y])
    """
    b = smoothing / X.shape[1]
    a = (1 - smoothing) * w[y]
    B = b * np.add.reduce(w)
    D = np.subtract(X, X.take(row_tops(X))[:, None], out=dX)
    flat = D.ravel()
    target = row_starts(*X.shape) + y
    d = flat[target]
    wD = np.add.reduce(D * w, axis=1) if smoothing else 0
    E = np.exp(D, out=D)
    flat[target] = 0
    s = row_sum(E)
    log_Z = np.log1p(s + np.expm1(d))
    L = a * (log_Z - d) + (B * log_Z - b * wD)
    if dX is not None:
        e = np.exp(d)
        Z = s + e
        E *= ((a + B) / (n * Z))[:, None]
        E -= b / n * w
        flat[target] = ((B * e - a * s) / Z - b * w[y]) / n
    return L


@ignoring("over")
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
