"""The affine map on NumPy: BLAS is the limit, so only the overhead of small products is spared."""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.reduce import column_sum


def linear(X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None) -> np.ndarray:
    """Y = X W + b"""
    if X.ndim < 2:
        return NotImplemented
    Y = X @ W
    if b is not None:
        Y += b
    return Y


def linear_backward(
    dY: np.ndarray, X: np.ndarray, W: np.ndarray, bias: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    if X.ndim != 2:
        return NotImplemented
    return dY @ W.T, X.T @ dY, column_sum(dY) if bias else None
