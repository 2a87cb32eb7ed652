"""How a weight moves, given its gradient: each returns new arrays and writes to none.

What changes from step to step (lr, rate, ...) may be a Python number or a 0-d array.
"""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op


@op
def sgd(
    W: Any, dW: Any, V: Any, lr: Any, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[Any, Any]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))

    V: the velocity, 0 at first; None without momentum. weight_decay adds weight_decay W to dW.
    """
    if weight_decay:
        dW = dW + weight_decay * W
    if not momentum:
        return W - lr * dW, None
    V = momentum * V + dW
    return W - lr * (dW + momentum * V if nesterov else V), V


@op
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
    """W' = keep W - rate M' / (sqrt V' / root + eps)

    M' = b1 M + (1 - b1) dW   V' = b2 V + (1 - b2) dW^2   weight_decay adds weight_decay W to dW.
    M and V are 0 at first, so that at step t they are too small by 1 - b^t, which is undone by
    rate = lr / (1 - b1^t)   root = sqrt(1 - b2^t).   keep: None for 1, or AdamW's 1 - lr weight_decay.
    """
    b1, b2 = betas
    if weight_decay:
        dW = dW + weight_decay * W
    M = b1 * M + (1 - b1) * dW
    V = b2 * V + (1 - b2) * (dW * dW)
    if keep is not None:
        W = keep * W
    return W - rate * (M / (array_namespace(V).sqrt(V) / root + eps)), M, V
