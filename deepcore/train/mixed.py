"""Steps in 16 bits, of a net whose weights stay in 32: mixed precision.

A step moves a weight by less than 16 bits can tell apart: bfloat16 has 8 significant bits, float16 11. So
the net's own weights, the optimizer's memory, running statistics and the loss stay as they are, and what
costs time runs in 16 bits, forward and backward, on a copy of the net that holds its weights rounded.

bfloat16 reaches as far as float32. float16 ends at 65504, and near 0 at 6e-8, where many gradients are; so
the gradient of the loss is multiplied by a factor, which is divided out again when the weights' gradients
are in float32. Micikevicius et al. 2018, arXiv:1710.03740.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

from deepcore.backends.quiet import quietly
from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import dtype_name, is_floating, is_narrow
from deepcore.core.function import first_weight
from deepcore.core.layer import Layer
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, find_buffers, find_parameters, functions
from deepcore.core.record import CURRENT
from deepcore.errors import ArgumentError, DTypeError, NumericWarning, StateError
from deepcore.ops import update

PRECISIONS = ("float32", "relaxed", "bf16", "fp16")
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}

_FIRST = 2.0**16  # a net that can't take it comes down in a few steps
_LEAST = 1.0
_PATIENCE = 2000  # good steps in a row, after which twice the scale is tried


class LossScale:
    """The factor that keeps gradients within float16: as large as they allow, a power of two.

    A step with a gradient that is not finite is left out, and halves it; 2000 good ones in a row double it.

    >>> scale = LossScale()
    >>> scale.value, scale.after(good=False)["value"]
    (65536.0, 32768.0)
    """

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"value": _FIRST, "good": 0}

    @property
    def value(self) -> float:
        """The factor for the coming step."""
        return self.state["value"]

    def after(self, good: bool) -> dict[str, Any]:
        """The state after a step. Warns of one that can't be helped, with the least factor."""
        value, count = self.value, self.state["good"] + 1
        if not good:
            if value <= _LEAST:
                warnings.warn(
                    'precision "fp16": a step is left out, because gradients are not finite even if nothing '
                    'scales them up; the net diverges, or its numbers need precision="bf16"',
                    NumericWarning,
                    stacklevel=2,
                )
            return {"value": max(value / 2, _LEAST), "good": 0}
        return {"value": 2 * value, "good": 0} if count >= _PATIENCE else {"value": value, "good": count}


