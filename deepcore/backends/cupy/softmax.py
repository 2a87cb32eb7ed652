"""Softmax on CuPy: one kernel reads each row once and writes it once."""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy.kernels import aligned, kernel, row_launch, serves


def softmax(X: Any, axis: int = -1) -> Any:
    """Y = E / sum E, E = e^(X - max X)"""
    return _on_rows("softmax", axis, X)


def softmax_backward(dY: Any, Y: Any, axis: int = -1) -> Any:
    """dX = Y (dY - sum Y dY)"""
    return _on_rows("softmax_backward", axis, dY, Y)


def log_softmax(X: Any, axis: int = -1) -> Any:
    """Y = D - log(1 + s), D = X - max X, s = sum e^D over all but one largest entry"""
    return _on_rows("log_softmax", axis, X)


def log_softmax_backward(dY: Any, Y: Any, axis: int = -1) -> Any:
    """dX = dY - e^Y sum dY"""
    return _on_rows("log_softmax_backward", axis, dY, Y)


def _on_rows(name: str, axis: int, *arrays: Any) -> Any:
    """The kernel's result for arrays of one shape and dtype, whose rows lie along `axis`."""
    X = arrays[0]
    if X.ndim == 0 or not serves(X, X.shape[axis]) or any(A.dtype != X.dtype for A in arrays):
        return NotImplemented
    moved = [aligned(cupy.moveaxis(A, axis, -1)) for A in arrays]
    C = X.shape[axis]
    n = X.size // C
    Y = cupy.empty(moved[0].shape, X.dtype)
    kernel("softmax", name, X.dtype)(*row_launch(n, C, X.itemsize), (*moved, Y, n, C))
    return cupy.moveaxis(Y, -1, axis)
