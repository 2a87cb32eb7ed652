"""A compiled function on NumPy: one straight line of calls, whose buffers were planned beforehand.

The calls are those that the function makes (`tracing`), so the bits of the results are the same. What is
saved: Python between the calls, calls whose results nobody needs, and new memory, since a result goes
where it is planned to go: into memory that it shares with others that are needed at other times, or, if it
leaves the program, into arrays that nobody holds any more.

    >>> import numpy as np
    >>> from deepcore.backends.registry import array_namespace
    >>> def f(X, Y):
    ...     xp = array_namespace(X)
    ...     unused = X - Y
    ...     return (xp.exp(2 * X) + 1,)
    >>> compiled = Compiled(f)
    >>> X, Y = np.zeros(2), np.ones(2)
    >>> compiled(X, Y), compiled(X, Y)
    ((array([2., 2.]),), (array([2., 2.]),))
    >>> print(compiled.source, end="")
    def program(x0, x1):
        k0, = spare()
        multiply(c0, x0, b0)
        exp(b0, b0)
        add(b0, c1, k0)
        return k0,

A kernel takes part in the plan as far as its signature says so:

- `out`: memory for its result, or for a tuple of results one entry each; None where it must find its own.
- `needed`: for a tuple of results, whether each is needed; what isn't may be None.

Whether its results share memory with its arguments may depend on shapes, dtypes and strides alone.
"""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from operator import setitem
from typing import Any

import numpy as np

from deepcore.backends.base import Diverged
from deepcore.backends.numpy.tracing import Call, Tape, Traced, leaves, varies
from deepcore.backends.quiet import quietly

_WITH_OUT = frozenset(
    {np.sum, np.max, np.min, np.clip, np.concat}
)  # besides ufuncs; np.mean of float16 differs
_ALIGNED = 64  # bytes: a line of the cache
_SMALL = 4096  # bytes up to which a kernel gets new memory sooner than it looks at what it is offered
_LARGE = 65536  # bytes from which on it pays to give memory back before the program ends


class Compiled:
    """A function of arrays, as a program from its second call on. Not for two threads at once.

    Raises what the function raises, and tracing.HostRead if it looks at numbers.
    """

    def __init__(self, function: Callable[..., tuple[Any, ...]]):
        self.function = function
        self.program: Callable[..., tuple[Any, ...]] | None = None
        self.source = ""

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """The function's results. Raises Diverged if a number that it read has changed."""
        if self.program is not None:
            return self.program(*arrays)
        tape = Tape()
        inputs = [tape.input(x) for x in arrays]
        outputs = self.function(*inputs)
        self.source, names = _Plan(tape, inputs, outputs).written()
        exec(compile(self.source, "<compiled step>", "exec"), names)
        self.program = quietly(names["program"])
        return tuple(x.value for x in outputs)


class _Root:
    """The memory of a result, and of all results that are views of it."""

    __slots__ = ("call", "escapes", "last", "memory", "value")

    def __init__(self, value: Any, call: int):
        self.value = value  # the result that owns the memory
        self.call = self.last = call  # the numbers of the calls that make it and that use it last
        self.escapes = False  # whether a result of the program lies in it
        self.memory: _Memory | None = None  # the memory planned for it


class _Memory:
    """A piece of memory that one result after the other may use."""

    __slots__ = ("bytes", "size", "views")

    def __init__(self, size: int):
        raw = np.empty(size + _ALIGNED, np.uint8)
        start = -raw.ctypes.data % _ALIGNED
        self.size, self.bytes = size, raw[start : start + size].data
        self.views: dict[Any, np.ndarray] = {}  # by their layouts

    def like(self, x: Any) -> np.ndarray:
        """An array in this memory, of the layout that x has."""
        layout = _layout_of_copy(x)
        if layout not in self.views:
            shape, dtype, strides = layout
            self.views[layout] = np.ndarray(shape, dtype, self.bytes, 0, strides)
        return self.views[layout]


