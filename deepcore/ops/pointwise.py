"""Losses of single numbers: L of each pair (X, Y), and its slope dL/dX, before any mean.

X, Y, L, dX: any one shape. No formula loses digits where L is small, or overflows where L does not.
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.activation import sigmoid
from deepcore.ops.dispatch import op


@op
def absolute(X: Any, Y: Any) -> Any:
    """L = |X - Y|"""
    return array_namespace(X).abs(X - Y)


@op
def absolute_grad(X: Any, Y: Any) -> Any:
    """dL/dX = sign(X - Y), 0 where they are equal"""
    return array_namespace(X).sign(X - Y)


@op
def huber(X: Any, Y: Any, delta: float) -> Any:
    """L = D^2 / 2 where D = |X - Y| < delta, else delta (D - delta / 2): m (D - m / 2), m = min(D, delta)"""
    xp = array_namespace(X)
    D = xp.abs(X - Y)
    m = xp.minimum(D, delta)
    return m * (D - 0.5 * m)


@op
def huber_grad(X: Any, Y: Any, delta: float) -> Any:
    """dL/dX = X - Y, held between -delta and delta"""
    xp = array_namespace(X)
    return xp.minimum(xp.maximum(X - Y, -delta), delta)


@op
def cross_entropy_of_probability(X: Any, Y: Any) -> Any:
    """L = -Y log X - (1 - Y) log(1 - X), each logarithm at least -100; NaN outside of 0 <= X <= 1"""
    return -(Y * _log_from_minus_100(X) + (1 - Y) * _log_from_minus_100(X, of_complement=True))


def _log_from_minus_100(X: Any, of_complement: bool = False) -> Any:
    """max(log X, -100), or that of 1 - X, with no logarithm of 0 on the way."""
    xp = array_namespace(X)
    zero = (1 if of_complement else 0) == X
    log = xp.log1p(-xp.where(zero, 0, X)) if of_complement else xp.log(xp.where(zero, 1, X))
    return xp.where(zero, -100, xp.maximum(log, -100))


@op
def cross_entropy_of_probability_grad(X: Any, Y: Any) -> Any:
    """dL/dX = (X - Y) / (X (1 - X)), the denominator at least 1e-12"""
    return (X - Y) / array_namespace(X).maximum(X * (1 - X), 1e-12)


@op
def cross_entropy_of_logit(X: Any, Y: Any, pos_weight: Any = 1) -> Any:
    """L = -w Y log p - (1 - Y) log(1 - p), p = sigmoid X: w Y softplus(-X) + (1 - Y) softplus X

    Two terms of one sign: nothing cancels. w: a number, or an array that broadcasts to X's shape
    """
    return pos_weight * Y * _softplus(-X) + (1 - Y) * _softplus(X)


def _softplus(X: Any) -> Any:
    """log(1 + e^X) = max(X, 0) + log1p(e^-|X|)"""
    xp = array_namespace(X)
    return xp.maximum(X, 0) + xp.log1p(xp.exp(-xp.abs(X)))


@op
def cross_entropy_of_logit_grad(X: Any, Y: Any, pos_weight: Any = 1) -> Any:
    """dL/dX = (1 - Y) p - w Y (1 - p), with 1 - p = sigmoid(-X)"""
    return (1 - Y) * sigmoid(X) - pos_weight * Y * sigmoid(-X)


@op
def divergence(X: Any, Y: Any) -> Any:
    """L = Y (log Y - X), with 0 log 0 = 0.   X: log-probabilities   Y: probabilities"""
    xp = array_namespace(X)
    log_Y = xp.log(xp.where(Y == 0, 1, Y))
    return Y * (log_Y - _finite_at(Y == 0, X))


@op
def divergence_from_log(X: Any, Y: Any) -> Any:
    """L = e^Y (Y - X), with e^-inf (-inf) = 0.   X, Y: log-probabilities"""
    xp = array_namespace(X)
    zero = xp.isinf(Y) & (Y < 0)
    return xp.exp(Y) * (xp.where(zero, 0, Y) - _finite_at(zero, X))


def _finite_at(zero: Any, X: Any) -> Any:
    """X, but 0 for -inf where the target's probability is 0 too: 0 (log 0 - log 0) = 0."""
    xp = array_namespace(X)
    return xp.where(zero & xp.isinf(X) & (X < 0), 0, X)


@op
def poisson(X: Any, Y: Any, log_input: bool, eps: float) -> Any:
    """L = e^X - Y X, or X - Y log(X + eps) without log_input"""
    xp = array_namespace(X)
    return xp.exp(X) - Y * X if log_input else X - Y * xp.log(X + eps)


@op
def poisson_grad(X: Any, Y: Any, log_input: bool, eps: float) -> Any:
    """dL/dX = e^X - Y, or 1 - Y / (X + eps) without log_input"""
    return array_namespace(X).exp(X) - Y if log_input else 1 - Y / (X + eps)


@op
def log_factorial(Y: Any) -> Any:
    """Stirling's Y log Y - Y + log(2 pi Y) / 2 where Y > 1, else 0"""
    xp = array_namespace(Y)
    large = Y > 1
    n = xp.where(large, Y, 1)
    return xp.where(large, n * xp.log(n) - n + 0.5 * xp.log(2 * math.pi * n), 0)


@op
def gaussian(X: Any, Y: Any, V: Any, eps: float) -> Any:
    """L = (log v + (X - Y)^2 / v) / 2, v = max(V, eps); NaN where V < 0.   V broadcasts to X's shape"""
    D, v = X - Y, _variance(V, eps)
    return 0.5 * (array_namespace(X).log(v) + D / v * D)


@op
def gaussian_grad(X: Any, Y: Any, V: Any, eps: float) -> tuple[Any, Any]:
    """dL/dX = D / v = Z and dL/dV = (1 / v - Z^2) / 2, where v = eps too.   D = X - Y"""
    v = _variance(V, eps)
    Z = (X - Y) / v
    return Z, 0.5 * (1 / v - Z * Z)


def _variance(V: Any, eps: float) -> Any:
    xp = array_namespace(V)
    return xp.where(V < 0, math.nan, xp.maximum(V, eps))


@op
def soft_margin(X: Any, Y: Any) -> Any:
    """L = log(1 + e^(-Y X))"""
    return _softplus(-Y * X)


@op
def soft_margin_grad(X: Any, Y: Any) -> Any:
    """dL/dX = -Y sigmoid(-Y X)"""
    return -Y * sigmoid(-Y * X)


@op
def hinge(X: Any, Y: Any) -> Any:
    """L = max(0, 1 - Y X)"""
    return array_namespace(X).maximum(1 - Y * X, 0)


@op
def hinge_grad(X: Any, Y: Any) -> Any:
    """dL/dX = -Y where Y X < 1, else 0"""
    return array_namespace(X).where(Y * X >= 1, 0, -Y)


@op
def hinge_embedding(X: Any, Y: Any, margin: float) -> Any:
    """L = X where Y = 1, max(0, margin - X) where Y = -1"""
    xp = array_namespace(X)
    return xp.where(Y > 0, X, xp.maximum(margin - X, 0))


@op
def hinge_embedding_grad(X: Any, Y: Any, margin: float) -> Any:
    """dL/dX = Y where Y = 1, or where X <= margin; else 0"""
    return array_namespace(X).where((Y < 0) & (margin < X), 0, Y)
