"""Convolution by cuDNN, without a GPU: given to a stand-in for NVIDIA's package that works on the host."""

import importlib
import logging
import threading

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends import select
from deepcore.ops.dispatch import OPS

from .cases import TOLERANCE, cases, named, results
from .fake_cudnn import FakeCudnn
from .pretend import _do, kernel_of, pretended
from .test_emulation import NUMBERS
from .test_nets import cnn, losses, select_as_backend
from .test_pretended import there

CONVOLUTIONS = [case for case in cases(large=False) if case[0].startswith("conv.conv")]


@pytest.fixture
def cupy():
    with pretended() as cupy:
        cupy.cudnn = FakeCudnn(_do, cupy.cublaslt)
        yield cupy


def module():
    return importlib.import_module("deepcore.backends.cupy.cudnn")


def convolve(cupy, dtype="float32"):
    """An image and filters, convolved by CuPy's kernel, and by the reference."""
    how = ((1, 1), ((1, 1), (0, 1)), (1, 1), 1)
    pairs = [there(cupy, x, dtype) for x in (normal(2, 3, 5, 4), normal(4, 3, 3, 2, seed=1))]
    wanted = OPS["conv.conv"].reference(*(x for _, x in pairs), None, *how)
    return kernel_of("conv.conv")(*(x for x, _ in pairs), None, *how), wanted


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("dtype", [d for d in NUMBERS if d != "float64"])
def test_it_gives_what_the_references_give(dtype, cupy):
    for op, *arguments in CONVOLUTIONS:
        pairs = [there(cupy, x, dtype) for x in arguments]
        got, wanted = kernel_of(op)(*(x for x, _ in pairs)), OPS[op].reference(*(x for _, x in pairs))
        for a, e in zip(results(got), results(wanted), strict=True):
            case = named((op, *arguments))
            assert a.shape == e.shape and a.dtype.name == dtype, case
            atol = TOLERANCE[dtype] * np.abs(e).max()
            np.testing.assert_allclose(a.astype("f8"), e, TOLERANCE[dtype], atol, err_msg=case)
    assert len(cupy.cudnn.ran) == len(CONVOLUTIONS) and not cupy.launched


def test_a_plan_is_made_once_for_each_problem(cupy):
    for _ in range(3):
        convolve(cupy)
    assert len(cupy.cudnn.graphs) == 1 and len(cupy.cudnn.ran) == 3 and len(cupy.cudnn.handles) == 1
    convolve(cupy, "float16")
    assert len(cupy.cudnn.graphs) == 2


def test_each_stream_has_a_handle(cupy):
    convolve(cupy)
    other = cupy.cuda.Stream(non_blocking=True)
    with other:
        convolve(cupy)
    assert [stream for _, stream in cupy.cudnn.ran] == [cupy.cuda.get_current_stream().ptr, other.ptr]
    assert len(cupy.cudnn.graphs) == 1


PLANS = [("TENSOR_CORE",), ("NONDETERMINISTIC",), ("WINOGRAD_TILE_6x6",), ("FFT",), ()]


@pytest.mark.parametrize(
    "dtype, relaxed, number", [("float32", False, 3), ("float32", True, 0), ("float16", False, 0)]
)
def test_float32_is_float32_unless_precision_is_relaxed(dtype, relaxed, number, cupy, monkeypatch):
    monkeypatch.delenv("CUPY_TF32", raising=False)
    monkeypatch.setenv("DEEPCORE_AUTOTUNE", "0")
    cupy.cudnn = FakeCudnn(_do, cupy.cublaslt, PLANS)
    before = select.precision.set("relaxed" if relaxed else "float32")
    try:
        convolve(cupy, dtype)
    finally:
        select.precision.reset(before)
    assert [ran for ran, _ in cupy.cudnn.ran] == [number]


def test_the_fastest_plan_is_found_once(cupy, monkeypatch):
    monkeypatch.setenv("DEEPCORE_AUTOTUNE", "1")
    cupy.cudnn = FakeCudnn(_do, cupy.cublaslt, [(), (), ("TENSOR_CORE",), (), ()], [3.0, 2.0, 0.5, None, 4.0])
    for _ in range(2):
        got, wanted = convolve(cupy)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert {number for number, _ in cupy.cudnn.ran[:-2]} == {0, 1, 4}
    assert [number for number, _ in cupy.cudnn.ran[-2:]] == [1, 1]


@pytest.mark.parametrize("why", ["no plan", "no package", "float64", "fails"])
def test_what_it_cannot_do_is_done_without_it(why, cupy, caplog):
    if why == "no plan":
        cupy.cudnn = FakeCudnn(_do, cupy.cublaslt, [("NONDETERMINISTIC",)])
    elif why == "no package":
        cupy.cudnn = None
    elif why == "fails":

        def refuse(work):
            raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

        cupy.cudnn.start = refuse
    with caplog.at_level(logging.WARNING, "deepcore"):
        for _ in range(2):
            got, wanted = convolve(cupy, "float64" if why == "float64" else "float32")
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert any(name.startswith("windows_to_columns") for name in cupy.launched)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (why == "fails") and all("CUDNN_STATUS_EXECUTION_FAILED" in line for line in told)


