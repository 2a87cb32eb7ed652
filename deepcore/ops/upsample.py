"""Larger images, by a whole factor along each of the last axes, and the gradients.

Number q of an axis becomes the s numbers s q ... s q + s - 1, at q + d with d = (r + 1/2) / s - 1/2 for
r = 0 ... s - 1. The nearest number to it is number q; linearly, it lies between q and its neighbour on the
side of d. Beyond the ends, the end itself is the neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op
from deepcore.ops.pad import pad, pad_backward

_EDGES = ((1, 1),)


@op
def upsample(X: Any, scale: Sequence[int], linear: bool) -> Any:
    """(*outer, *sizes) -> (*outer, *scale sizes): the nearest number, or linear between the two nearest."""
    xp = array_namespace(X)
    for axis, s in enumerate(scale, start=X.ndim - len(scale)):
        n, X = X.shape[axis], xp.moveaxis(X, axis, -1)
        parts = [X] * s
        if linear and s > 1:
            P = pad(X, _EDGES, "edge")
            near, before, after = (P[..., i : i + n] for i in (1, 0, 2))
            parts = [
                near if d == 0 else (1 - abs(d)) * near + abs(d) * (before if d < 0 else after)
                for d in offsets(s)
            ]
        X = xp.reshape(xp.stack(parts, axis=-1), (*X.shape[:-1], n * s))  # (..., n, s) -> (..., n s)
        X = xp.moveaxis(X, -1, axis)
    return X


@op
def upsample_backward(dY: Any, scale: Sequence[int], linear: bool) -> Any:
    """dX: each number gets the gradients of those it went into, with the weights it had there."""
    from array_api_extra import at

    xp = array_namespace(dY)
    for axis, s in enumerate(scale, start=dY.ndim - len(scale)):
        dY = xp.moveaxis(dY, axis, -1)
        n = dY.shape[-1] // s
        parts = xp.reshape(dY, (*dY.shape[:-1], n, s))  # (..., n s) -> (..., n, s)
        dP = pad(xp.zeros_like(parts[..., 0]), _EDGES)
        for r, d in enumerate(offsets(s) if linear else [0.0] * s):
            part = parts[..., r]
            dP = at(dP)[..., 1 : n + 1].add((1 - abs(d)) * part if d else part, xp=xp)
            if d:
                i = 0 if d < 0 else 2
                dP = at(dP)[..., i : i + n].add(abs(d) * part, xp=xp)
        dY = xp.moveaxis(pad_backward(dP, _EDGES, "edge"), -1, axis)
    return dY


def offsets(s: int) -> list[float]:
    """How far each of the s numbers that number q becomes lies from q.

    >>> offsets(2)
    [-0.25, 0.25]
    """
    return [(r + 0.5) / s - 0.5 for r in range(s)]
