"""Normalisation and its gradients.

X, Y, H, dX, dY: (N, C) or (N, C, *spatial)   gamma, beta, mean, var and their gradients: (1, C, 1, ...)
Batch: means and sums run over every axis but the channels', over n numbers in each channel; r like gamma.
Groups: means run over the C/g channels of a group and their places, sample by sample; r: (N g, 1).
Layer normalisation is that with 1 group, instance normalisation with C.

A mean of numbers around 1e6 is rounded by as much as 0.03. But X - mean is exact there, so that its own
mean gives the rest. Both are kept, mean: (2, C, 1, ...), of groups (N g, 2), and backward makes H of them and
of X: to write H, to keep it and to read it would take longer. The statistics of float16 stay in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_narrow
from deepcore.ops.dispatch import op
from deepcore.ops.reduce import column_sum


def in_float32(f: Callable[..., Any], results: int | None = None) -> Callable[..., Any]:
    """Compute with float16 arrays in float32, because sums overflow at 65,504, and round the results.

    results: how many of them are rounded, None for all
    """

    @functools.wraps(f)
    def g(X: Any, *rest: Any) -> Any:
        xp = array_namespace(X)
        if not is_narrow(X):
            return f(X, *rest)
        Y = f(*(x if isinstance(x, float | int) else xp.astype(x, xp.float32) for x in (X, *rest)))
        if not isinstance(Y, tuple):
            return xp.astype(Y, X.dtype)
        return *(xp.astype(y, X.dtype) for y in Y[:results]), *Y[len(Y[:results]) :]

    return g


all_but_statistics = functools.partial(in_float32, results=1)


@op
@all_but_statistics
def batch_norm(X: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any, Any]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2. Returns Y, mean, r, var.

    mean: (2, C, 1, ...), the mean as rounded, and what rounding lost
    var: the mean of (X - mean X)^2, which is not the unbiased one
    """
    rough = _channel_mean(X)
    D = X - rough
    rest = _channel_mean(D)
    D = D - rest
    var = _channel_mean(D * D)
    r = _inverse_root(var + epsilon)
    H = D * r
    return gamma * H + beta, array_namespace(X).concat((rough, rest), axis=0), r, var


@op
@in_float32
def batch_norm_backward(dY: Any, X: Any, mean: Any, r: Any, gamma: Any) -> tuple[Any, Any, Any]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY. Returns the three."""
    n, H = _count(dY), (X - mean[:1, ...] - mean[1:, ...]) * r
    dgamma, dbeta = _channel_sum(H * dY), _channel_sum(dY)
    dX = gamma * r * (dY - dbeta / n - H * (dgamma / n))
    return dX, dgamma, dbeta


@op
@in_float32
def batch_norm_inference(X: Any, mean: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Y = gamma (X - mean) (var + epsilon)^-1/2 + beta, with a mean and a variance that are given."""
    return (X - mean) * (gamma * _inverse_root(var + epsilon)) + beta


@op
@in_float32
def batch_norm_inference_backward(
    dY: Any, X: Any, mean: Any, var: Any, gamma: Any, epsilon: float
) -> tuple[Any, Any, Any]:
    """dX = gamma r dY, dgamma = sum(H dY), dbeta = sum dY: mean and var don't depend on X here."""
    r = _inverse_root(var + epsilon)
    H = (X - mean) * r
    return gamma * r * dY, _channel_sum(H * dY), _channel_sum(dY)


@op
@all_but_statistics
def group_norm(X: Any, gamma: Any, beta: Any, groups: int, epsilon: float) -> tuple[Any, Any, Any]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2. Returns Y, mean, r.

    mean: (N g, 2), the mean as rounded, and what rounding lost
    """
    xp = array_namespace(X)
    x = _rows(X, groups)
    rough = _row_mean(x)
    D = x - rough
    rest = _row_mean(D)
    D = D - rest
    r = _inverse_root(_row_mean(D * D) + epsilon)
    H = xp.reshape(D * r, X.shape)
    return gamma * H + beta, xp.concat((rough, rest), axis=1), r


@op
@in_float32
def group_norm_backward(dY: Any, X: Any, mean: Any, r: Any, gamma: Any) -> tuple[Any, Any, Any]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY."""
    xp = array_namespace(dY)
    groups = _groups(dY, r)
    dh, h = _rows(gamma * dY, groups), (_rows(X, groups) - mean[:, :1] - mean[:, 1:]) * r
    dx = r * (dh - _row_mean(dh) - h * _row_mean(h * dh))
    return xp.reshape(dx, dY.shape), _channel_sum(xp.reshape(h, dY.shape) * dY), _channel_sum(dY)


@op
@all_but_statistics
def rms_norm(X: Any, gamma: Any, epsilon: float) -> tuple[Any, Any]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2, over the last axis. Returns Y, r.

    X: (N, C)   gamma: (1, C)   r: (N, 1)
    """
    r = _inverse_root(_row_mean(X * X) + epsilon)
    return gamma * (X * r), r


@op
@in_float32
def rms_norm_backward(dY: Any, X: Any, r: Any, gamma: Any) -> tuple[Any, Any]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY). Returns both."""
    dH, H = gamma * dY, X * r
    return r * (dH - H * _row_mean(H * dH)), _channel_sum(H * dY)


def _rows(X: Any, groups: int) -> Any:
    """Each group of channels of each sample as a row.   (N, C, ...) -> (N g, m)"""
    N, C, *spatial = X.shape
    return array_namespace(X).reshape(X, (N * groups, C // groups * math.prod(spatial)))


def _groups(X: Any, r: Any) -> int:
    """How many groups there were; 1, as good as any number, for an empty batch."""
    return r.shape[0] // X.shape[0] if X.shape[0] else 1


def _row_mean(x: Any) -> Any:
    """(R, m) -> (R, 1); 0 if m is."""
    return array_namespace(x).sum(x, axis=1, keepdims=True) / max(1, x.shape[1])


def _channel_sum(X: Any) -> Any:
    """(N, C, ...) -> (1, C, 1, ...)"""
    xp = array_namespace(X)
    N, C, *spatial = X.shape
    rows = xp.sum(xp.reshape(X, (N, C, math.prod(spatial))), axis=2)  # (N, C, ...) -> (N, C)
    return xp.reshape(column_sum(rows), (1, C) + (1,) * len(spatial))


def _channel_mean(X: Any) -> Any:
    return _channel_sum(X) / _count(X)


def _count(X: Any) -> int:
    """n, but 1 for an empty batch: its mean is then 0."""
    return max(1, math.prod(X.shape) // max(1, X.shape[1]))


def _inverse_root(X: Any) -> Any:
    """X^-1/2"""
    return 1 / array_namespace(X).sqrt(X)
