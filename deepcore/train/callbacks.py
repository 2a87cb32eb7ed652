"""What happens beside training, and what it is told. (Callbacks that write a log: train/logs.py.)"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from deepcore.core.layer import check_rate
from deepcore.core.settings import to_finite, to_whole
from deepcore.errors import ArgumentError
from deepcore.io.architecture import describe
from deepcore.io.state import load_state_dict, state_dict

if TYPE_CHECKING:
    from deepcore.train.mixed import LossScale


class History:
    """The course of a training.

    history: name -> one number an epoch, such as {"loss": [...], "accuracy": [...], "val_loss": [...]}.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}

    def add(self, numbers: dict[str, float]) -> None:
        """Append one epoch's numbers."""
        for name, number in numbers.items():
            self.history.setdefault(name, []).append(number)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self.history.items() if values)
        epochs = max(map(len, self.history.values()), default=0)
        return f"History({epochs} epochs{': ' if last else ''}{last})"


class Run:
    """One running `fit`, as callbacks see it.

    step, epoch: how many are complete.   loss: the last step's, a 0-d array (float() of it waits for it).
    numbers: the last complete epoch's.   stop: set it to True to end training after this step.
    loss_scale: of precision "fp16", else None; its `value` is the factor of the coming step.
    """

    def __init__(self, net: Any, optimizer: Any, epochs: int, steps_per_epoch: int | None):
        self.net = net
        self.optimizer = optimizer
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.epoch = 0
        self.loss: Any = None
        self.numbers: dict[str, float] = {}
        self.history = History()
        self.stop = False
        self.loss_scale: LossScale | None = None

    def end_epoch(self, numbers: dict[str, float]) -> None:
        """Note that an epoch is complete."""
        self.epoch += 1
        self.numbers = numbers
        self.history.add(numbers)


class Callback:
    """Override what you need; each method gets the Run.

    needs_gradients: whether it reads records or gradients, which a compiled step does not keep.

    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, run):
    ...         run.stop = run.numbers["loss"] < 0.01
    """

    needs_gradients: bool = False

    def on_fit_start(self, run: Run) -> None:
        """Before the first step."""

    def on_epoch_start(self, run: Run) -> None:
        """Before the first step of each epoch."""

    def on_step_end(self, run: Run) -> None:
        """After each update of the weights."""

    def on_epoch_end(self, run: Run) -> None:
        """After each epoch and its validation."""

    def on_fit_end(self, run: Run) -> None:
        """After the last step; not after an error."""

    def state(self, run: Run) -> dict[str, Any]:
        """What `fit(checkpoint=)` keeps of it: by name, what JSON has, and arrays. Nothing by default."""
        return {}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Go on from such a state, as `fit(resume=)` has it from the file; comes after on_fit_start."""


class _Monitor(Callback):
    """Watches one number of each epoch, and notes when it was best. Abstract.

    monitor: its name in the history   mode: whether the best is the smallest ("min") or the largest ("max");
    "auto" knows losses and accuracies.
    """

    def __init__(self, monitor: str = "val_loss", mode: str = "auto"):
        mode = _mode(type(self).__name__, monitor, mode)
        self.monitor = monitor
        self.mode = mode
        self._start()

    def _start(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0  # counted from 1; 0: there was none

    def on_fit_start(self, run: Run) -> None:
        self._start()

    def state(self, run: Run) -> dict[str, Any]:
        """The best number, as a word since it may be infinite, and when that was."""
        return {"best": repr(float(self.best)), "best_epoch": self.best_epoch}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Go on from there."""
        self.best, self.best_epoch = float(state["best"]), int(state["best_epoch"])

    def _improved(self, run: Run, least: float = 0.0) -> bool:
        """Whether this epoch's number is the best so far, by more than `least`. NaN never is."""
        if self.monitor not in run.numbers:
            remedy = (
                "pass validation_data to fit" if self.monitor.startswith("val_") else "choose one of these"
            )
            raise ArgumentError(
                f"{type(self).__name__}: there is no {self.monitor} among {', '.join(run.numbers)}; {remedy}"
            )
        number = run.numbers[self.monitor]
        gain = self.best - number if self.mode == "min" else number - self.best
        if not gain > least:
            return False
        self.best, self.best_epoch = number, run.epoch
        return True


