"""How training looks on stderr: a bar that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

import math
import sys
import time
from typing import TextIO

from deepcore.train.callbacks import Callback, Run

_BAR = 20  # characters
_INTERVAL = 0.1  # seconds between two drawings on a terminal
_LONG = 1.0  # seconds: a longer epoch keeps a line of its own on a terminal
_LOG_LINES = 20  # about so many lines of a log for one fit


class Progress(Callback):
    """The epoch, a bar of its steps, its numbers and its seconds.

    On a terminal the line is drawn over; epochs of a second or more leave theirs standing.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.drawn = 0.0

    def on_epoch_start(self, run: Run) -> None:
        self.started = time.perf_counter()
        self.first_step = run.step

    def on_step_end(self, run: Run) -> None:
        if self.live and time.perf_counter() - self.drawn > _INTERVAL:
            self._draw(run, run.epoch + 1, f"loss {float(run.loss):.4f}")

    def on_epoch_end(self, run: Run) -> None:
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in run.numbers.items())
        last = run.epoch == run.epochs or run.stop
        if self.live:
            long = time.perf_counter() - self.started >= _LONG
            if long or last or time.perf_counter() - self.drawn > _INTERVAL:
                self._draw(run, run.epoch, numbers, end="\n" if long or last else "")
        elif last or run.epoch % math.ceil(run.epochs / _LOG_LINES) == 0:
            self.stream.write(f"epoch {run.epoch}/{run.epochs}  {numbers}\n")

    def _draw(self, run: Run, epoch: int, numbers: str, end: str = "") -> None:
        self.drawn = time.perf_counter()
        bar = ""
        if run.steps_per_epoch:
            done = min(run.step - self.first_step, run.steps_per_epoch)
            full = _BAR * done // run.steps_per_epoch
            bar = f"[{'=' * full}{' ' * (_BAR - full)}]  "
        seconds = self.drawn - self.started
        self.stream.write(f"\r\033[Kepoch {epoch}/{run.epochs}  {bar}{numbers}  {seconds:.1f} s{end}")
        self.stream.flush()
