"""Compiled steps: the same numbers as steps made call by call, on every library that compiles."""

import copy
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    BatchNorm2D,
    Conv2D,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    LabelError,
    Linear,
    MaxPool2D,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    StateError,
    Tanh,
    UnsupportedError,
)
from deepcore.backends import registry
from deepcore.core.function import Function
from deepcore.core.random import Generator, drawing_from
from deepcore.optim import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop
from deepcore.train.callbacks import Callback
from deepcore.train.compiled import _Program
from deepcore.train.standing import Standing
from tests.backends import replay
from tests.places import JAX
from tests.users import Scale

STEPS = 6


@pytest.fixture(autouse=True)
def replays(monkeypatch):
    """The stand-in library is one of deepcore's backends."""
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")


def put(x, library="replay"):
    return dc.to_backend(x, library)


def libraries():
    """Each library that compiles, with the difference that its compiler may make."""
    missing = JAX.why_not
    skip = [pytest.mark.skip(reason=missing)] if missing else []
    return [
        pytest.param("replay", 0, id="replay"),
        pytest.param("numpy", 0, id="numpy"),
        pytest.param("jax", 1e-5, id="jax", marks=skip),
    ]


def mlp(p=0.5, seed=0):
    dc.seed(seed)
    return Net([Linear(4, 8), Tanh(), Dropout(p), Residual(Sequential(Linear(8, 8), ReLU())), Linear(8, 3)],
               CrossEntropyLoss())  # fmt: skip


def cnn(seed=0):
    dc.seed(seed)
    layers = [
        Conv2D(1, 2, 3, padding=1, bias=False),
        BatchNorm2D(2),
        ReLU(),
        MaxPool2D(2),
        Flatten(),
        Dropout(0.25),
    ]
    return Net([*layers, Linear(2 * 2 * 2, 3)], CrossEntropyLoss())


def tied(seed=0):
    dc.seed(seed)
    a, b = Linear(4, 4), Linear(4, 4)
    b.weight["W"] = a.weight["W"]
    frozen = Linear(4, 4)
    frozen.trainable = False
    return Net([a, ReLU(), b, frozen, Linear(4, 3)], CrossEntropyLoss())


NETS = {"mlp": (mlp, (4,)), "cnn": (cnn, (1, 4, 4)), "tied": (tied, (4,))}
OPTIMIZERS = {
    "sgd": lambda: SGD(0.1),
    "momentum": lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda: Adam(0.01, weight_decay=0.01),
    "rmsprop": lambda: RMSprop(0.01, momentum=0.5, centered=True, eps=1e-3),
    "adagrad": lambda: Adagrad(0.05, lr_decay=0.1, initial_accumulator_value=0.1),
    "lion": lambda: Lion(0.001, weight_decay=0.1),
    "muon": lambda: Muon(0.02, overrides={"layers.0.W": {"ns_steps": 0}}),
    "adamw": lambda: AdamW(0.01, overrides={"*.b": {"weight_decay": 0.0}}),
}


def batches(shape, n=STEPS, size=8, library="replay"):
    random = np.random.default_rng(1)
    return [
        (
            put(random.standard_normal((size, *shape)).astype("float32"), library),
            put(random.integers(0, 3, size), library),
        )
        for _ in range(n)
    ]


def by_hand(net, optimizer, X, y):
    loss = net.loss(net(X), y)
    net.backward()
    optimizer.step(net)
    return loss


def everything(net, optimizer):
    state = {path: dc.to_numpy(x) for path, x in net.state_dict().items()}
    for path, memory in optimizer.state.items():
        state |= {f"{path} {name}": np.asarray(dc.to_numpy(x)) for name, x in memory.items()}
    return state


def assert_same(a, b, tolerance=0):
    assert a.keys() == b.keys()
    for name in a:
        largest = tolerance * max(1.0, float(np.max(np.abs(b[name]), initial=0.0)))
        np.testing.assert_allclose(a[name], b[name], rtol=tolerance, atol=largest, err_msg=name)


