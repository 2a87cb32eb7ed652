"""Batch normalisation and its gradients.

X, Y, H: (n, c, ...)   gamma, beta, mean, var, r: (1, c, 1, ...)   means over every axis but the channel
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op
from deepcore.ops.reduce import column_sum


@op
def batch_norm(X: Any, gamma: Any, beta: Any, epsilon: float) -> tuple[Any, Any, Any, Any, Any]:
    """H = (X - mean X) r,   r = (var X + epsilon)^-1/2,   Y = gamma H + beta   -> Y, H, r, mean, var

    A first value of each channel is taken off before anything is added up: of numbers that are 1e6 with
    a spread of 1, the sums would keep no digit of the spread.
    """
    xp = array_namespace(X)
    shift = X[:1, :, ...]
    for axis in range(2, X.ndim):
        shift = xp.take(shift, xp.zeros(1, dtype=xp.int64, device=X.device), axis=axis)
    D = X - shift
    rough = channel_mean(D)
    D = D - rough
    fine = channel_mean(D)
    D = D - fine
    var = channel_mean(D * D)
    r = 1 / xp.sqrt(var + epsilon)
    H = D * r
    return gamma * H + beta, H, r, shift + rough + fine, var


@op
def batch_norm_backward(dY: Any, H: Any, r: Any, gamma: Any) -> tuple[Any, Any, Any]:
    """dX = r gamma (dY - mean dY - H mean(H dY)),   dgamma = sum(H dY),   dbeta = sum dY"""
    m = max(1, math.prod(dY.shape) // dY.shape[1])
    dbeta, dgamma = channel_sum(dY), channel_sum(H * dY)
    return r * gamma * (dY - dbeta / m - H * (dgamma / m)), dgamma, dbeta


@op
def batch_norm_inference(X: Any, mean: Any, var: Any, gamma: Any, beta: Any, epsilon: float) -> Any:
    """Y = gamma (X - mean) (var + epsilon)^-1/2 + beta, for statistics that are given"""
    xp = array_namespace(X)
    return (X - mean) * (gamma / xp.sqrt(var + epsilon)) + beta


@op
def batch_norm_inference_backward(
    dY: Any, X: Any, mean: Any, var: Any, gamma: Any, epsilon: float
) -> tuple[Any, Any, Any]:
    """dX = gamma r dY,   dgamma = sum((X - mean) r dY),   dbeta = sum dY"""
    xp = array_namespace(X)
    r = 1 / xp.sqrt(var + epsilon)
    return gamma * r * dY, channel_sum((X - mean) * r * dY), channel_sum(dY)


def channel_sum(X: Any) -> Any:
    """(n, c, ...) -> (1, c, 1, ...)"""
    xp = array_namespace(X)
    c = X.shape[1]
    rows = xp.reshape(xp.moveaxis(X, 1, -1), (-1, c))  # (n, c, ...) -> (n ..., c)
    return xp.reshape(column_sum(rows), (1, c) + (1,) * (X.ndim - 2))


def channel_mean(X: Any) -> Any:
    """(n, c, ...) -> (1, c, 1, ...)"""
    return channel_sum(X) / max(1, math.prod(X.shape) // X.shape[1])
