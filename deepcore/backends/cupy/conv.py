"""Convolution on CuPy: by cuDNN, and where that can't, as a matrix product of the windows.

One product for each image and group; the columns are k times as large as the images, k being the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cupy

from deepcore.backends.cupy import cudnn
from deepcore.backends.cupy.kernels import aligned, kernel, serves
from deepcore.backends.cupy.linear import alike, product
from deepcore.backends.cupy.reduce import totals
from deepcore.backends.cupy.windows import geometry, thread_each
from deepcore.shapes import Padding, conv_output_shape


def conv(
    X: Any,
    W: Any,
    b: Any,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """Y = W * X + b"""
    X, W = alike(X, W)
    shape = conv_output_shape(X.shape, W.shape, stride, padding, dilation, groups)
    if not _serve(X, W) or 0 in shape:
        return NotImplemented
    Y = cudnn.conv(X, W, shape, stride, padding, dilation)
    if Y is NotImplemented:
        columns = _columns(X, W.shape[2:], shape[2:], stride, padding, dilation, groups)
        filters = W.reshape(groups, shape[1] // groups, -1)
        Y = product(filters, columns).reshape(shape)  # (g, f/g, c/g k) (n, g, c/g k, p) -> (n, g, f/g, p)
    if b is not None:
        Y += b
    return Y


def conv_dX(
    dY: Any,
    W: Any,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """dX = W^T dY"""
    dY, W = alike(dY, W)
    if not _serve(dY, W) or 0 in shape:
        return NotImplemented
    dX = cudnn.conv_dX(dY, W, tuple(shape), stride, padding, dilation)
    if dX is not NotImplemented:
        return dX
    n, f, *out = dY.shape
    filters = W.reshape(groups, f // groups, -1)
    dY = dY.reshape(n, groups, f // groups, math.prod(out))
    columns = product(filters.swapaxes(-1, -2), dY)  # (g, c/g k, f/g) (n, g, f/g, p) -> (n, g, c/g k, p)
    if _is_identity(W.shape[2:], stride, padding):
        return columns.reshape(tuple(shape))
    dX = cupy.empty(tuple(shape), dY.dtype)
    numbers = geometry(shape[2:], out, W.shape[2:], stride, padding, dilation)
    kernel("conv", "columns_to_windows", dY.dtype)(
        *thread_each(dX.size), (aligned(columns), dX, math.prod(shape[:2]), *numbers)
    )
    return dX


def conv_dW(
    dY: Any,
    X: Any,
    window: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """dW = dY X^T, image by image, and the sum over them"""
    dY, X = alike(dY, X)
    if not _serve(dY, X):
        return NotImplemented
    n, f, *out = dY.shape
    dW = cudnn.conv_dW(dY, X, (f, X.shape[1] // groups, *window), stride, padding, dilation)
    if dW is not NotImplemented:
        return dW
    columns = _columns(X, window, out, stride, padding, dilation, groups)
    dY = dY.reshape(n, groups, f // groups, math.prod(out))
    per_image = product(dY, columns.swapaxes(-1, -2))  # (n, g, f/g, p) (n, g, p, c/g k) -> (n, g, f/g, c/g k)
    dW = totals(per_image, n, per_image.size // n, 1)
    return dW.reshape(f, X.shape[1] // groups, *window)


def channel_sum(dY: Any) -> Any:
    """Sum over images and places.   (n, f, *out) -> (1, f, 1, ...)"""
    if not serves(dY):
        return NotImplemented
    n, f, *out = dY.shape
    return totals(dY, n, f, math.prod(out)).reshape(1, f, *(1 for _ in out))


def _columns(
    X: Any,
    window: Sequence[int],
    out: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """(n, c, *sizes) -> (n, g, c/g k, p)"""
    n, c = X.shape[:2]
    k, p = math.prod(window), math.prod(out)
    columns = aligned(X)
    if not _is_identity(window, stride, padding):
        columns = cupy.empty((n, c, k, p), X.dtype)
        numbers = geometry(X.shape[2:], out, window, stride, padding, dilation)
        kernel("conv", "windows_to_columns", X.dtype)(
            *thread_each(n * c * p), (aligned(X), columns, n * c, *numbers)
        )
    return columns.reshape(n, groups, c // groups * k, p)


def _is_identity(window: Sequence[int], stride: Sequence[int], padding: Padding) -> bool:
    """Whether each window is a pixel, and each pixel a window."""
    return math.prod(window) == math.prod(stride) == 1 and not any(map(any, padding))


def _serve(A: Any, B: Any) -> bool:
    return serves(A) and serves(B) and A.dtype == B.dtype and A.ndim <= 5
