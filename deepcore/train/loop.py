"""The training loop, and its two short sisters: prediction and evaluation."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.backends import select
from deepcore.core.net import Composition
from deepcore.core.parameters import functions
from deepcore.core.random import Generator, check_seed, current_generator
from deepcore.core.record import CURRENT, Staged
from deepcore.core.settings import to_finite
from deepcore.data.batches import Arrays, check_batch_size, take_rows
from deepcore.errors import ArgumentError, DataError, DeepcoreError, DTypeError, StateError, UnsupportedError
from deepcore.io.architecture import describe
from deepcore.io.safetensors import check_place
from deepcore.ops import random
from deepcore.optim import SGD, Optimizer
from deepcore.train.callbacks import Callback, History, Run
from deepcore.train.compiled import compiler, why_not
from deepcore.train.metrics import named_metrics
from deepcore.train.mixed import DTYPES, LossScale, check_precision
from deepcore.train.predict import at_home, predict
from deepcore.train.progress import Progress, is_watched
from deepcore.train.source import Source
from deepcore.train.step import Step, loss_of_checked
from deepcore.train.tally import Tally
from deepcore.train.weighted import Weights

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
    """Train a net; see Net.fit."""
    if step is None:
        _require_loss(net, "fit")
    check_precision(net, precision, "fit")
    if parallel is not None:
        raise UnsupportedError("fit: parallel is not there yet; leave it out")
    _check_count("epochs", epochs, least=0)
    _check_count("accumulate", accumulate, least=1)
    if clip_norm is not None:
        clip_norm = to_finite(clip_norm, "fit", "clip_norm", zero=False)
    _check_kinds(optimizer, schedule, callbacks, step)
    metrics = named_metrics(metrics)
    if checkpoint is not None:
        check_place("fit(checkpoint=)", checkpoint)
        describe(net)  # raises what saving would raise, after an hour perhaps
    source = Source(X, y, check_batch_size(batch_size), shuffle)
    weights = None
    if sample_weight is not None or class_weight is not None:
        weights = Weights(net.loss_fn, sample_weight, class_weight, source.samples)  # type: ignore[arg-type]
        source.weights = weights.of_samples
    if step is not None and (weights is not None or accumulate > 1 or clip_norm is not None):
        raise ArgumentError(
            "fit: step makes the whole step itself, so sample_weight, class_weight, accumulate and clip_norm "
            "have no effect; see to them in step, and leave them out here"
        )
    if step is not None and precision in DTYPES:
        raise ArgumentError(
            f"fit: step makes the whole step itself, so precision {precision!r} has no effect; leave it out"
        )
    why_by_hand = _why_by_hand(net, optimizer or SGD(), accumulate, callbacks, weights, step)
    compiled = _whether_compiled(net, compile, why_by_hand)
    if epochs > 1 and source.runs_once:
        raise DataError(
            "a generator can be run through once, so pass a list, or an object whose __iter__ starts anew, "
            "for several epochs"
        )
    if validation_data is not None:
        validation_data = _checked_validation(net, validation_data)
    data = {"samples": source.samples, "batch_size": batch_size, "shuffle": shuffle, "accumulate": accumulate}
    data |= {"clip_norm": clip_norm, "precision": precision, "sample_weight": None, "class_weight": None}
    if weights is not None:
        data |= weights.described()
    start = None
    if resume is not None:
        from deepcore.train.resume import resumed

        start = resumed(net, resume, optimizer, schedule, seed, data)
        optimizer, schedule, generator = start.optimizer, start.schedule, start.random
    else:
        optimizer = SGD() if optimizer is None else optimizer
        generator = Generator(_draw_seed() if seed is None else check_seed(seed))
    run = Run(net, optimizer, epochs, source.count and math.ceil(source.count / accumulate))
    run.loss_scale = LossScale() if precision == "fp16" else None
    if start is not None:
        run.epoch, run.step, run.history.history = start.epoch, start.step, start.history
        if run.loss_scale is not None and start.loss_scale is not None:
            run.loss_scale.state = start.loss_scale
    net.history = run.history  # type: ignore[attr-defined]
    make_step = Step(run, source, schedule, clip_norm, compiled, weights, step, precision)
    callbacks = [*([Progress()] if _shows(progress) else []), *callbacks]

    _call(callbacks, "on_fit_start", run)
    if start is not None:
        from deepcore.train.resume import restore

        restore(callbacks, start, run, resume)  # type: ignore[arg-type]
    before, evaluating = CURRENT.thread, not net.training
    kept_modes = [(f, f.training) for f in functions(net)] if evaluating else []
    kept_precision = select.precision.get()
    try:  # from the first change on: an interrupt may come after any call
        CURRENT.thread = before.but(generator=generator, staged=Staged(), commits=False, drops=True)
        select.precision.set(precision)
        if evaluating:  # a net that was put into evaluation mode as a whole is trained all the same
            net.train()
        while run.epoch < epochs and not run.stop:
            _call(callbacks, "on_epoch_start", run)
            tally = Tally(metrics, net.loss_fn)
            # closing: an error must not leave a thread that reads ahead
            with contextlib.closing(_groups(source.batches(run.epoch, generator.seed), accumulate)) as groups:
                for group in groups:
                    make_step(group, tally)
                    _call(callbacks, "on_step_end", run)
                    if run.stop:
                        break
            numbers = tally.means()
            if validation_data is not None:
                scores = evaluate(net, *validation_data, metrics=metrics)
                numbers |= {f"val_{name}": score for name, score in scores.items()}
            run.end_epoch(numbers)
            _call(callbacks, "on_epoch_end", run)
            if checkpoint is not None:
                from deepcore.train.resume import keep

                keep(checkpoint, run, schedule, generator, data, callbacks)
    finally:
        CURRENT.thread = before  # first, because no interrupt comes before a store is made
        select.precision.set(kept_precision)
        for f, mode in kept_modes:
            f.training = mode
    _call(callbacks, "on_fit_end", run)
    return run.history


def evaluate(
    net: Composition, X: Any, y: Any, *, batch_size: int = _EVALUATION_BATCH, metrics: Any = None
) -> dict[str, float]:
    """The loss and the metrics over X and y; see Net.evaluate."""
    _require_loss(net, "evaluate")
    source = Source(X, y, check_batch_size(batch_size), shuffle=False)
    tally = Tally(named_metrics(metrics), net.loss_fn, exact=True)
    before = CURRENT.thread
    CURRENT.thread = before.but(inference=before.inference + 1)
    try:
        for Xb, yb, _ in source.batches():
            out = net(at_home(net, Xb))
            targets = source.targets(net.loss_fn, yb, tuple(out.shape), out)
            tally.add(out, targets, loss_of_checked(net.loss, out, targets))
        return tally.means()
    finally:
        CURRENT.thread = before


def _checked_validation(net: Composition, data: Any) -> tuple[Any, Any]:
    """X and y that the net and its loss can take. Raises before anything has changed."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ArgumentError(f"fit: validation_data must be a pair (X, y), got {type(data).__name__}")
    try:
        arrays = Arrays(*data)
        if arrays.y is None:
            raise DataError("y is missing: pass (X, y)")
        out = predict(net, take_rows(arrays.X, slice(1)))
        net.loss_fn.check_targets(arrays.y, tuple(out.shape))  # type: ignore[union-attr]
    except DeepcoreError as error:
        error.inside("validation_data")
        raise
    return arrays.X, arrays.y


