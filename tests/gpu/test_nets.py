"""Whole nets on CuPy's kernels and graphs, without a GPU: the numbers are those of NumPy."""

import gc
import importlib

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends import registry
from deepcore.backends.cupy import CupyBackend
from deepcore.diagnose.info import _told, look_at

from . import emulation
from .fake_cudnn import FakeCudnn
from .pretend import pretended

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation of CUDA needs g++")


class PretendBackend(CupyBackend):
    """CuPy's backend on the stand-in."""

    def __init__(self, cupy):
        self.xp = cupy

    def to_numpy(self, x):
        return np.array(x)

    def device(self, x):
        return 0


@pytest.fixture
def cupy(monkeypatch):
    with pretended() as cupy:
        select_as_backend(cupy, monkeypatch)
        yield cupy


def select_as_backend(cupy, monkeypatch):
    """deepcore's backend "cupy" is on this stand-in."""
    backend = PretendBackend(cupy)
    monkeypatch.setitem(registry._live, "cupy", backend)
    monkeypatch.setitem(registry._BACKEND_OF_TYPE, cupy.ndarray, backend)
    monkeypatch.setitem(registry._NAMESPACE_OF_TYPE, cupy.ndarray, cupy)


def test_what_info_tells_of_a_gpu(cupy, monkeypatch):
    properties = {"name": b"NVIDIA H200", "totalGlobalMem": 150 * 2**30}
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda number: properties, raising=False)
    monkeypatch.setattr(CupyBackend, "why_unusable", lambda: None)
    monkeypatch.setattr(CupyBackend, "version", lambda: "14.2")
    monkeypatch.setenv("CUPY_TF32", "1")
    told = _told(look_at("cupy"))
    assert "14.2" in told and "0: NVIDIA H200, 150.0 GiB; products of float32 in TF32" in told
    assert "; cuBLASLt; no cuDNN (deepcore[cudnn], and nvidia-cudnn-cu12 or -cu13)" in told
    cupy.cudnn = FakeCudnn(None, None)
    assert "; convolution by cuDNN 9.0.0" in _told(look_at("cupy"))
    monkeypatch.setenv("CUPY_TF32", "0")
    importlib.import_module("deepcore.backends.cupy.cublaslt").load = lambda: None
    assert "products of float32 in float32; no cuBLASLt" in _told(look_at("cupy"))


@pytest.mark.parametrize("compiled", [False, True], ids=["call by call", "compiled"])
def test_out_of_memory_changes_nothing(compiled, cupy, monkeypatch):
    """Wherever in a step it strikes: weights and optimizer stay as they are, and the next step is as ever."""
    empty, left = cupy.empty, []

    def scarce(shape, dtype=float):
        if left and (left.append(0) or len(left) > left[0]):
            raise MemoryError(f"out of memory allocating {np.dtype(dtype).itemsize * np.prod(shape)} bytes")
        return empty(shape, dtype)

    dc.seed(0)
    net, optimizer = dc.Net(mlp_without_noise(), dc.CrossEntropyLoss()).to("cupy"), dc.optim.AdamW(0.01)
    X = dc.to_backend(np.random.default_rng(0).standard_normal((8, 9)).astype("float32"), "cupy")
    y = dc.to_backend(np.arange(8) % 3, "cupy")
    step = net.compile(optimizer) if compiled else None

    def run():
        if step is not None:
            return float(step(X, y))
        loss = net.loss(net(X), y)
        net.backward()
        optimizer.step(net)
        return float(loss)

    monkeypatch.setattr(cupy, "empty", scarce, raising=False)
    run()
    weights = {path: dc.to_numpy(W) for path, W in net.parameters().items()}
    struck, kept = 0, alive(cupy)
    for allocations in (4, 14):
        left[:] = [allocations]
        try:
            run()
        except MemoryError as error:
            assert "bytes" in str(error)
            struck += 1
        else:
            break
        assert optimizer.steps == 1 and alive(cupy) <= kept
        for path, W in net.parameters().items():
            assert np.array_equal(dc.to_numpy(W), weights[path])
    assert struck
    left.clear()
    got = [run() for _ in range(2)]
    assert np.isfinite(got).all() and got[-1] < got[0]


def alive(cupy):
    """How many bytes of the GPU's memory are in use, but for workspaces, of which each stream has one."""
    gc.collect()
    return sum(guard.array.nbytes for guard in cupy.guards if guard.array.nbytes < 1 << 25)


def mlp_without_noise():
    return [dc.Linear(9, 8), dc.GELU(), dc.LayerNorm(8), dc.Linear(8, 3)]


def mlp():
    return [dc.Linear(9, 8), dc.GELU(), dc.LayerNorm(8), dc.Dropout(0.3), dc.Linear(8, 3)]


def cnn():
    layers = [dc.Conv2D(1, 4, padding=1), dc.BatchNorm2D(4), dc.ReLU(), dc.MaxPool2D(), dc.Flatten()]
    return [dc.Reshape((1, 4, 4)), *layers, dc.Linear(16, 3)]


