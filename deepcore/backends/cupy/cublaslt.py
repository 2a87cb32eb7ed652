"""Matrix products by cuBLASLt, called directly.

cupy.matmul can't be captured in a CUDA graph, since it sets the stream of a handle; cuBLASLt takes stream and
workspace with each call. It also adds a bias and applies ReLU or GELU to the result before that is written.

cuBLASLt counts in column-major order, where a row-major matrix is its own transpose. So for Y = A B it
is given Y^T = B^T A^T: B first, then A, and a bias runs along the rows of Y^T, a number for each column of Y.

What a call needs is planned once for each set of shapes, strides, dtype, alignment and epilogue, and kept. In
float32 nothing is rounded to TF32 unless the precision is "relaxed" (fit, Net.compile), or the variable
CUPY_TF32 is 1, as in CuPy itself. Of cuBLASLt's algorithms the one is taken that it believes to be the
fastest; where tuning.py allows it, the one that is, in a trial at the first call that isn't being captured.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import itertools
import math
import os
import threading
from collections.abc import Iterator, Sequence
from ctypes import byref, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import cupy
import numpy as np

from deepcore.backends import select
from deepcore.backends.cupy import tuning
from deepcore.backends.cupy.kernels import aligned

WORKSPACE = 32 << 20  # bytes; what NVIDIA recommends for Hopper
_MOST_PLANS = 1024
_MOST_TRIED = 8  # algorithms for one problem
_BEST_ALIGNMENT = 256  # bytes: what cuBLASLt takes for granted unless it is told

# ---- the names of cublasLt.h, cublas_api.h and library_types.h

TYPES = {"float16": 2, "bfloat16": 14, "float32": 0, "float64": 1}  # CUDA_R_...
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
OP_T = 1
TRANSA, TRANSB, EPILOGUE, BIAS_POINTER, BIAS_DATA_TYPE = 3, 4, 7, 8, 26  # CUBLASLT_MATMUL_DESC_...
BATCH_COUNT, STRIDED_BATCH_OFFSET = 5, 6  # CUBLASLT_MATRIX_LAYOUT_...
MAX_WORKSPACE_BYTES = 1  # CUBLASLT_MATMUL_PREF_...
REDUCTION_SCHEME_MASK = 3
MIN_ALIGNMENTS = (5, 6, 7, 8)  # CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, ..._B_, ..._C_, ..._D_
REDUCTION_SCHEME_COMPUTE_TYPE = 2  # CUBLASLT_...
EPILOGUES = {  # (bias?, activation) -> CUBLASLT_EPILOGUE_...
    (False, None): 1,
    (False, "relu"): 2,
    (False, "gelu"): 32,
    (True, None): 4,
    (True, "relu"): 2 | 4,
    (True, "gelu"): 32 | 4,
}


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""

    _fields_ = [
        ("algo", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    ]


class Unavailable(Exception):
    """cuBLASLt isn't there, or has no algorithm for this product."""


@dataclass(frozen=True)
class Operand:
    """A matrix in memory, or a batch of them, as cuBLASLt sees it.

    transposed: whether its columns, not its rows, are contiguous.   step: elements from row to row, or from
    column to column   batch_step: from matrix to matrix, 0 for the same one again
    """

    rows: int
    columns: int
    transposed: bool
    step: int
    batch_step: int
    alignment: int


@dataclass(frozen=True)
class Problem:
    """All that a plan depends on."""

    A: Operand
    B: Operand
    Y: Operand
    batch: int
    dtype: str
    bias: bool
    activation: str | None
    tf32: bool
    tuned: bool  # whether algorithms may be tried


