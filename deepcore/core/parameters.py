"""The weights of a whole net: their paths, their ties, and how they change together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, combinations
from typing import Any

from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.record import Store, commit
from deepcore.core.tree import Tree
from deepcore.errors import ShapeError, StateError


class Parameter:
    """One weight array, with every place where it stands: several, if layers share it."""

    __slots__ = ("path", "places", "trainable")

    def __init__(self, path: str, trainable: bool = True):
        self.path = path  # of its first place, such as "layers.0.W"
        self.places: list[tuple[Layer, str]] = []
        self.trainable = trainable  # whether none of its places is frozen

    @property
    def value(self) -> Any:
        """The array."""
        layer, name = self.places[0]
        return layer.weight[name]

    def unheld(self) -> bool:
        """Whether nothing but its layers holds the array, nor anything like a view: it may be overwritten."""
        layer, name = self.places[0]
        times = 1  # how many dicts hold it: two layers may have one and the same
        if len(self.places) > 1:
            times = len({(id(layer.weight), name) for layer, name in self.places})
        return backend_of(layer.weight[name]).unheld(layer.weight, name, times)

    def gradient(self) -> Any:
        """The sum of the gradients that its places got in the last pass, or None."""
        layer, name = self.places[0]
        total = layer.weight_update.get(name)
        if len(self.places) == 1:  # nearly always
            return total
        for layer, name in self.places[1:]:
            dW = layer.weight_update.get(name)
            total = dW if total is None else total if dW is None else total + dW
        return total


def walk(root: Function) -> list[tuple[str, Function, bool]]:
    """Every Function at or below `root`: its path, itself, and whether neither it nor one above is frozen.

    A Function that stands in several places comes once for each.
    """
    return root._tree().places


def functions(root: Function) -> list[Function]:
    """Every Function at or below `root`, once."""
    return root._tree().nodes


def find_parameters(root: Function) -> dict[str, Parameter]:
    """Path -> Parameter, for every weight at or below `root`; a tied weight has its first path only.

    Raises StateError for two weights that are different views of one memory: no update can keep them tied.
    """
    return _parameters_of(root._tree())


def _parameters_of(tree: Tree) -> dict[str, Parameter]:
    tables = [layer.weight for layer in tree.layers]
    pattern: list[Any] = [*chain(*tables)]  # their names
    weights = [*chain(*map(dict.values, tables))]
    ids = [*map(id, weights)]  # sound, since the layers hold the arrays meanwhile
    if len({*ids}) < len(ids):
        first: dict[int, int] = {}
        pattern += [first.setdefault(one, len(first)) for one in ids]  # which weights are the same array
    if tree.parameters is None or tree.parameters[0] != pattern:
        tree.parameters = pattern, _find_parameters(tree.places)
    found = tree.parameters[1]
    if weights:
        view_of = backend_of(weights[0]).view_of
        for W in weights:
            if getattr(W, view_of, None) is not None:
                _refuse_views(found)
                break
    return found


def _find_parameters(places: list[tuple[str, Any, bool]]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    of_array: dict[int, Parameter] = {}
    visited = set()
    for path, f, trainable in places:
        for name, W in f._weights.items():
            parameter = of_array.get(id(W))
            if parameter is None:
                full = f"{path}.{name}" if path else name
                if full in found:
                    raise StateError(f"two weights have the path {full}; give one of them another name")
                found[full] = of_array[id(W)] = parameter = Parameter(full, trainable)
            elif not trainable:
                parameter.trainable = False
            if f not in visited:
                parameter.places.append((f, name))
        visited.add(f)
    return found


def _refuse_views(parameters: dict[str, Parameter]) -> None:
    """Raise StateError if a weight overlaps another weight in memory, as W and W.T do."""
    neighbours: dict[int, list[Parameter]] = {}  # by the id of what owns the memory, which they hold
    for parameter in parameters.values():
        owner = backend_of(parameter.value).memory_owner(parameter.value)
        neighbours.setdefault(id(owner), []).append(parameter)
    for group in neighbours.values():
        for a, b in combinations(group, 2):
            if backend_of(a.value).share_memory(a.value, b.value):
                raise StateError(
                    f"weights {a.path} and {b.path} are two views of one memory (a transposed tie?); "
                    "the first update would part them. Share the very same array, or write a Layer that "
                    "transposes the shared weight in its forward"
                )


def find_buffers(root: Function) -> dict[str, tuple[Function, str]]:
    """Path -> (Function, name) for every buffer, such as running statistics, at or below `root`."""
    found: dict[str, tuple[Function, str]] = {}
    visited = set()
    for path, f, _ in walk(root):
        if f.buffer and f not in visited:
            visited.add(f)
            for name in f.buffer:
                found[f"{path}.{name}" if path else name] = (f, name)
    return found


class Changes:
    """New values for weights, buffers and other dictionaries, which all become current at once."""

    def __init__(self, stores: Iterable[Store] = ()) -> None:
        self.stores = [*stores]  # (table, name, value): table[name] becomes value
        self.later: list[Callable[[], None]] = []  # what `commit` calls first: each overwrites some arrays

    def set(self, table: dict[str, Any], new: dict[str, Any]) -> None:
        """table.update(new), when the changes are committed."""
        self.stores += [(table, name, value) for name, value in new.items()]

    def set_parameter(self, parameter: Parameter, value: Any) -> None:
        """A new array in every place where a weight stands. Raises StateError for a mere stand-in."""
        for layer, name in parameter.places:
            table = layer.weight
            if type(value) is not type(table[name]):
                value = _an_array(parameter.path, table[name], value)
            self.stores.append((table, name, value))

    def commit(self) -> None:
        """Make all changes current, in a single step."""
        commit(self.stores, self.later)


def new_weights(
    root: Function, rule: Callable[..., Any], lr: float, scale: Any = None, overwrites: bool = False
) -> Changes:
    """rule(parameter, W, dW) -> new array, for each trainable weight that the last pass reached.

    scale: a factor for all gradients, None for 1. A layer that overrides `_update_weights` uses that
    instead of the rule, with the learning rate lr.
    overwrites: whether the rule takes `later`, where it may put a call that overwrites W, and return W. It is
    offered for large weights that nobody else holds, which spares the memory of a new array.
    Raises StateError, before any rule has run, if there is no gradient at all, ShapeError if one has not
    its weight's shape.
    """
    tree = root._tree()
    parameters = _parameters_of(tree)
    for layer in tree.layers:
        if not layer.weight_update.keys() <= layer.weight.keys():
            raise _strangers(layer)
    changes = Changes()
    own: dict[Layer, dict[str, tuple[Parameter, Any]]] = {}
    reached = False
    for parameter in parameters.values():
        dW = parameter.gradient()
        if dW is None:
            continue
        reached = True
        if not parameter.trainable:
            continue
        layer, name = parameter.places[0]
        unheld = overwrites and parameter.unheld()  # asked before a variable here holds the array
        W = layer.weight[name]
        if dW.shape != W.shape or dW.dtype is not W.dtype:
            dW = _fit(parameter, dW)
        if scale is not None:
            dW = dW * scale
        if type(layer)._update_weights is not Layer._update_weights:
            own.setdefault(layer, {})[name] = parameter, dW
        elif unheld:
            changes.set_parameter(parameter, rule(parameter, W, dW, later=changes.later))
        else:
            changes.set_parameter(parameter, rule(parameter, W, dW))
    if parameters and not reached:
        raise StateError(
            "there are no gradients to update the weights with; call out = net(X), net.loss(out, y) "
            "and net.backward() first"
        )
    for layer, moved in own.items():
        for name, W in _by_own_rule(layer, {name: dW for name, (_, dW) in moved.items()}, lr).items():
            if name in moved:
                changes.set_parameter(moved[name][0], W)
            else:
                changes.set(layer.weight, {name: W})
    return changes


def _an_array(path: str, W: Any, value: Any) -> Any:
    """The new value of W as an array, which of an array without axes NumPy's arithmetic gives a scalar.

    Raises StateError for what only stands for an array, while another program traces this one.
    """
    if is_array(value):
        value = array_namespace(value).asarray(value)
    if not isinstance(value, type(W)) and not isinstance(W, type(value)):
        raise StateError(
            f"{path}: the update gave no array but a stand-in, as inside jax.jit or jax.grad, which would "
            "stay in the net; compile the whole step with net.compile(optimizer)"
        )
    return value


def _strangers(layer: Layer) -> StateError:
    """The error for a gradient that no weight has the name of: it would be lost in silence."""
    strangers = sorted(layer.weight_update.keys() - layer.weight.keys())
    return StateError(
        f"{layer._who()}: weight_update has {strangers}, weight has {list(layer.weight)}; "
        "backward must give each gradient its weight's name"
    )


def _fit(parameter: Parameter, dW: Any) -> Any:
    """A gradient in the dtype of its weight. Raises ShapeError if it has another shape."""
    W = parameter.value
    if tuple(dW.shape) != tuple(W.shape):
        raise ShapeError(
            f"{parameter.path}: the gradient must have the weight's shape {tuple(W.shape)}, "
            f"got {tuple(dW.shape)}; the layer's backward must sum it over the batch"
        )
    return dW if dW.dtype == W.dtype else array_namespace(dW).astype(dW, W.dtype)


def _by_own_rule(layer: Layer, gradients: dict[str, Any], lr: float) -> dict[str, Any]:
    """The weights as the layer's own _update_weights leaves them; it works on copies."""
    live = layer.weight, layer.weight_update
    layer.weight = {name: array_namespace(W).asarray(W, copy=True) for name, W in live[0].items()}
    layer.weight_update = live[1] | gradients
    try:
        layer._update_weights(lr)
        return layer.weight
    finally:
        layer.weight, layer.weight_update = live
