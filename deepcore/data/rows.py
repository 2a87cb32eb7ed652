"""Samples that are read when they are asked for, in place of an array that holds them all."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.errors import DataError, UnsupportedError


class Rows:
    """Samples by number, wherever they come from. Abstract: write `shape` and `read`.

    shape: (n, ...), as of the array that would hold them all
    read(rows): the samples with these numbers, an integer array, as an array of NumPy's (len(rows), ...)

    `net.fit(X, y)`, `evaluate` and `predict` take it in place of the array X; `fit` reads the next batches
    while it trains, in a thread: so `read` must not depend on which thread it is in.

    >>> class Squares(Rows):
    ...     shape = (10, 1)
    ...
    ...     def read(self, rows):
    ...         return rows[:, None] ** 2.0
    >>> Squares()[2:4]
    array([[4.],
           [9.]])
    """

    shape: tuple[int, ...]

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The samples with these numbers."""
        raise UnsupportedError(f"{type(self).__name__}: write read(rows), which returns the samples rows")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The samples of a slice, or of an array of numbers; or one sample, by its number.

        Raises DataError unless `read` returns an array of as many samples as it was asked for.
        """
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        if hasattr(rows, "__index__") and np.ndim(rows) == 0:
            return self[np.array([range(len(self))[rows]])][0]
        X = self.read(rows)
        if not isinstance(X, np.ndarray) or X.shape[:1] != np.shape(rows):
            who, n = type(self).__name__, np.size(rows)
            got = f"an array of shape {X.shape}" if isinstance(X, np.ndarray) else type(X).__name__
            raise DataError(f"{who}: read must return a NumPy array of {n} samples here, got {got}")
        return X