def averaging():
    layers = [dc.Conv2D(1, 4, padding=1), dc.AvgPool2D(), dc.Tanh(), dc.GlobalAvgPool2D(), dc.Flatten()]
    return [dc.Reshape((1, 4, 4)), *layers, dc.Linear(4, 3)]


def words():
    return [dc.Embedding(7, 6), dc.RMSNorm(6), dc.Flatten(), dc.Linear(24, 3)]


def attentive():
    return [dc.Reshape((4, 4)), dc.TransformerBlock(4, 2, causal=True), dc.Flatten(), dc.Linear(16, 3)]


def gates(layer):
    """More steps than CuPy can join in a capture."""
    return [dc.Reshape((16, 1)), layer(1, 5, bidirectional=True), dc.Flatten(), dc.Linear(160, 3)]


def lstm():
    return gates(dc.LSTM)


def gru():
    return gates(dc.GRU)


def rnn():
    return gates(dc.RNN)


def losses(make, optimizer, place, compiled, steps=7):
    dc.seed(0)
    net = dc.Net(make(), dc.CrossEntropyLoss()).to(place)
    random = np.random.default_rng(0)
    step = net.compile(optimizer) if compiled else None
    found = []
    for _ in range(steps):
        X = random.standard_normal((8, 9 if make is mlp else 16)).astype("float32")
        X = random.integers(0, 7, (8, 4)) if make is words else X
        X, y = (dc.to_backend(x, place) for x in (X, random.integers(0, 3, 8)))
        if compiled:
            loss = step(X, y)
        else:
            loss = net.loss(net(X), y)
            net.backward()
            optimizer.step(net)
        found.append(float(loss))
    return found, {path: dc.to_numpy(W) for path, W in (net.parameters() | net.buffers()).items()}, step


@pytest.mark.parametrize("compiled", [False, True], ids=["call by call", "compiled"])
@pytest.mark.parametrize(
    "make, optimizer",
    [
        (mlp, lambda: dc.optim.AdamW(0.01)),
        (cnn, lambda: dc.optim.SGD(0.1, momentum=0.9)),
        (averaging, lambda: dc.optim.SGD(0.1)),
        (words, lambda: dc.optim.Adam(0.01)),
        (attentive, lambda: dc.optim.SGD(0.1)),  # the gradient of b_k is 0 but for rounding: no Adam
        (lstm, lambda: dc.optim.SGD(0.1)),
        (gru, lambda: dc.optim.SGD(0.1)),
        (rnn, lambda: dc.optim.SGD(0.1)),
        (mlp, lambda: dc.optim.Muon(0.01)),
    ],
    ids=["mlp", "cnn", "averaging", "words", "attentive", "lstm", "gru", "rnn", "muon"],
)
def test_a_net_trains_as_on_numpy(make, optimizer, compiled, cupy):
    got, weights, step = losses(make, optimizer(), "cupy", compiled)
    wanted, wanted_weights, _ = losses(make, optimizer(), "numpy", False)
    np.testing.assert_allclose(got, wanted, rtol=2e-5)
    for path, W in wanted_weights.items():
        np.testing.assert_allclose(weights[path], W, rtol=1e-4, atol=2e-5, err_msg=path)
    if compiled:
        (program,) = step._programs.values()
        assert program.function.why_not is None and len(program.function.graphs) == 2


@pytest.mark.parametrize("make", [mlp, cnn, words, attentive, lstm])
def test_a_step_in_bfloat16_is_captured(make, cupy):
    """Though CuPy widens bfloat16 where it meets a Python float, and so not all stays in 16 bits."""
    pytest.importorskip("ml_dtypes")
    found = []
    for precision in ("float32", "bf16"):
        dc.seed(0)
        net = dc.Net(make(), dc.CrossEntropyLoss()).to("cupy")
        step, random = net.compile(dc.optim.SGD(0.1), precision), np.random.default_rng(0)
        found.append([])
        for _ in range(4):
            X = random.standard_normal((8, 9 if make is mlp else 16)).astype("float32")
            X = random.integers(0, 7, (8, 4)) if make is words else X
            X, y = (dc.to_backend(x, "cupy") for x in (X, random.integers(0, 3, 8)))
            found[-1].append(float(step(X, y)))
        (program,) = step._programs.values()
        assert program.function.why_not is None
    np.testing.assert_allclose(*found, rtol=0, atol=0.05)


ACTIVATIONS = (dc.ELU, dc.SELU, dc.HardSigmoid, dc.HardSwish, dc.HardTanh, dc.ReLU6, dc.SoftShrink, dc.Mish)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations_keep_bfloat16(kind, cupy):
    """Those without a kernel too; the next layer with weights takes nothing else."""
    X = cupy.array(np.linspace(-7, 7, 29).astype(pytest.importorskip("ml_dtypes").bfloat16))
    f = kind()
    Y = f(X)
    assert {Y.dtype, f.backward(Y).dtype} == {X.dtype}
    np.testing.assert_allclose(Y.astype("f4"), kind()(np.array(X, "f4")), rtol=0.01, atol=0.01)
