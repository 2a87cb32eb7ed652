"""The weights and buffers of a net by path, in a dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import dtype_name, is_floating, put, to_numpy
from deepcore.core.function import Function
from deepcore.core.parameters import Changes, find_buffers, find_parameters
from deepcore.errors import CheckpointError, StateError


class _Slot(NamedTuple):
    """An array of a net, and the tables that hold it: several, if layers share it."""

    value: Any
    places: list[tuple[dict[str, Any], str]]


def _slots(net: Function) -> dict[str, _Slot]:
    """Path -> slot: the weights, then the buffers."""
    found = {
        path: _Slot(parameter.value, [(layer.weight, name) for layer, name in parameter.places])
        for path, parameter in find_parameters(net).items()
    }
    for path, (f, name) in find_buffers(net).items():
        if path in found:
            raise StateError(f"{path} is both a weight and a buffer; give one of them another name")
        found[path] = _Slot(f.buffer[name], [(f.buffer, name)])
    return found


def state_arrays(net: Function) -> dict[str, Any]:
    """Path -> each weight, then each buffer: the arrays themselves."""
    return {path: slot.value for path, slot in _slots(net).items()}


def state_dict(net: Function) -> dict[str, Any]:
    """Path -> a copy of each weight, then of each buffer: {"layers.0.W": ...}.

    The copies stay on the net's own library and device; training on changes none of them. A weight that
    layers share comes once, under its first path.

    >>> from deepcore.layers.linear import Linear
    >>> state_dict(Linear(2, 1, init="ones", bias=False))
    {'W': array([[1.],
           [1.]], dtype=float32)}
    """
    return {path: _copy(x) for path, x in state_arrays(net).items()}


def _copy(x: Any) -> Any:
    return array_namespace(x).asarray(x, copy=True)


def load_state_dict(
    net: Function, state: Mapping[str, Any], strict: bool = True, *, allow_nan: bool = False
) -> None:
    """Replace the weights and buffers of a net by copies of those in a dict, all of them or none.

    state: path -> array of any library, which is put where the array that it replaces is.
    strict: whether the paths must be those of the net; otherwise missing and extra ones are passed over.
    allow_nan: whether arrays may hold NaN.

    Raises one CheckpointError that lists all faults: missing, extra and mis-shaped arrays, those of another
    dtype (nothing is cast without being asked), and NaN.

    >>> from deepcore.layers.linear import Linear
    >>> net = Linear(2, 1, bias=False)
    >>> load_state_dict(net, {"W": np.ones((2, 1), dtype="float32")})
    >>> net.weight["W"]
    array([[1.],
           [1.]], dtype=float32)
    """
    slots = _slots(net)
    faults = _faults(slots, state, strict, same_dtype=True, allow_nan=allow_nan)
    if faults:
        raise CheckpointError("\n  ".join(["load_state_dict: the state does not fit the net", *faults]))
    _replace(
        slots, {path: _copy_beside(state[path], slot.value) for path, slot in slots.items() if path in state}
    )


def _faults(
    slots: dict[str, _Slot], state: Mapping[str, Any], strict: bool, same_dtype: bool, allow_nan: bool
) -> list[str]:
    """All reasons why these arrays can't take the place of a net's own; one line each."""
    faults = []
    if strict:
        faults += [f"missing: {path}" for path in slots if path not in state]
        faults += [f"extra: {path}" for path in state if path not in slots]
    for path, slot in slots.items():
        if path in state:
            fault = _misfit(state[path], slot.value, same_dtype)
            if fault is None and not allow_nan and _has_nan(state[path]):
                fault = "holds NaN; allow_nan=True accepts it"
            faults += [] if fault is None else [f"{path}: {fault}"]
    return faults


def _misfit(x: Any, W: Any, same_dtype: bool) -> str | None:
    """Why x can't take the place of W, or None."""
    if not is_array(x):
        return f"wanted an array, got {type(x).__name__}"
    if tuple(x.shape) != tuple(W.shape):
        return f"wanted shape {tuple(W.shape)}, got {tuple(x.shape)}"
    wanted, got = dtype_name(W), dtype_name(x)
    if same_dtype and wanted != got:
        return f'wanted {wanted}, got {got}; cast it to {wanted}, or make the net with dtype="{got}"'
    if is_floating(W) != is_floating(x):
        return f"wanted {wanted}, got {got}"
    return None


def _has_nan(x: Any) -> bool:
    xp = array_namespace(x)
    return is_floating(x) and bool(xp.any(xp.isnan(x)))


def _copy_beside(x: Any, W: Any) -> Any:
    """A copy of x on the library and the device that W is on."""
    there = backend_of(W)
    if there.name != "numpy" and backend_of(x) is there and there.device(x) == there.device(W):
        return _copy(there.asarray(x))  # asarray: torch's without their record of gradients
    host = to_numpy(x)
    host = np.array(host, dtype=host.dtype.newbyteorder("="), order="C")
    return put(host, there, device=there.device(W))


def _replace(slots: dict[str, _Slot], arrays: Mapping[str, Any]) -> None:
    """Put the arrays into their places, all at once."""
    changes = Changes()
    for path, x in arrays.items():
        for table, name in slots[path].places:
            changes.set(table, {name: x})
    changes.commit()
