"""The command line: reads the arguments of `python -m deepcore`, and prints what comes of them."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import deepcore as dc
from deepcore.commands.convert import convert
from deepcore.commands.examine import doctor, explain
from deepcore.commands.predict import FORMS, predict
from deepcore.commands.train import Settings, train
from deepcore.diagnose.bench import bench
from deepcore.diagnose.info import info
from deepcore.errors import DeepcoreError

_ABOUT_TRAIN = """\
Train a small net on a data set, and say how often it is right.

  ring       a disc inside a ring, in the plane: 200 points, learned by a net 2-4-2
  digits     8 x 8 images of handwritten digits (comes with scikit-learn)
  FILE.npz   arrays X and y, or x_train and y_train; maybe X_test and y_test, or x_test and y_test
  FOLDER     of images, one folder inside it for each class

Images, divided by 255, go to a small convolutional net; columns, standardised, to a net with a hidden
layer. Test samples that the data set has not set apart are 15 % of it, chosen by the seed.

With --checkpoint FILE all that going on needs is in FILE after each epoch. --resume FILE goes on from there,
bit for bit, and keeps FILE up to date: give the same --data as at first; the rest is in FILE."""

_ABOUT_PREDICT = """\
Say what a net makes of samples: a line for each, with its class or its numbers.

  NET        what train --save or net.save wrote, a checkpoint, or an .onnx file
  DATA       FILE.npy; FILE.npz, its array X or the only one; FILE.csv, numbers with or without a heading;
             FOLDER of images; ring, digits

