"""Looking up rows, and its transpose: adding into rows."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import is_narrow
from deepcore.ops.dispatch import op


@op
def embedding(W: Any, index: Any, in_doubt: bool = False) -> Any:
    """Y = W[index].   W: (n, d)   index: (...) of integers, 0 <= index < n   Y: (..., d)

    in_doubt: whether an index may be out of range; it then gives a row of NaN.
    """
    xp = array_namespace(W)
    n, d = W.shape
    index_row = xp.reshape(as_index(index), (math.prod(index.shape),))
    if in_doubt:
        good = (index_row >= 0) & (index_row < n)
        rows = xp.take(W, xp.where(good, index_row, 0), axis=0)
        rows = xp.astype(xp.where(good[:, None], rows, math.nan), W.dtype, copy=False)  # CuPy widens bfloat16
    else:
        rows = xp.take(W, index_row, axis=0)
    return xp.reshape(rows, (*index.shape, d))


@op
def scatter_add(index: Any, rows: Any, n: int) -> Any:
    """out[index[i]] += rows[i]: the gradient of `embedding`.

    index: (...) of integers, 0 <= index < n   rows: (..., d)   out: (n, d)

    Sorted by index, equal indices stand together, and a segmented scan adds up each run: after s steps
    v[i] is the sum of the last 2^s rows of its run. An addition is log2(i) deep, no two runs mix, and
    the order is always the same. (A difference of cumulative sums would lose 1e-3.)
    """
    xp = array_namespace(index)
    count, d = math.prod(index.shape), rows.shape[-1]
    device = backend_of(rows).device(rows)
    if count == 0:
        return xp.zeros((n, d), dtype=rows.dtype, device=device)
    index = xp.reshape(as_index(index), (count,))
    order = xp.argsort(index, stable=True)
    index = xp.take(index, order)
    sorted_rows = xp.take(xp.reshape(rows, (count, d)), order, axis=0)
    wide = xp.float32 if is_narrow(rows) else rows.dtype
    sums = segment_sums(index, xp.astype(sorted_rows, wide))
    every = xp.arange(n, dtype=index.dtype, device=device)
    first = xp.searchsorted(index, every, side="left")
    last = xp.searchsorted(index, every, side="right") - 1  # where the whole run is added up
    total = xp.take(sums, xp.where(last > 0, last, xp.zeros_like(last)), axis=0)
    return xp.astype(xp.where((last >= first)[:, None], total, xp.zeros_like(total)), rows.dtype)


def segment_sums(index: Any, v: Any) -> Any:
    """v[i] = the sum of its run's rows up to i.   index: (count) sorted   v: (count, d) -> (count, d)"""
    xp = array_namespace(index)
    step = 1
    while step < index.shape[0]:
        same_run = (index[step:] == index[:-step])[:, None]
        before = xp.where(same_run, v[:-step, ...], xp.zeros_like(v[:-step, ...]))
        v = xp.concat([v[:step, ...], v[step:, ...] + before], axis=0)
        step *= 2
    return v


def as_index(index: Any) -> Any:
    """In the integer type that this library indexes with."""
    xp = array_namespace(index)
    device = backend_of(index).device(index)
    return xp.astype(index, xp.__array_namespace_info__().default_dtypes(device=device)["indexing"])
