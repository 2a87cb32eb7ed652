"""Schedules: torch's rates, step by step, and what fit makes of them."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, CrossEntropyLoss, Linear, Net, schedules

ALL = [
    schedules.constant(0.1),
    schedules.step_decay(0.1, 7),
    schedules.exponential(0.1, 0.9),
    schedules.cosine(0.1, 20),
    schedules.warmup_cosine(0.1, 5, 20),
    schedules.one_cycle(0.1, 20),
]
STEPS = 40


def torchs(make, steps=STEPS, rate=0.1):
    """The rate before each step, as one of torch's schedulers sets it."""
    torch = pytest.importorskip("torch", reason="needs torch, whose schedules these are")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs", "steps"),
    [
        (schedules.constant(0.1), lambda s, o: s.ConstantLR(o, factor=1), STEPS),
        (schedules.step_decay(0.1, 7), lambda s, o: s.StepLR(o, 7), STEPS),
        (schedules.step_decay(0.1, step_size=3, gamma=0.5), lambda s, o: s.StepLR(o, 3, gamma=0.5), STEPS),
        (schedules.exponential(0.1, gamma=0.9), lambda s, o: s.ExponentialLR(o, 0.9), STEPS),
        (schedules.cosine(0.1, 39), lambda s, o: s.CosineAnnealingLR(o, 39), STEPS),
        (schedules.cosine(0.1, 39, final=0.02), lambda s, o: s.CosineAnnealingLR(o, 39, 0.02), STEPS),
        (schedules.one_cycle(0.1, 40), lambda s, o: s.OneCycleLR(o, 0.1, 40, cycle_momentum=False), STEPS),
        (schedules.one_cycle(0.1, 23, pct_start=0.15, div_factor=10, final_div_factor=50),
         lambda s, o: s.OneCycleLR(o, 0.1, 23, pct_start=0.15, div_factor=10, final_div_factor=50,
                                   cycle_momentum=False), 23),
        (schedules.one_cycle(0.1, 2), lambda s, o: s.OneCycleLR(o, 0.1, 2, cycle_momentum=False), 2),
    ],
    ids=lambda x: repr(x) if isinstance(x, schedules.Schedule) else "",
)  # fmt: skip
def test_the_rates_are_torchs(ours, theirs, steps):
    np.testing.assert_allclose(
        [ours(step) for step in range(steps)], torchs(theirs, steps), rtol=1e-12, atol=1e-17
    )


def test_warmup_cosine_is_torchs_line_and_then_its_cosine():
    ours = schedules.warmup_cosine(0.1, warmup=8, steps=STEPS, final=0.01)
    line = [0.1 * step / 8 for step in range(8)]
    cosine = torchs(lambda s, o: s.CosineAnnealingLR(o, STEPS - 8, 0.01), STEPS - 8)
    np.testing.assert_allclose([ours(step) for step in range(STEPS)], line + cosine, rtol=1e-12)
    assert ours(0) == 0 and ours(8) == 0.1
    assert schedules.warmup_cosine(0.1, 0, 10)(0) == 0.1


@pytest.mark.parametrize("schedule", ALL[3:], ids=repr)
def test_what_ends_stays_at_its_end(schedule):
    assert schedule(20) == schedule(21) == schedule(10**9) <= 1e-6


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_a_schedule_is_a_frozen_value(schedule):
    assert callable(schedule) and type(schedule(3)) is float
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.rate = 1.0
    for twin in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        dataclasses.replace(schedule),
    ):
        assert twin == schedule and hash(twin) == hash(schedule)
    assert eval(repr(schedule), vars(schedules)) == schedule


def test_numbers_of_numpy_become_pythons():
    schedule = schedules.cosine(np.float64(0.1), np.int64(10))
    assert type(schedule.rate) is float and type(schedule.steps) is int
    assert repr(schedule) == "Cosine(rate=0.1, steps=10, final=0.0)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.constant(-1), "Constant: rate must be a finite number, 0 or more, got -1"),
        (lambda: schedules.constant(float("nan")), "Constant: rate must be"),
        (
            lambda: schedules.step_decay(0.1, 0),
            "StepDecay: step_size must be a whole number, 1 or more, got 0",
        ),
        (lambda: schedules.step_decay(0.1, 2.5), "StepDecay: step_size must be"),
        (lambda: schedules.exponential(0.1, 0), "Exponential: gamma must be a finite number above 0, got 0"),
        (lambda: schedules.cosine(0.1, 10, final=-1), "Cosine: final must be a finite number, 0 or more"),
        (lambda: schedules.cosine(0.1, True), "Cosine: steps must be a whole number"),
        (
            lambda: schedules.warmup_cosine(0.1, 10, 10),
            "WarmupCosine: warmup is part of steps .* got 10 of 10",
        ),
        (
            lambda: schedules.warmup_cosine(0.1, -1, 10),
            "WarmupCosine: warmup must be a whole number, 0 or more",
        ),
        (lambda: schedules.one_cycle(0.1, 10, pct_start=1.5), "OneCycle: pct_start must be"),
        (
            lambda: schedules.one_cycle(0.1, 10, div_factor="a"),
            "OneCycle: div_factor must be a finite number",
        ),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("library", ["numpy", "jax"])
@pytest.mark.parametrize("schedule", [ALL[4], ALL[5]], ids=repr)
def test_fit_takes_the_rate_of_each_step(schedule, library):
    """Also where steps are compiled: a plain loop with those rates gives the same weights."""
    if library == "jax":
        pytest.importorskip("jax", reason="needs jax, which compiles")
    random = np.random.default_rng(0)
    X, y = random.standard_normal((30, 3)).astype("float32"), random.integers(0, 2, 30)
    dc.seed(0)
    net = Net([Linear(3, 2)], CrossEntropyLoss()).to(library)
    by_hand = copy.deepcopy(net)
    net.fit(X, y, epochs=4, batch_size=6, shuffle=False, schedule=schedule)
    X, y = (dc.to_backend(x, library) for x in (X, y))
    for step in range(20):
        rows = slice(step % 5 * 6, step % 5 * 6 + 6)
        by_hand.loss(by_hand(X[rows]), y[rows])
        by_hand.backward()
        by_hand.update_weights(schedule(step))
    for path, W in net.parameters().items():
        np.testing.assert_allclose(
            dc.to_numpy(W), dc.to_numpy(by_hand.parameters()[path]), rtol=1e-5, atol=1e-7
        )


def test_what_is_too_large_for_a_number_is_infinite():
    from deepcore import optim

    for schedule in (schedules.exponential(1.0, 2.0), schedules.step_decay(1.0, 1, 2.0)):
        assert schedule(5000) == float("inf") and schedule(3) == 8.0
        with pytest.raises(ArgumentError, match="SGD: lr must be a finite number, zero or more, got inf"):
            optim.SGD().lr = schedule(5000)
    assert schedules.exponential(0.0, 2.0)(5000) == 0.0
