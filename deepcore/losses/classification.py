"""Losses of classes: the targets are labels, one integer for each sample."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import dtype_name, is_floating, is_integer, to_numpy
from deepcore.core.record import CURRENT
from deepcore.core.settings import to_number, to_whole
from deepcore.errors import ArgumentError, LabelError, ShapeError
from deepcore.losses.reduced import Reduced, finite
from deepcore.ops import labels, loss


class Labelled(Reduced):
    """A loss against class labels, which are checked. Abstract.

    weight: (c,) one factor a class, or None.   ignore_index: the label that counts for nothing, or None.
    Write `_loss_of_rows`, which takes (n, c) and returns the loss and its gradient.
    """

    traceable = True
    ignore_index: int | None = None
    _mean_is_weighted = True  # whether the mean leaves ignored labels out, and counts the others by weight
    _fitting: Any = None  # what X and y were like when they last fitted: such need no second look

    def __init__(self, weight: Any, reduction: str):
        super().__init__(reduction)
        self._keep("weight", weight)

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"weight": self.buffer.get("weight")}

    def forward(self, X: Any, y: Any) -> Any:
        gradient = self._recording
        y, ignored = self._targets(X, y)
        L, dX = self._loss_of_rows(_rows(X), y, ignored, gradient)
        if gradient:
            self.cache["dX"] = _unrows(dX, X.shape)
        return array_namespace(X).reshape(L, (X.shape[0], *X.shape[2:])) if self.reduction == "none" else L

    def local_grad(self, X: Any, Y: Any) -> dict[str, Any]:
        _, dX = self._loss_of_rows(_rows(X), *self._targets(X, Y), gradient=True)
        return {"X": _unrows(dX, X.shape)}

    def _loss_of_rows(self, X: Any, y: Any, ignore_index: int | None, gradient: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def _check_output(self, X: Any) -> None:
        if X.ndim < 2:
            raise ShapeError(
                f"{type(self).__name__}: X must be (n, c) or (n, c, d1, ...), got {tuple(X.shape)}"
            )
        super()._check_output(X)

    def _class_weights(self, X: Any) -> Any:
        weight = self._kept("weight", X) if "weight" in self.buffer else None
        if weight is not None and tuple(weight.shape) != (X.shape[1],):
            raise ShapeError(
                f"{type(self).__name__}: weight must have one number a class, ({X.shape[1]},), "
                f"got {tuple(weight.shape)}"
            )
        return weight

    def _targets(self, X: Any, y: Any) -> tuple[Any, int | None]:
        """(n,) labels in an index type, or (n, c) probabilities; n is the batch times d1, ...

        And the label to ignore, or None if it is known that there is none.
        """
        likeness = type(X), X.dtype, X.shape, type(y), y.dtype, y.shape
        if likeness != self._fitting:
            self._check_output(X)
            self._check_kind(y, X.shape)
            if y.shape[0] != X.shape[0]:
                raise ShapeError(
                    f"{type(self).__name__}: X has {X.shape[0]} rows, but there are {y.shape[0]} targets"
                )
            if 0 not in X.shape:  # whether a mean may be of nothing is for `reduction` to say
                self.__dict__["_fitting"] = likeness
        y, ignored = self._checked(y, X.shape[1])
        if y.ndim > 1:
            y = _rows(y) if is_floating(y) else array_namespace(y).reshape(y, (-1,))
        return y, ignored

    def check_targets(self, y: Any, shape: tuple[int, ...]) -> Any:
        """The labels in an index type, for an output of this shape.

        Raises LabelError naming the first bad row and its value, ShapeError for a shape that doesn't fit.
        """
        self._check_kind(y, shape)
        return self._checked(y, shape[1])[0]

    def targets_fit(self, y: Any, shape: tuple[int, ...]) -> Any:
        """Whether each label is 0 to c - 1 or ignore_index: a 0-d bool array; None for probabilities."""
        return labels.all_fit(y, shape[1], self.ignore_index) if is_integer(y) else None

    def divisor(self, y: Any, n: int) -> Any:
        """The sum of the labels' weights, without those to be ignored: a 0-d array; n for probabilities."""
        if not is_integer(y) or not self._mean_is_weighted:
            return n
        xp, weight = array_namespace(y), self.buffer.get("weight")
        kept = y != self.ignore_index
        if weight is None:
            return xp.sum(xp.astype(kept, xp.float32))
        labels_kept = xp.reshape(xp.where(kept, y, 0), (-1,))
        w = xp.take(weight, labels_kept, axis=0)
        return xp.sum(xp.where(xp.reshape(kept, (-1,)), w, 0))

    def _check_kind(self, y: Any, shape: tuple[int, ...]) -> None:
        """Raise unless y holds labels, or whatever else the loss takes, for an X of this shape."""
        if not is_integer(y):
            raise LabelError(
                f"{type(self).__name__}: labels must be integers, got {dtype_name(y)} numbers"
                f"{_first_value(y)}; use y.astype(int){self._or_probabilities(shape)}"
            )
        if len(shape) < 2:
            raise ShapeError(
                f"{type(self).__name__}: X must have shape (n, c) or (n, c, d1, ...), got {tuple(shape)}"
            )
        if y.ndim == 0 or (y.shape[1:] != shape[2:] and y.shape[1:] != (1, *shape[2:])):
            raise ShapeError(
                f"{type(self).__name__}: for X of shape {tuple(shape)} the labels must have shape "
                f"{(shape[0], *shape[2:])}, got {tuple(y.shape)}{self._of_one_hot(y, shape)}"
            )

    def _checked(self, y: Any, c: int) -> tuple[Any, int | None]:
        """The labels in an index type; and the label to ignore, None if it is known that there is none."""
        ignored = self.ignore_index
        if not CURRENT.thread.labels_checked:
            if not labels.all_within(y, c):
                self._refuse_bad_label(y, c)
            elif ignored is None or not 0 <= ignored < c:
                ignored = None
        return labels.as_index(y), ignored

    def _or_probabilities(self, shape: tuple[int, ...]) -> str:
        return ""

    def _of_one_hot(self, y: Any, shape: tuple[int, ...]) -> str:
        """What to do with integers of X's shape, which are no labels; empty for another shape."""
        return "; of one-hot labels use y.argmax(1)" if y.shape[1:] == shape[1:] else ""

    def _refuse_bad_label(self, y: Any, c: int) -> None:
        bad = labels.first_bad_label(y, c, self.ignore_index)
        if bad >= 0:
            host = to_numpy(y)
            value = int(host.reshape(-1)[bad])
            row = bad // max(1, math.prod(host.shape[1:]))
            ignored = "" if self.ignore_index is None else f" (or ignore_index={self.ignore_index})"
            raise LabelError(
                f"{type(self).__name__}: labels must be 0 to {c - 1} for {c} classes{ignored}, "
                f"got {value} in row {row}"
            )


