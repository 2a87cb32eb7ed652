"""Activations and their gradients in one pass over the numbers. deepcore.ops explains the formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.numpy.fast.compiled import Kernel, alike, flat, inline, served
from deepcore.backends.numpy.fast.elementary import (
    exp_of_minus_half_square,
    exp_of_negative,
    expm1_of_negative,
    log1p_of_fraction,
    mills_ratio,
    widest_vectors,
)
from deepcore.backends.numpy.fast.elementary import tanh as tanh_of
from deepcore.backends.numpy.memory import Out, empty

_CUBIC = 0.044715
_DENSITY = np.float32(1 / math.sqrt(2 * math.pi))
_NO_TAIL = np.float32(14)  # beyond which no normal number falls, as far as float32 can tell
_TWICE_ROOT = 2 * math.sqrt(2 / math.pi)


def _each(kernel: Kernel, *arrays: np.ndarray, numbers: tuple[Any, ...] = (), out: Out = None) -> np.ndarray:
    """The kernel's result for each number."""
    X = arrays[0]
    if not alike(*arrays):
        return NotImplemented
    Y = empty(X.shape, X.dtype) if out is None else out
    numbers = tuple(X.dtype.type(number) for number in numbers)
    kernel(X.size, *map(flat, arrays), *numbers, Y.reshape(-1))
    return Y


def chain(dY: np.ndarray, G: np.ndarray, out: Out = None) -> np.ndarray:
    """dX = dY G"""
    return _each(_chain, dY, G, out=out) if isinstance(G, np.ndarray) else NotImplemented


@Kernel
def _chain(dY, G, dX):
    for i in range(dY.size):
        dX[i] = dY[i] * G[i]


