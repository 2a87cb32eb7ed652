"""Initialisers: by name and by object, their moments, and the same bits for one seed everywhere."""

import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    GRU,
    RNN,
    Bilinear,
    Conv2D,
    ConvTranspose2D,
    Embedding,
    Linear,
    PReLU,
    init,
)
from tests.case import params
from tests.places import EACH_LIBRARY

SHAPE, FAN_IN, FAN_OUT = (300, 400), 300, 400

# name -> its object, mean, standard deviation, largest size
NAMED = {
    "zeros": (init.zeros, 0, 0, 0),
    "ones": (init.ones, 1, 0, 1),
    "constant": (init.constant(0), 0, 0, 0),
    "normal": (init.normal(0.01), 0, 0.01, 0.0578),
    "uniform": (init.uniform(-0.05, 0.05), 0, 0.05 / math.sqrt(3), 0.05),
    "lecun_normal": (init.lecun_normal, 0, math.sqrt(1 / 300), 0.334),
    "lecun_uniform": (init.lecun_uniform, 0, math.sqrt(1 / 300), math.sqrt(3 / 300)),
    "glorot_normal": (init.glorot_normal, 0, math.sqrt(2 / 700), 0.309),
    "glorot_uniform": (init.glorot_uniform, 0, math.sqrt(2 / 700), math.sqrt(6 / 700)),
    "he_normal": (init.he_normal, 0, math.sqrt(2 / 300), 0.472),
    "he_uniform": (init.he_uniform, 0, math.sqrt(2 / 300), math.sqrt(6 / 300)),
    "orthogonal": (init.orthogonal(), 0, math.sqrt(1 / 400), 1),
    "torch": (init.torch, 0, math.sqrt(1 / 900), math.sqrt(1 / 300)),
}
OBJECTS = [
    (init.constant(0.5), 0.5, 0, 0.5),
    (init.normal(0.3, mean=2), 2, 0.3, 4),
    (init.normal(mean=-1, std=0.1), -1, 0.1, 1.6),
    (init.uniform(1, 3), 2, 2 / math.sqrt(12), 3),
    (init.uniform(low=-1, high=0), -0.5, 1 / math.sqrt(12), 1),
    (init.orthogonal(gain=2), 0, 2 / math.sqrt(400), 2),
]


def assert_moments(W, mean, std, largest):
    W, n = np.asarray(W, "float64").ravel(), W.size
    assert abs(W.mean() - mean) <= 5 * std / math.sqrt(n)
    assert abs(W.std() - std) <= 5 * std / math.sqrt(2 * n)
    assert abs(W).max() <= largest * (1 + 1e-6)


def test_the_names_are_all_those_of_the_design():
    with pytest.raises(dc.ArgumentError) as error:
        init.make("?", (1,), 1, 1)
    for name in NAMED:
        assert f" {name}," in str(error.value) or f"of {name}," in str(error.value)


@pytest.mark.parametrize("name", NAMED)
def test_by_name_and_by_object(name):
    made, *moments = NAMED[name]
    dc.seed(5)
    by_name = init.make(name, SHAPE, FAN_IN, FAN_OUT)
    dc.seed(5)
    by_object = init.make(made, SHAPE, FAN_IN, FAN_OUT)
    assert by_name.dtype == np.float32
    assert np.array_equal(by_name, by_object)
    assert_moments(by_name, *moments)
    dc.seed(6)
    assert np.array_equal(init.make(name, SHAPE, FAN_IN, FAN_OUT), by_name) == (moments[1] == 0)


@pytest.mark.parametrize(
    ("made", "mean", "std", "largest"), OBJECTS, ids=[repr(made) for made, *_ in OBJECTS]
)
def test_by_object_with_settings(made, mean, std, largest):
    dc.seed(0)
    assert_moments(init.make(made, SHAPE, FAN_IN, FAN_OUT), mean, std, largest)


@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (4, 3, 2, 2), (20, 2, 3)], ids=str)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_orthogonal_weights(shape, gain):
    dc.seed(1)
    W = np.reshape(init.orthogonal(gain)(shape, 1, 1), (shape[0], -1)) / gain
    m, n = W.shape
    np.testing.assert_allclose(W @ W.T if m <= n else W.T @ W, np.eye(min(m, n)), rtol=0, atol=1e-14)


