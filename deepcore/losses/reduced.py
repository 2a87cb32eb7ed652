"""What all losses share: many losses become one number, and targets must fit outputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import dtype_name, is_floating, is_integer, put, selected_backend, to_numpy
from deepcore.core.loss import Loss
from deepcore.core.record import CURRENT, Record
from deepcore.errors import ArgumentError, DTypeError, LabelError, MixedBackendError, ShapeError
from deepcore.ops import labels
from deepcore.ops.softmax import row_major


class Reduced(Loss):
    """Many losses, one for each sample or each number, and their mean, their sum, or all of them. Abstract.

    With several inputs that get a gradient, backward returns a tuple, in the order of the inputs.
    """

    traceable = True
    reduction: str
    _reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, reduction: str = "mean"):
        super().__init__()
        if reduction not in self._reductions:
            *most, last = self._reductions
            raise ArgumentError(
                f"{type(self).__name__}: reduction must be {', '.join(most)} or {last}, got {reduction!r}"
            )
        self.reduction = reduction

    def _keep(self, name: str, factors: Any) -> None:
        """Factors as a buffer: an array stays in its library, numbers become one of the selected backend."""
        if factors is not None:
            self.buffer[name] = put(factors, backend_of(factors) if is_array(factors) else selected_backend())

    def _kept(self, name: str, X: Any) -> Any:
        """The buffer of that name in X's dtype, or None. Raises MixedBackendError if X is elsewhere."""
        factors = self.buffer.get(name)
        if factors is None:
            return None
        here, there = backend_of(X), backend_of(factors)
        if here is not there:
            raise MixedBackendError(
                f"{self._who()}: X is a {here.name!r} array, {name} a {there.name!r} array; "
                f"give {name}=deepcore.to_backend({name}, {here.name!r}), "
                f"or put the loss into a Net and move that: net.to({here.name!r})"
            )
        return here.xp.astype(factors, X.dtype)

    def _check_inputs(self, record: Record) -> None:
        """Give all floating inputs X's dtype. Raises if they are arrays of two libraries, or none."""
        super()._check_inputs(record)
        if len(record.inputs) > 2:
            X, *others = record.inputs
            record.inputs = (X, *(self._fit_target(X, Y) for Y in others))

    def _check_output(self, X: Any) -> None:
        """Raise unless X can be averaged: floating, and not empty."""
        if not is_floating(X):
            raise DTypeError(f"{self._who()}: X must be floating-point numbers, got {dtype_name(X)}")
        if self.reduction not in ("sum", "none") and 0 in X.shape:
            raise ShapeError(
                f"{self._who()}: the mean over nothing is undefined, got X of shape {tuple(X.shape)}; "
                'leave empty batches out, or use reduction="sum"'
            )

    def _reduce(self, L: Any, X: Any) -> Any:
        """The losses L reduced, in X's dtype."""
        xp = array_namespace(X)
        if self.reduction != "none":
            L = xp.sum(L) / self._divisor(X.shape)
        return xp.asarray(L, dtype=X.dtype)

    def _divisor(self, shape: tuple[int, ...]) -> int:
        """What the sum of the losses of an X of this shape is divided by."""
        return max(1, math.prod(self._shape_of_losses(shape))) if self.reduction == "mean" else 1

    def _shape_of_losses(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """One loss a number."""
        return shape

    def backward(self, *dY: Any) -> Any:
        """The gradient by X. With reduction "none", backward(dY) weighs each sample's loss by dY."""
        cache = self.cache
        if "dX" in cache and not dY:  # nearly always
            return cache["dX"]
        local = {"X": cache["dX"]} if "dX" in cache else self.grad
        gradients = tuple(dX * self._beside(dY[0], dX) if dY else dX for dX in local.values())
        return gradients[0] if len(gradients) == 1 else gradients

    def _beside(self, dY: Any, dX: Any) -> Any:
        """dY, one number a loss, so that it broadcasts to dX: (n, d1, ...) -> (n, 1, d1, ...)"""
        missing = dX.ndim - dY.ndim
        if missing <= 0 or dY.ndim == 0:
            return dY
        return array_namespace(dY).reshape(dY, (dY.shape[0],) + (1,) * missing + tuple(dY.shape[1:]))

    # ---- targets of X's shape

    def check_targets(self, Y: Any, shape: tuple[int, ...]) -> Any:
        """Y itself, if it is floating and its samples have the shape that the output's samples have."""
        self._check_shape(Y, shape)
        if not is_floating(Y):
            raise DTypeError(
                f"{self._who()}: targets must be floating-point numbers, got {dtype_name(Y)}; "
                'use y.astype("float32")'
            )
        return Y

    def _check_shape(self, Y: Any, shape: tuple[int, ...]) -> None:
        if Y.ndim != len(shape) or tuple(Y.shape[1:]) != tuple(shape[1:]):
            raise ShapeError(
                f"{self._who()}: X and Y must have one shape, got {tuple(shape)} and {tuple(Y.shape)}; "
                "reshape the targets, for example with y.reshape(-1, 1)"
            )

    def _check_pair(self, X: Any, Y: Any) -> None:
        """Raise unless X can be averaged and Y has its shape: (n, 1) against (n,) would broadcast."""
        self._check_output(X)
        self.check_targets(Y, X.shape)
        if tuple(X.shape) != tuple(Y.shape):
            raise ShapeError(
                f"{self._who()}: X and Y must have one shape, got {tuple(X.shape)} and {tuple(Y.shape)}"
            )


class Pointwise(Reduced):
    """A loss that is a sum or a mean over pairs of numbers: write `_losses` and `_slopes`. Abstract."""

    traceable = True

    def forward(self, X: Any, Y: Any) -> Any:
        return self._reduce(self._losses(*self._pair(X, Y)), X)

    def local_grad(self, X: Any, Y: Any) -> dict[str, Any]:
        dX = self._slopes(*self._pair(X, Y)) / self._divisor(X.shape)
        return {"X": array_namespace(X).asarray(dX, dtype=X.dtype)}

    def _pair(self, X: Any, Y: Any) -> tuple[Any, Any]:
        self._check_pair(X, Y)
        X = row_major(X)
        return X, row_major(Y if is_floating(Y) else array_namespace(Y).astype(Y, X.dtype))

    def _losses(self, X: Any, Y: Any) -> Any:
        """L, number by number."""
        raise NotImplementedError

    def _slopes(self, X: Any, Y: Any) -> Any:
        """dL/dX, number by number."""
        raise NotImplementedError

    def _factors(self, name: str, X: Any) -> Any:
        """The buffer of that name in X's dtype, to multiply X's losses with; 1 if there is none.

        Raises ShapeError unless it broadcasts to X's shape.
        """
        factors = self._kept(name, X)
        if factors is None:
            return 1
        shape, wanted = tuple(factors.shape), tuple(X.shape)
        tail = wanted[len(wanted) - len(shape) :]
        if len(shape) > len(wanted) or any(a not in (1, b) for a, b in zip(shape, tail, strict=True)):
            raise ShapeError(f"{self._who()}: {name} must broadcast to X's shape {wanted}, got {shape}")
        return factors


class Signed(Pointwise):
    """A loss of a score X against a class Y that is -1 or +1, of any integer or floating type. Abstract."""

    def check_targets(self, Y: Any, shape: tuple[int, ...]) -> Any:
        """Y itself, if its samples have the shape of the output's and all numbers are -1 or +1.

        Raises LabelError naming the first bad row and its value, ShapeError, DTypeError.
        """
        self._check_shape(Y, shape)
        check_signs(self, Y)
        return Y

    def targets_fit(self, Y: Any, shape: tuple[int, ...]) -> Any:
        """Whether all numbers are -1 or +1: a 0-d bool array."""
        return labels.all_signs(Y)


def finite(loss: Loss, name: str, value: Any, above: float = -math.inf, least: float = -math.inf) -> float:
    """A setting as a Python number. Raises ArgumentError unless it is finite and in its range."""
    if isinstance(value, int | float | np.number) and above < value < math.inf and least <= value:
        return float(value)
    more = f" above {above:g}" if above > -math.inf else f", {least:g} or more" if least > -math.inf else ""
    raise ArgumentError(f"{type(loss).__name__}: {name} must be a finite number{more}, got {value!r}")


def check_signs(loss: Loss, Y: Any) -> None:
    """Raise LabelError unless all numbers are -1 or +1; whoever has checked them all is not asked twice."""
    if not is_integer(Y) and not is_floating(Y):
        raise DTypeError(f"{loss._who()}: targets must be numbers, -1 or +1, got {dtype_name(Y)}")
    if CURRENT.thread.labels_checked or bool(labels.all_signs(Y)):
        return
    host = to_numpy(Y)
    bad = next(i for i, y in enumerate(host.reshape(-1)) if y not in (-1, 1))
    row = bad // max(1, math.prod(host.shape[1:]))
    raise LabelError(
        f"{loss._who()}: targets must be -1 or +1, got {host.reshape(-1)[bad]} in row {row}; "
        "of classes 0 and 1 make them with 2 * y - 1"
    )
