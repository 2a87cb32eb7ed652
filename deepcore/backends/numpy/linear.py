"""The affine map on NumPy, where BLAS is the limit.

BLAS adds in another order for another memory layout: copies in C order keep the bits the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.numpy.reduce import column_sum


def linear(
    X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Y = X W + b"""
    X = X if X.flags.c_contiguous else X.copy()
    # dot: half the time of @ for small matrices, slow for more axes
    Y = X.dot(W, out) if X.ndim == 2 else np.matmul(X, W, out=out)
    if b is not None:
        Y += b if Y.ndim > 1 else b[0]
    return Y


def linear_backward(
    dY: np.ndarray,
    X: np.ndarray,
    W: np.ndarray,
    bias: bool = True,
    needed: tuple[bool, bool, bool] = (True, True, True),
    out: tuple[Any, Any, Any] = (None, None, None),
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    dY = dY if dY.flags.c_contiguous else dY.copy()
    X = X if X.flags.c_contiguous else X.copy()
    dX = dW = db = None
    if needed[0]:
        dX = dY.dot(W.T, out[0]) if X.ndim == 2 else np.matmul(dY, W.T, out=out[0])
    if X.ndim != 2:
        i, o = W.shape
        dY, X = dY.reshape(-1, o), X.reshape(-1, i)
    if needed[1]:
        dW = X.T.dot(dY, out[1])
    if bias and needed[2]:
        db = column_sum(dY)
    return dX, dW, db
