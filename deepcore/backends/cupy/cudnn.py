"""Convolution, and what attention.py asks for, by NVIDIA's cuDNN: deepcore[cudnn] and the library itself.

cuDNN is given a graph, here of a single node, and offers plans for it: engines, each with its settings. A
plan is made once for each set of shapes, dtype and precision, and kept; to run it takes addresses, and a
workspace, which comes from CuPy's pool. A handle belongs to a stream, and so each stream has its own.

Where the package, the library or a plan is missing, or with DEEPCORE_CUDNN=0, deepcore does the work itself.

In float32 cuDNN rounds to TF32 wherever an engine of tensor cores is the fastest, unless such engines are
excluded: they are, but with precision "relaxed", or CUPY_TF32=1. float16 and bfloat16 are added up in
float32. Engines that give other bits in every run are excluded too. Of the rest the first is taken; where
tuning.py allows it, the fastest.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cupy

from deepcore.backends.cupy import tuning
from deepcore.backends.cupy.cublaslt import rounds_to_tf32
from deepcore.backends.cupy.kernels import aligned
from deepcore.shapes import Padding

TYPES = {"float16": "HALF", "bfloat16": "BFLOAT16", "float32": "FLOAT"}  # cudnn.data_type
# cudnn.numerical_note of engines that are never used; of those that aren't where float32 means float32
NEVER = ("NONDETERMINISTIC", "REDUCED_PRECISION_REDUCTION", "DOWN_CONVERT_INPUTS")
ROUGH = ("TENSOR_CORE", "WINOGRAD_TILE_6x6", "WINOGRAD_TILE_13x13")
_MOST_PLANS = 1024
_MOST_TRIED = 8  # plans for one problem

Shape = tuple[int, ...]


class Unavailable(Exception):
    """cuDNN has no plan for this."""


@dataclass(frozen=True)
class Convolution:
    """All that a plan depends on. X: (n, c, *sizes)   W: (f, c/g, *window)   Y: (n, f, *out)

    kind: "fprop", Y of X and W; "dgrad", dX of dY and W; "wgrad", dW of dY and X
    """

    kind: str
    X: Shape
    W: Shape
    Y: Shape
    stride: Shape
    before: Shape  # zeros before each axis, and after it
    after: Shape
    dilation: Shape
    dtype: str
    rough: bool  # whether float32 may be rounded
    tuned: bool  # whether plans may be tried

    def operands(self) -> tuple[Shape, Shape, Shape]:
        """The shapes of the two that are given and of the result."""
        shapes = {"fprop": (self.X, self.W, self.Y), "dgrad": (self.Y, self.W, self.X)}
        return shapes.get(self.kind, (self.Y, self.X, self.W))

    def describe(self, cudnn: Any, **where: Any) -> tuple[Any, list[Any]]:
        """The graph, and its tensors: the two that are given, and the result.   where: handle, if any"""
        number = getattr(cudnn.data_type, TYPES[self.dtype])
        graph = cudnn.pygraph(
            io_data_type=number,
            intermediate_data_type=cudnn.data_type.FLOAT,
            compute_data_type=cudnn.data_type.FLOAT,
            **where,
        )
        *given, of_result = self.operands()
        A, B = (
            graph.tensor(name=name, dim=list(shape), stride=steps(shape), data_type=number)
            for name, shape in zip(("A", "B"), given, strict=True)
        )
        geometry = {
            "pre_padding": list(self.before),
            "post_padding": list(self.after),
            "stride": list(self.stride),
            "dilation": list(self.dilation),
        }
        if self.kind == "fprop":
            result = graph.conv_fprop(image=A, weight=B, **geometry)
        elif self.kind == "dgrad":
            result = graph.conv_dgrad(loss=A, filter=B, **geometry)
        else:
            result = graph.conv_wgrad(image=B, loss=A, **geometry)
        result.set_output(True)
        result.set_data_type(number)
        result.set_dim(list(of_result))
        result.set_stride(steps(of_result))
        return graph, [A, B, result]


def conv(
    X: Any, W: Any, shape: Shape, stride: Sequence[int], padding: Padding, dilation: Sequence[int]
) -> Any:
    """Y = W * X, without the bias; NotImplemented where cuDNN can't, as of all that follows."""
    return _run("fprop", X, W, X.shape, W.shape, shape, stride, padding, dilation)


def conv_dX(
    dY: Any, W: Any, shape: Shape, stride: Sequence[int], padding: Padding, dilation: Sequence[int]
) -> Any:
    """dX, of this shape."""
    return _run("dgrad", dY, W, shape, W.shape, dY.shape, stride, padding, dilation)


def conv_dW(
    dY: Any, X: Any, shape: Shape, stride: Sequence[int], padding: Padding, dilation: Sequence[int]
) -> Any:
    """dW, of this shape."""
    return _run("wgrad", dY, X, X.shape, shape, dY.shape, stride, padding, dilation)


