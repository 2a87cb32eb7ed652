"""Loss: a Function of the net's output and the targets whose value is one number."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import is_floating, is_tracked
from deepcore.core.function import Function, tracked
from deepcore.core.record import Record
from deepcore.errors import DTypeError, MixedBackendError


class Loss(Function):
    """L = f(X, Y): how far the net's output X is from the target Y.

    Write `forward(X, Y)`, which returns a 0-d array, and `local_grad(X, Y)`, which returns
    {"X": dL/dX}. The loss is the end of the chain, so that `backward()` needs no argument.

    >>> import numpy as np
    >>> class Distance(Loss):
    ...     def forward(self, X, Y):
    ...         return np.sum((X - Y) ** 2)
    ...
    ...     def local_grad(self, X, Y):
    ...         return {"X": 2 * (X - Y)}
    >>> loss = Distance()
    >>> float(loss(np.array([3.0]), np.array([1.0])))
    4.0
    >>> loss.backward()
    array([4.])
    """

    wants_floats = True

    def backward(self, *dY: Any) -> Any:
        """dL/dX. With an argument, that times dY: what a loss with reduction "none" needs."""
        dX = self.grad["X"]
        return dX * dY[0] if dY else dX

    def _check_inputs(self, record: Record) -> None:
        """Give floating targets X's dtype. Raises if X and Y are arrays of two libraries, or none."""
        if len(record.inputs) == 2:
            X, Y = record.inputs
            if type(Y) is not type(X) or (Y.dtype is not X.dtype and is_floating(Y)):
                record.inputs = (X, self._fit_target(X, Y))

    def _fit_target(self, X: Any, Y: Any) -> Any:
        """Y in X's dtype if it is floating."""
        for name, array in (("X", X), ("Y", Y)):
            if not is_array(array):
                raise DTypeError(
                    f"{self._who()}: {name} must be an array, got {type(array).__name__}; "
                    "convert it with deepcore.asarray(x)"
                )
        here, there = backend_of(X), backend_of(Y)
        if here is not there:
            raise MixedBackendError(
                f"{self._who()}: X is a {here.name!r} array, the target a {there.name!r} array; "
                f"move the target with deepcore.to_backend(y, {here.name!r})"
            )
        if is_floating(Y) and is_floating(X) and Y.dtype != X.dtype:
            return array_namespace(Y).astype(Y, X.dtype)
        return Y

    def check_targets(self, y: Any, shape: tuple[int, ...]) -> Any:
        """The targets as they will be used, for an output of this shape; raises if they don't fit.

        `fit` calls it once for all targets, before anything is trained. y may have more samples than
        `shape` says: only the shape of one sample counts. The default accepts everything.
        """
        return y

    def targets_fit(self, y: Any, shape: tuple[int, ...]) -> Any:
        """Whether the values of y are such as `check_targets` accepts: a 0-d bool array, or None for always.

        A compiled step asks this, because it can't look at values and raise.
        """
        return None

    def divisor(self, y: Any, n: int) -> Any:
        """What the mean over n samples with targets y divides by, up to a factor that never changes.

        It tells how much the loss of a batch counts in that of all: n, unless samples differ in weight.
        """
        return n

    def _admit(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if any(map(is_tracked, inputs)):
            raise tracked(self, "X or the target")
        return inputs  # a loss has no weights whose dtype they should have

    def _fit_gradient(self, record: Record, dY: Any, named: Any) -> Any:
        return dY, named  # whatever broadcasts against dL/dX will do

    def _check_gradient(self, dY: Any, shape: Any, remedy: str = "") -> None:
        """As above."""
