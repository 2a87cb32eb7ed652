"""Update rules in one pass over the weights, where NumPy makes one for each operation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.numpy.fast.compiled import Kernel, flat, served
from deepcore.backends.numpy.fast.elementary import widest_vectors
from deepcore.backends.numpy.memory import empty


def sgd(
    W: np.ndarray, dW: np.ndarray, V: Any, lr: Any, momentum: float, nesterov: bool, weight_decay: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not (served(W, dW, V) if momentum else served(W, dW)):
        return NotImplemented
    (new_W, new_V), flat = _results(W, 2 if momentum else 1)
    numbers = _numbers(W, lr, momentum, weight_decay)
    if momentum:
        _sgd_with_momentum(W.size, *_all_flat(W, dW, V), *numbers, nesterov, *flat)
        return new_W, new_V
    _sgd(W.size, *_all_flat(W, dW), *numbers, *flat)
    return new_W, None


@Kernel
def _sgd(W, dW, lr, _, weight_decay, new_W):
    for i in range(W.size):
        new_W[i] = W[i] - lr * (dW[i] + weight_decay * W[i] if weight_decay else dW[i])


@Kernel
def _sgd_with_momentum(W, dW, V, lr, momentum, weight_decay, nesterov, new_W, new_V):
    for i in range(W.size):
        dw = dW[i] + weight_decay * W[i] if weight_decay else dW[i]
        v = momentum * V[i] + dw
        new_V[i] = v
        new_W[i] = W[i] - lr * (dw + momentum * v if nesterov else v)


def adam(
    W: np.ndarray,
    dW: np.ndarray,
    M: np.ndarray,
    V: np.ndarray,
    rate: Any,
    root: Any,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    keep: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W' = keep W - rate M' / (sqrt V' / root + eps), M' = b1 M + (1 - b1) dW, V' = b2 V + (1 - b2) dW^2"""
    if not served(W, dW, M, V):
        return NotImplemented
    results, flat = _results(W, 3)
    b1, b2 = betas
    rate, eps = rate * root, eps * root  # a division less: rate M' / (sqrt V' / root + eps)
    numbers = _numbers(W, rate, b1, 1 - b1, b2, 1 - b2, eps, weight_decay, 1 if keep is None else keep)
    _adam(W.size, *_all_flat(W, dW, M, V), *numbers, *flat)
    return results


@Kernel
def _adam(W, dW, M, V, rate, b1, b1_rest, b2, b2_rest, eps, weight_decay, keep, new_W, new_M, new_V):
    for i in range(W.size):
        widest_vectors()
        dw = dW[i] + weight_decay * W[i] if weight_decay else dW[i]
        m = b1 * M[i] + b1_rest * dw
        v = b2 * V[i] + b2_rest * (dw * dw)
        new_M[i] = m
        new_V[i] = v
        new_W[i] = keep * W[i] - rate * (m / (math.sqrt(v) + eps))


def _results(W: np.ndarray, count: int) -> tuple[Any, Any]:
    """New arrays like W, and each of them as a row of numbers."""
    results = tuple(empty(W.shape, W.dtype) for _ in range(count))
    return (
        (results, tuple(x.reshape(-1) for x in results))
        if count != 1
        else ((*results, None), _all_flat(*results))
    )


def _all_flat(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(map(flat, arrays))


def _numbers(W: np.ndarray, *numbers: Any) -> tuple[Any, ...]:
    """Numbers and 0-d arrays in W's dtype."""
    return tuple(W.dtype.type(number) for number in numbers)
