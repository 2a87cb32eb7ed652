"""Layer: a Function with weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import backend_of, is_array
from deepcore.backends.select import are_floats, dtype_name, holds_floats
from deepcore.core.function import Function, wants_floats
from deepcore.core.record import Record, commit
from deepcore.errors import ArgumentError, DTypeError, MixedBackendError


class Layer(Function):
    """A Function with weights, which backward gives gradients to and update_weights moves downhill.

    Put the weights into `self.weight`, by name; let backward put the global gradient of each into
    `self.weight_update`, under the same name and of the same shape. A layer that is called several
    times in one pass gets the sum of its calls' gradients: each backward writes only its own share.

        class Scale(Layer):
            def __init__(self):
                super().__init__()
                self.weight["s"] = deepcore.asarray([[1.0]])

            def forward(self, X):
                self.cache["X"] = X
                return X * self.weight["s"]

            def backward(self, dY):
                xp = deepcore.array_namespace(dY)
                self.weight_update["s"] = xp.reshape(xp.sum(dY * self.cache["X"]), (1, 1))
                return dY * self.weight["s"]
    """

    wants_floats = True  # a layer that takes integers, as Embedding does, says False

    weight: dict[str, Any]
    weight_update: dict[str, Any]
    _has_weights = True

    def __new__(cls, *arguments: Any, **keywords: Any) -> Any:
        self = super().__new__(cls, *arguments, **keywords)
        self.weight = {}
        self.weight_update = {}
        return self

    @property
    def _weights(self) -> dict[str, Any]:
        return self.weight

    def _init_weights(self, *arguments: Any, **keywords: Any) -> None:
        """Make the weights; for constructors to call."""

    def _update_weights(self, lr: float) -> None:
        """One step of gradient descent: W <- W - lr dW. Override it for a rule of the layer's own."""
        new = descend(self.weight, self.weight_update, lr)
        commit([(self.weight, name, W) for name, W in new.items()])

    def _check_inputs(self, record: Record) -> None:
        """Note the weights in the record; raise unless they are floats, of the input's library and dtype."""
        record.weights = weights = tuple(self.weight.values())
        X = record.inputs[0] if record.inputs else None
        kind, dtype = type(X), getattr(X, "dtype", None)
        floating = are_floats(kind, dtype)
        for W in weights:
            if type(W) is not kind or W.dtype is not dtype or not floating:
                self._check_weight(W, X)

    def _check_weight(self, W: Any, X: Any) -> None:
        """Raise if X and W, which are not obviously alike, do not fit together."""
        if not holds_floats(W):
            raise self._no_floats(W)
        if not holds_floats(X):
            if self.wants_floats:
                raise wants_floats(self, X)
            return
        here, there = backend_of(W), backend_of(X)
        if here is not there:
            raise MixedBackendError(
                f"{self._who()}: its weights are {here.name!r} arrays, its input is a {there.name!r} array; "
                f"move the whole net with net.to({here.name!r})"
            )
        if dtype_name(W) != dtype_name(X):  # which has no byte order
            dtypes = " and ".join(sorted({dtype_name(V) for V in self.weight.values()}))
            raise DTypeError(
                f"{self._who()}: its weights are {dtypes}, its input is {dtype_name(X)}; "
                "make every layer of a net with one dtype"
            )

    def _no_floats(self, W: Any) -> DTypeError:
        """The error for a weight that is no array of floating-point numbers: X would be cut to its dtype."""
        name = next(name for name, V in self.weight.items() if V is W)
        got = dtype_name(W) if is_array(W) else type(W).__name__
        return DTypeError(
            f"{self._who()}: weight[{name!r}] must be an array of floating-point numbers, got {got}; "
            "make it of floats, deepcore.asarray([[2.0]]) for example, or give a dtype: "
            'deepcore.asarray(W, dtype="float32")'
        )

    def _add(self, backward: Callable[..., Any], dY: tuple[Any, ...], named: dict[str, Any]) -> Any:
        earlier = self.weight_update
        self.weight_update = {}
        try:
            dX = backward(self, *dY, **named)
        except BaseException:
            self.weight_update = earlier
            raise
        for name, gradient in earlier.items():
            new = self.weight_update.get(name)
            self.weight_update[name] = gradient if new is None else gradient + new
        return dX

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"weight_update": {}}


def descend(weight: dict[str, Any], gradient: dict[str, Any], lr: float) -> dict[str, Any]:
    """W - lr dW for each weight that has a gradient."""
    return {name: weight[name] - lr * dW for name, dW in gradient.items()}


def check_rate(lr: Any, who: str) -> float:
    """The learning rate as a Python number, which widens no array; ArgumentError unless 0 <= lr < inf."""
    try:
        rate = float(lr)
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 <= rate < math.inf:
        raise ArgumentError(f"{who}: lr must be a finite number, zero or more, got {lr!r}")
    return rate
