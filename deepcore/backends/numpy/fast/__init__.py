"""The second tier of NumPy's kernels: compiled by numba, where that is installed (`deepcore[fast]`).

A module here holds kernels of one family, under the names of their references in `ops`; each may answer
NotImplemented, whereupon NumPy's own kernel runs. DEEPCORE_NUMBA=0 turns the tier off.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import Any

from deepcore.backends.base import import_optional


@functools.cache
def usable() -> bool:
    """Whether this tier runs: numba is installed, and not turned off when the first kernel was looked for."""
    return os.environ.get("DEEPCORE_NUMBA", "1") != "0" and importlib.util.find_spec("numba") is not None


def kernel(family: str, name: str) -> Callable[..., Any] | None:
    """The compiled kernel of an op, or None."""
    if not usable():
        return None
    return getattr(import_optional(f"{__name__}.{family}"), name, None)
