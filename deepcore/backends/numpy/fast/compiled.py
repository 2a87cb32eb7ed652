"""How a kernel is compiled, kept on disk, and run by one thread or by all.

A kernel is a loop over `numba.prange`. It is compiled twice: as a plain loop, for small arrays, and with the
loop shared out to numba's threads, whose start costs a few microseconds. How many these are is numba's own
setting: NUMBA_NUM_THREADS, OMP_NUM_THREADS or numba.set_num_threads.

Flags: "contract" lets a product and a sum become one rounding (FMA); "reassoc" and "nsz" let a sum be taken
in lanes. Neither lets the compiler assume that there is no NaN, as "fast" would.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, compiler, event, sigutils
from numba.core.caching import FunctionCache
from numba.core.ccallback import CFunc
from numba.core.cpu_options import FastMathOptions
from numba.extending import intrinsic

from deepcore.backends.numpy.fast.threads import pool

EXACT = {"contract"}
SUMS = {"contract", "nsz", "reassoc"}
WORTH_COMPILED = 2048  # elements, below which NumPy's own kernels take as long
WORTH_THREADS = 32768  # some 15 us of work
# what else numba could share out takes time to look for, and is too small here
_PRANGE_ALONE = {"prange": True} | dict.fromkeys(
    ("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False
)
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))

# functions that kernels call: for one number, for a row of them, and for a row whose sum is taken
_CALLED_BY_KERNELS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inline = numba.njit(fastmath=EXACT, forceinline=True, **_CALLED_BY_KERNELS)
row = numba.njit(fastmath=EXACT, **_CALLED_BY_KERNELS)
row_sum = numba.njit(fastmath=SUMS, **_CALLED_BY_KERNELS)
step = row  # of any other kind


@inline
def share(n, part, parts):
    """Those of 0 .. n - 1 that a part takes."""
    return range(n * part // parts, n * (part + 1) // parts)


class Kernel:
    """A compiled loop. Called with the number of elements that it goes over, then its own arguments."""

    def __init__(self, loop: Callable[..., Any], fastmath: set[str] = EXACT):
        self.serial = compiled(loop, fastmath)
        # under another name: numba's cache doesn't tell apart what differs in `parallel` alone
        shared = types.FunctionType(loop.__code__, loop.__globals__, loop.__name__)
        shared.__qualname__ = f"{loop.__qualname__}_threaded"
        shared.__module__ = loop.__module__
        self.threaded = compiled(shared, fastmath, parallel=_PRANGE_ALONE)

    def __call__(self, elements: int, *arguments: Any) -> Any:
        if elements < WORTH_THREADS or not pool.usable():
            return self.serial(*arguments)
        return pool.run(self.threaded, arguments)


class InParts:
    """A kernel that does part number `part` of `parts`, its first two arguments, compiled once.

    Called with the number of elements that it goes over, then its other arguments; or by `run`, in so many
    parts. It returns nothing. A loop over `prange` takes numba three times as long to compile as the loop
    itself, and here the same machine code serves one thread and all of them.

    For hand-written vectors: a loop that LLVM is to vectorise runs up to a quarter faster over `prange`.
    """

    def __init__(self, function: Callable[..., None], fastmath: set[str] = EXACT):
        self.all_parts = compiled(_over_parts(function, fastmath))

    def __call__(self, elements: int, *arguments: Any) -> None:
        self.run(numba.get_num_threads() if elements >= WORTH_THREADS and pool.usable() else 1, *arguments)

    def run(self, parts: int, *arguments: Any) -> None:
        """In threads, if they may be used now; else one part after the other."""
        if parts > 1 and pool.usable():
            pool.run(self.all_parts, (parts, True, *arguments))
        else:
            pool.ready()
            self.all_parts(parts, False, *arguments)


def _over_parts(function: Callable[..., None], fastmath: set[str]) -> Callable[..., None]:
    """all_parts(parts, in_threads, *the function's other arguments), which stands where the function does."""
    names = ", ".join([*inspect.signature(function).parameters][2:])
    found: dict[str, Any] = {"share_out": _sharing_out(function, fastmath)}
    exec(f"def all_parts(parts, in_threads, {names}):\n    share_out(parts, in_threads, ({names},))", found)
    code, place = found["all_parts"].__code__, function.__code__
    code = code.replace(co_filename=place.co_filename, co_firstlineno=place.co_firstlineno)
    all_parts = types.FunctionType(code, found, function.__name__)
    all_parts.__module__, all_parts.__qualname__ = function.__module__, f"{function.__qualname__}_in_parts"
    return all_parts


def _sharing_out(function: Callable[..., None], fastmath: set[str]) -> Any:
    """An intrinsic: function(part, parts, *arguments) for every part, by numba's threads or by this one.

    It writes what numba makes of a loop over `prange`: a function with a fixed signature, whose address goes
    to numba_parallel_for, and whose data lie in a structure. Its one array starts at address 0 and has a step
    of 1, so that the address of part number k is k.
    """

    def share_out(typingctx: Any, parts: Any, in_threads: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            count, shared, packed = values
            number, address = ir.IntType(64), ir.IntType(8).as_pointer()
            data = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [count, packed]))
            some_parts = _written_for_parts(context, builder, function, fastmath, arguments, data.type)

            start = cgutils.alloca_once_value(builder, ir.Constant(address, None))
            length = cgutils.alloca_once_value(builder, count)
            step = cgutils.alloca_once_value(builder, ir.Constant(number, 1))
            given = [start, length, step, builder.bitcast(data, address)]
            shape = ir.FunctionType(ir.VoidType(), [address] * 5 + [number] * 3)
            parallel_for = cgutils.get_or_insert_function(builder.module, shape, "numba_parallel_for")
            with builder.if_else(shared) as (threads, alone):
                with threads:
                    addresses = [builder.bitcast(x, address) for x in (some_parts, *given)]
                    inner_axes, arrays = ir.Constant(number, 0), ir.Constant(number, 1)
                    builder.call(parallel_for, [*addresses, inner_axes, arrays, count])
                with alone:
                    builder.call(some_parts, given)
            return context.get_dummy_value()

        return numba.types.void(parts, in_threads, arguments), generate

    return intrinsic(share_out)


