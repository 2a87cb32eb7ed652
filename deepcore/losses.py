"""Losses: how far the net's output is from the targets, as one number."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import asarray, dtype_name, is_floating, is_integer, to_numpy
from deepcore.core.loss import Loss
from deepcore.core.record import CURRENT
from deepcore.errors import ArgumentError, DTypeError, LabelError, ShapeError
from deepcore.ops import labels, loss

__all__ = ["CrossEntropyLoss", "MSELoss", "MeanSquareLoss"]

_REDUCTIONS = ("mean", "sum", "none")


class _Reduced(Loss):
    """A loss over the batch: the mean, the sum, or each sample's own."""

    traceable = True
    reduction: str

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ArgumentError(
                f"{type(self).__name__}: reduction must be mean, sum or none, got {reduction!r}"
            )
        self.reduction = reduction

    def _check_output(self, X: Any) -> None:
        """Raise unless X can be averaged: floating, and not empty."""
        if not is_floating(X):
            raise DTypeError(f"{self._who()}: X must be floating-point numbers, got {dtype_name(X)}")
        if self.reduction == "mean" and 0 in X.shape:
            raise ShapeError(
                f"{self._who()}: the mean over nothing is undefined, got X of shape {tuple(X.shape)}; "
                'leave empty batches out, or use reduction="sum"'
            )

    def backward(self, *dY: Any) -> Any:
        """The gradient by X. With reduction "none", backward(dY) weighs each sample's loss by dY."""
        dX = self.cache["dX"]
        if not dY:
            return dX
        weight = dY[0]
        missing = dX.ndim - weight.ndim
        if missing > 0 and weight.ndim > 0:  # (n, d1, ...) -> (n, 1, d1, ...)
            weight = array_namespace(weight).reshape(
                weight, (weight.shape[0],) + (1,) * missing + tuple(weight.shape[1:])
            )
        return dX * weight


