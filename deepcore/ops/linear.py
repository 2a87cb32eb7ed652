"""The affine map and its gradients."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op
from deepcore.ops.reduce import column_sum


@op
def linear(X: Any, W: Any, b: Any = None) -> Any:
    """Y = X W + b.   X: (..., i)   W: (i, o)   b: (1, o) or None   Y: (..., o)"""
    Y = X @ W
    if b is None:
        return Y
    return Y + (b if X.ndim > 1 else b[0, ...])


@op
def linear_backward(dY: Any, X: Any, W: Any, bias: bool = True) -> tuple[Any, Any, Any]:
    """dX = dY W^T, dW = X^T dY, db = sum dY (None without bias), the last two over all rows."""
    xp = array_namespace(dY)
    i, o = W.shape
    n = math.prod(X.shape[:-1])
    dY_rows = xp.reshape(dY, (n, o))
    dX = dY @ W.T
    dW = xp.reshape(X, (n, i)).T @ dY_rows
    db = column_sum(dY_rows) if bias else None
    return dX, dW, db


@op
def matmul(A: Any, B: Any) -> Any:
    """A B, matrix by matrix: a library may have a better way than its own matmul.

    A: (..., n, k)   B: (..., k, m)   -> (..., n, m)
    """
    return A @ B


@op
def bilinear(A: Any, B: Any, W: Any, b: Any = None) -> Any:
    """Y = Z W + b, with Z, the products A_i B_j, as rows.

    A: (..., i)   B: (..., j)   W: (i, j, o)   b: (1, o) or None   Y: (..., o)
    """
    xp = array_namespace(A)
    i, j, o = W.shape
    Y = matmul(products(A, B), xp.reshape(W, (i * j, o)))
    return xp.reshape(Y if b is None else Y + b, (*A.shape[:-1], o))


@op
def bilinear_backward(dY: Any, A: Any, B: Any, W: Any, bias: bool = True) -> tuple[Any, Any, Any, Any]:
    """dZ = dY W^T, of which dA = dZ B and dB = dZ^T A for each row; dW = Z^T dY; db = sum dY.

    Returns dA, dB, dW, and db or None without bias.
    """
    xp = array_namespace(dY)
    i, j, o = W.shape
    n = math.prod(A.shape[:-1])
    dY_rows = row_major(dY, (n, o))
    dZ = xp.reshape(matmul(dY_rows, xp.reshape(W, (i * j, o)).T), (n, i, j))
    dA = xp.reshape(matmul(dZ, row_major(B, (n, j, 1))), A.shape)
    dB = xp.reshape(matmul(row_major(A, (n, 1, i)), dZ), B.shape)
    dW = xp.reshape(matmul(products(A, B).T, dY_rows), (i, j, o))
    return dA, dB, dW, column_sum(dY_rows) if bias else None


def products(A: Any, B: Any) -> Any:
    """Z, row by row.   A: (..., i)   B: (..., j)   Z: (n, i j)"""
    i, j, n = A.shape[-1], B.shape[-1], math.prod(A.shape[:-1])
    return array_namespace(A).reshape(row_major(A, (n, i, 1)) * row_major(B, (n, 1, j)), (n, i * j))


def row_major(X: Any, shape: tuple[int, ...]) -> Any:
    """X in another shape and new memory, number beside number.

    Matrix products of a transposed or reversed array have other bits. concat copies, reshape need not.
    """
    xp = array_namespace(X)
    return xp.reshape(xp.concat([xp.reshape(X, (math.prod(shape),))]), shape)
