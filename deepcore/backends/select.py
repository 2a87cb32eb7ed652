"""Where new arrays are made, and how arrays move.

Data decides where work runs. The selected backend decides only where *new* arrays (weights, random
numbers, `asarray` of Python numbers) are made. Strongest first: use_backend > set_backend >
DEEPCORE_BACKEND > numpy.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.backends.registry import backend_names, backend_of, get_backend, is_array, is_array_type
from deepcore.errors import BackendFallbackWarning, BackendUnavailable, DTypeError, ShapeError

_AUTO = ("cupy", "numpy")  # what "auto" tries, in this order
_HOST = 1  # DLPack's kDLCPU
NARROW = ("float16", "bfloat16")
FLOATS = (*NARROW, "float32", "float64")

_in_context: ContextVar[Backend | None] = ContextVar("deepcore_backend", default=None)
# what products of float32 are computed in: "float32", or "relaxed", where kernels may lose some digits to be
# faster: TF32 on a GPU, larger tiles of Winograd's for many channels on a CPU (fit and compiled steps set it)
precision: ContextVar[str] = ContextVar("deepcore_precision", default="float32")
_selected: Backend | None = None
_default_dtype = "float32"


def selected_backend() -> Backend:
    """The backend that new arrays are made with."""
    global _selected
    backend = _in_context.get() or _selected
    if backend is None:
        backend = _selected = _from_environment()
    return backend


def set_backend(name: str) -> None:
    """Make new arrays with the backend called `name` from now on.

    "auto" is cupy if it really works, else numpy.
    Raises BackendUnavailable with the reason and the remedy.

    >>> set_backend("numpy")
    """
    global _selected
    _selected = _resolve(name)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Make new arrays with the backend called `name` inside a with-block, in this thread or task.

    Raises BackendUnavailable with the reason and the remedy.
    """
    token = _in_context.set(_resolve(name))
    try:
        yield
    finally:
        _in_context.reset(token)


def available_backends() -> list[str]:
    """Names of the backends that are usable here."""
    return [name for name in backend_names() if _usable(name)]


def _usable(name: str) -> bool:
    try:
        get_backend(name)
    except BackendUnavailable:
        return False
    return True


def _resolve(name: str) -> Backend:
    if name == "auto":
        name = next(choice for choice in _AUTO if _usable(choice))
    return get_backend(name)


def _from_environment() -> Backend:
    name = os.environ.get("DEEPCORE_BACKEND") or "numpy"  # an empty variable is none
    fallback = os.environ.get("DEEPCORE_FALLBACK") or "warn"
    if fallback not in ("error", "warn", "silent"):
        raise BackendUnavailable(f"DEEPCORE_FALLBACK must be error, warn or silent, got {fallback!r}")
    try:
        return _resolve(name)
    except BackendUnavailable as error:
        if fallback == "error":
            raise
        if fallback == "warn":
            warnings.warn(
                f"DEEPCORE_BACKEND: {error}. Going on with numpy, on the CPU "
                "(DEEPCORE_FALLBACK=error makes this an error, silent hides it).",
                BackendFallbackWarning,
                stacklevel=_level_of_caller(),
            )
        return get_backend("numpy")


def _level_of_caller() -> int:
    """For warnings.warn: how far up the first line outside deepcore is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "deepcore":
        level, frame = level + 1, frame.f_back
    return level


def default_dtype() -> str:
    """Name of the dtype of new weights and of Python floats: "float32" unless set otherwise."""
    return _default_dtype


def set_default_dtype(dtype: Any) -> None:
    """Set the dtype of new weights and of Python floats.

    Raises DTypeError if it is no floating dtype.

    >>> set_default_dtype("float32")
    """
    global _default_dtype
    name = dtype_name(dtype)
    if name not in FLOATS:
        raise DTypeError(f"set_default_dtype: wanted one of {', '.join(FLOATS)}, got {name}")
    _default_dtype = name


def dtype_name(dtype: Any) -> str:
    """The name of a dtype, whichever library's it is, or of an array's dtype.

    >>> import numpy as np
    >>> dtype_name(np.float32), dtype_name(np.zeros(3)), dtype_name("int64")
    ('float32', 'float64', 'int64')
    """
    if isinstance(dtype, str):
        return dtype
    if isinstance(dtype, type):  # np.float32, float
        name = dtype.__name__
    else:
        dtype = getattr(dtype, "dtype", dtype)
        name = getattr(dtype, "name", None) or str(dtype)  # str: "torch.float32"
    return {"float": "float64", "int": "int64"}.get(name, name.rpartition(".")[2])


def is_floating(x: Any) -> bool:
    """Whether an array holds real floating-point numbers."""
    return _floating(type(x), x.dtype)


def holds_floats(x: Any) -> bool:
    """Whether x is an array of a known library, and of real floating-point numbers."""
    return are_floats(type(x), getattr(x, "dtype", None))


def is_narrow(x: Any) -> bool:
    """Whether an array's numbers are floats of 16 bits, in which no long sum should be taken."""
    return _narrow(type(x), x.dtype)


def is_integer(x: Any) -> bool:
    """Whether an array holds integers; bools are none."""
    return _integer(type(x), x.dtype)