class CrossEntropyLoss(_Reduced):
    """L = mean over n of -log p[n, y_n], in nats, where p = softmax(X) along the classes.

    X: (n, c) logits, not probabilities   y: (n,) or (n, 1) labels, any integer type, 0 <= y < c
    or X: (n, c, d1, ...) with y: (n, d1, ...); or y: probabilities of X's shape.

    dX = (p - onehot(y)) / n

    Both are computed without overflow and without the cancellation in 1 - p: of a logit 20 ahead of the
    others, loss and gradient are still right to 7 digits.

    ignore_index: samples with this label count for nothing; if all do, L = 0 and dX = 0.
    label_smoothing: s mixes the targets with the uniform distribution, (1 - s) onehot(y) + s / c.
    weight: (c,) one factor a class; the mean is then weighted by weight[y].
    reduction: "mean", "sum", or "none" for each sample's own.

    Raises LabelError naming the row and the value, ShapeError, DTypeError, MixedBackendError.

    >>> import numpy as np
    >>> loss = CrossEntropyLoss()
    >>> round(float(loss(np.array([[0.0, 0.0]]), np.array([1]))), 6)
    0.693147
    >>> loss.backward()
    array([[ 0.5, -0.5]])
    """

    traceable = True

    def __init__(
        self,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        weight: Any = None,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        if not 0 <= label_smoothing <= 1:
            raise ArgumentError(
                f"CrossEntropyLoss: label_smoothing must be 0 <= s <= 1, got {label_smoothing}"
            )
        self.ignore_index = ignore_index
        self.label_smoothing = float(label_smoothing)
        if weight is not None:
            self.buffer["weight"] = asarray(weight)

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"weight": self.buffer.get("weight")}

    def forward(self, X: Any, y: Any) -> Any:
        gradient = self._recording
        self._check_output(X)
        y, ignored = self._targets(X, y)
        L, dX = self._loss_of_rows(_rows(X), y, ignored, gradient)
        if gradient:
            self.cache["dX"] = _unrows(dX, X.shape)
        return array_namespace(X).reshape(L, (X.shape[0], *X.shape[2:])) if self.reduction == "none" else L

    def local_grad(self, X: Any, Y: Any) -> dict[str, Any]:
        self._check_output(X)
        _, dX = self._loss_of_rows(_rows(X), *self._targets(X, Y), gradient=True)
        return {"X": _unrows(dX, X.shape)}

    def _loss_of_rows(self, X: Any, y: Any, ignore_index: int | None, gradient: bool) -> tuple[Any, Any]:
        weight = self.buffer.get("weight")
        if weight is not None:
            weight = self._class_weights(X, weight)
        return loss.cross_entropy(X, y, weight, ignore_index, self.label_smoothing, self.reduction, gradient)

    def _check_output(self, X: Any) -> None:
        if X.ndim < 2:
            raise ShapeError(f"CrossEntropyLoss: X must be (n, c) or (n, c, d1, ...), got {tuple(X.shape)}")
        super()._check_output(X)

    def _class_weights(self, X: Any, weight: Any) -> Any:
        xp = array_namespace(X, weight)
        if tuple(weight.shape) != (X.shape[1],):
            raise ShapeError(
                f"CrossEntropyLoss: weight must have one number a class, ({X.shape[1]},), "
                f"got {tuple(weight.shape)}"
            )
        return xp.astype(weight, X.dtype)

    def _targets(self, X: Any, y: Any) -> tuple[Any, int | None]:
        """(n,) labels in an index type, or (n, c) probabilities; n is the batch times d1, ...

        And the label to ignore, or None if it is known that there is none.
        """
        y, ignored = self._checked(y, X.shape)
        if y.shape[0] != X.shape[0]:
            raise ShapeError(f"CrossEntropyLoss: X has {X.shape[0]} rows, but there are {y.shape[0]} targets")
        if y.ndim > 1:
            y = _rows(y) if is_floating(y) else array_namespace(y).reshape(y, (-1,))
        return y, ignored

    def check_targets(self, y: Any, shape: tuple[int, ...]) -> Any:
        """The labels in an index type, for an output of this shape.

        Raises LabelError naming the first bad row and its value, ShapeError for a shape that doesn't fit.
        """
        return self._checked(y, shape)[0]

    def targets_fit(self, y: Any, shape: tuple[int, ...]) -> Any:
        """Whether each label is 0 to c - 1 or ignore_index: a 0-d bool array; None for probabilities."""
        return labels.all_fit(y, shape[1], self.ignore_index) if is_integer(y) else None

    def _checked(self, y: Any, shape: tuple[int, ...]) -> tuple[Any, int | None]:
        if not is_integer(y):
            if is_floating(y) and y.ndim == len(shape) and y.shape[1:] == shape[1:]:
                return y, None  # probabilities
            raise LabelError(
                f"CrossEntropyLoss: labels must be integers, got {dtype_name(y)} numbers{_first_value(y)}; "
                f"use y.astype(int), or give probabilities of X's shape {tuple(shape)}"
            )
        if y.ndim == 0 or (y.shape[1:] != shape[2:] and y.shape[1:] != (1, *shape[2:])):
            raise ShapeError(
                f"CrossEntropyLoss: for X of shape {tuple(shape)} the labels must have shape "
                f"{(shape[0], *shape[2:])}, got {tuple(y.shape)}"
            )
        ignored = self.ignore_index
        if not CURRENT.thread.labels_checked:
            if not labels.all_within(y, shape[1]):
                self._refuse_bad_label(y, shape[1])
            elif not 0 <= ignored < shape[1]:
                ignored = None
        return labels.as_index(y), ignored

    def _refuse_bad_label(self, y: Any, c: int) -> None:
        bad = labels.first_bad_label(y, c, self.ignore_index)
        if bad >= 0:
            host = to_numpy(y)
            value = int(host.reshape(-1)[bad])
            row = bad // max(1, math.prod(host.shape[1:]))
            raise LabelError(
                f"CrossEntropyLoss: labels must be 0 to {c - 1} for {c} classes "
                f"(or ignore_index={self.ignore_index}), got {value} in row {row}"
            )


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
    return "" if 0 in y.shape else f" ({to_numpy(y).reshape(-1)[0]} in row 0)"


class MeanSquareLoss(_Reduced):
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
        self._check_output(X)
        self._check_pair(X, Y)
        L, dX = loss.mean_square(X, Y, per=self._per, reduction=self.reduction, gradient=self._recording)
        if self._recording:
            self.cache["dX"] = dX
        return L

    def local_grad(self, X: Any, Y: Any) -> dict[str, Any]:
        self._check_pair(X, Y)
        _, dX = loss.mean_square(X, Y, per=self._per, reduction=self.reduction, gradient=True)
        return {"X": dX}

    def _check_pair(self, X: Any, Y: Any) -> None:
        self.check_targets(Y, X.shape)
        if X.shape[0] != Y.shape[0]:
            raise ShapeError(
                f"{self._who()}: X and Y must have one shape, got {tuple(X.shape)} and {tuple(Y.shape)}"
            )

    def check_targets(self, Y: Any, shape: tuple[int, ...]) -> Any:
        """Y itself, if each of its samples has the shape that the output's samples have."""
        if Y.ndim == 0 or Y.ndim != len(shape) or tuple(Y.shape[1:]) != tuple(shape[1:]):
            raise ShapeError(
                f"{self._who()}: X and Y must have one shape, got {tuple(shape)} and {tuple(Y.shape)}; "
                "reshape the targets, for example with y.reshape(-1, 1)"
            )
        if not is_floating(Y):
            raise DTypeError(
                f"{self._who()}: targets must be floating-point numbers, got {dtype_name(Y)}; "
                'use y.astype("float32")'
            )
        return Y


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
