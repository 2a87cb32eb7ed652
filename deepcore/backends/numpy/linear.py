"""The affine map on NumPy, where BLAS is the limit.

BLAS adds in another order for another memory layout: copies in C order keep the bits the same.
"""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.reduce import column_sum


def linear(X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Y = X W + b"""
    Y = _in_c_order(X) @ W
    if b is not None:
        Y += b if Y.ndim > 1 else b[0]
    return Y


def linear_backward(
    dY: np.ndarray, X: np.ndarray, W: np.ndarray, bias: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    i, o = W.shape
    dY = _in_c_order(dY)
    dY_rows, rows = dY.reshape(-1, o), _in_c_order(X.reshape(-1, i))
    return dY @ W.T, rows.T @ dY_rows, column_sum(dY_rows) if bias else None


def _in_c_order(X: np.ndarray) -> np.ndarray:
    return X if X.flags.c_contiguous else X.copy()
