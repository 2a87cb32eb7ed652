"""Samples that are read when they are asked for, in place of an array that holds them all."""

from __future__ import annotations

from typing import Any

import numpy as np


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
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The samples of a slice, or of an array of numbers."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        return self.read(rows)
