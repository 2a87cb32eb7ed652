"""Callbacks that write down the course of a training: in files of lines, for TensorBoard, in the history."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from deepcore.backends.base import import_optional
from deepcore.errors import DataError, UnsupportedError
from deepcore.io.safetensors import check_place
from deepcore.train.callbacks import Callback, Run


class LearningRateLog(Callback):
    """Adds the learning rate to the numbers of each epoch, as "lr": that of its last step.

    Put it before a callback that writes the numbers.

    >>> import numpy as np
    >>> from deepcore import Linear, MSELoss, Net
    >>> net, X = Net([Linear(1, 1)], MSELoss()), np.ones((2, 1))
    >>> log, schedule = LearningRateLog(), lambda step: 0.1 / (step + 1)
    >>> course = net.fit(X, X, epochs=2, schedule=schedule, callbacks=[log])
    >>> course.history["lr"]
    [0.1, 0.05]
    """

    def on_epoch_end(self, run: Run) -> None:
        """Note the rate."""
        numbers = {"lr": float(run.optimizer.lr)}
        run.numbers |= numbers
        run.history.add(numbers)


class _EpochLog(Callback):
    """A file that gets a line after each epoch. Abstract.

    It is opened and closed for each line, so that a line is there when its epoch is over. A resumed training
    goes on in its file: what an interrupted one has written after its last checkpoint is taken back.
    """

    def __init__(self, path: str | os.PathLike[str]):
        from pathlib import Path

        self.path = Path(path)

    def on_fit_start(self, run: Run) -> None:
        """See that the file can be written."""
        check_place(type(self).__name__, self.path)

    def on_epoch_end(self, run: Run) -> None:
        """Write the epoch's line."""
        line = self._line({"epoch": run.epoch, "step": run.step, **run.numbers})
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(line)

    def state(self, run: Run) -> dict[str, Any]:
        """The file, and how long it is."""
        return {"file": self.path.name, "size": self.path.stat().st_size if self.path.exists() else 0}

    def restore(self, state: dict[str, Any], run: Run) -> None:
        """Take back what was written later."""
        there = self.path.name == state["file"] and self.path.exists()
        if there and self.path.stat().st_size > state["size"] >= 0:
            os.truncate(self.path, state["size"])

    def _line(self, numbers: dict[str, float]) -> str:
        raise NotImplementedError


class CSVLogger(_EpochLog):
    """Appends a line for each epoch to a CSV file: epoch, step, and the numbers of the history.

    A new file begins with a line of names. Raises DataError if a file that is there has other names, and
    MissingDataError, before the first step, if there is no such folder.

    >>> CSVLogger("course.csv").path.name
    'course.csv'
    """

    def _line(self, numbers: dict[str, float]) -> str:
        head = _csv(numbers)
        there = ""
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                there = file.readline()
        if there and there != head:
            raise DataError(
                f"CSVLogger: {self.path} has the columns {there.strip()}, this training has {head.strip()}; "
                "choose another file"
            )
        return ("" if there else head) + _csv(numbers.values())


def _csv(cells: Iterable[Any]) -> str:
    """A line of cells, in quotes where they hold a comma."""
    import csv
    import io

    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


class JSONLLogger(_EpochLog):
    """Appends a line for each epoch to a file of JSON lines: {"epoch": 1, "step": 7, "loss": 0.5, ...}.

    A number that is NaN or infinite becomes null, since JSON has no such numbers.
    Raises MissingDataError, before the first step, if there is no such folder.

    >>> JSONLLogger("course.jsonl").path.name
    'course.jsonl'
    """

    def _line(self, numbers: dict[str, float]) -> str:
        import json

        finite = {name: x if math.isfinite(x) else None for name, x in numbers.items()}
        return json.dumps(finite) + "\n"


class TensorBoard(Callback):
    """Writes the numbers of each epoch for TensorBoard, which `tensorboard --logdir FOLDER` shows.

    folder: of this training; it is made if need be. Trainings in neighbouring folders are shown together.

    Each number is a curve over the epochs, 1, 2, ..., and there when its epoch is over. A resumed training
    goes on in its folder: what an interrupted one has written of later epochs is taken back.
    Raises UnsupportedError, before the first step, without the package tensorboardX.

    >>> TensorBoard("runs/first").folder
    'runs/first'
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = os.fspath(folder)
        self._writer: Any = None

    def on_fit_start(self, run: Run) -> None:
        """Open a file in the folder."""
        if import_optional("tensorboardX") is None:
            raise UnsupportedError(
                "TensorBoard needs the package tensorboardX: pip install 'deepcore[tensorboard]'"
            )
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        self._close()  # of a training that an error ended
        self._writer = SummaryWriter(self.folder, purge_step=run.epoch + 1 if run.epoch else None)

    def on_epoch_end(self, run: Run) -> None:
        """Write the epoch's numbers."""
        for name, number in run.numbers.items():
            self._writer.add_scalar(name, number, run.epoch)
        self._writer.flush()

    def on_fit_end(self, run: Run) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_writer": None}  # an open file can't be copied
