"""What happens beside training, and what it is told."""

from __future__ import annotations

from typing import Any


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
