"""Pooling on CuPy."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import cupy
import numpy as np

from deepcore.backends.cupy.kernels import aligned, kernel, serves
from deepcore.backends.cupy.windows import geometry, thread_each
from deepcore.shapes import Padding, Windows, pool_output_shape

_MOST_IN_A_BYTE = 256
_MOST_IN_A_THREAD = 4096  # numbers of a window, beyond which the reference has more threads


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


def window_sum(X: Any, windows: Sequence[Windows]) -> Any:
    """The sum of each window, of any lengths; of 16 bits in float32."""
    sizes, out = X.shape[2:], tuple(map(len, windows))
    longest = math.prod(max((stop - start for start, stop in along), default=0) for along in windows)
    if not serves(X) or 0 in out or len(out) > 3 or longest > _MOST_IN_A_THREAD:
        return NotImplemented
    shape = (*X.shape[:2], *out)
    Y = cupy.empty(shape, cupy.promote_types(X.dtype, cupy.float32))
    missing = (1,) * (3 - len(out))
    bounds = _bounds(cupy.cuda.Device().id, ((((0, 1),),) * len(missing), tuple(windows)))
    numbers = (math.prod(shape[:2]), *missing, *sizes, *missing, *out)
    kernel("pool", "window_sum", X.dtype)(*thread_each(Y.size), (aligned(X), Y, bounds, *numbers))
    return Y


@functools.cache  # and never forgotten, as a graph may read it
def _bounds(device: int, windows: tuple[tuple[Windows, ...], tuple[Windows, ...]]) -> Any:
    """Start and stop of each window, axis after axis, on the device: sent once, because a graph can't."""
    pairs = [pair for axes in windows for along in axes for pair in along]
    bounds = cupy.asarray(np.array(pairs, np.int32))
    cupy.cuda.get_current_stream().synchronize()  # other threads read it on streams of their own
    return bounds
