"""The affine map on CuPy, where cuBLAS is the limit.

In float32 nothing is rounded to TF32, unless precision is "relaxed" or the variable CUPY_TF32 is 1.
"""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy import cublaslt
from deepcore.backends.cupy.reduce import column_sum


def linear(X: Any, W: Any, b: Any = None) -> Any:
    """Y = X W + b"""
    i, o = W.shape
    return product(X.reshape(-1, i), W, b).reshape(*X.shape[:-1], o)  # one product, not a batch of them


def linear_backward(dY: Any, X: Any, W: Any, bias: bool = True) -> tuple[Any, Any, Any]:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    i, o = W.shape
    dY, X, W = alike(dY, X, W)
    dY_rows, rows = dY.reshape(-1, o), X.reshape(-1, i)
    dX = product(dY_rows, W.T).reshape(X.shape)
    return dX, product(rows.T, dY_rows), column_sum(dY_rows) if bias else None


def matmul(A: Any, B: Any) -> Any:
    """A B: cuBLASLt's can be captured in a graph, cupy.matmul can't."""
    return product(A, B)


def product(A: Any, B: Any, bias: Any = None) -> Any:
    """A B + bias: (..., n, k) (..., k, m) and m numbers or none -> (..., n, m). CuPy's if cuBLASLt can't."""
    A, B = alike(A, B)
    Y = cublaslt.product(A, B, bias)
    if Y is NotImplemented:
        Y = cupy.matmul(A, B)
        if bias is not None:
            Y += bias
    return Y


def alike(*arrays: Any) -> tuple[Any, ...]:
    """All in bfloat16 if one of them is and the others are of float32.

    CuPy widens bfloat16 where it meets a Python float; a product of the two could not be captured.
    """
    names = {A.dtype.name: A.dtype for A in arrays}
    if names.keys() != {"bfloat16", "float32"}:
        return arrays
    return tuple(A.astype(names["bfloat16"], copy=False) for A in arrays)
