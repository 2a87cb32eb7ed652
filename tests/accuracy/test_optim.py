"""The row of NUMERICS about optimizers: Adam over 500 steps in float32, at most 1e-5 from float64.

`pytest -s tests/accuracy/test_optim.py` shows the figures, torch's and JAX's own beside them.
"""

import numpy as np
import pytest

import deepcore as dc
from deepcore import Net
from deepcore.optim import Adam
from tests.case import params
from tests.places import EACH_LIBRARY

STEPS, SHAPE = 500, (40, 30)
START = np.random.default_rng(7).standard_normal(SHAPE).astype("float32")
places = pytest.mark.parametrize("_, place", params(["any"], EACH_LIBRARY))


def gradients():
    random = np.random.default_rng(0)
    return (random.standard_normal(SHAPE).astype("float32") for _ in range(STEPS))


@pytest.fixture(scope="module")
def right():
    """Kingma and Ba's algorithm 1 in float64, of the same float32 gradients."""
    W, M, V = START.astype("float64"), 0.0, 0.0
    for t, dW in enumerate(gradients(), start=1):
        dW = dW.astype("float64")
        M, V = 0.9 * M + 0.1 * dW, 0.999 * V + 0.001 * dW**2
        W = W - 1e-3 * (M / (1 - 0.9**t)) / (np.sqrt(V / (1 - 0.999**t)) + 1e-8)
    return W


class Given(dc.Layer):
    """Its gradient is what backward gets."""

    def __init__(self):
        self.weight["W"] = START

    def forward(self, X):
        return X

    def backward(self, dY):
        self.weight_update["W"] = dY
        return dY


def show(who, error):
    print(f"\nAdam, 500 steps, max abs                     {who:14} {error:.1e}", end="")


@places
def test_adam_over_five_hundred_steps(_, place, right):
    net, optimizer = place.put(Net([Given()])), Adam()
    for dW in map(place.array, gradients()):
        net(dW)
        net.backward(dW)
        optimizer.step(net)
    W = place.back(net.parameters()["layers.0.W"])
    error = np.abs(W - right).max()
    show(place.name, error)
    assert W.dtype == np.float32
    assert error <= 1e-5


def test_torchs_own(right):
    torch = pytest.importorskip("torch", reason="needs torch, a peer")
    W = torch.tensor(START, requires_grad=True)
    optimizer = torch.optim.Adam([W])
    for dW in gradients():
        W.grad = torch.tensor(dW)
        optimizer.step()
    show("torch itself", error := np.abs(W.detach().numpy() - right).max())
    assert error <= 1e-4


def test_jaxs_own(right):
    """JAX has no optimizer of its own: the algorithm as its users write it, jitted."""
    jax = pytest.importorskip("jax", reason="needs jax, a peer")
    xp = jax.numpy

    @jax.jit
    def step(W, M, V, dW, t):
        M, V = 0.9 * M + 0.1 * dW, 0.999 * V + 0.001 * dW**2
        return W - 1e-3 * (M / (1 - 0.9**t)) / (xp.sqrt(V / (1 - 0.999**t)) + 1e-8), M, V

    W, M, V = xp.asarray(START), xp.zeros(SHAPE, "float32"), xp.zeros(SHAPE, "float32")
    for t, dW in enumerate(gradients(), start=1):
        W, M, V = step(W, M, V, dW, np.float32(t))
    show("jax itself", error := np.abs(np.asarray(W) - right).max())
    assert error <= 1e-4
