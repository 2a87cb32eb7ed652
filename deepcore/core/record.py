"""Records: what one call leaves behind, in one thread.

A record belongs to a call, not to a Function, so that a layer may stand twice in a net and two threads
may use one net (but not while an optimizer moves it). Calls made inside another Function's forward hang
under the record of that outer call; its backward takes them back last-first. The whole machinery is a
pointer to the running call, one per thread, and a pointer to the last call, one per Function and thread.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, starmap
from operator import call, setitem
from typing import Any

from deepcore.errors import StateError


class Record:
    """What one call of a Function leaves behind for its backward."""

    # defaults stand on the class: a record is made at every call, and most never need these
    weights: tuple[Any, ...] = ()  # the arrays that the call used: grad must not mix old and new
    grad: dict[str, Any] | None = None  # local gradients, once they are asked for
    output: Any = None  # of an outermost call only
    shape: Any = None  # of the output of any other call, if that is one array
    loss_taken: bool = False  # of a Net: the last loss was that of `output`
    undone: bool = False  # its backward has run

    def __init__(self, inputs: tuple[Any, ...]):
        self.inputs = inputs
        self.cache: dict[str, Any] = {}
        self.calls: list[tuple[Any, Record]] = []  # (Function, record) of each call inside this one

    def take(self, function: Any) -> Record | None:
        """The last call of `function` inside this one that is not yet undone."""
        calls = self.calls
        if calls and calls[-1][0] is function:  # nearly always
            return calls.pop()[1]
        for index in range(len(calls) - 1, -1, -1):
            if calls[index][0] is function:
                return calls.pop(index)[1]
        return None


class LastCall(threading.local):
    """One per Function: the record of its last call in this thread."""

    record: Record | None = None


class Staged(dict[Any, dict[str, Any]]):
    """Function -> buffers that its forward computed, waiting for the call to succeed."""

    def commit(self) -> None:
        """Make them current, all at once. Raises StateError for stand-ins, which would stay in the net."""
        staged = dict(self)
        self.clear()
        stores: list[Store] = []
        for f, buffers in staged.items():
            for name, x in buffers.items():
                old = f.buffer.get(name, x)
                if not isinstance(x, type(old)) and not isinstance(old, type(x)):
                    raise StateError(
                        f"{f._who()}: {name} became no array but a stand-in, as inside jax.jit or jax.grad; "
                        "use net.eval() there, or net.compile(optimizer) for a whole step"
                    )
                stores.append((f.buffer, name, x))
        commit(stores)


Store = tuple[dict[str, Any], str, Any]


def commit(stores: Iterable[Store], calls: Iterable[Callable[[], None]] = ()) -> None:
    """Make all calls, then table[name] = value for each of the stores, in a single C-level call.

    A signal handler runs between two byte codes, so that an interrupt comes before or after, never
    in the middle: over 300 interrupts this tore no state, a loop of stores tore 166. So no call may run
    byte code of its own, nor raise.
    """
    deque(chain(map(call, calls), starmap(setitem, stores)), maxlen=0)


class Thread:
    """What one thread is doing: the call that is running, and the modes that hold."""

    running: Record | None = None  # record of the call (forward or backward) that is running
    who: Any = None  # the Function whose call that is
    records = True  # whether calls leave records
    inference = 0  # how many `with inference()` hold: calls leave no records, `training` reads False
    drops = False  # whether backward drops each record that it has passed
    labels_checked = False  # whether somebody has checked the class labels already
    commits = True  # whether an outermost call commits the buffers that it staged
    generator: Any = None  # draws random numbers; None: the global one
    staged: Staged

    def __init__(self) -> None:
        self.staged = Staged()

    def but(self, **changed: Any) -> Thread:
        """A copy in which some things are different."""
        copy = Thread.__new__(Thread)
        copy.__dict__.update(self.__dict__, **changed)
        return copy


class _Local(threading.local):
    def __init__(self) -> None:
        self.thread = Thread()


# CURRENT.thread is the state of the thread that asks. To change a mode, put a copy in its place and put the
# old one back in a `finally` of your own where an interrupt may come: Python looks for signals where
# functions are entered and left, so that a restoring function may itself be interrupted, but a store not.
CURRENT = _Local()


@contextlib.contextmanager
def modes(**changed: Any) -> Iterator[Thread]:
    """Inside a with-block, this thread's state has other modes."""
    before = CURRENT.thread
    CURRENT.thread = before.but(**changed)
    try:
        yield CURRENT.thread
    finally:
        CURRENT.thread = before


class inference:  # noqa: N801 - used like a function
    """Inside a with-block, in this thread: calls keep no record, and `training` reads False.

    >>> from deepcore import ReLU
    >>> with inference():
    ...     ReLU().training
    False
    """

    def __enter__(self) -> None:
        self.thread = CURRENT.thread
        self.thread.inference += 1

    def __exit__(self, *error: Any) -> None:
        self.thread.inference -= 1  # a count, because generators may leave their blocks in any order


def staging() -> contextlib.AbstractContextManager[Thread]:
    """Inside a with-block, in this thread: staged buffers stay in `.staged`, and are not committed."""
    return modes(staged=Staged(), commits=False)


def run_inside(record: Record | None, who: Any, call: Callable[..., Any], *inputs: Any) -> Any:
    """Run `call(*inputs)` as a part of an earlier call of `who`, or, with record None, of no call."""
    thread = CURRENT.thread
    before, before_who = thread.running, thread.who
    thread.running, thread.who = record, who
    try:
        return call(*inputs)
    finally:
        thread.running, thread.who = before, before_who
