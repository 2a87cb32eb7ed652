"""Scaled dot-product attention and its gradients.

Q, Y: (..., q, d)   K, V: (..., k, d)   P: (..., q, k), how much of each key's value a query takes
allowed: bool, of a shape that broadcasts to P's; None: every query may attend to every key
"""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.ops.dispatch import op
from deepcore.ops.linear import matmul
from deepcore.ops.softmax import softmax, softmax_backward


@op
def attention(Q: Any, K: Any, V: Any, allowed: Any = None) -> tuple[Any, Any]:
    """Y = P V, P = softmax(Q K^T / sqrt(d)) over the allowed keys; 0 where none is. Returns Y, P.

    A kernel that never writes P returns in its place what its gradient takes, and what computes P if read.
    """
    xp = array_namespace(Q)
    S = matmul(Q * (1 / math.sqrt(Q.shape[-1])), K.mT)
    if allowed is None:
        P = softmax(S)
    else:
        P = softmax(xp.where(allowed, S, -math.inf))  # a row of -inf gives NaN
        P = xp.where(xp.any(allowed, axis=-1, keepdims=True), P, 0)
    return matmul(P, V), P


@op
def attention_backward(dY: Any, Q: Any, K: Any, V: Any, P: Any) -> tuple[Any, Any, Any]:
    """dP = dY V^T, dS = P (dP - sum P dP); dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d), dV = P^T dY.

    Where a key isn't allowed P = 0, and so dS = 0. Returns dQ, dK, dV.
    """
    scale = 1 / math.sqrt(Q.shape[-1])
    dS = softmax_backward(matmul(dY, V.mT), P) * scale
    return matmul(dS, K), matmul(dS.mT, Q), matmul(P.mT, dY)


def causal_mask(Q: Any, k: int) -> Any:
    """(q, k): whether key j stands no later than query i, j <= i."""
    xp = array_namespace(Q)
    device = backend_of(Q).device(Q)
    queries, keys = xp.arange(Q.shape[-2], device=device), xp.arange(k, device=device)
    return keys[None, :] <= queries[:, None]


def split_heads(rows: Any, shape: tuple[int, ...], heads: int) -> Any:
    """(n t, h d) -> (n, h, t, d).   shape: (n, t, h d), of as many leading axes n as there are"""
    xp = array_namespace(rows)
    *n, t, width = shape
    parts = xp.reshape(rows, (*n, t, heads, width // heads))
    return xp.permute_dims(parts, _swapped(parts.ndim))


def join_heads(parts: Any) -> Any:
    """(n, h, t, d) -> (n t, h d)"""
    xp = array_namespace(parts)
    *n, h, t, d = parts.shape
    return xp.reshape(xp.permute_dims(parts, _swapped(parts.ndim)), (math.prod(n) * t, h * d))


def _swapped(ndim: int) -> tuple[int, ...]:
    """All axes, those of the heads and the steps exchanged."""
    return (*range(ndim - 3), ndim - 2, ndim - 3, ndim - 1)
