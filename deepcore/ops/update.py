"""How a weight moves, given its gradient: each returns new arrays and writes to none, except by `later`.

What changes from step to step (lr, rate, ...) may be a Python number or a 0-d array.
later: a list, if W and what is remembered of it may be overwritten. A kernel that can do so puts a call there
and returns those very arrays, which hold their new numbers when the call has been made. That runs no Python
and raises nothing.
"""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op
from deepcore.ops.linear import matmul


@op
def sgd(
    W: Any,
    dW: Any,
    V: Any,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    later: Any = None,
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
    later: Any = None,
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


@op
def gradient_norm(dW: Any, *more: Any) -> Any:
    """The length of all gradients together, as one vector: a 0-d array, not finite unless all of them are."""
    squares = [array_namespace(dW).sum(dW * dW) for dW in (dW, *more)]
    return array_namespace(dW).sqrt(sum(squares[1:], start=squares[0]))


@op
def either(first: Any, *arrays: Any) -> tuple[Any, ...]:
    """The first half of the arrays, or the second.   first: a 0-d bool array, which the host does not read"""
    half, where = len(arrays) // 2, array_namespace(first).where
    return tuple(where(first, a, b) for a, b in zip(arrays[:half], arrays[half:], strict=True))


@op
def rmsprop(
    W: Any,
    dW: Any,
    V: Any,
    M: Any,
    B: Any,
    lr: Any,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
) -> tuple[Any, Any, Any, Any]:
    """W' = W - lr B'   B' = momentum B + dW / (sqrt(V' - M'^2) + eps)

    V' = a V + (1 - a) dW^2   M' = a M + (1 - a) dW   a = alpha, and all 0 at first.
    M: None for 0, not centered.   B: None without momentum.   weight_decay adds weight_decay W to dW.
    """
    xp = array_namespace(W)
    if weight_decay:
        dW = dW + weight_decay * W
    V = alpha * V + (1 - alpha) * (dW * dW)
    variance = V
    if M is not None:
        M = alpha * M + (1 - alpha) * dW
        variance = xp.maximum(V - M * M, 0)  # rounding may leave less than 0
    step = dW / (xp.sqrt(variance) + eps)
    if momentum:
        step = B = momentum * B + step
    return W - lr * step, V, M, B


@op
def adagrad(
    W: Any, dW: Any, S: Any, lr: Any, start: float, eps: float, weight_decay: float
) -> tuple[Any, Any]:
    """W' = W - lr dW / (sqrt(start + S') + eps)   S' = S + dW^2, 0 at first

    weight_decay adds weight_decay W to dW.
    """
    if weight_decay:
        dW = dW + weight_decay * W
    S = S + dW * dW
    return W - lr * (dW / (array_namespace(W).sqrt(start + S) + eps)), S


@op
def lion(W: Any, dW: Any, M: Any, lr: Any, keep: Any, betas: tuple[float, float]) -> tuple[Any, Any]:
    """W' = keep W - lr sign(b1 M + (1 - b1) dW)   M' = b2 M + (1 - b2) dW

    M is 0 at first.   keep = 1 - lr weight_decay
    """
    b1, b2 = betas
    W = keep * W - lr * array_namespace(W).sign(b1 * M + (1 - b1) * dW)
    return W, b2 * M + (1 - b2) * dW


@op
def muon(
    W: Any,
    dW: Any,
    M: Any,
    lr: Any,
    keep: Any,
    scale: float,
    momentum: float,
    nesterov: bool,
    ns_coefficients: tuple[float, float, float],
    eps: float,
    ns_steps: int,
) -> tuple[Any, Any]:
    """W' = keep W - lr scale O   M' = m M + (1 - m) dW, 0 at first   O = newton_schulz(M'), W: (r, c)

    nesterov: O = newton_schulz(m M' + (1 - m) dW).   keep = 1 - lr weight_decay
    """
    M = momentum * M + (1 - momentum) * dW
    U = momentum * M + (1 - momentum) * dW if nesterov else M
    return keep * W - lr * (scale * newton_schulz(U, ns_coefficients, eps, ns_steps)), M


@op
def newton_schulz(U: Any, coefficients: tuple[float, float, float], eps: float, steps: int) -> Any:
    """U with its singular values x replaced by p(p(...p(x / |U|))), p(x) = a x + b x^3 + c x^5.   U: (r, c)

    a b c are such that all of them come near 1. In U's own precision; torch does it in bfloat16.
    """
    xp = array_namespace(U)
    a, b, c = coefficients
    tall = U.shape[0] > U.shape[1]
    X = xp.matrix_transpose(U) if tall else U  # the smaller of the two products
    X = X / xp.maximum(xp.sqrt(xp.sum(X * X)), eps)
    for _ in range(steps):
        G = matmul(X, xp.matrix_transpose(X))
        X = a * X + matmul(b * G + c * matmul(G, G), X)
    return xp.matrix_transpose(X) if tall else X