def is_tracked(x: Any) -> bool:
    """Whether x's own library notes what is done with it, to differentiate it: torch's requires_grad."""
    return getattr(x, "requires_grad", False)


@functools.cache
def _integer(kind: type, dtype: Any) -> bool:
    return dtype_name(dtype).lstrip("u").startswith("int")


@functools.cache
def _floating(kind: type, dtype: Any) -> bool:  # `kind`, because dtypes of two libraries may hash alike
    return dtype_name(dtype) in FLOATS


@functools.cache
def _narrow(kind: type, dtype: Any) -> bool:  # not by finfo: NumPy's and CuPy's know no bfloat16
    return dtype_name(dtype) in NARROW


@functools.cache
def are_floats(kind: type, dtype: Any) -> bool:
    """`holds_floats` of arrays of a type and a dtype: 0.06 us, for calls that every layer makes."""
    return is_array_type(kind) and dtype_name(dtype) in FLOATS


def asarray(x: Any, dtype: Any = None, device: Any = None) -> Any:
    """An array of the selected backend from numbers, sequences, data frames or another library's array.

    Python floats get the default dtype (float32), integers and bools their own, arrays keep theirs.

    >>> asarray([[1.0, 2.0]])
    array([[1., 2.]], dtype=float32)
    """
    return put(x, selected_backend(), dtype, device)


def put(x: Any, backend: Backend, dtype: Any = None, device: Any = None) -> Any:
    """Like `asarray`, for a backend that is given."""
    name = None if dtype is None else dtype_name(dtype)
    if isinstance(x, np.generic):  # a NumPy scalar is no array yet
        x = np.asarray(x)
    if is_array(x):
        source = backend_of(x)
        if source is backend:
            same = name is None or dtype_name(x) == name
            if same and (device is None or source.device(x) == device) and not is_tracked(x):
                return x
            return backend.asarray(x, name, device)
        there = _over_dlpack(x, source, backend)
        if there is not None:
            return backend.asarray(there, name, device)
        host = source.to_numpy(x)
        if name is None and backend.name != "numpy":
            name = dtype_name(x)  # its bytes may be in another order; a bfloat16 may have become float32
        return backend.asarray(host, name, device)
    if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
        return put(_from_dlpack(x, backend), backend, dtype, device)
    if hasattr(x, "mask") and np.ma.is_masked(x):
        raise DTypeError("asarray: its mask would be lost; say what the masked numbers are: x.filled(0)")
    try:
        host = get_backend("numpy").xp.asarray(x)
    except ValueError as error:
        if isinstance(x, list | tuple) and "inhomogeneous" in str(error):
            raise ShapeError(
                "asarray: the parts of a list must have one shape, got a ragged list; pad the short ones"
            ) from None
        raise
    if host.dtype.kind not in "biufc":
        raise DTypeError(f"asarray: wanted numbers, got {type(x).__name__} of dtype {host.dtype}")
    from_numbers = not hasattr(x, "dtype") and not hasattr(x, "__array__")
    if name is None and from_numbers and host.dtype.kind == "f":
        name = _default_dtype
    return backend.asarray(host, name, device)


def _over_dlpack(x: Any, source: Backend, backend: Backend) -> Any:
    """A copy for another library of an array on a device that both share, by DLPack; else None.

    In host memory each library's own way is as good. The copy is in one piece, because torch ends the
    process at a negative stride, and made here, so that nobody else knows of its memory.
    """
    if "numpy" in (source.name, backend.name):
        return None
    try:
        if x.__dlpack_device__()[0] == _HOST:
            return None
        flat = source.xp.reshape(x, (-1,))
        in_one_piece = source.xp.concat([flat, flat[:0]])
        there = backend.xp.reshape(backend.xp.from_dlpack(in_one_piece), tuple(x.shape))
        return there if dtype_name(there) == dtype_name(x) else None
    except Exception:  # whatever a library says that can't: the way over the host is always open
        return None


def _from_dlpack(x: Any, backend: Backend) -> Any:
    """A copy of an array of a library that isn't known here: in host memory by NumPy, else by the backend.

    A copy, because nobody would know of two owners; and made by the standard's from_dlpack alone, which
    refuses what it can't read.
    """
    on_host = x.__dlpack_device__()[0] == _HOST
    xp = np if on_host else backend.xp
    try:
        return xp.asarray(xp.from_dlpack(x), copy=True)
    except (BufferError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise DTypeError(
            f"backend {backend.name!r} can't take this {type(x).__name__} by DLPack: {error}; "
            "convert it to NumPy first"
        ) from error


def to_numpy(x: Any) -> Any:
    """The same numbers as a NumPy array on the host (`x` itself where it is one already)."""
    return backend_of(x).to_numpy(x) if is_array(x) else get_backend("numpy").xp.asarray(x)


def to_backend(x: Any, name: str, device: Any = None) -> Any:
    """`x` as an array of the backend called `name`: `x` is one already, or of another library, or numbers.

    An array of a library that deepcore doesn't know is copied by DLPack, if it speaks that.
    Raises BackendUnavailable with the reason and the remedy.
    """
    return put(x, _resolve(name), device=device)


def synchronize() -> None:
    """Wait until all work that was started on the selected backend is done."""
    selected_backend().synchronize()
