"""A training step in one piece: forward, loss, backward and update, compiled by the net's array library.

What a library can compile is a pure function: arrays in, arrays out. So the weights, the buffers, the
optimizer's memory and every number that differs from step to step go in, and new ones come out. The function
runs on a copy of the net which holds the given arrays in place of its own: the live net never sees a
stand-in. What comes out becomes current all at once.
"""

from __future__ import annotations

import contextlib
import copy
import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends import select
from deepcore.backends.base import Backend, Diverged
from deepcore.backends.registry import array_namespace, backend_of
from deepcore.core.function import first_weight
from deepcore.core.layer import Layer
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, walk
from deepcore.core.random import Generator, current_generator
from deepcore.core.record import CURRENT, LastCall, Staged
from deepcore.core.tree import Tree
from deepcore.errors import StateError, UnsupportedError
from deepcore.ops import update
from deepcore.optim import Optimizer
from deepcore.train.mixed import LossScale, finite, judged, passes
from deepcore.train.standing import Move, Standing, layout

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

    checked: whether the caller has checked all labels.   output: whether `changes` gives the net's output too
    patience: how many steps with a batch of one shape are made call by call, before a program is made that
    pays only in the long run.   strict: whether to raise UnsupportedError if a step can't be traced
    precision: as fit's   loss_scale: of "fp16", a new one unless given; of such a step one number is read
    """

    def __init__(
        self,
        net: Composition,
        optimizer: Optimizer,
        scale: Scale = lambda net: None,
        checked: bool = False,
        output: bool = False,
        patience: int = 0,
        strict: bool = False,
        precision: str = "float32",
        loss_scale: LossScale | None = None,
    ):
        if net.loss_fn is None:
            raise StateError(
                "compile: this net has no loss; make it with Net(layers, loss=CrossEntropyLoss())"
            )
        self.net = net
        self.optimizer = optimizer
        self.scale = scale
        self.checked = checked
        self.output = output
        self.patience = patience
        self.strict = strict
        self.precision = precision
        self.loss_scale = LossScale() if precision == "fp16" and loss_scale is None else loss_scale
        self._standing: Standing | None = None  # None: not known, or none that allows a program
        self._programs: dict[Any, _Program] = {}
        self._made: dict[Any, int] = {}  # the shapes of a batch -> the steps made with it call by call
        self._refused: dict[Any, str] = {}  # the net's tree and a batch's layout -> why there is no program
        # of each step that nobody has looked at: whether its labels fit, they, out's shape, the weights moved
        self._doubts: list[tuple[Any, Any, tuple[int, ...], list[str]]] = []

    def __call__(self, X: Any, y: Any) -> Any:
        """The loss, a 0-d array; float(loss) waits for the step.

        X and y must be arrays of the net's library. If a label is out of range nothing changes: a step that
        isn't compiled, or is on NumPy, raises LabelError at once; of another the loss is NaN, and a later
        step, or `check`, raises.
        """
        if select.precision.get() != self.precision:
            before = select.precision.set(self.precision)
            try:
                return self(X, y)
            finally:
                select.precision.reset(before)
        changes, _, loss = self.changes(X, y)
        changes.commit()
        if len(self._doubts) >= _MOST_DOUBTS:
            self.check()
        return loss

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise UnsupportedError(
            "a compiled step can't be copied or pickled: it belongs to its net and its optimizer; "
            "copy these, and make a step of the copies with net.compile(optimizer)"
        )

    def check(self) -> None:
        """Raise LabelError if a label of a compiled step was out of range. Waits for the steps so far."""
        doubts, self._doubts = self._doubts, []
        if not doubts:
            return
        flags = [fit for fit, *_ in doubts]
        fits = select.to_numpy(array_namespace(flags[0]).stack(flags))  # one look at the device, not many
        bad = [doubt for doubt, fit in zip(doubts, fits, strict=True) if not fit]
        for _, _, _, paths in bad:  # those steps changed nothing, so they don't count
            self.optimizer.progress["steps"] -= 1
            for path in paths:
                row = self.optimizer.state[path]
                self.optimizer.state[path] = {**row, "step": row["step"] - 1}
        for _, y, shape, _ in bad:
            self.net.loss_fn.check_targets(y, shape)  # type: ignore[union-attr]

    def changes(self, X: Any, y: Any) -> tuple[Changes, Any, Any]:
        """What the step changes, not yet committed; the output, or None unless it is wanted; the loss."""
        batch = layout(X), layout(y), current_generator().seed
        standing, known = self._standing, None
        if standing is not None:
            if standing.holds():
                known = standing.programs.get(batch)
            else:
                standing = None
        try:
            if standing is not None and known is not None:
                done = self._run(*known, standing, X, y)
            else:
                done = self._by_new_program(standing, X, y, batch)
        except Diverged:
            done = None
        if done is None:
            done = self._call_by_call(X, y)
        _forget_records(self.net, self.net._tree() if standing is None else standing.tree, done[0])
        return done

    def _call_by_call(self, X: Any, y: Any) -> tuple[Changes, Any, Any]:
        """What `changes` gives, without a program."""
        scale = self.loss_scale
        changes, out, loss, good = _step(
            self.net,
            self.optimizer,
            self.scale,
            X,
            y,
            None,
            self.checked,
            self.precision,
            None if scale is None else scale.value,
        )
        return changes if scale is None else judged(changes, good, scale), out, loss

    def _by_new_program(
        self, standing: Standing | None, X: Any, y: Any, batch: Any
    ) -> tuple[Changes, Any, Any] | None:
        """What `changes` gives, or None if this step must be made call by call. Raises Diverged."""
        net, optimizer = self.net, self.optimizer
        if self._made.get(batch, 0) < self.patience:
            self._made[batch] = self._made.get(batch, 0) + 1
            return None
        backend = compiler(net)
        if backend is None or why_not(net, optimizer) or (net._tree(), batch) in self._refused:
            return None
        backend_of(first_weight(net), X, y)  # raises unless they are of one library
        optimizer.check_net(net)
        if standing is None or (standing.key, batch) not in self._programs:  # one is made of what is now
            standing = self._standing = Standing(net, optimizer, backend)
        key = standing.key, batch
        program = self._programs.get(key) or _Program(self, standing)
        try:
            done = self._run(program, None, standing, X, y)
        except Diverged:
            raise
        except Exception as error:
            if not backend.on_host:
                raise
            # call by call it raises what it has to, or it can do without a program
            done = self._call_by_call(X, y)
            if self.strict:
                raise UnsupportedError(f"a step can't be compiled: {error}") from error
            self._refuse((net._tree(), batch), error)
            return done
        optimizer.bind(net)
        _keep(self._programs, key, program)
        _keep(standing.programs, batch, (program, Move(standing, program.moved)))
        return done

    def _refuse(self, key: Any, error: Exception) -> None:
        """From now on make such steps call by call."""
        import logging  # 5 ms that few need

        _keep(self._refused, key, str(error))
        logging.getLogger("deepcore").debug("steps are made call by call: %s", error)

    def _run(
        self, program: _Program, move: Move | None, standing: Standing, X: Any, y: Any
    ) -> tuple[Changes, Any, Any]:
        """One step of a program.   move: None where it isn't known yet"""
        if program.draws or program.numbers is not standing.constant or program.numbers is None:
            program.set_numbers(standing, current_generator())
        loss, *new = program.function(X, y, program.row, program.called, *standing.arrays)
        out = new.pop(0) if self.output else None
        fit = new.pop(0) if program.in_doubt else None
        good = new.pop(0) if program.asks_whether_finite else None
        if move is None:
            move = Move(standing, program.moved)
        if self.loss_scale is None:
            changes = standing.after(move, new)
        else:
            good = good is None or bool(good)
            changes = judged(standing.after(move, new) if good else Changes(), good, self.loss_scale)
        if program.draws:
            generator = current_generator()
            drawn = {s: generator.calls.get(s, 0) + n for s, n in program.draws.items()}
            changes.set(generator.calls, drawn)
        if fit is not None:
            self._doubts.append((fit, y, program.out_shape, move.paths))
        return changes, out, loss


