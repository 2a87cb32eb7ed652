"""Batches: slices of arrays in a given order, or whatever an iterable gives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import is_floating, put
from deepcore.data.rows import Rows
from deepcore.errors import ArgumentError, DataError, DTypeError


class Arrays:
    """Samples and targets that lie in arrays: NumPy's, memory maps, data frames, Rows, or a backend's own.

    X: (n, ...)   y: (n, ...) or None
    Raises DataError if their lengths differ, or if there is no sample.
    """

    def __init__(self, X: Any, y: Any = None):
        self.X = _as_rows(X, "X")
        self.y = None if y is None else _as_rows(y, "y")
        self.n = self.X.shape[0]
        if self.y is not None and self.y.shape[0] != self.n:
            raise DataError(f"X has {self.n} samples, y has {self.y.shape[0]}; they must be as many")

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> Iterator[tuple[Any, Any]]:
        """(X, y) of batch_size samples each, the last maybe smaller, in reading order or in another.

        What lies on a disk is read ahead, by a thread.
        """
        batches = self._batches(batch_size, order)
        if not isinstance(self.X, Rows | np.memmap):
            return batches
        from deepcore.data.prefetch import Prefetch  # with its queue: 1 ms that few need

        return iter(Prefetch(batches))

    def _batches(self, batch_size: int, order: np.ndarray | None) -> Iterator[tuple[Any, Any]]:
        for start in range(0, self.n, batch_size):
            if order is None:
                rows: Any = slice(start, min(start + batch_size, self.n))
            else:
                rows = order[start : start + batch_size]
            yield take_rows(self.X, rows), None if self.y is None else take_rows(self.y, rows)


def whole(x: Any) -> Any:
    """x as one array: itself, unless it is Rows."""
    return x[:] if isinstance(x, Rows) else x


def _as_rows(x: Any, name: str) -> Any:
    if isinstance(x, Rows):
        if not isinstance(getattr(x, "shape", None), tuple):
            raise DataError(f"{type(x).__name__}: write its shape, (n, ...), as of an array of all samples")
        if name == "y":
            raise DTypeError(f"y: wanted an array, got {type(x).__name__}; Rows can be X alone")
        return x
    if not is_array(x):
        if isinstance(x, tuple) and any(map(is_array, x)):
            raise DTypeError(
                f"{name}: wanted one array, got a tuple of {len(x)}; make one of them with numpy.stack, "
                "or call a net of several inputs by hand: net(*inputs), in deepcore.inference() to predict"
            )
        given, x = x, _from_sequence(x, name)
        if x.dtype.kind == "O" and hasattr(given, "columns"):
            x = _from_frame(given, name)
        if x.dtype.kind not in "biufc":
            raise DTypeError(f"{name}: wanted numbers, got {type(given).__name__} of dtype {x.dtype}")
    if x.ndim == 0:
        raise DataError(f"{name}: wanted an array with an axis of samples, got a single number")
    return x


def _from_sequence(x: Any, name: str) -> np.ndarray:
    if hasattr(x, "collect"):  # of polars, and others that put their work off
        raise DTypeError(f"{name}: a {type(x).__name__} has yet to be computed; pass {name}.collect()")
    if np.ma.is_masked(x):
        raise DTypeError(f"{name}: its mask would be lost; say what the masked numbers are: x.filled(0)")
    try:
        return np.asarray(x)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise DataError(f"{name}: the samples differ in length or shape; pad the short ones") from None


def _from_frame(frame: Any, name: str) -> np.ndarray:
    """(n, columns) from a data frame whose columns are of several types, or may have missing values."""
    columns = {column: np.asarray(frame[column]) for column in frame.columns}
    for column, x in columns.items():
        if x.dtype.kind not in "biufc":
            raise DTypeError(
                f"{name}: column {column!r} holds more than numbers (dtype {x.dtype}); make numbers "
                "of it, fill what is missing, or leave it out"
            )
    return np.column_stack(list(columns.values()))


def take_rows(x: Any, rows: Any) -> Any:
    """Some rows of x, on x's own library."""
    if isinstance(x, np.ndarray | Rows):
        return x[rows]
    if isinstance(rows, slice):
        return x[rows, ...]
    return array_namespace(x).take(x, beside(x, rows), axis=0)


def beside(target: Any, x: Any) -> Any:
    """x as an array where `target` lives; floating numbers in its dtype, if that is floating too.

    (The net would cast them anyway; but not every library has the float64 that NumPy gives.)
    """
    backend = backend_of(target)
    dtype = target.dtype if is_floating(target) and is_floating(x) else None
    return put(x, backend, dtype, backend.device(target))


def pairs(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """(X, y) from any iterable of such pairs. Raises DataError for anything else."""
    for item in batches:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"batches: wanted pairs (X, y), got {type(item).__name__}")
        X, y = item
        yield _as_rows(X, "X"), _as_rows(y, "y")


def check_batch_size(batch_size: Any) -> int:
    """batch_size itself if it is a whole number of 1 or more, else ArgumentError."""
    if isinstance(batch_size, bool) or not hasattr(batch_size, "__index__") or int(batch_size) < 1:
        raise ArgumentError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}")
    return int(batch_size)
