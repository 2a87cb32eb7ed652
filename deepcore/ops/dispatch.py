"""How an op finds its kernel.

An op is a reference function written in the array API standard. `backends/<library>/<family>.py` may
hold a native kernel of the same name, which is looked up by name when an array type is first met and
may answer NotImplemented (a dtype, a layout), whereupon the next one is tried, at last the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import backend_of_type

OPS: dict[str, Any] = {}  # every op by name: the tests compare each native kernel with its reference


class _KernelsOfType(dict[type, tuple[Callable[..., Any], ...]]):
    """Array type -> the kernels of one op, its reference last, looked up when the type is first met."""

    def __init__(self, reference: Callable[..., Any], family: str):
        self.reference, self.family = reference, family

    def __missing__(self, kind: type) -> tuple[Callable[..., Any], ...]:
        backend = backend_of_type(kind)
        native = backend.tiers(self.family, self.reference.__name__)
        self[kind] = kernels = (*native, backend.reference(self.reference))
        return kernels


def op(reference: Callable[..., Any]) -> Any:
    """Make a reference function an op: dispatch on the type of the first argument (0.15 us)."""
    family = reference.__module__.rpartition(".")[2]
    kernels_of_type = _KernelsOfType(reference, family)

    @functools.wraps(reference)
    def dispatch(*arguments: Any, **options: Any) -> Any:
        for kernel in kernels_of_type[type(arguments[0])]:
            Y = kernel(*arguments, **options)
            if Y is not NotImplemented:
                return Y
        return NotImplemented  # by a reference, for kernels to build on

    dispatch.reference = reference  # type: ignore[attr-defined]
    OPS[f"{family}.{reference.__name__}"] = dispatch
    return dispatch
