"""Losses of a score against a class that is -1 or +1: the score should have its sign, and a margin."""

from __future__ import annotations

from typing import Any

from deepcore.losses.reduced import Signed, finite
from deepcore.ops import pointwise


class HingeLoss(Signed):
    """L = mean over all elements of max(0, 1 - Y X): the loss of a support vector machine.

    X: scores, of any shape   Y: -1 or +1, of X's shape   dX = -Y / size where Y X < 1, else 0
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.
    Cortes and Vapnik 1995.

    Raises LabelError naming the row and the value of a target that is neither -1 nor +1, ShapeError unless
    the shapes are equal.

    >>> import numpy as np
    >>> loss = HingeLoss()
    >>> float(loss(np.array([[0.5], [2.0]]), np.array([[-1.0], [1.0]])))
    0.75
    >>> loss.backward()
    array([[0.5],
           [0. ]])
    """

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.hinge(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.hinge_grad(X, Y)


class HingeEmbeddingLoss(Signed):
    """L = mean over all elements of X where Y = 1, and of max(0, margin - X) where Y = -1.

    X: distances between two things   Y: 1 if they are alike, -1 if they are not, of X's shape
    dX = 1 / size where Y = 1, -1 / size where Y = -1 and X < margin, else 0
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises LabelError naming the row and the value of a target that is neither -1 nor +1, ShapeError unless
    the shapes are equal.

    >>> import numpy as np
    >>> loss = HingeEmbeddingLoss(reduction="none")
    >>> loss(np.array([0.5, 0.25, 4.0]), np.array([1, -1, -1]))
    array([0.5 , 0.75, 0.  ])
    >>> loss.backward()
    array([ 1., -1.,  0.])
    """

    def __init__(self, margin: float = 1.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = finite(self, "margin", margin)

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.hinge_embedding(X, Y, self.margin)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.hinge_embedding_grad(X, Y, self.margin)


class SoftMarginLoss(Signed):
    """L = mean over all elements of log(1 + e^(-Y X)), computed without overflow.

    X: scores, of any shape   Y: -1 or +1, of X's shape   dX = -Y sigmoid(-Y X) / size
    It is BCEWithLogitsLoss for classes that are called -1 and +1.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises LabelError naming the row and the value of a target that is neither -1 nor +1, ShapeError unless
    the shapes are equal.

    >>> import numpy as np
    >>> loss = SoftMarginLoss(reduction="none")
    >>> loss(np.array([0.0, 1000.0]), np.array([1, -1])).round(6)
    array([6.93147e-01, 1.00000e+03])
    >>> loss.backward()
    array([-0.5,  1. ])
    """

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.soft_margin(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.soft_margin_grad(X, Y)
