"""How fit keeps its state after each epoch, and goes on from it bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

from deepcore.core.net import Composition
from deepcore.core.random import Generator
from deepcore.errors import ArgumentError, CheckpointError, DeepcoreError
from deepcore.io import checkpoint
from deepcore.optim import Optimizer
from deepcore.train.callbacks import Run

Schedule = Callable[[int], float]


class Start(NamedTuple):
    """Where a resumed fit goes on."""

    optimizer: Optimizer
    schedule: Schedule | None
    random: Generator
    epoch: int
    step: int
    history: dict[str, list[float]]


def keep(
    path: str | os.PathLike[str],
    run: Run,
    schedule: Schedule | None,
    generator: Generator,
    data: dict[str, Any],
) -> None:
    """Write the state of a fit at the end of an epoch. data: how its batches are made"""
    # as words, because JSON has no NaN, which a diverging loss is
    history = {name: [repr(float(x)) for x in numbers] for name, numbers in run.history.history.items()}
    progress = {"epoch": run.epoch, "step": run.step, "history": history, "data": data}
    checkpoint.write(path, run.net, run.optimizer, schedule, generator, progress, {})


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
    did not write, another net or optimizer, other batches, and a schedule that must be given again.
    """
    arrays, content = checkpoint.read(path)
    try:
        progress = content["progress"]
        if "epoch" not in progress:
            raise CheckpointError(
                "fit(checkpoint=) did not write it; take its parts with deepcore.load_checkpoint(path)"
            )
        differing = [name for name, value in data.items() if progress["data"].get(name) != value]
        if differing:
            name = differing[0]
            raise CheckpointError(
                f"the first fit had {name}={progress['data'].get(name)}, this one has {data[name]}; "
                "its batches would be others"
            )
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
        checkpoint.load_net(net, content, arrays)
        checkpoint.load_optimizer(optimizer, net, content, arrays)
        history = {name: [float(x) for x in numbers] for name, numbers in progress["history"].items()}
        schedule = schedule if schedule is not None else checkpoint.load_schedule(content)
        return Start(optimizer, schedule, random, int(progress["epoch"]), int(progress["step"]), history)
    except DeepcoreError as error:
        error.inside(str(path))
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: the checkpoint makes no sense ({error!r})") from error
