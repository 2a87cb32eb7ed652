"""A function of arrays as a CUDA graph: captured once, then launched with a single call.

A graph reads and writes fixed memory. So it has input arrays of its own, which each call fills, and a later
call overwrites what it returns. Some of what comes out, such as new weights, is what goes into the next call:
which results these are is seen when it happens first. From then on two graphs take turns: one reads the
inputs and leaves its results where they fall, the other reads those and leaves its own in the inputs. Nothing
is copied that the call before has left, and while a call runs, what went into it stays whole.

The first call runs as it is, on the stream and in the memory pool of the graphs: kernels are compiled,
libraries started, workspaces made. Once there are graphs, nobody else may have memory from their pool: what
is free in it is where a graph keeps what it needs between its kernels. What can't be captured (a number read
on the host, an array sent to the GPU, a product by another library than cuBLASLt) raises; from then on the
function runs as it is.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cupy

from deepcore.backends.cupy import cublaslt, cudnn, update
from deepcore.backends.cupy.streams import aside
from deepcore.errors import UnsupportedError


class Captured:
    """function(*arguments) for one set of shapes: dicts and tuples of arrays, nested, in and out.

    why_not: why it isn't captured, or None. Arrays that come out and go into the next call belong to the
    graphs: the call after that one changes them. All others are new. An array that goes in may be NumPy's, if
    nobody changes it afterwards: the same one again is not sent again.
    """

    takes_host_arrays = True

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.why_not: str | None = None
        self.pool = _idle.pop() if _idle else cupy.cuda.MemoryPool(_more)
        self.warm = False
        self.inputs: list[Any] = []  # the leaves of the arguments, by number
        # the one that reads the inputs; the one that reads the first one's results
        self.graphs: list[Any] = []
        self.results: list[list[Any]] = []  # of each graph, the leaves of what the function returned
        self.fed_back: dict[int, int] = {}  # an input -> the result that it was
        self.given: list[Any] = []  # the last call's results, until it is known which are fed back
        self.form_of_result: Any = None
        self.sent: dict[int, Any] = {}  # the arrays of the host that the inputs hold
        self.workspaces: dict[tuple[int, int], Any] = {}  # of its products, and of nobody else's
        self.kept: list[Any] = []  # plans that the graphs use, and that somebody else may give up

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns, in the order of the current stream."""
        if self.why_not is not None:
            return self.function(*_sent(arguments))
        if not self.warm:
            self.warm = True
            result = self._as_it_is(arguments)
            self.given = _leaves(result)
            return result
        leaves = _leaves(arguments)
        if self.given:
            given = list(enumerate(self.given))
            self.fed_back = {i: o for i, x in enumerate(leaves) for o, y in given if x is y}
            self.given = []
        if not self.graphs:
            self.inputs = [_sent(array).copy() for array in leaves]
            if not self._capture(arguments, self.inputs, back=False):
                return self.function(*_sent(arguments))
        turn, ours = 0, [leaves[i] is self.results[0][o] for i, o in self.fed_back.items()]
        if any(ours):
            if not all(ours):  # a weight was replaced; a graph would overwrite the others, still in use
                return self._as_it_is(arguments)
            turn = 1
            if len(self.graphs) == 1:
                inputs = list(self.inputs)
                for i, o in self.fed_back.items():
                    inputs[i] = self.results[0][o]
                if not self._capture(arguments, inputs, back=True):
                    return self.function(*_sent(arguments))
        for i, (there, array) in enumerate(zip(self.inputs, leaves, strict=True)):
            if array is not there and not (turn == 1 and i in self.fed_back):
                self._fill(i, there, array)
        self.graphs[turn].launch()
        return self._given_out(turn)

    def _as_it_is(self, arguments: Any) -> Any:
        with aside(), contextlib.nullcontext() if self.graphs else self._memory():
            return self.function(*_sent(arguments))

    def _fill(self, i: int, there: Any, array: Any) -> None:
        """there[...] = array, for input i: by one call of the driver, if both are in one piece."""
        if not isinstance(array, cupy.ndarray):
            if self.sent.get(i) is not array:
                self.sent[i] = array
                there.data.copy_from_host_async(array.ctypes.data, array.nbytes)
        elif array.flags.c_contiguous and there.flags.c_contiguous:
            there.data.copy_from_device_async(array.data, array.nbytes)
        else:
            there[...] = array

    def _given_out(self, turn: int) -> Any:
        """The results: those that are fed back where they lie, copies of the others."""
        results = self.results[0]
        kept = {o: self.inputs[i] if turn == 1 else results[o] for i, o in self.fed_back.items()}
        outputs = [kept[o] if o in kept else x.copy() for o, x in enumerate(self.results[turn])]
        if not self.fed_back:
            self.given = outputs
        return _filled(self.form_of_result, outputs)

    def _capture(self, arguments: Any, inputs: list[Any], back: bool) -> bool:
        """Capture the function of these arrays. back: results that are fed back go into self.inputs.

        False where that is impossible: self.why_not says why.
        """
        try:
            with aside() as stream, self._memory(), _nothing_sent():
                if back:  # onto themselves: the kernel for it is loaded, which a capture may not do
                    update.copy_all([(self.inputs[i], self.inputs[i]) for i in self.fed_back])
                stream.begin_capture()
                try:
                    result = self.function(*_filled(arguments, inputs))
                    results = _leaves(result)
                    if back:
                        update.copy_all([(self.inputs[i], results[o]) for i, o in self.fed_back.items()])
                finally:
                    graph = stream.end_capture()
        except (
            Exception
        ) as error:  # of CUDA, of CuPy, of a library: whatever it is, the function itself still runs
            self.why_not = f"{type(error).__name__}: {error}"
            logging.getLogger("deepcore").debug("a step is not captured in a CUDA graph: %s", self.why_not)
            self._forget()
            return False
        if not back:
            self.form_of_result = result
        self.graphs.append(graph)
        self.kept += cudnn.in_use()
        self.results.append(results)
        return True

    @contextlib.contextmanager
    def _memory(self) -> Iterator[None]:
        """New arrays lie in the graphs' pool, and products have workspaces of the graphs' own."""
        with cupy.cuda.using_allocator(self.pool.malloc), cublaslt.workspaces_in(self.workspaces):
            yield

    def _forget(self) -> None:
        """Give up the graphs and their memory, but for arrays that somebody else has."""
        self.graphs, self.results, self.inputs, self.given, self.kept = [], [], [], [], []
        self.workspaces.clear()
        self.pool.free_all_blocks()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            with contextlib.suppress(Exception):  # of a GPU that is lost, say
                self._forget()
            _idle.append(self.pool)


