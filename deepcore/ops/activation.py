"""Elementwise activations and their local gradients.

X, Y, dX, dY: any one shape.
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_narrow
from deepcore.ops.dispatch import op


@op
def chain(dY: Any, G: Any) -> Any:
    """dX = dY G, the chain rule where each number of Y depends on one of X.   G = dY/dX"""
    return dY * G


@op
def relu(X: Any) -> Any:
    """Y = max(X, 0)"""
    return array_namespace(X).maximum(X, 0)


@op
def relu_backward(dY: Any, X: Any) -> Any:
    """dX = dY where X > 0, else 0, be dY infinite there."""
    return array_namespace(X).where(X <= 0, 0, dY)


@op
def relu_grad(X: Any) -> Any:
    """dY/dX = 1 where X > 0, else 0"""
    xp = array_namespace(X)
    return xp.astype(xp.logical_not(X <= 0), X.dtype)


@op
def leaky_relu(X: Any, alpha: float) -> Any:
    """Y = X where X > 0, else alpha X.   alpha: any number, negative and above 1 too"""
    return array_namespace(X).where(X > 0, X, alpha * X)


@op
def leaky_relu_grad(X: Any, alpha: float) -> Any:
    """dY/dX = 1 where X > 0, else alpha"""
    xp = array_namespace(X)
    return xp.where(X > 0, xp.ones_like(X), alpha)


@op
def sigmoid(X: Any) -> Any:
    """Y = 1 / (1 + e^-X)

    Written with E = e^-|X| as E/(1 + E) on the left and 1/(1 + E) on the right: e^-X overflows below -88.
    """
    xp = array_namespace(X)
    E = xp.exp(-xp.abs(X))
    return xp.where(X < 0, E, 1) / (1 + E)


@op
def sigmoid_grad(X: Any) -> Any:
    """dY/dX = sigmoid(X) sigmoid(-X) = E / (1 + E)^2 with E = e^-|X|

    Not Y (1 - Y): Y rounds to 1 above 17, where the gradient is still 4e-8.
    """
    xp = array_namespace(X)
    E = xp.exp(-xp.abs(X))
    S = 1 + E
    return E / (S * S)


@op
def tanh(X: Any) -> Any:
    """Y = tanh X"""
    return array_namespace(X).tanh(X)


@op
def tanh_grad(X: Any) -> Any:
    """dY/dX = 1 / cosh^2 X, with 1 / cosh X = 2 E / (1 + E^2) and E = e^-|X|

    Not 1 - Y^2: Y rounds to 1 above 9, where the gradient is still 6e-8.
    """
    xp = array_namespace(X)
    E = xp.exp(-xp.abs(X))
    sech = 2 * E / (1 + E * E)
    return sech * sech


# ---- with weights: one slope, or one for each channel


@op
def prelu(X: Any, A: Any) -> Any:
    """Y = X where X > 0, else A X.   A: the slopes, of a shape that broadcasts to X's"""
    return array_namespace(X).where(X > 0, X, A * X)


@op
def prelu_grad(X: Any, A: Any) -> Any:
    """dY/dX = 1 where X > 0, else A"""
    xp = array_namespace(X)
    return xp.where(X > 0, xp.ones_like(X), A)


# ---- straight pieces


@op
def hard_tanh(X: Any, low: float, high: float) -> Any:
    """Y = min(max(X, low), high)"""
    return array_namespace(X).clip(X, low, high)


@op
def hard_tanh_grad(X: Any, low: float, high: float) -> Any:
    """dY/dX = 1 where low < X < high, else 0"""
    xp = array_namespace(X)
    return xp.astype((low < X) & (high > X), X.dtype)


@op
def hard_sigmoid(X: Any) -> Any:
    """Y = min(max(X + 3, 0), 6) / 6"""
    return array_namespace(X).clip(X + 3, 0.0, 6.0) / 6


