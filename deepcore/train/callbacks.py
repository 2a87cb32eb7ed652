"""What happens beside training, and what it is told."""

from __future__ import annotations

import math
from typing import Any

from deepcore.errors import ArgumentError


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


class ReduceOnPlateau(Callback):
    """lr <- factor lr when a number of the epochs has not become better for more than `patience` of them.

    monitor: "val_loss", "loss", or another name in `history`.   mode: "min" if less is better, else "max"
    threshold: by how much a number must be better than the best: by threshold best for threshold_mode
    "rel", by threshold for "abs".
    cooldown: epochs after a reduction in which none is counted.   min_lr: the rate goes no lower
    eps: a smaller change of the rate is left out.

    It changes the rates of `overrides` too. Don't give `fit` a schedule beside it, which would set the rate
    anew at every step. It starts afresh with each `fit`. The meaning is that of torch's ReduceLROnPlateau.

    Raises ArgumentError for a setting out of its range, and for a `monitor` that the epochs don't have.

    >>> ReduceOnPlateau(monitor="loss", factor=0.5, patience=3).factor
    0.5
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ):
        if mode not in ("min", "max"):
            raise ArgumentError(f'ReduceOnPlateau: mode must be "min" or "max", got {mode!r}')
        if threshold_mode not in ("rel", "abs"):
            raise ArgumentError(
                f'ReduceOnPlateau: threshold_mode must be "rel" or "abs", got {threshold_mode!r}'
            )
        if not 0 < factor < 1:
            raise ArgumentError(f"ReduceOnPlateau: factor must be 0 < factor < 1, got {factor}")
        at_least_zero = {
            "patience": patience, "threshold": threshold, "cooldown": cooldown, "min_lr": min_lr, "eps": eps
        }  # fmt: skip
        for name, value in at_least_zero.items():
            if not 0 <= value < math.inf:
                raise ArgumentError(
                    f"ReduceOnPlateau: {name} must be a finite number, 0 or more, got {value}"
                )
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
        for settings in (optimizer.settings, *optimizer.overrides.values()):
            if "lr" in settings:
                lower = max(self.factor * settings["lr"], self.min_lr)
                if settings["lr"] - lower > self.eps:
                    settings["lr"] = lower
