"""Where a net and its optimizer stand between two compiled steps, and how a step moves them on."""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase
from itertools import compress
from operator import is_
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
        self.weights = {path: i for i, path in enumerate(parameters)}
        self.parameters = list(parameters.values())
        self.arrays = [*(p.value for p in parameters.values()), *(f.buffer[n] for f, n in buffers.values())]
        # what changes: tables[j][names[j]] is values[j]; an array of the net is arrays[places[j]]
        self.tables: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.places: list[int] = []
        for i, parameter in enumerate(parameters.values()):
            for layer, name in parameter.places:
                self._watch(layer.weight, name, i)
        for i, (f, name) in enumerate(buffers.values(), len(parameters)):
            self._watch(f.buffer, name, i)
        self.whole = [table for f in functions(net) for table in (f.weight, f.buffer) if table is not None]
        self.sizes = [*map(len, self.whole)]
        # what the optimizer keeps of path number k is rows[row_of[k]]; in that, memory[row_of[k]] says which
        # name is which array
        self.rows: list[dict[str, Any]] = []
        self.row_of = [0] * len(self.paths)
        self.memory: list[list[tuple[str, int]]] = []
        self.groups = self._find_groups()
        self._add_rows()
        self.rates = self._find_rates()
        self.constant: list[float] | None = None  # `numbers`, if they are the same at every step
        self.state, self.progress = optimizer.state, optimizer.progress
        self.tables += [*[self.state] * len(self.paths), self.progress]
        self.names += [*self.paths, "steps"]
        self.values = self._values(self.arrays, self.rows, optimizer.steps)
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

    def _watch(self, table: dict[str, Any], name: str, number: int) -> None:
        self.tables.append(table)
        self.names.append(name)
        self.places.append(number)

    def _values(self, arrays: list[Any], rows: list[dict[str, Any]], steps: int) -> list[Any]:
        return [*map(arrays.__getitem__, self.places), *map(rows.__getitem__, self.row_of), steps]

    def _find_groups(self) -> list[list[int]]:
        """The numbers of paths for which the optimizer's numbers are the same at every step."""
        groups: dict[Any, list[int]] = {}
        for k, path in enumerate(self.paths):
            matched = tuple(pattern for pattern in self.overrides if fnmatchcase(path, pattern))
            groups.setdefault((matched, self.optimizer.steps_of(path)), []).append(k)
        return list(groups.values())

    def _add_rows(self) -> None:
        """What the optimizer keeps of each path; without arrays it is the same for all of a group.

        In the order of paths, not of groups: a program, whose weights all stand at step 0, has other groups.
        """
        bare: dict[int, int] = {}  # the first path of a group -> the row that has no arrays
        first = {k: group[0] for group in self.groups for k in group}
        for k, path in enumerate(self.paths):
            memory = self.optimizer.memory(path, self.parameters[self.weights[path]].value)
            self.row_of[k] = len(self.rows) if memory else bare.setdefault(first[k], len(self.rows))
            if self.row_of[k] == len(self.rows):
                self.rows.append({"step": self.optimizer.steps_of(path), **memory})
                self.memory.append([(name, i) for i, name in enumerate(memory, len(self.arrays))])
                self.arrays += memory.values()

    def numbers(self) -> list[float]:
        """What the optimizer's rule needs to know for the coming step, one group after the other."""
        numbers = self.constant
        if numbers is None:
            numbers = []
            for settings, row in self.rates:
                numbers += self.optimizer._numbers(settings, self.rows[row]["step"] + 1).values()
            if type(self.optimizer)._numbers is Optimizer._numbers:  # no step differs from the next
                self.constant = numbers
        return numbers

    def _find_rates(self) -> list[tuple[dict[str, Any], int]]:
        """For each group its settings, and the number in `rows` of one of its weights."""
        return [(self.optimizer.settings_of(self.paths[k]), self.row_of[k]) for k, *_ in self.groups]

    def holds(self) -> bool:
        """Whether everything is where the last step of a program left it. The rate may differ."""
        optimizer = self.optimizer
        if EDITS.latest != self.edits or not self.tree.tables_hold():
            return False
        if optimizer.settings != self.settings:
            if {**optimizer.settings, "lr": None} != {**self.settings, "lr": None}:
                return False
            self.settings, self.rates, self.constant = dict(optimizer.settings), self._find_rates(), None
        if optimizer.overrides != self.overrides:
            return False
        if optimizer.state is not self.state or optimizer.progress is not self.progress:
            return False
        if not all(map(is_, map(dict.get, self.tables, self.names), self.values)):
            return False
        if [*map(len, self.whole)] != self.sizes:
            return False
        for row, memory in zip(self.rows, self.memory, strict=True):
            for name, i in memory:
                if row.get(name) is not self.arrays[i]:
                    return False
        return True

    def after(self, move: Move, new: list[Any]) -> Changes:
        """The changes of a step that gives these new arrays.

        They are taken for made: if they are not committed, `holds` is False for good.
        """
        if not self.backend.on_host and [*map(type, new)] != move.kinds:
            for i, x in zip(move.moved, new, strict=True):
                if i < len(self.parameters):
                    Changes().set_parameter(self.parameters[i], x)  # raises if it is a mere stand-in
        arrays = new
        if not move.all_arrays:
            arrays = self.arrays.copy()
            for i, x in zip(move.moved, new, strict=True):
                arrays[i] = x
        rows: list[dict[str, Any]] = []
        for row, memory in zip(self.rows, self.memory, strict=True):
            row = {"step": row["step"] + 1}
            for name, i in memory:
                row[name] = arrays[i]
            rows.append(row)
        values = self._values(arrays, rows, self.progress["steps"] + 1)
        self.arrays, self.rows, self.values = arrays, rows, values  # an interrupt comes before or after
        stores = zip(self.tables, self.names, self.values)  # noqa: B905 - of one length
        # a weight that stays gets no row: so this doesn't hold any more
        return Changes(stores if move.all_paths else compress(stores, move.changing))


class Move:
    """Where the new arrays of a program go."""

    def __init__(self, standing: Standing, moved: list[int]):
        self.moved = moved
        self.kinds = [type(standing.arrays[i]) for i in moved]
        self.all_arrays = moved == [*range(len(standing.arrays))]
        self.paths = [path for path in standing.paths if standing.weights[path] in moved]
        self.all_paths = self.paths == standing.paths
        # of what a standing watches, all but the optimizer's rows of weights that stay as they are
        self.changing = [name not in standing.weights or name in self.paths for name in standing.names]


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
