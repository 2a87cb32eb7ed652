"""Functions as CUDA graphs, without a GPU: a stand-in for CuPy notes what a capture does, and repeats it."""

import contextlib
import gc
import importlib
import threading

import numpy as np
import pytest

from .pretend import kernel_of, pretended


@pytest.fixture
def cupy():
    with pretended() as cupy:
        yield cupy


def captured(function):
    return importlib.import_module("deepcore.backends.cupy.graph").Captured(function)


def draw(cupy, *shape, seed=0):
    return cupy.array(np.random.default_rng(seed).standard_normal(shape).astype("float32"))


def step(state, X, rate):
    """A linear map's gradient step by deepcore's own kernels, with a memory; `frozen` doesn't come out."""
    W, b = state["weights"]["W"], state["weights"]["b"]
    Y = kernel_of("activation.tanh")(kernel_of("linear.linear")(X, W, b)) * state["weights"]["frozen"]
    _, dW, db = kernel_of("linear.linear_backward")(Y, X, W)
    V = 0.9 * state["memory"]["V"] + dW
    return {
        "weights": {"W": W - rate * V, "b": b - rate * db},
        "memory": {"V": V},
        "loss": (Y * Y).sum(),
    }


def new_state(cupy):
    return {
        "weights": {"W": draw(cupy, 4, 3), "b": draw(cupy, 1, 3, seed=1), "frozen": draw(cupy, 1, 3, seed=2)},
        "memory": {"V": draw(cupy, 4, 3, seed=3)},
    }


def after(state, new):
    return {name: state[name] | new[name] for name in state}


def steps(cupy, function, count, state=None, between=None):
    """States, losses, in NumPy, of so many steps, each with an X and a rate of its own."""
    state = new_state(cupy) if state is None else state
    states, losses = [], []
    for t in range(count):
        if between:
            between(t, state)
        new = function(state, draw(cupy, 5, 4, seed=10 + t), cupy.array(np.float32(0.1 / (t + 1))))
        state = after(state, new)
        states.append({k: np.array(v) for part in state.values() for k, v in part.items()})
        losses.append(new["loss"])
    return states, [float(loss) for loss in losses]


def same(got, wanted):
    assert got[1] == wanted[1]
    for a, b in zip(got[0], wanted[0], strict=True):
        assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_steps_are_those_of_the_function(cupy):
    calls = []

    def counted(*arguments):
        calls.append(1)
        return step(*arguments)

    graph = captured(counted)
    same(steps(cupy, graph, 7), steps(cupy, step, 7))
    assert graph.why_not is None and len(graph.graphs) == 2
    assert len(calls) == 3  # as it is, and once for each of the graphs


def test_the_pool_of_graphs_that_are_gone_is_used_again(cupy):
    """CuPy never gives back what is free in a pool that is dropped."""
    graph = captured(step)
    steps(cupy, graph, 4)
    pool = graph.pool
    assert pool.freed == 0
    del graph
    gc.collect()
    assert pool.freed == 1 and captured(step).pool is pool
    first, second = captured(step), captured(step)
    assert first.pool is pool and second.pool is not pool


@pytest.mark.parametrize("enough", [True, False])
@pytest.mark.parametrize("capturing", [True, False])
def test_where_memory_runs_out_no_pool_of_graphs_gives_up_its_own(capturing, enough, cupy, monkeypatch):
    """CuPy's would, at a CUDARuntimeError: memory that kernels use which are in a graph already."""
    others = cupy.get_default_memory_pool()

    def scarce(size):
        if not (enough and others.freed):
            raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        return size

    monkeypatch.setattr(cupy.cuda, "Memory", scarce, raising=False)
    grow, stream = captured(step).pool.allocator, cupy.cuda.Stream(non_blocking=True)
    with stream, contextlib.ExitStack() as stack:
        if capturing:
            stream.begin_capture()
            stack.callback(stream.end_capture)
        if enough:
            assert grow(512) == (512, 0) and others.freed == 1
            return
        with pytest.raises(MemoryError if capturing else cupy.cuda.runtime.CUDARuntimeError):
            grow(512)


def test_what_a_step_leaves_is_not_copied(cupy):
    graph, state, seen = captured(step), new_state(cupy), []
    for _ in range(6):
        state = after(state, graph(state, draw(cupy, 5, 4), cupy.array(np.float32(0.1))))
        seen.append(state["weights"]["W"])
    first, second, third, fourth, fifth, sixth = seen
    assert second is fourth is sixth and third is fifth and first is not third is not second


