"""Class labels on NumPy."""

from __future__ import annotations

import numpy as np


def as_index(y: np.ndarray) -> np.ndarray:
    """Labels as int64."""
    return y if y.dtype is _INT64 else y.astype(np.int64)


def first_bad_label(y: np.ndarray, c: int, ignore_index: int = -100) -> int:
    """Read as unsigned, a negative label is huge: one reduction tells whether all is well."""
    if y.dtype is _INT64 and (not y.size or np.maximum.reduce(y.view(np.uint64), axis=None) < c):
        return -1
    return NotImplemented


_INT64 = np.dtype(np.int64)
