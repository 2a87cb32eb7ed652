"""The seed, and which call number comes next: all the state that random numbers have.

The numbers themselves come from a counter-based generator (`ops.random`): element i of a draw depends on
(seed, stream, call, i) and nothing else, so that every backend, and every shard of an array, draws alike.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from deepcore.core.record import CURRENT, modes
from deepcore.errors import ArgumentError


class Generator:
    """A seed, and for each stream ("weights", "dropout", "shuffle") the number of calls so far."""

    def __init__(self, seed: int):
        self.seed = seed
        self.calls: dict[str, int] = {}

    def next_call(self, stream: str) -> int:
        """The number of this draw in its stream: 0, 1, 2, ..."""
        call = self.calls.get(stream, 0)
        self.calls[stream] = call + 1
        return call


_generator = Generator(int.from_bytes(os.urandom(8), "little"))


def seed(n: int | Generator) -> None:
    """Start all random numbers outside `fit` anew: initial weights, and dropout in hand-written loops.

    n: a whole number, 0 <= n < 2**64, or the random state of a checkpoint, to go on from there.
    Without a call, each process starts from a seed of its own.
    Raises ArgumentError if n is out of range.

    >>> seed(0)
    """
    global _generator
    if isinstance(n, Generator):
        _generator = Generator(n.seed)
        _generator.calls = dict(n.calls)
    else:
        _generator = Generator(check_seed(n))


def check_seed(n: int) -> int:
    """n itself if it can be a seed, else ArgumentError."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 0 <= int(n) < 2**64:
        raise ArgumentError(f"seed must be a whole number, 0 <= seed < 2**64, got {n!r}")
    return int(n)


def current_generator() -> Generator:
    """The generator that draws in this thread: that of the running `fit`, else the global one."""
    return CURRENT.thread.generator or _generator


@contextlib.contextmanager
def drawing_from(generator: Generator) -> Iterator[Generator]:
    """Inside a with-block, in this thread: random numbers come from this generator."""
    with modes(generator=generator):
        yield generator