@op
def hard_sigmoid_grad(X: Any) -> Any:
    """dY/dX = 1/6 where -3 < X < 3, else 0"""
    return hard_tanh_grad(X, -3.0, 3.0) / 6


@op
def hard_swish(X: Any) -> Any:
    """Y = X hard_sigmoid(X); divided by 6 before it meets X, because 6 X may overflow."""
    return X * hard_sigmoid(X)


@op
def hard_swish_grad(X: Any) -> Any:
    """dY/dX = 0 up to -3, X/3 + 1/2 between, 1 from 3 on"""
    xp = array_namespace(X)
    return xp.where(X <= -3, xp.zeros_like(X), xp.where(X < 3, X / 3 + 0.5, xp.ones_like(X)))


@op
def threshold(X: Any, least: float, value: float) -> Any:
    """Y = X where X > least, else value"""
    xp = array_namespace(X)
    return xp.where(least >= X, xp.full_like(X, value), X)


@op
def threshold_grad(X: Any, least: float) -> Any:
    """dY/dX = 1 where X > least, else 0"""
    xp = array_namespace(X)
    return xp.astype(xp.logical_not(least >= X), X.dtype)


@op
def hard_shrink(X: Any, lambd: float) -> Any:
    """Y = X where |X| > lambd, else 0"""
    xp = array_namespace(X)
    return xp.where(xp.abs(X) <= lambd, xp.zeros_like(X), X)


@op
def soft_shrink(X: Any, lambd: float) -> Any:
    """Y = X - min(max(X, -lambd), lambd): lambd nearer to 0, or 0 itself"""
    return X - array_namespace(X).clip(X, -lambd, lambd)


@op
def shrink_grad(X: Any, lambd: float) -> Any:
    """dY/dX = 1 where |X| > lambd, else 0, of both kinds"""
    return threshold_grad(abs(X), lambd)


# ---- exponentials


@op
def elu(X: Any, alpha: float, rate: float = 1.0, scale: float = 1.0) -> Any:
    """Y = scale X where X > 0, else scale alpha (e^(rate X) - 1)"""
    xp = array_namespace(X)
    left = xp.expm1(rate * xp.where(X > 0, xp.zeros_like(X), X))
    return xp.where(X > 0, scale * X, (scale * alpha) * left)


@op
def elu_grad(X: Any, alpha: float, rate: float = 1.0, scale: float = 1.0) -> Any:
    """dY/dX = scale where X > 0, else scale alpha rate e^(rate X)"""
    xp = array_namespace(X)
    left = xp.exp(rate * xp.where(X > 0, xp.zeros_like(X), X))
    return xp.where(X > 0, xp.full_like(X, scale), (scale * alpha * rate) * left)


@op
def log_sigmoid(X: Any) -> Any:
    """Y = log sigmoid(X) = min(X, 0) - log(1 + e^-|X|)"""
    xp = array_namespace(X)
    return xp.minimum(X, xp.zeros_like(X)) - softplus_tail(X)


