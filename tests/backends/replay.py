"""An array library that can compile: it notes the operations of one run and does them over again.

It is NumPy underneath and stands in for what a CUDA graph does, on any machine. A run inside `compile` is
noted with its arrays; a call copies its inputs into those arrays, repeats the operations in order, and
returns copies of the results. Before that every other array is filled with rubbish. So whatever was taken
from the first run alone (a number read on the host, a learning rate, a mask, a weight that was replaced
since) gives other numbers than the same calls made one by one; and reading a number while a run is being
noted raises HostRead, as a GPU would have to.
"""

import operator
from types import SimpleNamespace

import numpy as np

from deepcore.backends import registry
from deepcore.backends.base import Backend


class HostRead(RuntimeError):
    """A number was asked for while operations were only being noted."""


class Tape(list):
    """(operation, arguments, keywords, results), in order."""


_tapes = []  # the tape that is running, if any


class ReplayArray:
    """A NumPy array whose every operation is noted."""

    __array_priority__ = 1000
    __hash__ = None

    def __init__(self, x):
        self._x = x

    dtype = property(lambda self: self._x.dtype)
    shape = property(lambda self: self._x.shape)
    ndim = property(lambda self: self._x.ndim)
    size = property(lambda self: self._x.size)
    device = property(lambda self: "cpu")
    T = property(lambda self: run(np.transpose, self))
    mT = property(lambda self: run(np.matrix_transpose, self))  # noqa: N815 - the standard's name

    def __getitem__(self, index):
        return run(operator.getitem, self, index)

    def __setitem__(self, index, value):
        run(operator.setitem, self, index, value)

    def read(self):
        """The numbers, on the host."""
        if _tapes:
            raise HostRead("a number was read inside a compiled step")
        return self._x

    __array__ = lambda self, dtype=None, copy=None: np.array(self.read(), dtype=dtype)
    __bool__ = lambda self: bool(self.read())
    __float__ = lambda self: float(self.read())
    __int__ = lambda self: int(self.read())
    __index__ = lambda self: operator.index(self.read())

    def __array_namespace__(self, api_version=None):
        return registry.get_backend("replay").xp

    def __deepcopy__(self, memo):
        return ReplayArray(self._x.copy())

    def __repr__(self):
        return f"ReplayArray({self.shape}, {self.dtype})"


def _operator(name):
    function = getattr(operator, name)
    setattr(ReplayArray, f"__{name.strip('_')}__", lambda self, *others: run(function, self, *others))


BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "lshift", "rshift"]
for name in [*BINARY, "and_", "or_", "xor"]:
    _operator(name)
    function = getattr(operator, name)
    reflected = f"__r{name.strip('_')}__"
    setattr(ReplayArray, reflected, lambda self, other, f=function: run(f, other, self))
for name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"]:
    _operator(name)


def plain(x):
    """The same with NumPy arrays for ReplayArrays, in lists and tuples too."""
    if isinstance(x, ReplayArray):
        return x._x
    return type(x)(map(plain, x)) if type(x) in (list, tuple) else x


def run(function, *arguments, **keywords):
    """Do one operation, and note it. Results own their memory, so that they can be written again."""
    results = function(*map(plain, arguments), **{name: plain(x) for name, x in keywords.items()})
    several = isinstance(results, tuple)
    arrays = [
        ReplayArray(np.array(r)) if isinstance(r, np.ndarray | np.generic) else r
        for r in (results if several else (results,))
    ]
    if _tapes:
        _tapes[-1].append((function, arguments, keywords, arrays))
    return tuple(arrays) if several else arrays[0]


class Namespace(SimpleNamespace):
    """NumPy's functions, noted."""

    def __getattr__(self, name):
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found) or name == "__array_namespace_info__":
            return found
        return lambda *arguments, **keywords: run(found, *arguments, **keywords)


class ReplayBackend(Backend):
    name = "replay"
    package = "numpy"
    namespace = "numpy"

    def __init__(self):
        self.xp = Namespace()

    @classmethod
    def owns(cls, kind):
        return kind is ReplayArray

    def asarray(self, x, dtype=None, device=None):
        return run(np.array, x, dtype=dtype)

    def to_numpy(self, x):
        return x.read().copy()

    def dtype(self, name):
        return np.dtype(name)

    def compile(self, function):
        programs = {}

        def compiled(*arguments):
            given = leaves(arguments)
            shapes = tuple((x.shape, x.dtype) for x in given)
            if shapes not in programs:
                programs[shapes] = note(function, arguments)
            inputs, tape, results = programs[shapes]
            spoil(tape)
            for own, x in zip(inputs, given, strict=True):
                own._x[...] = x._x
            for operation, operands, keywords, arrays in tape:
                again = operation(*map(plain, operands), **{name: plain(x) for name, x in keywords.items()})
                for array, new in zip(arrays, again if isinstance(again, tuple) else (again,), strict=True):
                    if isinstance(array, ReplayArray):
                        array._x[...] = new
            return tree_map(lambda x: ReplayArray(x._x.copy()), results)

        return compiled


def note(function, arguments):
    """Run the function once on copies: its own inputs, the tape, and the results."""
    own = tree_map(lambda x: ReplayArray(x._x.copy()), arguments)
    tape = Tape()
    _tapes.append(tape)
    try:
        results = function(*own)
    finally:
        _tapes.pop()
    return leaves(own), tape, results


def spoil(tape):
    """Write rubbish over all that the tape will compute."""
    for _, _, _, arrays in tape:
        for array in arrays:
            if isinstance(array, ReplayArray):
                array._x[...] = np.nan if array.dtype.kind == "f" else 1


def tree_map(f, tree):
    """f of each array in nested dicts and tuples."""
    if isinstance(tree, dict):
        return {name: tree_map(f, x) for name, x in tree.items()}
    return tuple(tree_map(f, x) for x in tree) if isinstance(tree, tuple) else f(tree)


def leaves(tree):
    """The arrays, in order."""
    found = []
    tree_map(found.append, tree)
    return found
