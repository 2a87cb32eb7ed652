"""How a weight moves, on CuPy: one launch for a weight and all that an optimizer remembers of it."""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy.kernels import NULL, aligned, flat_launch, kernel, serves


def sgd(
    W: Any, dW: Any, V: Any, lr: Any, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[Any, Any]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not _serve(W, dW, V if momentum else W):
        return NotImplemented
    new_W, new_V = cupy.empty(W.shape, W.dtype), cupy.empty(W.shape, W.dtype) if momentum else None
    velocities = (aligned(V), new_W, new_V) if momentum else (NULL, new_W, NULL)
    settings = (float(momentum), int(nesterov), float(weight_decay))
    kernel("update", "sgd", W.dtype)(
        *flat_launch(W.size, W.itemsize),
        (aligned(W), aligned(dW), *velocities, W.size, *_number(lr, W), *settings),
    )
    return new_W, new_V


def adam(
    W: Any,
    dW: Any,
    M: Any,
    V: Any,
    rate: Any,
    root: Any,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    keep: Any = None,
) -> tuple[Any, Any, Any]:
    """W' = keep W - rate M' / (sqrt V' / root + eps)"""
    if not _serve(W, dW, M, V):
        return NotImplemented
    new = tuple(cupy.empty(W.shape, W.dtype) for _ in range(3))
    numbers = (*_number(rate, W), *_number(root, W), *_number(1.0 if keep is None else keep, W))
    kernel("update", "adam", W.dtype)(
        *flat_launch(W.size, W.itemsize),
        (*map(aligned, (W, dW, M, V)), *new, W.size, *numbers, *map(float, (*betas, eps, weight_decay))),
    )
    return new


def _number(x: Any, W: Any) -> tuple[Any, float]:
    """A number that changes from step to step, as a kernel takes it: where it lies, or itself."""
    if isinstance(x, cupy.ndarray):
        return x.astype(cupy.promote_types(W.dtype, cupy.float32), copy=False), 0.0
    return NULL, float(x)


def _serve(W: Any, *others: Any) -> bool:
    return serves(W) and all(A.dtype == W.dtype and A.shape == W.shape for A in others)