def test_orthogonal_matrices_are_evenly_spread():
    """Without the signs, QR gives diagonals that are never positive (LAPACK) or never negative."""
    dc.seed(2)
    Q = np.stack([init.orthogonal()((2, 2), 2, 2) for _ in range(400)])
    assert abs((Q[:, 0, 0] > 0).mean() - 0.5) < 5 * 0.5 / 20
    assert abs((np.linalg.det(Q) > 0).mean() - 0.5) < 5 * 0.5 / 20
    angle = np.arctan2(Q[:, 1, 0], Q[:, 0, 0])
    assert abs(np.histogram(angle, bins=4, range=(-np.pi, np.pi))[0] / 400 - 0.25).max() < 5 * 0.0217


def test_orthogonal_weights_need_two_axes():
    with pytest.raises(dc.ShapeError, match=r"orthogonal weights need two axes or more, got \(3,\)"):
        PReLU(3, init="orthogonal")


@pytest.mark.parametrize("given", ["torch", init.torch], ids=str)
def test_torch_draws_biases_too(given):
    dc.seed(0)
    for layer, fan in (
        (Linear(25, 4000, init=given), 25),
        (Conv2D(4, 4000, (5, 3), groups=2, init=given), 30),
        (Bilinear(5, 4, 4000, init=given), 5),
        (ConvTranspose2D(6, 4000, (5, 3), groups=2, init=given), 30_000),
    ):
        bound = 1 / math.sqrt(fan)
        for W in layer.weight.values():
            assert_moments(W, 0, bound / math.sqrt(3), bound)
            assert abs(W).max() > 0.99 * bound
    assert not Linear(3, 4, init="he_uniform").weight["b"].any()


PEERS = [  # ours and torch's, of the same arguments
    (Linear, "Linear", (16, 20_000)),
    (Bilinear, "Bilinear", (16, 3, 20_000)),
    (Conv2D, "Conv2d", (4, 2000, 3, 1, 0, 1, 2)),
    (ConvTranspose2D, "ConvTranspose2d", (2000, 4, 3, 1, 0, 0, 2)),
    (ConvTranspose2D, "ConvTranspose2d", (4, 2000, 3, 1, 0, 0, 2)),
    (RNN, "RNN", (3, 64, 2)),
    (GRU, "GRU", (50, 64)),
    (Embedding, "Embedding", (3000, 5)),
]


@pytest.mark.parametrize("ours, name, arguments", PEERS, ids=[f"{name}{args}" for _, name, args in PEERS])
def test_torch_is_what_torch_draws_from(ours, name, arguments):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    dc.seed(0)
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(*arguments).state_dict()
    weight = ours(*arguments, init="torch").weight
    assert len(weight) == len(theirs)
    if len(weight) == 1:
        pairs = [(weight["W"], theirs["weight"])]
    elif "W" in weight:
        pairs = [(weight["W"], theirs["weight"]), (weight["b"], theirs["bias"])]
    else:
        pairs = [(W, theirs[f"{'weight' if k[0] == 'W' else 'bias'}{k[1:]}"]) for k, W in weight.items()]
    for mine, other in pairs:
        a, b = mine.ravel(), other.numpy().ravel()
        noise = 6 / math.sqrt(a.size)  # of two draws
        assert a.size == b.size
        assert abs(a.std() / b.std() - 1) < noise and abs(a.mean() / b.std()) < noise
        if name != "Embedding":  # uniform: none lies beyond the bound
            assert abs(abs(a).max() / abs(b).max() - 1) < noise


@pytest.mark.parametrize("name, place", params(list(NAMED), EACH_LIBRARY))
def test_every_library_starts_from_the_same_bits(name, place):
    dc.seed(3)
    wanted = init.make(name, (5, 7), 5, 7)
    dc.seed(3)
    with dc.use_backend(place.backend):
        W = init.make(name, (5, 7), 5, 7)
    assert dc.backend_of(W).name == place.backend
    assert np.array_equal(dc.to_numpy(W), wanted)


@pytest.mark.parametrize("made", [init.orthogonal(2.0), init.torch, init.constant()], ids=str)
def test_initialisers_come_back_from_a_description(made):
    from deepcore.io.architecture import build, describe

    layer = Linear(2, 3, init=made)
    assert repr(build(describe(layer))) == repr(layer)
