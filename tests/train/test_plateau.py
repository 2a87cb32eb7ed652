"""ReduceOnPlateau: torch's rates, epoch by epoch."""

from types import SimpleNamespace

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, Linear, MSELoss, Net, ReduceOnPlateau
from deepcore.optim import SGD

FALLING = [5, 4, 3, 3, 3, 3, 2.9999, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2, float("nan"), 1, 1, 1, 1, 1, 1, 1]
SETTINGS = [
    {},
    {"patience": 2},
    {"patience": 0, "factor": 0.5},
    {"patience": 1, "factor": 0.3, "cooldown": 2},
    {"patience": 1, "min_lr": 0.003},
    {"patience": 0, "eps": 0.01},
    {"patience": 1, "threshold": 0.5},
    {"patience": 1, "threshold": 1.5, "threshold_mode": "abs"},
    {"patience": 1, "mode": "max"},
    {"patience": 1, "mode": "max", "threshold_mode": "abs"},
]


def run_of(optimizer):
    return SimpleNamespace(optimizer=optimizer, numbers={})


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_rates_are_torchs(settings, sign):
    torch = pytest.importorskip("torch", reason="needs torch, whose rule it is")
    numbers = [sign * x for x in FALLING]
    theirs = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **settings)
    ours, run = ReduceOnPlateau("loss", **settings), run_of(SGD(0.1))
    ours.on_fit_start(run)
    for number in numbers:
        run.numbers = {"loss": number}
        ours.on_epoch_end(run)
        scheduler.step(number)
        assert run.optimizer.lr == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)
        assert ours.bad_epochs == scheduler.num_bad_epochs


def test_in_fit_it_lowers_all_rates_and_starts_afresh():
    X, y = np.ones((8, 2)), np.zeros((8, 1))
    net = Net([Linear(2, 1)], MSELoss())
    optimizer = SGD(0.0, overrides={"*.b": {"lr": 0.0}})  # nothing moves: a plateau from the start
    plateau = ReduceOnPlateau(patience=1, factor=0.5, eps=1e-3)
    optimizer.settings["lr"] = optimizer.overrides["*.b"]["lr"] = 1e-6
    for _ in range(2):
        net.fit(X, y, epochs=4, optimizer=optimizer, validation_data=(X, y), callbacks=[plateau])
    assert optimizer.lr == optimizer.overrides["*.b"]["lr"] == 1e-6  # a change below eps is none
    plateau.eps = 0
    net.fit(X, y, epochs=4, optimizer=optimizer, validation_data=(X, y), callbacks=[plateau])
    assert optimizer.lr == optimizer.overrides["*.b"]["lr"] == 5e-7


def test_a_number_that_there_is_not():
    net = Net([Linear(2, 1)], MSELoss())
    with pytest.raises(
        ArgumentError, match="no 'val_loss' among the epoch's numbers loss; .*validation_data"
    ):
        net.fit(np.ones((4, 2)), np.ones((4, 1)), callbacks=[ReduceOnPlateau()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "least"}, "mode must be"),
        ({"monitor": "val_f1"}, "is a good val_f1 small or large"),
        ({"monitor": None}, "monitor must be the name of a number"),
        ({"threshold_mode": "relative"}, "threshold_mode must be"),
        ({"factor": 1.0}, "factor must be 0 < factor < 1, got 1.0"),
        ({"factor": "0.1"}, "factor must be a finite number above 0, got '0.1'"),
        ({"patience": -1}, "patience must be a whole number of 0 or more, got -1"),
        ({"patience": 2.5}, "patience must be a whole number, got 2.5"),
        ({"min_lr": float("nan")}, "min_lr must be"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ArgumentError, match=f"ReduceOnPlateau: {message}"):
        ReduceOnPlateau(**settings)


def test_it_lowers_the_rate_when_an_accuracy_no_longer_grows():
    assert [ReduceOnPlateau(name).mode for name in ("loss", "val_loss", "val_accuracy")] == [
        "min",
        "min",
        "max",
    ]
    plateau, run = ReduceOnPlateau("accuracy", patience=0, factor=0.5), run_of(SGD(0.8))
    plateau.on_fit_start(run)
    rates = []
    for run.numbers in ({"accuracy": 0.5}, {"accuracy": 0.6}, {"accuracy": 0.6}, {"accuracy": 0.7}):
        plateau.on_epoch_end(run)
        rates.append(run.optimizer.lr)
    assert rates == [0.8, 0.8, 0.4, 0.4]


def test_it_is_public():
    assert "ReduceOnPlateau" in dc.__all__