def _why_by_hand(
    net: Composition, optimizer: Optimizer, accumulate: int, callbacks: Sequence[Any], weights: Any, step: Any
) -> str | None:
    """Why the steps can't be compiled, in words, or None if they can."""
    if step is not None:
        return "step makes them itself"
    if weights is not None:
        return "samples have weights"
    if accumulate > 1:
        return "accumulate needs the gradients of several batches"
    for callback in callbacks:
        if callback.needs_gradients:
            return f"callback {type(callback).__name__} needs the gradients"
    return why_not(net, optimizer)


def _whether_compiled(net: Composition, wanted: Any, why_by_hand: str | None) -> bool | str:
    """False, or `wanted` if steps can be compiled. Raises UnsupportedError if they can't but must be."""
    if wanted not in (True, False, "auto"):
        raise ArgumentError(f'fit: compile must be True, False or "auto", got {wanted!r}')
    if wanted is False or (wanted == "auto" and compiler(net) is None):
        return False
    if why_by_hand and wanted is True:
        raise UnsupportedError(f"fit(compile=True): {why_by_hand}; use compile=False")
    if why_by_hand:
        import logging  # 5 ms that few need

        logging.getLogger("deepcore").debug("fit makes its steps call by call: %s", why_by_hand)
    return False if why_by_hand else wanted


def _check_kinds(optimizer: Any, schedule: Any, callbacks: Any, step: Any) -> None:
    if optimizer is not None and not isinstance(optimizer, Optimizer):
        raise DTypeError(f"fit: optimizer must be an Optimizer, such as optim.Adam(), got {optimizer!r}")
    if schedule is not None and not callable(schedule):
        raise DTypeError(f"fit: schedule must be a function step -> learning rate, got {schedule!r}")
    if step is not None and not callable(step):
        raise DTypeError(f"fit: step must be a function step(net, X, y) -> loss, got {step!r}")
    if not isinstance(callbacks, list | tuple) or not all(isinstance(c, Callback) for c in callbacks):
        raise DTypeError(f"fit: callbacks must be a list of Callbacks, got {callbacks!r}")


def _groups(batches: Iterator[Any], size: int) -> Any:
    """A generator of lists of `size` batches each, the last maybe shorter."""
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _draw_seed() -> int:
    """A seed from the generator of dc.seed."""
    generator = current_generator()
    call = generator.next_call("fit")
    words = random.random_bits(np.empty(0), (2,), generator.seed, "fit", call).view(np.uint32)
    return int(words[0]) << 32 | int(words[1])


def _shows(progress: bool | None) -> bool:
    return is_watched(sys.stderr) if progress is None else progress


def _call(callbacks: Sequence[Callback], moment: str, run: Run) -> None:
    for callback in callbacks:
        getattr(callback, moment)(run)


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
        raise ArgumentError(f"fit: {name} must be a whole number of {least} or more, got {value!r}")


def _require_loss(net: Composition, who: str) -> None:
    if net.loss_fn is None:
        raise StateError(f"{who}: this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
