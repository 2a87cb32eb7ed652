"""Stand-ins for NumPy's arrays, which note on a tape what is done with them.

A function runs once on stand-ins, with real numbers inside, so that shapes, dtypes and memory layouts need
no rules of their own. Each op with a kernel becomes one call on the tape; where an op has none, its
reference runs, and its operations are noted one by one. What depends on no input is a constant: its value
stays what it was.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from deepcore.backends import registry
from deepcore.backends.numpy import NumpyBackend
from deepcore.errors import UnsupportedError

# their results have as many entries as the numbers say
_SIZED_BY_NUMBERS = frozenset({"nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"})
_SIZED_BY_SHAPE = frozenset({"empty_like", "ones_like", "zeros_like"})  # and no number matters


class HostRead(UnsupportedError):
    """A number was asked for where only stand-ins are at hand."""

    def __init__(self, how: str, does: str = "looks at"):
        super().__init__(
            f"compile: {how} {does} the numbers of an array, which differ from step to step; "
            "leave it out, or say traceable = False in the class that does so"
        )


class Call:
    """One call on the tape: function(*arguments, **keywords), and the stand-ins that it gave."""

    __slots__ = ("arguments", "expected", "function", "inputs", "keywords", "results", "several")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]):
        self.function, self.arguments, self.keywords = function, arguments, keywords
        # the stand-ins among the arguments that aren't constants
        self.inputs: list[Traced] = [x for x in leaves([arguments, *keywords.values()]) if varies(x)]
        self.results: list[Any] = []  # stand-ins, and None for what is no array
        self.several = False  # whether a tuple came
        self.expected: Any = None  # a Python number that came instead: the tape holds while it comes again


class Tape(list[Call]):
    """The calls of one run, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Traced] = []

    def input(self, value: Any) -> Traced:
        """The stand-in for an array that comes from outside."""
        self.inputs.append(Traced(value, self))
        return self.inputs[-1]


class Traced:
    """A stand-in for a NumPy array: its numbers in the run that is being noted, and the tape.

    tape: None for a constant.   shared: whether one who asked for a copy got this very stand-in
    """

    __slots__ = ("shared", "tape", "value")
    __array_ufunc__ = None  # an operator between an array of NumPy's and a stand-in is the stand-in's
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, value: Any, tape: Tape | None):
        self.value, self.tape, self.shared = value, tape, False

    dtype = property(lambda self: self.value.dtype)
    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    size = property(lambda self: self.value.size)
    device = property(lambda self: "cpu")
    T = property(lambda self: note(np.transpose, self))
    mT = property(lambda self: note(np.matrix_transpose, self))  # noqa: N815 - the standard's name

    def __getitem__(self, index: Any) -> Any:
        if any(x.dtype.kind == "b" for x in leaves(index) if varies(x)):
            raise HostRead("a mask as an index")
        return note(operator.getitem, self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        """The program will do the same, in the same memory."""
        inputs = [] if self.tape is None else self.tape.inputs
        of_input = any(np.may_share_memory(self.value, x.value) for x in inputs)
        if self.shared or of_input or not isinstance(self.value, np.ndarray):
            raise HostRead("writing to an input", "changes")
        if self.tape is None:
            self._vary(next((x.tape for x in leaves((index, value)) if varies(x)), None))
        self.value[plain(index)] = plain(value)
        if self.tape is not None:
            self.tape.append(Call(operator.setitem, (self, index, value), {}))

    def _vary(self, tape: Tape | None) -> None:
        """From a constant to a copy of it, which the program makes anew each time."""
        constant = Traced(self.value, None)
        self.value, self.tape = self.value.copy(), tape
        if tape is not None:
            for call in tape:
                call.arguments = _replaced(call.arguments, self, constant)
            tape.append(Call(np.copy, (constant,), {}))
            tape[-1].results = [self]

    def __len__(self) -> int:
        return len(self.value)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return _BACKEND.xp

    def __bool__(self) -> bool:
        return bool(self._read("bool(x)"))

    def __int__(self) -> int:
        return int(self._read("int(x)"))

    def __float__(self) -> float:
        return float(self._read("float(x)"))

    def __index__(self) -> int:
        return operator.index(self._read("a number of an array as an index"))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._read("a function of NumPy itself"), dtype=dtype)

    def _read(self, how: str) -> Any:
        if self.tape is not None:
            raise HostRead(how)
        return self.value


