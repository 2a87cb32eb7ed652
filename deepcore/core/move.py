"""How a net moves from one array library or device to another."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import backend_of
from deepcore.backends.select import selected_backend, to_backend
from deepcore.core.function import Function, first_weight
from deepcore.core.parameters import Changes, functions
from deepcore.core.record import LastCall


def move(root: Function, backend: str | None, device: Any = None) -> None:
    """Move every weight and buffer at or below `root`, all at once. Ties stay; gradients and records go.

    backend: None for the one where the first weight is.
    Raises BackendUnavailable with the reason and the remedy; then nothing has moved.
    """
    if backend is None:
        W = first_weight(root)
        backend = (selected_backend() if W is None else backend_of(W)).name
    moved: dict[int, Any] = {}  # by id(array): sound, since the layers hold the arrays meanwhile
    changes = Changes()
    for f in functions(root):
        for table in (f._weights, f.buffer):
            if table:
                changes.set(table, {name: _move_once(W, backend, device, moved) for name, W in table.items()})
        changes.set(vars(f), {"_last": LastCall()} | ({"weight_update": {}} if f._weights else {}))
    changes.commit()


def _move_once(x: Any, backend: str, device: Any, moved: dict[int, Any]) -> Any:
    """The array's copy over there: one for each array, so that a shared one stays shared."""
    if id(x) not in moved:
        moved[id(x)] = to_backend(x, backend, device)
    return moved[id(x)]
