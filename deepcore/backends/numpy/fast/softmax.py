"""Softmax in two passes over a row, which stays in the cache between them."""

from __future__ import annotations

import math

import numpy as np

from deepcore.backends.numpy.fast.compiled import Kernel, alike, plain, row
from deepcore.backends.numpy.fast.elementary import exp_of_negative
from deepcore.backends.numpy.fast.rows import dot, exp_and_sum, largest, scale, total
from deepcore.backends.numpy.memory import empty


def _each_row(kernel: Kernel, axis: int, *arrays: np.ndarray) -> np.ndarray:
    """A new array with the kernel's result for each row. Along another axis NumPy's own kernels run."""
    X = arrays[0]
    if axis not in (-1, X.ndim - 1) or not alike(*arrays):
        return NotImplemented
    Y = empty(X.shape, X.dtype)
    rows = (-1, X.shape[-1])
    kernel(X.size, *(plain(x).reshape(rows) for x in arrays), Y.reshape(rows))
    return Y


def softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = E / sum E, E = e^(X - max X)"""
    return _each_row(_softmax, axis, X)


@Kernel
def _softmax(X, Y):
    for i in range(len(X)):
        exp_and_sum(X[i], largest(X[i]), Y[i])
        scale(Y[i], X.dtype.type(1 / total(Y[i])))  # added in float64: rows are to sum to 1 within 3e-7


def softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = Y (dY - sum Y dY)"""
    return _each_row(_softmax_backward, axis, dY, Y)


@Kernel
def _softmax_backward(dY, Y, dX):
    for i in range(len(Y)):
        _minus_mean(dY[i], Y[i], Y.dtype.type(dot(dY[i], Y[i])), dX[i])


@row
def _minus_mean(dy, y, mean, dx):
    for j in range(len(y)):
        dx[j] = y[j] * (dy[j] - mean)


def log_softmax(X: np.ndarray, axis: int = -1) -> np.ndarray:
    """Y = D - log(1 + s), D = X - max X, s = sum e^D over all but one largest entry"""
    return _each_row(_log_softmax, axis, X)


@Kernel
def _log_softmax(X, Y):
    for i in range(len(X)):
        x, y = X[i], Y[i]
        top = largest(x)
        k = _first(x, top)
        s = exp_and_sum(x[:k], top, y[:k]) + exp_and_sum(x[k + 1 :], top, y[k + 1 :])
        _minus_two(x, top, x.dtype.type(math.log1p(s + (top - top))), y)  # inf - inf and NaN: NaN


@row
def _first(x, number):
    """Where `number` first stands in x; NaN, which equals nothing, at the end."""
    k = 0
    while k < len(x) - 1 and x[k] != number:
        k += 1
    return k


@row
def _minus_two(x, first, second, y):
    for j in range(len(x)):
        y[j] = (x[j] - first) - second


def log_softmax_backward(dY: np.ndarray, Y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dX = dY - e^Y sum dY"""
    return _each_row(_log_softmax_backward, axis, dY, Y)


@Kernel
def _log_softmax_backward(dY, Y, dX):
    for i in range(len(Y)):
        _minus_share(dY[i], Y[i], Y.dtype.type(total(dY[i])), dX[i])


@row
def _minus_share(dy, y, s, dx):
    for j in range(len(y)):
        dx[j] = dy[j] - exp_of_negative(y[j]) * s