class CrossEntropyLoss(Labelled):
    """L = mean over n of -log p[n, y_n], in nats, where p = softmax(X) along the classes.

    X: (n, c) logits, not probabilities   y: (n,) or (n, 1) labels, any integer type, 0 <= y < c
    or X: (n, c, d1, ...) with y: (n, d1, ...); or y: probabilities of X's shape.

    dX = (p - onehot(y)) / n

    Both are computed without overflow and without the cancellation in 1 - p: of a logit 20 ahead of the
    others, loss and gradient are still right to 7 digits.

    ignore_index: samples with this label count for nothing; if all do, L = 0 and dX = 0.
    label_smoothing: s mixes the targets with the uniform distribution, (1 - s) onehot(y) + s / c.
    weight: (c,) one factor a class; the mean is then weighted by weight[y], and 0 if they sum to 0.
    reduction: "mean", "sum", or "none" for each sample's own.

    Raises LabelError naming the row and the value, ShapeError, DTypeError, MixedBackendError.

    >>> import numpy as np
    >>> loss = CrossEntropyLoss()
    >>> round(float(loss(np.array([[0.0, 0.0]]), np.array([1]))), 6)
    0.693147
    >>> loss.backward()
    array([[ 0.5, -0.5]])
    """

    def __init__(
        self,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        weight: Any = None,
        reduction: str = "mean",
    ):
        super().__init__(weight, reduction)
        who = "CrossEntropyLoss"
        self.ignore_index = to_whole(ignore_index, who, "ignore_index")
        self.label_smoothing = to_number(label_smoothing, who, "label_smoothing", least=0, most=1)

    def _loss_of_rows(self, X: Any, y: Any, ignore_index: int | None, gradient: bool) -> tuple[Any, Any]:
        weight = self._class_weights(X)
        L, dX = loss.cross_entropy(X, y, weight, ignore_index, self.label_smoothing, self.reduction, gradient)
        if weight is None or not self.label_smoothing or self.reduction != "mean" or y.ndim != 1:
            return L, dX
        # smoothed, the labels of weight 0 have a loss, but there is nothing to divide it by
        xp = array_namespace(X)
        nothing = self.divisor(y, y.shape[0]) == 0
        return xp.where(nothing, 0, L), xp.where(nothing, 0, dX) if gradient else None

    def _check_kind(self, y: Any, shape: tuple[int, ...]) -> None:
        if not (y.ndim == len(shape) and is_floating(y) and y.shape[1:] == shape[1:]):  # probabilities
            super()._check_kind(y, shape)

    def _checked(self, y: Any, c: int) -> tuple[Any, int | None]:
        if y.ndim > 1 and is_floating(y):  # probabilities
            return y, None
        return super()._checked(y, c)

    def _or_probabilities(self, shape: tuple[int, ...]) -> str:
        return f", or give probabilities of X's shape {tuple(shape)}"

    def _of_one_hot(self, y: Any, shape: tuple[int, ...]) -> str:
        remedy = super()._of_one_hot(y, shape)
        return f"{remedy}, or y.astype(float): they are probabilities" if remedy else ""