def test_a_plan_outlives_the_thread_that_made_it(cupy):
    graph = importlib.import_module("deepcore.backends.cupy.graph").Captured(
        lambda X: (convolve(cupy)[0] * X,)
    )
    thread = threading.Thread(target=lambda: [graph(cupy.array(np.float32(t))) for t in range(3)])
    thread.start()
    thread.join()
    assert graph.why_not is None and len(graph.graphs) == 1
    assert [plan.graph for plan in graph.kept if isinstance(plan, module().Plan)] == cupy.cudnn.graphs
    assert all(any(handle is kept for kept in graph.kept) for handle in cupy.cudnn.handles)


# ---- attention

MASKS = {
    "none": None,
    "causal": np.tril(np.ones((6, 5), bool)),
    "of samples": np.random.default_rng(3).random((2, 1, 6, 5)) < 0.3,  # some queries may see nothing
    "of keys": np.array([1, 1, 0, 1, 0], bool)[None, :],
}


def heads(cupy, dtype, steps, seed):
    """(n, h, t, d), as split_heads leaves them: in memory (n, t, h, d)."""
    array, wide = there(cupy, normal(2, steps, 3, 8, seed=seed), dtype)
    return array.swapaxes(1, 2), wide.swapaxes(1, 2)


@pytest.mark.parametrize("planned", [True, False], ids=["", "gradient without a plan"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [d for d in NUMBERS if d.endswith("16")])
def test_attention_gives_what_the_references_give(dtype, mask, planned, cupy):
    allowed = MASKS[mask]
    arrays, wide = zip(*(heads(cupy, dtype, t, seed) for seed, t in enumerate((6, 5, 5, 6))), strict=True)
    on_gpu = None if allowed is None else cupy.array(allowed)
    Y, P = kernel_of("attention.attention")(*arrays[:3], on_gpu)
    if not planned:
        cupy.cudnn.plans = [("NONDETERMINISTIC",)]
    gradients = kernel_of("attention.attention_backward")(arrays[3], *arrays[:3], P)
    with np.errstate(invalid="ignore"):  # a query that sees nothing
        wanted_Y, wanted_P = OPS["attention.attention"].reference(*wide[:3], allowed)
    wanted = OPS["attention.attention_backward"].reference(wide[3], *wide[:3], wanted_P)
    found = (Y, P.P(), *gradients)
    for a, e in zip(found, (wanted_Y, wanted_P, *wanted), strict=True):
        assert a.shape == e.shape and a.dtype.name == dtype
        np.testing.assert_allclose(a.astype("f8"), e, rtol=0, atol=4 * TOLERANCE[dtype] * np.abs(e).max())
    assert np.array_equal(P[0, 1], P.P()[0, 1]) and len(cupy.cudnn.ran) == 1 + planned
    if mask == "of samples":
        assert (~allowed.any(-1)).any() and not Y.astype("f8")[:, 0][~allowed.any(-1)[:, 0]].any()


def test_attention_in_float32_is_left_to_the_reference(cupy):
    Q, K, V = (heads(cupy, "float32", 4, seed)[0] for seed in range(3))
    attention = kernel_of("attention.attention")
    assert attention(Q, K, V) is NotImplemented
    half = [x.astype("f2") for x in (Q, K, V)]
    assert attention(*(x[0] for x in half)) is NotImplemented  # no samples
    assert attention(*(x[..., :7] for x in half)) is NotImplemented  # rows that are no multiple of 16 bytes
    cupy.cudnn = None
    assert attention(*half) is NotImplemented


def test_a_transformer_in_16_bits_is_trained_and_captured_with_it(cupy, monkeypatch):
    select_as_backend(cupy, monkeypatch)
    found = []
    for library in (cupy.cudnn, None):
        cupy.cudnn = library
        dc.seed(0)
        layers = [dc.TransformerBlock(16, 2, causal=True), dc.Flatten(), dc.Linear(64, 3)]
        net = dc.Net(layers, dc.CrossEntropyLoss()).to("cupy")
        step, losses = net.compile(dc.optim.SGD(0.1), "fp16"), []
        for seed in range(5):
            X, y = cupy.array(normal(4, 4, 16, seed=seed).astype("f4")), cupy.array(np.arange(4) % 3)
            with np.errstate(over="ignore", invalid="ignore"):  # until the scale of the loss is small enough
                losses.append(float(step(X, y)))
        (program,) = step._programs.values()
        assert program.function.why_not is None
        found.append(losses)
        if library:
            assert len(library.graphs) == 2
    np.testing.assert_allclose(*found, rtol=0, atol=0.01)


def test_a_net_is_trained_and_captured_with_it(cupy, monkeypatch):
    select_as_backend(cupy, monkeypatch)
    got, weights, step = losses(cnn, dc.optim.SGD(0.1, momentum=0.9), "cupy", compiled=True)
    wanted, wanted_weights, _ = losses(cnn, dc.optim.SGD(0.1, momentum=0.9), "numpy", False)
    (program,) = step._programs.values()
    assert program.function.why_not is None and len(program.function.graphs) == 2
    assert len(cupy.cudnn.graphs) == 3  # of Y, dX and dW
    np.testing.assert_allclose(got, wanted, rtol=2e-5)
    for path, W in wanted_weights.items():
        np.testing.assert_allclose(weights[path], W, rtol=1e-4, atol=2e-5, err_msg=path)
