"""The training loop, and its two short sisters: prediction and evaluation."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace, is_array
from deepcore.backends.select import is_floating, to_numpy
from deepcore.core.function import first_weight
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, find_parameters, functions
from deepcore.core.random import Generator, check_seed, current_generator
from deepcore.core.record import CURRENT, Staged
from deepcore.data.batches import Arrays, beside, check_batch_size, pairs, take_rows
from deepcore.errors import ArgumentError, DataError, DeepcoreError, DTypeError, StateError, UnsupportedError
from deepcore.ops import random
from deepcore.optim import SGD, Optimizer
from deepcore.train.callbacks import Callback, History, Run
from deepcore.train.compiled import CompiledStep, compiler, why_not
from deepcore.train.metrics import named_metrics
from deepcore.train.progress import Progress

_EVALUATION_BATCH = 1024  # samples at a time when none is asked for: bounded memory, large products


def fit(
    net: Composition,
    X: Any,
    y: Any = None,
    *,
    epochs: int = 1,
    batch_size: int = 32,
    optimizer: Optimizer | None = None,
    schedule: Callable[[int], float] | None = None,
    validation_data: tuple[Any, Any] | None = None,
    metrics: Any = None,
    callbacks: Sequence[Callback] = (),
    shuffle: bool = True,
    seed: int | None = None,
    clip_norm: float | None = None,
    accumulate: int = 1,
    compile: bool | str = "auto",
    progress: bool | None = None,
) -> History:
    """Train a net; see Net.fit."""
    _require_loss(net, "fit")
    _check_count("epochs", epochs, least=0)
    _check_count("accumulate", accumulate, least=1)
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ArgumentError(f"fit: clip_norm must be a finite number above 0, got {clip_norm}")
    optimizer = SGD() if optimizer is None else optimizer
    _check_kinds(optimizer, schedule, callbacks)
    compiled = _whether_compiled(net, compile, accumulate, callbacks)
    source = _Source(X, y, check_batch_size(batch_size), shuffle)
    if epochs > 1 and source.runs_once:
        raise DataError(
            "a generator can be run through once, so pass a list, or an object whose __iter__ starts anew, "
            "for several epochs"
        )
    if validation_data is not None:
        validation_data = _checked_validation(net, validation_data)
    generator = Generator(_draw_seed() if seed is None else check_seed(seed))
    run = Run(net, optimizer, epochs, source.count and math.ceil(source.count / accumulate))
    net.history = run.history  # type: ignore[attr-defined]
    step = _Step(run, source, schedule, clip_norm, compiled)
    callbacks = [*([Progress()] if _shows(progress) else []), *callbacks]

    _call(callbacks, "on_fit_start", run)
    before, evaluating = CURRENT.thread, not net.training
    kept_modes = [(f, f.training) for f in functions(net)] if evaluating else []
    CURRENT.thread = before.but(generator=generator, staged=Staged(), commits=False, drops=True)
    try:
        if evaluating:  # a net that was put into evaluation mode as a whole is trained all the same
            net.train()
        while run.epoch < epochs and not run.stop:
            _call(callbacks, "on_epoch_start", run)
            tally = _Tally(metrics, net.loss_fn)
            for group in _groups(source.batches(run.epoch, generator.seed), accumulate):
                step(group, tally)
                _call(callbacks, "on_step_end", run)
                if run.stop:
                    break
            numbers = tally.means()
            if validation_data is not None:
                scores = evaluate(net, *validation_data, metrics=metrics)
                numbers |= {f"val_{name}": score for name, score in scores.items()}
            run.end_epoch(numbers)
            _call(callbacks, "on_epoch_end", run)
    finally:
        CURRENT.thread = before
        for f, mode in kept_modes:
            f.training = mode
    _call(callbacks, "on_fit_end", run)
    return run.history


def predict(net: Composition, X: Any, batch_size: int | None = None) -> Any:
    """The outputs for X; see Net.predict."""
    data = Arrays(X)
    before = CURRENT.thread
    CURRENT.thread = before.but(inference=before.inference + 1)
    try:
        if batch_size is None or not data.n:
            return net(_at_home(net, data.X))
        outs = [net(_at_home(net, Xb)) for Xb, _ in data.batches(check_batch_size(batch_size))]
        if isinstance(outs[0], tuple):  # several outputs
            return tuple(map(_joined, zip(*outs, strict=True)))
        return _joined(outs)
    finally:
        CURRENT.thread = before


def evaluate(
    net: Composition, X: Any, y: Any, *, batch_size: int = _EVALUATION_BATCH, metrics: Any = None
) -> dict[str, float]:
    """The loss and the metrics over X and y; see Net.evaluate."""
    _require_loss(net, "evaluate")
    source = _Source(X, y, check_batch_size(batch_size), shuffle=False)
    tally = _Tally(metrics, net.loss_fn)
    before = CURRENT.thread
    CURRENT.thread = before.but(inference=before.inference + 1)
    try:
        for Xb, yb in source.batches():
            out = net(_at_home(net, Xb))
            targets = source.targets(net.loss_fn, yb, tuple(out.shape), out)
            tally.add(out, targets, _loss_of_checked(net, out, targets))
        return tally.means()
    finally:
        CURRENT.thread = before


class _Source:
    """Where batches come from: arrays, shuffled anew each epoch, or an iterable as it is."""

    def __init__(self, X: Any, y: Any, batch_size: int, shuffle: bool):
        self.arrays = None if y is None else Arrays(X, y)
        if self.arrays is None and (is_array(X) or not hasattr(X, "__iter__")):
            raise DataError("y is missing: pass X and y, or an iterable of pairs (X, y)")
        if self.arrays is not None and not self.arrays.n:
            raise DataError("X has no samples")
        self.stream = X
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.checked = False  # whether all targets are known to be good

    @property
    def runs_once(self) -> bool:
        """Whether the stream is an iterator, which is empty when it has been run through."""
        return self.arrays is None and iter(self.stream) is self.stream

    @property
    def count(self) -> int | None:
        """Batches in an epoch, if known."""
        if self.arrays is not None:
            return math.ceil(self.arrays.n / self.batch_size)
        return len(self.stream) if hasattr(self.stream, "__len__") else None

    def batches(self, epoch: int = 0, seed: int = 0) -> Iterator[tuple[Any, Any]]:
        """The batches of one epoch. Raises DataError if there is none."""
        if self.arrays is not None:
            order = random.permutation(self.arrays.n, seed, "shuffle", epoch) if self.shuffle else None
            yield from self.arrays.batches(self.batch_size, order)
            return
        empty = True
        for pair in pairs(self.stream):
            empty = False
            yield pair
        if empty:
            raise DataError(
                "the iterable gave no batch; a generator can be run through once, "
                "so pass a list, or an object whose __iter__ starts anew, for several epochs"
            )

    def targets(self, loss_fn: Any, yb: Any, shape: tuple[int, ...], home: Any) -> Any:
        """The targets of a batch, checked, where the array `home` is.   shape: of the output

        Those in arrays are all checked at the first batch, on the host, before anything has changed.
        """
        if self.arrays is not None and not self.checked:
            loss_fn.check_targets(self.arrays.y, shape)
            self.checked = True
        if self.arrays is None:
            yb = loss_fn.check_targets(yb, shape)
        return beside(home, yb)


class _Step:
    """One update of the weights, from one batch or from several that count as one."""

    def __init__(
        self,
        run: Run,
        source: _Source,
        schedule: Callable[[int], float] | None,
        clip_norm: float | None,
        compiled: bool,
    ):
        self.run = run
        self.source = source
        self.schedule = schedule
        self.clip_norm = None if clip_norm is None else float(clip_norm)
        self.compiled = CompiledStep(run.net, run.optimizer, self._scale, checked=True) if compiled else None
        self.sample: tuple[int, ...] = ()  # the shape of the output for one sample

    def __call__(self, group: list[tuple[Any, Any]], tally: _Tally) -> None:
        run = self.run
        changes, loss = (
            self._call_by_call(group, tally) if self.compiled is None else self._at_once(group, tally)
        )
        changes.set(vars(run), {"step": run.step + 1, "loss": loss})
        changes.commit()
        CURRENT.thread.staged.clear()

    def _call_by_call(self, group: list[tuple[Any, Any]], tally: _Tally) -> tuple[Changes, Any]:
        run, net = self.run, self.run.net
        loss = None
        n = sum(Xb.shape[0] for Xb, _ in group)
        for index, (Xb, yb) in enumerate(group):
            out = net(_at_home(net, Xb))
            targets = self.source.targets(net.loss_fn, yb, tuple(out.shape), out)
            loss = _loss_of_checked(net, out, targets)
            tally.add(out, targets, loss)
            if len(group) == 1:
                net.backward()
            else:  # in a mean each batch counts by its samples, so that the last may be smaller
                share = Xb.shape[0] / n if _averages(net.loss_fn) else 1
                net.backward(net.loss_gradient() * share, accumulate=index > 0)
        self._set_rate()
        changes = run.optimizer.changes(net, self._scale(net))
        for f, buffers in CURRENT.thread.staged.items():
            changes.set(f.buffer, buffers)
        return changes, loss

    def _at_once(self, group: list[tuple[Any, Any]], tally: _Tally) -> tuple[Changes, Any]:
        net = self.run.net
        ((Xb, yb),) = group
        Xb = _at_home(net, Xb)
        if not self.sample:
            self.sample = tuple(predict(net, Xb[:1, ...]).shape[1:])
        targets = self.source.targets(net.loss_fn, yb, (Xb.shape[0], *self.sample), Xb)
        self._set_rate()
        changes, out, loss = self.compiled.changes(Xb, targets)  # type: ignore[union-attr]
        tally.add(out, targets, loss)
        return changes, loss

    def _set_rate(self) -> None:
        if self.schedule is not None:
            self.run.optimizer.lr = self.schedule(self.run.step)

    def _scale(self, net: Composition) -> Any:
        """The factor that makes all gradients together, as one vector, at most clip_norm long."""
        if self.clip_norm is None:
            return None
        squares = [
            array_namespace(dW).sum(dW * dW)
            for p in find_parameters(net).values()
            if p.trainable and (dW := p.gradient()) is not None
        ]
        if not squares:
            return None
        xp = array_namespace(squares[0])
        norm = xp.sqrt(sum(squares[1:], start=squares[0]))
        return xp.minimum(self.clip_norm / (norm + 1e-6), xp.ones_like(norm))


class _Tally:
    """Means over the samples of an epoch. They stay on the device until they are asked for."""

    def __init__(self, metrics: Any, loss_fn: Any):
        self.wanted = metrics
        self.metrics: dict[str, Any] | None = None
        self.ignored = getattr(loss_fn, "ignore_index", None)
        self.adds = getattr(loss_fn, "reduction", "mean") == "sum"
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}

    def add(self, out: Any, targets: Any, loss: Any) -> None:
        labels = not is_floating(targets)
        if self.metrics is None:
            self.metrics = named_metrics(self.wanted, labels)
        n = out.shape[0] if not isinstance(out, tuple) else out[0].shape[0]
        if getattr(loss, "ndim", 0):
            loss = array_namespace(loss).mean(loss)
            self._add("loss", loss, n)
        else:
            self._add("loss", loss, 1 if self.adds else n)
        if self.metrics and labels and self.ignored is not None:
            out, targets, n = self._without_ignored(out, targets, n)
        for name, metric in self.metrics.items():
            if n:
                self._add(name, metric(out, targets), n)

    def _without_ignored(self, out: Any, y: Any, n: int) -> tuple[Any, Any, int]:
        """The samples whose label counts: metrics, like the loss, leave the others out."""
        if y.ndim > 1 and math.prod(y.shape) != n:  # a label for each place of an image
            return out, y, n
        y = array_namespace(y).reshape(y, (n,))
        kept = to_numpy(y) != self.ignored
        if kept.all():
            return out, y, n
        rows = np.flatnonzero(kept)
        return take_rows(out, rows), take_rows(y, rows), len(rows)

    def _add(self, name: str, mean: Any, n: int) -> None:
        self.sums[name] = mean * n + self.sums[name] if name in self.sums else mean * n
        self.counts[name] = self.counts.get(name, 0) + n

    def means(self) -> dict[str, float]:
        """By name. The loss of a reduction "sum" is the sum over all samples."""
        return {
            name: float(to_numpy(total)) / (1 if self.adds and name == "loss" else self.counts[name])
            for name, total in self.sums.items()
        }


def _averages(loss_fn: Any) -> bool:
    """Whether the loss of a batch is a mean over it."""
    return getattr(loss_fn, "reduction", "mean") == "mean"


def _checked_validation(net: Composition, data: Any) -> tuple[Any, Any]:
    """X and y that the net and its loss can take. Raises before anything has changed."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ArgumentError(f"fit: validation_data must be a pair (X, y), got {type(data).__name__}")
    try:
        arrays = Arrays(*data)
        out = predict(net, take_rows(arrays.X, slice(1)))
        net.loss_fn.check_targets(arrays.y, tuple(out.shape))  # type: ignore[union-attr]
    except DeepcoreError as error:
        error.inside("validation_data")
        raise
    return arrays.X, arrays.y