class NLLLoss(Labelled):
    """L = mean over n of -X[n, y_n]: the cross-entropy of logarithms of probabilities.

    X: (n, c) log-probabilities, such as LogSoftmax gives   y: (n,) or (n, 1) labels, 0 <= y < c
    or X: (n, c, d1, ...) with y: (n, d1, ...)

    dX = -onehot(y) / n

    LogSoftmax() before NLLLoss() is CrossEntropyLoss(), which needs one pass less.

    weight: (c,) one factor a class; the mean is then weighted by weight[y].
    ignore_index: samples with this label count for nothing; if all do, L = 0 and dX = 0.
    reduction: "mean", "sum", or "none" for each sample's own.

    Raises LabelError naming the row and the value, ShapeError, DTypeError, MixedBackendError.

    >>> import numpy as np
    >>> loss = NLLLoss()
    >>> float(loss(np.array([[-0.5, -1.0], [-2.0, -0.25]]), np.array([0, 1])))
    0.375
    >>> loss.backward()
    array([[-0.5,  0. ],
           [ 0. , -0.5]])
    """

    def __init__(self, weight: Any = None, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__(weight, reduction)
        self.ignore_index = to_whole(ignore_index, "NLLLoss", "ignore_index")

    def _loss_of_rows(self, X: Any, y: Any, ignore_index: int | None, gradient: bool) -> tuple[Any, Any]:
        return loss.nll(X, y, self._class_weights(X), ignore_index, self.reduction, gradient)


class MultiMarginLoss(Labelled):
    """L = mean over n of w[y_n] / c sum over i != y_n of m_ni^p.   m_ni = max(0, margin - X[n, y_n] + X_ni)

    X: (n, c) scores   y: (n,) or (n, 1) labels, 0 <= y < c   p: 1 or 2

    With G_ni = w[y_n] / (n c) p m_ni^(p - 1) where m_ni > 0 and i != y_n, else 0:
    dX = G - onehot(y) sum_i G_ni

    The right class must be ahead of each other one by `margin`; its lead beyond that earns nothing.
    weight: (c,) one factor a class; the mean divides by n all the same.
    reduction: "mean", "sum", or "none" for each sample's own. Crammer and Singer 2001.

    Raises LabelError naming the row and the value, ShapeError, DTypeError, MixedBackendError.

    >>> import numpy as np
    >>> loss = MultiMarginLoss()
    >>> float(loss(np.array([[0.5, 1.0]]), np.array([1])))
    0.25
    >>> loss.backward()
    array([[ 0.5, -0.5]])
    """

    _mean_is_weighted = False

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, reduction: str = "mean"):
        super().__init__(weight, reduction)
        if p not in (1, 2):
            raise ArgumentError(f"MultiMarginLoss: p must be 1 or 2, got {p!r}")
        self.p = int(p)
        self.margin = finite(self, "margin", margin)

    def _check_output(self, X: Any) -> None:
        if X.ndim != 2:
            raise ShapeError(f"MultiMarginLoss: X must be (n, c), got {tuple(X.shape)}")
        super()._check_output(X)

    def _loss_of_rows(self, X: Any, y: Any, ignore_index: int | None, gradient: bool) -> tuple[Any, Any]:
        weight = self._class_weights(X)
        return loss.multi_margin(X, y, self.p, self.margin, weight, self.reduction, gradient)


def _rows(X: Any) -> Any:
    """(n, c, d1, ...) -> (n d1 ..., c)"""
    if X.ndim == 2:
        return X
    xp = array_namespace(X)
    return xp.reshape(xp.moveaxis(X, 1, -1), (-1, X.shape[1]))


def _unrows(dX: Any, shape: tuple[int, ...]) -> Any:
    """(n d1 ..., c) -> (n, c, d1, ...)"""
    if len(shape) == 2:
        return dX
    xp = array_namespace(dX)
    return xp.moveaxis(xp.reshape(dX, (shape[0], *shape[2:], shape[1])), -1, 1)


def _first_value(y: Any) -> str:
    if 0 in y.shape:
        return ""
    try:
        return f" ({to_numpy(y).reshape(-1)[0]} in row 0)"
    except TypeError:  # a stand-in for an array, inside a compiled step, has no values
        return ""
