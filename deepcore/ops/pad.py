"""Borders around arrays, along their last axes.

X: (*outer, *sizes)   Y: (*outer, *sizes + before + after), one pair (before, after) for each of sizes
A border of constants has no gradient. In the other modes each line of the border is a copy of a line of
X, to which its gradient goes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.ops.dispatch import op
from deepcore.shapes import Padding

MODES = ("constant", "reflect", "edge", "wrap")


@op
def pad(X: Any, padding: Padding, mode: str = "constant", value: float = 0.0) -> Any:
    """Y = X with a border.   mode: one of MODES   value: what a constant border holds"""
    xp = array_namespace(X)
    for axis, (before, after) in enumerate(padding, start=X.ndim - len(padding)):
        if mode == "constant":
            lo, hi = ([_constant(X, axis, size, value)] for size in (before, after))
        else:
            lines = [X[_line(axis, source)] for _, source in _border(X.shape[axis], before, after, mode)]
            lo, hi = lines[:before], lines[before:]
        if before or after:
            X = xp.concat([*lo, X, *hi], axis=axis)
    return X


@op
def pad_backward(dY: Any, padding: Padding, mode: str = "constant") -> Any:
    """dX = the inner part of dY, and what the copies of each line got."""
    from array_api_extra import at

    xp = array_namespace(dY)
    for axis, (before, after) in reversed(list(enumerate(padding, start=dY.ndim - len(padding)))):
        n = dY.shape[axis] - before - after
        dX = dY[(*_all(axis), slice(before, before + n), ...)]
        if mode != "constant" and (before or after):
            dX = xp.asarray(dX, copy=True)
            for place, source in _border(n, before, after, mode):
                line = dY[_line(axis, before + place)]
                dX = at(dX)[_line(axis, source)].add(line, xp=xp)
        dY = dX
    return dY


def _border(n: int, before: int, after: int, mode: str) -> Iterator[tuple[int, int]]:
    """Each place of the border, -before ... -1 and n ... n + after - 1, and the line that it copies."""
    for place in (*range(-before, 0), *range(n, n + after)):
        if mode == "edge":
            source = min(max(place, 0), n - 1)
        elif mode == "wrap":
            source = place % n
        else:  # reflect: the first and the last line are the mirrors, and stand but once
            source = abs(place) if place < n else 2 * (n - 1) - place
        yield place, source


def _line(axis: int, i: int) -> tuple[Any, ...]:
    """The index of line i, which keeps its axis."""
    return (*_all(axis), slice(i, i + 1), ...)


def _all(axis: int) -> tuple[slice, ...]:
    return (slice(None),) * axis


def _constant(X: Any, axis: int, size: int, value: float) -> Any:
    shape = (*X.shape[:axis], size, *X.shape[axis + 1 :])
    return array_namespace(X).full(shape, value, dtype=X.dtype, device=backend_of(X).device(X))
