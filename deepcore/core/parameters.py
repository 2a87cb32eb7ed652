"""The weights of a whole net: their paths, their ties, and how they change together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import backend_of
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.record import commit
from deepcore.errors import StateError


class Parameter:
    """One weight array, with every place where it stands: several, if layers share it."""

    __slots__ = ("path", "places", "trainable", "value")

    def __init__(self, path: str, value: Any, trainable: bool = True):
        self.path = path  # of its first place, such as "layers.0.W"
        self.value = value
        self.places: list[tuple[Layer, str]] = []
        self.trainable = trainable  # whether none of its places is frozen

    def gradient(self) -> Any:
        """The sum of the gradients that its places got in the last pass, or None."""
        layer, name = self.places[0]
        total = layer.weight_update.get(name)
        for layer, name in self.places[1:]:
            dW = layer.weight_update.get(name)
            total = dW if total is None else total if dW is None else total + dW
        return total


def walk(root: Function, path: str = "", trainable: bool = True) -> list[tuple[str, Function, bool]]:
    """Every Function at or below `root`: its path, itself, and whether nothing above it is frozen.

    A Function that stands in several places comes once for each.
    """
    trainable = trainable and root.trainable
    found = [(path, root, trainable)]
    for name, child in root.children():
        found += walk(child, f"{path}.{name}" if path else name, trainable)
    return found


def functions(root: Function) -> list[Function]:
    """Every Function at or below `root`, once."""
    return list(dict.fromkeys(f for _, f, _ in walk(root)))


def find_parameters(root: Function) -> dict[str, Parameter]:
    """Path -> Parameter, for every weight at or below `root`; a tied weight has its first path only.

    Raises StateError for two weights that are different views of one memory: no update can keep them tied.
    """
    found: dict[str, Parameter] = {}
    of_array: dict[int, Parameter] = {}  # by id(array): sound, since the layers hold the arrays meanwhile
    visited = set()
    for path, f, trainable in walk(root):
        if not f.weight or f in visited:
            continue
        visited.add(f)
        for name, W in f.weight.items():
            parameter = of_array.get(id(W))
            if parameter is None:
                full = f"{path}.{name}" if path else name
                found[full] = of_array[id(W)] = parameter = Parameter(full, W, trainable)
            parameter.places.append((f, name))  # type: ignore[arg-type]
            parameter.trainable = parameter.trainable and trainable
    _refuse_views(list(found.values()))
    return found


def _refuse_views(parameters: list[Parameter]) -> None:
    """Raise StateError if two parameters overlap in memory, as W and W.T do."""
    views = [p for p in parameters if getattr(p.value, "base", None) is not None]  # NumPy's and CuPy's
    for view in views:
        for other in parameters:
            if other is not view and backend_of(view.value).share_memory(view.value, other.value):
                raise StateError(
                    f"weights {other.path} and {view.path} are two views of one memory (a transposed tie?); "
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

    def __init__(self) -> None:
        self.live: list[dict[str, Any]] = []
        self.new: list[dict[str, Any]] = []

    def set(self, live: dict[str, Any], new: dict[str, Any]) -> None:
        """live.update(new), when the changes are committed."""
        self.live.append(live)
        self.new.append(new)

    def set_parameter(self, parameter: Parameter, value: Any) -> None:
        """A new array in every place where a weight stands."""
        for layer, name in parameter.places:
            self.set(layer.weight, {name: value})

    def commit(self) -> None:
        """Make all changes current, in a single step."""
        commit(self.live, self.new)


def new_weights(
    root: Function,
    rule: Callable[[Parameter, Any], Any],
    own_rule: Callable[[Layer], dict[str, Any]] | None = None,
) -> Changes:
    """rule(parameter, gradient) -> new array, for each trainable weight that the last pass reached.

    own_rule(layer) -> new arrays by name, for a layer that overrides `_update_weights`.
    Raises StateError, before any rule has run, if there is no gradient at all.
    """
    parameters = find_parameters(root)
    changes = Changes()
    own: dict[Layer, None] = {}
    reached = False
    for parameter in parameters.values():
        dW = parameter.gradient()
        if dW is None:
            continue
        reached = True
        layer = parameter.places[0][0]
        if not parameter.trainable:
            continue
        if own_rule is not None and type(layer)._update_weights is not Layer._update_weights:
            own[layer] = None
        else:
            changes.set_parameter(parameter, rule(parameter, dW))
    if parameters and not reached:
        raise StateError(
            "there are no gradients to update the weights with; call out = net(X), net.loss(out, y) "
            "and net.backward() first"
        )
    if own_rule is not None:
        for layer in own:
            changes.set(layer.weight, own_rule(layer))
    return changes