def _whether_compiled(net: Composition, wanted: Any, accumulate: int, callbacks: Sequence[Any]) -> bool:
    """Whether the steps are compiled. Raises UnsupportedError, with the reason, if they can't but must be."""
    if wanted not in (True, False, "auto"):
        raise ArgumentError(f'fit: compile must be True, False or "auto", got {wanted!r}')
    if wanted is False or (wanted == "auto" and compiler(net) is None):
        return False
    reason = why_not(net)
    if accumulate > 1:
        reason = "accumulate needs the gradients of several batches"
    for callback in callbacks:
        if getattr(callback, "needs_gradients", False):
            reason = f"callback {type(callback).__name__} needs the gradients"
    if reason and wanted is True:
        raise UnsupportedError(f"fit(compile=True): {reason}; use compile=False")
    if reason:
        import logging  # 5 ms that few need

        logging.getLogger("deepcore").debug("fit makes its steps call by call: %s", reason)
    return not reason


def _check_kinds(optimizer: Any, schedule: Any, callbacks: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise DTypeError(f"fit: optimizer must be an Optimizer, such as optim.Adam(), got {optimizer!r}")
    if schedule is not None and not callable(schedule):
        raise DTypeError(f"fit: schedule must be a function step -> learning rate, got {schedule!r}")
    if not isinstance(callbacks, list | tuple) or not all(isinstance(c, Callback) for c in callbacks):
        raise DTypeError(f"fit: callbacks must be a list of Callbacks, got {callbacks!r}")


def _loss_of_checked(net: Composition, out: Any, targets: Any) -> Any:
    """net.loss(out, targets), without a second look at every label, which would wait for a GPU."""
    before = CURRENT.thread
    CURRENT.thread = before.but(labels_checked=True)
    try:
        return net.loss(out, targets)
    finally:
        CURRENT.thread = before


def _groups(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` batches each, the last maybe shorter."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _at_home(net: Composition, X: Any) -> Any:
    """X where the net's weights live."""
    W = first_weight(net)
    return X if W is None else beside(W, X)


def _joined(parts: Sequence[Any]) -> Any:
    return array_namespace(parts[0]).concat(list(parts), axis=0)


def _draw_seed() -> int:
    """A seed from the generator of dc.seed."""
    generator = current_generator()
    call = generator.next_call("fit")
    words = random.random_bits(np.empty(0), (2,), generator.seed, "fit", call).view(np.uint32)
    return int(words[0]) << 32 | int(words[1])


def _shows(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


def _call(callbacks: Sequence[Callback], moment: str, run: Run) -> None:
    for callback in callbacks:
        getattr(callback, moment)(run)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ArgumentError(f"fit: {name} must be a whole number of {least} or more, got {value!r}")


def _require_loss(net: Composition, who: str) -> None:
    if net.loss_fn is None:
        raise StateError(f"{who}: this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
