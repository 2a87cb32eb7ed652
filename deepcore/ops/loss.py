"""Losses with their gradients: one call gives both, because they share all the work.

reduction: "mean", "sum" or "none"; for "none" dX is the gradient of the sum of the losses.
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.ops.dispatch import op
from deepcore.ops.softmax import at_top, row_major


@op
def cross_entropy(
    X: Any,
    y: Any,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[Any, Any]:
    """L = -sum_c T_c log softmax(X)_c for each row, in nats, and dX.

    X: (N, C) logits   y: (N,) labels of a signed integer type, or (N, C) probabilities
    weight: (C,) or None   L: () or, for "none", (N,)   dX: (N, C), or None without `gradient`

    T is y (labels: 1 at the label, else 0), smoothed to (1 - a) y + a / C by a = label_smoothing, times
    the weights of the classes. The mean divides by the sum of the labels' weights, or by N if y holds
    probabilities. Rows labelled ignore_index (None: there are none) count for nothing; if all are, L = 0.
    """
    xp = array_namespace(X)
    Z = row_major(X)
    if weight is None:
        w = xp.ones((1, Z.shape[1]), dtype=Z.dtype, device=backend_of(X).device(X))
    else:
        w = xp.astype(weight, Z.dtype)[None, :]
    if y.ndim == 1:
        kept, T = _one_hot(y, Z, ignore_index)
        Z = xp.where(kept, Z, 0)  # what an ignored row holds, even NaN, must not matter
        count = xp.sum(T * w)
    else:
        kept, T = None, xp.astype(y, Z.dtype)
        count = xp.asarray(float(X.shape[0]), dtype=Z.dtype, device=backend_of(X).device(X))
    if label_smoothing:
        T = (1 - label_smoothing) * T + label_smoothing / X.shape[1]
        T = T if kept is None else xp.where(kept, T, 0)
    L, dX = _cross_entropy_of(Z, T * w, gradient)
    if reduction != "none":
        L = xp.sum(L)
    if reduction == "mean":
        count = xp.where(count == 0, 1, count)
        L, dX = L / count, dX / count if gradient else None
    return xp.asarray(L, dtype=X.dtype), xp.astype(dX, X.dtype) if gradient else None


def _one_hot(y: Any, Z: Any, ignore_index: int | None) -> tuple[Any, Any]:
    """Whether each row counts, (N, 1), and its T: 1 at the label, else 0, (N, C)."""
    xp = array_namespace(Z)
    classes = xp.arange(Z.shape[1], device=backend_of(Z).device(Z))
    y = xp.astype(y, classes.dtype)[:, None]
    kept = y != (-1 if ignore_index is None else ignore_index)
    return kept, xp.astype((y == classes) & kept, Z.dtype)


def _cross_entropy_of(X: Any, T: Any, gradient: bool) -> tuple[Any, Any]:
    """L = -sum_c T_c log P_c for each row, and the gradient of sum L.   X, T: (N, C)   L: (N,)

    With D = X - max X, one largest entry set apart, and s the sum of e^D over the others:
    log P = D - log(1 + s)      P = e^D / (1 + s)      1 - P = s / (1 + s) at the top
    dX = P sum T - T = P (sum T - T) - (1 - P) T, which keeps the digits of a P near 1
    """
    xp = array_namespace(X)
    top = at_top(X)
    D = X - xp.max(X, axis=1, keepdims=True)
    E = xp.exp(D) - top
    s = xp.sum(E, axis=1, keepdims=True)
    mass = xp.sum(T, axis=1, keepdims=True)
    L = xp.log1p(s) * mass - xp.sum(T * xp.where(T == 0, 0, D), axis=1, keepdims=True)  # 0 log 0 = 0
    if not gradient:
        return L[:, 0], None
    P = (E + top) / (1 + s)
    not_P = (s + (1 - top) - E) / (1 + s)
    return L[:, 0], P * (mass - T) - not_P * T


@op
def mean_square(
    X: Any, Y: Any, per: str = "element", reduction: str = "mean", gradient: bool = True
) -> tuple[Any, Any]:
    """L = (X - Y)^2 and dX = 2 (X - Y), over the number n that the mean divides by.

    X, Y: one shape   per: "element", or "row" to add up each row's elements (all axes but the first)
    L: () or, for "none", X's shape or (N,)   dX: X's shape, or None without `gradient`
    """
    xp = array_namespace(X)
    size = math.prod(X.shape)
    D = xp.reshape(row_major(X) - row_major(Y), (size,))
    L = D * D
    n = size
    if per == "row":
        n = X.shape[0]
        L = xp.sum(xp.reshape(L, (n, size // max(n, 1))), axis=1)
    n = max(n, 1) if reduction == "mean" else 1
    if reduction != "none":
        L = xp.sum(L) / n
    elif per == "element":
        L = xp.reshape(L, X.shape)
    dX = xp.astype(xp.reshape(D * (2 / n), X.shape), X.dtype) if gradient else None
    return xp.asarray(L, dtype=X.dtype), dX