class Narrowed:
    """A net in 16 bits, for one step: called as the net is, which gets the gradients and staged buffers.

    dtype: "bfloat16" or "float16"   scale: the factor of the loss, a number or a 0-d array; None for 1
    """

    def __init__(self, net: Composition, dtype: str, scale: Any = None):
        self.net, self.scale = net, scale
        self.dtype = backend_of(first_weight(net)).dtype(dtype)
        self.copy = self._copied(net)
        self.twins = list(zip(functions(net), functions(self.copy), strict=True))

    @quietly
    def _copied(self, net: Composition) -> Composition:
        """The net with its weights rounded; buffers and the loss are its own."""
        memo: dict[int, Any] = {}
        kept = [f.buffer[name] for f, name in find_buffers(net).values()]
        for x in [*kept, *([] if net.loss_fn is None else [net.loss_fn])]:
            memo[id(x)] = x
        for parameter in find_parameters(net).values():
            memo[id(parameter.value)] = _cast(parameter.value, self.dtype)
        return copy.deepcopy(net, memo)

    @quietly
    def __call__(self, *inputs: Any) -> Any:
        """The net's output, in the weights' own dtype."""
        self._restage({ours: theirs for ours, theirs in self.twins})
        out = self.copy(*inputs)
        self._restage({theirs: ours for ours, theirs in self.twins})
        wide = first_weight(self.net).dtype
        return tuple(_cast(Y, wide) for Y in out) if isinstance(out, tuple) else _cast(out, wide)

    def _restage(self, keys: dict[Any, Any]) -> None:
        """Buffers that were staged belong to the other of two twins."""
        staged = CURRENT.thread.staged
        for f in [f for f in staged if f in keys]:
            staged[keys[f]] = staged.pop(f)

    def loss(self, out: Any, y: Any) -> Any:
        """The loss of an output, in the dtype that this has."""
        return self.net.loss(out, y)

    @quietly
    def loss_gradient(self) -> Any:
        """dL/dout of the last loss."""
        if self.net.loss_fn is None:
            raise StateError("this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
        return self.net.loss_fn.backward()

    @quietly
    def backward(self, dY: Any = None, accumulate: bool = False) -> None:
        """Leave each of the net's layers the gradients of its weights, in their own dtype and not scaled."""
        dY = self.loss_gradient() if dY is None else dY
        dY = dY if isinstance(dY, tuple) else (dY,)
        if self.scale is not None:
            dY = tuple(d * self.scale for d in dY)
        self.copy.backward(*(_cast(d, self.dtype) for d in dY))
        for ours, theirs in self.twins:
            if ours is theirs or not isinstance(ours, Layer) or not isinstance(theirs, Layer):
                continue
            new = {name: _cast(dW, ours.weight[name].dtype) for name, dW in theirs.weight_update.items()}
            if self.scale is not None:
                new = {name: dW / self.scale for name, dW in new.items()}
            if accumulate:
                for name, earlier in ours.weight_update.items():
                    new[name] = earlier + new[name] if name in new else earlier
            ours.weight_update = new


def passes(net: Composition, precision: str, scale: Any = None) -> Any:
    """What a step calls for forward, loss and backward: the net itself, or a copy of it in 16 bits."""
    return Narrowed(net, DTYPES[precision], scale) if precision in DTYPES else net


@quietly
def finite(net: Composition) -> Any:
    """Whether all gradients of the net's weights are finite: a 0-d array; None if there are none."""
    found = gradients(net)
    if not found:
        return None
    norm = update.gradient_norm(*found)
    return array_namespace(norm).isfinite(norm)


def judged(changes: Changes, good: Any, scale: LossScale) -> Changes:
    """What a step changes, or, if its gradients were not finite, nothing; and the scale. Reads `good`."""
    good = good is None or bool(good)
    changes = changes if good else Changes()
    changes.set(scale.state, scale.after(good))
    return changes


@quietly
def clip_factor(net: Composition, most: float) -> Any:
    """The factor that makes all gradients together, as one vector, at most so long; None without any."""
    found = gradients(net)
    if not found:
        return None
    norm = update.gradient_norm(*found)
    xp = array_namespace(norm)
    return xp.minimum(most / (norm + 1e-6), xp.ones_like(norm))


def gradients(net: Composition) -> list[Any]:
    """Those of all weights that will move."""
    found = (p.gradient() for p in find_parameters(net).values() if p.trainable)
    return [dW for dW in found if dW is not None]


def check_precision(net: Any, precision: Any, who: str) -> None:
    """Raise ArgumentError unless it is one of PRECISIONS, DTypeError if the net's library has it not."""
    if precision not in PRECISIONS:
        raise ArgumentError(f"{who}: precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    W = first_weight(net) if precision in DTYPES else None
    if W is None:
        return
    if is_narrow(W):
        raise DTypeError(
            f"{who}: precision {precision!r} wants weights of 32 bits, which steps in 16 bits can move; "
            f'these are {dtype_name(W)} already; make the layers with dtype="float32", or leave precision out'
        )
    try:
        backend_of(W).dtype(DTYPES[precision])
    except DTypeError as error:
        raise DTypeError(f"{who}: precision {precision!r} is not to be had here: {error}") from error


def _cast(x: Any, dtype: Any) -> Any:
    return array_namespace(x).astype(x, dtype) if is_floating(x) else x
