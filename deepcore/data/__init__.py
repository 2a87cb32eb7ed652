"""Data: sets by name or path, samples that are read when they are needed, batches made ahead of time.

deepcore.data.sets reads whole sets (the ring, digits, .npz files, folders of images), deepcore.data.prepare
splits and scales them. What is too large for memory: `ImageFolder`, or `Rows` of your own, or memory maps in
place of arrays; a generator of batches in `Prefetch`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepcore.data.folder import ImageFolder
    from deepcore.data.prefetch import Prefetch
    from deepcore.data.rows import Rows

__all__ = ["ImageFolder", "Prefetch", "Rows"]

_HOMES = {
    "ImageFolder": "deepcore.data.folder",
    "Prefetch": "deepcore.data.prefetch",
    "Rows": "deepcore.data.rows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