class _Program:
    """The step as a pure function, compiled, for one state of all settings and shapes."""

    def __init__(self, step: CompiledStep, standing: Standing):
        self.net, self.optimizer, self.scale = step.net, step.optimizer, step.scale
        self.checked, self.output = step.checked, step.output
        self.precision, self.loss_scale = step.precision, step.loss_scale
        self.backend = standing.backend
        # whether nobody can look at numbers: the labels are then judged by the program, too late to raise
        self.blind = not self.backend.on_host
        self.in_doubt = False  # whether it has judged them
        self.asks_whether_finite = False  # whether it says if the gradients were
        generator = current_generator()
        self.seed = generator.seed
        # stream of random numbers -> where its call number stands; one that appears later starts from 0
        self.slots = {stream: slot for slot, stream in enumerate(generator.calls)}
        self.most_slots = len(self.slots) + _NEW_STREAMS
        self.draws: dict[str, int] = {}  # stream -> draws in a step; known once the function has been traced
        self.moved: list[int] = []  # which of the arrays have changed; the same
        self.out_shape: tuple[int, ...] = ()
        self.standing: Standing | None = standing  # until the function has been traced
        self.numbers: list[float] | None = None  # those of the last step, ...
        self.row: Any = None  # ... as an array
        self.called: Any = None  # how often the streams have been drawn from
        self.function: Any = self.backend.compile(self.pure_step) or self.pure_step

    def set_numbers(self, standing: Standing, generator: Generator) -> None:
        """Make `row` and `called` what they must be for the coming step."""
        numbers = standing.numbers()
        if self.loss_scale is not None:
            numbers = [*numbers, self.loss_scale.value]
        if numbers != self.numbers:
            self.row = self._put(np.array(numbers, standing.arrays[0].dtype), standing)
        self.numbers = numbers
        if self.draws or self.standing:  # it draws, or nobody knows yet
            called = np.zeros(self.most_slots, np.uint32)
            for stream, slot in self.slots.items():
                called[slot] = generator.calls.get(stream, 0)
            self.called = self._put(called.view(np.int32), standing)

    def _put(self, host: np.ndarray, standing: Standing) -> Any:
        """The same as an array of the net's library, where the net is, unless the program sends it itself."""
        if getattr(self.function, "takes_host_arrays", False):
            return host
        return self.backend.asarray(host, device=self.backend.device(standing.arrays[0]))

    def pure_step(self, X: Any, y: Any, row: Any, called: Any, *arrays: Any) -> tuple[Any, ...]:
        """The loss; out, if it is wanted; whether the labels fit, if nobody can look; and the arrays that
        have changed, whose numbers are then in `moved`.
        """
        # a library may run it again later, when the net stands elsewhere
        standing = self.standing or Standing(self.net, self.optimizer, self.backend)
        net, optimizer = self._copies(standing, arrays)
        self.draws.clear()
        draws = _Draws(self.seed, called, self.slots, self.draws)
        # a rule of the user's own may read what an op has returned
        with self.backend.together() if is_own(optimizer) else contextlib.nullcontext():
            changes, out, loss, good = _step(
                net,
                optimizer,
                self.scale,
                X,
                y,
                self._numbers(standing, row),
                self.checked,
                self.precision,
                None if self.loss_scale is None else row[-1, ...],
                self.blind,
                generator=draws,
            )
        changes.commit()
        fit = None
        if self.blind and not self.checked:
            fit = net.loss_fn.targets_fit(y, tuple(out.shape))  # type: ignore[union-attr]
        after = Standing(net, optimizer, self.backend).arrays
        self.moved = [i for i, (old, new) in enumerate(zip(arrays, after, strict=True)) if new is not old]

        moved = [array_namespace(after[i]).asarray(after[i], dtype=arrays[i].dtype) for i in self.moved]
        if fit is not None:  # all as it was if a label doesn't fit
            moved = update.either(fit, *moved, *(arrays[i] for i in self.moved))
        if good is not None and fit is not None:
            good = good | ~fit  # a label that doesn't fit says nothing of the scale
        self.in_doubt, self.asks_whether_finite = fit is not None, good is not None
        self.out_shape = tuple(out.shape)
        self.standing = None
        return (
            loss if fit is None else array_namespace(loss).where(fit, loss, math.nan),
            *([out] if self.output else []),
            *([fit] if self.in_doubt else []),
            *([good] if self.asks_whether_finite else []),
            *moved,
        )

    def _numbers(self, standing: Standing, row: Any) -> Numbers:
        """The numbers of a row, by path and name."""
        numbers: Numbers = {}
        index = 0
        for group in standing.groups:
            of_group = {}
            for name in self.optimizer.numbers(standing.paths[group[0]]):
                of_group[name] = row[index, ...]
                index += 1
            numbers |= {standing.paths[k]: of_group for k in group}
        return numbers

    def _copies(self, standing: Standing, arrays: tuple[Any, ...]) -> tuple[Composition, Optimizer]:
        """The net and the optimizer, with these arrays for their own."""
        given = {id(old): new for old, new in zip(standing.arrays, arrays, strict=True)}
        net = copy.deepcopy(self.net, given)
        optimizer = copy.copy(self.optimizer)
        optimizer.state = {path: {"step": 0} for path in standing.paths}
        for path, row in zip(standing.paths, standing.row_of, strict=True):
            optimizer.state[path].update({name: arrays[i] for name, i in standing.memory[row]})
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
        return self.called[slot, ...] + draw


