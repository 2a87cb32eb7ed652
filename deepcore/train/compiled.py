"""A training step in one piece: forward, loss, backward and update, compiled by the net's array library.

What a library can compile is a pure function: arrays in, arrays out. So the weights, the buffers, the
optimizer's memory and every number that differs from step to step go in, and new ones come out. The function
runs on a copy of the net which holds the given arrays in place of its own: the live net never sees a
stand-in. What comes out becomes current all at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import dtype_name
from deepcore.core.function import NEVER_COPIED, Function, first_weight
from deepcore.core.layer import Layer
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, find_buffers, find_parameters, functions, walk
from deepcore.core.random import Generator, current_generator
from deepcore.core.record import CURRENT, LastCall, Staged
from deepcore.errors import StateError, UnsupportedError
from deepcore.optim import Optimizer

State = dict[str, Any]
Numbers = dict[str, dict[str, Any]]  # path of a weight -> name -> what the optimizer's rule needs to know now
Scale = Callable[[Composition], Any]  # a net with gradients -> the factor for all of them, or None for 1

_MOST_PROGRAMS = 8  # one for each shape of a batch, and for each state of the net's settings
_NEW_STREAMS = 8  # of random numbers that a step may be the first to draw from
_MOST_DOUBTS = 32  # steps whose labels nobody has looked at


class CompiledStep:
    """step(X, y) -> loss: one training step of a net with an optimizer.

    Compiled if the net's library has a compiler and every Function is `traceable`, else made call by call;
    the numbers are the same. Afterwards weights, buffers and the optimizer are current, and records and
    gradients are gone: to read one raises StateError.
    """

    def __init__(
        self, net: Composition, optimizer: Optimizer, scale: Scale = lambda net: None, checked: bool = False
    ):
        if net.loss_fn is None:
            raise StateError(
                "compile: this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())"
            )
        self.net = net
        self.optimizer = optimizer
        self.scale = scale
        self.checked = checked  # whether the caller has checked all labels
        self._programs: dict[Any, _Program] = {}
        # of each step that nobody has looked at: whether its labels fit, they, out's shape, the weights moved
        self._doubts: list[tuple[Any, Any, tuple[int, ...], list[str]]] = []

    def __call__(self, X: Any, y: Any) -> Any:
        """The loss, a 0-d array; float(loss) waits for the step.

        X and y must be arrays of the net's library. If a label is out of range nothing changes: a step that
        isn't compiled raises LabelError at once; of a compiled one the loss is NaN, and a later step, or
        `check`, raises.
        """
        changes, _, loss = self.changes(X, y)
        changes.commit()
        if len(self._doubts) >= _MOST_DOUBTS:
            self.check()
        return loss

    def check(self) -> None:
        """Raise LabelError if a label of a compiled step was out of range. Waits for the steps so far."""
        doubts, self._doubts = self._doubts, []
        bad = [doubt for doubt in doubts if not bool(doubt[0])]
        for _, _, _, paths in bad:  # those steps changed nothing, so they don't count
            self.optimizer.progress["steps"] -= 1
            for path in paths:
                self.optimizer.state[path]["step"] -= 1
        for _, y, shape, _ in bad:
            self.net.loss_fn.check_targets(y, shape)  # type: ignore[union-attr]

    def changes(self, X: Any, y: Any) -> tuple[Changes, Any, Any]:
        """What the step changes, not yet committed; the output; the loss."""
        backend = compiler(self.net)
        if backend is None or why_not(self.net, self.optimizer):
            changes, out, loss = _step(
                self.net, self.optimizer, self.scale, X, y, None, labels_checked=self.checked
            )
        else:
            backend_of(first_weight(self.net), X, y)  # raises unless they are of one library
            self.optimizer.check_net(self.net)
            changes, out, loss = self._run(backend, X, y)
            self.optimizer.bind(self.net)
        _forget_records(self.net, changes)
        return changes, out, loss

    def _run(self, backend: Backend, X: Any, y: Any) -> tuple[Changes, Any, Any]:
        net, optimizer, generator = self.net, self.optimizer, current_generator()
        parameters, buffers = find_parameters(net), find_buffers(net)
        state = {
            "weights": {path: p.value for path, p in parameters.items()},
            "buffers": {path: f.buffer[name] for path, (f, name) in buffers.items()},
            "memory": {
                path: optimizer.memory(path, p.value) for path, p in parameters.items() if p.trainable
            },
        }
        numbers = {path: optimizer.numbers(path) for path in state["memory"]}
        key = self._key(X, y, generator.seed)
        program = self._programs.get(key)
        if program is None:
            if len(self._programs) >= _MOST_PROGRAMS:
                del self._programs[next(iter(self._programs))]
            program = self._programs[key] = _Program(self, backend, numbers, generator)
        new = program(state, X, y, numbers, generator.calls)

        changes = Changes()
        for path, W in new["weights"].items():
            changes.set_parameter(parameters[path], W)
        for path, array in new["buffers"].items():
            f, name = buffers[path]
            changes.set(f.buffer, {name: array})
        steps = {path: optimizer.steps_of(path) + 1 for path in new["weights"]}
        memory = new["memory"]
        changes.set(optimizer.state, {path: {"step": t, **memory.get(path, {})} for path, t in steps.items()})
        changes.set(optimizer.progress, {"steps": optimizer.steps + 1})
        changes.set(generator.calls, {s: generator.calls.get(s, 0) + n for s, n in program.draws.items()})
        if "fit" in new:
            self._doubts.append((new["fit"], y, tuple(new["out"].shape), list(steps)))
        return changes, new["out"], new["loss"]

    def _key(self, X: Any, y: Any, seed: int) -> Any:
        """All that a program takes for granted: if any of it differs, another one is made."""
        optimizer = self.optimizer
        return (
            self.net._tree(),
            tuple(map(_settings, functions(self.net))),
            tuple((path, len(p.places)) for path, p in find_parameters(self.net).items()),
            repr([{**optimizer.settings, "lr": None}, optimizer.overrides]),
            (tuple(X.shape), X.dtype, tuple(y.shape), y.dtype),
            seed,
        )


class _Program:
    """The step as a pure function, compiled, for one state of all settings and shapes."""

    def __init__(self, step: CompiledStep, backend: Backend, numbers: Numbers, generator: Generator):
        self.net, self.optimizer, self.scale = step.net, step.optimizer, step.scale
        self.backend = backend
        self.layout = [(path, name) for path, row in numbers.items() for name in row]
        self.seed = generator.seed
        self.checked = step.checked
        # stream of random numbers -> where its call number stands; one that appears later starts from 0
        self.slots = {stream: slot for slot, stream in enumerate(generator.calls)}
        self.most_slots = len(self.slots) + _NEW_STREAMS
        self.draws: dict[str, int] = {}  # stream -> draws in a step; known once the function has been traced
        self.function: Any = backend.compile(self.pure_step) or self.pure_step

    def __call__(self, state: State, X: Any, y: Any, numbers: Numbers, calls: dict[str, int]) -> State:
        """What pure_step returns. numbers: as the optimizer gives them.   calls: draws so far, by stream."""
        W = first_weight(self.net)
        device = self.backend.device(W)
        dtype = "float64" if dtype_name(W) == "float64" else "float32"
        row = np.array([number for row in numbers.values() for number in row.values()], dtype)
        called = np.zeros(self.most_slots, np.uint32)
        for stream, slot in self.slots.items():
            called[slot] = calls.get(stream, 0)
        put = self.backend.asarray
        return self.function(state, X, y, put(row, device=device), put(called.view(np.int32), device=device))

    def pure_step(self, state: State, X: Any, y: Any, row: Any, called: Any) -> State:
        """The weights, buffers and memory that have changed, loss, out, and whether the labels fit."""
        net, optimizer = self._copies(state)
        numbers: Numbers = {path: {} for path, _ in self.layout}
        for index, (path, name) in enumerate(self.layout):
            numbers[path][name] = row[index]
        self.draws.clear()
        draws = _Draws(self.seed, called, self.slots, self.draws)
        changes, out, loss = _step(
            net, optimizer, self.scale, X, y, numbers, generator=draws, labels_checked=True
        )
        changes.commit()
        fit = None if self.checked else net.loss_fn.targets_fit(y, tuple(out.shape))  # type: ignore[union-attr]

        def changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
            moved = {  # in its own dtype: the step's numbers are float32 beside weights of half that width
                name: array_namespace(x).astype(x, old[name].dtype)
                for name, x in new.items()
                if x is not old[name]
            }
            if fit is None:
                return moved
            return {name: array_namespace(x).where(fit, x, old[name]) for name, x in moved.items()}

        return {
            "weights": changed(state["weights"], net.parameters()),
            "buffers": changed(state["buffers"], net.buffers()),
            "memory": {
                path: changed(memory, {name: optimizer.state[path][name] for name in memory})
                for path, memory in state["memory"].items()
            },
            "out": out,
            "loss": loss if fit is None else array_namespace(loss).where(fit, loss, math.nan),
        } | ({} if fit is None else {"fit": fit})

    def _copies(self, state: State) -> tuple[Composition, Optimizer]:
        """The net and the optimizer, with the arrays of `state` for their own."""
        given: dict[int, Any] = {}
        for path, parameter in find_parameters(self.net).items():
            given[id(parameter.value)] = state["weights"][path]
        for path, array in self.net.buffers().items():
            given[id(array)] = state["buffers"][path]
        net = copy.deepcopy(self.net, given)
        optimizer = copy.copy(self.optimizer)
        optimizer.state = {path: {"step": 0, **memory} for path, memory in state["memory"].items()}
        optimizer.progress = {"steps": 0}
        optimizer.bind(net)
        return net, optimizer


class _Draws(Generator):
    """Call numbers that are 0-d arrays: the number of this step's first draw, and the draws since."""

    def __init__(self, seed: int, called: Any, slots: dict[str, int], draws: dict[str, int]):
        super().__init__(seed)
        self.called, self.slots, self.draws = called, slots, draws

    def next_call(self, stream: str) -> Any:
        slot = self.slots.setdefault(stream, len(self.slots))
        if slot >= self.called.shape[0]:
            raise UnsupportedError(f"compile: a step draws from more than {_NEW_STREAMS} streams of its own")
        draw = self.draws.get(stream, 0)
        self.draws[stream] = draw + 1
        return self.called[slot] + draw