def test_while_a_step_runs_what_went_into_it_stays_whole(cupy):
    """A step whose result is thrown away has changed nothing, and is made again with the same result."""
    graph, state = captured(step), new_state(cupy)
    for _ in range(5):
        before = {k: np.array(v) for part in state.values() for k, v in part.items()}
        X = draw(cupy, 5, 4)
        once, twice = (float(graph(state, X, cupy.array(np.float32(0.1)))["loss"]) for _ in range(2))
        now = {k: np.array(v) for part in state.values() for k, v in part.items()}
        assert once == twice and all(np.array_equal(before[k], now[k]) for k in before)
        state = after(state, graph(state, X, cupy.array(np.float32(0.1))))


@pytest.mark.parametrize("when", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["W", "b", "frozen"])
def test_a_weight_that_was_replaced(when, name, cupy):
    def replace(t, state):
        if t == when:
            state["weights"][name] = cupy.array(np.array(state["weights"][name]) + 1)

    graph = captured(step)
    same(steps(cupy, graph, 9, between=replace), steps(cupy, step, 9, between=replace))
    assert graph.why_not is None


def test_an_earlier_loss_keeps_its_number(cupy):
    graph, state = captured(step), new_state(cupy)
    losses = []
    for t in range(6):
        new = graph(state, draw(cupy, 5, 4, seed=t), cupy.array(np.float32(0.1)))
        state = after(state, new)
        losses.append((new["loss"], float(new["loss"])))
    assert all(float(loss) == number for loss, number in losses)


def test_beside_the_graphs_nobody_has_memory_from_their_pool(cupy):
    """What is free there is where a graph keeps its own: a later launch would write over it."""
    used = []

    def noted(*arguments):
        used.append(len(cupy.allocators))
        return step(*arguments)

    def replace(t, state):
        if t == 4:
            state["weights"]["W"] = cupy.array(np.array(state["weights"]["W"]))

    steps(cupy, captured(noted), 7, between=replace)
    assert used == [1, 1, 1, 0]  # as it is, two captures, and once more as it is


@pytest.mark.parametrize("fault", ["reads", "sends", "matmul"])
def test_what_cannot_be_captured_runs_as_it_is(fault, cupy):
    def faulty(state, X, rate):
        if fault == "reads" and float(rate) > 1:
            raise AssertionError
        if fault == "sends":
            rate = rate * cupy.asarray(np.ones(1, "float32"))
        return step(state, X, rate)

    if fault == "matmul":
        cupy.cublaslt.supported = False
    graph = captured(faulty)
    same(steps(cupy, graph, 5), steps(cupy, step, 5))
    why = {"reads": "read on the host", "sends": "sent to the GPU", "matmul": "stream of a cuBLAS handle"}
    assert why[fault] in graph.why_not and graph.graphs == []
    assert cupy.pinned.malloc is cupy.usual_pinned.malloc and cupy.allocators == []
    assert len(cupy.streams) == 1


def test_it_runs_after_the_callers_work_and_before_what_comes(cupy):
    caller = cupy.cuda.get_current_stream()
    graph = captured(step)
    steps(cupy, graph, 1)
    (aside,) = caller.waited_for
    assert aside.non_blocking and aside.waited_for == [caller]


def test_a_workspace_outlives_the_thread_that_made_it(cupy):
    graph = captured(step)
    thread = threading.Thread(target=lambda: steps(cupy, graph, 3))
    thread.start()
    thread.join()
    (used,) = {product["workspace"][0] for product in cupy.cublaslt.products}
    assert used in {workspace.data.ptr for workspace in graph.workspaces.values()}


def test_two_graphs_of_a_thread_have_a_workspace_each(cupy):
    """Two streams may run them at the same time."""
    graphs, used = [captured(step) for _ in range(2)], []
    for graph in graphs:
        cupy.cublaslt.products.clear()
        steps(cupy, graph, 4)
        used.append({product["workspace"][0] for product in cupy.cublaslt.products})
    first, second = used
    assert len(first) == len(second) == 1 and first != second


def test_arrays_of_the_host_are_sent_once(cupy):
    graph, sent = captured(lambda X, s: (X * s,)), []
    rates = [np.full((), rate, "float32") for rate in (1, 1, 2, 3)]
    for t, rate in enumerate([rates[0], rates[1], rates[2], rates[2], rates[3]]):
        X = draw(cupy, 4, 3, seed=t).T  # its rows aren't contiguous
        (product,) = graph(X, rate)
        assert np.array_equal(product, X * rate)
        sent.append(graph.sent.get(1))
    assert graph.why_not is None and sent[-1] is rates[3] and sent[2] is rates[2]


def test_a_function_without_state(cupy):
    graph = captured(lambda X, s: (X * s, {"twice": X + X}))
    for t in range(4):
        X = draw(cupy, 3, seed=t)
        product, rest = graph(X, cupy.array(np.float32(t)))
        assert np.array_equal(product, X * np.float32(t)) and np.array_equal(rest["twice"], X + X)
