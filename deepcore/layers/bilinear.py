"""The map that is linear in each of two inputs."""

from __future__ import annotations

from typing import Any

from deepcore import init as initialisers
from deepcore.core.layer import Layer
from deepcore.errors import ShapeError
from deepcore.ops import linear
from deepcore.shapes import to_tuple


class Bilinear(Layer):
    """Y_o = sum over i, j of A_i W_ijo B_j, plus b_o, over the last axis of both inputs.

    A: (..., i)   B: (..., j)   W: (i, j, o)   b: (1, o)   Y, dY: (..., o)
    W ~ N(0, 1/(i j)) ("lecun_normal"), b = 0. As in Linear, the inputs' axes of W come first and the
    output's last; torch has it first: move axis 0 of its weight to the end.

    Y is a Linear of the i j products A_i B_j. By the chain rule, with sums over all rows for W and b:

    dA_i = sum over j, o of dY_o W_ijo B_j     dB_j = sum over i, o of dY_o W_ijo A_i
    dW_ijo = sum A_i B_j dY_o                  db = sum dY

    Raises ShapeError if A doesn't end in i or B in j, or if their other axes differ.

    >>> import numpy as np
    >>> layer = Bilinear(2, 1, 1, init="ones")
    >>> layer(np.array([[1.0, 2.0]]), np.array([[10.0]]))
    array([[30.]], dtype=float32)
    """

    traceable = True

    def __init__(
        self,
        in1_dim: int,
        in2_dim: int,
        out_dim: int,
        bias: bool = True,
        *,
        init: str | initialisers.Initialiser = "lecun_normal",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        (self.in1_dim,) = to_tuple(in1_dim, 1, "Bilinear", "in1_dim", least=1)
        (self.in2_dim,) = to_tuple(in2_dim, 1, "Bilinear", "in2_dim", least=1)
        (self.out_dim,) = to_tuple(out_dim, 1, "Bilinear", "out_dim", least=1)
        self.bias = bool(bias)
        self.init = init
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        i, j, o = self.in1_dim, self.in2_dim, self.out_dim
        fan_in = i if initialisers.as_torch(self.init) else i * j  # torch counts the first input alone
        self.weight["W"] = initialisers.make(self.init, (i, j, o), fan_in, o, dtype, device, self)
        if self.bias:
            init = initialisers.of_bias(self.init)
            self.weight["b"] = initialisers.make(init, (1, o), fan_in, o, dtype, device, self)

    def forward(self, A: Any, B: Any) -> Any:
        i, j = self.in1_dim, self.in2_dim
        if (
            A.ndim == 0
            or A.ndim != B.ndim
            or (*A.shape[:-1], i, j) != (*B.shape[:-1], A.shape[-1], B.shape[-1])
        ):
            raise ShapeError(
                f"{self._who()}: the inputs must have shapes (..., {i}) and (..., {j}), alike but for the "
                f"last axis, got {tuple(A.shape)} and {tuple(B.shape)}"
            )
        self.cache["A"], self.cache["B"] = A, B
        return linear.bilinear(A, B, self.weight["W"], self.weight.get("b"))

    def backward(self, dY: Any) -> Any:
        A, B, W = self.cache["A"], self.cache["B"], self.weight["W"]
        dA, dB, dW, db = linear.bilinear_backward(dY, A, B, W, self.bias)
        self.weight_update["W"] = dW
        if self.bias:
            self.weight_update["b"] = db
        return dA, dB
