"""Composition: layers in a row, and a loss at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepcore.backends.quiet import quietly
from deepcore.backends.select import is_tracked
from deepcore.core.containers import chain_backward, chain_forward, check_functions
from deepcore.core.function import Function, tracked
from deepcore.core.layer import check_rate
from deepcore.core.loss import Loss
from deepcore.core.parameters import find_buffers, find_parameters, functions, new_weights
from deepcore.core.record import CURRENT, Record, run_inside
from deepcore.errors import DTypeError, StateError


class Composition(Function):
    """The net as mathematics: forward through the layers, the loss, backward, and the update.

    deepcore.Net adds training, files and explanations to it.
    """

    traceable = True
    _gradients_gone = False  # whether the last thing that happened is a compiled step

    def __init__(self, layers: Sequence[Function], loss: Loss | None = None):
        super().__init__()
        check_functions(f"{type(self).__name__}(layers=)", layers)
        if loss is not None and not isinstance(loss, Loss):
            hint = "; make an instance of it" if isinstance(loss, type) else ""
            raise DTypeError(f"{type(self).__name__}(loss=): must be a Loss or None, got {loss!r}{hint}")
        self.layers = list(layers)
        self.loss_fn = loss

    def forward(self, *inputs: Any) -> Any:
        """The output of the last layer, given the inputs of the first."""
        return chain_forward(self.layers, inputs, "layer")

    @quietly
    def loss(self, out: Any, y: Any) -> Any:
        """The loss of an output with respect to the targets: a 0-d array.

        Any output will do; `backward()` then needs that of this thread's last `net(X)`.
        """
        if self.loss_fn is None:
            raise StateError("this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
        if is_tracked(y):
            raise tracked(self.loss_fn, "the target")
        record = self._last.record
        if record is None or CURRENT.thread.inference:
            return self.loss_fn(out, y)
        record.loss_taken = False
        if record.output is not out:
            return self.loss_fn(out, y)
        record.take(self.loss_fn)  # the loss may be taken twice; the last counts
        value = run_inside(record, self, self.loss_fn, out, y)
        record.loss_taken = True
        return value

    def backward(self, dY: Any = None, *more: Any, accumulate: bool = False) -> Any:
        """dL/dX, leaving every layer its weight gradients in `weight_update`.

        dY: the gradient of the output, if it does not come from this net's own loss; one for each output.
        accumulate: add to the gradients of earlier passes instead of forgetting them. (Every backward
        takes it: whoever finds the record sees to it.)
        Raises StateError before forward, before loss, and for a second time.
        """
        if dY is None:
            dY = self._loss_gradient()
        return chain_backward(self.layers, (dY, *more))

    @quietly
    def loss_gradient(self) -> Any:
        """dL/dout of the last loss. Call it once for each `net.loss`, and pass what you make of it on.

        net.backward(net.loss_gradient()) is net.backward().
        """
        return self._loss_gradient()

    def _loss_gradient(self) -> Any:
        if self.loss_fn is None:
            raise StateError("this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
        return run_inside(self._record, self, self.loss_fn.backward)

    def _fit_gradient(self, record: Record, dY: Any, named: Any) -> Any:
        gradients = [d for d in (*dY, *named.values()) if d is not None]
        if gradients:
            return super()._fit_gradient(record, tuple(gradients), {})
        if self.loss_fn is None:
            raise StateError(
                "net.backward: this net has no loss; pass the gradient of its output: backward(dY)"
            )
        if not record.loss_taken:
            raise StateError(
                "net.backward: the last loss was not that of the output of the last net(X) in this thread; "
                "call out = net(X), then net.loss(out, y) with that very array, then net.backward()"
            )
        return (), {}

    def _config(self) -> dict[str, Any]:
        return {"layers": self.layers, "loss": self.loss_fn}

    # ---- weights

    @quietly
    def update_weights(self, lr: float) -> None:
        """One step of gradient descent on every trainable weight that the last backward gave a gradient.

        W <- W - lr dL/dW, all weights at once. Layers that override `_update_weights` use their own rule.
        Raises ArgumentError if lr is negative or not finite, StateError before backward.
        """
        lr = check_rate(lr, "update_weights")
        new_weights(self, lambda parameter, W, dW: W - lr * dW, lr).commit()

    def parameters(self) -> dict[str, Any]:
        """Path -> weight, such as {"layers.0.W": ...}. A weight that layers share comes once."""
        return {path: parameter.value for path, parameter in find_parameters(self).items()}

    def gradients(self) -> dict[str, Any]:
        """Path -> gradient of the loss by that weight, for those that the last backward reached.

        Raises StateError after a compiled step, which keeps none.
        """
        found = {path: parameter.gradient() for path, parameter in find_parameters(self).items()}
        found = {path: dW for path, dW in found.items() if dW is not None}
        if self._gradients_gone and not found:
            raise StateError(
                "gradients: a compiled step keeps none; call net(X), net.loss(out, y) and net.backward(), "
                "or fit with compile=False"
            )
        return found

    def buffers(self) -> dict[str, Any]:
        """Path -> buffer: arrays that are kept with the weights but not trained, such as running means."""
        return {path: f.buffer[name] for path, (f, name) in find_buffers(self).items()}

    # ---- modes

    def train(self, mode: bool = True) -> Composition:
        """Set training mode in every Function of the net; returns the net."""
        for f in functions(self):
            f.training = mode
        return self

    def eval(self) -> Composition:
        """Set evaluation mode in every Function of the net; returns the net. Gradients still work."""
        return self.train(False)
