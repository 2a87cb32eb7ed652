"""Pooling on CuPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cupy

from deepcore.backends.cupy.kernels import aligned, kernel, serves
from deepcore.backends.cupy.windows import geometry, thread_each
from deepcore.shapes import Padding, pool_output_shape

_MOST_IN_A_BYTE = 256


def max_pool(X: Any, window: Sequence[int], stride: Sequence[int], padding: Padding) -> tuple[Any, Any]:
    """Y = the largest number of each window, index = its position within the window"""
    shape = pool_output_shape(X.shape, window, stride, padding)
    if not serves(X) or 0 in shape or len(window) > 3:
        return NotImplemented
    many = math.prod(window) > _MOST_IN_A_BYTE
    Y, index = cupy.empty(shape, X.dtype), cupy.empty(shape, cupy.int32 if many else cupy.uint8)
    numbers = geometry(X.shape[2:], shape[2:], window, stride, padding, (1,) * len(window))
    kernel("pool", "max_pool_of_many" if many else "max_pool", X.dtype)(
        *thread_each(Y.size), (aligned(X), Y, index, math.prod(shape[:2]), *numbers)
    )
    return Y, index


def max_pool_backward(
    dY: Any,
    index: Any,
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
) -> Any:
    """dX = dY where a number won, summed over the windows that it won; 0 elsewhere."""
    if not serves(dY) or len(window) > 3:
        return NotImplemented
    many = math.prod(window) > _MOST_IN_A_BYTE
    dX = cupy.empty(tuple(shape), dY.dtype)
    numbers = geometry(shape[2:], dY.shape[2:], window, stride, padding, (1,) * len(window))
    arrays = (aligned(dY), aligned(index), dX)
    kernel("pool", "max_pool_of_many_backward" if many else "max_pool_backward", dY.dtype)(
        *thread_each(dX.size), (*arrays, math.prod(shape[:2]), *numbers)
    )
    return dX
