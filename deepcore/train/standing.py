"""Where a net and its optimizer stand between two compiled steps, and how a step moves them on."""

from __future__ import annotations

import copy
import operator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from deepcore.backends.base import Backend
from deepcore.core.function import NEVER_COPIED, Function
from deepcore.core.net import Composition
from deepcore.core.parameters import Changes, find_buffers, find_parameters, functions
from deepcore.core.tree import EDITS
from deepcore.optim import Optimizer

if TYPE_CHECKING:
    from deepcore.train.compiled import _Program


class Standing:
    """Where a net and its optimizer stand: all that a program takes for granted besides the batch, and
    the arrays that it starts from. It holds until something else than a step of a program changes them.
    """

    def __init__(self, net: Composition, optimizer: Optimizer, backend: Backend):
        self.net, self.optimizer, self.backend = net, optimizer, backend
        self.tree, self.edits = net._tree(), EDITS.latest
        self.settings, self.overrides = dict(optimizer.settings), copy.deepcopy(optimizer.overrides)
        parameters, buffers = find_parameters(net), find_buffers(net)
        self.paths = [path for path, p in parameters.items() if p.trainable]
        self.rows: list[dict[str, Any]] = []  # what the optimizer keeps of each of them
        self.arrays = [*(p.value for p in parameters.values()), *(f.buffer[n] for f, n in buffers.values())]
        # where each array stands: a dict of the net, a name, and its number in `arrays`
        self.cells = [
            (layer.weight, name, i) for i, p in enumerate(parameters.values()) for layer, name in p.places
        ]
        self.cells += [(f.buffer, name, i) for i, (f, name) in enumerate(buffers.values(), len(parameters))]
        self.tables = [t for f in functions(net) for t in (f.weight, f.buffer) if t]
        self.sizes = [*map(len, self.tables)]
        self.weights = {path: i for i, path in enumerate(parameters)}
        self.parameters = list(parameters.values())
        # the same for the optimizer's arrays: a number in `rows`, a name, a number in `arrays`
        self.memory: list[tuple[int, str, int]] = []
        for k, path in enumerate(self.paths):
            memory = optimizer.memory(path, parameters[path].value)
            self.rows.append({"step": optimizer.steps_of(path), **memory})
            for name, x in memory.items():
                self.memory.append((k, name, len(self.arrays)))
                self.arrays.append(x)
        self.groups = self._find_groups()
        self.rates = self._find_rates()
        # by the layouts of a batch, a program, and where its results go
        self.programs: dict[Any, tuple[_Program, Move]] = {}
        self.key = (
            self.tree,
            tuple(map(_settings, functions(net))),
            tuple((path, len(p.places)) for path, p in parameters.items()),
            repr([{**optimizer.settings, "lr": None}, optimizer.overrides]),
            tuple(map(tuple, self.groups)),
            tuple(map(layout, self.arrays)),
        )

    def _find_groups(self) -> list[list[int]]:
        """The rows of weights for which the optimizer's numbers are the same at every step."""
        groups: dict[Any, list[int]] = {}
        for k, (path, row) in enumerate(zip(self.paths, self.rows, strict=True)):
            matched = tuple(pattern for pattern in self.overrides if fnmatchcase(path, pattern))
            groups.setdefault((matched, row["step"]), []).append(k)
        return list(groups.values())

    def numbers(self) -> list[float]:
        """What the optimizer's rule needs to know for the coming step, one group after the other."""
        rule = self.optimizer._numbers
        return [x for s, k in self.rates for x in rule(s, self.rows[k]["step"] + 1).values()]

    def _find_rates(self) -> list[tuple[dict[str, Any], int]]:
        """For each group its settings, and the number in `rows` of one of its weights."""
        return [(self.optimizer.settings_of(self.paths[k]), k) for k, *_ in self.groups]

    def holds(self) -> bool:
        """Whether everything is where the last step of a program left it. The rate may differ."""
        optimizer, arrays = self.optimizer, self.arrays
        if EDITS.latest != self.edits:
            return False
        for table in self.tree.tables:
            if not table.holds():
                return False
        if optimizer.settings != self.settings:
            if {**optimizer.settings, "lr": None} != {**self.settings, "lr": None}:
                return False
            self.settings, self.rates = dict(optimizer.settings), self._find_rates()
        if optimizer.overrides != self.overrides:
            return False
        for table, name, i in self.cells:
            if table.get(name) is not arrays[i]:
                return False
        if [*map(len, self.tables)] != self.sizes:
            return False
        if not all(map(operator.is_, map(optimizer.state.get, self.paths), self.rows)):
            return False
        for k, name, i in self.memory:  # noqa: SIM110 - all() of a generator takes twice as long
            if self.rows[k].get(name) is not arrays[i]:
                return False
        return True

    def after(self, move: Move, new: list[Any]) -> Changes:
        """The changes of a step that gives these new arrays.

        They are taken for made: if they are not committed, `holds` is False for good.
        """
        if [*map(type, new)] != move.kinds:
            for i, x in zip(move.moved, new, strict=True):
                if i < len(self.parameters):
                    Changes().set_parameter(self.parameters[i], x)  # raises if it is a mere stand-in
        arrays, rows = self.arrays.copy(), self.rows.copy()
        for i, x in zip(move.moved, new):  # noqa: B905 - a length that differs has raised above
            arrays[i] = x
        state: dict[str, dict[str, Any]] = {}
        for k, path, memory in move.rows:
            row = {"step": rows[k]["step"] + 1}
            for name, i in memory:
                row[name] = arrays[i]
            rows[k] = state[path] = row
        for ks, paths in move.bare:
            row = {"step": rows[ks[0]]["step"] + 1}
            state.update(dict.fromkeys(paths, row))
            for k in ks:
                rows[k] = row
        changes = Changes()
        changes.live = [*move.tables, self.optimizer.state, self.optimizer.progress]
        for names in move.names:
            table = {}
            for name, i in names:
                table[name] = arrays[i]
            changes.new.append(table)
        changes.new += (state, {"steps": self.optimizer.steps + 1})
        self.arrays, self.rows = arrays, rows
        return changes