class _Plan:
    """From a tape to the text of a program."""

    def __init__(self, tape: Tape, inputs: Sequence[Traced], outputs: Sequence[Traced]):
        self.inputs, self.outputs = inputs, outputs
        self.owner = _owners(tape)
        self.calls, self.needed = _needed(tape, outputs, self.owner)
        self.names: dict[str, Any] = {"Diverged": Diverged}  # what the program's text speaks of
        self.name_of: dict[int, str] = {}  # by the id of a stand-in, or of a constant
        self.times = collections.Counter(map(id, outputs))
        makers = {id(x): call for call in self.calls for x in call.results if x is not None}
        self.kept = [x for x in outputs if self._can_be_kept(x, makers.get(id(x)))]
        self.is_kept = set(map(id, self.kept))
        self.numbers = {letter: itertools.count() for letter in "bc"}  # of buffers and constants
        self.roots = self._find_roots()
        self.free: list[_Memory] = []

    def written(self) -> tuple[str, dict[str, Any]]:
        """The text of the program, and what the names in it mean."""
        for number, x in enumerate(self.inputs):
            self.name_of[id(x)] = f"x{number}"
        lines = []
        kept = [f"k{number}" for number in range(len(self.kept))]
        for name, x in zip(kept, self.kept, strict=True):
            self.name_of[id(x)] = name
        if kept:
            self.names["spare"] = Spares([x.value for x in self.kept])
            lines.append(f"{', '.join(kept)}, = spare()")
        for number, call in enumerate(self.calls):
            lines += self._lines(number, call)
        lines.append(f"return {', '.join(map(self._spelt, self.outputs))},")
        head = f"def program({', '.join(self.name_of[id(x)] for x in self.inputs)}):"
        return "\n    ".join([head, *lines]) + "\n", self.names

    # ---- what lies where, and for how long

    def _find_roots(self) -> dict[int, _Root]:
        roots = {id(x): _Root(x, -1) for x in self.inputs}
        for number, call in enumerate(self.calls):
            for x in call.inputs:
                roots[id(x)].last = number
            for x in call.results:
                if x is not None:
                    owner = self.owner[id(x)]
                    roots[id(x)] = _Root(x, number) if owner == id(x) else roots[owner]
        for x in self.outputs:
            if varies(x):
                roots[id(x)].escapes = True
        return roots

    def _can_be_kept(self, x: Traced, maker: Call | None) -> bool:
        """Whether a result of the program can be written into an array that is at hand."""
        once = self.times[id(x)] == 1 and isinstance(x.value, np.ndarray) and x.ndim > 0
        return once and maker is not None and _takes_out(maker)

    def _memory_for(self, number: int, call: Call, x: Traced | None) -> np.ndarray | None:
        """Planned memory for a result of a call, or None if it can't have any."""
        if x is None or not isinstance(x.value, np.ndarray):
            return None
        root = self.roots[id(x)]
        if root.value is not x or root.escapes:
            return None
        root.memory = self._taken_over(number, call, x) or self._from_free(x.value.nbytes)
        return root.memory.like(x.value)

    def _taken_over(self, number: int, call: Call, x: Traced) -> _Memory | None:
        """The memory of an operand which is needed no more, if the result can be written over it."""
        if not isinstance(call.function, np.ufunc) or call.function.signature is not None:
            return None
        layout = _layout_of_copy(x.value)
        for a in call.inputs:
            root = self.roots[id(a)]
            same = (a.shape, a.dtype, getattr(a.value, "strides", None)) == layout
            if root.memory and root.value is a and root.last == number and same:
                memory, root.memory = root.memory, None
                return memory
        return None

    def _from_free(self, size: int) -> _Memory:
        fitting = [memory for memory in self.free if size <= memory.size <= 2 * size]
        if not fitting:
            return _Memory(size)
        memory = min(fitting, key=lambda memory: memory.size)
        self.free.remove(memory)
        return memory

    # ---- the text

    def _lines(self, number: int, call: Call) -> list[str]:
        if call.expected is not None:
            said = self._said(call)
            return [f"if {said} != {self._spelt(call.expected)}:", "    raise Diverged"]
        lines = [self._line(number, call)]
        ended = {id(root): root for root in map(self.roots.get, map(id, _arrays(call))) if root}
        gone = []
        for root in ended.values():
            if root.last <= number and not root.escapes and root.call >= 0:
                if root.memory is not None:
                    self.free.append(root.memory)
                    root.memory = None
                elif root.value.value.nbytes >= _LARGE and self.name_of[id(root.value)].startswith("v"):
                    gone.append(self.name_of[id(root.value)])
        return [*lines, *(f"del {name}" for name in gone)]

    def _line(self, number: int, call: Call) -> str:
        if call.function is setitem:
            return self._said(call)
        outs = [None] * len(call.results)
        if _takes_out(call):
            outs = [self._place(number, call, x) for x in call.results]
        if isinstance(call.function, np.ufunc) and outs[0]:
            self.name_of[id(call.results[0])] = outs[0]
            by_name = call.function in (np.maximum, np.minimum)  # which take no third argument
            return self._said(call, f"out={outs[0]}" if by_name else outs[0])
        options = []
        if any(outs):
            offered = f"({', '.join(map(str, outs))},)" if call.several else outs[0]
            options.append(f"out={offered}")
        if call.several and not all(self.needed[number]) and "needed" in _parameters(call.function):
            options.append(f"needed={self.needed[number]}")
        results = []
        for x in call.results:
            name = "_" if x is None else self.name_of.get(id(x)) or f"v{len(self.name_of)}"
            if x is not None:
                self.name_of[id(x)] = name
            results.append(name)
        return f"{', '.join(results)}{',' if call.several else ''} = {self._said(call, *options)}"

    def _place(self, number: int, call: Call, x: Traced | None) -> str | None:
        """The name of the array that a result is written into, or None."""
        if id(x) in self.is_kept:
            return self.name_of[id(x)]
        if not isinstance(call.function, np.ufunc) and (x is None or x.value.nbytes < _SMALL):
            return None
        memory = self._memory_for(number, call, x)
        return None if memory is None else self._named("b", memory)

    def _said(self, call: Call, *more: str) -> str:
        """The call as an expression."""
        arguments = [self._spelt(self._operand(call, x)) for x in call.arguments]
        keywords = [f"{name}={self._spelt(x)}" for name, x in call.keywords.items()]
        return f"{self._function(call.function)}({', '.join([*arguments, *keywords, *more])})"

    def _operand(self, call: Call, x: Any) -> Any:
        """A Python number beside arrays of floats, as the array of no axes that NumPy would make of it."""
        dtypes = {y.dtype for y in call.arguments if isinstance(y, Traced)}
        if not isinstance(call.function, np.ufunc) or type(x) not in (int, float) or len(dtypes) != 1:
            return x
        (dtype,) = dtypes
        if dtype.kind != "f" or abs(x) > np.finfo(dtype).max:
            return x
        return Traced(np.array(x, dtype), None)

    def _spelt(self, x: Any) -> str:
        if varies(x):
            return self.name_of[id(x)]
        if isinstance(x, Traced):
            return self._named("c", x.value)
        if isinstance(x, list | tuple) and any(isinstance(y, Traced) for y in leaves(x)):
            inside = ", ".join(map(self._spelt, x))
            return f"[{inside}]" if isinstance(x, list) else f"({inside},)"
        if x is None or type(x) in (bool, int, str) or (type(x) is float and math.isfinite(x)):
            return repr(x)
        return self._named("c", x)

    def _function(self, function: Any) -> str:
        """A function's own name, or one like it."""
        name = wanted = function.__name__.strip("_<>")
        while self.names.setdefault(name, function) is not function:
            name = f"{wanted}_{len(self.names)}"
        return name

    def _named(self, letter: str, value: Any) -> str:
        """The name of a buffer or of a constant."""
        name = self.name_of.get(id(value))
        if name is None:
            name = f"{letter}{next(self.numbers[letter])}"
            self.names[name] = value
            self.name_of[id(value)] = name
        return name


