"""Records: what one call leaves behind, in one thread.

A record belongs to a call, not to a Function, so that a layer may stand twice in a net and two threads
may use one net. Calls made inside another Function's forward hang under the record of that outer call;
its backward takes them back last-first. The whole machinery is a pointer to the running call, one per
thread, and a pointer to the last call, one per Function and thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any


class Record:
    """What one call of a Function leaves behind for its backward."""

    # defaults stand on the class: a record is made at every call, and most never need these
    weights: tuple[Any, ...] = ()  # the arrays that the call used: grad must not mix old and new
    calls: list[tuple[Any, Record]] | None = None  # (Function, record) of each call inside this one
    grad: dict[str, Any] | None = None  # local gradients, once they are asked for
    output: Any = None  # of an outermost call only
    loss_taken: bool = False  # of a Net: the last loss was that of `output`
    undone: bool = False  # its backward has run

    def __init__(self, inputs: tuple[Any, ...]):
        self.inputs = inputs
        self.cache: dict[str, Any] = {}

    def add(self, function: Any, record: Record) -> None:
        """Note a call of `function` inside this one."""
        if self.calls is None:
            self.calls = [(function, record)]
        else:
            self.calls.append((function, record))

    def take(self, function: Any) -> Record | None:
        """The last call of `function` inside this one that is not yet undone."""
        calls = self.calls or ()
        for index in range(len(calls) - 1, -1, -1):  # nearly always the very last
            if calls[index][0] is function:
                return calls.pop(index)[1]  # type: ignore[union-attr]
        return None


class LastCall(threading.local):
    """One per Function: the record of its last call in this thread."""

    record: Record | None = None


class Staged(dict[Any, dict[str, Any]]):
    """Function -> buffers that its forward computed, waiting for the call to succeed."""

    def commit(self) -> None:
        """Make them current, all at once."""
        commit([f.buffer for f in self], list(self.values()))
        self.clear()


def commit(live: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
    """Update every dict of `live` from its partner in `new`, in a single C-level call.

    A signal handler runs between two byte codes, so that an interrupt comes before or after, never
    in the middle: over 300 interrupts this tore no state, a loop of stores tore 166.
    """
    deque(map(dict.update, live, new), maxlen=0)


class Thread:
    """What one thread is doing: the call that is running, and the modes that hold."""

    __slots__ = (
        "commits",
        "drops",
        "generator",
        "inference",
        "labels_checked",
        "records",
        "running",
        "staged",
        "who",
    )

    def __init__(self) -> None:
        self.running: Record | None = None  # record of the call (forward or backward) that is running
        self.who: Any = None  # the Function whose call that is
        self.records = True  # whether calls leave records
        self.inference = False  # whether `training` reads False
        self.drops = False  # whether backward drops each record that it has passed
        self.labels_checked = False  # whether somebody has checked the class labels already
        self.generator: Any = None  # draws random numbers; None: the global one
        self.commits = True  # whether an outermost call commits the buffers that it staged
        self.staged = Staged()


class _Local(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()


CURRENT = _Local()  # CURRENT.thread is the state of the thread that asks


@contextlib.contextmanager
def inference() -> Iterator[None]:
    """Inside a with-block, in this thread: calls keep no record, and `training` reads False."""
    thread = CURRENT.thread
    before = thread.records, thread.inference
    thread.records, thread.inference = False, True
    try:
        yield
    finally:
        thread.records, thread.inference = before


@contextlib.contextmanager
def staging() -> Iterator[Staged]:
    """Inside a with-block, in this thread: staged buffers are collected here, not committed."""
    thread = CURRENT.thread
    before = thread.staged, thread.commits
    thread.staged, thread.commits = Staged(), False
    try:
        yield thread.staged
    finally:
        thread.staged, thread.commits = before


@contextlib.contextmanager
def dropping_records() -> Iterator[None]:
    """Inside a with-block, in this thread: backward drops each record as it passes it."""
    thread = CURRENT.thread
    before, thread.drops = thread.drops, True
    try:
        yield
    finally:
        thread.drops = before


def run_inside(record: Record | None, who: Any, call: Callable[..., Any], *inputs: Any) -> Any:
    """Run `call(*inputs)` as a part of an earlier call of `who`, or, with record None, of no call."""
    thread = CURRENT.thread
    before = thread.running, thread.who
    thread.running, thread.who = record, who
    try:
        return call(*inputs)
    finally:
        thread.running, thread.who = before


def run_unrecorded(who: Any, call: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Run `call(*inputs)` in a record that nobody keeps."""
    thread = CURRENT.thread
    before, thread.records = thread.records, False
    try:
        with staging():
            return run_inside(Record(inputs), who, call, *inputs)
    finally:
        thread.records = before
