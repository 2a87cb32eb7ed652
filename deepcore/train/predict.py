"""Prediction: a net's outputs, in inference mode, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepcore.activations import Softmax
from deepcore.backends.registry import array_namespace
from deepcore.core.containers import Sequential
from deepcore.core.function import first_weight
from deepcore.core.net import Composition
from deepcore.core.record import CURRENT
from deepcore.data.batches import Arrays, beside, check_batch_size, whole
from deepcore.ops import softmax


def predict(net: Composition, X: Any, batch_size: int | None = None) -> Any:
    """The outputs for X; see Net.predict."""
    data = Arrays(X)
    before = CURRENT.thread
    CURRENT.thread = before.but(inference=before.inference + 1)
    try:
        if batch_size is None or not data.n:
            return net(at_home(net, whole(data.X)))
        outs = [net(at_home(net, Xb)) for Xb, _ in data.batches(check_batch_size(batch_size))]
        if isinstance(outs[0], tuple):  # several outputs
            axes = _sample_axes(net)
            joined = enumerate(zip(*outs, strict=True))
            return tuple(_joined(parts, axes[i] if i < len(axes) else 0) for i, parts in joined)
        return _joined(outs)
    finally:
        CURRENT.thread = before


def probabilities(net: Composition, Y: Any) -> Any:
    """Outputs Y (n, c, ...) of a net as probabilities of c classes: Y itself if a Softmax made it."""
    return Y if isinstance(_last(net), Softmax) else softmax.softmax(Y, axis=1)


def at_home(net: Composition, X: Any) -> Any:
    """X where the net's weights live."""
    W = first_weight(net)
    return X if W is None else beside(W, X)


def _joined(parts: Sequence[Any], axis: int = 0) -> Any:
    return array_namespace(parts[0]).concat(list(parts), axis=axis)


def _sample_axes(net: Composition) -> tuple[int, ...]:
    """Which axis of each output counts the samples: as the last Function says, if it isn't the first one."""
    return getattr(_last(net), "sample_axes", ())


def _last(net: Composition) -> Any:
    """The Function that makes the output: the last one, and in containers of a row the last one there."""
    f: Any = net
    while row := f.layers if isinstance(f, Composition) else f.functions if isinstance(f, Sequential) else ():
        f = row[-1]
    return f
