"""The command line: reads the arguments of `python -m deepcore`, and prints what comes of them."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import deepcore as dc
from deepcore import BatchNorm2D, Conv2D, CrossEntropyLoss, Flatten, Linear, MaxPool2D, Net, ReLU
from deepcore.data.prepare import column_scale, scale_images, split
from deepcore.data.sets import DataSet, load
from deepcore.diagnose.bench import bench
from deepcore.diagnose.info import info
from deepcore.diagnose.watch import some_rows
from deepcore.errors import ArgumentError, DeepcoreError, UnsupportedError
from deepcore.plots import decision_boundary, draw_boundary

_MOMENTUM = 0.9
_HELD_BACK = 0.15  # of the samples, to test on, where a data set has no part for that

_ABOUT_TRAIN = """\
Train a small net on a data set, and say how often it is right.

  ring       a disc inside a ring, in the plane: 200 points, learned by a net 2-4-2
  digits     8 x 8 images of handwritten digits (comes with scikit-learn)
  FILE.npz   arrays X and y, or x_train and y_train; maybe X_test and y_test, or x_test and y_test
  FOLDER     of images, one folder inside it for each class

Images, divided by 255, go to a small convolutional net; columns, standardised, to a net with a hidden
layer. Test samples that the data set has not set apart are 15 % of it, chosen by the seed."""


_ABOUT_EXPLAIN = """\
Tell one training step layer by layer: formulas, shapes, local and global gradients, the chain rule.

The net is a new one, as train makes it for these data, or that of a file that train --save wrote.
Columns are standardised for a new net; one of a file does that itself. The samples are evenly spaced."""

_ABOUT_DOCTOR = """\
Look for the usual faults of a net and its data, and say what to do about each.

The net is a new one, as train makes it for these data, or that of a file. The exit code is 1 if there is
a finding. The numbers of a table go to a net of a file as they are, whatever their size."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns 0, or 1 if a benchmark failed or the doctor found something, 2 if the user has to change
    something, 130 if interrupted.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as done:  # --help and --version, or an error that argparse has printed
        return int(done.code or 0)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return arguments.run(arguments)
    except (DeepcoreError, OSError) as error:
        print(f"deepcore {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\ndeepcore {arguments.command}: interrupted", file=sys.stderr)
        return 130


