"""How weights move, on NumPy: a block at a time, so that it stays in the cache from step to step."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.memory import empty, empty_like

_BLOCK = 32768  # elements
_LONG = (
    131072  # elements that keep a call of NumPy's busy for 30 us, so that threads don't wait for each other
)
_SHARE = 1 << 19  # elements that are worth a thread
_quiet = np.errstate(over="ignore", invalid="ignore")  # an overflow shows in the result


@_quiet
def sgd(
    W: np.ndarray,
    dW: np.ndarray,
    V: np.ndarray | None,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    out: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
) -> tuple[np.ndarray, np.ndarray | None]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not _worth_blocks(W, dW) or nesterov or weight_decay or (V is None and W.size < 2 * _SHARE):
        return NotImplemented
    W_new = empty_like(W) if out[0] is None else out[0]
    if V is None:
        threads.share(functools.partial(_downhill, W, dW, lr, W_new), W.size, _SHARE)
        return W_new, None
    V_new = empty_like(V) if out[1] is None else out[1]
    for w, dw, v, w_new, v_new in _blocks(W, dW, V, W_new, V_new):
        np.multiply(v, momentum, out=v_new)
        v_new += dw
        np.multiply(v_new, lr, out=w_new)
        np.subtract(w, w_new, out=w_new)
    return W_new, V_new


def _downhill(W: np.ndarray, dW: np.ndarray, lr: Any, W_new: np.ndarray, first: int, last: int) -> None:
    """W' = W - lr dW, elements first to last."""
    W, dW, W_new = (array.reshape(-1) for array in (W, dW, W_new))
    for start in range(first, last, _LONG):
        block = slice(start, min(start + _LONG, last))
        np.multiply(dW[block], lr, out=W_new[block])
        np.subtract(W[block], W_new[block], out=W_new[block])


@_quiet
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
    """W' = keep W - rate M' / (sqrt V' / root + eps), M' = b1 M + (1 - b1) dW, V' = b2 V + (1 - b2) dW^2

    As (sqrt V' + eps root) and rate root: one pass fewer.
    """
    if not _worth_blocks(W, dW):
        return NotImplemented
    b1, b2 = betas
    W_new, M_new, V_new = empty_like(W), empty_like(M), empty_like(V)
    scratch = empty((min(_BLOCK, W.size),), W.dtype)
    for w, dw, m, v, w_new, m_new, v_new in _blocks(W, dW, M, V, W_new, M_new, V_new):
        part = scratch[: w.size]
        if weight_decay:
            dw = dw + weight_decay * w
        np.multiply(dw, dw, out=part)
        part *= 1 - b2
        np.multiply(v, b2, out=v_new)
        v_new += part
        np.multiply(dw, 1 - b1, out=part)
        np.multiply(m, b1, out=m_new)
        m_new += part
        np.sqrt(v_new, out=part)
        part += eps * root
        np.divide(m_new, part, out=part)
        part *= rate * root
        np.subtract(w if keep is None else np.multiply(w, keep, out=w_new), part, out=w_new)
    return W_new, M_new, V_new


def _worth_blocks(W: np.ndarray, dW: np.ndarray) -> bool:
    """Whether there is enough to do, on arrays that can be cut into blocks."""
    return W.size > _BLOCK and W.dtype.itemsize >= 4 and W.flags.c_contiguous and dW.flags.c_contiguous


def _blocks(*arrays: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The arrays, all of one size, as views of 32768 elements at a time."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield [array[start : start + _BLOCK] for array in flat]
