"""Curved activations: sigmoids, exponentials, and X times a gate."""

from __future__ import annotations

from typing import Any

from deepcore.core.function import Function
from deepcore.core.settings import to_number
from deepcore.errors import ArgumentError
from deepcore.ops import activation


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


class LogSigmoid(Function):
    """Y = log(1 / (1 + e^-X)) = -softplus(-X).   dX = dY / (1 + e^X).

    >>> import numpy as np
    >>> LogSigmoid()(np.array([-1000.0, 1000.0]))
    array([-1000.,     0.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.log_sigmoid(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.sigmoid(-X)}


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


class TanhShrink(Function):
    """Y = X - tanh X.   dX = dY tanh^2 X.

    >>> import numpy as np
    >>> TanhShrink()(np.array([0.0, 100.0]))
    array([ 0., 99.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.tanh_shrink(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.tanh_shrink_grad(X)}


class Softsign(Function):
    """Y = X / (1 + |X|).   dX = dY / (1 + |X|)^2.

    Bergstra et al. 2009.

    >>> import numpy as np
    >>> Softsign()(np.array([-1.0, 3.0]))
    array([-0.5 ,  0.75])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.softsign(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.softsign_grad(X)}


class ELU(Function):
    """Y = X where X > 0, else alpha (e^X - 1).   dX = dY where X > 0, else dY alpha e^X.

    Clevert et al. 2016, arXiv:1511.07289.

    >>> import numpy as np
    >>> ELU()(np.array([-1000.0, 2.0]))
    array([-1.,  2.])
    """

    traceable = True
    wants_floats = True

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = to_number(alpha, "ELU", "alpha")

    def forward(self, X: Any) -> Any:
        return activation.elu(X, self.alpha)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.elu_grad(X, self.alpha)}


class CELU(Function):
    """Y = X where X > 0, else alpha (e^(X/alpha) - 1).   dX = dY where X > 0, else dY e^(X/alpha).

    An ELU whose slope has no jump at 0, whatever alpha. Raises ArgumentError if alpha is 0.
    Barron 2017, arXiv:1704.07483.

    >>> import numpy as np
    >>> CELU(2.0)(np.array([-1000.0, 3.0]))
    array([-2.,  3.])
    """

    traceable = True
    wants_floats = True

    def __init__(self, alpha: float = 1.0):
        super().__init__()
        self.alpha = to_number(alpha, "CELU", "alpha", zero=False)

    def forward(self, X: Any) -> Any:
        return activation.elu(X, self.alpha, 1 / self.alpha)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.elu_grad(X, self.alpha, 1 / self.alpha)}


class SELU(Function):
    """Y = s X where X > 0, else s a (e^X - 1).   dX = dY s where X > 0, else dY s a e^X.

    a = 1.6733, s = 1.0507: then mean 0 and variance 1 pass from layer to layer, and deviations shrink.
    Klambauer et al. 2017, arXiv:1706.02515.

    >>> import numpy as np
    >>> SELU()(np.array([-1000.0, 1.0])).round(4)
    array([-1.7581,  1.0507])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.elu(X, _SELU_ALPHA, 1.0, _SELU_SCALE)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.elu_grad(X, _SELU_ALPHA, 1.0, _SELU_SCALE)}


_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


class Softplus(Function):
    """Y = log(1 + e^(beta X)) / beta, a smooth ReLU; X itself where beta X > threshold.

    dX = dY / (1 + e^(-beta X)); dY itself where beta X > threshold. Raises ArgumentError if beta is 0.
    Dugas et al. 2001.

    >>> import numpy as np
    >>> Softplus()(np.array([-1000.0, 1000.0]))
    array([   0., 1000.])
    """

    traceable = True
    wants_floats = True

    def __init__(self, beta: float = 1.0, threshold: float = 20.0):
        super().__init__()
        self.beta = to_number(beta, "Softplus", "beta", zero=False)
        self.threshold = to_number(threshold, "Softplus", "threshold")

    def forward(self, X: Any) -> Any:
        return activation.softplus(X, self.beta, self.threshold)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.softplus_grad(X, self.beta, self.threshold)}


class SiLU(Function):
    """Y = X S, S = 1 / (1 + e^-X), which is also called Swish.   dX = dY S (1 + X (1 - S)).

    Elfwing et al. 2017, arXiv:1702.03118.

    >>> import numpy as np
    >>> SiLU()(np.array([0.0, 1000.0]))
    array([   0., 1000.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.silu(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.silu_grad(X)}


class Mish(Function):
    """Y = X T, T = tanh(log(1 + e^X)).   dX = dY (T + X (1 - T^2) S), S = 1 / (1 + e^-X).

    Misra 2019, arXiv:1908.08681.

    >>> import numpy as np
    >>> Mish()(np.array([0.0, 1000.0]))
    array([   0., 1000.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.mish(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.mish_grad(X)}


class GELU(Function):
    """Y = X P(Z <= X), Z ~ N(0, 1): X is kept with the probability that a normal number is below it.

    With its density phi(X) = e^(-X^2/2) / sqrt(2 pi), the derivative of that probability,

    dX = dY (P(Z <= X) + X phi(X))

    approximate: "none", exact to 1e-6 in the left tail too, or "tanh": P = (1 + tanh U) / 2 with
    U = sqrt(2/pi) (X + 0.044715 X^3), which is within 5e-4.   Raises ArgumentError for another word.
    Hendrycks and Gimpel 2016, arXiv:1606.08415.

    >>> import numpy as np
    >>> GELU()(np.array([-1.0, 0.0, 2.0])).round(4)
    array([-0.1587,  0.    ,  1.9545])
    """

    traceable = True
    wants_floats = True

    def __init__(self, approximate: str = "none"):
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ArgumentError(f'GELU: approximate must be "none" or "tanh", got {approximate!r}')
        self.approximate = approximate

    def forward(self, X: Any) -> Any:
        if self.approximate == "tanh":
            return activation.gelu_tanh(X)
        if not self._recording:
            return activation.gelu(X)
        Y, G = activation.gelu_and_slope(X)
        self._record.grad = {"X": G}  # most of the work for it is done
        return Y

    def local_grad(self, X: Any) -> dict[str, Any]:
        tanh = self.approximate == "tanh"
        return {"X": activation.gelu_tanh_grad(X) if tanh else activation.gelu_grad(X)}
