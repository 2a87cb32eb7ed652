"""How a net moves from one array library or device to another."""

from __future__ import annotations

from typing import Any

from deepcore.backends.select import to_backend
from deepcore.core.function import Function
from deepcore.core.parameters import Changes, functions
from deepcore.core.record import LastCall


def move(root: Function, backend: str, device: Any = None) -> None:
    """Move every weight and buffer at or below `root`, all at once. Ties stay; gradients and records go.

    Raises BackendUnavailable with the reason and the remedy; then nothing has moved.
    """
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
