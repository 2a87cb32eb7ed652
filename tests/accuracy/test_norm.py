"""Normalisation far from zero, and means over very many rows: float32 against the definition in float64.

Each bound is asserted on every library; torch's and JAX's own figures are printed beside it (pytest -s).
"""

import numpy as np
import pytest

import deepcore as dc
from deepcore.ops import norm, reduce
from tests.case import params
from tests.places import EACH_LIBRARY, IN_FLOAT64, JAX

LIBRARIES = [place for place in EACH_LIBRARY if place in (*IN_FLOAT64, JAX)]
places = pytest.mark.parametrize("_, place", params(["float32"], LIBRARIES))
offsets = pytest.mark.parametrize("offset", [0, 1e4, 1e6])


def normal(offset, *shape):
    return (offset + np.random.default_rng(0).standard_normal(shape)).astype("float32")


def standardised(X, axes, epsilon=1e-5):
    X = X.astype("float64")
    mean, var = X.mean(axis=axes, keepdims=True), X.var(axis=axes, keepdims=True)
    return (X - mean) / np.sqrt(var + epsilon), mean, var


def worst(Y, right):
    return float(np.abs(np.asarray(Y, "float64") - right).max())


def show(case, place, ours, **peers):
    figures = ", ".join(f"{name} {figure:.1e}" for name, figure in peers.items())
    print(f"\n{case}: deepcore on {place.name} {ours:.1e}" + (f"; {figures}" if figures else ""))


def torch_error(right, f, *arrays):
    """{"torch": its error}, where it is installed."""
    try:
        import torch
    except ImportError:
        return {}
    return {"torch": worst(f(torch, *map(torch.tensor, arrays)).numpy(), right)}


def jax_error(right, f, *arrays):
    try:
        import jax.numpy as jnp
    except ImportError:
        return {}
    return {"jax": worst(f(jnp, *map(jnp.asarray, arrays)), right)}


def jax_standardise(axes):
    """As flax does by default: the variance as mean X^2 - (mean X)^2, which cancels."""

    def f(jnp, X):
        mean = jnp.mean(X, axis=axes, keepdims=True)
        var = jnp.maximum(0.0, jnp.mean(X * X, axis=axes, keepdims=True) - mean * mean)
        return (X - mean) / jnp.sqrt(var + 1e-5)

    return f


@places
@offsets
@pytest.mark.parametrize("shape", [(4096, 32), (64, 1024), (4, 8, 4096)], ids=str)
def test_layer_norm(_, place, offset, shape):
    """5e-6, where torch is off by 1e-3 at 1e4."""
    X = normal(offset, *shape)
    right, _, _ = standardised(X, -1)
    f = place.put(dc.LayerNorm(shape[-1]))
    error = worst(place.back(f(place.array(X))), right)
    peers = torch_error(right, lambda torch, X: torch.nn.functional.layer_norm(X, X.shape[-1:]), X)
    peers |= jax_error(right, jax_standardise(-1), X)
    show(f"LayerNorm {shape} {offset:.0e} + N(0,1)", place, error, **peers)
    assert error <= 5e-6


@places
@offsets
def test_the_gradient_of_layer_norm(_, place, offset):
    X = normal(offset, 512, 256)
    dY = np.random.default_rng(1).standard_normal(X.shape).astype("float32")
    H, _, var = standardised(X, -1)
    G = dY.astype("float64")
    mean, mean_hg = G.mean(axis=-1, keepdims=True), (H * G).mean(axis=-1, keepdims=True)
    f = place.put(dc.LayerNorm(256))
    f(place.array(X))
    dX = place.back(f.backward(place.array(dY)))
    assert worst(dX, (G - mean - H * mean_hg) / np.sqrt(var + 1e-5)) <= 5e-6
    assert worst(place.back(f.weight_update["gamma"]), (H * G).sum(axis=0)) <= 2e-5
    assert worst(place.back(f.weight_update["beta"]), G.sum(axis=0)) <= 2e-5


@places
@offsets
def test_group_and_instance_norm(_, place, offset):
    X = normal(offset, 8, 6, 32, 32)
    by_groups, _, _ = standardised(X.reshape(8, 2, 3, 32, 32), (2, 3, 4))
    by_channels, _, _ = standardised(X, (2, 3))
    for f, right in ((dc.GroupNorm(2, 6), by_groups.reshape(X.shape)), (dc.InstanceNorm2D(6), by_channels)):
        error = worst(place.back(place.put(f)(place.array(X))), right)
        show(f"{f!r} {offset:.0e} + N(0,1)", place, error)
        assert error <= 5e-6


