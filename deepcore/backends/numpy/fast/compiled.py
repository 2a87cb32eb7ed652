"""How a kernel is compiled, kept on disk, and run by one thread or by all.

A kernel is a loop of which each thread takes a part. It is compiled once: the same machine code serves one
thread, for small arrays, and all of them, whose start costs a few microseconds. How many these are is numba's
own setting: NUMBA_NUM_THREADS, OMP_NUM_THREADS or numba.set_num_threads. numba's own way to share out a loop,
`prange`, takes three times as long to compile, and needs the loop once more for one thread.

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
from llvmlite import binding as llvm
from llvmlite import ir
from numba.core import cgutils, compiler, event, sigutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.ccallback import CFunc
from numba.core.cpu_options import FastMathOptions
from numba.core.runtime.nrt import rtsys
from numba.extending import intrinsic

from deepcore.backends.numpy.fast.threads import pool

EXACT = {"contract"}
SUMS = {"contract", "nsz", "reassoc"}
WORTH_COMPILED = 2048  # elements, below which NumPy's own kernels take as long
WORTH_THREADS = 32768  # some 15 us of work
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


class Steps:
    """A kernel that shares out some of its steps itself: parts and in_threads, which `shared_out` wants, come
    before its other arguments.

    Called with the number of elements that it goes over, then its other arguments; or by `run`, in so many
    parts.
    """

    def __init__(self, function: Callable[..., Any], fastmath: set[str] = EXACT):
        self.function, self.fastmath = function, fastmath

    @functools.cached_property
    def in_parts(self) -> Any:
        """What numba calls, made when it is wanted: of the kernels of a family a net calls few."""
        return compiled(self._steps(), self.fastmath)

    def _steps(self) -> Callable[..., Any]:
        return self.function

    def __call__(self, elements: int, *arguments: Any) -> Any:
        if elements < WORTH_THREADS:
            return self.in_parts(1, False, *arguments)
        return self.run(pool.count(), *arguments)

    def run(self, parts: int, *arguments: Any) -> Any:
        """In as many threads, if they may be used now; else one part after the other."""
        if parts > 1 and not pool.forked:
            return pool.run(self.in_parts, (parts, True, *arguments))
        return self.in_parts(parts, False, *arguments)


class InParts(Steps):
    """A kernel that does part number `part` of `parts`, its first two arguments. It returns nothing.

    No array that it writes to may overlap with another one.
    """

    def _steps(self) -> Callable[..., None]:
        return _one_step(self.function, 2, self.fastmath)


class Kernel(Steps):
    """The same for a loop along the first axis of all its arrays: a part is given its rows of each.

    So it needs no number of its part, and an index into these rows is not negative: if it might be, it could
    count from the end, and LLVM would not work on numbers side by side.
    """

    def _steps(self) -> Callable[..., None]:
        return _one_step(self.function, 0, self.fastmath)


def shared_out(function: Callable[..., None], fastmath: set[str] = EXACT) -> Any:
    """A step of `Steps`, which calls it as step(parts, in_threads, (its arguments but part and parts))."""
    return _sharing_out(function, 2, fastmath)


def _one_step(function: Callable[..., None], numbers: int, fastmath: set[str]) -> Callable[..., None]:
    """in_parts(parts, in_threads, *the function's other arguments), which stands where the function does.

    numbers: how many of its arguments say which part it is to do, 2 or 0
    """
    names = ", ".join([*inspect.signature(function).parameters][numbers:])
    found: dict[str, Any] = {"share_out": _sharing_out(function, numbers, fastmath)}
    exec(f"def in_parts(parts, in_threads, {names}):\n    share_out(parts, in_threads, ({names},))", found)
    code, place = found["in_parts"].__code__, function.__code__
    code = code.replace(co_filename=place.co_filename, co_firstlineno=place.co_firstlineno)
    in_parts = types.FunctionType(code, found, function.__name__)
    in_parts.__module__, in_parts.__qualname__ = function.__module__, f"{function.__qualname__}_in_parts"
    return in_parts


def _sharing_out(function: Callable[..., None], numbers: int, fastmath: set[str]) -> Any:
    """An intrinsic: the function for every part, by numba's threads or by this one.

    It writes what numba makes of a loop over `prange`: a function with a fixed signature, whose address goes
    to numba_parallel_for, and whose data lie in a structure. Its one array starts at address 0 and has a step
    of 1, so that the address of part number k is k.
    """

    def share_out(typingctx: Any, parts: Any, in_threads: Any, arguments: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            count, shared, packed = values
            number, address = ir.IntType(64), ir.IntType(8).as_pointer()
            data = cgutils.alloca_once_value(builder, cgutils.pack_struct(builder, [count, packed]))
            of_parts = numba.types.void(*[numba.types.intp] * numbers, *arguments)
            some_parts = _written_for_parts(context, builder, function, fastmath, of_parts, data.type)

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
    context: Any, builder: Any, function: Callable[..., None], fastmath: set[str], signature: Any, kind: Any
) -> Any:
    """The function that each thread calls, for some parts that follow each other; kind: the type of its data.

    numba compiles a function that another one calls by itself first, and then once more with that; here it is
    told to do the latter alone: its code goes where that of its caller goes.
    """
    flags: Any = compiler.Flags()
    flags.nrt, flags.noalias, flags.error_model = True, True, "numpy"
    flags.fastmath = FastMathOptions(fastmath)
    flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
    one = compiler.compile_internal(
        *(context.typing_context, context, context.active_code_library),
        *(function, signature.args, signature.return_type, flags, {}),
    )

    number, address = ir.IntType(64), ir.IntType(8).as_pointer()
    arrays, lengths = address.as_pointer(), number.as_pointer()
    shape = ir.FunctionType(ir.VoidType(), [arrays, lengths, lengths, address])
    written = ir.Function(builder.module, shape, name=f"{one.fndesc.llvm_func_name}.some_parts")
    written.linkage = "internal"
    b = ir.IRBuilder(written.append_basic_block())
    first = b.ptrtoint(b.load(written.args[0]), number)
    parts, packed = cgutils.unpack_tuple(b, b.load(b.bitcast(written.args[3], kind)))
    given = cgutils.unpack_tuple(b, packed)
    numbers = len(signature.args) - len(given)
    of_part = context.declare_function(builder.module, one.fndesc)
    with cgutils.for_range(b, b.load(written.args[1])) as loop:
        part = b.add(first, loop.index)
        values = [
            _lent(context, b, kind, value, None if numbers else (part, parts))
            for kind, value in zip(signature.args[numbers:], given, strict=True)
        ]
        values = [part, parts][:numbers] + values
        # as a call: what is asked of the function, such as the width of its vectors, would not count in here
        fndesc = one.fndesc
        context.call_conv.call_function(b, of_part, fndesc.restype, fndesc.argtypes, values, ("noinline",))
    b.ret_void()
    return written


def _lent(context: Any, b: Any, kind: Any, value: Any, cut: tuple[Any, Any] | None) -> Any:
    """An argument as a part is given it; of an array, if it is to be cut, the rows of part (part, parts).

    It is said to belong to nobody. Else each row that is looked at would be counted as a reference, and
    threads wait for each other where they count up and down in one place.
    """
    if not isinstance(kind, numba.types.Array):
        return value
    array = context.make_array(kind)(context, b, value)
    array.meminfo = ir.Constant(array.meminfo.type, None)
    if cut:
        part, parts = cut
        rows, *others = cgutils.unpack_tuple(b, array.shape)
        row, *_ = cgutils.unpack_tuple(b, array.strides)  # bytes
        one = ir.Constant(rows.type, 1)
        first, last = (b.sdiv(b.mul(rows, k), parts) for k in (part, b.add(part, one)))
        array.data = cgutils.pointer_add(b, array.data, b.mul(first, row))
        array.shape = cgutils.pack_array(b, [b.sub(last, first), *others])
        array.nitems = functools.reduce(b.mul, others, b.sub(last, first))
    return array._getvalue()


def compiled(function: Callable[..., Any], fastmath: set[str] = EXACT) -> Any:
    """The function, compiled at its first call for each set of types or read from the cache on disk."""
    options = {"fastmath": fastmath, "error_model": "numpy", "nogil": True, "no_cfunc_wrapper": True}
    dispatcher = numba.njit(**options)(function)
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


class _MachineCode(CompileResultCacheImpl):
    """What is kept of a kernel: not what compiled code that calls it would need, of which there is none.

    numba would read, with each kernel, the code to write it into its callers, and import the modules of all
    functions that were written into it. Only Python objects in compiled code would use these.
    """

    def reduce(self, cres: Any) -> tuple[Any, ...]:
        names = [*inspect.signature(compiler.CompileResult._rebuild).parameters][1:]
        kept = dict(zip(names, super().reduce(cres), strict=True))
        name, kind, (machine_code, _) = kept["libdata"]
        of = kept["fndesc"]
        found_by = of.llvm_func_name, of.llvm_cpython_wrapper_name, of.llvm_cfunc_wrapper_name
        nothing_else = llvm.parse_assembly("".join(f'@"{symbol}" = global i8 0\n' for symbol in found_by))
        kept["libdata"] = name, kind, (machine_code, nothing_else.as_bitcode())
        kept["referenced_envs"] = ()
        return tuple(kept.values())


class _Cache(FunctionCache):
    """Numba's cache on disk, which looks only at the file that a function stands in; here they share code.

    A file that can't be read or written costs a compilation, nothing else.
    """

    _impl_class = _MachineCode

    def __init__(self, function: Callable[..., Any]):
        super().__init__(function)
        self._cache_file._source_stamp = _sources()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            pool.ready()
            # all that is needed to load; numba would also look up whatever it can compile calls of, in 0.1 s
            rtsys.initialize(target_context)
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
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


def alike(first: np.ndarray, *others: np.ndarray, least: int | None = None) -> bool:
    """Whether they are served and have one shape: a kernel that goes by one would read beyond another."""
    return served(first, *others, least=least) and all(x.shape == first.shape for x in others)


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
        pool.ready()
        _import_without_scipy()
        print(
            f"deepcore: compiling {name} and other kernels that are used, once for this machine "
            "(DEEPCORE_NUMBA=0 does without)",
            file=sys.stderr,
        )
    _announced.append(name)


event.register("numba:compile", _Listener())
