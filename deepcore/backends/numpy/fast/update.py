"""Update rules in one pass over the weights, where NumPy makes one for each operation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.numpy.fast.compiled import WORTH_THREADS, Kernel, alike, flat, plain
from deepcore.backends.numpy.fast.elementary import widest_vectors
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.memory import empty


def sgd(
    W: np.ndarray,
    dW: np.ndarray,
    V: Any,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    later: list[Callable[[], None]] | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not (alike(W, dW, V) if momentum else alike(W, dW)):
        return NotImplemented
    numbers = _numbers(W, lr, momentum, weight_decay)
    if momentum:
        return _moved(_sgd_with_momentum, (W, V), dW, (*numbers, bool(nesterov)), later)
    return *_moved(_sgd, (W,), dW, numbers, later), None


@Kernel
def _sgd(W, dW, lr, _, weight_decay, new_W):
    to_W = W if new_W is None else new_W
    for i in range(W.size):
        to_W[i] = W[i] - lr * (dW[i] + weight_decay * W[i] if weight_decay else dW[i])


@Kernel
def _sgd_with_momentum(W, V, dW, lr, momentum, weight_decay, nesterov, new_W, new_V):
    to_W, to_V = W if new_W is None else new_W, V if new_V is None else new_V
    for i in range(W.size):
        dw = dW[i] + weight_decay * W[i] if weight_decay else dW[i]
        v = momentum * V[i] + dw
        to_V[i] = v
        to_W[i] = W[i] - lr * (dw + momentum * v if nesterov else v)


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
    later: list[Callable[[], None]] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W' = keep W - rate M' / (sqrt V' / root + eps), M' = b1 M + (1 - b1) dW, V' = b2 V + (1 - b2) dW^2"""
    if not alike(W, dW, M, V):
        return NotImplemented
    b1, b2 = betas
    rate, root = _numbers(W, rate, root)  # rounded once, whether numbers or arrays of a program
    rate, eps = rate * root, eps * root  # a division less: rate M' / (sqrt V' / root + eps)
    numbers = _numbers(W, rate, b1, 1 - b1, b2, 1 - b2, eps, weight_decay, 1 if keep is None else keep)
    return _moved(_adam, (W, M, V), dW, numbers, later)


@Kernel
def _adam(W, M, V, dW, rate, b1, b1_rest, b2, b2_rest, eps, weight_decay, keep, new_W, new_M, new_V):
    to_W = W if new_W is None else new_W
    to_M, to_V = M if new_M is None else new_M, V if new_V is None else new_V
    for i in range(W.size):
        widest_vectors()
        dw = dW[i] + weight_decay * W[i] if weight_decay else dW[i]
        m = b1 * M[i] + b1_rest * dw
        v = b2 * V[i] + b2_rest * (dw * dw)
        to_M[i] = m
        to_V[i] = v
        to_W[i] = keep * W[i] - rate * (m / (math.sqrt(v) + eps))


def _numbers(W: np.ndarray, *numbers: Any) -> tuple[Any, ...]:
    """Numbers and 0-d arrays in W's dtype."""
    return tuple(W.dtype.type(number) for number in numbers)


def _moved(
    kernel: Kernel, old: tuple[np.ndarray, ...], dW: np.ndarray, numbers: tuple[Any, ...], later: Any
) -> Any:
    """W and what is remembered, moved: new arrays, or, if it may be done later, the old ones.

    To write where one has read takes half the time of writing elsewhere, which must be fetched first.
    """
    arguments = *map(flat, old), flat(dW), *numbers
    if later is not None and all(plain(x) is x for x in old):
        later.append(_call(kernel, old[0].size, *arguments, *(None for _ in old)))
        return old
    new = tuple(empty(x.shape, x.dtype) for x in old)
    kernel(old[0].size, *arguments, *(x.reshape(-1) for x in new))
    return new


_prepared: set[tuple[Any, ...]] = set()


def _call(kernel: Kernel, elements: int, *arguments: Any) -> Callable[[], None]:
    """A call of a kernel that runs no Python: it has been compiled before, and waits for nobody's turn."""
    parts = pool.count() if elements >= WORTH_THREADS else 1
    kind = kernel, arguments[0].dtype, parts > 1
    if kind not in _prepared:
        kernel(elements, *(x[:0] if isinstance(x, np.ndarray) else x for x in arguments))
        _prepared.add(kind)
    in_threads = parts > 1 and pool.layer in ("omp", "tbb")
    return functools.partial(kernel.in_parts, parts, in_threads, *arguments)
