"""The affine map on CuPy, where cuBLAS is the limit.

In float32 cuBLAS rounds nothing to TF32, unless the variable CUPY_TF32 is 1.
"""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy.reduce import column_sum


def linear(X: Any, W: Any, b: Any = None) -> Any:
    """Y = X W + b"""
    i, o = W.shape
    Y = product(X.reshape(-1, i), W)  # one product, not a batch of them
    if b is not None:
        Y += b
    return Y.reshape(*X.shape[:-1], o)


def linear_backward(dY: Any, X: Any, W: Any, bias: bool = True) -> tuple[Any, Any, Any]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    i, o = W.shape
    dY_rows, rows = dY.reshape(-1, o), X.reshape(-1, i)
    dX = product(dY_rows, W.T).reshape(X.shape)
    return dX, product(rows.T, dY_rows), column_sum(dY_rows) if bias else None


def product(A: Any, B: Any) -> Any:
    """A B: (..., n, k) (..., k, m) -> (..., n, m)"""
    return cupy.matmul(A, B)