@op
def softplus(X: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Y = log(1 + e^(beta X)) / beta; X itself where beta X > threshold

    With Z = beta X: log(1 + e^Z) = max(Z, 0) + log(1 + e^-|Z|), which does not overflow.
    """
    xp = array_namespace(X)
    Z = beta * X
    Y = xp.maximum(Z, xp.zeros_like(Z)) + softplus_tail(Z)
    return xp.where(threshold < Z, X, Y if beta == 1 else Y / beta)


@op
def softplus_tail(X: Any) -> Any:
    """log(1 + e^-|X|): how far a softplus lies above its two straight lines"""
    xp = array_namespace(X)
    return xp.log1p(xp.exp(-xp.abs(X)))


@op
def softplus_grad(X: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """dY/dX = sigmoid(beta X); 1 where beta X > threshold"""
    xp = array_namespace(X)
    Z = beta * X
    return xp.where(threshold < Z, xp.ones_like(X), sigmoid(Z))


@op
def softsign(X: Any) -> Any:
    """Y = X / (1 + |X|)"""
    return X / (1 + abs(X))


@op
def softsign_grad(X: Any) -> Any:
    """dY/dX = 1 / (1 + |X|)^2"""
    R = 1 / (1 + abs(X))
    return R * R


@op
def tanh_shrink(X: Any) -> Any:
    """Y = X - tanh X"""
    return X - array_namespace(X).tanh(X)


@op
def tanh_shrink_grad(X: Any) -> Any:
    """dY/dX = 1 - 1 / cosh^2 X = tanh^2 X"""
    T = array_namespace(X).tanh(X)
    return T * T


# ---- X times a gate that opens from 0 to 1


@op
def silu(X: Any) -> Any:
    """Y = X sigmoid(X)

    sigmoid(X) = e^-|X| / (1 + e^-|X|) on the left, where e^-|X| leaves the range of float32 before
    the product does: as a square, H^2 with H = e^(-|X|/2), it meets X one factor after the other.
    """
    xp = array_namespace(X)
    H = xp.exp(-0.5 * xp.abs(X))
    return xp.where(X < 0, X * H * H, X) / (1 + H * H)


@op
def silu_grad(X: Any) -> Any:
    """dY/dX = sigmoid(X) (1 + X sigmoid(-X))"""
    return sigmoid(X) * (1 + X * sigmoid(-X))


@op
def mish(X: Any) -> Any:
    """Y = X tanh(log(1 + e^X)) = X ((1 + e^X)^2 - 1) / ((1 + e^X)^2 + 1)

    With E = e^-|X|, which does not overflow, the quotient is
    E (2 + E) / (2 + E (2 + E)) on the left, and (1 + 2 E) / (1 + 2 E (1 + E)) on the right.
    """
    xp = array_namespace(X)
    E = xp.exp(-xp.abs(X))
    left = E * (2 + E)
    return X * xp.where(X < 0, left / (2 + left), (1 + 2 * E) / (1 + 2 * E * (1 + E)))


@op
def mish_grad(X: Any) -> Any:
    """dY/dX = T + X T' with T = tanh(log(1 + e^X))

    With E = e^-|X| and S = 1 + e^X, T' = 4 S e^X / (S^2 + 1)^2 is
    4 E (1 + E) / (2 + E (2 + E))^2 on the left, and 4 E^2 (1 + E) / (1 + 2 E (1 + E))^2 on the right.
    """
    xp = array_namespace(X)
    E = xp.exp(-xp.abs(X))
    left = E * (2 + E)
    D = xp.where(X < 0, 2 + left, 1 + 2 * E * (1 + E))
    T = xp.where(X < 0, left, 1 + 2 * E) / D
    slope = 4 * xp.where(X < 0, E, E * E) * (1 + E) / (D * D)
    return T + _bounded(X) * slope


@op
def gelu(X: Any) -> Any:
    """Y = X P(Z <= X), Z ~ N(0, 1)

    With A = |X|, the density phi and the Mills ratio M = P(Z > A) / phi(A), the probability is
    M phi on the left and 1 - M phi on the right. X M comes first: M phi leaves the range of float32.
    """
    xp = array_namespace(X)
    X32 = _at_least_float32(X)
    A = xp.abs(_bounded(X32))
    M, phi = mills_ratio(A), normal_density(A)
    return xp.astype(xp.where(X < 0, X32 * M * phi, X32 * (1 - M * phi)), X.dtype, copy=False)


@op
def gelu_grad(X: Any) -> Any:
    """dY/dX = P(Z <= X) + X phi(X)

    With A = |X| and the Mills ratio M, it is phi (M - A) on the left and 1 - phi (M - A) on the right.
    """
    xp = array_namespace(X)
    A = xp.abs(_bounded(_at_least_float32(X)))
    left = normal_density(A) * (mills_ratio(A) - A)
    return xp.astype(xp.where(X < 0, left, 1 - left), X.dtype, copy=False)


@op
def gelu_and_slope(X: Any) -> tuple[Any, Any]:
    """Y and dY/dX, which have most of their work in common."""
    return gelu(X), gelu_grad(X)


@op
def gelu_tanh(X: Any) -> Any:
    """Y = X (1 + tanh U) / 2 = X sigmoid(2 U),   U = sqrt(2/pi) (X + 0.044715 X^3)"""
    B = _bounded(X)
    return X * sigmoid(_TWICE_ROOT * B * (1 + _CUBIC * B * B))


@op
def gelu_tanh_grad(X: Any) -> Any:
    """dY/dX = sigmoid(2 U) + X sigmoid'(2 U) 2 U'"""
    B = _bounded(X)
    U2 = _TWICE_ROOT * B * (1 + _CUBIC * B * B)
    return sigmoid(U2) + B * sigmoid_grad(U2) * (_TWICE_ROOT * (1 + 3 * _CUBIC * B * B))


_CUBIC = 0.044715
_TWICE_ROOT = 2 * math.sqrt(2 / math.pi)


def mills_ratio(A: Any) -> Any:
    """M = P(Z > A) / phi(A), Z ~ N(0, 1), for A >= 0: 1.25 at 0, and nearly 1/A far out.

    (1 + A) M is smooth and between 1 and 1.26, and T = (A - 4) / (A + 4) takes all A from 0 to infinity
    into -1 <= T < 1: one polynomial in T (its Chebyshev series, computed to 40 digits) serves them all,
    to 3e-16 in float64 and 2e-7 in float32. After Shepherd and Laframboise 1981, who did so for erfc.
    """
    coefficients = _MILLS[array_namespace(A).finfo(A.dtype).bits]
    T = (A - 4) / (A + 4)
    P = coefficients[-1] * T + coefficients[-2]
    for c in coefficients[-3::-1]:
        P = P * T + c
    return P / (1 + A)


def normal_density(A: Any) -> Any:
    """phi = e^(-A^2/2) / sqrt(2 pi), for 0 <= A <= 40

    A^2/2 rounded would cost 5e-6 at 13. H, which is A cut to a multiple of 1/16, has an exact square,
    and A^2 - H^2 = (A - H) (A + H) is small (Cody 1969).
    """
    xp = array_namespace(A)
    H = xp.floor(16 * A) / 16
    return xp.exp(-0.5 * H * H) * (xp.exp(-0.5 * (A - H) * (A + H)) / math.sqrt(2 * math.pi))


def _bounded(X: Any) -> Any:
    """X between -40 and 40, beyond which these gates and slopes are 0 or 1: its powers don't overflow."""
    return array_namespace(X).clip(X, -40.0, 40.0)


def _at_least_float32(X: Any) -> Any:
    xp = array_namespace(X)
    return xp.astype(X, xp.float32) if is_narrow(X) else X


_MILLS = {  # bits of the dtype -> coefficients of T^0, T^1, ...
    32: (1.183261905, -0.2423996532, 0.03509257944, 0.07168999013, -0.08071634538, 0.04496313583,
         -0.01250234556, -0.000730099339, 0.001666879458, -0.0002119454919, -0.0001456131328,
         3.150467452e-05),
    64: (1.1832619145678034, -0.2423996705218081, 0.035091880234748005, 0.07169048120143744,
         -0.0807080096790523, 0.04495912907706981, -0.01253910362039814, -0.0007159509052838121,
         0.001741848773732585, -0.00023670175882712258, -0.00022021557569575163, 5.32669709383154e-05,
         3.4158814331838304e-05, -8.606187876097028e-06, -6.553354455258487e-06, 1.0194890870988967e-06,
         1.3907627079853225e-06, -3.1010836099470434e-09, -2.8692999652122816e-07, -4.49491638202463e-08,
         5.0778441223622434e-08, 1.3723059452400968e-08, -6.562440237066926e-09, -1.6952996818773715e-09,
         4.4802333823089844e-10),
}  # fmt: skip
