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
def nll(
    X: Any,
    y: Any,
    weight: Any = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[Any, Any]:
    """L = -w_y X_y for each row, and dX = -w_y at y, else 0.

    X: (N, C)   y: (N,) labels   weight: (C,) or None
    The mean divides by the sum of w_y. Rows labelled ignore_index (None: there are none) count for nothing.
    """
    xp = array_namespace(X)
    Z = row_major(X)
    _, T = _one_hot(y, Z, ignore_index)
    W = T if weight is None else T * xp.astype(weight, Z.dtype)[None, :]
    L = 0 - xp.sum(xp.where(T == 0, 0, W * Z), axis=1)
    count = xp.sum(W)
    return _reduced(L, 0 - W, xp.where(count == 0, 1, count), X, reduction, gradient)


@op
def multi_margin(
    X: Any, y: Any, p: int, margin: float, weight: Any = None, reduction: str = "mean", gradient: bool = True
) -> tuple[Any, Any]:
    """L = w_y / C sum of M^p for each row, M_i = max(0, margin - X_y + X_i), M_y = 0; and dX.

    X: (N, C)   y: (N,) labels   p: 1 or 2   weight: (C,) or None
    """
    xp = array_namespace(X)
    Z = row_major(X)
    _, T = _one_hot(y, Z, None)
    right = xp.sum(xp.where(T == 0, 0, Z), axis=1, keepdims=True)
    M = xp.where(T == 0, xp.maximum(margin - right + Z, 0), 0)
    w = 1 / Z.shape[1] if weight is None else xp.sum(T * weight, axis=1, keepdims=True) / Z.shape[1]
    L = xp.sum(w * (M if p == 1 else M * M), axis=1)
    G = w * (xp.astype(M > 0, Z.dtype) if p == 1 else 2 * M)
    dX = G - T * xp.sum(G, axis=1, keepdims=True)
    return _reduced(L, dX, max(X.shape[0], 1), X, reduction, gradient)


def _reduced(L: Any, dX: Any, n: Any, X: Any, reduction: str, gradient: bool) -> tuple[Any, Any]:
    """The rows' losses and their gradient, added up or averaged over n, in X's dtype."""
    xp = array_namespace(X)
    if reduction != "none":
        L = xp.sum(L)
    if reduction == "mean":
        L, dX = L / n, dX / n
    return xp.asarray(L, dtype=X.dtype), xp.astype(dX, X.dtype) if gradient else None


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


@op
def cosine(A: Any, B: Any) -> tuple[Any, Any, Any]:
    """C = cos(A, B) along the last axis, and its gradients dC/dA, dC/dB.   A, B: (..., d)   C: (...)

    With the unit vectors U = A / |A| and V = B / |B|: C = U V   dC/dA = (V - C U) / |A|
    A vector of length 0 has no direction: C = 0 and no gradient. |A| = m |A / m|, m = max |A|: no overflow.
    """
    xp = array_namespace(A)
    (U, r), (V, s) = _direction(A), _direction(B)
    C = xp.sum(U * V, axis=-1, keepdims=True)
    return C[..., 0], (V - C * U) * r, (U - C * V) * s


def _direction(A: Any) -> tuple[Any, Any]:
    """A / |A|, and 1 / |A|; 0 and 0 for the vector 0."""
    xp = array_namespace(A)
    m = _size(A)
    S = A / m
    length = xp.sqrt(xp.sum(S * S, axis=-1, keepdims=True))
    zero = length == 0
    length = xp.where(zero, 1, length)
    return S / length, xp.where(zero, 0, 1 / m / length)


def _size(A: Any) -> Any:
    """max |A| along the last axis; 1 where that is 0 or not finite."""
    xp = array_namespace(A)
    m = xp.max(xp.abs(A), axis=-1, keepdims=True)
    return xp.where((m > 0) & xp.isfinite(m), m, 1)


@op
def distance(A: Any, B: Any, p: float, eps: float) -> tuple[Any, Any]:
    """d = (sum |D|^p)^(1/p), D = A - B + eps, along the last axis, and dd/dA = -dd/dB.   d: (...)

    dd/dA = sign D (|D| / d)^(p - 1), 0 where d = 0. With D / max |D| in D's place: no overflow.
    """
    xp = array_namespace(A)
    D = A - B + eps
    m = _size(D)
    S = xp.abs(D) / m
    length = _power(xp.sum(_power(S, p), axis=-1, keepdims=True), 1 / p)
    shares = S / xp.where(length == 0, 1, length)
    return (m * length)[..., 0], xp.sign(D) * _power(shares, p - 1)


def _power(X: Any, p: float) -> Any:
    """X^p, X >= 0; 0^0 = 1"""
    xp = array_namespace(X)
    return (
        X if p == 1 else X * X if p == 2 else xp.sqrt(X) if p == 0.5 else xp.ones_like(X) if p == 0 else X**p
    )
