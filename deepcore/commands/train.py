"""`train`: a net for a data set, trained, tested, kept in a file, and drawn."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import deepcore as dc
from deepcore import BatchNorm2D, Conv2D, CrossEntropyLoss, Flatten, Linear, MaxPool2D, Net, ReLU
from deepcore.data.prepare import column_scale, scale_images, split
from deepcore.data.sets import DataSet, load
from deepcore.errors import ArgumentError, UnsupportedError
from deepcore.io.net_file import save as save_net
from deepcore.io.safetensors import check_place
from deepcore.plots import check_picture, decision_boundary, draw_boundary
from deepcore.train.resume import Beginning, beginning

_MOMENTUM = 0.9
_HELD_BACK = 0.15  # of the samples, to test on, where a data set has no part for that
_BATCH = 32


class Settings(NamedTuple):
    """What the user asked for; None: the default, which may depend on the data, or on what is resumed."""

    data: str
    backend: str | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    seed: int | None = None
    size: int | None = None
    save: Path | None = None
    picture: Path | None = None
    checkpoint: Path | None = None
    resume: Path | None = None


def train(asked: Settings) -> None:
    """Train a net as the settings say, and print what came of it."""
    backend = dc.use_backend(asked.backend) if asked.backend else contextlib.nullcontext()
    with backend, np.errstate(all="ignore"):  # a rate too high overflows: that is told once, in words
        asked = _as_begun(asked)
        data = load(asked.data, size=asked.size, seed=asked.seed or 0)
        asked = _with_defaults(asked, data)
        picture = _picture_path(asked, data.X)
        _check_files(asked, picture)
        parts = _parts(data, asked)
        dc.seed(asked.seed or 0)
        started = time.perf_counter()
        net, parts = _trained(parts, len(data.class_names), asked)
        seconds = time.perf_counter() - started
        print(_verdict(net, parts, seconds))
        if asked.save:
            save_net(net, asked.save, data.class_names)
            print(f"net: {asked.save}")
        if picture:
            print(_boundary(net, data, picture, asked_for=asked.picture is not None))


# ---- settings


def _as_begun(asked: Settings) -> Settings:
    """For a training that is resumed: the settings that it was begun with, where no other are asked for."""
    if asked.resume is None:
        return asked
    begun = beginning(asked.resume)
    for option, wanted, there in (
        ("--seed", asked.seed, begun.seed),
        ("--batch-size", asked.batch_size, begun.batch_size),
    ):
        if wanted not in (None, there):
            raise ArgumentError(f"{option}: the training was begun with {there}, got {wanted}; leave it out")
    _check_epochs(asked, begun)
    return asked._replace(
        seed=begun.seed,
        batch_size=begun.batch_size,
        epochs=asked.epochs or begun.epochs,
        checkpoint=asked.checkpoint or asked.resume,
    )


def _check_epochs(asked: Settings, begun: Beginning) -> None:
    if (asked.epochs or begun.epochs) <= begun.epoch:
        raise ArgumentError(
            f"--resume: {begun.epoch} epochs are made already; --epochs N says how many there shall be in all"
        )


def _with_defaults(asked: Settings, data: DataSet) -> Settings:
    return asked._replace(
        epochs=asked.epochs or (5 if data.X.ndim == 4 else 100),
        lr=asked.lr if asked.lr or asked.resume else (0.1 if asked.data == "ring" else 0.05),
        batch_size=asked.batch_size or _BATCH,
        seed=asked.seed or 0,
    )


def _picture_path(asked: Settings, X: np.ndarray) -> Path | None:
    """Where the picture goes, or None if these data have none."""
    if X.ndim == 2 and X.shape[1] == 2:
        return asked.picture or Path(f"{Path(asked.data).stem}.png")
    if asked.picture:
        raise ArgumentError(
            f"--picture: only data of two columns can be drawn, got samples of shape {X.shape[1:]}"
        )
    return None


def _check_files(asked: Settings, picture: Path | None) -> None:
    """Before any work: can the results be written there, each to a file of its own?"""
    files = {"--save": asked.save, "--checkpoint": asked.checkpoint, "--picture": picture}
    taken: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if path in taken:
            raise ArgumentError(f"{taken[path]}: {option} goes to {str(path)!r} too; name another file")
        check_place(option, path)
        taken[path] = option
    if asked.picture:
        check_picture(asked.picture)


# ---- data and net


class _Parts(NamedTuple):
    """What to train on, and what to test on, if anything."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None

    def map(self, change: Any) -> _Parts:
        """The same with change(X)."""
        return self._replace(X=change(self.X), X_test=None if self.X_test is None else change(self.X_test))


