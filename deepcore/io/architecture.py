"""A net as JSON, and back: each Function is the name of its class and the arguments of its constructor.

    {"class": "Net", "config": {"layers": [{"class": "Linear", "config": {"in_dim": 2, ...}}], "loss": null}}

Nothing that a description says is imported or run: names are looked up among deepcore's own classes and
those that the user has registered. Weights are no part of it; an array that is an argument (the class
weights of a loss) is the path of a weight or buffer, which is saved beside it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from deepcore import init as initialisers
from deepcore.backends.registry import is_array
from deepcore.backends.select import default_dtype
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.parameters import find_buffers, find_parameters, walk
from deepcore.core.random import Generator, drawing_from
from deepcore.errors import ArgumentError, CheckpointError, DTypeError, UnsupportedError

_Class = TypeVar("_Class", bound=type[Function])

# ---- the classes that a description may name

_HOMES = ("deepcore.core.containers", "deepcore.core.net", "deepcore.activations", "deepcore.losses")
_registered: dict[str, type[Function]] = {}


def register(cls: _Class) -> _Class:
    """Let files name this class: a decorator, for every class of yours that `load` shall build.

    Registering a newer version of a class (a notebook's cell that runs again) replaces the older one.
    Raises DTypeError for what is no class of Functions, ArgumentError if another class has the name.

    >>> @register
    ... class CubeOfDocs(Function):
    ...     def forward(self, X):
    ...         return X * X * X
    >>> build(describe(CubeOfDocs()))
    CubeOfDocs()
    """
    if not (isinstance(cls, type) and issubclass(cls, Function)):
        raise DTypeError(f"register: wanted a class of Functions, got {cls!r}")
    name = cls.__name__
    taken = _registered.get(name)
    if taken is None and not _is_own(cls):
        taken = _own_classes().get(name)
    if taken is not None and not _same_class(cls, taken):
        raise ArgumentError(
            f"register: {_full_name(taken)} has that name; give {_full_name(cls)} another one"
        )
    _registered[name] = cls
    return cls


def registry() -> dict[str, type[Function]]:
    """Name -> class, for every class that a file may name: deepcore's own and the registered ones."""
    return _own_classes() | _registered


def _own_classes() -> dict[str, type[Function]]:
    import pkgutil

    layers = importlib.import_module("deepcore.layers")
    names = [*_HOMES, *(module.name for module in pkgutil.iter_modules(layers.__path__, "deepcore.layers."))]
    classes = [
        cls for name in names for cls in vars(importlib.import_module(name)).values() if _is_function(cls)
    ]
    return {cls.__name__: cls for cls in classes if not cls.__name__.startswith("_") and _is_own(cls)}


def row_of(table: Mapping[str, Any], f: Function) -> Any:
    """The entry of f's class, or of the nearest base of it, in a table by names of deepcore's own classes.

    None for a class that is not in it, and for one that a user wrote, whose formula may be another.
    """
    if not _is_own(type(f)):
        return None
    return next((table[cls.__name__] for cls in type(f).__mro__ if cls.__name__ in table), None)


def _is_function(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, Function)


def _is_own(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "deepcore"


def _same_class(a: type, b: type) -> bool:
    return _full_name(a) == _full_name(b)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# ---- describing


def describe(function: Function) -> dict[str, Any]:
    """The architecture of a Function and of all inside it, in values that JSON has.

    It keeps the arguments of the constructors, which Functions stand in several places, which weights
    are shared, and what is frozen or in evaluation mode. An `init=` that is a function of the user's
    own is left out: the weights are there already.

    Raises UnsupportedError, with the remedy, for an argument that can't be described or isn't kept.

    >>> from deepcore.core.containers import Sequential
    >>> describe(Sequential())
    {'class': 'Sequential', 'config': {'functions': []}}
    """
    description = _Describer(function).function(function)
    first_paths = _first_paths(function)
    facts = {
        "frozen": [path for path, f in first_paths.items() if not f.trainable],
        "evaluation": [path for path, f in first_paths.items() if not f._training],
        "ties": _ties(function, first_paths),
    }
    return description | {fact: paths for fact, paths in facts.items() if paths}


def _first_paths(root: Function) -> dict[str, Function]:
    """Path -> Function, for every Function at or below `root`, by the first of its paths."""
    path_of: dict[Function, str] = {}
    for path, f, _ in walk(root):
        path_of.setdefault(f, path)
    return {path: f for f, path in path_of.items()}


def _ties(root: Function, first_paths: dict[str, Function]) -> list[list[str]]:
    """The paths of each weight that several layers share."""
    path_of = {f: path for path, f in first_paths.items()}
    shared = [p.places for p in find_parameters(root).values() if len(p.places) > 1]
    return [[_join(path_of[layer], name) for layer, name in places] for places in shared]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


class _Describer:
    """Turns Functions and their arguments into values that JSON has."""

    def __init__(self, root: Function):
        self.classes = registry()
        self.done: dict[Function, int] = {}  # numbered as they are completed
        arrays = {path: parameter.value for path, parameter in find_parameters(root).items()}
        arrays |= {path: f.buffer[name] for path, (f, name) in find_buffers(root).items()}
        self.path_of = {
            id(x): path for path, x in arrays.items()
        }  # sound: the net holds the arrays meanwhile

    def function(self, f: Function) -> dict[str, Any]:
        if f in self.done:
            return {"repeat": self.done[f]}
        cls = type(f)
        namesake = self.classes.get(cls.__name__, cls)
        if not _same_class(cls, namesake):
            raise UnsupportedError(
                f"{_full_name(cls)} would come back as {_full_name(namesake)}; give it another name"
            )
        config = {
            name: self.value(value, f"{cls.__name__}({name}=)")
            for name, value in _arguments(f).items()
            if name != "init" or not callable(value) or type(value) in _INITIALISERS.values()
        }
        self.done[f] = len(self.done)
        return {"class": cls.__name__, "config": config}

    def value(self, x: Any, who: str) -> Any:
        if isinstance(x, np.generic):
            x = x.item()
        if x is None or isinstance(x, bool | int | str):
            return x
        if isinstance(x, float):
            return x if math.isfinite(x) else {"float": str(x)}
        if isinstance(x, Function):
            return self.function(x)
        if isinstance(x, list):
            return [self.value(item, who) for item in x]
        if isinstance(x, tuple):
            return {"tuple": [self.value(item, who) for item in x]}
        if isinstance(x, dict) and all(isinstance(key, str) for key in x):
            return {"dict": {key: self.value(item, who) for key, item in x.items()}}
        return self.special(x, who)

    def special(self, x: Any, who: str) -> dict[str, Any]:
        if (path := self.path_of.get(id(x))) is not None:
            return {"array": path}
        if isinstance(x, np.dtype):
            return {"dtype": x.name}
        if type(x) in _INITIALISERS.values():
            return {"init": type(x).__name__, "config": self.value(vars(x), who)["dict"]}
        if is_array(x):
            remedy = "keep the array in self.buffer, which is saved with the weights"
        else:
            remedy = "let config() return numbers, strings, lists, tuples, dicts and Functions"
        raise UnsupportedError(f"{who}: {type(x).__name__} can't be described in a file; {remedy}")


_INITIALISERS: dict[str, type] = {
    cls.__name__: cls
    for cls in vars(initialisers).values()
    if isinstance(cls, type) and issubclass(cls, initialisers._Settings)
}


def _arguments(f: Function) -> dict[str, Any]:
    """The constructor's arguments by name; those of *functions are a list, under that name."""
    config, found, missing = f._config(), {}, []
    parameters = _signature(type(f)).parameters
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            found[name] = list(getattr(f, name, None) or getattr(f, "functions", ()))
        elif parameter.kind is parameter.VAR_KEYWORD:
            found |= {key: value for key, value in config.items() if key not in parameters}
        elif name in config or hasattr(f, name):  # not in config: of a subclass that inherits Net's
            found[name] = config[name] if name in config else getattr(f, name)
        elif parameter.default is parameter.empty:
            missing.append(name)
    if missing:
        raise UnsupportedError(
            f"{type(f).__name__}: its constructor takes {', '.join(missing)} and doesn't keep it; "
            f"write self.{missing[0]} = {missing[0]} there, or a config() that returns all arguments"
        )
    return found


@functools.cache
def _signature(cls: type) -> inspect.Signature:
    """The arguments of the constructor, without self."""
    return inspect.Signature(list(inspect.signature(cls.__init__).parameters.values())[1:])


# ---- building


def build(
    description: Any, arrays: Mapping[str, np.ndarray] | None = None, max_size: int | None = None
) -> Function:
    """The Function that a description describes, with weights that are still to be loaded.

    arrays: path -> array, for the arguments that are arrays. max_size: how many numbers the file holds;
    a layer that wants more of them is refused before it is made. No random number is used up.

    Raises CheckpointError for a class that is not known, and for every other fault of the description.

    >>> from deepcore.core.containers import Sequential
    >>> build(describe(Sequential(Sequential())))
    Sequential(Sequential())
    """
    facts = dict(description) if isinstance(description, dict) else {"": description}
    node = {key: facts.pop(key) for key in ("class", "config") if key in facts}
    frozen, evaluation, ties = (facts.pop(fact, []) for fact in ("frozen", "evaluation", "ties"))
    if facts or not isinstance(ties, list):
        raise CheckpointError("the architecture has unknown parts")
    try:
        with drawing_from(Generator(0)):
            root = _Builder(arrays or {}, max_size).value(node)
    except RecursionError:
        raise CheckpointError("the architecture is nested too deeply") from None
    first_paths = _first_paths(root)
    frozen, evaluation = (set(_known_paths(paths, first_paths)) for paths in (frozen, evaluation))
    for path, f in first_paths.items():
        if f.trainable == (path in frozen):
            f.trainable = path not in frozen
        if f._training == (path in evaluation):
            f.training = path not in evaluation
    _tie_weights(ties, first_paths)
    return root


class _Builder:
    """Turns the values of a description into Functions and their arguments."""

    def __init__(self, arrays: Mapping[str, np.ndarray], max_size: int | None):
        self.classes = registry()
        self.arrays = arrays
        self.max_size = max_size
        self.claimed = 0
        self.done: list[Function] = []
        self.places: dict[Function, int] = {}

    def value(self, x: Any) -> Any:
        match x:
            case None | bool() | int() | float() | str():
                return x
            case list():
                return [self.value(item) for item in x]
            case {"class": name, "config": dict(config), **rest} if not rest:
                return self.function(name, config)
            case {"repeat": int(number), **rest} if not rest and 0 <= number < len(self.done):
                return self.done[number]
            case {"tuple": list(items), **rest} if not rest:
                return tuple(self.value(item) for item in items)
            case {"dict": dict(items), **rest} if not rest:
                return {key: self.value(item) for key, item in items.items()}
            case _:
                return self.special(x)

    def special(self, x: Any) -> Any:
        match x:
            case {"float": "inf" | "-inf" | "nan" as number, **rest} if not rest:
                return float(number)
            case {"array": str(path), **rest} if not rest and path in self.arrays:
                return self.arrays[path]
            case {"dtype": str(name), **rest} if not rest and name in _DTYPES:
                return np.dtype(name)
            case {"init": str(name), "config": dict(config), **rest} if not rest and name in _INITIALISERS:
                return _make(_INITIALISERS[name], {key: self.value(item) for key, item in config.items()})
        raise CheckpointError(f"the architecture has a part that makes no sense: {x!r:.80}")

    def function(self, name: Any, config: dict[str, Any]) -> Function:
        cls = self.classes.get(name) if isinstance(name, str) else None
        if cls is None:
            raise CheckpointError(
                f"there is no class {name!r:.80}; if it is one of yours, import it and put "
                "@deepcore.register before it, then load again"
            )
        arguments = {key: self.value(item) for key, item in config.items()}
        f = self.layer(cls, arguments) if issubclass(cls, Layer) and _is_own(cls) else _make(cls, arguments)
        if self.count_places(f) > _MOST:
            raise CheckpointError("the architecture repeats its parts without end")
        self.done.append(f)
        return f

    def count_places(self, f: Function) -> int:
        """How many paths lead to f and its parts: 2**50, if each of 50 parts holds another one twice."""
        if f not in self.places:
            self.places[f] = 1 + sum(self.count_places(child) for _, child in f._children())
        return self.places[f]

    def layer(self, cls: type[Layer], arguments: dict[str, Any]) -> Function:
        """A layer of deepcore's own: it draws and allocates nothing that will be loaded anyway."""
        init = _signature(cls).parameters.get("init")
        if init is None:  # a norm: vectors, as long as the largest of its arguments
            self.claimed += max(map(_size, arguments.values()), default=0)
            self.check_size(self.claimed - _MOST)
            return _make(cls, arguments)
        layer = _make(cls, arguments | {"init": self.blank})
        layer.init = arguments.get("init", init.default)
        return layer

    def blank(self, shape: tuple[int, ...], fan_in: int, fan_out: int) -> np.ndarray:
        """An initialiser: zeros, which take no memory until they are touched."""
        self.check_size(math.prod(shape))
        return np.zeros(shape, default_dtype() if default_dtype() in _DTYPES else "float32")

    def check_size(self, size: int) -> None:
        """Raise CheckpointError if the file can't hold so many numbers."""
        if self.max_size is not None and size > self.max_size:
            raise CheckpointError(f"a layer wants {size:,} numbers, and the file has {self.max_size:,}")


_MOST = 2**20  # paths of a net; also, numbers among the arguments of norms that are no sizes
_DTYPES = frozenset(f"{kind}{bits}" for kind in ("float", "int", "uint") for bits in (16, 32, 64)) | {
    "bool",
    "int8",
    "uint8",
}


def _size(argument: Any) -> int:
    """How many numbers an array has that takes this argument for its shape; 2**63 is enough to know."""
    size = 1
    for n in argument if isinstance(argument, list | tuple) else [argument]:
        size = min(size * abs(n), 2**63) if isinstance(n, int) else 0
    return size


def _make(cls: type, arguments: dict[str, Any]) -> Any:
    """cls(**arguments), where a *functions among them is a list. Raises CheckpointError if that fails."""
    try:
        bound = _bind(_signature(cls), arguments)
        return cls(*bound.args, **bound.kwargs)
    except (CheckpointError, RecursionError):
        raise
    except Exception as error:
        raise CheckpointError(f"can't make {cls.__name__} from {arguments!r:.200}: {error!s:.300}") from error


def _bind(signature: inspect.Signature, arguments: dict[str, Any]) -> inspect.BoundArguments:
    """The arguments in their places. Raises TypeError for one that the signature doesn't have."""
    other = {name: value for name, value in arguments.items() if name not in signature.parameters}
    bound: OrderedDict[str, Any] = OrderedDict()
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound[name], other = other, {}
        elif name in arguments:
            several = parameter.kind is parameter.VAR_POSITIONAL
            bound[name] = tuple(arguments[name]) if several else arguments[name]
    if other:
        raise TypeError(f"it takes no argument {', '.join(other)}")
    return inspect.BoundArguments(signature, bound)


def _known_paths(paths: Any, known: Mapping[str, Any]) -> list[str]:
    """The paths themselves, if they are a list of known ones."""
    if not isinstance(paths, list):
        raise CheckpointError(f"the architecture must have a list of paths, got {paths!r:.80}")
    for path in paths:
        if not isinstance(path, str) or path not in known:
            raise CheckpointError(f"the architecture names {path!r:.80}, which it does not have")
    return paths


def _tie_weights(ties: list[Any], first_paths: dict[str, Function]) -> None:
    """Let each group of paths share one array."""
    place_of = {
        _join(path, name): (f._weights, name) for path, f in first_paths.items() for name in f._weights
    }
    for group in ties:
        places = [place_of[path] for path in _known_paths(group, place_of)]
        arrays = [weight[name] for weight, name in places]
        if len({tuple(W.shape) for W in arrays}) != 1:
            raise CheckpointError(f"the architecture ties weights of different shapes: {group!r:.80}")
        for weight, name in places:
            weight[name] = arrays[0]
