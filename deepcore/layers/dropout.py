"""Noise that keeps a net from relying on any single number."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.core.random import current_generator
from deepcore.core.settings import to_number
from deepcore.errors import ShapeError
from deepcore.ops import random


class Dropout(Function):
    """In training, each number is dropped with probability p and the others grow: Y = X M / (1 - p).

    M: 0 or 1, drawn anew at each call; the same bits on every backend for one seed. In evaluation Y = X.
    p: fraction dropped, 0 <= p <= 1, else ArgumentError; of 1 nothing is left.   dX = dY M / (1 - p).
    Srivastava et al. 2014.

    >>> import numpy as np
    >>> layer = Dropout(0.5)
    >>> layer.training = False
    >>> layer(np.array([1.0, 2.0]))
    array([1., 2.])
    """

    traceable = True
    wants_floats = True

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = to_number(p, type(self).__name__, "p, the fraction dropped,", least=0, most=1)

    def forward(self, X: Any) -> Any:
        if not self.training or self.p == 0:
            self.cache["M"] = None
            return X
        generator = current_generator()
        call = generator.next_call("dropout")
        kept = random.keep_mask(X, self._mask_shape(X), self.p, generator.seed, "dropout", call)
        xp = array_namespace(X)
        M = xp.astype(kept, X.dtype)
        if self.p < 1:  # else all 0; CuPy's bfloat16 over a Python float is float32
            M = xp.astype(M / (1 - self.p), X.dtype, copy=False)
        self.cache["M"] = M
        return X * M

    def _mask_shape(self, X: Any) -> tuple[int, ...]:
        """A number of the mask for each number of X."""
        return tuple(X.shape)

    def backward(self, dY: Any) -> Any:
        M = self.cache["M"]
        return dY if M is None else dY * M

    def local_grad(self, X: Any) -> dict[str, Any]:
        """The mask of the last call."""
        M = self.cache["M"]
        return {"X": array_namespace(X).ones_like(X) if M is None else M}


class Dropout2D(Dropout):
    """In training, each channel of each image is dropped whole with probability p: Y = X M / (1 - p).

    X: (n, c, h, w)   M: (n, c, 1, 1) of 0 or 1, as Dropout draws it.   dX = dY M / (1 - p).
    Neighbouring pixels say nearly the same, so that single ones are not missed; a whole channel is.
    p: fraction dropped, 0 <= p <= 1. Raises ShapeError, in training, if X has other axes.
    Tompson et al. 2015, arXiv:1411.4280.

    >>> import numpy as np
    >>> Y = Dropout2D(0.5)(np.ones((2, 3, 4, 4)))
    >>> bool((Y == Y[:, :, :1, :1]).all())
    True
    """

    def _mask_shape(self, X: Any) -> tuple[int, ...]:
        if X.ndim != 4:
            raise ShapeError(f"{self._who()}: X must have shape (n, c, h, w), got {tuple(X.shape)}")
        return (X.shape[0], X.shape[1], 1, 1)
