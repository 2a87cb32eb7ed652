"""deepcore's optimizers along torch.optim's trajectories: 50 steps in float64 over a grid of settings."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest

import deepcore as dc
from deepcore import CrossEntropyLoss, Linear, Net, Tanh
from tests.conformance.listed import deepcore

torch = pytest.importorskip("torch", reason="needs torch, whose trajectories these are")

SUITE = "torch.optim: 50 steps"
STEPS = 50

GRIDS: dict[str, dict[str, list[Any]]] = {
    "SGD": {
        "lr": [0.3],
        "momentum": [0, 0.5, 0.95],
        "nesterov": [False, True],
        "weight_decay": [0, 0.01, 0.2],
    },
    "Adam": {
        "lr": [1e-3, 0.05],
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.99)],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0, 0.03],
    },
    "AdamW": {
        "lr": [1e-3, 0.05],
        "betas": [(0.9, 0.999), (0.5, 0.9)],
        "eps": [1e-8, 1e-2],
        "weight_decay": [0, 0.01, 0.5],
    },
    "RMSprop": {
        "lr": [0.01],
        "alpha": [0.99, 0.7],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0, 0.1],
        "momentum": [0, 0.9],
        "centered": [False, True],
    },
    "Adagrad": {
        "lr": [0.01, 0.2],
        "lr_decay": [0, 0.1],
        "weight_decay": [0, 0.1],
        "initial_accumulator_value": [0, 0.3],
        "eps": [1e-10, 1e-3],
    },
    "Muon": {
        "lr": [1e-3, 0.02],
        "weight_decay": [0, 0.1],
        "momentum": [0.95, 0.5],
        "nesterov": [True, False],
    },
}

NOT_MAPPED = {  # settings of torch's that change the steps, and that deepcore hasn't
    "SGD": {"dampening", "maximize"},
    "Adam": {"amsgrad", "maximize", "decoupled_weight_decay"},
    "AdamW": {"amsgrad", "maximize"},
    "RMSprop": {"maximize"},
    "Adagrad": {"maximize"},
    "Muon": {"ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"},
}
HOW_NOT_WHAT = {"params", "foreach", "capturable", "differentiable", "fused"}


def each_setting() -> list[Any]:
    return [
        pytest.param(
            name, settings := dict(zip(grid, values, strict=True)), id=f"{name}-{tuple(settings.values())}"
        )
        for name, grid in GRIDS.items()
        for values in itertools.product(*grid.values())
        if not (grid is GRIDS["SGD"] and values[2] and not values[1])  # Nesterov needs momentum
    ]


@pytest.fixture(autouse=True)
def _one_thread():
    """At this size more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "settings"), each_setting())
def test_fifty_steps(counted, monkeypatch, name, settings):
    counted(SUITE, name, name)
    make = deepcore(name, dc.optim)
    bias = name != "Muon"  # torch's moves matrices alone
    if name == "Muon":  # torch's rounds its iteration to bfloat16, where no two programs agree
        monkeypatch.setattr(torch.Tensor, "bfloat16", lambda G: G.clone())
    dc.seed(1)
    net = Net(
        [Linear(5, 7, bias, dtype="float64"), Tanh(), Linear(7, 3, bias, dtype="float64")], CrossEntropyLoss()
    )
    before = net.parameters()
    theirs = {path: torch.tensor(W, requires_grad=True) for path, W in before.items()}
    ours = make(**settings)
    optimizer = getattr(torch.optim, name)(list(theirs.values()), **settings)
    for step in range(STEPS):
        random = np.random.default_rng(step)
        X, y = random.standard_normal((8, 5)), random.integers(0, 3, 8)
        net.loss(net(X), y)
        net.backward()
        ours.step(net)
        optimizer.zero_grad()
        Y = torch.tensor(X)
        for layer in (0, 2):
            Y = Y @ theirs[f"layers.{layer}.W"] + (theirs[f"layers.{layer}.b"] if bias else 0)
            Y = torch.tanh(Y) if layer == 0 else Y
        torch.nn.functional.cross_entropy(Y, torch.tensor(y)).backward()
        optimizer.step()
        for path, W in net.parameters().items():
            np.testing.assert_allclose(W, theirs[path].detach().numpy(), rtol=1e-7, atol=1e-9, err_msg=path)
    for path, W in net.parameters().items():
        assert np.abs(W - before[path]).max() > 1e-4


@pytest.mark.parametrize("name", GRIDS)
def test_every_setting_of_torchs_has_its_place(name):
    settings = set(inspect.signature(getattr(torch.optim, name)).parameters) - HOW_NOT_WHAT
    assert settings == set(GRIDS[name]) | NOT_MAPPED[name]
