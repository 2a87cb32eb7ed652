"""The affine map on NumPy, where BLAS is the limit.

BLAS adds in another order for another memory layout: copies in C order keep the bits the same.
"""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.reduce import column_sum


def linear(X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Y = X W + b"""
    X = X if X.flags.c_contiguous else X.copy()
    Y = X.dot(W) if X.ndim == 2 else X @ W  # dot: half the time of @ for small matrices, slow for more axes
    if b is not None:
        Y += b if Y.ndim > 1 else b[0]
    return Y


def linear_backward(
    dY: np.ndarray, X: np.ndarray, W: np.ndarray, bias: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    dY = dY if dY.flags.c_contiguous else dY.copy()
    X = X if X.flags.c_contiguous else X.copy()
    if X.ndim != 2:
        i, o = W.shape
        dX, dY, X = dY @ W.T, dY.reshape(-1, o), X.reshape(-1, i)
    else:
        dX = dY.dot(W.T)
    return dX, X.T.dot(dY), column_sum(dY) if bias else None
