"""Nets of convolutions, pools and norms: compiled steps, files, and batches that are empty inside a net."""

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends import registry
from tests.places import JAX

MISSING = JAX.why_not


def net(rank):
    """Every layer of this family that has `rank` spatial axes."""

    def of(name, *settings, **more):
        return getattr(dc, f"{name}{rank}D")(*settings, **more)

    dc.seed(rank)
    layers = [
        of("Conv", 2, 4, 3, padding="same", groups=2, dilation=2),
        of("BatchNorm", 4),
        dc.ReLU(),
        of("MaxPool", 3, 2, 1),
        of("ConvTranspose", 4, 6, 3, 2, 1, 1, groups=2),
        of("InstanceNorm", 6),
        of("AvgPool", 2, 1, 1),
        dc.GroupNorm(3, 6),
        of("AdaptiveMaxPool", 3),
        of("AdaptiveAvgPool", 2),
        *([dc.GlobalMaxPool2D() if rank == 2 else dc.RMSNorm(2)]),
        *([dc.GlobalAvgPool2D()] if rank == 2 else []),
        dc.Flatten(),
    ]
    width = 6 if rank == 2 else 6 * 2**rank
    return dc.Net([*layers, dc.LayerNorm(width), dc.Linear(width, 3)], dc.CrossEntropyLoss())


def data(rank, n=4):
    random = np.random.default_rng(rank)
    return random.standard_normal((n, 2, *(6, 5, 4)[:rank])).astype("float32"), random.integers(0, 3, n)


@pytest.fixture(autouse=True)
def replays(monkeypatch):
    """The stand-in library that compiles is one of deepcore's backends."""
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")


SLOW = [pytest.mark.slow, *([pytest.mark.skip(reason=MISSING)] if MISSING else [])]


@pytest.mark.parametrize(
    "rank, library, tolerance",
    [
        *[(rank, "replay", 0) for rank in (1, 2, 3)],
        pytest.param(2, "jax", 2e-5, marks=SLOW),  # ten seconds of compiling
    ],
)
def test_a_compiled_step_gives_what_calls_give(rank, library, tolerance):
    calls = "numpy" if library == "jax" else library  # JAX would compile each call of each layer
    eager, compiled = net(rank).to(calls), net(rank).to(library)
    arrays = {place: [dc.to_backend(x, place) for x in data(rank)] for place in (calls, library)}
    optimizer = dc.optim.SGD(0.1, momentum=0.9)
    step = compiled.compile(dc.optim.SGD(0.1, momentum=0.9))
    for _ in range(3):
        X, y = arrays[calls]
        loss = eager.loss(eager(X), y)
        eager.backward()
        optimizer.step(eager)
        np.testing.assert_allclose(float(step(*arrays[library])), float(loss), rtol=tolerance)
    arrays = eager.parameters() | eager.buffers()
    for path, W in (compiled.parameters() | compiled.buffers()).items():
        wanted = dc.to_numpy(arrays[path])
        np.testing.assert_allclose(dc.to_numpy(W), wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_files_keep_the_architecture(rank, tmp_path):
    f = net(rank)
    X, _ = data(rank)
    f(X)  # moves the running statistics
    f.save(tmp_path / "net")
    g = dc.load(tmp_path / "net")
    assert repr(g) == repr(f)
    f.eval(), g.eval()
    assert np.array_equal(g(X), f(X))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradients_of_the_whole_net(rank):
    f = net(rank)
    X, _ = data(rank, 2)
    f.loss_fn = None
    assert dc.gradcheck(f, X.astype("float64"))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_an_empty_batch_goes_through_the_whole_net(rank):
    f = net(rank)
    f.loss_fn = None
    X, _ = data(rank, 0)
    Y = f(X)
    assert Y.shape == (0, 3)
    assert f.backward(Y).shape == X.shape
    assert not any(np.any(dW) for dW in f.gradients().values())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_predict_is_the_same_one_sample_at_a_time(rank):
    f = net(rank)
    X, _ = data(rank)
    f(X)
    np.testing.assert_allclose(f.predict(X, batch_size=1), f.predict(X), rtol=1e-5, atol=1e-6)