@pytest.mark.parametrize(("library", "tolerance"), libraries())
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", NETS)
def test_a_compiled_step_is_the_step(kind, optimizer, library, tolerance):
    make, shape = NETS[kind]
    results = []
    for compiled in (False, True):
        net, rule = make().to(library), OPTIMIZERS[optimizer]()
        step = net.compile(rule)
        losses = []
        with drawing_from(Generator(5)) as generator:
            for index, (X, y) in enumerate(batches(shape, library=library)):
                rule.lr = 0.1 / (1 + index)  # a rate that stayed what it was would show
                losses.append(float(step(X, y) if compiled else by_hand(net, rule, X, y)))
        assert len(step._programs) == compiled
        results.append((losses, everything(net, rule), generator.calls, rule.steps))
    (losses, state, calls, steps), (losses_c, state_c, calls_c, steps_c) = results
    np.testing.assert_allclose(losses, losses_c, rtol=tolerance)
    assert_same(state, state_c, tolerance)
    assert calls == calls_c and steps == steps_c == STEPS


class HalfUsed(Scale):
    """One of its weights never gets a gradient."""

    traceable = True

    def __init__(self):
        super().__init__()
        self.weight = {"idle": dc.asarray([[1.0]]), **self.weight}


@pytest.mark.parametrize("library", ["replay", "numpy"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_weight_without_a_gradient_stays_as_it_is(optimizer, library):
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net = Net([HalfUsed(), Linear(4, 4), Tanh(), Linear(4, 3)], CrossEntropyLoss()).to(library)
        net.layers[1].trainable = False
        rule = OPTIMIZERS[optimizer]()
        step = net.compile(rule)
        for X, y in batches((4,), library=library):
            step(X, y) if compiled else by_hand(net, rule, X, y)
        assert bool(step._programs) == compiled
        results.append(everything(net, rule))
    assert "layers.0.idle step" not in results[1]
    assert results[1]["layers.3.W step"] == STEPS
    assert_same(*results)


def unfreeze(net):
    net.layers[2].trainable = True


def reorder(net):
    weight = net.layers[0].weight
    weight["W"] = weight.pop("W")


class MatrixMomentum(SGD):
    """SGD that gives a velocity to matrices alone."""

    traceable = True

    def _remembers(self, settings, W):
        return ("V",) if W.shape[0] > 1 else ()

    def _rule(self, W, dW, memory, numbers, settings):
        return super()._rule(W, dW, memory, numbers, settings | {"momentum": 0.9 if memory else 0})


@pytest.mark.parametrize("library", ["replay", "numpy"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon", MatrixMomentum])
@pytest.mark.parametrize("change", [unfreeze, reorder])
def test_weights_that_stand_at_different_steps_or_in_another_order(change, optimizer, library):
    results = []
    for compiled in (False, True):
        dc.seed(0)
        layers = [Linear(4, 4), Tanh(), Linear(4, 4), Tanh(), Linear(4, 4)]
        net = Net(layers, CrossEntropyLoss()).to(library)
        net.layers[2].trainable = False
        rule = OPTIMIZERS.get(optimizer, optimizer)()
        step = net.compile(rule)
        for index, (X, y) in enumerate(batches((4,), library=library)):
            if index == STEPS // 2:
                change(net)
            X, y = X[: 8 - index // 4, ...], y[: 8 - index // 4, ...]  # another program, a step later
            step(X, y) if compiled else by_hand(net, rule, X, y)
        assert (len(step._programs) > 1) == compiled
        results.append(everything(net, rule))
    assert_same(*results)


class Optional(Scale):
    """Y = X s c, of which both may be missing."""

    traceable = True

    def __init__(self):
        super().__init__()
        self.weight.clear()

    def forward(self, X):
        self.cache["X"] = X
        return self._scaled(X)

    def backward(self, dY):
        if "s" in self.weight:
            super().backward(dY)
        return self._scaled(dY)

    def _scaled(self, X):
        X = X * self.buffer["c"] if "c" in self.buffer else X
        return X * self.weight["s"] if "s" in self.weight else X


@pytest.mark.parametrize("library", ["replay", "numpy"])
@pytest.mark.parametrize(("table", "name"), [("weight", "s"), ("buffer", "c")])
def test_the_first_array_of_a_function_is_noticed(table, name, library):
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net, rule = Net([Optional(), Linear(4, 3)], CrossEntropyLoss()).to(library), Adam(0.01)
        step = net.compile(rule)
        for index, (X, y) in enumerate(batches((4,), library=library)):
            if index == STEPS // 2:
                getattr(net.layers[0], table)[name] = put(np.asarray([[0.5]], np.float32), library)
            step(X, y) if compiled else by_hand(net, rule, X, y)
        results.append(everything(net, rule))
    assert_same(*results)


class Temperature(Scale):
    """Its weight has no axes: NumPy's arithmetic gives scalars for it, no arrays."""

    traceable = True

    def __init__(self):
        super().__init__()
        self.weight["s"] = dc.asarray(2.0)

    def backward(self, dY):
        dX = super().backward(dY)
        self.weight_update["s"] = self.weight_update["s"][0, 0]
        return dX


@pytest.mark.parametrize("library", ["replay", "numpy"])
def test_a_weight_without_axes(library):
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net, rule = Net([Temperature(), Linear(4, 3)], CrossEntropyLoss()).to(library), SGD(0.1, momentum=0.9)
        step, kind = net.compile(rule), type(net.layers[0].weight["s"])
        for X, y in batches((4,), library=library):
            step(X, y) if compiled else by_hand(net, rule, X, y)
        assert bool(step._programs) == compiled
        assert type(net.layers[0].weight["s"]) is kind
        results.append(everything(net, rule))
    assert_same(*results)


@pytest.mark.parametrize("library", ["replay", "numpy"])
def test_a_compiled_step_interrupted_before_its_changes_are_made(library, monkeypatch):
    """Where it stands is told all at once: what was not committed is no place to go on from."""
    values_of = Standing._values
    results = []
    for compiled in (False, True):
        net, rule = mlp(p=0).to(library), Adam(0.01)
        step = net.compile(rule)
        for index, (X, y) in enumerate(batches((4,), library=library)):
            if compiled and index == STEPS // 2:
                monkeypatch.setattr(Standing, "_values", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    step(X, y)
                monkeypatch.setattr(Standing, "_values", values_of)
            step(X, y) if compiled else by_hand(net, rule, X, y)
        results.append(everything(net, rule))
    assert_same(*results)


def interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", [Adam, AdamW])
def test_a_compiled_step_of_large_weights_has_the_bits_of_the_step(optimizer):
    """Kernels for large arrays round the numbers of a step alike, whether these are floats or 0-d arrays."""
    dc.seed(0)
    compiled = Net([Linear(6, 200), Linear(200, 200), Linear(200, 4)], CrossEntropyLoss())
    eager = copy.deepcopy(compiled)
    step, update = compiled.compile(optimizer(0.0022)), optimizer(0.0022)
    X, y = np.random.default_rng(0).standard_normal((9, 6)).astype("float32"), np.arange(9) % 4
    for _ in range(6):
        step(X, y)
        eager.loss(eager(X), y)
        eager.backward()
        update.step(eager)
        for path, W in eager.parameters().items():
            assert np.array_equal(W, compiled.parameters()[path]), path


@pytest.mark.parametrize(("library", "tolerance"), libraries())
@pytest.mark.parametrize("kind", NETS)
def test_fit_compiles_by_itself_and_gives_the_same(kind, library, tolerance, monkeypatch):
    make, shape = NETS[kind]
    random = np.random.default_rng(0)
    X, y = random.standard_normal((20, *shape)), random.integers(0, 3, 20)
    traces = []
    monkeypatch.setattr("deepcore.train.step._PATIENCE", 1)  # NumPy goes call by call before
    step = _Program.pure_step
    monkeypatch.setattr(_Program, "pure_step", lambda *given: traces.append(1) or step(*given))
    results = []
    for compiled in (False, "auto"):
        net, rule = make().to(library), Adam(0.02)
        history = net.fit(X, y, epochs=3, batch_size=8, optimizer=rule, seed=3, clip_norm=0.5,
                          schedule=lambda step: 0.02 / (1 + step), compile=compiled)  # fmt: skip
        results.append((history.history, everything(net, rule)))
    assert len(traces) == 2  # one for the full batches, one for the last
    (a, state), (b, state_c) = results
    assert a.keys() == b.keys()
    np.testing.assert_allclose(list(a.values()), list(b.values()), rtol=tolerance)
    assert_same(state, state_c, tolerance)


@pytest.mark.parametrize("library", ["replay", "numpy"])
def test_replaced_weights_and_changed_settings_count(library):
    def own(x):
        return put(x.astype("float32"), library)

    results = []
    for compiled in (False, True):
        net, rule = mlp().to(library), SGD(0.1)
        step = net.compile(rule) if compiled else lambda X, y, net=net, rule=rule: by_hand(net, rule, X, y)
        data = iter(batches((4,), n=30, library=library))
        losses = []
        with drawing_from(Generator(5)):
            for change in (
                lambda net: None,
                lambda net: net.layers[0].weight.update(W=own(np.ones((4, 8)))),
                lambda net: net.layers[0].weight.update(W=own(np.ones((8, 4)).T)),  # other strides
                lambda net: net.load_state_dict({p: W / 2 for p, W in net.state_dict().items()}),
                lambda net, rule=rule: rule.settings.update(momentum=0.9),
                lambda net, rule=rule: rule.state["layers.0.W"].update(V=own(np.ones((4, 8)))),
                lambda net, rule=rule: rule.state.clear(),
                lambda net, rule=rule: rule.overrides.update({"*.b": {"lr": 0.3}}),
                lambda net, rule=rule: setattr(rule, "lr", 0.2),
                lambda net, rule=rule, data=data: by_hand(net, rule, *next(data)),
                lambda net: setattr(net.loss_fn, "label_smoothing", 0.1),
                lambda net: net.layers[0].weight.update(W=net.layers[0].weight["W"] * 1),
                lambda net: setattr(net.layers[2], "p", 0.1),
                lambda net: net.layers[4].weight.update(b=net.layers[4].weight["b"] + 1),
                lambda net: net.layers[3].f.functions[0].weight.update(b=net.layers[0].weight["b"]),  # a tie
                lambda net: setattr(net.layers[0], "trainable", False),
                lambda net: net.layers.insert(2, ReLU()),
                lambda net: net.layers.__setitem__(2, Tanh()),  # for a ReLU: none of the attributes differs
                lambda net: net.eval(),
                lambda net: net.layers.pop(1),  # which sets no attribute
            ):
                change(net)
                for X, y in (next(data),) * 2:
                    losses.append(float(step(X, y)))
        results.append((losses, everything(net, rule)))
    assert results[0][0] == results[1][0]
    assert_same(results[0][1], results[1][1])


def test_after_a_compiled_step_records_and_gradients_are_gone():
    for backend in ("replay", "numpy"):
        net, (X, y) = mlp().to(backend), batches((4,), n=1)[0]
        X, y = (dc.to_backend(x, backend) for x in (X, y))
        by_hand(net, SGD(0.1), X, y)
        net.compile(SGD(0.1))(X, y)
        for read in (lambda net: net.layers[0].grad, lambda net: net.layers[0].cache, Net.gradients):
            with pytest.raises(StateError, match="compiled step"):
                read(net)
        with pytest.raises(StateError):
            net.update_weights(0.1)
        by_hand(net, SGD(0.1), X, y)
        assert net.gradients()


def test_a_bad_label_changes_nothing_and_is_told():
    net, rule = cnn().to("replay"), Adam(0.1)
    step = net.compile(rule)
    (X, y), (X2, y2) = batches((1, 4, 4), n=2)
    step(X, y)
    before = everything(net, rule)
    bad = put(np.where(np.arange(8) == 5, 3, dc.to_numpy(y2)))
    assert np.isnan(float(step(X2, bad)))
    after = everything(net, rule)
    for name in before:
        if not name.endswith("step"):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    with pytest.raises(LabelError, match="3 in row 5"):
        step.check()
    step.check()
    assert np.isfinite(float(step(X, y)))


def test_a_label_out_of_range_stops_fit_before_anything_has_changed():
    net = cnn().to("replay")
    before = everything(net, SGD())
    with pytest.raises(LabelError, match="7 in row 9"):
        net.fit(np.ones((10, 1, 4, 4)), np.array([0] * 9 + [7]), compile=True)
    assert_same(before, everything(net, SGD()))


class Counting(Function):
    """Says that it may be traced, and may not: a Python number changes with every call."""

    traceable = True

    def __init__(self):
        self.calls = 0

    def forward(self, X):
        self.calls += 1
        return X * self.calls

    def backward(self, dY):
        return dY


class Reading(Function):
    """Says that it may be traced, and looks at a number."""

    traceable = True

    def forward(self, X):
        return X if float(dc.array_namespace(X).sum(X)) > 0 else -X

    def backward(self, dY):
        return dY


def losses_of(net, compiled, n=3):
    rule = SGD(0.0)
    step = net.compile(rule) if compiled else lambda X, y: by_hand(net, rule, X, y)
    X, y = batches((4,), n=1)[0]
    return [float(step(X, y)) for _ in range(n)]


def test_the_stand_in_notices_a_frozen_number_and_a_look_at_one():
    """What the tests above would not show, these would."""
    with pytest.raises(replay.HostRead):
        losses_of(Net([Reading(), Linear(4, 3)], CrossEntropyLoss()).to("replay"), compiled=True)

    def make():
        dc.seed(0)
        return Net([Counting(), Linear(4, 3)], CrossEntropyLoss()).to("replay")

    frozen, live = losses_of(make(), compiled=True), losses_of(make(), compiled=False)
    assert frozen[0] == live[0] and frozen[1:] != live[1:]


def test_what_is_not_traceable_runs_call_by_call(caplog):
    dc.seed(0)
    net = Net([Scale(), Linear(4, 3)], CrossEntropyLoss()).to("replay")
    X, y = np.ones((8, 4)), np.zeros(8, int)
    with caplog.at_level("DEBUG", logger="deepcore"):
        net.fit(X, y)
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "layers.0, Scale" in caplog.text and "traceable = True" in caplog.text
    with pytest.raises(UnsupportedError, match=r"fit\(compile=True\): layers.0, Scale.* is not traceable"):
        net.fit(X, y, compile=True)
    assert np.isfinite(float(net.compile(SGD())(*batches((4,), n=1)[0])))


def test_what_fit_cannot_compile():
    net = mlp().to("replay")

    class Reader(Callback):
        needs_gradients = True

        def on_step_end(self, run):
            assert run.net.gradients()

    X, y = np.ones((8, 4)), np.zeros(8, int)
    net.fit(X, y, callbacks=[Reader()])
    for options, reason in (
        ({"callbacks": [Reader()]}, "callback Reader needs the gradients"),
        ({"accumulate": 2}, "accumulate"),
    ):
        with pytest.raises(UnsupportedError, match=reason):
            net.fit(X, y, compile=True, **options)
    with pytest.raises(dc.ArgumentError, match='compile must be True, False or "auto"'):
        net.fit(X, y, compile="yes")


class OwnRule(Linear):
    """Its update is its own."""

    traceable = True

    def _update_weights(self, lr):
        self.weight["W"] = self.weight["W"] - lr


class Cheaper(ReLU):
    """Overrides a formula of a traceable class, and says nothing."""

    def forward(self, X):
        return X


def test_what_a_subclass_inherits():
    assert OwnRule.traceable and not Cheaper.traceable
    net = Net([OwnRule(4, 3)], CrossEntropyLoss()).to("replay")
    with pytest.raises(UnsupportedError, match="update rule of its own"):
        net.fit(np.ones((8, 4)), np.zeros(8, int), compile=True)


def test_all_built_in_functions_are_traceable():
    built_in = [f for f in vars(dc).values() if isinstance(f, type) and issubclass(f, Function)]
    abstract = {dc.Function, dc.Layer, dc.Loss}
    assert [f for f in built_in if not f.traceable and f not in abstract] == []


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_compiled_step_is_not_copied(copied):
    net = mlp()
    step = net.compile(SGD(0.1))
    with pytest.raises(UnsupportedError, match=r"belongs to its net .* net\.compile"):
        copied(step)


def test_wrong_use_of_compile():
    with pytest.raises(StateError, match="no loss"):
        Net([Linear(4, 3)]).compile(SGD())
    net, rule = mlp().to("replay"), SGD(0.1)
    X, y = batches((4,), n=1)[0]
    net.compile(rule)(X, y)
    with pytest.raises(StateError, match="belongs to another net"):
        mlp().to("replay").compile(rule)(X, y)
    with pytest.raises(dc.MixedBackendError):
        net.compile(rule)(dc.to_numpy(X), y)
    with pytest.raises(dc.ShapeError, match="must end in 4"):
        net.compile(rule)(X[:, :3], y)
    assert rule.steps == 1


def test_targets_that_are_no_labels():
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net, rule = Net([Linear(4, 2)], MSELoss()).to("replay"), SGD(0.1)
        step = net.compile(rule) if compiled else lambda X, Y, net=net, rule=rule: by_hand(net, rule, X, Y)
        random = np.random.default_rng(0)
        X, Y = (
            put(random.standard_normal((8, 4)).astype("f4")),
            put(random.standard_normal((8, 2)).astype("f4")),
        )
        results.append([float(step(X, Y)) for _ in range(3)])
    assert results[0] == results[1]


def test_few_programs_are_kept():
    net, rule = mlp().to("replay"), SGD(0.1)
    step = net.compile(rule)
    for size in range(1, 12):
        step(*batches((4,), n=1, size=size)[0])
    assert len(step._programs) <= 8


needs_jax = pytest.mark.skipif(bool(JAX.why_not), reason=str(JAX.why_not))


@needs_jax
def test_half_the_width_stays_half_the_width():
    """What a step's numbers are made of, float32, must not widen weights or memory."""
    with dc.use_backend("jax"):
        net = Net([Linear(4, 8, dtype="float16"), Tanh(), Linear(8, 3, dtype="float16")], CrossEntropyLoss())
    X, y = np.random.default_rng(0).standard_normal((8, 4)), np.arange(8) % 3
    for rule in (SGD(0.1, momentum=0.9), Adam(0.01)):
        net.fit(X, y, optimizer=rule, compile=True)
        arrays = [*net.parameters().values(), *(s[n] for s in rule.state.values() for n in s if n != "step")]
        assert {str(x.dtype) for x in arrays} == {"float16"}


@needs_jax
@pytest.mark.parametrize("way", ["statistics", "by hand", "compiled"])
def test_no_stand_in_stays_in_a_net_that_another_program_traces(way):
    import jax

    if way == "statistics":
        net, X = Net([BatchNorm2D(1)]).to("jax"), np.ones((2, 1, 2, 2), "float32")

        def use(x):
            return net(x)
    else:
        net, X = Net([Linear(2, 1)], MSELoss()).to("jax"), np.ones((4, 2), "float32")
        step = net.compile(SGD(0.1))

        def use(x):
            if way == "compiled":
                return step(x, x[:, :1])
            net.loss(net(x), x[:, :1])
            net.backward()
            net.update_weights(0.1)
            return x

    before = net.state_dict()
    with pytest.raises(StateError, match="stand-in"):
        jax.jit(use)(dc.to_backend(X, "jax"))
    for path, x in net.state_dict().items():
        np.testing.assert_array_equal(x, before[path])
    assert np.isfinite(dc.to_numpy(net.predict(X))).all()


def test_a_step_with_a_bad_label_does_not_count():
    net, rule = mlp().to("replay"), Adam(0.1)
    step, (X, y) = net.compile(rule), batches((4,), n=1)[0]
    step(X, y)
    step(X, y + 7)
    with pytest.raises(LabelError):
        step.check()
    assert rule.steps == 1 and {state["step"] for state in rule.state.values()} == {1}


@needs_jax
def test_labels_that_are_no_integers_are_told_in_words():
    net = Net([Linear(4, 3)], CrossEntropyLoss()).to("jax")
    X, y = batches((4,), n=1, library="jax")[0]
    with pytest.raises(LabelError, match="labels must be integers, got float32"):
        net.compile(SGD())(X, dc.array_namespace(y).astype(y, "float32"))


class Slowing(SGD):
    """A rule that depends on more than its arguments."""

    factor = 1.0

    def _rule(self, W, dW, memory, numbers, settings):
        return W - numbers["lr"] * self.factor * dW, {}


def test_an_optimizer_of_the_users_own_runs_call_by_call():
    net = mlp().to("replay")
    with pytest.raises(UnsupportedError, match="Slowing is an optimizer of your own"):
        net.fit(np.ones((8, 4)), np.zeros(8, int), optimizer=Slowing(0.1), compile=True)
    net.fit(np.ones((8, 4)), np.zeros(8, int), optimizer=Slowing(0.1))
    Slowing.traceable = True
    try:
        net.fit(np.ones((8, 4)), np.zeros(8, int), optimizer=Slowing(0.1), compile=True)
    finally:
        del Slowing.traceable


def test_a_library_that_compiles_nothing_may_say_so(monkeypatch):
    monkeypatch.setattr(replay.ReplayBackend, "compile", lambda self, function: None)
    net, (X, y) = mlp().to("replay"), batches((4,), n=1)[0]
    assert np.isfinite(float(net.compile(SGD(0.1))(X, y)))
