"""Normalisation on CuPy: norm.cu says what is read how often."""

from __future__ import annotations

import math
from typing import Any

import cupy

from deepcore.backends.cupy.kernels import (
    NULL,
    aligned,
    channel_launch,
    column_launch,
    kernel,
    persistent_launch,
    row_launch,
    serves,
)

# ---- statistics of each sample by itself


def group_norm(X: Any, gamma: Any, beta: Any, groups: int, epsilon: float) -> tuple[Any, Any, Any]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    N, C, S = _sizes(X)
    rows, m = N * groups, C // groups * S
    if not _serve(m, X, gamma, beta):
        return NotImplemented
    Y, mean, r = (
        cupy.empty(X.shape, X.dtype),
        cupy.empty((rows, 2), _wide(X)),
        cupy.empty((rows, 1), _wide(X)),
    )
    arrays = (aligned(X), _packed(gamma), _packed(beta), Y, mean, r)
    kernel("norm", "group_norm", X.dtype)(
        *row_launch(rows, m, X.itemsize), (*arrays, rows, m, groups, S, float(epsilon))
    )
    return Y, mean, r


def group_norm_backward(dY: Any, X: Any, mean: Any, r: Any, gamma: Any) -> tuple[Any, Any, Any]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY"""
    N, C, S = _sizes(dY)
    if not _serve(C * S, dY, X, gamma):
        return NotImplemented
    statistics, groups = (_statistics(mean, dY), _statistics(r, dY)), len(r) // N
    if groups == S == 1 and (launch := persistent_launch(N, C, dY.itemsize)):
        return _persistent("layer_norm_persistent", launch, dY, X, statistics, gamma, 2)
    rows, m = N * groups, C // groups * S
    dY, X, dX = aligned(dY), aligned(X), cupy.empty(dY.shape, dY.dtype)
    kernel("norm", "group_norm_backward", dY.dtype)(
        *row_launch(rows, m, dY.itemsize), (dY, X, *statistics, _packed(gamma), dX, rows, m, groups, S)
    )
    dgamma, dbeta, _ = _moments("group_moments", dY, (X, *statistics), m)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def rms_norm(X: Any, gamma: Any, epsilon: float) -> tuple[Any, Any]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    N, C = X.shape
    if not _serve(C, X, gamma):
        return NotImplemented
    Y, r = cupy.empty((N, C), X.dtype), cupy.empty((N, 1), _wide(X))
    kernel("norm", "rms_norm", X.dtype)(
        *row_launch(N, C, X.itemsize), (aligned(X), _packed(gamma), Y, r, N, C, float(epsilon))
    )
    return Y, r


def rms_norm_backward(dY: Any, X: Any, r: Any, gamma: Any) -> tuple[Any, Any]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)"""
    N, C = dY.shape
    if not _serve(C, dY, X, gamma):
        return NotImplemented
    r = _statistics(r, dY)
    if launch := persistent_launch(N, C, dY.itemsize):
        return _persistent("rms_norm_persistent", launch, dY, X, (r,), gamma, 1)[:2]
    dY, X, dX = aligned(dY), aligned(X), cupy.empty(dY.shape, dY.dtype)
    kernel("norm", "rms_norm_backward", dY.dtype)(
        *row_launch(N, C, dY.itemsize), (dY, X, r, _packed(gamma), dX, N, C)
    )
    return dX, _moments("rms_moments", dY, (X, r), C)[0].reshape(gamma.shape)


def _persistent(
    name: str, launch: Any, dY: Any, X: Any, statistics: tuple[Any, ...], gamma: Any, sums: int
) -> tuple[Any, Any, Any]:
    """dX, dgamma, dbeta in one pass; dbeta is None of 1 sum."""
    (blocks,), (_, walkers_of_a_block) = launch
    N, C = dY.shape[:2]
    walkers = blocks * walkers_of_a_block
    partial = cupy.empty((sums, walkers, C), _wide(dY))
    dX, dgamma = cupy.empty(dY.shape, dY.dtype), cupy.empty(gamma.shape, dY.dtype)
    dbeta = cupy.empty(gamma.shape, dY.dtype) if sums > 1 else None
    arrays = (aligned(dY), aligned(X), *statistics, _packed(gamma), dX, partial)
    kernel("norm", name, dY.dtype)(*launch, (*arrays, N, C, blocks))
    kernel("norm", "walker_gradients", dY.dtype)(
        *channel_launch(C, walkers), (partial, dgamma, NULL if dbeta is None else dbeta, walkers, C)
    )
    return dX, dgamma, dbeta


def _wide(X: Any) -> Any:
    """The dtype that X is computed in, and its statistics kept."""
    return cupy.promote_types(X.dtype, cupy.float32)


def _statistics(x: Any, X: Any) -> Any:
    return _packed(x.astype(_wide(X), copy=False))


# ---- statistics of each channel over the batch


