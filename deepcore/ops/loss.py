"""Losses and their gradients (first version)."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op


@op
def mean_square(X: Any, Y: Any, per: str = "element", reduction: str = "mean", gradient: bool = True):
    """L and dX of the mean of (X - Y)^2."""
    xp = array_namespace(X)
    D = X - Y
    axes = tuple(range(1, X.ndim))
    S = D * D if per == "element" else xp.sum(D * D, axis=axes)
    n = max(1, S.size if per == "element" else X.shape[0]) if reduction == "mean" else 1
    L = S if reduction == "none" else xp.asarray(xp.sum(S) / n)
    return L, 2 * D / n if gradient else None


@op
def cross_entropy(
    X: Any,
    y: Any,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
):
    """L and dX of the cross-entropy."""
    xp = array_namespace(X)
    n, c = X.shape
    columns = xp.arange(c, device=X.device)
    if y.ndim == 1:
        T = xp.astype(columns[None, :] == y[:, None], X.dtype)
        kept = xp.astype(y != ignore_index, X.dtype)
    else:
        T, kept = y, xp.ones_like(X[:, 0])
    scale = kept
    if weight is not None and y.ndim == 1:
        scale = scale * xp.sum(T * weight[None, :], axis=1)
    T = (1 - label_smoothing) * T + label_smoothing / c
    if weight is not None:
        T = T * weight[None, :]
    T = T * kept[:, None]
    M = xp.max(X, axis=1, keepdims=True)
    E = xp.exp(X - M)
    S = xp.sum(E, axis=1, keepdims=True)
    P = X - M - xp.log(S)
    rows = -xp.sum(T * P, axis=1)
    total = xp.sum(scale) if y.ndim == 1 else xp.asarray(float(n), dtype=X.dtype, device=X.device)
    denominator = xp.where(total == 0, xp.ones_like(total), total) if reduction == "mean" else 1
    L = rows if reduction == "none" else xp.sum(rows) / denominator
    dX = (E / S * xp.sum(T, axis=1, keepdims=True) - T) / denominator if gradient else None
    return xp.asarray(L), dX
