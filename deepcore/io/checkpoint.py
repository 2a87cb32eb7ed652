"""Checkpoints: all that training needs to go on bit for bit, in one file.

A checkpoint is a safetensors file with five parts: the net (architecture, weights, buffers), the optimizer
(settings, and its state for each weight), the schedule, the random state, and the progress. A file that
lacks one does not load.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from deepcore import optim, schedules
from deepcore.backends.registry import is_array
from deepcore.backends.select import put, selected_backend, to_numpy
from deepcore.core.function import Function
from deepcore.core.random import Generator, check_seed, current_generator
from deepcore.errors import CheckpointError, DeepcoreError, DTypeError, UnsupportedError
from deepcore.io import safetensors
from deepcore.io.architecture import build, describe
from deepcore.io.net_file import CHECKPOINT
from deepcore.io.state import load_state_dict, state_arrays
from deepcore.optim import Optimizer

_FORMAT = 1
_PARTS = ("net", "optimizer", "schedule", "random", "progress", "more")


@dataclasses.dataclass
class Checkpoint:
    """What `load_checkpoint` found.

    net, optimizer: ready to go on with, on the selected backend
    schedule: a schedule of deepcore.schedules, or None (there was none, or it was a plain function)
    random: the random state; `deepcore.seed(checkpoint.random)` goes on from it
    progress: {"steps": ..., ...}   more: what else was saved, by name
    """

    net: Any
    optimizer: Optimizer
    schedule: Any
    random: Generator
    progress: dict[str, Any]
    more: dict[str, Any]


def save_checkpoint(
    path: str | os.PathLike[str],
    net: Function,
    optimizer: Optimizer,
    schedule: Any = None,
    **more: Any,
) -> None:
    """Write a net, its optimizer, a schedule and the random state to one file, to go on from later.

    more: finite numbers, strings, lists, dicts and arrays to keep beside, such as epoch=3.
    The file appears, or takes the place of an older one, when it is complete and on the disk. A schedule
    that is a plain function can't be saved: its place is noted, and it must be passed again.

    Raises DTypeError for what is no optimizer, UnsupportedError, with the remedy, for what can't be described
    in a file, OSError.

    >>> import os, tempfile
    >>> import deepcore as dc
    >>> net, optimizer = dc.Net([dc.Linear(2, 1)], dc.MSELoss()), dc.optim.AdamW(0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_checkpoint(os.path.join(folder, "run.ckpt"), net, optimizer, epoch=3)
    ...     load_checkpoint(os.path.join(folder, "run.ckpt")).more
    {'epoch': 3}
    """
    if not isinstance(optimizer, Optimizer):
        raise DTypeError(
            f"save_checkpoint: wanted (path, net, optimizer), and got for an optimizer {optimizer!r:.80}; "
            "a net alone is saved by net.save(path)"
        )
    write(path, net, optimizer, schedule, current_generator(), {"steps": optimizer.steps}, more)


def write(
    path: str | os.PathLike[str],
    net: Function,
    optimizer: Optimizer,
    schedule: Any,
    generator: Generator,
    progress: dict[str, Any],
    more: Mapping[str, Any],
    beside: Mapping[str, Any] | None = None,
) -> None:
    """save_checkpoint, for a random state and a progress that are given.

    beside: arrays that `progress` speaks of, under their names in the file: "callbacks/0/..."
    """
    arrays = {name: to_numpy(x) for name, x in (beside or {}).items()}
    arrays |= {f"net/{name}": to_numpy(x) for name, x in state_arrays(net).items()}
    steps = {}
    for weight, state in optimizer.state.items():
        steps[weight] = state["step"]
        arrays |= {f"optimizer/{weight}/{name}": to_numpy(x) for name, x in state.items() if name != "step"}
    arrays |= {f"more/{name}": to_numpy(x) for name, x in more.items() if is_array(x)}
    content = {
        "format": _FORMAT,
        "net": describe(net),
        "optimizer": {
            "class": type(optimizer).__name__,
            "settings": optimizer.settings,
            "overrides": optimizer.overrides,
            "steps": optimizer.steps,
            "steps of": steps,
        },
        "schedule": _describe_schedule(schedule),
        "random": {"seed": str(generator.seed), "calls": generator.calls},  # JSON numbers end at 2**53
        "progress": progress,
        "more": {name: x for name, x in more.items() if not is_array(x)},
    }
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UnsupportedError(
            f"save_checkpoint: {error}; pass finite numbers, strings, lists, dicts with string keys, "
            "and arrays, which may hold NaN and infinity"
        ) from error
    safetensors.write(path, arrays, {CHECKPOINT: text})


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """What `save_checkpoint`, or `fit(checkpoint=)`, wrote. No code from the file is run.

    Raises CheckpointError for a damaged or incomplete file, UnsupportedError for an optimizer of your own
    (make it yourself and use `fit(resume=path, optimizer=...)`), OSError if there is no such file.
    """
    arrays, content = read(path)
    try:
        own = {name.removeprefix("net/"): x for name, x in arrays.items() if name.startswith("net/")}
        net = build(content["net"], own, max_size=sum(x.size for x in own.values()))
        backend = selected_backend()
        if backend.name != "numpy":
            from deepcore.core.move import move  # it is above the rooms that this file mostly needs

            move(net, backend.name)
        load_state_dict(net, own)
        optimizer = make_optimizer(content)
        load_optimizer(optimizer, net, content, arrays)
        more = {name.removeprefix("more/"): x for name, x in arrays.items() if name.startswith("more/")}
        more = {name: put(x, backend) for name, x in more.items()} | content["more"]
        return Checkpoint(
            net, optimizer, load_schedule(content), load_random(content), content["progress"], more
        )
    except DeepcoreError as error:
        error.inside(str(path))
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path}: the checkpoint makes no sense ({error!r})") from error


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a checkpoint, and its content. Raises CheckpointError if a part is missing."""
    arrays, metadata = safetensors.read(path)
    if CHECKPOINT not in metadata:
        raise CheckpointError(f"{path}: it is no checkpoint; a net alone loads with deepcore.load(path)")
    content = safetensors.parse_json(metadata[CHECKPOINT], "the checkpoint")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: the checkpoint makes no sense")
    if isinstance(content.get("format"), int) and content["format"] > _FORMAT:
        raise CheckpointError(f"{path}: a newer deepcore wrote it; upgrade deepcore")
    missing = [part for part in _PARTS if part not in content]
    if missing:
        raise CheckpointError(f"{path}: the checkpoint lacks {', '.join(missing)}")
    return arrays, content


def load_net(net: Function, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Put a checkpoint's weights and buffers into a net. Raises CheckpointError if it is another net."""
    ours, theirs = ({**d, "evaluation": None} for d in (describe(net), content["net"]))
    if ours != theirs:
        raise CheckpointError(
            "the checkpoint is of another net; make the same one, "
            "or take the one that deepcore.load_checkpoint(path) gives"
        )
    load_state_dict(
        net, {name.removeprefix("net/"): x for name, x in arrays.items() if name.startswith("net/")}
    )


@contextlib.contextmanager
def _faults_of_the_file() -> Iterator[None]:
    """What a setting or a state that makes no sense raises, as a CheckpointError."""
    try:
        yield
    except (CheckpointError, UnsupportedError):
        raise
    except DeepcoreError as error:
        raise CheckpointError(f"the checkpoint makes no sense: {error}") from error


@_faults_of_the_file()
def make_optimizer(content: dict[str, Any]) -> Optimizer:
    """An optimizer of the checkpoint's class and settings, without its state."""
    described = content["optimizer"]
    cls = getattr(optim, described["class"], None)
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise UnsupportedError(
            f"its optimizer, {described['class']}, is not deepcore's own; make it and the net, and go on "
            "with net.fit(..., optimizer=..., resume=path)"
        )
    overrides = {pattern: _settings(changed) for pattern, changed in described["overrides"].items()}
    return cls(**_settings(described["settings"]), overrides=overrides)


def check_optimizer(optimizer: Optimizer, content: dict[str, Any]) -> None:
    """Raise CheckpointError unless the checkpoint is of an optimizer of this class."""
    wanted = content["optimizer"]["class"]
    if type(optimizer).__name__ != wanted:
        raise CheckpointError(f"the checkpoint is of {wanted}, the optimizer is {type(optimizer).__name__}")


@_faults_of_the_file()
def load_optimizer(
    optimizer: Optimizer, net: Function, content: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Put a checkpoint's state into an optimizer. Raises CheckpointError if it is of another class."""
    check_optimizer(optimizer, content)
    described = content["optimizer"]
    state: dict[str, dict[str, Any]] = {
        path: {"step": int(steps)} for path, steps in described["steps of"].items()
    }
    for name, x in arrays.items():
        if name.startswith("optimizer/"):
            path, _, entry = name.removeprefix("optimizer/").rpartition("/")
            state[path][entry] = x
    optimizer.restore(net, state, int(described["steps"]))


@_faults_of_the_file()
def load_schedule(content: dict[str, Any]) -> Any:
    """The schedule of a checkpoint; None if there was none, or a plain function."""
    described = content["schedule"]
    if described is None or "class" not in described:
        return None
    cls = getattr(schedules, described["class"], None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise CheckpointError(f"there is no schedule {described['class']!r}")
    return cls(**_settings(described["config"]))


def had_function(content: dict[str, Any]) -> bool:
    """Whether the schedule was a plain function, which no file holds."""
    return content["schedule"] is not None and "class" not in content["schedule"]


@_faults_of_the_file()
def load_random(content: dict[str, Any]) -> Generator:
    """The random state of a checkpoint."""
    generator = Generator(check_seed(int(content["random"]["seed"])))
    generator.calls = {str(stream): int(calls) for stream, calls in content["random"]["calls"].items()}
    return generator


def _describe_schedule(schedule: Any) -> dict[str, Any] | None:
    if schedule is None:
        return None
    if getattr(schedules, type(schedule).__name__, None) is type(schedule):
        return {"class": type(schedule).__name__, "config": dataclasses.asdict(schedule)}
    return {"function": getattr(schedule, "__qualname__", repr(schedule))}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from JSON, which has no tuples."""
    return {name: tuple(x) if isinstance(x, list) else x for name, x in config.items()}