def _run(
    kind: str,
    A: Any,
    B: Any,
    X: Shape,
    W: Shape,
    Y: Shape,
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
) -> Any:
    if A.dtype.name not in TYPES or load() is None:
        return NotImplemented
    lines = len(X) == 3  # cuDNN knows two axes and three: a line is an image of height 1

    def two(numbers: Sequence[int], of_height: int) -> Shape:
        return (*numbers[:-1], of_height, numbers[-1]) if lines else tuple(numbers)

    before, after = zip(*padding, strict=True)
    problem = Convolution(
        kind,
        X=two(X, 1),
        W=two(W, 1),
        Y=two(Y, 1),
        stride=two(stride, 1),
        before=two(before, 0),
        after=two(after, 0),
        dilation=two(dilation, 1),
        dtype=A.dtype.name,
        rough=A.dtype.name != "float32" or rounds_to_tf32(),
        tuned=tuning.allowed(),
    )
    result = cupy.empty({"fprop": Y, "dgrad": X}.get(kind, W), A.dtype)
    return result if run(problem, aligned(A), aligned(B), result) else NotImplemented


def run(problem: Any, *arrays: Any) -> bool:
    """Start the work on arrays, those of the problem's tensors; False where cuDNN can't."""
    plan = _plan(problem)
    if plan is None:
        return False
    try:
        plan.run(*arrays)
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, from C++
        _mine.plans[cupy.cuda.Device().id, problem] = None
        logging.getLogger("deepcore").warning("cuDNN failed, and is not used for %s: %s", problem, error)
        return False
    return True


# ---- plans


def plans_for(cudnn: Any, graph: Any, problem: Any) -> dict[int, int]:
    """The numbers of plans that can be built, and the bytes of workspace that each needs.

    The first is the one that cuDNN takes for the fastest.
    """
    modes, notes = cudnn.heur_mode, cudnn.numerical_note
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([modes.A, modes.FALLBACK])
    # an older package may not know a name
    unwanted = [getattr(notes, name, None) for name in (*NEVER, *(() if problem.rough else ROUGH))]
    graph.deselect_numeric_notes([note for note in unwanted if note is not None])
    built: dict[int, int] = {}
    for number in range(graph.get_execution_plan_count()):
        if len(built) == (_MOST_TRIED if problem.tuned else 1):
            break
        with contextlib.suppress(Exception):  # it is excluded, or not for this GPU
            graph.build_plan_at_index(number)
            built[number] = graph.get_workspace_size_plan_at_index(number)
    return built


class Plan:
    """A graph, and its plans: the first one is used; there are others until they have been tried."""

    def __init__(self, cudnn: Any, problem: Any):
        self.graph, self.tensors = problem.describe(cudnn, handle=_handle(cudnn))
        self.cudnn, self.plans = cudnn, plans_for(cudnn, self.graph, problem)
        if not self.plans:
            raise Unavailable("no plan that is precise enough and gives the same bits each time")

    def run(self, *arrays: Any) -> None:
        """Start the work on the current stream: the first two arrays are read, the last one is written."""
        numbers, workspace = list(self.plans), cupy.empty(max(self.plans.values()), cupy.uint8)
        addresses = {tensor: x.data.ptr for tensor, x in zip(self.tensors, arrays, strict=True)}

        def start(k: int, stream: Any) -> None:
            self.graph.execute_plan_at_index(
                addresses, workspace.data.ptr, numbers[k], handle=_handle(self.cudnn, stream)
            )

        first = 0
        if len(numbers) > 1 and tuning.possible():
            first = tuning.fastest(len(numbers), start)
            self.plans = {numbers[first]: self.plans[numbers[first]]}
        start(first, cupy.cuda.get_current_stream())


class _OfThread(threading.local):
    """Handles and plans, which no two threads may use at once."""

    def __init__(self) -> None:
        self.handles: dict[tuple[int, int], Any] = {}
        self.plans: dict[tuple[int, Any], Plan | None] = {}


_mine = _OfThread()


def in_use() -> list[Any]:
    """This thread's plans and handles, which must live as long as a graph that was captured in it."""
    return [*filter(None, _mine.plans.values()), *_mine.handles.values()]


def _plan(problem: Any) -> Plan | None:
    """The plan, kept from before or made now; None where cuDNN has none."""
    place = cupy.cuda.Device().id, problem
    plans = _mine.plans
    if place not in plans:
        if len(plans) >= _MOST_PLANS:
            del plans[next(iter(plans))]
        try:
            plans[place] = Plan(load(), problem)
        except MemoryError:
            raise
        except Exception as error:  # of many kinds, from C++
            logging.getLogger("deepcore").debug("cuDNN has no plan for %s: %s", problem, error)
            plans[place] = None
    return plans[place]


def _handle(cudnn: Any, stream: Any = None) -> Any:
    """The handle of this thread for a stream, or the current one."""
    stream = (cupy.cuda.get_current_stream() if stream is None else stream).ptr
    place = cupy.cuda.Device().id, stream
    handle = _mine.handles.get(place)
    if handle is None:
        handle = _mine.handles[place] = cudnn.create_handle()
        cudnn.set_stream(handle, stream)
    return handle


def steps(shape: Sequence[int]) -> list[int]:
    """Elements from one to the next along each axis, row-major."""
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


@functools.cache
def load() -> Any:
    """The package cudnn with the library that it needs, or None."""
    if os.environ.get("DEEPCORE_CUDNN") == "0":
        return None
    for name in ("cudart", "cudnn"):  # what is loaded already the package finds by name, wherever it lies
        with contextlib.suppress(Exception):
            importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib(name)
    try:
        cudnn = importlib.import_module("cudnn")
        cudnn.backend_version()
        return cudnn
    except Exception:  # no such package, or no such library
        return None
