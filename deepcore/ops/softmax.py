"""Softmax and its logarithm along one axis of length C, and their gradients in O(N C).

X, Y, dX, dY: any one shape. A row that is all -inf, or holds NaN or inf, gives NaN.
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import is_narrow
from deepcore.ops.dispatch import op


@op
def softmax(X: Any, axis: int = -1) -> Any:
    """Y = e^X / sum e^X"""
    if 0 in X.shape:
        return X
    xp = array_namespace(X)
    rows = _rows(X, axis)
    E = xp.exp(rows - xp.max(rows, axis=-1, keepdims=True))
    return _unrows(E / xp.sum(E, axis=-1, keepdims=True), X, axis)


@op
def softmax_backward(dY: Any, Y: Any, axis: int = -1) -> Any:
    """dX = Y (dY - sum Y dY)"""
    xp = array_namespace(Y)
    P, dP = _rows(Y, axis), _rows(dY, axis)
    dot = xp.sum(P * dP, axis=-1, keepdims=True)
    return _unrows(P * (dP - dot), Y, axis)


@op
def log_softmax(X: Any, axis: int = -1) -> Any:
    """Y = X - log sum e^X = D - log(1 + s)

    D = X - max X, and s sums e^D over all entries but one that is the largest: where it stands alone,
    Y is -log(1 + s) there, to full accuracy however small; log sum e^D would round to 0.
    """
    if 0 in X.shape:
        return X
    xp = array_namespace(X)
    rows = _rows(X, axis)
    D = rows - xp.max(rows, axis=-1, keepdims=True)
    E = xp.exp(D) - at_top(rows)
    return _unrows(D - xp.log1p(xp.sum(E, axis=-1, keepdims=True)), X, axis)


@op
def log_softmax_backward(dY: Any, Y: Any, axis: int = -1) -> Any:
    """dX = dY - e^Y sum dY.   Y: the log-probabilities"""
    xp = array_namespace(Y)
    dP = _rows(dY, axis)
    total = xp.sum(dP, axis=-1, keepdims=True)
    return _unrows(dP - xp.exp(_rows(Y, axis)) * total, Y, axis)


def at_top(rows: Any) -> Any:
    """1 at the first largest entry of each row, else 0.   rows: (n, C)"""
    xp = array_namespace(rows)
    top = xp.argmax(rows, axis=-1, keepdims=True)
    columns = xp.arange(rows.shape[-1], dtype=top.dtype, device=backend_of(rows).device(rows))
    return xp.astype(columns == top, rows.dtype)


def row_major(X: Any) -> Any:
    """X row-major, because sums over a transposed array have other bits, and float16 as float32."""
    xp = array_namespace(X)
    if is_narrow(X):
        X = xp.astype(X, xp.float32)
    return xp.reshape(xp.reshape(X, (math.prod(X.shape),)), X.shape)


def _rows(X: Any, axis: int) -> Any:
    """X as (n, C), with `axis` last."""
    xp = array_namespace(X)
    X = row_major(xp.moveaxis(X, axis, -1))
    size, C = math.prod(X.shape), X.shape[-1]
    return xp.reshape(X, (size // max(C, 1), C))


def _unrows(rows: Any, X: Any, axis: int) -> Any:
    """Rows back in the shape and dtype of X."""
    xp = array_namespace(X)
    last = axis % X.ndim
    shape = (*X.shape[:last], *X.shape[last + 1 :], X.shape[last])
    return xp.astype(xp.moveaxis(xp.reshape(rows, shape), -1, axis), X.dtype, copy=False)
