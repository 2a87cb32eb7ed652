"""How weights move, on NumPy: a block at a time, so that it stays in the cache from step to step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.memory import empty, empty_like
from deepcore.backends.quiet import quietly

_WORTH_IT = 32768  # elements from which on blocks are faster
_BLOCK = 131072  # elements; of smaller ones, threads would wait for each other's Python between them
_SHARE = 131072  # elements that are worth a thread
_WORTH_ONE_PASS = 1 << 20  # elements from which on blocks pay where a call multiplies and another subtracts


@quietly
def sgd(
    W: np.ndarray,
    dW: np.ndarray,
    V: np.ndarray | None,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    later: Any = None,
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray | None]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not _worth_blocks(W, dW) or nesterov or weight_decay or (V is None and W.size < _WORTH_ONE_PASS):
        return NotImplemented
    W_new = empty_like(W) if out[0] is None else out[0]
    V_new = V if V is None else empty_like(V) if out[1] is None else out[1]

    def part(first: int, last: int) -> None:
        if V is None or V_new is None:
            for w, dw, w_new in _blocks(first, last, W, dW, W_new):
                np.multiply(dw, lr, out=w_new)
                np.subtract(w, w_new, out=w_new)
            return
        for w, dw, v, w_new, v_new in _blocks(first, last, W, dW, V, W_new, V_new):
            np.multiply(v, momentum, out=v_new)
            v_new += dw
            np.multiply(v_new, lr, out=w_new)
            np.subtract(w, w_new, out=w_new)

    threads.share(part, W.size, _SHARE if V is not None else _WORTH_ONE_PASS // 2)
    return W_new, V_new


@quietly
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
    later: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W' = keep W - rate M' / (sqrt V' / root + eps), M' = b1 M + (1 - b1) dW, V' = b2 V + (1 - b2) dW^2

    As (sqrt V' + eps root) and rate root: one pass fewer.
    """
    if not _worth_blocks(W, dW):
        return NotImplemented
    b1, b2 = betas
    # rounded once, whether they are numbers or a program's arrays
    rate, root = W.dtype.type(rate), W.dtype.type(root)
    W_new, M_new, V_new = empty_like(W), empty_like(M), empty_like(V)

    def part(first: int, last: int) -> None:
        scratch = empty((min(_BLOCK, last - first),), W.dtype)
        for w, dw, m, v, w_new, m_new, v_new in _blocks(first, last, W, dW, M, V, W_new, M_new, V_new):
            move = scratch[: w.size]
            if weight_decay:
                dw = np.add(dw, np.multiply(w, weight_decay, out=w_new), out=w_new)
            np.multiply(dw, dw, out=move)
            move *= 1 - b2
            np.multiply(v, b2, out=v_new)
            v_new += move
            np.multiply(dw, 1 - b1, out=move)
            np.multiply(m, b1, out=m_new)
            m_new += move
            np.sqrt(v_new, out=move)
            move += eps * root
            np.divide(m_new, move, out=move)
            move *= rate * root
            np.subtract(w if keep is None else np.multiply(w, keep, out=w_new), move, out=w_new)

    threads.share(part, W.size, _SHARE)
    return W_new, M_new, V_new


def _worth_blocks(W: np.ndarray, dW: np.ndarray) -> bool:
    """Whether there is enough to do, on arrays that can be cut into blocks."""
    return W.size > _WORTH_IT and W.dtype.itemsize >= 4 and W.flags.c_contiguous and dW.flags.c_contiguous


def _blocks(first: int, last: int, *arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    """Elements first .. last of the arrays, all of one size, as views of 131072 elements at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(first, last, _BLOCK):
        yield [array[start : min(start + _BLOCK, last)] for array in flat]
