"""Looking up rows; scatter-add by a counting sort: each row then is the sum of its own, in float64."""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.fast.compiled import (
    WORTH_COMPILED,
    InParts,
    compiled,
    flat,
    plain,
    row,
    served,
    share,
)
from deepcore.backends.numpy.memory import empty


def embedding(W: np.ndarray, index: np.ndarray, in_doubt: bool = False) -> np.ndarray:
    """Y = W[index]"""
    d = W.shape[1]
    if in_doubt or index.dtype != np.int64 or index.size * d < WORTH_COMPILED or not served(W, least=1):
        return NotImplemented
    Y = empty((index.size, d), W.dtype)
    _take(Y.size, plain(W), flat(index), Y)
    return Y.reshape(*index.shape, d)


@InParts
def _take(part, parts, W, index, Y):
    for i in share(len(index), part, parts):
        _copy(W[index[i]], Y[i])


@row
def _copy(x, y):
    for j in range(len(x)):
        y[j] = x[j]


def scatter_add(index: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """out[index[i]] += rows[i]"""
    if index.dtype != np.int64 or not served(rows) or rows.shape[:-1] != index.shape:
        return NotImplemented
    start, order = np.zeros(n + 1, np.int64), np.empty(index.size, np.int64)
    if not _sort(plain(index).reshape(-1), start, order):
        return NotImplemented
    out = empty((n, rows.shape[-1]), rows.dtype)
    _add_runs(rows.size, plain(rows).reshape(-1, rows.shape[-1]), start, order, out)
    return out


@compiled
def _sort(index, start, order):
    """order[start[k] : start[k + 1]]: where k stands in index. False if a number is out of range."""
    n = len(start) - 1
    for k in index:
        if not 0 <= k < n:
            return False
        start[k + 1] += 1
    for k in range(n):
        start[k + 1] += start[k]
    free = start[:-1].copy()
    for i in range(len(index)):
        order[free[index[i]]] = i
        free[index[i]] += 1
    return True


@InParts
def _add_runs(part, parts, rows, start, order, out):
    s = np.empty(rows.shape[1])
    for k in share(len(out), part, parts):
        if start[k + 1] == start[k]:
            out[k, :] = 0
        elif start[k + 1] == start[k] + 1:
            _copy(rows[order[start[k]]], out[k])
        else:
            s[:] = 0
            for i in range(start[k], start[k + 1]):
                _add(rows[order[i]], s)
            _copy(s, out[k])


@row
def _add(x, s):
    for j in range(len(x)):
        s[j] += x[j]