def _written_for_parts(
    context: Any, builder: Any, function: Callable[..., None], fastmath: set[str], arguments: Any, kind: Any
) -> Any:
    """The function that each thread calls, for some parts that follow each other; kind: the type of its data.

    numba compiles a function that another one calls by itself first, and then once more with that; here it is
    told to do the latter alone.
    """
    flags: Any = compiler.Flags()
    flags.nrt, flags.error_model, flags.fastmath = True, "numpy", FastMathOptions(fastmath)
    whole = numba.types.intp
    signature = numba.types.void(whole, whole, *arguments)
    one = context.compile_subroutine(builder, function, signature, flags=flags)

    number, address = ir.IntType(64), ir.IntType(8).as_pointer()
    arrays, lengths = address.as_pointer(), number.as_pointer()
    shape = ir.FunctionType(ir.VoidType(), [arrays, lengths, lengths, address])
    written = ir.Function(builder.module, shape, name=f"{one.fndesc.llvm_func_name}.some_parts")
    written.linkage = "internal"
    b = ir.IRBuilder(written.append_basic_block())
    first = b.ptrtoint(b.load(written.args[0]), number)
    data = b.load(b.bitcast(written.args[3], kind))
    given = cgutils.unpack_tuple(b, b.extract_value(data, 1))
    of_part = context.declare_function(builder.module, one.fndesc)
    with cgutils.for_range(b, b.load(written.args[1])) as loop:
        values = [b.add(first, loop.index), b.extract_value(data, 0), *given]
        context.call_conv.call_function(b, of_part, one.fndesc.restype, one.fndesc.argtypes, values)
    b.ret_void()
    return written