Images (whole numbers of three axes or more) are divided by 255, as in train; other numbers go to the net as
they are. For the images of a folder each line begins with the name of the file."""

_ABOUT_CONVERT = """\
Bring a net, or weights for one, into another kind of file. The endings say which.

  SOURCE     .safetensors (a net; a checkpoint; weights alone), .onnx, .pt or .pth (torch's weights alone)
  TARGET     .safetensors (a net of deepcore's), .onnx, .pt or .pth (torch's names and shapes),
             .py (a program that needs NumPy alone)

Weights alone need a net that they are for: --net FILE, a net of that architecture in any file."""

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
    something, 130 if interrupted, 141 if nobody reads the output any more.
    """
    parser = _parser()
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks the letters of a class name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as done:  # --help and --version, or an error that argparse has printed
        return int(done.code or 0)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has seen enough: head, or a pager that was left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python can flush at its end
        return 141  # as of a program that SIGPIPE has ended
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
    _add_predict(commands)
    _add_convert(commands)
    _add(commands, "info", _info, "what deepcore runs on: versions, machine, backends")
    _add_bench(commands)
    _add_explain(commands)
    _add_doctor(commands)
    return parser


def _add(commands: Any, name: str, run: Any, about: str, description: str | None = None) -> Any:
    """A command; returns what adds an argument to it."""
    layout = argparse.RawDescriptionHelpFormatter if description else argparse.HelpFormatter
    command = commands.add_parser(name, help=about, description=description or about, formatter_class=layout)
    command.set_defaults(run=run)
    return command.add_argument


def _add_backend(add: Any) -> None:
    add("--backend", metavar="NAME", help="array library (default: $DEEPCORE_BACKEND, or numpy)")


def _add_size(add: Any) -> None:
    add("--size", type=_count, metavar="N", help="resize the images of a FOLDER to N x N pixels")


def _add_train(commands: Any) -> None:
    add = _add(commands, "train", _train, "train a small net on a data set", _ABOUT_TRAIN)
    add(
        "--data", default="ring", metavar="NAME|PATH", help="ring, digits, FILE.npz or FOLDER (default: ring)"
    )
    _add_backend(add)
    add("--epochs", type=_count, metavar="N", help="passes over the data (default: 100, for images 5)")
    add(
        "--lr",
        type=_rate,
        metavar="R",
        help="learning rate (default: 0.05, for the ring 0.1; momentum is 0.9)",
    )
    add("--batch-size", type=_count, metavar="N", help="samples a step (default: 32)")
    add("--seed", type=_seed, metavar="N", help="of all that is random (default: 0)")
    _add_size(add)
    add("--save", type=Path, metavar="FILE", help="write the trained net to FILE")
    add("--checkpoint", type=Path, metavar="FILE", help="write after each epoch what going on needs to FILE")
    add("--resume", type=Path, metavar="FILE", help="go on from such a file; --epochs is the total")
    add(
        "--picture",
        type=Path,
        metavar="FILE",
        help="where to draw the decision boundary of two-column data (default: ring.png, "
        "named like the data; in the terminal if matplotlib is missing)",
    )


def _add_predict(commands: Any) -> None:
    add = _add(commands, "predict", _predict, "what a saved net says of samples", _ABOUT_PREDICT)
    add("net", type=Path, metavar="NET")
    add("data", metavar="DATA")
    add(
        "--as",
        dest="form",
        choices=FORMS,
        help="the class of each sample, the probability of each class, or the net's raw outputs "
        "(default: labels if the net's loss takes labels, else raw)",
    )
    add("--out", type=Path, metavar="FILE", help="write to FILE: an array if it ends in .npy, else lines")
    add("--batch-size", type=_count, metavar="N", help="samples at a time (default: 256)")
    _add_size(add)
    _add_backend(add)


def _add_convert(commands: Any) -> None:
    about = "bring a net into another kind of file: ONNX, torch's, Python"
    add = _add(commands, "convert", _convert, about, _ABOUT_CONVERT)
    add("source", type=Path, metavar="SOURCE")
    add("target", type=Path, metavar="TARGET")
    add("--net", type=Path, metavar="FILE", help="the net that weights alone are for")
    add(
        "--input-shape",
        type=_shape,
        metavar="N,N,...",
        help="of one sample, for .onnx (default: known where the net begins with a Linear layer)",
    )


def _add_bench(commands: Any) -> None:
    about = "time the kernels on every backend, native beside reference, against the machine's limit"
    add = _add(commands, "bench", _bench, about)
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
    add = _add(commands, "explain", _explain, about, _ABOUT_EXPLAIN)
    _add_net_and_data(add)
    add("--samples", type=_count, default=32, metavar="N", help="how many samples (default: 32)")
    add("--html", type=Path, metavar="FILE", help="write a page to FILE, instead of text")


def _add_doctor(commands: Any) -> None:
    about = "look for the usual faults of a net and its data"
    _add_net_and_data(_add(commands, "doctor", _doctor, about, _ABOUT_DOCTOR))


def _add_net_and_data(add: Any) -> None:
    """The arguments of a command that looks at a net and a data set."""
    add("--data", default="ring", metavar="NAME|PATH", help="as for train (default: ring)")
    add(
        "--load",
        dest="net",
        type=Path,
        metavar="FILE",
        help="the net that was saved to FILE (default: a new one)",
    )
    _add_backend(add)
    add("--seed", type=_seed, default=0, metavar="N", help="of the new net's weights (default: 0)")
    _add_size(add)


def _count(text: str) -> int:
    return _number(int, text, lambda n: n >= 1, "a whole number of 1 or more")


def _seed(text: str) -> int:
    return _number(int, text, lambda n: 0 <= n < 2**64, "a whole number from 0 to 2**64 - 1")


def _shape(text: str) -> tuple[int, ...]:
    return tuple(_count(part) for part in text.replace("x", ",").split(","))


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


# ---- commands


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(arguments).items() if name not in ("command", "run")}


def _train(arguments: argparse.Namespace) -> int:
    train(Settings(**_options(arguments)))
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    predict(**_options(arguments))
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    convert(**_options(arguments))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    print(info())
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    return 0 if bench(arguments.backend, arguments.op, arguments.quick) else 1


def _explain(arguments: argparse.Namespace) -> int:
    explain(**_options(arguments))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    return 0 if doctor(**_options(arguments)) else 1
