"""The activation that has a weight."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.backends.registry import array_namespace
from deepcore.core.layer import Layer
from deepcore.core.settings import to_number
from deepcore.errors import ShapeError
from deepcore.ops import activation
from deepcore.ops.conv import channel_sum
from deepcore.ops.reduce import column_sum
from deepcore.shapes import channels_first, to_tuple


class PReLU(Layer):
    """Y = X where X > 0, else alpha X, with a slope alpha that is trained.   alpha = 0.25 at first.

    X, Y: (n, c, ...) or of any shape   alpha: (1,), the same for all, or (c,), one for each channel

    dX = dY where X > 0, else alpha dY     dalpha = sum of dY X where X <= 0, over all but the channel

    num_parameters: 1 or c   init: a number, or an initialiser.
    Raises ShapeError if X has other than c channels (its axis 1; without one, c = 1).
    He et al. 2015, arXiv:1502.01852.

    >>> import numpy as np
    >>> PReLU()(np.array([[-1.0, 2.0]]))
    array([[-0.25,  2.  ]], dtype=float32)
    """

    traceable = True

    def __init__(
        self,
        num_parameters: int = 1,
        init: float | str | initialisers.Initialiser = 0.25,
        *,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        (self.num_parameters,) = to_tuple(num_parameters, 1, "PReLU", "num_parameters", least=1)
        self.init = init if callable(init) or isinstance(init, str) else to_number(init, "PReLU", "init")
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        init: Any = initialisers.constant(self.init) if isinstance(self.init, float) else self.init
        self.weight["alpha"] = initialisers.make(init, (self.num_parameters,), 1, 1, dtype, device, self)

    def _slopes(self, X: Any) -> Any:
        """alpha in a shape that broadcasts to X's.   (c,) -> (c, 1, ...)"""
        c = X.shape[1] if X.ndim > 1 else 1
        if self.num_parameters not in (1, c):
            raise ShapeError(
                f"{self._who()}: X must have {self.num_parameters} channels on axis 1, got {tuple(X.shape)}"
                f"{channels_first(X.shape, self.num_parameters, X.ndim - 2)}"
            )
        if self.num_parameters == 1:
            shape: tuple[int, ...] = (1,) * X.ndim
        else:
            shape = (self.num_parameters,) + (1,) * (X.ndim - 2)
        return array_namespace(X).reshape(self.weight["alpha"], shape)

    def forward(self, X: Any) -> Any:
        self.cache["X"] = X
        return activation.prelu(X, self._slopes(X))

    def backward(self, dY: Any) -> Any:
        xp, X = array_namespace(dY), self.cache["X"]
        G = dY * xp.where(X > 0, xp.zeros_like(X), X)
        if self.num_parameters == 1:
            dalpha = column_sum(xp.reshape(G, (math.prod(G.shape), 1)))
        else:
            dalpha = channel_sum(G)
        self.weight_update["alpha"] = xp.reshape(dalpha, (self.num_parameters,))
        return dY * activation.prelu_grad(X, self._slopes(X))

    def local_grad(self, X: Any) -> dict[str, Any]:
        """{"X": 1 or alpha, "alpha": 0 or X}"""
        xp = array_namespace(X)
        return {
            "X": activation.prelu_grad(X, self._slopes(X)),
            "alpha": xp.where(X > 0, xp.zeros_like(X), X),
        }