def threaded(loop: Callable[..., Any], fastmath: set[str] = EXACT) -> Any:
    """A loop that is worth all threads whatever its arguments; without threads a plain loop."""
    return functools.partial(Kernel(loop, fastmath), sys.maxsize)


def compiled(function: Callable[..., Any], fastmath: set[str] = EXACT, **options: Any) -> Any:
    """The function, compiled at its first call for each set of types or read from the cache on disk."""
    dispatcher = numba.njit(fastmath=fastmath, error_model="numpy", nogil=True, **options)(function)
    with contextlib.suppress(RuntimeError):  # there is no folder to write to
        dispatcher._cache = _Cache(function)
    return dispatcher


def compiled_alone(function: Callable[..., None], signature: Any) -> Any:
    """The function as machine code for one signature, with an address; compiled, or read from disk, now."""
    alone = _Alone(function, sigutils.normalize_signature(signature), {}, dict(_ALONE))
    with contextlib.suppress(RuntimeError):
        alone._cache = _Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
    alone.compile()
    return alone


_ALONE = {"nopython": True, "error_model": "numpy", "fastmath": EXACT}


class _Alone(CFunc):
    def _compile_uncached(self) -> Any:
        _announce(self.__name__)
        return super()._compile_uncached()  # pyright: ignore[reportAttributeAccessIssue]


class _Cache(FunctionCache):
    """Numba's cache on disk, which looks only at the file that a function stands in; here they share code.

    A file that can't be read or written costs a compilation, nothing else.
    """

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._cache_file._source_stamp = _sources()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file makes pickle raise anything
            with contextlib.suppress(OSError):
                self.flush()

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


@functools.cache
def _sources() -> bytes:
    """A digest of all that is compiled here."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def served(first: np.ndarray, *others: np.ndarray, least: int | None = None) -> bool:
    """Whether the kernels here serve arrays like these: float32 or float64, all alike, and not small."""
    least = WORTH_COMPILED if least is None else min(least, WORTH_COMPILED)
    if first.size < least or not first.size:  # nearly always in a small net, which feels each call
        return False
    dtype = first.dtype
    return dtype in _FLOATS and (not others or all(x.dtype == dtype for x in others))


def plain(X: np.ndarray) -> np.ndarray:
    """X, or a copy of it in C order that may be written to: numba compiles for each memory layout anew."""
    return X if type(X) is np.ndarray and X.flags.carray else np.array(X, order="C", subok=False)


def flat(X: np.ndarray) -> np.ndarray:
    """The numbers of X one after the other: a view of what `plain` gives."""
    return plain(X).reshape(-1)


def _import_without_scipy() -> None:
    """Import the part of numba that imports scipy.linalg, only to see whether it is there, in 0.25 s.

    Where somebody's function needs it, numba imports it again.
    """
    if "numba.np.arraymath" in sys.modules or importlib.util.find_spec("scipy") is None:
        return
    from numba.np import linalg

    ensure_blas, linalg.ensure_blas = linalg.ensure_blas, lambda: None
    try:
        importlib.import_module("numba.np.arraymath")
    finally:
        linalg.ensure_blas = ensure_blas


class _Listener(event.Listener):
    """Hears that numba compiles a function."""

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func  # type: ignore[index]
        if function.__module__.startswith(__package__):
            _announce(function.__name__)

    def on_end(self, event: event.Event) -> None:
        pass


_announced: list[str] = []


def _announce(name: str) -> None:
    """Say on stderr, once a process, that a kernel is being compiled, since that takes a moment."""
    if not _announced:
        print(
            f"deepcore: compiling {name} and other kernels that are used, once for this machine "
            "(DEEPCORE_NUMBA=0 does without)",
            file=sys.stderr,
        )
    _announced.append(name)


_import_without_scipy()
event.register("numba:compile", _Listener())