class Plan:
    """Descriptors and algorithm for one Problem.

    algorithms: those that cuBLASLt offers, the one that is used first
    untried: whether the others are to be tried at the next opportunity
    """

    def __init__(self, library: Any, handle: Any, problem: Problem):
        self.functions, self.handle = library, handle
        A, B, Y, kind = problem.A, problem.B, problem.Y, TYPES[problem.dtype]
        wide = problem.dtype == "float64"
        narrow = COMPUTE_32F_FAST_TF32 if problem.tf32 else COMPUTE_32F
        number = c_double if wide else c_float
        self.one, self.zero = number(1), number(0)
        self.operation = c_void_p()
        check(
            library.cublasLtMatmulDescCreate(
                byref(self.operation),
                COMPUTE_64F if wide else narrow,
                TYPES["float64" if wide else "float32"],
            )
        )
        if B.transposed:
            self._set(TRANSA, c_int32(OP_T))
        if A.transposed:
            self._set(TRANSB, c_int32(OP_T))
        self._set(EPILOGUE, c_int32(EPILOGUES[problem.bias, problem.activation]))
        if problem.bias:
            self._set(BIAS_DATA_TYPE, c_int32(kind))
            self._set(BIAS_POINTER, c_void_p(_BEST_ALIGNMENT))  # so that an algorithm for it is chosen
        self.layouts = [self._layout(operand, kind, problem.batch) for operand in (B, A, Y)]
        self.algorithms = self._offered(
            _MOST_TRIED if problem.tuned else 1,
            problem.dtype in ("float16", "bfloat16"),
            *(B.alignment, A.alignment, Y.alignment, Y.alignment),
        )
        self.untried = len(self.algorithms) > 1

    def _set(self, attribute: int, value: Any) -> None:
        check(
            self.functions.cublasLtMatmulDescSetAttribute(
                self.operation, attribute, byref(value), c_size_t(ctypes.sizeof(value))
            )
        )

    def _layout(self, operand: Operand, kind: int, batch: int) -> c_void_p:
        """Of the transpose, in column-major order: its columns are our rows."""
        rows, columns = operand.columns, operand.rows
        if operand.transposed:
            rows, columns = columns, rows
        layout = c_void_p()
        check(
            self.functions.cublasLtMatrixLayoutCreate(
                byref(layout), kind, c_uint64(rows), c_uint64(columns), c_int64(operand.step)
            )
        )
        batches = ((BATCH_COUNT, c_int32(batch)), (STRIDED_BATCH_OFFSET, c_int64(operand.batch_step)))
        for attribute, value in batches if batch > 1 else ():
            check(
                self.functions.cublasLtMatrixLayoutSetAttribute(
                    layout, attribute, byref(value), c_size_t(ctypes.sizeof(value))
                )
            )
        return layout

    def _offered(self, most: int, narrow: bool, *alignments: int) -> list[Heuristic]:
        """The algorithms that cuBLASLt takes for the fastest, that one first.

        narrow: whether results are of 16 bits. Where several blocks add up one sum, its parts are then kept
        in float32: rounded to the result's dtype they lose digits, and overflow in float16.
        """
        preference, found, count = c_void_p(), (Heuristic * most)(), c_int()
        check(self.functions.cublasLtMatmulPreferenceCreate(byref(preference)))
        wanted = (
            (MAX_WORKSPACE_BYTES, c_uint64(WORKSPACE)),
            *(((REDUCTION_SCHEME_MASK, c_uint32(REDUCTION_SCHEME_COMPUTE_TYPE)),) if narrow else ()),
            *zip(MIN_ALIGNMENTS, map(c_uint32, alignments), strict=True),
        )
        try:
            for attribute, value in wanted:
                check(
                    self.functions.cublasLtMatmulPreferenceSetAttribute(
                        preference, attribute, byref(value), c_size_t(ctypes.sizeof(value))
                    )
                )
            B, A, Y = self.layouts
            check(
                self.functions.cublasLtMatmulAlgoGetHeuristic(
                    self.handle, self.operation, B, A, Y, Y, preference, most, byref(found), byref(count)
                )
            )
        finally:
            self.functions.cublasLtMatmulPreferenceDestroy(preference)
        offered = [algorithm for algorithm in found[: count.value] if algorithm.state == 0]
        if not offered:
            raise Unavailable("no algorithm for this product")
        return offered

    def run(self, A: int, B: int, bias: int, Y: int) -> None:
        """Start the product of what lies at these addresses, on the current stream."""
        if bias:
            self._set(BIAS_POINTER, c_void_p(bias))

        def start(k: int, stream: Any) -> None:
            b, a, y = self.layouts
            check(
                self.functions.cublasLtMatmul(
                    *(self.handle, self.operation, byref(self.one)),
                    *(c_void_p(B), b, c_void_p(A), a, byref(self.zero), c_void_p(Y), y, c_void_p(Y), y),
                    *(byref(self.algorithms[k]), c_void_p(_workspace(stream)), c_size_t(WORKSPACE)),
                    c_void_p(stream.ptr),
                )
            )

        if self.untried and tuning.possible():
            self.algorithms = [self.algorithms[tuning.fastest(len(self.algorithms), start)]]
            self.untried = False
        start(0, cupy.cuda.get_current_stream())

    def __del__(self) -> None:
        for layout in getattr(self, "layouts", ()):
            self.functions.cublasLtMatrixLayoutDestroy(layout)
        if getattr(self, "operation", None):
            self.functions.cublasLtMatmulDescDestroy(self.operation)


