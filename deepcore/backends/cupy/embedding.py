"""The gradient of an embedding on CuPy: sorted, then each row summed by itself."""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy.kernels import aligned, kernel, serves

_WARPS = 8  # of a block, each with a row


def scatter_add(index: Any, rows: Any, n: int) -> Any:
    """out[index[i]] += rows[i], in the order of i"""
    if not serves(rows) or index.size == 0:
        return NotImplemented
    index, d = cupy.ascontiguousarray(index, cupy.int64).reshape(-1), rows.shape[-1]
    order = cupy.argsort(index, kind="stable")
    first = cupy.searchsorted(index[order], cupy.arange(n + 1)).astype(cupy.int64, copy=False)
    out = cupy.empty((n, d), rows.dtype)
    launch = (-(-n // _WARPS),), (32, _WARPS)
    kernel("embedding", "scatter_add", rows.dtype)(*launch, (aligned(rows), order, first, out, n, d))
    return out
