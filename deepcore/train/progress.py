"""How training looks on stderr: a bar that moves in terminals and notebooks, a line now and then in a log."""

from __future__ import annotations

import math
import os
import sys
import time
from typing import TextIO

from deepcore.train.callbacks import Callback, Run

_BAR = 20  # characters
_INTERVAL = 0.1  # seconds between two drawings
_LONG = 1.0  # seconds: a longer epoch keeps a line of its own
_LOG_LINES = 20  # about so many lines of a log for one fit


def place_of(stream: TextIO) -> str:
    """What it is: "terminal" or "notebook", where a line can be drawn over, or "log".

    A file is a log, and so is a terminal that can't move its cursor (TERM=dumb) or that nobody watches (CI).
    """
    if stream.isatty():
        unwatched = os.environ.get("CI", "").lower() not in ("", "0", "false")
        return "log" if unwatched or os.environ.get("TERM") == "dumb" else "terminal"
    ipython = sys.modules.get("IPython")  # whoever is in a notebook has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return "notebook" if hasattr(shell, "kernel") and stream is sys.stderr else "log"


def is_watched(stream: TextIO) -> bool:
    """Whether somebody is likely to look at it, so that progress is shown without being asked for."""
    return stream.isatty() or place_of(stream) == "notebook"


class Progress(Callback):
    """The epoch, a bar of its steps, its numbers and its seconds.

    In a terminal and in a notebook the line is drawn over; epochs of a second or more leave theirs standing.
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.place = place_of(self.stream)
        self.drawn = 0.0
        self.width = 0  # of the line that stands there

    def on_epoch_start(self, run: Run) -> None:
        self.started = time.perf_counter()
        self.first_step = run.step

    def on_step_end(self, run: Run) -> None:
        if self.place != "log" and time.perf_counter() - self.drawn > _INTERVAL:
            self._draw(run, run.epoch + 1, f"loss {float(run.loss):.4f}")

    def on_epoch_end(self, run: Run) -> None:
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in run.numbers.items())
        last = run.epoch == run.epochs or run.stop
        if self.place != "log":
            long = time.perf_counter() - self.started >= _LONG
            if long or last or time.perf_counter() - self.drawn > _INTERVAL:
                self._draw(run, run.epoch, numbers, stays=long or last)
        elif last or run.epoch % math.ceil(run.epochs / _LOG_LINES) == 0:
            self.stream.write(f"epoch {run.epoch}/{run.epochs}  {numbers}\n")
            self.stream.flush()

    def _draw(self, run: Run, epoch: int, numbers: str, stays: bool = False) -> None:
        self.drawn = time.perf_counter()
        bar = ""
        if run.steps_per_epoch:
            done = min(run.step - self.first_step, run.steps_per_epoch)
            full = _BAR * done // run.steps_per_epoch
            bar = f"[{'=' * full}{' ' * (_BAR - full)}]  "
        line = f"epoch {epoch}/{run.epochs}  {bar}{numbers}  {self.drawn - self.started:.1f} s"
        if self.place == "terminal":
            import shutil  # with all its archives: 5 ms

            # a line that wraps can't be drawn over: only its last part would be
            line = line if stays else line[: shutil.get_terminal_size().columns - 1]
            self.stream.write(f"\r\033[K{line}")
        else:
            self.stream.write(f"\r{line:{self.width}}")  # a notebook erases nothing: spaces do
        if stays:
            self.stream.write("\n")
        self.stream.flush()
        self.width = 0 if stays else len(line)