@pytest.mark.parametrize("shape", [(64, 768), (8, 5000), (8, 4, 32, 32)], ids=str)
def test_a_sample_whose_first_numbers_are_far_from_the_others(shape):
    """A mean of some numbers is what the others are measured from.

    Were that the end of it: errors of 1e-6 to 2e-5 in Y, 3e-7 to 1e-6 in the mean.
    """
    X = np.random.default_rng(0).standard_normal(shape, "float32").reshape(shape[0], -1)
    X[:, :64] += 1e6
    right, _, _ = standardised(X, -1)
    ones = np.ones((1, *shape[1:2], *(1 for _ in shape[2:])), "float32")
    Y, mean, _ = norm.group_norm(X.reshape(shape), ones, 0 * ones, 1, 1e-5)
    assert np.abs(Y.reshape(X.shape) - right).max() <= 1e-6 * np.abs(right).max()
    lost = mean.astype("float64").sum(axis=1) - X.astype("float64").mean(axis=1)
    assert np.all(np.abs(lost) <= 1e-7 * X.std(axis=1))  # what is lost of a mean counts beside the spread


@places
@offsets
@pytest.mark.parametrize("shape", [(4096, 32), (64, 32, 64)], ids=str)
def test_batch_norm(_, place, offset, shape):
    """2e-6, where torch is off by 0.025 at 1e4 and by 5.2 at 1e6."""
    X = normal(offset, *shape)
    axes = tuple(axis for axis in range(X.ndim) if axis != 1)
    right, mean, var = standardised(X, axes)
    f = place.put(dc.BatchNorm1D(32, momentum=1.0))
    error = worst(place.back(f(place.array(X))), right)
    peers = torch_error(
        right, lambda torch, X: torch.nn.functional.batch_norm(X, None, None, training=True), X
    )
    peers |= jax_error(right, jax_standardise(axes), X)
    show(f"BatchNorm1D {shape} {offset:.0e} + N(0,1)", place, error, **peers)
    assert error <= 2e-6
    n = X.size // 32
    np.testing.assert_allclose(place.back(f.running_mean).ravel(), mean.ravel(), rtol=2e-7, atol=2e-7)
    np.testing.assert_allclose(place.back(f.running_var).ravel(), var.ravel() * n / (n - 1), rtol=5e-7)


@pytest.mark.parametrize(
    ("first", "offset", "shape"), [(4, 1e3, (1000, 4, 32, 32)), (1, 1e6, (4000, 1, 4, 4))]
)
def test_batch_norm_whose_first_samples_are_far_from_the_others(first, offset, shape):
    """A mean of some samples is what the others are measured from."""
    X = np.random.default_rng(0).standard_normal(shape, "float32")
    X[first:] += offset
    right, _, _ = standardised(X, (0, 2, 3))
    ones = np.ones((1, shape[1], 1, 1), "float32")
    Y, *_ = norm.batch_norm(X, ones, 0 * ones, 1e-5)
    assert np.abs(Y - right).max() <= 3e-7 * np.abs(right).max()


@places
def test_means_over_more_than_a_million_rows(_, place):
    """2e-7, where np.mean over axis 0 adds row after row: a sum of columns, and BatchNorm's own mean."""
    X = np.random.default_rng(0).random((1_250_000, 8), dtype="float32")
    right = X.mean(axis=0, dtype="float64")
    x = place.array(X)
    error = float(np.abs(place.back(reduce.column_sum(x))[0].astype("float64") / len(X) / right - 1).max())
    peers = torch_error(1, lambda torch, X: torch.mean(X, dim=0).double() / torch.tensor(right), X)
    peers |= jax_error(1, lambda jnp, X: np.asarray(jnp.mean(X, axis=0), "float64") / right, X)
    peers["numpy"] = float(np.abs(X.mean(axis=0) / right - 1).max())
    show("mean over axis 0 of (1.25e6, 8)", place, error, **peers)
    assert error <= 2e-7
    ones = place.array(np.ones((1, 8)))
    _, mean, *_ = norm.batch_norm(x, ones, ones, 1e-5)
    assert np.abs(place.back(mean)[0] / right - 1).max() <= 2e-7
