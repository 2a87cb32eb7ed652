"""One pass through a copy of a net - forward, loss, backward - in which every call is noted."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepcore.backends.select import to_numpy
from deepcore.core.function import Function, first_weight
from deepcore.core.net import Composition
from deepcore.core.parameters import functions, walk
from deepcore.core.random import Generator
from deepcore.core.record import Staged, modes
from deepcore.data.batches import Arrays, beside, take_rows, whole
from deepcore.errors import StateError, UnsupportedError


@dataclass(eq=False)
class Call:
    """One call of one Function: what went in and came out, forward and backward.

    dY, dX: one for each output and input; empty where backward has not come.
    local: its local gradients by input, or in words why there are none.
    """

    path: str
    depth: int  # 0 for the layers of a net, -1 for the net
    function: Function
    inputs: tuple[Any, ...]
    output: Any = None
    dY: tuple[Any, ...] = ()  # noqa: N815 - the letters of the docstrings
    dX: tuple[Any, ...] = ()  # noqa: N815
    local: dict[str, Any] | str = ""
    calls: list[Call] = field(default_factory=list)  # made inside this one, in order
    undone: bool = False

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The output as a tuple, whether it is one array or several."""
        return self.output if isinstance(self.output, tuple) else (self.output,)

    def walk(self) -> Iterator[Call]:
        """This call and all inside it, in the order in which they began."""
        yield self
        for call in self.calls:
            yield from call.walk()

    def leaves(self) -> Iterator[Call]:
        """The calls at or below this one that make no further calls, in order."""
        return (call for call in self.walk() if not call.calls)


@dataclass(eq=False)
class Pass:
    """What a pass has shown, as far as it came.

    net: the copy, which holds the weight gradients.   root: the net's call, None if it did not come so far
    loss: the loss's call.   error: what was raised.   failed: the innermost call in which that happened
    """

    net: Composition
    root: Call | None = None
    loss: Call | None = None
    error: Exception | None = None
    failed: Call | None = None


def watched_pass(net: Composition, X: Any, y: Any = None, *, local: bool = False) -> Pass:
    """Run X and y through a copy of the net, and note every call; an error ends the pass and stands in it.

    X and y are moved to the net, as fit does. Without a loss, or without y, the pass ends with the output.
    local: whether to ask each Function for its local gradients too.
    The net, the records and the random numbers of this thread stay as they were.
    """
    seen = Pass(net)
    try:
        seen.net = copy.deepcopy(net)
        watcher = _Watcher(seen, local)
        with modes(**_AFRESH, staged=Staged(), generator=Generator(0)):
            watcher.run(X, y)
    except Exception as error:
        seen.error = error
    return seen


# the state of a thread in which nothing runs and nothing is committed
_AFRESH: dict[str, Any] = {
    "running": None,
    "who": None,
    "records": True,
    "inference": 0,
    "drops": False,
    "labels_checked": False,
    "commits": False,
}


