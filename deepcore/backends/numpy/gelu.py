"""GELU on NumPy, which has no erf: a rational function, a block at a time.

With A = |X| and U = A/2, the normal distribution's upper tail is

P(Z > A) = N(U) / D(U) e^(-2 U^2)

where N / D, of degrees 4 and 5 in U, is the Mills ratio by sqrt(2 pi), fitted for the least relative error:
5e-09 up to U = 6.75, where the tail leaves the range of float32. All coefficients are positive: nothing
cancels. U^2 rounded would cost 5e-6 at A = 13: V, which is U cut to 12 bits, has an exact square, and
U^2 - V^2 = (U - V) (U + V) is small (Cody 1969).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.memory import empty, empty_like
from deepcore.backends.quiet import ignoring

_BLOCK = 131072  # elements: of fewer, threads would wait for each other's Python between the steps
_SHARE = 65536  # elements that are worth a thread
_SCALE = 2.0**-12  # of both: D times e^(2 U^2) stays in the range of float32 as long as its inverse does
MILLS_NUMERATOR = 0.5, 0.8709162884, 0.7244536269, 0.3192958199, 0.06411849782
MILLS_DENOMINATOR = 1.0, 3.337602197, 4.774935868, 3.71090975, 1.600829514, 0.3214379354
_N, _D = (tuple(_SCALE * c for c in row) for row in (MILLS_NUMERATOR, MILLS_DENOMINATOR))
_U_MOST = np.float32(7.25)
_HALF = np.float32(0.5)
_TWELVE_BITS = np.int32(-1 << 12)
_SIGN, _ONE = np.int32(-(1 << 31)), np.float32(1).view(np.int32)  # as bits
_DENSITY = np.float32(2 / math.sqrt(2 * math.pi))
_quiet = ignoring("over", "invalid", "under")


@_quiet
def gelu(X: np.ndarray) -> np.ndarray:
    """Y = max(X, 0) - A P(Z > A)"""
    return _each(X, True, False)[0] if _native(X) else NotImplemented


@_quiet
def gelu_grad(X: np.ndarray) -> np.ndarray:
    """dY/dX = P(Z > A) - A phi(A) on the left, 1 minus that on the right"""
    return _each(X, False, True)[1] if _native(X) else NotImplemented


@_quiet
def gelu_and_slope(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Y and dY/dX"""
    return _each(X, True, True) if _native(X) else NotImplemented


def _each(X: np.ndarray, wants_Y: bool, wants_G: bool) -> tuple[Any, Any]:
    flat_X = np.ascontiguousarray(X).reshape(-1)
    Y, G = (empty_like(X) if wanted else None for wanted in (wants_Y, wants_G))

    def part(first: int, last: int) -> None:
        scratch = [empty((min(_BLOCK, last - first),), np.float32) for _ in range(4)]
        for start in range(first, last, _BLOCK):
            block = slice(start, min(start + _BLOCK, last))
            x = flat_X[block]
            u, growth, tail, v = (A[: x.size] for A in scratch)
            _find_tail(x, u, growth, tail, v)
            if Y is not None:
                _value(x, tail, v, Y.reshape(-1)[block])
            if G is not None:
                _slope(x, u, growth, tail, G.reshape(-1)[block])

    threads.share(part, X.size, _SHARE)
    return Y, G


def _find_tail(x: np.ndarray, u: np.ndarray, growth: np.ndarray, tail: np.ndarray, v: np.ndarray) -> None:
    """U, e^(2 U^2) and P(Z > A). v is overwritten."""
    np.multiply(x, _HALF, out=u)
    np.abs(u, out=u)
    np.minimum(u, _U_MOST, out=u)
    np.bitwise_and(u.view(np.int32), _TWELVE_BITS, out=v.view(np.int32))
    np.subtract(u, v, out=growth)
    np.add(u, v, out=tail)
    growth *= tail
    v *= v
    np.exp(growth, out=growth)
    growth *= np.exp(v, out=v)
    growth *= growth
    _polynomial(_D, u, out=v)
    v *= growth
    _polynomial(_N, u, out=tail)
    tail /= v


def _value(x: np.ndarray, tail: np.ndarray, A: np.ndarray, y: np.ndarray) -> None:
    np.minimum(x, 2 * _U_MOST, out=A)  # infinity times 0 is NaN: right on the left, wrong on the right
    np.abs(A, out=A)
    A *= tail
    np.maximum(x, np.float32(0), out=y)
    y -= A


def _slope(x: np.ndarray, u: np.ndarray, growth: np.ndarray, tail: np.ndarray, g: np.ndarray) -> None:
    """On the right its sign is changed, and 1 added. u and tail are overwritten."""
    np.multiply(u, _DENSITY, out=g)
    g /= growth
    np.subtract(tail, g, out=g)
    right = np.right_shift(x.view(np.int32), 31, out=u.view(np.int32))
    np.invert(right, out=right)  # all ones on the right, 0 on the left
    sign = np.bitwise_and(right, _SIGN, out=tail.view(np.int32))
    g_bits = g.view(np.int32)
    g_bits ^= sign
    right &= _ONE
    g += u


def _polynomial(coefficients: Sequence[float], U: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The sum of coefficients[k] U^k, by Horner's rule."""
    *lower, highest = coefficients
    np.multiply(U, highest, out=out)
    out += lower[-1]
    for c in lower[-2::-1]:
        out *= U
        out += c
    return out


def _native(X: np.ndarray) -> bool:
    return X.dtype == np.float32 and X.ndim > 0
