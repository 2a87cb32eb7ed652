"""Between a data set and a net: hold a part back, and bring the numbers near 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.errors import ArgumentError, DataError


def split(
    X: Any, y: Any, fraction: float = 0.15, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hold a random part of the samples back for testing.

    fraction: of the samples that is held back, 0 < fraction < 1, rounded, but at least one on each side
    Returns X_train, y_train, X_test, y_test. Raises DataError for fewer than two samples.

    >>> X_train, y_train, X_test, y_test = split(np.arange(20).reshape(10, 2), np.arange(10), fraction=0.2)
    >>> X_train.shape, y_test.shape
    ((8, 2), (2,))
    """
    if not 0 < fraction < 1:
        raise ArgumentError(f"split: fraction must be between 0 and 1, got {fraction}")
    n = len(X)
    if n < 2:
        raise DataError(f"split: a part can only be held back from two samples or more, got {n}")
    n_test = min(max(round(fraction * n), 1), n - 1)
    order = np.random.default_rng(seed).permutation(n)
    test, train = order[:n_test], order[n_test:]
    return X[train], y[train], X[test], y[test]


def scale_images(X: np.ndarray) -> np.ndarray:
    """Images as float32: whole numbers, 0 to 255, become 0 to 1; what is floating stays.

    >>> scale_images(np.array([0, 51, 255], dtype="uint8"))
    array([0. , 0.2, 1. ], dtype=float32)
    """
    return X.astype("float32") / np.float32(255) if X.dtype.kind in "iu" else X.astype("float32")


def column_scale(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column: (X - mean) / std is standardised.

    X: (n, d)   mean, std: (d,) float64; std is 1 for a column that never varies

    >>> column_scale(np.array([[1.0, 5.0], [3.0, 5.0]]))
    (array([2., 5.]), array([1., 1.]))
    """
    mean, std = X.mean(axis=0, dtype="float64"), X.std(axis=0, dtype="float64")
    return mean, np.where(std > 0, std, 1.0)