class _Watcher:
    """Gives each Function of a copy a class that notes its calls, as long as the pass lasts."""

    def __init__(self, seen: Pass, local: bool):
        self.seen = seen
        self.local = local
        self.open: list[Call] = []  # the calls that are running, forward or backward
        self.classes = {f: type(f) for f in functions(seen.net)}
        self.paths: dict[Function, str] = {}
        for path, f, _ in walk(seen.net):
            self.paths.setdefault(f, path)

    def run(self, X: Any, y: Any) -> None:
        net = self.seen.net
        for f, cls in self.classes.items():
            _become(f, self._watched(cls))
        try:
            W = first_weight(net)
            data = Arrays(X, y)
            X = whole(data.X)
            out = net(X if W is None else beside(W, X))
            if net.loss_fn is not None and data.y is not None:
                net.loss(out, beside(out, data.y))
                net.backward()
                self.seen.root.dY = self.seen.loss.dX  # type: ignore[union-attr]  # both have run
        finally:
            for f, cls in self.classes.items():
                _become(f, cls)
                f._last.record = None  # a net and these classes are freed by the collector alone: what
            vars(self).clear()  # they refer to must not wait for it

    def _watched(self, cls: type) -> type:
        """A subclass whose calls are noted. While a call runs, the Function has its own class again."""
        watcher = self

        def noted(f: Any, *inputs: Any, **named: Any) -> Any:
            call = watcher._begin(f, inputs)
            with _Running(watcher, call, cls):
                call.output = cls.__call__(f, *inputs, **named)
                call.inputs = f._last.record.inputs  # as they were cast
                if watcher.local:
                    call.local = _local(call)
            return call.output

        def backward(f: Any, *dY: Any, **named: Any) -> Any:
            call = watcher._last_of(f)
            with _Running(watcher, call, cls):
                call.dY = dY
                dX = cls.backward(f, *dY, **named)
                call.dX = dX if isinstance(dX, tuple) else (dX,)
                call.undone = True
            return dX

        backward._finds_record = True  # type: ignore[attr-defined]  # cls.backward does
        return type(cls.__name__, (cls,), {"__call__": noted, "backward": backward})

    def _begin(self, f: Function, inputs: tuple[Any, ...]) -> Call:
        parent = self.open[-1] if self.open else self.seen.root
        if parent is None:
            self.seen.root = call = Call("", -1, f, inputs)
            return call
        call = Call(self._path(parent, f), parent.depth + 1, f, inputs)
        if self.open:
            parent.calls.append(call)
        else:  # net.loss runs between the net's call and its backward
            self.seen.loss = call
        return call

    def _path(self, parent: Call, f: Function) -> str:
        """Where f stands in its caller; of several places there, each call has the next."""
        names = [name for name, child in parent.function._children() if child is f]
        if not names:  # a part of a part, which has a caller above its owner
            return self.paths.get(f, type(f).__name__)
        name = names[min(sum(call.function is f for call in parent.calls), len(names) - 1)]
        return f"{parent.path}.{name}" if parent.path else name

    def _last_of(self, f: Function) -> Call:
        """The call that this backward undoes: the last one in its caller that is not yet undone."""
        root, loss = self.seen.root, self.seen.loss
        known = [*self.open[-1].calls, loss] if self.open else [root]
        for call in reversed(known):
            if call is not None and call.function is f and not call.undone:
                return call
        return Call("", 0, f, ())  # there is none; the Function will say so itself


class _Running:
    """Inside a with-block a call is on the watcher's list, and its Function has its own class."""

    def __init__(self, watcher: _Watcher, call: Call, cls: type):
        self.watcher, self.call, self.cls = watcher, call, cls

    def __enter__(self) -> None:
        self.watcher.open.append(self.call)
        self.watched = type(self.call.function)
        _become(self.call.function, self.cls)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _become(self.call.function, self.watched)
        self.watcher.open.pop()
        if error is not None and self.watcher.seen.failed is None:
            self.watcher.seen.failed = self.call


def _become(f: Function, cls: type) -> None:
    """Change the class and nothing else: plain setting would have f look for its children again."""
    object.__setattr__(f, "__class__", cls)


def _local(call: Call) -> dict[str, Any] | str:
    """The local gradients of the call that has just been made, or why there are none."""
    f = call.function
    record = f._last.record
    try:
        # as a direct f.forward(X): what local_grad calls leaves no record
        with modes(running=record, who=f, records=False, staged=Staged()):
            return f.local_grad(*call.inputs)
    except UnsupportedError as error:
        return "that of its parts, one after the other" if call.calls else str(error)
    except Exception as error:  # a user's local_grad, which its own backward may not need
        return f"local_grad raised {type(error).__name__}: {error}"


def some_rows(X: Any, y: Any, most: int) -> tuple[Any, Any]:
    """At most so many samples as arrays, evenly spaced: data are often sorted by class."""
    data = Arrays(X, y)
    if data.n <= most:
        return whole(data.X), data.y
    rows = np.arange(most) * data.n // most
    return take_rows(data.X, rows), None if data.y is None else take_rows(data.y, rows)


def norm(x: Any) -> float:
    """The Euclidean norm of all numbers of an array, in float64.

    >>> norm(np.array([[3.0], [4.0]]))
    5.0
    """
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(to_numpy(x).astype("float64").ravel()))


def need_loss(net: Composition, who: str) -> None:
    """Raise StateError unless the net has a loss."""
    if net.loss_fn is None:
        raise StateError(f"{who}: this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())")
