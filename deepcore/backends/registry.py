"""Which backends there are, and which one an array belongs to.

Dispatch is one dictionary look-up on `type(x)` (0.03 us; array_namespace of array-api-compat: 0.9).
A type is classified once, when it is first seen.
"""

from __future__ import annotations

import functools
import importlib
import sys
import threading
from typing import Any

from deepcore.backends.base import Backend
from deepcore.errors import BackendUnavailable, DTypeError, MixedBackendError

# name -> where its class is; a module is imported when its backend is first wanted
_HOMES = {
    "numpy": "deepcore.backends.numpy:NumpyBackend",
    "cupy": "deepcore.backends.cupy:CupyBackend",
    "torch": "deepcore.backends.torch:TorchBackend",
    "jax": "deepcore.backends.jax:JaxBackend",
    "array_api_strict": "deepcore.backends.strict:StrictBackend",
}
_ALIASES = {"cpu": "numpy", "gpu": "cupy", "cuda": "cupy", "strict": "array_api_strict"}
_ENTRY_POINTS = "deepcore.backends"

_live: dict[str, Backend] = {}
_lock = threading.RLock()


def backend_names() -> list[str]:
    """Names of all backends, third parties' included, usable or not."""
    return [*_HOMES, *(name for name in _entry_points() if name not in _HOMES)]


def get_backend(name: str) -> Backend:
    """The backend called `name`.

    Raises BackendUnavailable, with the reason and the remedy, if it is not usable here.
    """
    name = _ALIASES.get(name, name)
    if name in _live:
        return _live[name]
    with _lock:
        if name not in _live:
            cls = backend_class(name)
            reason = cls.why_unusable()
            if reason:
                raise BackendUnavailable(f"backend {name!r} is not usable here: {reason}")
            _live[name] = cls()
        return _live[name]


@functools.cache
def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points  # 10 ms: only when a name isn't our own

    return {entry.name: entry for entry in entry_points(group=_ENTRY_POINTS)}


def backend_class(name: str) -> type[Backend]:
    """The class of the backend called `name`, usable or not."""
    name = _ALIASES.get(name, name)
    if name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    third_party = _entry_points()
    if name not in third_party:
        known = ", ".join([*_HOMES, *third_party])
        raise BackendUnavailable(f"there is no backend {name!r}; choose one of: {known}")
    try:
        return third_party[name].load()
    except Exception as error:  # whatever somebody else's module raises
        raise BackendUnavailable(
            f"backend {name!r}: its entry point, {third_party[name].value}, does not load "
            f"({type(error).__name__}: {error}); repair or uninstall the package that brings it"
        ) from error


class _BackendOfType(dict[type, Backend]):
    """type -> backend, filled as types are met."""

    def __missing__(self, kind: type) -> Backend:
        for name in backend_names():
            try:
                cls = backend_class(name)
            except BackendUnavailable:  # a broken one owns nothing
                continue
            if sys.modules.get(cls.package) is not None and cls.owns(kind):
                self[kind] = backend = get_backend(name)
                return backend
        raise DTypeError(
            f"{kind.__module__}.{kind.__qualname__} is no array of a known library "
            f"({', '.join(backend_names())}); convert it with deepcore.asarray(x)"
        )


_BACKEND_OF_TYPE = _BackendOfType()


class _NamespaceOfType(dict[type, Any]):
    def __missing__(self, kind: type) -> Any:
        self[kind] = xp = _BACKEND_OF_TYPE[kind].xp
        return xp


_NAMESPACE_OF_TYPE = _NamespaceOfType()


def backend_of(*arrays: Any) -> Backend:
    """The backend that the arrays belong to.

    Raises MixedBackendError if they belong to several, DTypeError for what is no array.

    >>> import numpy as np
    >>> backend_of(np.zeros(3)).name
    'numpy'
    """
    first = _BACKEND_OF_TYPE[type(arrays[0])]
    for x in arrays[1:]:
        other = _BACKEND_OF_TYPE[type(x)]
        if other is not first:
            raise mixed(first, other)
    return first


def backend_of_type(kind: type) -> Backend:
    """The backend that owns an array type; DTypeError if none does."""
    return _BACKEND_OF_TYPE[kind]


def adopt(kind: type, backend: Backend) -> None:
    """From now on arrays of this type, stand-ins for those of a library, belong to a backend of their own."""
    _BACKEND_OF_TYPE[kind] = backend


def mixed(wanted: Backend, got: Backend) -> MixedBackendError:
    """The error for an array of `got` where the others are of `wanted`."""
    return MixedBackendError(
        f"arrays of {wanted.name!r} and {got.name!r} in one call; "
        f"move one of them: deepcore.to_backend(x, {wanted.name!r}), or the net: net.to({got.name!r})"
    )


def array_namespace(*arrays: Any) -> Any:
    """The array API namespace (`xp`) of the arrays: write code once, run it on each library.

    Raises MixedBackendError if they belong to several libraries, DTypeError for what is no array.

    >>> import numpy as np
    >>> xp = array_namespace(np.zeros(3))
    >>> xp is np
    True
    """
    if not arrays:
        raise DTypeError("array_namespace: wanted an array or more, got none; call array_namespace(X)")
    if len(arrays) == 1:
        return _NAMESPACE_OF_TYPE[type(arrays[0])]
    return backend_of(*arrays).xp


def is_array(x: Any) -> bool:
    """Whether `x` is an array of a known library."""
    return is_array_type(type(x))


@functools.cache
def is_array_type(kind: type) -> bool:
    """Whether `kind` is the array type of a known library."""
    try:
        backend_of_type(kind)
    except DTypeError:
        return False
    return True
