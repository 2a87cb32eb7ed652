"""Accurate sums on CuPy."""

from __future__ import annotations

from typing import Any

import cupy


def column_sum(X: Any) -> Any:
    """Accumulated in float64, as the array is read: the memory is the limit, not the arithmetic."""
    if X.dtype.name == "bfloat16":  # CuPy has no sum of these
        return NotImplemented
    return cupy.sum(X, axis=0, keepdims=True, dtype=cupy.float64).astype(X.dtype, copy=False)