def batch_norm(X: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any, Any]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2; the statistics in float64"""
    if not _serve(1, X, gamma, beta):
        return NotImplemented
    N, C, S = _sizes(X)
    X = aligned(X)
    grid, block, tiles, slices = column_launch(N, C * S, X.itemsize)
    partial = cupy.empty((2, slices, C * S), cupy.float64)
    kernel("norm", "channel_deviations", X.dtype)(grid, block, (X, partial, N, C * S, S, tiles, slices))
    mean = cupy.empty((2, *gamma.shape[1:]), _wide(X))
    r, var = cupy.empty(gamma.shape, _wide(X)), cupy.empty(gamma.shape, _wide(X))
    kernel("norm", "channel_statistics", X.dtype)(
        *channel_launch(C, slices * S), (X, partial, mean, r, var, N, slices, C, S, float(epsilon))
    )
    Y = cupy.empty(X.shape, X.dtype)
    kernel("norm", "channel_normalise", X.dtype)(
        grid, block, (X, mean, r, _packed(gamma), _packed(beta), Y, N, C, S, tiles, slices)
    )
    return Y, mean, r, var


def batch_norm_backward(dY: Any, X: Any, mean: Any, r: Any, gamma: Any) -> tuple[Any, Any, Any]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY"""
    if not _serve(1, dY, X, gamma):
        return NotImplemented
    N, C, S = _sizes(dY)
    dY, X, dX = aligned(dY), aligned(X), cupy.empty(dY.shape, dY.dtype)
    of_H = X, _statistics(mean, dY), _statistics(r, dY)
    dgamma, dbeta, totals = _moments("channel_moments", dY, of_H, S)
    grid, block, tiles, slices = column_launch(N, C * S, dY.itemsize)
    kernel("norm", "channel_normalise_backward", dY.dtype)(
        grid, block, (dY, *of_H, _packed(gamma), totals, dX, N, C, S, tiles, slices)
    )
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def batch_norm_inference(X: Any, mean: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Y = gamma (X - mean) (var + epsilon)^-1/2 + beta"""
    if not _serve(1, X, mean, var, gamma, beta):
        return NotImplemented
    N, C, S = _sizes(X)
    grid, block, tiles, slices = column_launch(N, C * S, X.itemsize)
    Y, columns = cupy.empty(X.shape, X.dtype), [_packed(column) for column in (mean, var, gamma, beta)]
    kernel("norm", "channel_inference", X.dtype)(
        grid, block, (aligned(X), *columns, Y, N, C, S, float(epsilon), tiles, slices)
    )
    return Y


def batch_norm_inference_backward(
    dY: Any, X: Any, mean: Any, var: Any, gamma: Any, epsilon: float
) -> tuple[Any, Any, Any]:
    """dX = gamma r dY, dgamma = sum(H dY), dbeta = sum dY: mean and var don't depend on X here."""
    if not _serve(1, dY, X, mean, var, gamma):
        return NotImplemented
    N, C, S = _sizes(X)
    grid, block, tiles, slices = column_launch(N, C * S, X.itemsize)
    partial, dX = cupy.empty((2, slices, C * S), cupy.float64), cupy.empty(X.shape, X.dtype)
    columns = [_packed(column) for column in (mean, var, gamma)]
    kernel("norm", "channel_inference_backward", X.dtype)(
        grid,
        block,
        (aligned(dY), aligned(X), *columns, dX, partial, N, C, S, float(epsilon), tiles, slices),
    )
    dgamma, dbeta, _ = _gradients(partial, slices, C, S, X.dtype)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def _moments(name: str, dY: Any, of_H: tuple[Any, ...], *size: int) -> tuple[Any, Any, Any]:
    """sum(H dY) and sum dY of each channel, (C), and both of them in float64, (2, C).

    of_H: H, or what the kernel makes it of
    """
    N, C, S = _sizes(dY)
    grid, block, tiles, slices = column_launch(N, C * S, dY.itemsize)
    partial = cupy.empty((2, slices, C * S), cupy.float64)
    kernel("norm", name, dY.dtype)(grid, block, (dY, *of_H, partial, N, C * S, *size, tiles, slices))
    return _gradients(partial, slices, C, S, dY.dtype)


def _gradients(partial: Any, slices: int, C: int, S: int, dtype: Any) -> tuple[Any, Any, Any]:
    totals, first, second = cupy.empty((2, C), cupy.float64), cupy.empty(C, dtype), cupy.empty(C, dtype)
    kernel("norm", "channel_gradients", dtype)(
        *channel_launch(C, slices * S), (partial, totals, first, second, slices, C, S)
    )
    return first, second, totals


def _sizes(X: Any) -> tuple[int, int, int]:
    """N, C and the places of an image, S."""
    return X.shape[0], X.shape[1], math.prod(X.shape[2:])


def _packed(column: Any) -> Any:
    return cupy.ascontiguousarray(column)


def _serve(m: int, X: Any, *others: Any) -> bool:
    return serves(X, m) and all(A.dtype == X.dtype for A in others)
