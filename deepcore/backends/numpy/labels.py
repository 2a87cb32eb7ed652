"""Class labels on NumPy."""

from __future__ import annotations

import numpy as np


def as_index(y: np.ndarray) -> np.ndarray:
    """Labels as int64."""
    return y if y.dtype is _INT64 else y.astype(np.int64)


def all_within(y: np.ndarray, c: int) -> bool:
    """Read as unsigned, a negative label is huge: one reduction tells whether all is well."""
    if y.dtype is not _INT64:
        return NotImplemented
    return not y.size or bool(np.maximum.reduce(y.view(np.uint64), axis=None) < c)


_INT64 = np.dtype(np.int64)
