"""Embedding beside torch's, and what it says of bad indices."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import CrossEntropyLoss, Embedding, Flatten, Linear, Net
from deepcore.backends import registry
from tests.places import EACH_LIBRARY, JAX, USABLE

places = pytest.mark.parametrize("place", [p for p in EACH_LIBRARY if p in USABLE], ids=lambda p: p.name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 6), (2, 3, 4)])
def test_it_agrees_with_torch(dtype, shape):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    random = np.random.default_rng(0)
    X = random.integers(0, 7, shape)
    f = Embedding(7, 3, dtype=dtype)
    theirs = torch.nn.Embedding(7, 3, dtype=getattr(torch, dtype))
    theirs.weight.data = torch.tensor(f.weight["W"])
    dY = random.standard_normal((*shape, 3)).astype(dtype)
    Y = theirs(torch.tensor(X))
    Y.backward(torch.tensor(dY))
    assert np.array_equal(f(X), Y.detach().numpy())
    assert f.backward(dY) is None
    tolerance = 1e-14 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(f.weight_update["W"], theirs.weight.grad, rtol=tolerance, atol=tolerance)


def test_new_weights_are_standard_normal():
    dc.seed(0)
    W = Embedding(1000, 20).weight["W"]
    assert abs(W.mean()) < 0.03 and abs(W.std() - 1) < 0.03


@places
@pytest.mark.parametrize(
    "X, first",
    [
        ([[0, 4], [5, -1]], r"got 5 at \(1, 0\)"),
        ([[0, -1], [5, 2]], r"got -1 at \(0, 1\)"),
        ([3, 2, 7], r"got 7 at \(2,\)"),
    ],
)
def test_an_index_out_of_range_is_named_with_its_place(place, X, first):
    f = place.put(Embedding(5, 2))
    with pytest.raises(dc.LabelError, match=rf"Embedding\(5, 2\): indices must be 0 to 4, {first}"):
        f(place.array(np.array(X)))


def test_a_single_index_out_of_range():
    with pytest.raises(dc.LabelError, match=r"got 5 at \(\)"):
        Embedding(5, 2)(np.array(5))


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_what_is_no_integer_is_refused(dtype):
    with pytest.raises(
        dc.DTypeError, match=rf"X must hold integers, got {dtype} numbers; use X.astype\(int\)"
    ):
        Embedding(5, 2)(np.ones((2, 2), dtype))
    with pytest.raises(dc.DTypeError, match="wanted an array, got list"):
        Embedding(5, 2)([0, 1])


@pytest.mark.parametrize("num, dim", [(0, 2), (2, 0), (2.5, 1)])
def test_sizes_must_be_counts(num, dim):
    with pytest.raises(dc.ShapeError, match=r"Embedding: (num|dim) must be an int >= 1"):
        Embedding(num, dim)


# ---- inside a net


def small_net():
    dc.seed(0)
    return Net([Embedding(5, 3), Flatten(), Linear(12, 2)], CrossEntropyLoss())


def test_it_is_trained_inside_a_net():
    X = np.random.default_rng(0).integers(0, 5, (64, 4))
    y = (X[:, 0] > X[:, 1]).astype(int)
    net = small_net()
    history = net.fit(X, y, epochs=80, optimizer=dc.optim.Adam(0.03), seed=0)
    assert history.history["loss"][-1] < 0.2
    assert np.array_equal(net.predict(X), net(X))
    with pytest.raises(dc.LabelError, match=r"layer 0, Embedding\(5, 3\): indices must be 0 to 4, got 5"):
        net.fit(X + 1, y, seed=0)


def test_a_saved_one_is_the_same(tmp_path):
    net = small_net()
    net.save(tmp_path / "net.safetensors")
    X = np.array([[0, 1, 4, 4]])
    assert np.array_equal(Net.load(tmp_path / "net.safetensors")(X), net(X))


@pytest.mark.parametrize("library", ["replay", "jax"])
def test_a_compiled_step_is_the_same_and_a_bad_index_is_not_passed_over(library, monkeypatch):
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")
    if library == "jax" and JAX.why_not:
        pytest.skip(JAX.why_not)
    X, y = np.array([[0, 1, 4, 4], [2, 2, 0, 1]]), np.array([0, 1])
    here, there = small_net(), small_net().to(library)
    step = there.compile(dc.optim.SGD(0.1))
    for rows in (X, X[::-1].copy()):
        loss = here.loss(here(rows), y)
        here.backward()
        here.update_weights(0.1)
        compiled = step(dc.to_backend(rows, library), dc.to_backend(y, library))
        np.testing.assert_allclose(dc.to_numpy(compiled), loss, rtol=1e-6)
    for path, W in there.parameters().items():
        np.testing.assert_allclose(dc.to_numpy(W), here.parameters()[path], rtol=1e-5, atol=1e-6)
    for bad in (5, -1):
        there = small_net().to(library)
        step = there.compile(dc.optim.SGD(0.1))
        loss = step(dc.to_backend(np.where(X == 4, bad, X), library), dc.to_backend(y, library))
        assert np.isnan(dc.to_numpy(loss))
