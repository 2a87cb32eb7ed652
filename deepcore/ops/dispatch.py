"""How an op finds its kernel.

An op is a reference function written in the array API standard. `backends/<library>/<family>.py` may
hold a native kernel of the same name, which is looked up by name when an array type is first met and
may answer NotImplemented (a dtype, a layout), whereupon the reference runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from deepcore.backends.registry import backend_of_type

OPS: dict[str, Any] = {}  # every op by name: the tests compare each native kernel with its reference


class _KernelOfType(dict[type, Callable[..., Any]]):
    """Array type -> the kernel of one op, looked up when the type is first met."""

    def __init__(self, reference: Callable[..., Any], family: str):
        self.reference, self.family = reference, family

    def __missing__(self, kind: type) -> Callable[..., Any]:
        native = backend_of_type(kind).kernel(self.family, self.reference.__name__)
        self[kind] = kernel = native or self.reference
        return kernel


def op(reference: Callable[..., Any]) -> Any:
    """Make a reference function an op: dispatch on the type of the first argument (0.15 us)."""
    family = reference.__module__.rpartition(".")[2]
    kernel_of_type = _KernelOfType(reference, family)

    @functools.wraps(reference)
    def dispatch(X: Any, *rest: Any, **options: Any) -> Any:
        Y = kernel_of_type[type(X)](X, *rest, **options)
        return reference(X, *rest, **options) if Y is NotImplemented else Y

    dispatch.reference = reference  # type: ignore[attr-defined]
    OPS[f"{family}.{reference.__name__}"] = dispatch
    return dispatch
