"""The Net that users see: core's composition, and all that is done with a net, one line a method."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepcore.core.move import move
from deepcore.core.net import Composition
from deepcore.errors import ArgumentError
from deepcore.io import state
from deepcore.io.architecture import register
from deepcore.train.callbacks import Callback, History
from deepcore.train.predict import predict

if TYPE_CHECKING:  # imported where they are called: a tenth of the time that import deepcore would take
    from deepcore.diagnose.doctor import Diagnosis
    from deepcore.diagnose.explain import Explanation
    from deepcore.diagnose.summary import Summary
    from deepcore.train.compiled import CompiledStep


@register
class Net(Composition):
    """Layers in a row, and a loss at the end.

    >>> import numpy as np
    >>> import deepcore as dc
    >>> from deepcore import CrossEntropyLoss, Linear, Net, ReLU
    >>> dc.seed(0)
    >>> net = Net(layers=[Linear(2, 4), ReLU(), Linear(4, 2)], loss=CrossEntropyLoss())
    >>> X, y = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0, 1])
    >>> out = net(X)                # forward pass
    >>> loss = net.loss(out, y)     # scalar
    >>> grad = net.backward()       # dL/dX; every layer now holds its weight gradients
    >>> net.update_weights(lr=0.1)  # plain gradient descent
    >>> bool(net.loss(net(X), y) < loss)
    True
    """

    history: History | None = None  # of the last fit, an interrupted one included

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        optimizer: Any = None,
        schedule: Callable[[int], float] | None = None,
        validation_data: tuple[Any, Any] | None = None,
        metrics: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        callbacks: Sequence[Callback] = (),
        shuffle: bool = True,
        seed: int | None = None,
        clip_norm: float | None = None,
        accumulate: int = 1,
        precision: str = "float32",
        compile: bool | str = "auto",
        step: Callable[[Any, Any, Any], Any] | None = None,
        parallel: Any = None,
        progress: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
    ) -> History:
        """Train on samples X and targets y, or on an iterable of batches (X, y); returns the History.

        X: an array, a memory map, a data frame, or data.Rows such as data.ImageFolder.

        epochs: how often to go through the data.   batch_size: samples a step.
        optimizer: SGD(lr=0.01) unless given.   schedule: step -> learning rate, before each step.
        validation_data: (X, y) to evaluate after each epoch, as val_loss and so on.
        metrics: functions (out, y) -> mean, or names; accuracy for class labels unless given.
        sample_weight: (n,), a factor for the loss of each sample; the mean still divides by n.
        class_weight: (c,), or a dict label -> factor, 1 for all others.
        callbacks: Callbacks.   shuffle: whether to shuffle arrays anew each epoch.
        seed: of shuffling and dropout; drawn from that of deepcore.seed unless given.
        clip_norm: longest that all gradients together, seen as one vector, may be.
        accumulate: batches whose gradients are averaged for one step.
        precision: "float32"; "relaxed" where a library has faster kernels that lose a few bits; "bf16" or
        "fp16": forward and backward in 16 bits, while weights, loss and optimizer stay as they are. With
        "fp16" small gradients are scaled up, and a step whose gradients overflow is left out.
        step: your own training step, step(net, X, y) -> loss, which changes the weights itself.
        checkpoint: a file that holds all that going on needs, written after each epoch.
        resume: such a file: go on where it was written, bit for bit; `epochs` is the total.
        compile: whether each step is compiled to one program, see Net.compile; "auto": if that is possible.
        progress: whether to show it on stderr; None: where that is a terminal or a notebook.

        NumPy arrays, memory maps and data frames are moved to the net batch by batch. Targets are checked
        once, before any weight has changed. An interrupt leaves weights, optimizer and buffers as after
        one whole step, keeps `net.history`, and goes on.
        Raises StateError without a loss, DataError, ArgumentError, LabelError, ShapeError, DTypeError,
        CheckpointError for a `resume` that does not fit, UnsupportedError.
        """
        from deepcore.train import loop

        return loop.fit(
            self,
            X,
            y,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            schedule=schedule,
            validation_data=validation_data,
            metrics=metrics,
            sample_weight=sample_weight,
            class_weight=class_weight,
            callbacks=callbacks,
            shuffle=shuffle,
            seed=seed,
            clip_norm=clip_norm,
            accumulate=accumulate,
            precision=precision,
            compile=compile,
            step=step,
            parallel=parallel,
            progress=progress,
            checkpoint=checkpoint,
            resume=resume,
        )

    def compile(self, optimizer: Any, precision: str = "float32") -> CompiledStep:
        """step(X, y) -> loss: forward, loss, backward and update by this optimizer as one program.

        Compiled if the net's library can (JAX's and NumPy's can), and if every Function is `traceable`: the
        built-in ones are, your own say so in their class. Else the same step, call by call; the numbers are
        the same, on NumPy bit for bit. After it only weights, buffers, optimizer and loss are current: grad,
        cache and gradients() raise StateError. A label out of range changes nothing: NumPy raises LabelError,
        elsewhere the loss is NaN, and `step.check()`, or a later step, raises. An array that a Function keeps
        elsewhere than in `weight` and `buffer` counts as constant.   precision: as fit's.
        Raises StateError for a net without a loss, ArgumentError and DTypeError for the precision.

        >>> import numpy as np
        >>> import deepcore as dc
        >>> net = dc.Net([dc.Linear(2, 1, init="zeros")], dc.MSELoss())
        >>> step = net.compile(dc.optim.SGD(lr=0.5))
        >>> float(step(np.ones((1, 2), "float32"), np.ones((1, 1), "float32")))
        1.0
        >>> net.parameters()["layers.0.b"]
        array([[1.]], dtype=float32)
        """
        from deepcore.train.compiled import CompiledStep
        from deepcore.train.mixed import check_precision

        check_precision(self, precision, "compile")
        return CompiledStep(self, optimizer, precision=precision)

    def predict(self, X: Any, batch_size: int | None = None) -> Any:
        """The raw outputs for X in inference mode, as arrays of the net's library; no record is kept.

        batch_size: samples at a time; None: all at once. Several threads may call it at once.
        """
        return predict(self, X, batch_size)

    def evaluate(self, X: Any, y: Any, *, batch_size: int = 1024, metrics: Any = None) -> dict[str, float]:
        """{"loss": ..., "accuracy": ...}: means over the samples, in inference mode.

        metrics: functions (out, y) -> mean, or names; accuracy for class labels unless given.
        """
        from deepcore.train import loop

        return loop.evaluate(self, X, y, batch_size=batch_size, metrics=metrics)

    def summary(self, input_shape: Any, dtype: Any = None) -> Summary:
        """A table of the layers with their output shapes and numbers of weights; print it, or take `.html()`.

        input_shape: of one sample, without the batch.   dtype: of the input, if it isn't the weights'.
        Raises ShapeError where a layer does not fit the one before it; the net does not change.
        """
        from deepcore.diagnose.summary import summary

        return summary(self, input_shape, dtype)

    def explain(self, X: Any, y: Any) -> Explanation:
        """One forward, loss and backward told layer by layer: formulas, shapes, gradients; print it.

        In a notebook it shows itself; `.html()` is the same as a fragment of a page. The net does not change.
        Raises StateError without a loss, and the layer's own error where the batch doesn't fit.
        """
        from deepcore.diagnose.explain import explain

        return explain(self, X, y)

    def doctor(self, X: Any, y: Any = None) -> Diagnosis:
        """What ails the net, the data, or both: findings with their reasons and remedies; print it.

        It is true if all is well. Nothing is raised for a sick net; the net does not change.
        """
        from deepcore.diagnose.doctor import doctor

        return doctor(self, X, y)

    # ---- the weights in a dict or a file

    def state_dict(self) -> dict[str, Any]:
        """Path -> a copy of each weight, then of each buffer: {"layers.0.W": ...}."""
        return state.state_dict(self)

    def load_state_dict(
        self, weights: Mapping[str, Any], strict: bool = True, *, allow_nan: bool = False
    ) -> None:
        """Replace weights and buffers by copies of those in a dict, all of them or none.

        strict: whether the paths must be those of the net; else missing and extra ones are passed over.
        allow_nan: whether arrays may hold NaN.
        Raises one CheckpointError that lists all that is missing, extra, or of another shape or dtype.
        """
        state.load_state_dict(self, weights, strict, allow_nan=allow_nan)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write architecture, weights and buffers to a file in the safetensors format.

        The file appears, or takes the place of an older one, when it is complete and on the disk.
        Raises UnsupportedError if a layer can't be built anew from its attributes, OSError.
        """
        from deepcore.io.net_file import save

        save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_nan: bool = False) -> Any:
        """The net that `save` wrote, on the selected backend. No code from the file is run.

        allow_nan: whether weights may be NaN.
        Raises CheckpointError for a damaged file or an unknown class, OSError if there is no file.
        """
        from deepcore.io.net_file import load

        return load(path, allow_nan=allow_nan)

    def to_python(self, path: str | os.PathLike[str]) -> None:
        """Write the net as one Python file that needs NumPy alone, weights included: `predict(X)`.

        Raises UnsupportedError naming a layer that has no plain formula, such as one of your own; OSError.
        """
        from deepcore.io.python import to_python

        to_python(self, path)

    def to(self, backend: str | None = None, device: Any = None) -> Net:
        """Move weights and buffers to another array library, or to another device; returns the net.

        backend: the library they are in, unless given: net.to(device="cpu").
        Raises BackendUnavailable with the reason and the remedy; then nothing has moved. ArgumentError for
        net.to(), which says nothing.
        """
        if backend is None and device is None:
            raise ArgumentError('Net.to: wanted a backend, a device or both: net.to("numpy")')
        move(self, backend, device)
        return self
