"""Class labels: integers that index the columns of X."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import dtype_name
from deepcore.ops.dispatch import op


@op
def as_index(y: Any) -> Any:
    """Integer labels in the signed type that indexing wants: ignore_index -100 in uint8 would be 156."""
    xp = array_namespace(y)
    device = backend_of(y).device(y)
    return xp.astype(y, xp.__array_namespace_info__().default_dtypes(device=device)["indexing"])


@op
def all_within(y: Any, c: int) -> bool:
    """Whether every label is one of 0 to c - 1: one look, which waits for the device.

    By arithmetic, because indexing says nothing: a GPU wraps, JAX clamps, NumPy takes -1 for the last.
    """
    i = as_index(y)  # torch compares no uint64; what wraps in int64 is negative there, so out of range too
    return 0 in y.shape or bool(array_namespace(y).all((i >= 0) & (i < c)))


@op
def all_fit(y: Any, c: int, ignore_index: int | None) -> Any:
    """Whether every label is one of 0 to c - 1 or ignore_index: a 0-d bool array, which nobody waits for."""
    return array_namespace(y).logical_not(array_namespace(y).any(_misfits(y, c, ignore_index)))


def first_bad_label(y: Any, c: int, ignore_index: int | None) -> int:
    """Position, in reading order, of the first label that is neither 0 to c - 1 nor ignore_index; else -1."""
    xp = array_namespace(y)
    bad = xp.reshape(_misfits(y, c, ignore_index), (-1,))
    return int(xp.argmax(xp.astype(bad, xp.int8))) if bool(xp.any(bad)) else -1


def _misfits(y: Any, c: int, ignore_index: int | None) -> Any:
    i = as_index(y)
    bad = (i < 0) | (i >= c)
    if ignore_index is None:
        return bad
    if ignore_index >= 0 or not dtype_name(y).startswith("u"):  # no unsigned number is negative
        bad = bad & (i != ignore_index)
    return bad


def all_signs(y: Any) -> Any:
    """Whether every number is -1 or +1: a 0-d bool array, which nobody waits for."""
    xp = array_namespace(y)
    if dtype_name(y).startswith("u"):
        return xp.all(y == 1)
    return xp.all((y == 1) | (y == -1))