def _give_operators() -> None:
    ufuncs = {
        **{name: getattr(np, ufunc) for name, ufunc in (("sub", "subtract"), ("mul", "multiply"))},
        **{"add": np.add, "truediv": np.true_divide, "floordiv": np.floor_divide, "mod": np.remainder},
        **{"matmul": np.matmul, "lshift": np.left_shift, "rshift": np.right_shift},
        **{"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
        "pow": operator.pow,  # x ** 2 is not np.power(x, 2) but a square
    }
    for name, f in ufuncs.items():
        setattr(Traced, f"__{name}__", lambda self, other, f=f: note(f, self, other))
        setattr(Traced, f"__r{name}__", lambda self, other, f=f: note(f, other, self))
    comparisons = ("lt", np.less), ("le", np.less_equal), ("gt", np.greater), ("ge", np.greater_equal)
    for name, f in (*comparisons, ("eq", np.equal), ("ne", np.not_equal)):
        setattr(Traced, f"__{name}__", lambda self, other, f=f: note(f, self, other))
    for name, f in (("neg", np.negative), ("pos", np.positive), ("abs", np.abs), ("invert", np.invert)):
        setattr(Traced, f"__{name}__", lambda self, f=f: note(f, self))


_give_operators()


def varies(x: Any) -> bool:
    """Whether x stands for an array that differs from call to call."""
    return isinstance(x, Traced) and x.tape is not None


def leaves(tree: Any) -> Iterator[Any]:
    """What stands in nested tuples and lists."""
    if isinstance(tree, tuple | list):
        for x in tree:
            yield from leaves(x)
    else:
        yield tree


def _replaced(tree: Any, old: Traced, new: Traced) -> Any:
    if type(tree) in (tuple, list):
        return type(tree)(_replaced(x, old, new) for x in tree)
    return new if tree is old else tree


def plain(x: Any) -> Any:
    """The same with arrays for stand-ins, in tuples and lists too."""
    if isinstance(x, Traced):
        return x.value
    return type(x)(map(plain, x)) if type(x) in (tuple, list) else x


def note(function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    """Call the function, and note the call unless all arguments are constants."""
    value = function(*map(plain, arguments), **{name: plain(x) for name, x in keywords.items()})
    if value is NotImplemented:
        return value
    call = Call(function, arguments, keywords)
    tape = next((x.tape for x in call.inputs), None)
    if any(value is x.value for x in call.inputs):  # an argument as it is, as shapes and dtypes decide
        return next(x for x in call.inputs if value is x.value)
    call.several = isinstance(value, tuple | list)
    values = tuple(value) if call.several else (value,)
    wrapped = tuple(Traced(v, tape) if isinstance(v, np.ndarray | np.generic) else v for v in values)
    if tape is None:
        return wrapped if call.several else wrapped[0]
    call.results = [x if isinstance(x, Traced) else None for x in wrapped]
    if not call.several and not isinstance(value, np.ndarray | np.generic):
        if not isinstance(value, bool | int | float | str):
            return value  # a dtype or a shape, which the shapes of the inputs decide
        call.expected = value
    tape.append(call)
    return wrapped if call.several else wrapped[0]


class _Namespace:
    """NumPy's functions, noted."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if not isinstance(found, type) and callable(found) and name != "__array_namespace_info__":
            found = self._noted(name, found)
        setattr(self, name, found)
        return found

    def _noted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **keywords: Any) -> Any:
            if name in _SIZED_BY_NUMBERS and any(map(varies, arguments)):
                raise HostRead(name)
            result = note(function, *arguments, **keywords)
            return Traced(result.value, None) if name in _SIZED_BY_SHAPE else result

        return functools.update_wrapper(noted, function)

    def asarray(self, x: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None) -> Any:
        """x itself where possible."""
        if not isinstance(x, Traced):
            return Traced(np.asarray(x, dtype=dtype), None)
        if copy or isinstance(x.value, np.generic):  # which becomes an array of no axes
            return note(np.array, x, dtype)
        return x if dtype is None else self.astype(x, dtype, copy=False)

    def astype(self, x: Traced, dtype: Any, *, copy: bool = True, device: Any = None) -> Any:
        """x itself if it is of that dtype: hardly ever does anybody write to the copy."""
        if x.dtype != dtype:
            return note(np.astype, x, dtype)
        x.shared = x.shared or copy
        return x


class _Tracing(NumpyBackend):
    """NumPy's backend, for stand-ins."""

    def __init__(self) -> None:
        self.xp = _Namespace()

    @classmethod
    def owns(cls, kind: type) -> bool:
        return kind is Traced

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        return self.xp.asarray(x, dtype=None if dtype is None else self.dtype(dtype))

    def to_numpy(self, x: Traced) -> np.ndarray:
        return x.__array__()

    def tiers(self, family: str, name: str) -> list[Callable[..., Any]]:
        """NumPy's kernels; the one that serves the arguments is noted as one call."""
        return [functools.partial(note, kernel) for kernel in super().tiers(family, name)]


_BACKEND = _Tracing()
registry.adopt(Traced, _BACKEND)
