"""How fit keeps its state after each epoch, and goes on from it bit for bit."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from deepcore.backends.registry import is_array
from deepcore.core.net import Composition
from deepcore.core.random import Generator
from deepcore.errors import ArgumentError, CheckpointError, DeepcoreError
from deepcore.io import checkpoint
from deepcore.optim import Optimizer
from deepcore.train.callbacks import Callback, Run

Schedule = Callable[[int], float]

_CALLBACKS = "callbacks"  # in the progress, and the beginning of the names of their arrays


class Start(NamedTuple):
    """Where a resumed fit goes on. callbacks: (name of the class, state) of each that had one"""

    optimizer: Optimizer
    schedule: Schedule | None
    random: Generator
    epoch: int
    step: int
    history: dict[str, list[float]]
    loss_scale: dict[str, Any] | None
    callbacks: list[tuple[str, dict[str, Any]]]


# ---- keeping


def keep(
    path: str | os.PathLike[str],
    run: Run,
    schedule: Schedule | None,
    generator: Generator,
    data: dict[str, Any],
    callbacks: Sequence[Callback],
) -> None:
    """Write the state of a fit at the end of an epoch. data: how its batches and its steps are made"""
    described, arrays = _describe(callbacks, run)
    progress = {
        "epoch": run.epoch,
        "epochs": run.epochs,
        "step": run.step,
        # as words, because JSON has no NaN, which a diverging loss is
        "history": {name: [repr(float(x)) for x in numbers] for name, numbers in run.history.history.items()},
        "data": data,
        _CALLBACKS: described,
    }
    if run.loss_scale is not None:
        progress["loss scale"] = run.loss_scale.state
    checkpoint.write(path, run.net, run.optimizer, schedule, generator, progress, {}, arrays)


def _describe(callbacks: Sequence[Callback], run: Run) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The class and the state of each callback that has one, and the arrays of the states by name."""
    described: list[dict[str, Any]] = []
    arrays = {}
    for callback in callbacks:
        if state := callback.state(run):
            place = f"{_CALLBACKS}/{len(described)}/"
            arrays |= {place + name: x for name, x in state.items() if is_array(x)}
            plain = {name: x for name, x in state.items() if not is_array(x)}
            described.append({"class": type(callback).__name__, "state": plain})
    return described, arrays


# ---- going on


def resumed(
    net: Composition,
    path: str | os.PathLike[str],
    optimizer: Optimizer | None,
    schedule: Schedule | None,
    seed: int | None,
    data: dict[str, Any],
) -> Start:
    """Put a checkpoint's state into the net and the optimizer, and say where to go on.

    An optimizer or schedule that is given is used, in the state that the checkpoint's was in; without one,
    the checkpoint's is made. Raises CheckpointError, before anything has changed, for a file that `keep`
    did not write, another net or optimizer, other batches or steps, and a schedule that must be given again.
    """
    arrays, content = checkpoint.read(path)
    try:
        progress = _progress(content)
        _check_same(data, progress["data"])
        if schedule is None and checkpoint.had_function(content):
            raise CheckpointError(
                f"the schedule was a plain function, {content['schedule']['function']}; pass it again"
            )
        random = checkpoint.load_random(content)
        if seed is not None and seed != random.seed:
            raise ArgumentError(f"fit: seed={seed}, but the first fit had {random.seed}; leave it out")
        if optimizer is None:
            optimizer = checkpoint.make_optimizer(content)
        checkpoint.check_optimizer(optimizer, content)
        optimizer.check_net(net)
        schedule = schedule if schedule is not None else checkpoint.load_schedule(content)
        history = {name: [float(x) for x in numbers] for name, numbers in progress["history"].items()}
        epoch, step, states = int(progress["epoch"]), int(progress["step"]), _states(progress, arrays)
        scale = _loss_scale(progress)
        checkpoint.load_net(net, content, arrays)
        checkpoint.load_optimizer(optimizer, net, content, arrays)
        return Start(optimizer, schedule, random, epoch, step, history, scale, states)
    except DeepcoreError as error:
        error.inside(str(path))
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _nonsense(path, error) from error


def restore(callbacks: Sequence[Callback], start: Start, run: Run, path: str | os.PathLike[str]) -> None:
    """Give callbacks the states that those of their class had, in the same order; others begin anew."""
    left = list(start.callbacks)
    for callback in callbacks:
        name = type(callback).__name__
        found = next((i for i, (kind, _) in enumerate(left) if kind == name), None)
        if found is None:
            continue
        _, state = left.pop(found)
        try:
            callback.restore(state, run)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _nonsense(path, error) from error


def _progress(content: dict[str, Any]) -> dict[str, Any]:
    progress = content["progress"]
    if "epoch" not in progress:
        raise CheckpointError(
            "fit(checkpoint=) did not write it; take its parts with deepcore.load_checkpoint(path)"
        )
    return progress


def _check_same(data: dict[str, Any], first: dict[str, Any]) -> None:
    """Raise CheckpointError if batches or steps are made otherwise than in the first fit."""
    of_steps = ("clip_norm", "precision", "sample_weight", "class_weight")
    for name, value in data.items():
        if first.get(name, value if name in of_steps else None) == value:  # not in a file of deepcore 0.1.0
            continue
        if name in ("sample_weight", "class_weight"):
            had, has = ("none" if x is None else "some" for x in (first[name], value))
            other = "others" if had == has else has
            raise CheckpointError(f"the first fit had {had} as {name}, this one has {other}; pass the same")
        raise CheckpointError(
            f"the first fit had {name}={first.get(name)}, this one has {value}; "
            f"its {'steps' if name in of_steps else 'batches'} would be others"
        )


def _loss_scale(progress: dict[str, Any]) -> dict[str, Any] | None:
    """The state of the factor of precision "fp16"; None in a checkpoint of another precision."""
    if "loss scale" not in progress:
        return None
    value, good = float(progress["loss scale"]["value"]), int(progress["loss scale"]["good"])
    if not (1 <= value < math.inf and good >= 0):
        raise ValueError(f"a loss scale of {value} after {good} good steps")
    return {"value": value, "good": good}


def _states(progress: dict[str, Any], arrays: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    states = []
    for i, described in enumerate(progress.get(_CALLBACKS, [])):  # none in a file of deepcore 0.1.0
        place = f"{_CALLBACKS}/{i}/"
        own = {name.removeprefix(place): x for name, x in arrays.items() if name.startswith(place)}
        states.append((str(described["class"]), {**described["state"], **own}))
    return states


def _nonsense(path: str | os.PathLike[str], error: Exception) -> CheckpointError:
    return CheckpointError(f"{path}: the checkpoint makes no sense ({error!r})")


# ---- looking


class Beginning(NamedTuple):
    """How the fit was begun that a checkpoint is of, and how many of its epochs are made."""

    seed: int
    batch_size: int
    epochs: int
    epoch: int


def beginning(path: str | os.PathLike[str]) -> Beginning:
    """What a checkpoint of fit says of its beginning. Raises CheckpointError, OSError."""
    _, content = checkpoint.read(path)
    try:
        progress = _progress(content)
        seed, batch_size = checkpoint.load_random(content).seed, int(progress["data"]["batch_size"])
        return Beginning(seed, batch_size, int(progress["epochs"]), int(progress["epoch"]))
    except DeepcoreError as error:
        error.inside(str(path))
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _nonsense(path, error) from error
