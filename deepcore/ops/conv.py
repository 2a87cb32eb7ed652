"""Convolution in one, two and three dimensions, and its gradients: one code for them all.

Glossary: n images, c channels, f filters (output channels), g groups, k positions within a window,
p places where a window stands. A window's content is a column: convolution is a matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import is_narrow
from deepcore.ops.dispatch import op
from deepcore.ops.reduce import column_sum
from deepcore.shapes import Padding, conv_output_shape, window_slices


@op
def conv(
    X: Any,
    W: Any,
    b: Any,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """Y = W * X + b: each filter slides over the image.

    X: (n, c, *sizes)   W: (f, c/g, *kernel)   b: (1, f, 1, ...) or None   Y: (n, f, *out)
    Y[n, f, p] = sum over c, k of W[f, c, k] X[n, c, stride p + dilation k - lo], plus b[f]

    stride and dilation hold one int, padding one pair (lo, hi) of zeros for each spatial axis. The
    channels are cut into g groups, and each group of filters sees only its own.
    """
    xp = array_namespace(X)
    shape = conv_output_shape(X.shape, W.shape, stride, padding, dilation, groups)
    columns = group_columns(X, W.shape[2:], stride, padding, dilation, groups, shape[2:])
    filters = xp.reshape(W, (groups, shape[1] // groups, columns.shape[2]))
    Y = xp.reshape(filters @ columns, shape)  # (n, g, f/g, p) -> (n, f, *out)
    return Y if b is None else Y + b


@op
def conv_dX(
    dY: Any,
    W: Any,
    shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """dX = W^T dY: each place sends its gradient back to its window, and windows that overlap add up.

    dY: (n, f, *out)   W: (f, c/g, *kernel)   shape: that of X   dX: (n, c, *sizes)
    As a map of dY it is the transposed convolution.
    """
    xp = array_namespace(dY)
    n, f, *out = dY.shape
    c, kernel = shape[1], W.shape[2:]
    filters = xp.reshape(W, (groups, f // groups, c // groups * math.prod(kernel)))
    dY = xp.reshape(dY, (n, groups, f // groups, math.prod(out)))
    columns = xp.matrix_transpose(filters) @ dY  # (n, g, c/g k, p)
    columns = xp.reshape(columns, (n, c, math.prod(kernel), *out))
    return add_windows(columns, shape, kernel, stride, padding, dilation)


@op
def conv_dW(
    dY: Any,
    X: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> Any:
    """dW = dY X^T, over all windows of all images.

    dY: (n, f, *out)   X: (n, c, *sizes)   dW: (f, c/g, *kernel)
    """
    xp = array_namespace(dY)
    n, f, *out = dY.shape
    columns = group_columns(X, kernel, stride, padding, dilation, groups, out)
    rows = n * math.prod(out)
    # (n, g, c/g k, p) -> (g, n p, c/g k)   (n, f, *out) -> (g, f/g, n p)
    columns = xp.reshape(xp.permute_dims(columns, (1, 0, 3, 2)), (groups, rows, columns.shape[2]))
    dY = xp.reshape(dY, (n, groups, f // groups, math.prod(out)))
    dY = xp.reshape(xp.permute_dims(dY, (1, 2, 0, 3)), (groups, f // groups, rows))
    return xp.reshape(dY @ columns, (f, X.shape[1] // groups, *kernel))


def conv_backward(
    dY: Any,
    X: Any,
    W: Any,
    bias: bool,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
) -> tuple[Any, Any, Any]:
    """dX and dW as above, and db = sum dY over images and places, (1, f, 1, ...), or None without bias."""
    dX = conv_dX(dY, W, X.shape, stride, padding, dilation, groups)
    dW = conv_dW(dY, X, W.shape[2:], stride, padding, dilation, groups)
    return dX, dW, channel_sum(dY) if bias else None


@op
def channel_sum(dY: Any) -> Any:
    """Sum over images and places.   (n, f, *out) -> (1, f, 1, ...)"""
    xp = array_namespace(dY)
    n, f, *out = dY.shape
    per_place = column_sum(xp.reshape(dY, (n, f * math.prod(out))))
    db = column_sum(xp.matrix_transpose(xp.reshape(per_place, (f, math.prod(out)))))
    return xp.reshape(db, (1, f, *(1 for _ in out)))


def group_columns(
    X: Any,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int,
    out: Sequence[int],
) -> Any:
    """The windows as columns of one matrix for each group.   (n, c, *sizes) -> (n, g, c/g k, p)"""
    xp = array_namespace(X)
    n, c = X.shape[:2]
    columns = windows(pad(X, padding, 0.0), kernel, stride, dilation, out)
    return xp.reshape(columns, (n, groups, c // groups * math.prod(kernel), math.prod(out)))


def windows(
    X: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> Any:
    """What each position within the window sees (im2col).   (n, c, *padded) -> (n, c, k, *out)"""
    xp = array_namespace(X)
    return xp.stack([X[place] for place in window_slices(kernel, stride, dilation, out)], axis=2)


def add_windows(
    columns: Any,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> Any:
    """The transpose of `pad` and `windows`: what lies on one pixel adds up (col2im).

    columns: (n, c, k, *out) -> (n, c, *sizes) = shape
    """
    from array_api_extra import at

    xp = array_namespace(columns)
    padded = [size + lo + hi for size, (lo, hi) in zip(shape[2:], padding, strict=True)]
    device = backend_of(columns).device(columns)
    wide = xp.float32 if is_narrow(columns) else columns.dtype
    dX = xp.zeros((*shape[:2], *padded), dtype=wide, device=device)
    for k, place in enumerate(window_slices(kernel, stride, dilation, columns.shape[3:])):
        dX = at(dX)[place].add(xp.astype(columns[:, :, k, ...], wide), xp=xp)
    inside = (slice(lo, lo + size) for size, (lo, _) in zip(shape[2:], padding, strict=True))
    return xp.astype(dX[(..., *inside)], columns.dtype)


def pad(X: Any, padding: Padding, value: float) -> Any:
    """(n, c, *sizes) -> (n, c, *sizes + lo + hi)"""
    xp = array_namespace(X)
    device = backend_of(X).device(X)
    for axis, pair in enumerate(padding, start=2):
        if any(pair):
            lo, hi = (
                xp.full((*X.shape[:axis], size, *X.shape[axis + 1 :]), value, dtype=X.dtype, device=device)
                for size in pair
            )
            X = xp.concat([lo, X, hi], axis=axis)
    return X