def relu(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = max(X, 0)"""
    return _each(_relu, X, out=out)


@Kernel
def _relu(X, Y):
    zero = X.dtype.type(0)
    for i in range(X.size):
        Y[i] = zero if X[i] <= zero else X[i]


def relu_backward(dY: np.ndarray, X: np.ndarray, out: Out = None) -> np.ndarray:
    """dX = dY where X > 0, else 0"""
    return _each(_relu_backward, dY, X, out=out)


@Kernel
def _relu_backward(dY, X, dX):
    zero = X.dtype.type(0)
    for i in range(X.size):
        dX[i] = zero if X[i] <= zero else dY[i]


def sigmoid(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = 1 / (1 + e^-X)"""
    return _each(_sigmoid, X, out=out)


@Kernel
def _sigmoid(X, Y):
    for i in range(X.size):
        widest_vectors()
        Y[i] = sigmoid_of(X[i])


@inline
def sigmoid_of(x):
    """1 / (1 + e^-x) for one number."""
    E = exp_of_negative(-abs(x))
    return (E if x < 0 else type(x)(1)) / (type(x)(1) + E)


def sigmoid_grad(X: np.ndarray, out: Out = None) -> np.ndarray:
    """dY/dX = E / (1 + E)^2, E = e^-|X|"""
    return _each(_sigmoid_grad, X, out=out)


@Kernel
def _sigmoid_grad(X, G):
    for i in range(X.size):
        widest_vectors()
        G[i] = _sigmoid_grad_of(X[i])


@inline
def _sigmoid_grad_of(x):
    E = exp_of_negative(-abs(x))
    S = type(x)(1) + E
    return E / S / S


def tanh(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = tanh X"""
    return _each(_tanh, X, out=out)


@Kernel
def _tanh(X, Y):
    for i in range(X.size):
        widest_vectors()
        Y[i] = tanh_of(X[i])


def tanh_grad(X: np.ndarray, out: Out = None) -> np.ndarray:
    """dY/dX = (2 E / (1 + E^2))^2, E = e^-|X|"""
    return _each(_tanh_grad, X, out=out)


@Kernel
def _tanh_grad(X, G):
    one = X.dtype.type(1)
    for i in range(X.size):
        widest_vectors()
        E = exp_of_negative(-abs(X[i]))
        sech = (E + E) / (one + E * E)
        G[i] = sech * sech


def softplus_tail(X: np.ndarray, out: Out = None) -> np.ndarray:
    """log(1 + e^-|X|)"""
    return _each(_softplus_tail, X, out=out)


@Kernel
def _softplus_tail(X, Y):
    for i in range(X.size):
        widest_vectors()
        Y[i] = log1p_of_fraction(exp_of_negative(-abs(X[i])))


def elu(X: np.ndarray, alpha: float, rate: float = 1.0, scale: float = 1.0, out: Out = None) -> np.ndarray:
    """Y = scale X where X > 0, else scale alpha (e^(rate X) - 1)"""
    return _each(_elu, X, numbers=(scale * alpha, rate, scale), out=out) if rate > 0 else NotImplemented


@Kernel
def _elu(X, height, rate, scale, Y):
    zero = X.dtype.type(0)
    for i in range(X.size):
        widest_vectors()
        left = expm1_of_negative(zero if X[i] > zero else rate * X[i])
        Y[i] = scale * X[i] if X[i] > zero else height * left


def elu_grad(
    X: np.ndarray, alpha: float, rate: float = 1.0, scale: float = 1.0, out: Out = None
) -> np.ndarray:
    """dY/dX = scale where X > 0, else scale alpha rate e^(rate X)"""
    return (
        _each(_elu_grad, X, numbers=(scale * alpha * rate, rate, scale), out=out)
        if rate > 0
        else NotImplemented
    )


@Kernel
def _elu_grad(X, slope, rate, scale, G):
    zero = X.dtype.type(0)
    for i in range(X.size):
        widest_vectors()
        left = exp_of_negative(zero if X[i] > zero else rate * X[i])
        G[i] = scale if X[i] > zero else slope * left


def silu(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = X H^2 / (1 + H^2) on the left, X / (1 + H^2) on the right, H = e^(-|X|/2)"""
    return _each(_silu, X, out=out)


@Kernel
def _silu(X, Y):
    one, half = X.dtype.type(1), X.dtype.type(0.5)
    for i in range(X.size):
        widest_vectors()
        x = X[i]
        H = exp_of_negative(-half * abs(x))
        Y[i] = (x * H * H if x < 0 else x) / (one + H * H)


def silu_grad(X: np.ndarray, out: Out = None) -> np.ndarray:
    """dY/dX = sigmoid(X) (1 + X sigmoid(-X))"""
    return _each(_silu_grad, X, out=out)


@Kernel
def _silu_grad(X, G):
    one = X.dtype.type(1)
    for i in range(X.size):
        widest_vectors()
        G[i] = sigmoid_of(X[i]) * (one + X[i] * sigmoid_of(-X[i]))


def gelu(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = max(X, 0) - A P(Z > A), A = |X|"""
    return _each(_gelu, X, out=out) if X.dtype == np.float32 else NotImplemented


@Kernel
def _gelu(X, Y):
    for i in range(X.size):
        widest_vectors()
        a = _at_most(abs(X[i]), _NO_TAIL)
        Y[i] = _gelu_of(X[i], mills_ratio(a), exp_of_minus_half_square(a))


def gelu_grad(X: np.ndarray, out: Out = None) -> np.ndarray:
    """dY/dX = P(Z > A) - A phi(A) on the left, 1 minus that on the right"""
    return _each(_gelu_grad, X, out=out) if X.dtype == np.float32 else NotImplemented


@Kernel
def _gelu_grad(X, G):
    for i in range(X.size):
        widest_vectors()
        a = _at_most(abs(X[i]), _NO_TAIL)
        G[i] = _gelu_slope(X[i], a, mills_ratio(a), exp_of_minus_half_square(a))


def gelu_and_slope(X: np.ndarray, out: tuple[Out, Out] = (None, None)) -> tuple[np.ndarray, np.ndarray]:
    """Y and dY/dX"""
    if X.dtype != np.float32 or not served(X):
        return NotImplemented
    Y, G = (empty(X.shape, X.dtype) if there is None else there for there in out)
    _gelu_and_slope(X.size, flat(X), Y.reshape(-1), G.reshape(-1))
    return Y, G


@Kernel
def _gelu_and_slope(X, Y, G):
    for i in range(X.size):
        widest_vectors()
        x, a = X[i], _at_most(abs(X[i]), _NO_TAIL)
        ratio, density = mills_ratio(a), exp_of_minus_half_square(a)
        Y[i] = _gelu_of(x, ratio, density)
        G[i] = _gelu_slope(x, a, ratio, density)


@inline
def _gelu_of(x, ratio, density):
    """Y, given the two factors of P(Z > |x|)."""
    zero = type(x)(0)
    return (x if x > zero else zero) - abs(_at_most(x, _NO_TAIL)) * ratio * density


@inline
def _gelu_slope(x, a, ratio, density):
    left = density * (ratio - _DENSITY * a)
    return left if x < 0 else type(x)(1) - left


@inline
def _at_most(x, most):
    return most if x > most else x


def gelu_tanh(X: np.ndarray, out: Out = None) -> np.ndarray:
    """Y = X sigmoid(2 U),   U = sqrt(2/pi) (X + 0.044715 X^3)"""
    return _each(_gelu_tanh, X, numbers=(_TWICE_ROOT, _TWICE_ROOT * _CUBIC), out=out)


@Kernel
def _gelu_tanh(X, linear, cubic, Y):
    least, most = X.dtype.type(-40), X.dtype.type(40)
    for i in range(X.size):
        widest_vectors()
        B = _at_most(least if X[i] < least else X[i], most)
        Y[i] = X[i] * sigmoid_of(B * (linear + cubic * B * B))


def gelu_tanh_grad(X: np.ndarray, out: Out = None) -> np.ndarray:
    """dY/dX = sigmoid(2 U) + X sigmoid'(2 U) 2 U'"""
    return _each(_gelu_tanh_grad, X, numbers=(_TWICE_ROOT, _TWICE_ROOT * _CUBIC), out=out)


@Kernel
def _gelu_tanh_grad(X, linear, cubic, G):
    least, most, three = X.dtype.type(-40), X.dtype.type(40), X.dtype.type(3)
    for i in range(X.size):
        widest_vectors()
        B = _at_most(least if X[i] < least else X[i], most)
        U2 = B * (linear + cubic * B * B)
        G[i] = sigmoid_of(U2) + B * _sigmoid_grad_of(U2) * (linear + three * cubic * B * B)