_idle: list[Any] = []  # pools of graphs that are gone; what is free in a pool CuPy loses with the pool


def _more(size: int) -> Any:
    """More of the device's memory, for a pool of graphs: where there is none, others give up what is free.

    Not this pool too, as CuPy would have it: while a graph is captured, the kernels so far use that.
    """
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError:
        for pool in (cupy.get_default_memory_pool(), *_idle):
            pool.free_all_blocks()
    try:
        return cupy.cuda.MemoryPointer(cupy.cuda.Memory(size), 0)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        if not cupy.cuda.get_current_stream().is_capturing():
            raise
        raise MemoryError(f"out of memory allocating {size} bytes while a graph is captured") from error


@contextlib.contextmanager
def _nothing_sent() -> Iterator[None]:
    """Refuse to send an array of the host's: a graph would read its memory again, whatever is there then."""
    usual, thread = cupy.get_default_pinned_memory_pool().malloc, threading.get_ident()

    def malloc(size: int) -> Any:
        if threading.get_ident() == thread:
            raise UnsupportedError("an array of the host's is sent to the GPU in every call")
        return usual(size)

    cupy.cuda.set_pinned_memory_allocator(malloc)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(usual)


def _sent(tree: Any) -> Any:
    """A tree of the same form with all arrays on the device."""
    return _filled(tree, [cupy.asarray(x) for x in _leaves(tree)])


_BRANCHES = frozenset({dict, tuple})


def _leaves(tree: Any) -> list[Any]:
    """The arrays of nested dicts and tuples, in order."""
    if type(tree) not in _BRANCHES:
        return [tree]
    leaves = []
    for branch in tree.values() if type(tree) is dict else tree:
        if type(branch) in _BRANCHES:
            leaves += _leaves(branch)
        else:
            leaves.append(branch)
    return leaves


def _filled(tree: Any, leaves: list[Any]) -> Any:
    """A tree of the same form with these arrays."""
    if type(tree) is tuple and _BRANCHES.isdisjoint(map(type, tree)):  # nothing in it is nested
        return tuple(leaves)
    return _grown(tree, iter(leaves))


def _grown(tree: Any, leaves: Iterator[Any]) -> Any:
    if type(tree) is dict:
        return {name: _grown(branch, leaves) for name, branch in tree.items()}
    if type(tree) is tuple:
        return tuple(_grown(branch, leaves) for branch in tree)
    return next(leaves)
