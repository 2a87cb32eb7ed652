"""How a weight moves, given its gradient: each returns new arrays and writes to none."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op


@op
def sgd(
    W: Any, dW: Any, V: Any, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[Any, Any]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))

    V: the velocity, None at the first step. weight_decay adds weight_decay W to dW.
    """
    if weight_decay:
        dW = dW + weight_decay * W
    if not momentum:
        return W - lr * dW, None
    V = dW if V is None else momentum * V + dW
    return W - lr * (dW + momentum * V if nesterov else V), V


@op
def adam(
    W: Any,
    dW: Any,
    M: Any,
    V: Any,
    t: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
) -> tuple[Any, Any, Any]:
    """W' = W - lr M^ / (sqrt V^ + eps), with the bias-corrected M^ = M' / (1 - b1^t), V^ = V' / (1 - b2^t).

    M' = b1 M + (1 - b1) dW   V' = b2 V + (1 - b2) dW^2   t: 1 at the first step, with M = V = None.
    weight_decay: W shrinks by lr weight_decay W (decoupled, AdamW), or dW grows by weight_decay W (Adam).
    """
    xp = array_namespace(W)
    b1, b2 = betas
    if weight_decay and decoupled:
        W = W * (1 - lr * weight_decay)
    elif weight_decay:
        dW = dW + weight_decay * W
    M = (1 - b1) * dW if M is None else b1 * M + (1 - b1) * dW
    V = (1 - b2) * (dW * dW) if V is None else b2 * V + (1 - b2) * (dW * dW)
    root = xp.sqrt(V) / math.sqrt(1 - b2**t) + eps
    return W - (lr / (1 - b1**t)) * (M / root), M, V
