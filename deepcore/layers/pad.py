"""Borders: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

import operator
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops import pad


class Pad(Function):
    """A border around the last `rank` axes. Abstract: use Pad1D, Pad2D or Pad3D."""

    traceable = True
    wants_floats = True
    rank: int

    def __init__(self, padding: Any, mode: str = "constant", value: float = 0.0):
        super().__init__()
        who = type(self).__name__
        self.padding = padding
        self._pads = _pairs(padding, self.rank, who)
        if mode not in pad.MODES:
            raise ArgumentError(f"{who}: mode must be one of {', '.join(pad.MODES)}, got {mode!r}")
        self.mode = mode
        try:
            self.value = float(value)  # a NumPy float64 would widen the arrays it meets
        except (TypeError, ValueError):
            raise ArgumentError(f"{who}: value must be a number, got {value!r}") from None

    def forward(self, X: Any) -> Any:
        if X.ndim not in (self.rank + 1, self.rank + 2):
            axes = ", ".join(["n", "c", *"dhw"[3 - self.rank :]])
            raise ShapeError(f"{self._who()}: X must have shape ({axes}), got {tuple(X.shape)}")
        most = {"constant": float("inf"), "reflect": -1, "edge": float("inf"), "wrap": 0}[self.mode]
        for n, pair in zip(X.shape[-self.rank :], self._pads, strict=True):
            if max(pair) > n + most or (n == 0 < max(pair) and self.mode != "constant"):
                less = "less than" if self.mode == "reflect" else "at most"
                raise ShapeError(
                    f'{self._who()}: mode "{self.mode}" pads by {less} the size of an axis, '
                    f"got {tuple(X.shape)}; pad in several steps"
                )
        return pad.pad(X, self._pads, self.mode, self.value)

    def backward(self, dY: Any) -> Any:
        return pad.pad_backward(dY, self._pads, self.mode)

    def local_grad(self, X: Any) -> dict[str, Any]:
        """How often each number of X stands in Y."""
        ones = pad.pad(array_namespace(X).ones_like(X), self._pads, self.mode, 1.0)
        return {"X": pad.pad_backward(ones, self._pads, self.mode)}


def _pairs(padding: Any, rank: int, who: str) -> tuple[tuple[int, int], ...]:
    """(before, after) for each axis, from one number for all, or from pairs; for one axis, from one pair."""
    pairs: tuple[tuple[int, int], ...]
    try:
        if not hasattr(padding, "__len__"):
            pairs = ((operator.index(padding), operator.index(padding)),) * rank
        else:
            flat = rank == 1 and len(padding) == 2 and not hasattr(padding[0], "__len__")
            pairs = tuple(
                (operator.index(lo), operator.index(hi)) for lo, hi in ([padding] if flat else padding)
            )
    except (TypeError, ValueError):
        pairs = ()
    if len(pairs) != rank or min(map(min, pairs)) < 0:
        wanted = "one pair (before, after)" if rank == 1 else f"{rank} pairs (before, after)"
        raise ShapeError(f"{who}: padding must be an int >= 0, or {wanted} of them, got {padding!r}")
    return pairs


class Pad1D(Pad):
    """A border along the last axis; see Pad2D.

    X: (n, c, w) or (c, w)   Y: (n, c, before + w + after)   padding: an int, or (before, after)

    >>> import numpy as np
    >>> Pad1D((1, 2), mode="wrap")(np.array([[1.0, 2.0, 3.0]]))
    array([[3., 1., 2., 3., 1., 2.]])
    """

    rank = 1


class Pad2D(Pad):
    """A border around the last two axes, ((before, after) of h, (before, after) of w), or the same all round.

    X: (n, c, h, w) or (c, h, w)   Y: (n, c, before + h + after, before + w + after)

    mode: what the border holds. With a b c d in X,
      "constant"   v v | a b c d | v v     v = value
      "reflect"    c b | a b c d | c b     less than a whole axis
      "edge"       a a | a b c d | d d
      "wrap"       c d | a b c d | a b     at most a whole axis

    Each number of the border is a copy of one of X, so dX is the inner part of dY, plus the gradients of
    the copies; a constant has none. Raises ShapeError if X has other axes, or is too small for the mode.

    >>> import numpy as np
    >>> Pad2D(((1, 0), (0, 2)), mode="edge")(np.array([[[1.0, 2.0]]]))
    array([[[1., 2., 2., 2.],
            [1., 2., 2., 2.]]])
    """

    rank = 2


class Pad3D(Pad):
    """A border around the last three axes; see Pad2D.

    X: (n, c, d, h, w) or (c, d, h, w)   padding: an int, or three pairs (before, after)

    >>> import numpy as np
    >>> Pad3D(1)(np.ones((1, 2, 3, 4, 5))).shape
    (1, 2, 5, 6, 7)
    """

    rank = 3
