"""Activations along an axis: softmax and its kin, and gates."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.core.settings import to_whole
from deepcore.errors import ShapeError
from deepcore.ops import activation, softmax


class AlongAxis(Function):
    """A function of all numbers along one axis. Abstract: use Softmax and its kin."""

    traceable = True
    wants_floats = True

    def __init__(self, axis: int = -1):
        super().__init__()
        self.axis = to_whole(axis, type(self).__name__, "axis")

    def _check_axis(self, X: Any) -> None:
        if not -X.ndim <= self.axis < X.ndim:
            raise ShapeError(
                f"{self._who()}: there is no axis {self.axis} in X of shape {tuple(X.shape)}; "
                f"its axes are {-X.ndim} to {X.ndim - 1}"
            )


class Softmax(AlongAxis):
    """Y_i = e^X_i / sum_j e^X_j along an axis: numbers between 0 and 1 that sum to 1.

    X, Y: (n, c), or any shape. The Jacobian of a row is dY_i/dX_j = Y_i (1[i = j] - Y_j), so

        dX = Y (dY - sum_j dY_j Y_j)

    which costs O(n c); `jacobian(X)` gives the O(n c^2) array of all those derivatives, to look at.
    Don't put it before CrossEntropyLoss, which takes logits and applies it itself.

    >>> import numpy as np
    >>> Softmax()(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """

    traceable = True

    def forward(self, X: Any) -> Any:
        self._check_axis(X)
        self.cache["Y"] = Y = softmax.softmax(X, self.axis)
        return Y

    def backward(self, dY: Any) -> Any:
        return softmax.softmax_backward(dY, self.cache["Y"], self.axis)

    def jacobian(self, X: Any) -> Any:
        """dY_i/dX_j for each row.   X: (n, c) -> (n, c, c).   Raises ShapeError for any other shape of X."""
        if X.ndim != 2:
            raise ShapeError(f"{self}.jacobian: X must be (n, c), got {tuple(X.shape)}")
        xp = array_namespace(X)
        Y = softmax.softmax(X)
        identity = xp.eye(X.shape[1], dtype=X.dtype, device=X.device)
        return Y[:, :, None] * (identity[None, :, :] - Y[:, None, :])


class Softmin(AlongAxis):
    """Y_i = e^-X_i / sum_j e^-X_j along an axis: softmax of -X.   dX = -Y (dY - sum_j dY_j Y_j).

    >>> import numpy as np
    >>> Softmin()(np.array([[-1000.0, 1000.0]]))
    array([[1., 0.]])
    """

    traceable = True

    def forward(self, X: Any) -> Any:
        self._check_axis(X)
        self.cache["Y"] = Y = softmax.softmax(-X, self.axis)
        return Y

    def backward(self, dY: Any) -> Any:
        return -softmax.softmax_backward(dY, self.cache["Y"], self.axis)


class LogSoftmax(AlongAxis):
    """Y_i = X_i - log sum_j e^X_j along an axis: the logarithm of softmax, without overflow or lost digits.

    With the Jacobian dY_i/dX_j = 1[i = j] - e^Y_j,

        dX = dY - e^Y sum_j dY_j

    which, with NLLLoss behind it, is what CrossEntropyLoss does in one.

    >>> import numpy as np
    >>> LogSoftmax()(np.array([[0.0, 1000.0]]))
    array([[-1000.,     0.]])
    """

    traceable = True

    def forward(self, X: Any) -> Any:
        self._check_axis(X)
        self.cache["Y"] = Y = softmax.log_softmax(X, self.axis)
        return Y

    def backward(self, dY: Any) -> Any:
        return softmax.log_softmax_backward(dY, self.cache["Y"], self.axis)


class GLU(AlongAxis):
    """Y = A S, S = 1 / (1 + e^-B): one half of X, A, passes gates that the other half, B, opens.

    X: (..., 2 d, ...), A its first d along the axis and B the rest   Y: (..., d, ...)

    dA = dY S     dB = dY A S (1 - S)     dX = [dA, dB]

    Raises ShapeError if the axis is of odd length. Dauphin et al. 2017, arXiv:1612.08083.

    >>> import numpy as np
    >>> GLU()(np.array([[3.0, 4.0, 0.0, 1000.0]]))
    array([[1.5, 4. ]])
    """

    traceable = True

    def _halves(self, X: Any) -> tuple[Any, Any]:
        """A and B."""
        self._check_axis(X)
        d, odd = divmod(X.shape[self.axis], 2)
        if odd:
            raise ShapeError(f"{self._who()}: X must be even along axis {self.axis}, got {tuple(X.shape)}")
        before = (slice(None),) * (self.axis % X.ndim)
        return X[(*before, slice(None, d), ...)], X[(*before, slice(d, None), ...)]

    def forward(self, X: Any) -> Any:
        A, B = self._halves(X)
        return A * activation.sigmoid(B)

    def backward(self, dY: Any) -> Any:
        return array_namespace(dY).concat([dY, dY], axis=self.axis) * self.grad["X"]

    def local_grad(self, X: Any) -> dict[str, Any]:
        """{"X": [S, A S (1 - S)]}: what each number is multiplied by."""
        A, B = self._halves(X)
        halves = [activation.sigmoid(B), A * activation.sigmoid_grad(B)]
        return {"X": array_namespace(X).concat(halves, axis=self.axis)}
