"""What stands inside what: the Functions among a Function's attributes, and their paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from operator import is_
from typing import Any

from deepcore.errors import StateError

_ARRAY_TABLES = frozenset({"buffer", "weight", "weight_update"})  # dicts in which no Function stands
_PLAIN = frozenset({bool, int, float, str, type(None)})  # values in which no Function stands
_SHORT = 32  # items: comparing so many costs less than a microsecond


class Node:
    """Something that may hold others of its kind in its attributes. Abstract: a Function is one."""

    trainable: bool = True  # False freezes the weights of this Node and of all inside it

    _has_weights: bool = False  # whether `weight` and `weight_update` are a Layer's
    _structure: _Structure | None = None
    _grown: Tree | None = None
    _unnamed: str | None = None  # the attribute whose items have bare numbers for paths: "0", not "f.0"

    def _children(self) -> Sequence[tuple[str, Any]]:
        """The Functions directly inside this one, each with its path, such as "shortcut" or "layers.0".

        They are found among the attributes, and in lists, tuples and dicts that are attributes. What was
        found is kept until an attribute is set or one of those lists has changed.
        """
        return self._looked().children

    def _looked(self) -> _Structure:
        structure = self._structure
        if structure is None or not structure.holds():
            structure = _Structure(self)
            self.__dict__["_structure"] = structure
        return structure

    def _tree(self) -> Tree:
        """All Nodes at or below this one. Raises StateError if one of them stands inside itself."""
        tree = self._grown
        if tree is None or not tree.holds():
            tree = Tree(self)
            self.__dict__["_grown"] = tree
        return tree

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "weight_update":
            plain = type(value) in _PLAIN and type(self.__dict__.get(name)) in _PLAIN
            if not plain or name == "trainable":
                self.__dict__["_structure"] = None
            EDITS.note()
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self.__dict__["_structure"] = None
        EDITS.note()
        super().__delattr__(name)


class _Edits:
    """Counts how often an attribute of any Node was set: as long as it hasn't been, no setting differs."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.latest = 0

    def note(self) -> None:
        self.latest = next(self._numbers)  # a number of its own, whatever other threads do


EDITS = _Edits()


class Tree:
    """All Nodes at or below a root. Looked for once, and kept until the structure of one has changed."""

    __slots__ = ("edits", "layers", "lists", "nodes", "parameters", "places", "structures", "tables")

    def __init__(self, root: Node):
        self.edits = EDITS.latest  # as of when the structures were looked at
        self.places: list[tuple[str, Any, bool]] = []
        self.structures: dict[Any, _Structure] = {}
        self._add("", root, True, ())
        self.nodes: list[Any] = list(self.structures)  # each once
        tables = [table for structure in self.structures.values() for table in structure.tables]
        # lists that are watched whole, as they are and as they were; and all other tables
        self.lists = [(t.value, t.before) for t in tables if type(t.value) is list and t.before is not None]
        self.tables = [t for t in tables if type(t.value) is not list or t.before is None]
        self.layers = [node for node in self.nodes if node._has_weights]
        self.parameters: Any = None  # for find_parameters to keep what it found

    def _add(self, path: str, node: Any, trainable: bool, above: tuple[Any, ...]) -> None:
        """Note the place of a Node: its path, itself, and whether neither it nor one above it is frozen."""
        if any(node is other for other in above):
            raise StateError(
                f"{type(above[0]).__name__}: the {type(node).__name__} at {path} stands inside itself; does "
                "it refer back to a Function that it is part of? Keep such a reference in a weakref.ref"
            )
        trainable = trainable and node.trainable
        self.places.append((path, node, trainable))
        structure = self.structures.get(node) or node._looked()
        self.structures[node] = structure
        for name, child in structure.children:
            self._add(f"{path}.{name}" if path else name, child, trainable, (*above, node))

    def holds(self) -> bool:
        """Whether looking again would find the same."""
        edits = EDITS.latest
        if edits != self.edits:
            for node, structure in self.structures.items():
                if node._structure is not structure:
                    return False
            self.edits = edits
        return self.tables_hold()

    def tables_hold(self) -> bool:
        """The same as long as no attribute has been set."""
        for items, before in self.lists:
            if len(items) != len(before) or not all(map(is_, items, before)):
                return False
        for table in self.tables:  # noqa: SIM110 - all() of a generator takes twice as long
            if not table.holds():
                return False
        return True


class _Structure:
    """The children of a Node, and the lists and dicts in which it looked for them."""

    __slots__ = ("children", "tables")

    def __init__(self, f: Node):
        self.children: list[tuple[str, Any]] = []
        self.tables: list[_Table] = []
        for name, value in list(f.__dict__.items()):  # another thread may set an attribute meanwhile
            if name not in _ARRAY_TABLES:
                self._add("" if name == f._unnamed else name, value)

    def _add(self, path: str, value: Any) -> None:
        if isinstance(value, Node):
            self.children.append((path, value))
        elif isinstance(value, list | tuple | dict):
            found = len(self.children) + len(self.tables)
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                self._add(f"{path}.{key}" if path else f"{key}", item)
            if not isinstance(value, tuple):
                self.tables.append(_Table(value, watched=len(self.children) + len(self.tables) > found))

    def holds(self) -> bool:
        """Whether looking again would find the same."""
        for table in self.tables:  # noqa: SIM110 - all() of a generator takes twice as long
            if not table.holds():
                return False
        return True


class _Table:
    """A list or dict as it was. In a long one without Nodes, only what is added is looked at."""

    __slots__ = ("before", "size", "value")

    def __init__(self, value: Any, watched: bool):
        self.value = value
        self.size = len(value)
        self.before = tuple(_items(value)) if watched or self.size <= _SHORT else None

    def holds(self) -> bool:
        value, before = self.value, self.before
        size = len(value)
        if before is not None:
            items = value if type(value) is list else _items(value)
            return size == self.size and all(map(is_, items, before))
        added = itertools.islice(_items(self.value), self.size, None) if size != self.size else ()
        if size < self.size or any(isinstance(item, Node | list | tuple | dict) for item in added):
            return False
        self.size = size
        return True


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
