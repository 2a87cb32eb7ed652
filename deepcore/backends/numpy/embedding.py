"""Scatter-add on NumPy."""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy.conv import quiet
from deepcore.backends.numpy.memory import empty

_FEW = 8  # so few rows are added in float32; of more, each step would lose a digit


@quiet
def scatter_add(index: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Sorted by index, equal indices are a run. Of short runs, first rows are stored, second ones added ...

    Long runs are added by bincount, in float64.
    """
    index, rows = index.reshape(-1), rows.reshape(index.size, rows.shape[-1])
    out = empty((n, rows.shape[1]), rows.dtype)
    out.fill(0)
    if not index.size:
        return out
    order = index.argsort(kind="stable")
    in_order = index[order]
    starts = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
    lengths = np.diff(starts, append=index.size)
    few = _FEW if rows.dtype.itemsize >= 4 else 0
    for k in range(min(lengths.max(), few)):
        k_th = starts[(lengths > k) & (lengths <= few)] + k
        part = rows.take(order[k_th], axis=0)
        if k:
            part += out[in_order[k_th]]
        out[in_order[k_th]] = part
    long = lengths > few
    if long.any():
        places = order[np.repeat(long, lengths)]
        run = np.repeat(np.arange(np.count_nonzero(long)), lengths[long])
        out[in_order[starts[long]]] = _sums_of_runs(run, rows.take(places, axis=0))
    return out


def _sums_of_runs(run: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The sum of the rows of each run, in float64.   run: (i), from 0 on, none left out   rows: (i, d)"""
    d = rows.shape[1]
    element = run[:, None] * d + np.arange(d)  # (i) -> (i, d)
    return np.bincount(element.reshape(-1), rows.reshape(-1)).reshape(-1, d)
