"""Mixed precision: forward and backward in 16 bits, of weights that stay in 32, where a library has them."""

from typing import ClassVar

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    ArgumentError,
    BatchNorm1D,
    CrossEntropyLoss,
    Dropout,
    DTypeError,
    Linear,
    MSELoss,
    Net,
    ReLU,
)
from deepcore.backends import registry
from deepcore.backends.numpy import bfloat16
from deepcore.backends.select import dtype_name
from deepcore.core.record import Staged, modes
from deepcore.errors import NumericWarning
from deepcore.train.callbacks import Callback
from deepcore.train.mixed import DTYPES, LossScale, Narrowed, passes
from tests.battery import CASES
from tests.case import weights
from tests.places import JAX, TORCH

LIBRARIES = [
    pytest.param(
        library, precision, id=f"{library}-{precision}", marks=pytest.mark.skipif(bool(why), reason=str(why))
    )
    for library, missing in [("numpy", None), ("torch", TORCH.why_not), ("jax", JAX.why_not)]
    for precision in DTYPES
    for why in [
        missing or (library == "numpy" and precision == "bf16" and bfloat16() is None and "needs ml_dtypes")
    ]
]
UNIT = {"bf16": 2.0**-8, "fp16": 2.0**-11}  # half a unit in the last place of 1


