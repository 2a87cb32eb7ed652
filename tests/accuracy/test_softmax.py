"""The accuracy of softmax and its logarithm in float32. `pytest -rP` prints the figures."""

import numpy as np
import pytest

import deepcore as dc
from tests.accuracy.peers import PLACES, error, jaxs, show, torchs


def normal(*shape, size=1.0, offset=0.0):
    return (offset + size * np.random.default_rng(0).standard_normal(shape)).astype("float32")


def log_probabilities(X):
    """In extended precision; where one entry is the largest, by the logarithm of 1 + the others' sum."""
    X = X.astype("longdouble")
    D = X - X.max(axis=-1, keepdims=True)
    E = np.exp(D)
    np.put_along_axis(E, X.argmax(axis=-1)[..., None], 0, axis=-1)
    return D - np.log1p(E.sum(axis=-1, keepdims=True))


def units(Y, right):
    """The largest error in units of the last place of the right number."""
    return float((np.abs(Y.astype("longdouble") - right) / np.spacing(np.abs(right).astype("float32"))).max())


everywhere = pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)


def check(row, place, f, X, right, measure, torch, jax, bound):
    Y = place.back(f(place.array(X)))
    ours = measure(Y, right)
    peers = [None if P is None else measure(P, right) for P in (torchs(torch, X), jaxs(jax, X))]
    show(row, place, ours, bound, *peers)
    assert ours <= bound
    return Y


@everywhere
def test_log_softmax_far_from_zero(place):
    X = normal(500, 1000, offset=1e4)
    check("log_softmax, 1e4 + N, C=1000, in units", place, dc.LogSoftmax(), X, log_probabilities(X), units,
          lambda F, x: F.log_softmax(x, -1), lambda nn, x: nn.log_softmax(x), 1.5)  # fmt: skip


@everywhere
def test_log_softmax_near_zero(place):
    """Logits of 1e4, and rows whose top stands 5 to 80 above the rest: log sum e^X rounds to 0 there."""
    steep = np.zeros((76, 10), "float32")
    steep[:, 1] = np.arange(5, 81)
    X = np.concatenate([normal(20_000, 10, size=1e4), steep])
    right = log_probabilities(X).astype("float64")
    check("log_softmax, 1e4 N, outputs near 0", place, dc.LogSoftmax(), X, right, error,
          lambda F, x: F.log_softmax(x, -1), lambda nn, x: nn.log_softmax(x), 2.5e-7)  # fmt: skip


@everywhere
@pytest.mark.parametrize("C", [1_000, 50_000])
def test_softmax(place, C):
    X = normal(1_000_000 // C, C)
    right = np.exp(log_probabilities(X)).astype("float64")
    P = check(f"softmax, C={C}", place, dc.Softmax(), X, right, error,
              lambda F, x: F.softmax(x, -1), lambda nn, x: nn.softmax(x), 1e-6)  # fmt: skip
    assert np.abs(P.sum(axis=1, dtype="float64") - 1).max() <= 3e-7
    Q = place.back(dc.Softmin()(place.array(-X)))
    assert np.array_equal(P, Q)