class Spares:
    """Sets of arrays for what leaves a program: called, it gives one that nobody holds any more.

    As long as somebody holds one of the arrays of a set, or a view of it, another set is used.
    """

    def __init__(self, likes: Sequence[Any]):
        self.sets = [tuple(map(np.empty_like, likes))]

    def __call__(self) -> tuple[np.ndarray, ...]:
        for arrays in self.sets:
            if max(map(sys.getrefcount, arrays)) <= _ALONE:
                return arrays
        arrays = tuple(map(np.empty_like, self.sets[-1]))
        self.sets = [self.sets[-1], arrays]
        return arrays


def _alone() -> int:
    """What `Spares` counts for a set that nobody else holds."""
    sets = [tuple(map(np.empty_like, [np.empty(0)]))]
    for arrays in sets:
        return max(map(sys.getrefcount, arrays))
    raise AssertionError


_ALONE = _alone()


def _layout_of_copy(x: np.ndarray) -> tuple[Any, ...]:
    """What NumPy would give a result that is like x."""
    return x.shape, x.dtype, np.empty_like(x).strides


def _owners(tape: Tape) -> dict[int, int]:
    """For each stand-in (by id) the one that owns its memory: itself, unless it is a view."""
    owner = {id(x): id(x) for x in tape.inputs}
    for call in tape:
        given = call.inputs
        for x in call.results:
            if x is not None:
                shared = (owner[id(a)] for a in given if np.may_share_memory(a.value, x.value))
                owner[id(x)] = next(shared, id(x))
    return owner


def _needed(
    tape: Tape, outputs: Sequence[Traced], owner: dict[int, int]
) -> tuple[list[Call], list[tuple[bool, ...]]]:
    """The calls that the outputs depend on; for each of them, which of its results are needed."""
    wanted = {id(x) for x in outputs}
    memory = {owner[id(x)] for x in outputs if varies(x)}  # in which something wanted lies
    calls, needed = [], []
    for call in reversed(tape):
        of_call = tuple(id(x) in wanted for x in call.results)
        writes = call.function is setitem and owner[id(call.arguments[0])] in memory
        if any(of_call) or writes or call.expected is not None:
            calls.append(call)
            needed.append(of_call)
            wanted.update(map(id, call.inputs))
            memory.update(owner[id(x)] for x in call.inputs)
            call.results = [x if want else None for x, want in zip(call.results, of_call, strict=True)]
    return calls[::-1], needed[::-1]


def _arrays(call: Call) -> list[Any]:
    return [*call.inputs, *(x for x in call.results if x is not None)]


def _takes_out(call: Call) -> bool:
    """Whether the call can be told where its results go."""
    f = call.function
    if call.keywords.get("out") is not None or call.keywords.get("dtype") is not None:
        return False
    if isinstance(f, np.ufunc):
        return f.nout == 1 and not call.keywords and len(call.arguments) == f.nin
    return f in _WITH_OUT or "out" in _parameters(f)


@functools.cache
def _parameters(function: Any) -> Any:
    """The parameters of a kernel by name; of a function of NumPy's own none."""
    if isinstance(function, np.ufunc) or not hasattr(function, "__code__"):
        return ()
    return inspect.signature(function).parameters