class _OfThread(threading.local):
    """Handles and plans, which no two threads may use at once: a plan's bias is set before each call."""

    def __init__(self) -> None:
        self.handles: dict[int, c_void_p] = {}
        self.plans: dict[tuple[int, Problem], Plan | None] = {}
        self.workspaces: dict[tuple[int, int], Any] = {}


_mine = _OfThread()


def product(A: Any, B: Any, bias: Any = None, activation: str | None = None) -> Any:
    """activation(A B + bias), or NotImplemented where cuBLASLt can't.

    A: (..., n, k)   B: (..., k, m)   bias: m numbers   activation: None, "relu" or "gelu" (by tanh)
    """
    name = A.dtype.name
    if name not in TYPES or A.dtype != B.dtype or 0 in (*A.shape, *B.shape) or min(A.ndim, B.ndim) < 2:
        return NotImplemented
    if name == "float64" and (bias is not None or activation):
        return NotImplemented
    library = load()
    if library is None:
        return NotImplemented
    A, B = (M if _steps(M) else cupy.ascontiguousarray(M) for M in (A, B))
    batch = np.broadcast_shapes(A.shape[:-2], B.shape[:-2]) if A.ndim > 2 or B.ndim > 2 else ()
    Y = cupy.empty((*batch, A.shape[-2], B.shape[-1]), A.dtype)
    if batch:
        A, B = (_at_equal_distances(cupy.broadcast_to(M, (*batch, *M.shape[-2:]))) for M in (A, B))
    if bias is not None:
        bias = aligned(bias.astype(A.dtype, copy=False))
    try:
        _fill(library, A, B, bias, activation, Y)
    except Unavailable:
        return NotImplemented
    return Y


def _fill(library: Any, A: Any, B: Any, bias: Any, activation: str | None, Y: Any) -> None:
    """Y = A B: in one call if the matrices of each lie at equal distances, else along the first axis."""
    steps = [_batch_step(M) for M in (A, B)]
    if None in steps:
        for a, b, y in zip(A, B, Y, strict=True):
            _fill(library, a, b, bias, activation, y)
        return
    a, b = (_operand(M, step) for M, step in zip((A, B), steps, strict=True))
    y = _operand(Y, Y.shape[-2] * Y.shape[-1])
    tf32 = A.dtype.name == "float32" and rounds_to_tf32()
    batch = math.prod(Y.shape[:-2])
    problem = Problem(a, b, y, batch, A.dtype.name, bias is not None, activation, tf32, tuning.allowed())
    plan = _plan(library, cupy.cuda.Device().id, problem)
    if plan is None:
        raise Unavailable
    plan.run(A.data.ptr, B.data.ptr, 0 if bias is None else bias.data.ptr, Y.data.ptr)


