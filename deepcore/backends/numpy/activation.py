"""Activations on NumPy, in place, because a page of new memory costs more than the arithmetic on it.

np.where mispredicts at every change of sign: 21 ms at 4096 x 1000, the forms without it 2 to 4.
"""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.gelu import gelu, gelu_and_slope, gelu_grad  # noqa: F401 - of this family
from deepcore.backends.numpy.memory import empty_like
from deepcore.backends.quiet import ignoring

_BITS = {np.dtype("f2"): np.int16, np.dtype("f4"): np.int32, np.dtype("f8"): np.int64}
_ZERO = {dtype: np.zeros((), dtype) for dtype in _BITS}  # a Python number costs 0.3 us to convert
_ONE_BYTE = np.ones((), np.int8)
_SMALL = 1024  # elements up to which the number of calls counts, not what they do


def chain(dY: np.ndarray, G: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dX = dY G"""
    if dY.size <= _SMALL or not isinstance(G, np.ndarray) or dY.shape != G.shape or dY.dtype != G.dtype:
        return NotImplemented
    return np.multiply(dY, G, out=empty_like(dY) if out is None else out)


def relu(X: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Y = max(X, 0)"""
    zero = _ZERO.get(X.dtype)
    return NotImplemented if zero is None or X.ndim == 0 else np.maximum(X, zero, out=out)


def relu_backward(dY: np.ndarray, X: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """dX = dY where X > 0, else 0: the bits of dY, masked, because 0 times an infinite dY is NaN."""
    bits = _BITS.get(dY.dtype)
    if bits is None or dY.ndim == 0:
        return NotImplemented
    zero = _ZERO[dY.dtype]
    if dY.size <= _SMALL:
        dX = dY.copy()
        np.putmask(dX, np.less_equal(X, zero), zero)  # np.where takes half as long again
        return dX
    mask = np.less_equal(X, zero).view(np.int8)
    np.subtract(mask, _ONE_BYTE, mask)  # 0 -> -1, which is all ones
    return np.bitwise_and(dY.view(bits), mask, None if out is None else out.view(bits)).view(dY.dtype)


@ignoring("over")
def leaky_relu(X: np.ndarray, alpha: float) -> np.ndarray:
    """The lines X and alpha X cross at 0: up to alpha = 1 the upper one counts, beyond it the lower."""
    if alpha == 0:  # 0 times an infinite X is NaN
        return NotImplemented
    Y = np.multiply(X, alpha, out=np.empty_like(X))
    return np.maximum(X, Y, out=Y) if alpha <= 1 else np.minimum(X, Y, out=Y)


def leaky_relu_grad(X: np.ndarray, alpha: float) -> np.ndarray:
    """dY/dX = max(1 or 0, alpha)"""
    if not 0 <= alpha <= 1:
        return NotImplemented
    G = np.asarray(X > 0).astype(X.dtype)
    return np.maximum(G, alpha, out=G)


@ignoring("over")
def sigmoid(X: np.ndarray) -> np.ndarray:
    """Y = 1 / (1 + e^-X): where e^-X overflows, Y is 0."""
    Y = np.negative(X, out=np.empty_like(X))
    np.exp(Y, out=Y)
    Y += 1
    return np.reciprocal(Y, out=Y)


def sigmoid_grad(X: np.ndarray) -> np.ndarray:
    """dY/dX = E / (1 + E)^2"""
    G = _exp_minus_abs(X)
    S = np.add(G, 1, out=np.empty_like(G))
    G /= S
    G /= S
    return G


def tanh_grad(X: np.ndarray) -> np.ndarray:
    """dY/dX = (2 E / (1 + E^2))^2"""
    G = _exp_minus_abs(X)
    S = np.multiply(G, G, out=np.empty_like(G))
    S += 1
    G /= S
    G *= 2
    G *= G
    return G


def softplus_tail(X: np.ndarray) -> np.ndarray:
    """log(1 + e^-|X|) in float64: in float32, exp and log1p of NumPy are off by 2e-7 each."""
    if X.dtype != np.float32 or X.ndim == 0:
        return NotImplemented
    E = np.abs(X, out=np.empty(X.shape, np.float64))
    np.negative(E, out=E)
    np.exp(E, out=E)
    return np.log1p(E, out=E).astype(np.float32)


def silu(X: np.ndarray) -> np.ndarray:
    """Y = (X H) H / (1 + H^2) on the left, X / (1 + H^2) on the right, H = e^(-|X|/2)"""
    if X.dtype not in _BITS or X.ndim == 0:
        return NotImplemented
    H = np.abs(X, out=np.empty_like(X))
    H *= -0.5
    np.exp(H, out=H)
    D = np.multiply(H, H, out=np.empty_like(H))
    D += 1
    np.maximum(H, X >= 0, out=H)  # H on the left, 1 on the right
    Y = np.multiply(X, H, out=np.empty_like(X))
    Y *= H
    Y /= D
    return Y


def _exp_minus_abs(X: np.ndarray) -> np.ndarray:
    """E = e^-|X|"""
    E = np.abs(X, out=np.empty_like(X))
    np.negative(E, out=E)
    return np.exp(E, out=E)