def _keep(table: dict[Any, Any], key: Any, entry: Any) -> None:
    """Put an entry into a table that holds a few, the oldest of which goes."""
    if len(table) >= _MOST_PROGRAMS and key not in table:
        del table[next(iter(table))]
    table[key] = entry


def compiler(net: Composition) -> Backend | None:
    """The backend of the net's weights if it can compile, else None."""
    W = first_weight(net)
    if W is None:
        return None
    backend = backend_of(W)
    return backend if type(backend).compile is not Backend.compile else None


def why_not(net: Composition, optimizer: Optimizer) -> str | None:
    """Why a step of this net with this optimizer must not be compiled, in words, or None if it may be."""
    if not getattr(optimizer, "traceable", is_own(optimizer)):
        return (
            f"{type(optimizer).__name__} is an optimizer of your own; if its rule depends on nothing but its "
            "arguments, say traceable = True in its class"
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


def is_own(optimizer: Optimizer) -> bool:
    """Whether it is one of deepcore's."""
    return type(optimizer).__module__ == Optimizer.__module__


def _step(
    net: Composition,
    optimizer: Optimizer,
    scale: Scale,
    X: Any,
    y: Any,
    numbers: Numbers | None,
    checked: bool,
    precision: str,
    loss_scale: Any,
    blind: bool = False,
    **modes: Any,
) -> tuple[Changes, Any, Any, Any]:
    """One step, call by call: what it changes, not yet committed; the output; the loss; whether it is good.

    checked: whether the labels have been checked.   blind: whether nobody can look at numbers.
    loss_scale: a number or a 0-d array, or None without one: then nobody asks whether gradients are finite.
    """
    before = CURRENT.thread
    staged = Staged()
    thread = before.but(
        running=None, who=None, inference=0, drops=True, staged=staged, commits=False, labels_checked=blind
    )
    vars(thread).update(modes)
    CURRENT.thread = thread
    try:
        passed = passes(net, precision, loss_scale)
        out = passed(X)
        thread.labels_checked = checked or blind
        loss = passed.loss(out, y)
        passed.backward()
        good = None if loss_scale is None else finite(net)
        changes = optimizer.changes(net, scale(net), numbers)
    finally:
        CURRENT.thread = before
    for f, buffers in staged.items():
        changes.set(f.buffer, buffers)
    return changes, out, loss, good


def _forget_records(net: Composition, tree: Tree, changes: Changes) -> None:
    """After the changes, what earlier calls left is gone: it belongs to other weights."""
    if net._gradients_gone and not any(map(_RECORD, tree.nodes)) and not any(map(_UPDATE, tree.layers)):
        return  # since the last compiled step nobody has called anything
    for f in tree.nodes:
        if f._last.record is not None:
            changes.set(vars(f), {"_last": LastCall()})
        if isinstance(f, Layer) and f.weight_update:
            changes.set(vars(f), {"weight_update": {}})
        if isinstance(f, Composition):
            changes.set(vars(f), {"_gradients_gone": True})


_RECORD = operator.attrgetter("_last.record")
_UPDATE = operator.attrgetter("weight_update")