def _parts(data: DataSet, asked: Settings) -> _Parts:
    if asked.data == "ring":
        return _Parts(data.X, data.y)
    if data.X_test is not None:
        return _Parts(data.X, data.y, data.X_test, data.y_test)
    return _Parts(*split(data.X, data.y, _HELD_BACK, asked.seed or 0))


def _trained(parts: _Parts, classes: int, asked: Settings) -> tuple[Net, _Parts]:
    """A trained net, and the parts as it wants them."""
    layers = new_layers(asked.data, parts.X, classes)
    if parts.X.ndim == 4:
        parts = parts.map(scale_images)
    if parts.X.ndim == 4 or asked.data == "ring":
        return _fit(layers, parts, asked), parts
    mean, std = column_scale(parts.X)
    net = _fit(layers, parts.map(lambda X: (X - mean) / std), asked)
    _absorb(layers[0].weight, mean, std)
    return net, parts.map(lambda X: X.astype("float32"))


def new_layers(data: str, X: np.ndarray, classes: int) -> list[Any]:
    """The layers for samples like X of the data set of that name."""
    if X.ndim == 4:
        return _convolutional(X.shape[1:], classes)
    return _perceptron(X.shape[1], 4 if data == "ring" else 64, classes)


def _perceptron(features: int, hidden: int, classes: int) -> list[Any]:
    return [Linear(features, hidden), ReLU(), Linear(hidden, classes)]


def _convolutional(shape: tuple[int, ...], classes: int) -> list[Any]:
    c, h, w = shape
    if min(h, w) < 4:
        raise ArgumentError(f"images must have 4 x 4 pixels or more, which are halved twice; got {h} x {w}")
    return [
        *(Conv2D(c, 8, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(8)),
        *(Conv2D(8, 16, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(16)),
        *(Flatten(), Linear(16 * (h // 4) * (w // 4), classes)),
    ]


def _fit(layers: list[Any], parts: _Parts, asked: Settings) -> Net:
    net = Net(layers, CrossEntropyLoss())
    X, y, X_test, y_test = parts
    try:
        course = net.fit(
            X,
            y,
            epochs=asked.epochs or 1,
            batch_size=asked.batch_size or _BATCH,
            # without a rate of its own a resumed training goes on with the optimizer of the checkpoint
            optimizer=None if asked.lr is None else dc.optim.SGD(asked.lr, momentum=_MOMENTUM),
            validation_data=None if X_test is None else (X_test, y_test),
            seed=asked.seed,
            progress=True,
            checkpoint=asked.checkpoint,
            resume=asked.resume,
        )
    except KeyboardInterrupt:
        if asked.checkpoint and asked.checkpoint.exists():
            print(f"\nto go on: the same command with --resume {asked.checkpoint}", file=sys.stderr)
        raise
    if not math.isfinite(course.history["loss"][-1]):
        raise ArgumentError(
            "the loss is no longer finite: the learning rate"
            f"{'' if asked.lr is None else f' {asked.lr:g}'} is too high; lower --lr"
        )
    return net


def _absorb(weight: dict[str, Any], mean: np.ndarray, std: np.ndarray) -> None:
    """Let a Linear layer trained on (X - mean) / std take X itself, so that the saved net needs no more."""
    W, b = (dc.to_numpy(weight[name]).astype("float64") for name in ("W", "b"))
    weight["W"] = dc.asarray((W / std[:, None]).astype("float32"))
    weight["b"] = dc.asarray((b - mean / std @ W).astype("float32"))


# ---- what comes of it


def _verdict(net: Net, parts: _Parts, seconds: float) -> str:
    X, y, X_test, y_test = parts
    train = f"train accuracy {_percent(net, X, y)} ({len(X)} samples)"
    if X_test is None:
        return f"{train}, {seconds:.1f} s"
    return f"test accuracy {_percent(net, X_test, y_test)} ({len(X_test)} samples), {train}, {seconds:.1f} s"


def _percent(net: Net, X: Any, y: Any) -> str:
    return f"{100 * net.evaluate(X, y)['accuracy']:.1f} %"


def _boundary(net: Net, data: DataSet, path: Path, asked_for: bool) -> str:
    """Draw the picture; without matplotlib, and if no file was asked for, in characters."""
    try:
        decision_boundary(net, data.X, data.y, path, data.class_names)
    except UnsupportedError as missing:
        if asked_for:
            raise
        drawing = draw_boundary(net, data.X, data.y, class_names=data.class_names)
        return f"{drawing}\n({missing})"
    return f"decision boundary: {path}"