class Move:
    """Where the new arrays of a program go."""

    def __init__(self, standing: Standing, moved: list[int]):
        self.moved = moved
        self.kinds = [type(standing.arrays[i]) for i in moved]
        is_new = set(moved)
        # for each of the net's dicts what it gets: names, with numbers in `arrays`
        tables: dict[int, tuple[dict[str, Any], list[tuple[str, int]]]] = {}
        for table, name, i in standing.cells:
            if i in is_new:
                tables.setdefault(id(table), (table, []))[1].append((name, i))
        self.tables = [table for table, _ in tables.values()]
        self.names = [names for _, names in tables.values()]
        memory: dict[int, list[tuple[str, int]]] = {}
        for k, name, i in standing.memory:
            memory.setdefault(k, []).append((name, i))
        moves = [standing.weights[path] in is_new for path in standing.paths]
        self.paths = [path for path, does in zip(standing.paths, moves, strict=True) if does]
        # rows of weights that move: their numbers and paths, and the names of arrays, with their numbers
        self.rows = [(k, standing.paths[k], names) for k, names in memory.items() if moves[k]]
        # rows without arrays, by groups that stand at the same step: they may be one and the same
        self.bare: list[tuple[list[int], list[str]]] = []
        for group in standing.groups:
            bare = [k for k in group if moves[k] and k not in memory]
            if bare:
                self.bare.append((bare, [standing.paths[k] for k in bare]))


def layout(x: Any) -> tuple[Any, ...]:
    """All that a compiler looks at."""
    try:
        return type(x), x.shape, x.dtype, x.strides
    except AttributeError:  # of JAX, or no array at all
        return type(x), getattr(x, "shape", None), getattr(x, "dtype", None)


def _settings(f: Function) -> tuple[Any, ...]:
    return tuple((name, _plain(value)) for name, value in vars(f).items() if name not in NEVER_COPIED)


def _plain(value: Any) -> Any:
    """A number, a word, or a tuple of such as it is; None for anything else."""
    if type(value) in (bool, int, float, str):
        return value
    return tuple(map(_plain, value)) if type(value) in (tuple, list) else None
