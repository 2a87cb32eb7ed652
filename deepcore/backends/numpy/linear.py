"""The affine map on NumPy, where BLAS is the limit.

BLAS adds in another order for another memory layout: copies in C order keep the bits the same.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.reduce import column_sum

_LARGE = 32768  # numbers from which on new memory would cost page faults: up to half the time of a product


def linear(
    X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Y = X W + b"""
    flat = X.ndim == 2 and X.flags.c_contiguous
    Y = _product(X if flat else _rows(X), W, out)
    if b is not None:
        Y += b
    return Y if flat else Y.reshape(*X.shape[:-1], W.shape[1])


def linear_backward(
    dY: np.ndarray,
    X: np.ndarray,
    W: np.ndarray,
    bias: bool = True,
    needed: tuple[bool, bool, bool] = (True, True, True),
    out: tuple[Any, Any, Any] = (None, None, None),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    rows = dY if dY.ndim == 2 and dY.flags.c_contiguous else _rows(dY)
    dX = dW = db = None
    if needed[0]:
        dX = _product(rows, W.T, out[0])
        dX = dX if X.ndim == 2 else dX.reshape(X.shape)
    if needed[1]:
        dW = _product(_rows(X).T, rows, out[1])
    if bias and needed[2]:
        db = column_sum(rows)
    return dX, dW, db


def _rows(X: np.ndarray) -> np.ndarray:
    """(..., i) -> (n, i) in C order: one large product is faster than many small ones."""
    X = X if X.flags.c_contiguous else X.copy()
    return X if X.ndim == 2 else X.reshape(math.prod(X.shape[:-1]), X.shape[-1])


def _product(A: np.ndarray, B: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """A B; dot takes half the time of @ for small matrices."""
    if out is not None:
        return A.dot(B, out.reshape(len(A), B.shape[1]))
    if len(A) * B.shape[1] < _LARGE or A.dtype != B.dtype:
        return A.dot(B)
    return A.dot(B, empty((len(A), B.shape[1]), A.dtype))
