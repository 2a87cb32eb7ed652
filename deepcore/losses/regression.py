"""Losses of a regression: how far a number is from the number that it should be."""

from __future__ import annotations

from typing import Any

from deepcore.errors import ShapeError
from deepcore.losses.reduced import Pointwise, Reduced, finite
from deepcore.ops import loss, pointwise


class MeanSquareLoss(Reduced):
    """L = mean over the batch of the sum over the features of (X - Y)^2.

    X, Y: (n, ...), of one shape   dX = 2 (X - Y) / n
    reduction: "mean" over the batch, "sum", or "none" for each sample's own, (n,).

    Raises ShapeError unless the shapes are equal: (n, 1) against (n,) would broadcast to (n, n).

    >>> import numpy as np
    >>> loss = MeanSquareLoss()
    >>> float(loss(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])))
    5.0
    >>> loss.backward()
    array([[2., 4.]])
    """

    traceable = True
    _per = "row"

    def forward(self, X: Any, Y: Any) -> Any:
        self._check_pair(X, Y)
        L, dX = loss.mean_square(X, Y, per=self._per, reduction=self.reduction, gradient=self._recording)
        if self._recording:
            self.cache["dX"] = dX
        return L

    def local_grad(self, X: Any, Y: Any) -> dict[str, Any]:
        self._check_pair(X, Y)
        _, dX = loss.mean_square(X, Y, per=self._per, reduction=self.reduction, gradient=True)
        return {"X": dX}

    def _check_output(self, X: Any) -> None:
        if X.ndim == 0 and self._per == "row":
            raise ShapeError(f"{self._who()}: X must be (n, ...), got a single number; use MSELoss")
        super()._check_output(X)


class MSELoss(MeanSquareLoss):
    """L = mean over all elements of (X - Y)^2.

    X, Y: (n, ...), of one shape   dX = 2 (X - Y) / size
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises ShapeError unless the shapes are equal.

    >>> import numpy as np
    >>> float(MSELoss()(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]])))
    2.5
    """

    _per = "element"


class L1Loss(Pointwise):
    """L = mean over all elements of |X - Y|.

    X, Y: one shape   dX = sign(X - Y) / size, 0 where they are equal
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises ShapeError unless the shapes are equal: (n, 1) against (n,) would broadcast to (n, n).

    >>> import numpy as np
    >>> loss = L1Loss()
    >>> float(loss(np.array([[1.0, 2.0]]), np.array([[0.0, 2.0]])))
    0.5
    >>> loss.backward()
    array([[0.5, 0. ]])
    """

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.absolute(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.absolute_grad(X, Y)


class HuberLoss(Pointwise):
    """L = mean over all elements of D^2 / 2 where D = |X - Y| < delta, else delta (D - delta / 2).

    X, Y: one shape   dX = (X - Y) / size, held between -delta / size and delta / size
    delta: where the parabola goes over into a line, delta > 0: an outlier pulls no harder than that.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.
    Huber 1964.

    Raises ShapeError unless the shapes are equal, ArgumentError for a delta that is not above 0.

    >>> import numpy as np
    >>> loss = HuberLoss(reduction="none")
    >>> loss(np.array([0.5, 3.0]), np.array([0.0, 0.0]))
    array([0.125, 2.5  ])
    >>> loss.backward()
    array([0.5, 1. ])
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.delta = finite(self, "delta", delta, above=0)

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.huber(X, Y, self.delta)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.huber_grad(X, Y, self.delta)


class SmoothL1Loss(Pointwise):
    """L = mean over all elements of D^2 / (2 beta) where D = |X - Y| < beta, else D - beta / 2.

    X, Y: one shape   dX = (X - Y) / (beta size), held between -1 / size and 1 / size
    beta: where the parabola goes over into a line of slope 1, beta >= 0; it is HuberLoss(beta) / beta,
    and L1Loss for 0.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.
    Girshick 2015, arXiv:1504.08083.

    Raises ShapeError unless the shapes are equal, ArgumentError for a negative beta.

    >>> import numpy as np
    >>> loss = SmoothL1Loss(beta=0.5, reduction="none")
    >>> loss(np.array([0.25, 3.0]), np.array([0.0, 0.0]))
    array([0.0625, 2.75  ])
    >>> loss.backward()
    array([0.5, 1. ])
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.beta = finite(self, "beta", beta, least=0)

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.huber(X, Y, self.beta) / self.beta if self.beta else pointwise.absolute(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        if not self.beta:
            return pointwise.absolute_grad(X, Y)
        return pointwise.huber_grad(X, Y, self.beta) / self.beta
