"""Whole nets on CuPy's kernels and graphs, without a GPU: the numbers are those of NumPy."""

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends import registry
from deepcore.backends.cupy import CupyBackend

from . import emulation
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
        backend = PretendBackend(cupy)
        monkeypatch.setitem(registry._live, "cupy", backend)
        monkeypatch.setitem(registry._BACKEND_OF_TYPE, cupy.ndarray, backend)
        monkeypatch.setitem(registry._NAMESPACE_OF_TYPE, cupy.ndarray, cupy)
        yield cupy


def mlp():
    return [dc.Linear(9, 8), dc.GELU(), dc.LayerNorm(8), dc.Dropout(0.3), dc.Linear(8, 3)]


def cnn():
    layers = [dc.Conv2D(1, 4, padding=1), dc.BatchNorm2D(4), dc.ReLU(), dc.MaxPool2D(), dc.Flatten()]
    return [dc.Reshape((1, 4, 4)), *layers, dc.Linear(16, 3)]


def words():
    return [dc.Embedding(7, 6), dc.RMSNorm(6), dc.Flatten(), dc.Linear(24, 3)]


def losses(make, optimizer, place, compiled, steps=7):
    dc.seed(0)
    net = dc.Net(make(), dc.CrossEntropyLoss()).to(place)
    random = np.random.default_rng(0)
    step = net.compile(optimizer) if compiled else None
    found = []
    for _ in range(steps):
        X = random.standard_normal((8, 16 if make is cnn else 9)).astype("float32")
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
        (words, lambda: dc.optim.Adam(0.01)),
    ],
    ids=["mlp", "cnn", "words"],
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
