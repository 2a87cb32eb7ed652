"""The affine map."""

from __future__ import annotations

from typing import Any

from deepcore import init as initialisers
from deepcore.core.layer import Layer
from deepcore.errors import ShapeError
from deepcore.ops import linear
from deepcore.shapes import to_tuple


class Linear(Layer):
    """Y = X W + b, over the last axis.

    X: (..., i)   W: (i, o)   b: (1, o)   Y, dY: (..., o)
    W ~ N(0, 1/i) ("lecun_normal"), b = 0.

    By the chain rule, with sums over all rows of X:

    dX = dY W^T     dW = X^T dY     db = sum dY

    Raises ShapeError if X does not end in i or W is not (i, o), DTypeError if X holds integers.

    >>> import numpy as np
    >>> layer = Linear(2, 1, init="ones")
    >>> layer(np.array([[1.0, 2.0]]))
    array([[3.]], dtype=float32)
    >>> layer.backward(np.array([[1.0]], dtype="float32"))
    array([[1., 1.]], dtype=float32)
    >>> layer.weight_update["W"]
    array([[1.],
           [2.]], dtype=float32)
    """

    traceable = True

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        bias: bool = True,
        *,
        init: str | initialisers.Initialiser = "lecun_normal",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        (self.in_dim,) = to_tuple(in_dim, 1, "Linear", "in_dim", least=1)
        (self.out_dim,) = to_tuple(out_dim, 1, "Linear", "out_dim", least=1)
        self.bias = bool(bias)
        self.init = init
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        i, o = self.in_dim, self.out_dim
        self.weight["W"] = initialisers.make(self.init, (i, o), i, o, dtype, device, self)
        if self.bias:
            init = initialisers.of_bias(self.init)
            self.weight["b"] = initialisers.make(init, (1, o), i, o, dtype, device, self)

    def forward(self, X: Any) -> Any:
        if X.ndim == 0 or X.shape[-1] != self.in_dim:
            fix = "; put Flatten() before it" if X.ndim > 2 else ""
            raise ShapeError(f"{self._who()}: X must end in {self.in_dim}, got {tuple(X.shape)}{fix}")
        W = self.weight["W"]
        if W.shape != (self.in_dim, self.out_dim):
            raise ShapeError(
                f"{self._who()}: weight['W'] must be {(self.in_dim, self.out_dim)}, got {tuple(W.shape)}; "
                "the layer multiplies X @ W"
            )
        self.cache["X"] = X
        return linear.linear(X, W, self.weight.get("b"))

    def backward(self, dY: Any) -> Any:
        dX, dW, db = linear.linear_backward(dY, self.cache["X"], self.weight["W"], self.bias)
        self.weight_update["W"] = dW
        if self.bias:
            self.weight_update["b"] = db
        return dX

    def local_grad(self, X: Any) -> dict[str, Any]:
        """{"X": W, "W": X}: the other factor of each product."""
        return {"X": self.weight["W"], "W": X}