def _mode(who: str, monitor: str, mode: str) -> str:
    """The mode, "min" or "max"; "auto" goes by the name. Raises ArgumentError where that doesn't tell."""
    if not isinstance(monitor, str):
        raise ArgumentError(
            f'{who}: monitor must be the name of a number, such as "val_loss", got {monitor!r}'
        )
    if mode not in ("auto", "min", "max"):
        raise ArgumentError(f'{who}: mode must be "auto", "min" or "max", got {mode!r}')
    if mode == "auto":
        mode = next((mode for end, mode in _BEST.items() if monitor.endswith(end)), "")
    if not mode:
        raise ArgumentError(f'{who}: is a good {monitor} small or large? Say mode="min" or mode="max"')
    return mode


_WEIGHTS = "weights/"  # before the paths of the best weights in the state of EarlyStopping
_BEST = {"loss": "min", "accuracy": "max"}  # ending of a name -> which of its values are good


class EarlyStopping(_Monitor):
    """Ends training when a number has not improved for some epochs.

    monitor: its name in the history, such as "val_loss"
    patience: epochs without an improvement that are put up with, 1 or more
    min_delta: an improvement must be larger than this
    mode: "min", "max", or "auto" for losses and accuracies
    restore_best: whether to give the net the weights and buffers of its best epoch back, when training ends

    best, best_epoch: the best number, and when that was.   stopped: whether it ended the training.
    The optimizer keeps the state of the last epoch. Raises ArgumentError at the end of the first epoch if
    there is no such number.

    >>> import numpy as np
    >>> from deepcore import CrossEntropyLoss, Linear, Net
    >>> X, y = np.ones((4, 2)), np.array([0, 1, 0, 1])  # of which there is nothing to learn
    >>> stopping = EarlyStopping("loss", patience=2)
    >>> net = Net([Linear(2, 2, init="zeros")], CrossEntropyLoss())
    >>> history = net.fit(X, y, epochs=9, callbacks=[stopping])
    >>> len(history.history["loss"]), stopping.stopped
    (3, True)
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ):
        super().__init__(monitor, mode)
        if isinstance(patience, bool) or not hasattr(patience, "__index__") or int(patience) < 1:
            raise ArgumentError(
                f"EarlyStopping: patience must be a whole number of 1 or more, got {patience!r}"
            )
        self.patience = int(patience)
        self.min_delta = to_finite(min_delta, "EarlyStopping", "min_delta")
        self.restore_best = bool(restore_best)

    def _start(self) -> None:
        super()._start()
        self.stopped = False
        self._first = 0
        self._state: dict[str, Any] | None = None

    def on_epoch_end(self, run: Run) -> None:
        """Keep the weights of the best epoch, and stop after `patience` epochs without a better one."""
        if self._improved(run, self.min_delta):
            self._state = state_dict(run.net) if self.restore_best else None
        else:
            self._stop_if_enough(run)

    def _stop_if_enough(self, run: Run) -> None:
        if run.epoch - max(self.best_epoch, self._first) >= self.patience:
            self.stopped = run.stop = True

    def on_fit_start(self, run: Run) -> None:
        """Forget an earlier training."""
        super().on_fit_start(run)
        self._first = run.epoch  # 0, unless a training is resumed that had no such callback

    def state(self, run: Run) -> dict[str, Any]:
        """The best weights too."""
        weights = {} if self._state is None else self._state
        return (
            super().state(run) | {"first": self._first} | {_WEIGHTS + path: W for path, W in weights.items()}
        )

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Go on from there; that may mean to stop at once."""
        super().restore(state, run)
        self._first = int(state["first"])
        weights = {path.removeprefix(_WEIGHTS): W for path, W in state.items() if path.startswith(_WEIGHTS)}
        self._state = weights if weights and self.restore_best else None
        self._stop_if_enough(run)

    def on_fit_end(self, run: Run) -> None:
        """Give the best epoch's weights and buffers back."""
        state, self._state = self._state, None
        if state is not None and run.epoch != self.best_epoch:
            load_state_dict(run.net, state)


class BestCheckpoint(_Monitor):
    """Saves the net to a file, as net.save does, after each epoch that is better than all before.

    path: of the file; an older one is replaced   monitor, mode: as for EarlyStopping
    Before the first step it raises MissingDataError if there is no such folder, UnsupportedError for a net
    that can't be saved.

    >>> BestCheckpoint("best.safetensors", monitor="val_accuracy").mode
    'max'
    """

    def __init__(self, path: str | os.PathLike[str], monitor: str = "val_loss", mode: str = "auto"):
        super().__init__(monitor, mode)
        from pathlib import Path

        self.path = Path(path)

    def on_fit_start(self, run: Run) -> None:
        """See that the file can be written, and that the net can stand in one."""
        from deepcore.io.safetensors import check_place

        super().on_fit_start(run)
        check_place("BestCheckpoint", self.path)
        describe(run.net)

    def on_epoch_end(self, run: Run) -> None:
        """Save the net if it is better than before."""
        if self._improved(run):
            from deepcore.io.net_file import save

            save(run.net, self.path)


