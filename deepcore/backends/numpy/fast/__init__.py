"""The second tier of NumPy's kernels: compiled by numba, where that is installed (`deepcore[fast]`).

A module here holds kernels of one family, under the names of their references in `ops`; each may answer
NotImplemented, whereupon NumPy's own kernel runs. DEEPCORE_NUMBA=0 turns the tier off.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from deepcore.backends.base import import_optional
from deepcore.errors import BackendFallbackWarning

_OLDEST = (0, 62)  # of numba; the LLVM of older ones has no `maximum` in lanes, and ends the process


@functools.cache
def usable() -> bool:
    """Whether this tier runs: numba is installed, and not turned off when the first kernel was looked for."""
    return os.environ.get("DEEPCORE_NUMBA", "1") != "0" and importlib.util.find_spec("numba") is not None


def kernel(family: str, name: str) -> Callable[..., Any] | None:
    """The compiled kernel of an op, or None. Imports numba with the first family that has kernels here."""
    return getattr(_family(family), name, None) if usable() else None


@functools.cache
def _family(family: str) -> ModuleType | None:
    """The module of a family's kernels. Where numba is there but broken or old, a warning, once, and None."""
    module = f"{__name__}.{family}"
    if importlib.util.find_spec(module) is None or not _numba_works():
        return None
    return import_optional(module)


@functools.cache
def _numba_works() -> bool:
    try:
        numba: Any = import_optional("numba")
        if tuple(map(int, numba.__version__.split(".")[:2])) < _OLDEST:
            raise ImportError(
                f"it is version {numba.__version__}, and kernels need {'.'.join(map(str, _OLDEST))} or later"
            )
    except Exception as error:  # a library that is there but broken may raise anything
        warnings.warn(
            f"numba cannot be used, so NumPy's own kernels run: {type(error).__name__}: {error}; "
            'mend it with: pip install -U "deepcore[fast]", or set DEEPCORE_NUMBA=0',
            BackendFallbackWarning,
            stacklevel=2,
        )
        return False
    return True