def _workspace(stream: Any) -> int:
    """The address of this stream's: products on two streams may run at the same time."""
    place = cupy.cuda.Device().id, stream.ptr
    workspace = _mine.workspaces.get(place)
    if workspace is None:
        workspace = _mine.workspaces[place] = cupy.empty(WORKSPACE, cupy.uint8)
    return workspace.data.ptr


def rounds_to_tf32() -> bool:
    """Whether products of float32 may be computed in TF32, whose numbers have 11 significant bits."""
    return select.precision.get() == "relaxed" or os.environ.get("CUPY_TF32") == "1"


@contextlib.contextmanager
def workspaces_in(place: dict[tuple[int, int], Any]) -> Iterator[None]:
    """Inside, products have theirs there: a graph may run beside others, on another stream."""
    before, _mine.workspaces = _mine.workspaces, place
    try:
        yield
    finally:
        _mine.workspaces = before


def _plan(library: Any, device: int, problem: Problem) -> Plan | None:
    """The plan, kept from before or made now; None where cuBLASLt has no algorithm."""
    plans = _mine.plans
    try:
        return plans[device, problem]
    except KeyError:
        pass
    if len(plans) >= _MOST_PLANS:
        del plans[next(iter(plans))]
    handle = _mine.handles.get(device)
    if handle is None:
        handle = c_void_p()
        check(library.cublasLtCreate(byref(handle)))
        _mine.handles[device] = handle
    try:
        plan = Plan(library, handle, problem)
    except Unavailable:
        plan = None
    plans[device, problem] = plan
    return plan


def _operand(M: Any, batch_step: Any) -> Operand:
    transposed, step = _steps(M)  # type: ignore[misc]
    rows, columns = M.shape[-2:]
    alignment = min(M.data.ptr & -M.data.ptr, _BEST_ALIGNMENT)
    return Operand(rows, columns, transposed, step, batch_step, alignment)


def _steps(M: Any) -> tuple[bool, int] | None:
    """Whether columns are contiguous, not rows, and the step between their starts; None if neither are."""
    (rows, columns), (down, right) = M.shape[-2:], M.strides[-2:]
    size = M.itemsize
    if right == size or columns == 1:
        step = down // size if rows > 1 else columns
        if step >= columns and down % size == 0:
            return False, step
    if down == size or rows == 1:
        step = right // size if columns > 1 else rows
        if step >= rows and right % size == 0:
            return True, step
    return None


def _at_equal_distances(M: Any) -> Any:
    """M, or a copy of it, as of the heads of an attention, unless a matrix of it stands for many."""
    one_for_many = any(stride == 0 < size - 1 for size, stride in zip(M.shape, M.strides, strict=True))
    return M if one_for_many or _batch_step(M) is not None else cupy.ascontiguousarray(M)


def _batch_step(M: Any) -> int | None:
    """Elements from matrix to matrix of a batch, or None if that differs."""
    axes: Sequence[tuple[int, int]] = [
        (size, stride) for size, stride in zip(M.shape[:-2], M.strides[:-2], strict=True) if size > 1
    ]
    for (_, stride), (inner, inner_stride) in itertools.pairwise(axes):
        if stride != inner * inner_stride:
            return None
    return axes[-1][1] // M.itemsize if axes else 0


def check(status: int) -> None:
    """Raise Unavailable unless a call succeeded."""
    if status:
        raise Unavailable(f"cuBLASLt: status {status}")


@functools.cache
def load() -> Any:
    """The library, or None: beside CuPy's own, found as CuPy finds its own."""
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublasLt").abs_path)
    except Exception:  # no such package, as before CuPy 14, or no such library
        return None