class ReduceOnPlateau(Callback):
    """lr <- factor lr when a number of the epochs has not become better for more than `patience` of them.

    monitor: "val_loss", "loss", or another name in `history`
    mode: "min" if less is better, else "max"; "auto" knows losses and accuracies
    threshold: by how much a number must be better than the best: by threshold best for threshold_mode
    "rel", by threshold for "abs".
    cooldown: epochs after a reduction in which none is counted.   min_lr: the rate goes no lower
    eps: a smaller change of the rate is left out.

    It changes the rates of `overrides` too. Don't give `fit` a schedule beside it, which would set the rate
    anew at every step. It starts afresh with each `fit` that is not resumed. The meaning is that of torch's
    ReduceLROnPlateau.

    Raises ArgumentError for a setting out of its range, and for a `monitor` that the epochs don't have.

    >>> ReduceOnPlateau(monitor="loss", factor=0.5, patience=3).factor
    0.5
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "auto",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ):
        who = "ReduceOnPlateau"
        mode = _mode(who, monitor, mode)
        if threshold_mode not in ("rel", "abs"):
            raise ArgumentError(f'{who}: threshold_mode must be "rel" or "abs", got {threshold_mode!r}')
        if not to_finite(factor, who, "factor", zero=False) < 1:
            raise ArgumentError(f"{who}: factor must be 0 < factor < 1, got {factor}")
        for name, value in {"threshold": threshold, "min_lr": min_lr, "eps": eps}.items():
            to_finite(value, who, name)
        for name, value in {"patience": patience, "cooldown": cooldown}.items():
            if to_whole(value, who, name) < 0:
                raise ArgumentError(f"{who}: {name} must be a whole number of 0 or more, got {value!r}")
        self.monitor = monitor
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self._forget()

    def _forget(self) -> None:
        self.best = math.inf if self.mode == "min" else -math.inf
        self.bad_epochs = 0
        self.cooling = 0  # epochs of the cooldown that are left

    def on_fit_start(self, run: Run) -> None:
        """Forget what an earlier fit has seen."""
        self._forget()

    def state(self, run: Run) -> dict[str, Any]:
        """The best number, as a word since it may be infinite, the epochs counted, and the rates."""
        counts = {"bad_epochs": self.bad_epochs, "cooling": self.cooling}
        rates = {pattern: settings["lr"] for pattern, settings in _with_rate(run.optimizer).items()}
        return {"best": repr(float(self.best)), **counts, "rates": rates}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Go on from there, with the rates that there were: they are what this callback decides."""
        self.best = float(state["best"])
        self.bad_epochs, self.cooling = int(state["bad_epochs"]), int(state["cooling"])
        for pattern, settings in _with_rate(run.optimizer).items():
            settings["lr"] = check_rate(state["rates"].get(pattern, settings["lr"]), "ReduceOnPlateau")

    def on_epoch_end(self, run: Run) -> None:
        """Look at the epoch's number, and reduce the rate if it is time."""
        if self.monitor not in run.numbers:
            raise ArgumentError(
                f"ReduceOnPlateau: there is no {self.monitor!r} among the epoch's numbers "
                f"{', '.join(run.numbers)}; choose one of them as monitor, or give fit validation_data"
            )
        number = run.numbers[self.monitor]
        if self._is_better(number):
            self.best, self.bad_epochs = number, 0
        else:
            self.bad_epochs += 1
        if self.cooling:
            self.cooling -= 1
            self.bad_epochs = 0
        if self.bad_epochs > self.patience:
            self._reduce(run.optimizer)
            self.cooling, self.bad_epochs = self.cooldown, 0

    def _is_better(self, number: float) -> bool:
        step = self.threshold * (self.best if self.threshold_mode == "rel" else 1)
        if math.isinf(self.best):
            step = 0  # inf - inf is NaN
        return number < self.best - step if self.mode == "min" else number > self.best + step

    def _reduce(self, optimizer: Any) -> None:
        for settings in _with_rate(optimizer).values():
            lower = max(self.factor * settings["lr"], self.min_lr)
            if settings["lr"] - lower > self.eps:
                settings["lr"] = lower


def _with_rate(optimizer: Any) -> dict[str, dict[str, Any]]:
    """The settings of an optimizer that have a rate: under "", and those of overrides under their pattern."""
    settings = {"": optimizer.settings, **optimizer.overrides}
    return {pattern: changed for pattern, changed in settings.items() if "lr" in changed}
