"""What stands inside what: the Functions among a Function's attributes, and their paths."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any

_ARRAY_TABLES = frozenset({"buffer", "weight", "weight_update"})  # dicts in which no Function stands
_SHORT = 32  # items: comparing so many costs less than a microsecond


class Node:
    """Something that may hold others of its kind in its attributes. Abstract: a Function is one."""

    _structure: _Structure | None = None
    _unnamed: str | None = None  # the attribute whose items have bare numbers for paths: "0", not "f.0"

    def _children(self) -> Sequence[tuple[str, Any]]:
        """The Functions directly inside this one, each with its path, such as "shortcut" or "layers.0".

        They are found among the attributes, and in lists, tuples and dicts that are attributes. What was
        found is kept until an attribute is set or one of those lists has changed.
        """
        structure = self._structure
        if structure is None or not structure.holds():
            structure = _Structure(self)
            self.__dict__["_structure"] = structure
        return structure.children

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "weight_update":
            self.__dict__["_structure"] = None
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self.__dict__["_structure"] = None
        super().__delattr__(name)


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
        return not self.tables or all(table.holds() for table in self.tables)


class _Table:
    """A list or dict as it was. In a long one without Nodes, only what is added is looked at."""

    __slots__ = ("before", "size", "value")

    def __init__(self, value: Any, watched: bool):
        self.value = value
        self.size = len(value)
        self.before = tuple(_items(value)) if watched or self.size <= _SHORT else None

    def holds(self) -> bool:
        size = len(self.value)
        if self.before is not None:
            return size == self.size and all(map(operator.is_, _items(self.value), self.before))
        added = itertools.islice(_items(self.value), self.size, None) if size != self.size else ()
        if size < self.size or any(isinstance(item, Node | list | tuple | dict) for item in added):
            return False
        self.size = size
        return True


def _items(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value
