"""Functions that act on each number alone, and those that act along an axis, such as softmax.

Here stand those of straight pieces, ReLU and its kin; the curved ones are in `smooth.py`, PReLU, which has
a weight, in `prelu.py`, softmax and its kin in `axis.py`.
"""

from __future__ import annotations

from typing import Any

from deepcore.activations.axis import GLU, LogSoftmax, Softmax, Softmin
from deepcore.activations.prelu import PReLU
from deepcore.activations.smooth import (
    CELU,
    ELU,
    GELU,
    SELU,
    LogSigmoid,
    Mish,
    Sigmoid,
    SiLU,
    Softplus,
    Softsign,
    Tanh,
    TanhShrink,
)
from deepcore.core.function import Function
from deepcore.core.settings import to_number
from deepcore.errors import ArgumentError
from deepcore.ops import activation

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "HardShrink",
    "HardSigmoid",
    "HardSwish",
    "HardTanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "SoftShrink",
    "Softmax",
    "Softmin",
    "Softplus",
    "Softsign",
    "Tanh",
    "TanhShrink",
    "Threshold",
]


class ReLU(Function):
    """Y = max(X, 0).   dX = dY where X > 0, else 0.

    Nair and Hinton 2010.

    >>> import numpy as np
    >>> ReLU()(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        self.cache["X"] = X
        return activation.relu(X)

    def backward(self, dY: Any) -> Any:
        return activation.relu_backward(dY, self.cache["X"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.relu_grad(X)}


class LeakyReLU(Function):
    """Y = X where X > 0, else alpha X.   dX = dY where X > 0, else alpha dY.

    Maas et al. 2013. Raises ArgumentError unless alpha is a number.

    >>> import numpy as np
    >>> LeakyReLU()(np.array([-1.0, 2.0]))
    array([-0.01,  2.  ])
    """

    traceable = True
    wants_floats = True

    def __init__(self, alpha: float = 0.01):
        super().__init__()
        self.alpha = to_number(alpha, "LeakyReLU", "alpha")

    def forward(self, X: Any) -> Any:
        return activation.leaky_relu(X, self.alpha)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.leaky_relu_grad(X, self.alpha)}


class HardTanh(Function):
    """Y = X, but at least min_val and at most max_val.   dX = dY where min_val < X < max_val, else 0.

    Collobert 2004. Raises ArgumentError unless min_val < max_val.

    >>> import numpy as np
    >>> HardTanh()(np.array([-3.0, 0.5, 3.0]))
    array([-1. ,  0.5,  1. ])
    """

    traceable = True
    wants_floats = True

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        super().__init__()
        who = type(self).__name__
        self.min_val, self.max_val = to_number(min_val, who, "min_val"), to_number(max_val, who, "max_val")
        if not self.min_val < self.max_val:
            raise ArgumentError(f"{who}: min_val must be less than max_val, got {min_val} and {max_val}")

    def forward(self, X: Any) -> Any:
        return activation.hard_tanh(X, self.min_val, self.max_val)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.hard_tanh_grad(X, self.min_val, self.max_val)}


class ReLU6(HardTanh):
    """Y = min(max(X, 0), 6).   dX = dY where 0 < X < 6, else 0.

    Krizhevsky 2010, "Convolutional deep belief networks on CIFAR-10".

    >>> import numpy as np
    >>> ReLU6()(np.array([-1.0, 2.0, 8.0]))
    array([0., 2., 6.])
    """

    def __init__(self) -> None:
        super().__init__(0.0, 6.0)


class HardSigmoid(Function):
    """Y = min(max(X + 3, 0), 6) / 6, a sigmoid of straight lines.   dX = dY / 6 where -3 < X < 3, else 0.

    Courbariaux et al. 2015, arXiv:1511.00363, with the slope 1/6 of Howard et al. 2019, arXiv:1905.02244.

    >>> import numpy as np
    >>> HardSigmoid()(np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.hard_sigmoid(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.hard_sigmoid_grad(X)}


class HardSwish(Function):
    """Y = X min(max(X + 3, 0), 6) / 6.   dX = dY (X/3 + 1/2) where -3 < X < 3; 0 below, dY above.

    Howard et al. 2019, arXiv:1905.02244.

    >>> import numpy as np
    >>> HardSwish()(np.array([-4.0, 1.5, 4.0]))
    array([-0.   ,  1.125,  4.   ])
    """

    traceable = True
    wants_floats = True

    def forward(self, X: Any) -> Any:
        return activation.hard_swish(X)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.hard_swish_grad(X)}


class Threshold(Function):
    """Y = X where X > threshold, else value.   dX = dY where X > threshold, else 0.

    >>> import numpy as np
    >>> Threshold(0.1, 20.0)(np.array([0.1, 0.2]))
    array([20. ,  0.2])
    """

    traceable = True
    wants_floats = True

    def __init__(self, threshold: float, value: float):
        super().__init__()
        self.threshold = to_number(threshold, "Threshold", "threshold")
        self.value = to_number(value, "Threshold", "value")

    def forward(self, X: Any) -> Any:
        return activation.threshold(X, self.threshold, self.value)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.threshold_grad(X, self.threshold)}


class HardShrink(Function):
    """Y = X where |X| > lambd, else 0.   dX = dY where |X| > lambd, else 0.

    lambd: 0 or more, else ArgumentError (torch's name: `lambda` is a word of Python).
    Donoho and Johnstone 1994, who call it hard thresholding.

    >>> import numpy as np
    >>> HardShrink()(np.array([-2.0, 0.5, 2.0]))
    array([-2.,  0.,  2.])
    """

    traceable = True
    wants_floats = True

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = to_number(lambd, "HardShrink", "lambd", least=0)

    def forward(self, X: Any) -> Any:
        return activation.hard_shrink(X, self.lambd)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.shrink_grad(X, self.lambd)}


class SoftShrink(Function):
    """Y = X - lambd where X > lambd, X + lambd where X < -lambd, else 0.   dX = dY where |X| > lambd, else 0.

    lambd: 0 or more, else ArgumentError (torch's name: `lambda` is a word of Python).
    Donoho and Johnstone 1994, who call it soft thresholding.

    >>> import numpy as np
    >>> SoftShrink()(np.array([-2.0, 0.5, 2.0]))
    array([-1.5,  0. ,  1.5])
    """

    traceable = True
    wants_floats = True

    def __init__(self, lambd: float = 0.5):
        super().__init__()
        self.lambd = to_number(lambd, "SoftShrink", "lambd", least=0)

    def forward(self, X: Any) -> Any:
        return activation.soft_shrink(X, self.lambd)

    def local_grad(self, X: Any) -> dict[str, Any]:
        return {"X": activation.shrink_grad(X, self.lambd)}