def ring(n=200, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, n)
    radius, angle = 0.4 * random.random(n) + 0.6 * y, 2 * np.pi * random.random(n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype("float32"), y


def mlp(seed=0, *more):
    dc.seed(seed)
    return Net([Linear(2, 16), *more, ReLU(), Linear(16, 2)], CrossEntropyLoss())


def host(table):
    return {path: dc.to_numpy(x) for path, x in table.items()}


def same(a, b):
    assert a.keys() == b.keys() and all(np.array_equal(a[path], b[path]) for path in a)


@pytest.mark.parametrize("library, precision", LIBRARIES)
def test_a_pass_is_in_16_bits_and_leaves_gradients_in_32(library, precision):
    X, y = ring(64)
    net = mlp(0, BatchNorm1D(16), Seen()).to(library)
    X, y = dc.to_backend(X, library), dc.to_backend(y, library)
    net.loss(net(X), y)
    net.backward()
    wanted, before = host(net.gradients()), host(net.parameters())
    Seen.dtypes.clear()
    with modes(commits=False, staged=Staged()) as thread:
        passed = passes(net, precision, 1024.0 if precision == "fp16" else None)
        out = passed(X)
        loss = passed.loss(out, y)
        passed.backward()
        assert set(thread.staged) == {net.layers[1]}
        assert all(x.dtype == net.layers[0].weight["W"].dtype for x in thread.staged[net.layers[1]].values())
    assert Seen.dtypes == [DTYPES[precision]] * 2
    assert out.dtype == loss.dtype == net.layers[0].weight["W"].dtype
    same(host(net.parameters()), before)
    got = host(net.gradients())
    assert got.keys() == wanted.keys()
    for path in got:
        assert got[path].dtype == np.float32
        # of the shift before a normalisation the gradient is 0, but for what rounding leaves of 64 terms
        size = np.abs(wanted[path]).max() if path != "layers.0.b" else 0.05
        off = np.abs(got[path] - wanted[path]).max() / size
        assert 0 < off < 16 * UNIT[precision], path


class Seen(dc.Function):
    """Changes nothing, and notes what it is called with."""

    dtypes: ClassVar[list[str]] = []

    def forward(self, X):
        self.dtypes.append(dtype_name(X))
        return X

    def backward(self, dY):
        self.dtypes.append(dtype_name(dY))
        return dY


@pytest.mark.parametrize("library, precision", LIBRARIES)
@pytest.mark.parametrize("compile", [False, "auto"])
def test_a_net_learns_as_in_float32(library, precision, compile):
    X, y = ring()
    histories = {}
    for p in ("float32", precision):
        net = mlp().to(library)
        histories[p] = net.fit(
            X, y, epochs=6, optimizer=dc.optim.Adam(0.02), seed=1, precision=p, compile=compile
        ).history["loss"]
        assert all(W.dtype == np.float32 for W in host(net.parameters()).values())
    got, wanted = (np.array(histories[p]) for p in (precision, "float32"))
    assert np.abs(got - wanted).max() < 16 * UNIT[precision]
    assert (got != wanted).any()


@pytest.mark.parametrize("library", ["numpy", "replay"])
@pytest.mark.parametrize("clip_norm", [None, 0.1])
@pytest.mark.filterwarnings("ignore:.* encountered")  # the stand-in library says so as it replays
def test_a_compiled_step_is_that_of_calls(library, clip_norm, monkeypatch):
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")
    X, y = ring(64)
    states = []
    for compile in (False, True):
        net = mlp(0, BatchNorm1D(16), Dropout(0.2)).to(library)
        optimizer = dc.optim.AdamW(0.01)
        net.fit(
            X * 300, y, epochs=4, batch_size=16, optimizer=optimizer, seed=3, precision="fp16",
            compile=compile, clip_norm=clip_norm,
        )  # fmt: skip
        states.append((host(net.parameters() | net.buffers()), optimizer.steps))
    same(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]


class Scales(Callback):
    """Notes the factor of the coming step, and the optimizer's steps."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, run):
        self.seen.append((run.loss_scale.value, run.optimizer.steps))


@pytest.mark.parametrize("compile", [False, True])
def test_a_step_that_overflows_is_left_out_and_halves_the_factor(compile):
    """The gradient of an output of 300 by a weight is 300 * 2 * 1e3 * scale: too much until that is 1/64."""
    net, optimizer, scales = (
        Net([Linear(1, 1, init="zeros")], MSELoss()),
        dc.optim.SGD(1e-8, momentum=0.9),
        Scales(),
    )
    X, y = np.full((8, 1), 0.5, "float32"), np.full((8, 1), 100.0, "float32")
    net.fit(
        X,
        y,
        epochs=12,
        batch_size=8,
        optimizer=optimizer,
        precision="fp16",
        callbacks=[scales],
        compile=compile,
    )
    made = [steps for _, steps in scales.seen]
    halved = [value for value, _ in scales.seen]
    left_out = made.count(0)
    assert 0 < left_out < 12 and made[left_out:] == list(range(1, 13 - left_out))
    assert halved[:left_out] == [2.0**16 / 2**k for k in range(1, left_out + 1)]
    assert optimizer.state["layers.0.W"]["step"] == optimizer.steps == 12 - left_out
    assert np.isfinite(net.layers[0].weight["W"]).all() and net.layers[0].weight["W"] > 0


def test_nothing_is_changed_by_a_step_that_is_left_out():
    X, y = ring(16)
    net, optimizer = mlp(0, BatchNorm1D(16)), dc.optim.AdamW()
    step = net.compile(optimizer, precision="fp16")
    step(X, y)
    step.loss_scale.state = {"value": 2.0**40, "good": 5}
    before = host(net.parameters() | net.buffers()), dict(optimizer.state), optimizer.steps
    step(X, y)
    same(host(net.parameters() | net.buffers()), before[0])
    assert optimizer.state == before[1] and optimizer.steps == before[2]
    assert step.loss_scale.state == {"value": 2.0**39, "good": 0}


def test_the_factor_grows_after_2000_good_steps():
    scale = LossScale()
    for _ in range(1999):
        scale.state = scale.after(good=True)
    assert scale.value == 2.0**16
    scale.state = scale.after(good=True)
    assert scale.state == {"value": 2.0**17, "good": 0}


def test_where_no_factor_helps_a_warning_says_so():
    net = Net([Linear(2, 2)], MSELoss())
    X = np.full((4, 2), 1e6, "float32")  # more than float16 holds
    with pytest.warns(NumericWarning, match='precision="bf16"'):
        net.fit(X, X, epochs=18, batch_size=4, precision="fp16", compile=False)


def test_gradients_below_float16_are_not_lost():
    X, y = np.full((4, 2), 1e-4, "float32"), np.zeros((4, 2), "float32")
    net = Net([Linear(2, 2, init="ones")], MSELoss())
    net.loss(net(X), y)
    net.backward()
    wanted = net.gradients()["layers.0.W"].copy()
    assert 0 < wanted.max() < 6e-8
    for scale, kept in ((None, False), (2.0**16, True)):
        passed = Narrowed(net, "float16", scale)
        passed.loss(passed(X), y)
        passed.backward()
        got = net.gradients()["layers.0.W"]
        assert np.allclose(got, wanted, rtol=2e-3, atol=0) is kept


def test_updates_that_16_bits_would_lose_add_up():
    net = Net([Linear(1, 1, bias=False, init="ones")], MSELoss())
    X, y = np.ones((4, 1), "float32"), np.zeros((4, 1), "float32")
    optimizer = dc.optim.SGD(1e-5)
    net.fit(X, y, epochs=50, batch_size=4, optimizer=optimizer, precision="fp16")
    assert optimizer.steps >= 48  # with the first factors the gradient overflows
    W = net.layers[0].weight["W"]
    assert float(W[0, 0]) == pytest.approx(1 - optimizer.steps * 2e-5, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp16"])
def test_batches_that_count_as_one(precision):
    X, y = ring(64)
    found = []
    for batch_size, accumulate in ((32, 1), (8, 4)):
        net = mlp()
        net.fit(X, y, batch_size=batch_size, accumulate=accumulate, precision=precision, shuffle=False)
        found.append(net.state_dict())
    for path, W in found[0].items():
        np.testing.assert_allclose(found[1][path], W, rtol=0, atol=1e-4)
    assert not np.array_equal(*(state["layers.0.W"] for state in found))


def test_running_statistics_of_batches_that_count_as_one():
    X, y = ring(64)
    means = {}
    for precision in ("float32", "fp16"):
        net = mlp(0, BatchNorm1D(16, momentum=0.5))
        net.fit(X, y, batch_size=16, accumulate=4, precision=precision, shuffle=False)
        means[precision] = net.layers[1].running_mean
        assert means[precision].dtype == np.float32
    np.testing.assert_allclose(means["fp16"], means["float32"], rtol=0, atol=2e-3)


def test_weights_of_classes():
    X, y = ring(64)
    found = []
    for precision in ("float32", "fp16"):
        net = mlp()
        net.fit(X, y, class_weight=[1.0, 3.0], precision=precision, seed=0)
        found.append(net.state_dict()["layers.0.W"])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-3)


def test_going_on_from_a_checkpoint(tmp_path):
    X, y = ring(64)
    X = X * 1000

    def fit(net, epochs, **options):
        net.fit(X, y, epochs=epochs, optimizer=dc.optim.AdamW(), seed=1, precision="fp16", **options)
        return net.state_dict()

    whole = fit(mlp(0, Dropout(0.1)), 4)
    fit(mlp(0, Dropout(0.1)), 2, checkpoint=tmp_path / "run")
    net, scales = mlp(5, Dropout(0.1)), Scales()
    net.fit(X, y, epochs=4, precision="fp16", resume=tmp_path / "run", callbacks=[scales])
    same(net.state_dict(), whole)
    assert scales.seen[0][0] < 2.0**16


@pytest.mark.parametrize("case", [c for c in CASES if not c.is_loss], ids=lambda c: c.name)
def test_no_function_widens_16_bits(case):
    f = case.make()
    xs = [x.astype("float16") if x.dtype.kind == "f" else x for x in case.draw()]
    with modes(commits=False, staged=Staged()):
        if weights(f):
            passed = Narrowed(Net([f]), "float16")
            passed(*xs)
            f = passed.copy
            out = f._last.record.output
        else:
            out = f(*xs)
        outs = out if isinstance(out, tuple) else (out,)
        dX = f.backward(*outs)
    dX = dX if isinstance(dX, tuple) else (dX,)
    assert all(Y.dtype == np.float16 for Y in (*outs, *(d for d in dX if d is not None)))


# ---- what is refused


def test_what_is_refused():
    X, y = ring(16)
    with pytest.raises(
        ArgumentError, match="precision must be one of float32, relaxed, bf16, fp16, got 'half'"
    ):
        mlp().fit(X, y, precision="half")
    with pytest.raises(ArgumentError, match="compile: precision must be one of"):
        mlp().compile(dc.optim.SGD(), precision="half")
    with pytest.raises(ArgumentError, match="step makes the whole step itself, so precision 'fp16'"):
        mlp().fit(X, y, precision="fp16", step=lambda net, X, y: None)
    narrow = Net([Linear(2, 2, dtype="float16")], CrossEntropyLoss())
    with pytest.raises(DTypeError, match='these are float16 already; make the layers with dtype="float32"'):
        narrow.fit(X, y, precision="fp16")
    with pytest.raises(DTypeError, match="'fp16' is not to be had here: .*there is no dtype 'float16'"):
        mlp().to("array_api_strict").fit(X, y, precision="fp16")
