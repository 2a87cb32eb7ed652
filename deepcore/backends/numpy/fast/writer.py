"""The pen that hand-written kernels are written with: one instruction of LLVM's language for each method.

numba lets us say what a loop is to be: a function marked @intrinsic doesn't compute, it *writes the
instructions* of one call, and numba puts these in the place of the call. The methods of a `Writer` are the
instructions; an ordinary Python loop over them is unrolled, as the repetition of a macro would be.

What is long is compiled by itself, once, and called by its name (`standing_alone`): numba would compile it
along with each of its callers, and these once more along with theirs.

The width of vectors is that of the processor that numba compiles for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from deepcore.backends.numpy.fast.compiled import compiled_alone

_codegen = cpu_target.target_context.codegen()  # pyright: ignore[reportAttributeAccessIssue]
_FEATURES = set(_codegen.magic_tuple()[2].split(","))  # of the processor that numba compiles for
USABLE = {"+avx2", "+fma"} <= _FEATURES
LANES = 16 if "+avx512f" in _FEATURES else 8  # float32 numbers in a vector
CHEAP_MASKS = LANES == 16  # of AVX2, masked stores take 12 cycles on Zen 3, and bytes have no masks at all

FLOATS = types.float32[::1]
DOUBLES = types.float64[::1]
OFFSETS = types.int64[::1]
INT = types.int64

_FLOAT, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_VECTOR_POINTER = _VECTOR.as_pointer()
_MASK = ir.VectorType(ir.IntType(1), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_DOUBLES = ir.VectorType(ir.DoubleType(), LANES)
ZERO = ir.Constant(_VECTOR, [0.0] * LANES)
ZERO_IN_DOUBLE = ir.Constant(_DOUBLES, [0.0] * LANES)


class Writer:
    """Writes the instructions of one call. A value is what an instruction returned; an int is a constant."""

    def __init__(self, context: Any, builder: Any, signature: Any, values: Sequence[Any]):
        self.context, self.builder, self.module = context, builder, builder.module
        # an array is seen as a pointer to its first number, an int as it is
        self.arguments = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, values, strict=True)
        ]

    # whole numbers, and places in memory

    def int(self, x: Any) -> Any:
        return ir.Constant(_I64, x) if isinstance(x, int) else x

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.add(self.int(x), self.int(y))

    def times(self, x: Any, y: Any) -> Any:
        return self.builder.mul(self.int(x), self.int(y))

    def divided(self, x: Any, divisor: int) -> tuple[Any, Any]:
        """How often a power of two goes into x >= 0, and what is left."""
        exponent = divisor.bit_length() - 1
        return self.builder.lshr(self.int(x), self.int(exponent)), self.builder.and_(x, self.int(divisor - 1))

    def at(self, pointer: Any, offset: Any) -> Any:
        return self.builder.gep(pointer, [self.int(offset)])

    def zero_unless_below(self, x: Any, i: int, limit: Any) -> Any:
        """x if i < limit, else 0"""
        below = self.builder.icmp_signed("<", self.int(i), limit)
        return self.builder.select(below, self.int(x), self.int(0))

    def zero_if_equal(self, x: Any, y: Any) -> Any:
        """x, or 0 if it is y"""
        return self.builder.select(self.builder.icmp_signed("==", x, y), self.int(0), x)

    def number(self, pointer: Any) -> Any:
        return self.builder.load(pointer)

    # vectors

    def load(self, pointer: Any, count: Any = None, skip: Any = None) -> Any:
        """A vector; with `count` only lanes below it are read, and zeros stand for the others.

        With `skip` the first lanes aren't read either.
        """
        here = self.builder.bitcast(pointer, _VECTOR_POINTER)
        if count is None:
            return self.builder.load(here, align=4)
        shape = ir.FunctionType(_VECTOR, [_VECTOR_POINTER, _I32, _MASK, _VECTOR])
        masked = self._function(f"llvm.masked.load.v{LANES}f32.p0", shape)
        return self.builder.call(masked, [here, ir.Constant(_I32, 4), self.lanes(skip, count), ZERO])

    def store(self, vector: Any, pointer: Any, count: Any = None) -> None:
        """All of a vector, of float32 or of bytes, or its first `count` numbers."""
        kind, align = vector.type, 4 if vector.type.element == _FLOAT else 1
        here = self.builder.bitcast(pointer, kind.as_pointer())
        if count is None:
            self.builder.store(vector, here, align=align)
        elif CHEAP_MASKS:
            shape = ir.FunctionType(ir.VoidType(), [kind, here.type, _I32, _MASK])
            masked = self._function(f"llvm.masked.store.v{LANES}{kind.element.intrinsic_name}.p0", shape)
            self.builder.call(masked, [vector, here, ir.Constant(_I32, align), self.first(count)])
        else:
            pieces = functools.partial(self._store_pieces, vector, pointer, count)
            self.choose(self.at_least(count, LANES), lambda: self.store(vector, pointer), pieces)

    def _store_pieces(self, vector: Any, pointer: Any, count: Any) -> None:
        """Its first `count` < LANES numbers: half of it, then a quarter ..., as the bits of `count` say."""
        some, half = self.at_least(count, 1), LANES // 2
        while half:
            low, high = (self._part_of(vector, range(k, k + half)) for k in (0, half))
            has_half = self.at_least(self.builder.and_(self.int(count), self.int(half)), 1)
            wanted = self.builder.and_(some, has_half)
            self.choose(wanted, functools.partial(self.store, low, pointer))
            vector = self.builder.select(wanted, high, low)
            pointer = self.builder.select(wanted, self.at(pointer, half), pointer)
            half //= 2

    def _part_of(self, vector: Any, lanes: Sequence[int]) -> Any:
        """A shorter vector."""
        kind = ir.VectorType(_I32, len(lanes))
        return self.builder.shuffle_vector(vector, vector, ir.Constant(kind, list(lanes)))

    def prefetch(self, pointer: Any, to_write: bool = False) -> None:
        """Ask for a line of memory that will be read or written to, so that it is there when it is needed."""
        shape = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
        fetch = self._function("llvm.prefetch.p0", shape)
        self.builder.call(fetch, [pointer, *(ir.Constant(_I32, x) for x in (int(to_write), 3, 1))])

    def in_double(self, vector: Any) -> Any:
        """The same numbers as float64."""
        return self.builder.fpext(vector, _DOUBLES)

    def add_in_double(self, vector: Any, pointer: Any) -> None:
        """Add a vector of float64 to the numbers at a pointer."""
        here = self.builder.bitcast(pointer, _DOUBLES.as_pointer())
        total = self.builder.fadd(self.builder.load(here, align=8), vector)
        self.builder.store(total, here, align=8)

    def store_past_caches(self, vector: Any, pointer: Any) -> None:
        """All of a vector, to where a line of the cache starts, without reading that line first."""
        store = self.builder.store(vector, self.builder.bitcast(pointer, _VECTOR_POINTER), align=4 * LANES)
        store.set_metadata("nontemporal", self.module.add_metadata([ir.Constant(_I32, 1)]))

    def in_bytes(self, vector: Any) -> Any:
        """Whole numbers below 256, a byte each."""
        return self.builder.trunc(vector, _BYTES)

    def load_bytes(self, pointer: Any, count: Any) -> Any:
        """The first `count` of a vector of bytes, and zeros for the others."""
        here = self.builder.bitcast(pointer, _BYTES.as_pointer())
        shape = ir.FunctionType(_BYTES, [here.type, _I32, _MASK, _BYTES])
        masked = self._function(f"llvm.masked.load.v{LANES}i8.p0", shape)
        nothing = ir.Constant(_BYTES, [0] * LANES)

        def part() -> Any:
            return self.builder.call(masked, [here, ir.Constant(_I32, 1), self.first(count), nothing])

        if CHEAP_MASKS:
            return part()
        return self.choose(self.at_least(count, LANES), lambda: self.builder.load(here, align=1), part)

    def everywhere(self, number: Any) -> Any:
        """A vector of one and the same number."""
        vector = ir.VectorType(number.type, LANES)
        nothing = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(nothing, number, ir.Constant(_I32, 0))
        zeros = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        return self.builder.shuffle_vector(one, nothing, zeros)

    def first(self, count: Any) -> Any:
        """The mask of the first `count` lanes, of which there are less than 2^31."""
        lanes = ir.Constant(ir.VectorType(_I32, LANES), list(range(LANES)))
        return self.builder.icmp_signed(
            "<", lanes, self.everywhere(self.builder.trunc(self.int(count), _I32))
        )

    def lanes(self, skip: Any, count: Any) -> Any:
        """The mask of lanes skip .. count - 1."""
        below = self.first(count)
        return below if skip is None else self.builder.and_(below, self.builder.not_(self.first(skip)))

    def multiply_add(self, x: Any, y: Any, z: Any) -> Any:
        """x y + z, rounded once."""
        shape = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        return self.builder.call(self._function(f"llvm.fma.v{LANES}f32", shape), [x, y, z])

    def plus(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y)

    def times_number(self, x: Any, number: Any) -> Any:
        return self.builder.fmul(x, self.everywhere(number))

    def combine(self, coefficients: Sequence[float], vectors: Sequence[Any]) -> Any:
        """The sum of coefficient times vector; 0 costs nothing, 1 and -1 cost no product."""
        total = None
        for factor, x in zip(coefficients, vectors, strict=True):
            if factor == 0:
                continue
            if total is None:
                total = x if factor == 1 else self.builder.fmul(x, self._constant(factor))
            elif abs(factor) == 1:
                total = self.builder.fadd(total, x) if factor == 1 else self.builder.fsub(total, x)
            else:
                total = self.multiply_add(x, self._constant(factor), total)
        return total

    def _constant(self, number: float) -> Any:
        return ir.Constant(_VECTOR, [float(np.float32(number))] * LANES)

    def pick(self, x: Any, y: Any, lanes: Sequence[int]) -> Any:
        """A vector of lanes of x (0 .. LANES - 1) and of y (LANES and above)."""
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, LANES), list(lanes)))

    # branches and loops

    def at_least(self, x: Any, least: int) -> Any:
        return self.builder.icmp_signed(">=", self.int(x), self.int(least))

    def choose(self, condition: Any, this: Callable[[], Any], other: Callable[[], Any] | None = None) -> Any:
        """What `this` writes happens where the condition holds, what `other` writes elsewhere."""
        if other is None:
            with self.builder.if_then(condition):
                this()
            return None
        with self.builder.if_else(condition) as (then, otherwise):
            with then:
                x, after_this = this(), self.builder.block
            with otherwise:
                y, after_other = other(), self.builder.block
        if x is None:
            return None
        value = self.builder.phi(x.type)
        value.add_incoming(x, after_this)
        value.add_incoming(y, after_other)
        return value

    def loop(self, count: Any, carried: Sequence[Any], body: Callable[..., Sequence[Any]]) -> list[Any]:
        """`carried = body(i, *carried)` for i < count; what is carried stays in registers."""
        b = self.builder
        before, inside, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
        some = b.icmp_signed(">", self.int(count), self.int(0))
        b.cbranch(some, inside, after)
        b.position_at_end(inside)
        names = [b.phi(value.type) for value in (self.int(0), *carried)]
        results = list(body(*names))
        following = self.add(names[0], 1)
        end = b.block  # body may have made blocks of its own
        b.cbranch(b.icmp_signed("<", following, self.int(count)), inside, after)
        for name, start, result in zip(names, (self.int(0), *carried), (following, *results), strict=True):
            name.add_incoming(start, before)
            name.add_incoming(result, end)
        b.position_at_end(after)
        left = [b.phi(value.type) for value in carried]
        for name, start, result in zip(left, carried, results, strict=True):
            name.add_incoming(start, before)
            name.add_incoming(result, end)
        return left

    def call(self, name: str, arguments: Sequence[Any]) -> None:
        """Of a function that returns nothing, by its name."""
        shape = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
        self.builder.call(self._function(name, shape), arguments)

    def _function(self, name: str, shape: Any) -> Any:
        return cgutils.get_or_insert_function(self.module, shape, name)


def _as_given(given: Any, wanted: Any) -> Any:
    """The type of an argument: a pointer will do for an array."""
    pointer = isinstance(given, types.CPointer) and isinstance(wanted, types.Array)
    return given if pointer and given.dtype == wanted.dtype else wanted


def written(*argument_types: Any) -> Callable[[Callable[..., None]], Any]:
    """Make an intrinsic of write(writer, *arguments). Its call takes these types and returns nothing."""

    def decorate(write: Callable[..., None]) -> Any:
        @functools.wraps(write)  # numba reads the names of the arguments off it
        def typed(context: Any, *given: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                writer = Writer(context, builder, signature, values)
                write(writer, *writer.arguments)
                return context.get_dummy_value()

            return types.void(*map(_as_given, given, argument_types)), generate

        return intrinsic(typed)

    return decorate


def on_stack(kind: Any, count: int) -> Any:
    """An intrinsic: a pointer to so many numbers, not set yet, which are there until its caller returns.

    For a few numbers of a fixed count: an array of them takes 0.1 s more to compile, and is allocated at each
    call.
    """

    def pointer(typingctx: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return cgutils.alloca_once(builder, context.get_value_type(kind), size=count)

        return types.CPointer(kind)(), generate

    return intrinsic(pointer)


def standing_alone(*argument_types: Any) -> Callable[[Callable[..., None]], Any]:
    """Compile a function by itself, for these types; what it becomes is an intrinsic that calls it.

    numba compiles what a function calls along with it, once more for each caller: a second for a kernel that
    is unrolled. This machine code stands alone, under a name that the linker knows. Arrays come as pointers.
    """

    def decorate(function: Callable[..., None]) -> Any:
        kinds = [
            types.CPointer(kind.dtype) if isinstance(kind, types.Array) else kind for kind in argument_types
        ]
        alone = compiled_alone(function, types.void(*kinds))
        name = f"deepcore_{function.__name__}"
        llvm.add_symbol(name, alone.address)

        def call(w: Writer, *arguments: Any) -> None:
            w.call(name, arguments)

        of_writer, *_ = inspect.signature(call).parameters.values()
        names = inspect.signature(function).parameters.values()
        call.__signature__ = inspect.Signature([of_writer, *names])  # type: ignore[attr-defined]
        return written(*argument_types)(call)

    return decorate
