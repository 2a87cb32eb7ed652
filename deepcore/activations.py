"""Functions that act on each number alone, and softmax, which acts on each row."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.errors import ShapeError
from deepcore.ops import activation, softmax

__all__ = ["LeakyReLU", "ReLU", "Sigmoid", "Softmax", "Tanh"]


class ReLU(Function):
    """Y = max(X, 0).   dX = dY where X > 0, else 0.

    Nair and Hinton 2010.

    >>> import numpy as np
    >>> ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    traceable = True

    def forward(self, X: Any) -> Any:
        self.cache["X"] = X
        return activation.relu(X)

    def backward(self, dY: Any) -> Any:
        return activation.relu_backward(dY, self.cache["X"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.relu_grad(X)}


class LeakyReLU(Function):
    """Y = X where X > 0, else alpha X.   dX = dY where X > 0, else alpha dY.

    Maas et al. 2013.

    >>> import numpy as np
    >>> LeakyReLU()(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """

    traceable = True
    wants_floats = True

    def __init__(self, alpha: float = 0.01):
        super().__init__()
        self.alpha = float(alpha)  # a NumPy float64 would widen the arrays it meets

    def forward(self, X: Any) -> Any:
        return activation.leaky_relu(X, self.alpha)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.leaky_relu_grad(X, self.alpha)}


class Sigmoid(Function):
    """Y = 1 / (1 + e^-X), computed without overflow.   dX = dY Y (1 - Y).

    >>> import numpy as np
    >>> Sigmoid()(np.array([0.0, 1000.0]))
    array([0.5, 1. ])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.sigmoid(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.sigmoid_grad(X)}


class Tanh(Function):
    """Y = tanh X.   dX = dY / cosh^2 X.

    >>> import numpy as np
    >>> Tanh()(np.array([0.0, 1000.0]))
    array([0., 1.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.tanh(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.tanh_grad(X)}


class Softmax(Function):
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
    wants_floats = True

    def __init__(self, axis: int = -1):
        super().__init__()
        self.axis = axis

    def forward(self, X: Any) -> Any:
        if not -X.ndim <= self.axis < X.ndim:
            raise ShapeError(f"{self._who()}: there is no axis {self.axis} in X of shape {tuple(X.shape)}")
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