# ---- arguments


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')} ({self.prog} --help says more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="deepcore", description="Neural networks on every array library.")
    parser.add_argument("--version", action="version", version=f"deepcore {dc.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_train(commands)
    about = "what deepcore runs on: versions, machine, backends"
    commands.add_parser("info", help=about, description=about).set_defaults(run=_info)
    _add_bench(commands)
    _add_explain(commands)
    _add_doctor(commands)
    return parser


def _add_train(commands: Any) -> None:
    train = commands.add_parser(
        "train",
        help="train a small net on a data set",
        description=_ABOUT_TRAIN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(run=_train)
    add = train.add_argument
    add(
        "--data", default="ring", metavar="NAME|PATH", help="ring, digits, FILE.npz or FOLDER (default: ring)"
    )
    add("--backend", metavar="NAME", help="array library (default: $DEEPCORE_BACKEND, or numpy)")
    add("--epochs", type=_count, metavar="N", help="passes over the data (default: 100, for images 5)")
    add(
        "--lr",
        type=_rate,
        metavar="R",
        help="learning rate (default: 0.05, for the ring 0.1; momentum is 0.9)",
    )
    add("--batch-size", type=_count, default=32, metavar="N", help="samples a step (default: 32)")
    add("--seed", type=_seed, default=0, metavar="N", help="of all that is random (default: 0)")
    add("--size", type=_count, metavar="N", help="resize the images of a FOLDER to N x N pixels")
    add("--save", type=Path, metavar="FILE", help="write the trained net to FILE")
    add(
        "--picture",
        type=Path,
        metavar="FILE",
        help="where to draw the decision boundary of two-column data (default: ring.png, "
        "named like the data; in the terminal if matplotlib is missing)",
    )


def _add_bench(commands: Any) -> None:
    about = "time the kernels on every backend, native beside reference, against the machine's limit"
    command = commands.add_parser("bench", help=about, description=about)
    command.set_defaults(run=_bench)
    add = command.add_argument
    add(
        "--backend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="array libraries (default: all that there are)",
    )
    add(
        "--op",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ops, such as linear or conv.conv (default: linear, linear_backward and cross_entropy)",
    )
    add("--quick", action="store_true", help="the smallest size of each op, few rounds: no measurement")


def _add_explain(commands: Any) -> None:
    about = "tell one training step layer by layer: formulas, shapes, gradients"
    command = _add_on_data(commands, "explain", about, _ABOUT_EXPLAIN)
    command.set_defaults(run=_explain)
    add = command.add_argument
    add("--samples", type=_count, default=32, metavar="N", help="how many samples (default: 32)")
    add("--html", type=Path, metavar="FILE", help="write a page to FILE, instead of text")


def _add_doctor(commands: Any) -> None:
    about = "look for the usual faults of a net and its data"
    _add_on_data(commands, "doctor", about, _ABOUT_DOCTOR).set_defaults(run=_doctor)


def _add_on_data(commands: Any, name: str, about: str, description: str) -> Any:
    """A command that looks at a net and a data set."""
    command = commands.add_parser(
        name, help=about, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = command.add_argument
    add("--data", default="ring", metavar="NAME|PATH", help="as for train (default: ring)")
    add("--load", type=Path, metavar="FILE", help="the net that was saved to FILE (default: a new one)")
    add("--backend", metavar="NAME", help="array library (default: $DEEPCORE_BACKEND, or numpy)")
    add("--seed", type=_seed, default=0, metavar="N", help="of the new net's weights (default: 0)")
    add("--size", type=_count, metavar="N", help="resize the images of a FOLDER to N x N pixels")
    return command


def _count(text: str) -> int:
    return _number(int, text, lambda n: n >= 1, "a whole number of 1 or more")


def _seed(text: str) -> int:
    return _number(int, text, lambda n: 0 <= n < 2**64, "a whole number from 0 to 2**64 - 1")


def _rate(text: str) -> float:
    return _number(float, text, lambda lr: 0 < lr < math.inf, "a finite number above 0")


def _number(kind: Any, text: str, good: Any, wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not good(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}")
    return value


# ---- info and bench


def _info(arguments: argparse.Namespace) -> int:
    print(info())
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    return 0 if bench(arguments.backend, arguments.op, arguments.quick) else 1


# ---- explain and doctor


def _explain(arguments: argparse.Namespace) -> int:
    _check_folder("--html", arguments.html)
    with dc.use_backend(arguments.backend) if arguments.backend else contextlib.nullcontext():
        net, X, y = _net_and_data(arguments)
        found = net.explain(*some_rows(X, y, arguments.samples))
    if arguments.html is None:
        print(found)
    else:
        head = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>deepcore explain</title>\n'
        arguments.html.write_text(f"{head}{found.html()}\n</html>\n", encoding="utf-8")
        print(f"page: {arguments.html}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    with dc.use_backend(arguments.backend) if arguments.backend else contextlib.nullcontext():
        net, X, y = _net_and_data(arguments)
        diagnosis = net.doctor(X, y)
    print(diagnosis)
    return 0 if diagnosis else 1


def _net_and_data(arguments: argparse.Namespace) -> tuple[Net, Any, Any]:
    """The net of a file, or a new one as train makes it; and the samples as it wants them."""
    net = None if arguments.load is None else dc.load(arguments.load)
    if net is not None and not isinstance(net, Net):
        raise ArgumentError(f"--load: {str(arguments.load)!r} holds a {type(net).__name__}, not a whole Net")
    data = load(arguments.data, size=arguments.size, seed=arguments.seed)
    X, classes = data.X, len(data.class_names)
    if X.ndim == 4:
        X = scale_images(X)
    elif arguments.data != "ring" and net is None:
        mean, std = column_scale(X)
        X = (X - mean) / std
    if net is None:
        dc.seed(arguments.seed)
        net = Net(_new_layers(arguments, X, classes), CrossEntropyLoss())
    return net, X, data.y


# ---- train


def _train(arguments: argparse.Namespace) -> int:
    backend = dc.use_backend(arguments.backend) if arguments.backend else contextlib.nullcontext()
    with backend, np.errstate(all="ignore"):  # a rate too high overflows: that is told once, in words
        data = load(arguments.data, size=arguments.size, seed=arguments.seed)
        picture = _picture_path(arguments, data.X)
        if arguments.save is not None and (arguments.save == picture or arguments.save.is_dir()):
            raise ArgumentError(
                f"--save: {str(arguments.save)!r} is a folder, or the picture; name another file"
            )
        _check_folder("--save", arguments.save)
        _check_folder("--picture", picture)
        arguments.epochs = arguments.epochs or (5 if data.X.ndim == 4 else 100)
        arguments.lr = arguments.lr or (0.1 if arguments.data == "ring" else 0.05)
        parts = _parts(data, arguments)
        dc.seed(arguments.seed)
        started = time.perf_counter()
        net, parts = _trained(parts, len(data.class_names), arguments)
        seconds = time.perf_counter() - started
        print(_verdict(net, parts, seconds))
        if arguments.save:
            net.save(arguments.save)
            print(f"net: {arguments.save}")
        if picture:
            print(_boundary(net, data, picture, asked_for=arguments.picture is not None))
    return 0


class _Parts(NamedTuple):
    """What to train on, and what to test on, if anything."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None

    def map(self, change: Any) -> _Parts:
        """The same with change(X)."""
        return self._replace(X=change(self.X), X_test=None if self.X_test is None else change(self.X_test))


def _parts(data: DataSet, arguments: argparse.Namespace) -> _Parts:
    if arguments.data == "ring":
        return _Parts(data.X, data.y)
    if data.X_test is not None:
        return _Parts(data.X, data.y, data.X_test, data.y_test)
    return _Parts(*split(data.X, data.y, _HELD_BACK, arguments.seed))


def _trained(parts: _Parts, classes: int, arguments: argparse.Namespace) -> tuple[Net, _Parts]:
    """A trained net, and the parts as it wants them."""
    layers = _new_layers(arguments, parts.X, classes)
    if parts.X.ndim == 4:
        parts = parts.map(scale_images)
    if parts.X.ndim == 4 or arguments.data == "ring":
        return _fit(layers, parts, arguments), parts
    mean, std = column_scale(parts.X)
    net = _fit(layers, parts.map(lambda X: (X - mean) / std), arguments)
    _absorb(layers[0].weight, mean, std)
    return net, parts.map(lambda X: X.astype("float32"))


def _new_layers(arguments: argparse.Namespace, X: np.ndarray, classes: int) -> list[Any]:
    """The layers for samples like X."""
    if X.ndim == 4:
        return _convolutional(X.shape[1:], classes)
    return _perceptron(X.shape[1], 4 if arguments.data == "ring" else 64, classes)


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


def _fit(layers: list[Any], parts: _Parts, arguments: argparse.Namespace) -> Net:
    net = Net(layers, CrossEntropyLoss())
    X, y, X_test, y_test = parts
    course = net.fit(
        X,
        y,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        optimizer=dc.optim.SGD(arguments.lr, momentum=_MOMENTUM),
        validation_data=None if X_test is None else (X_test, y_test),
        seed=arguments.seed,
        progress=True,
    )
    if not math.isfinite(course.history["loss"][-1]):
        raise ArgumentError(
            f"the loss is no longer finite: the learning rate {arguments.lr:g} is too high; lower --lr"
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


def _check_folder(option: str, path: Path | None) -> None:
    """Before any work: can the result be written there?"""
    if path is not None and not path.parent.is_dir():
        raise ArgumentError(f"{option}: there is no folder {str(path.parent)!r}; make it first")


def _picture_path(arguments: argparse.Namespace, X: np.ndarray) -> Path | None:
    """Where the picture goes, or None if these data have none."""
    if X.ndim == 2 and X.shape[1] == 2:
        return arguments.picture or Path(f"{Path(arguments.data).stem}.png")
    if arguments.picture:
        raise ArgumentError(
            f"--picture: only data of two columns can be drawn, got samples of shape {X.shape[1:]}"
        )
    return None


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
