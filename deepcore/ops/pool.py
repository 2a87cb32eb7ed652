"""Max-pooling in one, two and three dimensions, and its gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.ops.conv import add_windows, pad
from deepcore.ops.dispatch import op
from deepcore.shapes import Padding, pool_output_shape, window_slices


@op
def max_pool(X: Any, kernel: Sequence[int], stride: Sequence[int], padding: Padding) -> tuple[Any, Any]:
    """Y = the largest number of each window, index = its position within the window, in row-major order.

    X: (n, c, *sizes)   Y, index: (n, c, *out)   index: uint8, or int32 if the window has over 256 positions

    Ties go to the first position. Padding never wins, not even against -inf. A window with a NaN gives
    NaN, and the last NaN is the winner, as in torch.
    """
    xp = array_namespace(X)
    out = pool_output_shape(X.shape, kernel, stride, padding)[2:]
    start = first_inside(X, kernel, stride, padding, out)
    X = pad(X, padding, -math.inf)
    first, *others = window_slices(kernel, stride, (1,) * len(kernel), out)
    Y = X[first]
    index = xp.zeros_like(Y, dtype=start.dtype) + start
    for k, position in enumerate(others, start=1):
        A = X[position]
        better = (A > Y) | xp.isnan(A)
        Y = xp.where(better, A, Y)
        index = xp.where(better, xp.full_like(index, k), index)
    return Y, index


@op
def max_pool_backward(
    dY: Any,
    index: Any,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
) -> Any:
    """dX = dY where a number won, summed over the windows that it won; 0 elsewhere.

    dY, index: (n, c, *out)   shape: that of X   dX: (n, c, *sizes)
    """
    xp = array_namespace(dY)
    zeros = xp.zeros_like(dY)
    # (n, c, *out) -> (n, c, k, *out)
    columns = xp.stack([xp.where(index == k, dY, zeros) for k in range(math.prod(kernel))], axis=2)
    return add_windows(columns, shape, kernel, stride, padding, (1,) * len(kernel))


def max_pool_mask(
    index: Any,
    shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dtype: Any,
) -> Any:
    """How many windows each number won: 0 or 1 if windows don't overlap.   (n, c, *out) -> (n, c, *sizes)

    This is the local gradient: with dY = 1 everywhere, dX is the mask. dtype: one, or its name.
    """
    xp = array_namespace(index)
    dtype = backend_of(index).dtype(dtype) if isinstance(dtype, str) else dtype
    return max_pool_backward(xp.ones_like(index, dtype=dtype), index, shape, kernel, stride, padding)


def first_inside(
    X: Any, kernel: Sequence[int], stride: Sequence[int], padding: Padding, out: Sequence[int]
) -> Any:
    """The first position of each window that lies in X, not in its padding: the one to beat.   (*out)"""
    xp = array_namespace(X)
    device = backend_of(X).device(X)
    index = xp.zeros((), dtype=xp.int32, device=device)
    for k, s, (lo, _), o in zip(kernel, stride, padding, out, strict=True):
        start = lo - s * xp.arange(o, dtype=xp.int32, device=device)
        start = xp.where(start > 0, start, xp.zeros_like(start))
        index = index[..., None] * k + start  # (*out so far) -> (*out so far, o)
    return xp.astype(index, xp.uint8 if math.prod(kernel) <= 256 else xp.int32)
