"""Elementwise activations and their local gradients.

X, Y, dX, dY: any one shape.
"""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op


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