def compiler(net: Composition) -> Backend | None:
    """The backend of the net's weights if it can compile, else None."""
    W = first_weight(net)
    if W is None:
        return None
    backend = backend_of(W)
    return backend if type(backend).compile is not Backend.compile else None


def why_not(net: Composition, optimizer: Optimizer) -> str | None:
    """Why a step of this net with this optimizer must not be compiled, in words, or None if it may be."""
    rule = type(optimizer)
    if not getattr(rule, "traceable", rule.__module__ == Optimizer.__module__):
        return (
            f"{rule.__name__} is an optimizer of your own; if its rule depends on nothing but its arguments, "
            "say traceable = True in its class"
        )
    for path, f, _ in walk(net):
        where = f"{path or 'the net'}, {f._who()}"
        if not f.traceable:
            return (
                f"{where}, is not traceable; if its methods use nothing but array operations, "
                "and keep nothing on self but what the contract knows, say traceable = True in its class"
            )
        if isinstance(f, Layer) and type(f)._update_weights is not Layer._update_weights:
            return f"{where}, has an update rule of its own"
    return None


def _step(
    net: Composition,
    optimizer: Optimizer,
    scale: Scale,
    X: Any,
    y: Any,
    numbers: Numbers | None,
    **modes: Any,
) -> tuple[Changes, Any, Any]:
    """One step, call by call: what it changes, not yet committed; the output; the loss."""
    before = CURRENT.thread
    staged = Staged()
    CURRENT.thread = before.but(
        running=None, who=None, inference=0, drops=True, staged=staged, commits=False, **modes
    )
    try:
        out = net(X)
        loss = net.loss(out, y)
        net.backward()
        changes = optimizer.changes(net, scale(net), numbers)
    finally:
        CURRENT.thread = before
    for f, buffers in staged.items():
        changes.set(f.buffer, buffers)
    return changes, out, loss


def _forget_records(net: Composition, changes: Changes) -> None:
    """After the changes, what earlier calls left is gone: it belongs to other weights."""
    for f in functions(net):
        if f._last.record is not None:
            changes.set(vars(f), {"_last": LastCall()})
        if isinstance(f, Layer) and f.weight_update:
            changes.set(vars(f), {"weight_update": {}})
        if isinstance(f, Composition):
            changes.set(vars(f), {"_gradients_gone": True})


def _settings(f: Function) -> tuple[Any, ...]:
    return tuple((name, _plain(value)) for name, value in vars(f).items() if name not in NEVER_COPIED)


def _plain(value: Any) -> Any:
    """A number, a word, or a tuple of such as it is; None for anything else."""
    if type(value) in (bool, int, float, str):
        return value
    return tuple(map(_plain, value)) if type(value) in (tuple, list) else None
