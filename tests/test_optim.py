"""Optimizers: torch's trajectories, settings by path, and the state that belongs to one net."""

import copy
import ctypes
import gc
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, CrossEntropyLoss, Linear, Net, Sequential, StateError, Tanh
from deepcore.optim import SGD, Adagrad, Adam, AdamW, Lion, Muon, RMSprop

STEPS = 50


@pytest.fixture
def torch():
    """The judge of these trajectories, on one thread: at this size more of them only wait for each other."""
    torch = pytest.importorskip("torch", reason="needs torch, whose formulas these are")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def small_net(dtype="float64", seed=0):
    dc.seed(seed)
    return Net([Linear(5, 7, dtype=dtype), Tanh(), Linear(7, 3, dtype=dtype)], CrossEntropyLoss())


def batch(step, dtype="float64"):
    return normal(8, 5, seed=step, dtype=dtype), np.random.default_rng(step).integers(0, 3, 8)


def one_pass(net, step=0):
    X, y = batch(step)
    net.loss(net(X), y)
    net.backward()


def train(net, optimizer, steps=STEPS, start=0):
    for step in range(start, start + steps):
        one_pass(net, step)
        optimizer.step(net)
    return net


# ---- torch's trajectories

RULES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    ("Adam", {}),
    ("Adam", {"lr": 0.02, "betas": (0.7, 0.95), "eps": 1e-3}),
    ("Adam", {"lr": 0.02, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.02}),
    ("AdamW", {"lr": 0.02, "weight_decay": 0.3, "betas": (0.8, 0.9), "eps": 1e-6}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.003, "momentum": 0.9, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.003, "centered": True, "alpha": 0.9, "eps": 1e-4}),
    ("RMSprop", {"lr": 0.001, "centered": True, "momentum": 0.8, "eps": 1e-3}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
]
IDS = [f"{name} {', '.join(settings)}" for name, settings in RULES]


def torch_weights(torch, net):
    return {path: torch.tensor(W, requires_grad=True) for path, W in net.parameters().items()}


def torch_step(torch, weights, optimizer, step, dtype):
    X, y = batch(step, dtype)
    W, b, V, c = weights.values()
    optimizer.zero_grad()
    out = torch.tanh(torch.tensor(X) @ W + b) @ V + c
    torch.nn.functional.cross_entropy(out, torch.tensor(y)).backward()
    optimizer.step()


@pytest.mark.parametrize(("name", "settings"), RULES, ids=IDS)
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-5)])
def test_fifty_steps_are_torchs(torch, name, settings, dtype, atol):
    net = small_net(dtype)
    weights = torch_weights(torch, net)
    start = net.parameters()
    theirs = getattr(torch.optim, name)(list(weights.values()), **settings)
    ours = getattr(dc.optim, name)(**settings)
    for step in range(STEPS):
        one_pass(net, step)
        ours.step(net)
        torch_step(torch, weights, theirs, step, dtype)
        for path, W in net.parameters().items():
            np.testing.assert_allclose(W, weights[path].detach().numpy(), rtol=0, atol=atol)
    assert ours.steps == STEPS
    for path, W in net.parameters().items():
        assert W.dtype == dtype
        assert np.abs(W - start[path]).max() > 1e-3


def test_settings_by_path_are_torchs_parameter_groups(torch):
    net = small_net()
    W, b, V, c = weights = list(torch_weights(torch, net).values())
    groups = [
        {"params": [W], "lr": 1e-2},
        {"params": [b], "weight_decay": 0, "lr": 1e-2},
        {"params": [V]},
        {"params": [c], "weight_decay": 0},
    ]
    theirs = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.2)
    ours = AdamW(1e-3, weight_decay=0.2, overrides={"*.b": {"weight_decay": 0}, "layers.0.*": {"lr": 1e-2}})
    for step in range(STEPS):
        one_pass(net, step)
        ours.step(net)
        torch_step(torch, dict(enumerate(weights)), theirs, step, "float64")
    for mine, right in zip(net.parameters().values(), weights, strict=True):
        np.testing.assert_allclose(mine, right.detach().numpy(), rtol=0, atol=1e-10)


def test_clipped_gradients_are_torchs(torch):
    net = small_net()
    weights = torch_weights(torch, net)
    theirs = torch.optim.SGD(list(weights.values()), lr=0.5)
    X, y = batch(0)
    W, b, V, c = weights.values()
    for _ in range(5):
        net.fit(X, y, batch_size=8, shuffle=False, clip_norm=0.1, optimizer=SGD(0.5))
        theirs.zero_grad()
        out = torch.tanh(torch.tensor(X) @ W + b) @ V + c
        torch.nn.functional.cross_entropy(out, torch.tensor(y)).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 0.1)
        theirs.step()
    for path, mine in net.parameters().items():
        np.testing.assert_allclose(mine, weights[path].detach().numpy(), rtol=0, atol=1e-10)


ORTHOGONAL = [
    {},
    {"lr": 0.02, "weight_decay": 0.3, "nesterov": False},
    {"lr": 0.02, "momentum": 0.8, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"},
    {"lr": 0.02, "adjust_lr_fn": "original", "eps": 1e-3},
]


@pytest.mark.parametrize("settings", ORTHOGONAL, ids=lambda settings: f"Muon {', '.join(settings)}")
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 1e-4)])
def test_fifty_steps_of_muon_are_torchs(torch, monkeypatch, settings, dtype, atol):
    """Its formula for the matrices, but not in bfloat16, which would hide any fault; AdamW for the rest."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    net = small_net(dtype)
    weights = torch_weights(torch, net)
    matrices = [W for path, W in weights.items() if path.endswith("W")]
    others = [b for path, b in weights.items() if path.endswith("b")]
    adamw = {"lr": settings.get("lr", 1e-3), "weight_decay": settings.get("weight_decay", 0.1)}
    theirs = torch.optim.Muon(matrices, **settings), torch.optim.AdamW(others, **adamw)
    ours = Muon(**settings)
    for step in range(STEPS):
        one_pass(net, step)
        ours.step(net)
        theirs[1].zero_grad()
        torch_step(torch, weights, theirs[0], step, dtype)
        theirs[1].step()
        for path, W in net.parameters().items():
            np.testing.assert_allclose(W, weights[path].detach().numpy(), rtol=0, atol=atol)
    assert {W.dtype.name for W in net.parameters().values()} == {dtype}


def test_muon_near_torchs_own_bfloat16(torch):
    """As it is, torch's matrix goes the same way, to the digits that bfloat16 has."""
    net = small_net("float32")
    start = net.parameters()["layers.0.W"]
    weights = torch_weights(torch, net)
    theirs = torch.optim.Muon([weights["layers.0.W"]], lr=0.02)
    ours = Muon(lr=0.02, overrides={"layers.2.*": {"lr": 0}, "*.b": {"lr": 0}})
    for step in range(10):
        one_pass(net, step)
        ours.step(net)
        torch_step(torch, weights, theirs, step, "float32")
    W, right = net.parameters()["layers.0.W"], weights["layers.0.W"].detach().numpy()
    assert np.abs(W - right).max() < 0.05 * np.abs(right - start).max()


def test_muon_makes_all_directions_equal():
    random = np.random.default_rng(0)
    U, _, Vt = np.linalg.svd(random.standard_normal((6, 4)), full_matrices=False)
    net = Net([Linear(6, 4, bias=False, dtype="float64")])
    before = net.parameters()["layers.0.W"]
    X = (U * [3.0, 1.0, 0.3, 0.1]) @ Vt
    net.backward(net(np.eye(6)) * 0 + X)  # dW = X
    Muon(lr=1.0, weight_decay=0, adjust_lr_fn="original").step(net)
    moved = (before - net.parameters()["layers.0.W"]) / np.sqrt(6 / 4)
    inside = U.T @ moved @ Vt.T
    assert np.abs(inside - np.diag(np.diag(inside))).max() < 1e-12
    assert (np.diag(inside) > 0.65).all() and (np.diag(inside) < 1.25).all()


def test_muon_leaves_to_adamw_what_is_no_matrix():
    """Biases, kernels, and weights with ns_steps=0."""

    def net():
        dc.seed(0)
        layers = [dc.Conv2D(1, 2, 3, dtype="float64"), dc.Flatten(), Linear(8, 3, dtype="float64")]
        return Net(layers, CrossEntropyLoss())

    X, y = normal(5, 1, 4, 4), np.arange(5) % 3
    nets = net(), net()
    rules = Muon(0.01, overrides={"layers.2.W": {"ns_steps": 0}}), AdamW(0.01, weight_decay=0.1)
    for one, rule in zip(nets, rules, strict=True):
        for _ in range(3):
            one.loss(one(X), y)
            one.backward()
            rule.step(one)
    for path, W in nets[0].parameters().items():
        np.testing.assert_allclose(W, nets[1].parameters()[path], rtol=1e-13)


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 0.01, "betas": (0.8, 0.95)}, {"lr": 0.01, "weight_decay": 0.5}], ids=str
)
def test_fifty_steps_of_lion_are_its_papers(settings):
    """Algorithm 2 of arXiv:2302.06675, one number after the other."""
    lr, (b1, b2), decay = ({"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0} | settings).values()
    net = small_net()
    optimizer = Lion(**settings)
    theta = {path: W.copy() for path, W in net.parameters().items()}
    m = {path: np.zeros_like(W) for path, W in theta.items()}
    for step in range(STEPS):
        one_pass(net, step)
        for path, g in net.gradients().items():
            for i in np.ndindex(g.shape):
                c = b1 * m[path][i] + (1 - b1) * g[i]
                theta[path][i] -= lr * (np.sign(c) + decay * theta[path][i])
                m[path][i] = b2 * m[path][i] + (1 - b2) * g[i]
        optimizer.step(net)
        for path, W in net.parameters().items():
            np.testing.assert_allclose(W, theta[path], rtol=0, atol=1e-12)


def test_a_centered_variance_is_never_negative():
    """Of a gradient that stays the same V - M^2 is 0 but for rounding: its root would be NaN."""
    net = Net([Linear(2, 3)])
    optimizer = RMSprop(1e-3, centered=True, alpha=0.5)
    for _ in range(60):
        net(np.ones((1, 2), "float32"))
        net.backward(np.array([[0.1, 0.7, 1.3]], "float32"))
        optimizer.step(net)
    assert all(np.isfinite(W).all() for W in net.parameters().values())


# ---- settings


def test_defaults_are_torchs():
    assert SGD().settings == {"lr": 0.01, "momentum": 0, "nesterov": False, "weight_decay": 0}
    assert Adam().settings == {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0}
    assert AdamW().settings == {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
    torch = pytest.importorskip("torch", reason="needs torch, whose defaults these are")
    W = torch.zeros(2, 2, requires_grad=True)
    for make in (RMSprop, Adagrad, Muon):
        theirs = getattr(torch.optim, make.__name__)([W]).defaults
        own = {"betas"} if make is Muon else set()  # AdamW's, for what is no matrix
        assert {name: theirs[name] for name in make().settings.keys() - own} == {
            name: value for name, value in make().settings.items() if name not in own
        }
    assert Lion().settings == {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0}


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop, Adagrad, Lion, Muon])
@pytest.mark.parametrize("lr", [-1e-3, float("nan"), float("inf"), np.float64("nan"), "fast", None], ids=str)
def test_a_rate_that_is_none(make, lr):
    with pytest.raises(ArgumentError, match="lr must be a finite number, zero or more, got"):
        make(lr)
    with pytest.raises(ArgumentError, match="lr must be"):
        make(0.1, overrides={"*.b": {"lr": lr}})
    optimizer = make(0.25)
    with pytest.raises(ArgumentError, match="lr must be"):
        optimizer.lr = lr
    assert optimizer.lr == 0.25


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (SGD, {"momentum": -0.1}, "SGD: momentum must be a finite number, 0 or more, got -0.1"),
        (SGD, {"weight_decay": -1}, "SGD: weight_decay must be"),
        (SGD, {"weight_decay": float("nan")}, "SGD: weight_decay must be"),
        (SGD, {"nesterov": True}, "SGD: nesterov needs a momentum above 0"),
        (Adam, {"betas": (0.9, 1.0)}, r"Adam: betas must be two numbers 0 <= beta < 1, got \(0.9, 1.0\)"),
        (Adam, {"betas": 0.9}, "Adam: betas must be two numbers"),
        (Adam, {"betas": (0.9,)}, "Adam: betas must be two numbers"),
        (Adam, {"betas": (-0.1, 0.9)}, "Adam: betas must be two numbers"),
        (Adam, {"eps": -1e-8}, "Adam: eps must be"),
        (AdamW, {"weight_decay": float("inf")}, "AdamW: weight_decay must be"),
        (RMSprop, {"alpha": 1.5}, "RMSprop: alpha must be a number 0 <= alpha <= 1, got 1.5"),
        (RMSprop, {"momentum": -1}, "RMSprop: momentum must be"),
        (Adagrad, {"lr_decay": -1}, "Adagrad: lr_decay must be"),
        (Adagrad, {"initial_accumulator_value": -1}, "Adagrad: initial_accumulator_value must be"),
        (Lion, {"betas": (0.9, 1.0)}, "Lion: betas must be two numbers"),
        (Muon, {"ns_steps": 100}, "Muon: ns_steps must be a whole number, 0 to 99, got 100"),
        (Muon, {"ns_coefficients": (1.0, 2.0)}, "Muon: ns_coefficients must be three finite numbers"),
        (Muon, {"adjust_lr_fn": "wild"}, "Muon: adjust_lr_fn must be None, .*got 'wild'"),
    ],
)
def test_settings_out_of_range(make, settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)
    with pytest.raises(ArgumentError, match=message):
        make(overrides={"*": settings})


def test_an_override_of_a_setting_that_there_is_not():
    with pytest.raises(
        ArgumentError, match=r"SGD: overrides\['\*\.b'\] has no setting 'betas'; choose from lr"
    ):
        SGD(overrides={"*.b": {"betas": (0.9, 0.99)}})


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop, Adagrad, Lion, Muon])
def test_a_rate_of_zero_moves_nothing(make):
    net = small_net()
    before = net.parameters()
    train(net, make(0.0), steps=3)
    for path, W in net.parameters().items():
        np.testing.assert_array_equal(W, before[path])


def test_of_several_overrides_that_match_the_last_counts():
    net = small_net()
    before = net.parameters()
    one_pass(net)
    gradients = net.gradients()
    SGD(1.0, overrides={"layers.2.*": {"lr": 0.5}, "*.b": {"lr": 0.25}, "layers.0.W": {"lr": 0}}).step(net)
    rates = {"layers.0.W": 0, "layers.0.b": 0.25, "layers.2.W": 0.5, "layers.2.b": 0.25}
    for path, W in net.parameters().items():
        np.testing.assert_allclose(W, before[path] - rates[path] * gradients[path], rtol=1e-13)


def test_overrides_reach_nested_paths():
    dc.seed(0)
    net = Net([Sequential(Linear(5, 5, dtype="float64"), Tanh())], CrossEntropyLoss())
    before = net.parameters()
    one_pass(net)
    SGD(0.1, overrides={"layers.0.*": {"lr": 0}}).step(net)
    for path, W in net.parameters().items():
        np.testing.assert_array_equal(W, before[path])


def test_the_rate_may_be_set_between_steps():
    net = small_net()
    optimizer = SGD(0.1)
    train(net, optimizer, steps=1)
    optimizer.lr = 0.0
    before = net.parameters()
    train(net, optimizer, steps=1)
    assert all(np.array_equal(W, before[path]) for path, W in net.parameters().items())
    assert optimizer.lr == 0 and optimizer.steps == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda number: SGD(number(0.1)),
        lambda number: SGD(0.1, momentum=number(0.9), weight_decay=number(0.1)),
        lambda number: Adam(number(0.1)),
        lambda number: Adam(0.1, betas=(number(0.9), number(0.99)), eps=number(1e-8)),
        lambda number: AdamW(0.1, weight_decay=number(0.1)),
        lambda number: SGD(0.1, overrides={"*": {"lr": number(0.1)}}),
        lambda number: RMSprop(0.1, alpha=number(0.9), eps=number(1e-8), momentum=number(0.5), centered=True),
        lambda number: Adagrad(number(0.1), number(0.1), number(0.1), number(0.1), number(1e-8)),
        lambda number: Lion(number(0.1), (number(0.9), number(0.99)), number(0.1)),
        lambda number: Muon(number(0.1), number(0.1), number(0.9), eps=number(1e-7)),
    ],
    ids=["SGD lr", "SGD", "Adam lr", "Adam", "AdamW", "overrides", "RMSprop", "Adagrad", "Lion", "Muon"],
)
def test_settings_of_any_number_type_widen_nothing(make):
    """np.linspace and np.logspace give float64 numbers, which NumPy doesn't narrow to the weights' dtype."""
    net = small_net("float32")
    optimizer = make(np.float64)
    train(net, optimizer, steps=3)
    assert {str(W.dtype) for W in net.parameters().values()} == {"float32"}
    for state in optimizer.state.values():
        assert {str(x.dtype) for x in state.values() if hasattr(x, "dtype")} <= {"float32"}


def test_repr():
    assert repr(SGD(0.1, momentum=0.9)) == "SGD(lr=0.1, momentum=0.9, nesterov=False, weight_decay=0)"


# ---- the state belongs to one net, by path


def test_state_is_keyed_by_path():
    net = small_net()
    optimizer = train(net, Adam(), steps=3) and Adam()
    train(net, optimizer, steps=3)
    assert optimizer.state.keys() == net.parameters().keys()
    for path, W in net.parameters().items():
        state = optimizer.state[path]
        assert state["step"] == 3
        assert state["M"].shape == state["V"].shape == W.shape
        assert state["M"].dtype == W.dtype


def test_plain_descent_keeps_no_arrays():
    net = small_net()
    optimizer = SGD(0.1)
    train(net, optimizer, steps=2)
    assert all(set(state) == {"step"} for state in optimizer.state.values())


def test_plain_descent_is_update_weights():
    ours, by_hand = small_net(), small_net()
    train(ours, SGD(0.1), steps=5)
    for step in range(5):
        one_pass(by_hand, step)
        by_hand.update_weights(0.1)
    for path, W in ours.parameters().items():
        np.testing.assert_array_equal(W, by_hand.parameters()[path])


def test_layers_that_come_later_start_with_their_own_bias_correction():
    """Adam's first step is lr times the sign, whenever a weight joins."""
    net = Net([Linear(3, 3, dtype="float64")])
    optimizer = Adam(0.1)
    for seed in range(4):
        out = net(normal(4, 3, seed=seed))
        net.backward(out)
        optimizer.step(net)
    late = Linear(3, 3, dtype="float64")
    net.layers.append(late)
    before = late.weight["W"]
    net.backward(net(normal(4, 3)))
    optimizer.step(net)
    np.testing.assert_allclose(np.abs(late.weight["W"] - before), 0.1, rtol=1e-6)
    assert optimizer.state["layers.1.W"]["step"] == 1
    assert optimizer.state["layers.0.W"]["step"] == 5


@pytest.mark.parametrize("make", [SGD, Adam, AdamW, RMSprop, Adagrad, Lion, Muon])
def test_an_optimizer_binds_to_its_first_net(make):
    first, second = small_net(), small_net(seed=1)
    optimizer = make(0.1)
    train(first, optimizer, steps=1)
    one_pass(second)
    before = second.parameters()
    state = dict(optimizer.state)
    with pytest.raises(StateError, match=f"{make.__name__} belongs to another net.*make a new optimizer"):
        optimizer.step(second)
    with pytest.raises(StateError, match="belongs to another net"):
        second.fit(*batch(0), optimizer=optimizer)
    assert all(second.parameters()[path] is W for path, W in before.items())
    assert optimizer.steps == 1
    assert all(optimizer.state[path] is value for path, value in state.items())
    train(first, optimizer, steps=1)


def test_an_optimizer_stays_bound_when_its_net_is_gone():
    """`net = Net(...)` in a loop, with one optimizer outside it: the state is that of the net before."""
    optimizer = Adam()
    train(small_net(), optimizer, steps=1)
    gc.collect()
    net = small_net(seed=1)
    one_pass(net)
    with pytest.raises(StateError, match="belongs to another net"):
        optimizer.step(net)


def test_an_optimizer_does_not_keep_its_net_alive():
    import weakref

    net, optimizer = small_net(), Adam()
    train(net, optimizer, steps=1)
    ref = weakref.ref(net)
    del net
    gc.collect()
    assert ref() is None


def test_a_step_that_failed_binds_to_nothing():
    optimizer = Adam()
    with pytest.raises(StateError, match=r"net\.backward\(\) first"):
        optimizer.step(small_net())
    assert optimizer.steps == 0 and not optimizer.state
    train(small_net(seed=1), optimizer, steps=1)


def test_a_single_layer_may_be_trained():
    f = Linear(3, 2, dtype="float64")
    optimizer = Adam(0.1)
    W = f.weight["W"]
    f.backward(f(normal(4, 3)))
    optimizer.step(f)
    assert f.weight["W"] is not W
    assert set(optimizer.state) == {"W", "b"}


def test_a_step_writes_to_no_array_that_was_read():
    """Neither weights nor gradients nor state: each step makes new ones."""
    net, optimizer = small_net(), Adam(0.1)
    train(net, optimizer, steps=1)
    one_pass(net, 1)
    seen = {**net.parameters(), **{f"d{path}": dW for path, dW in net.gradients().items()}}
    seen |= {f"{path}.{k}": v for path, state in optimizer.state.items() for k, v in state.items()}
    kept = copy.deepcopy(seen)
    optimizer.step(net)
    for name, value in seen.items():
        np.testing.assert_array_equal(value, kept[name])


# ---- arrays that nobody else holds are overwritten


OVERWRITING = [lambda: SGD(0.1), lambda: SGD(0.1, momentum=0.9, weight_decay=0.1), lambda: AdamW(0.1)]


def weight_and_memory(net, optimizer, path="layers.0.W"):
    return [net.parameters()[path], *(x for name, x in optimizer.state[path].items() if name != "step")]


def with_gradients(net, step):
    """The gradients of a pass, without its records, which would hold the weights: as in fit."""
    layers = [f for f in net.layers if isinstance(f, Linear)]
    for k, f in enumerate(layers):
        f.weight_update.update({name: normal(*W.shape, seed=step + k) for name, W in f.weight.items()})


def addresses(net, optimizer):
    return [x.__array_interface__["data"] for x in weight_and_memory(net, optimizer)]


@pytest.mark.parametrize("make", OVERWRITING)
def test_what_nobody_else_holds_is_overwritten(make, overwriting):
    net, optimizer = small_net(), make()
    with_gradients(net, 0)
    optimizer.step(net)
    before = addresses(net, optimizer), copy.deepcopy(weight_and_memory(net, optimizer))
    with_gradients(net, 1)
    optimizer.step(net)
    assert addresses(net, optimizer) == before[0]
    for old, new in zip(before[1], weight_and_memory(net, optimizer), strict=True):
        assert not np.array_equal(old, new)


HOLDERS = {
    "array": lambda x: x,
    "view": lambda x: x[1:, ::2].T,
    "memoryview": memoryview,
    "dlpack": lambda x: x.__dlpack__(),
    "list": lambda x: [{"best": x}],
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("make", OVERWRITING)
def test_what_somebody_holds_is_not(make, number, hold, overwriting):
    """W, or an array of the state, of NumPy's own memory and of the pool's, where they go for that."""
    net, optimizer = small_net(), make()
    for step in range(3):
        with_gradients(net, step)
        optimizer.step(net)
        arrays = weight_and_memory(net, optimizer)
        if number >= len(arrays):
            pytest.skip("it remembers less")
        held, where, was = hold(arrays[number]), arrays[number].__array_interface__, arrays[number].copy()
        del arrays
        with_gradients(net, step + 10)
        optimizer.step(net)
        memory = (ctypes.c_byte * was.nbytes).from_address(where["data"][0])
        there = np.ndarray(was.shape, was.dtype, memory)
        np.testing.assert_array_equal(there, was)
        assert weight_and_memory(net, optimizer)[number].__array_interface__["data"] != where["data"]
        del held


@pytest.mark.parametrize("make", OVERWRITING)
def test_overwriting_gives_the_bits_of_new_arrays(make, overwriting):
    nets, optimizers, held = [small_net(), small_net()], [make(), make()], []
    for step in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            with_gradients(net, step)
            optimizer.step(net)
        held.append((nets[1].parameters(), [dict(row) for row in optimizers[1].state.values()]))
    assert addresses(nets[0], optimizers[0]) != addresses(nets[1], optimizers[1])
    for path in nets[0].parameters():
        ours, theirs = (weight_and_memory(*of, path) for of in zip(nets, optimizers, strict=True))
        np.testing.assert_equal(ours, theirs)


def test_a_row_of_the_state_that_somebody_holds_keeps_its_numbers(overwriting):
    net, optimizer = small_net(), AdamW(0.1)
    with_gradients(net, 0)
    optimizer.step(net)
    held = dict(optimizer.state)
    was = copy.deepcopy(held)
    with_gradients(net, 1)
    optimizer.step(net)
    np.testing.assert_equal(held, was)


def test_a_record_holds_its_weights(overwriting):
    """Which it may go back through; grad of the old ones is refused."""
    net, optimizer = small_net(), AdamW(0.1)
    X, y = batch(0)
    net.loss(net(X), y)
    with_gradients(net, 0)
    W = [f.weight["W"].copy() for f in (net.layers[0], net.layers[2])]
    used = [f._last.record.weights[0] for f in (net.layers[0], net.layers[2])]
    optimizer.step(net)
    for now, then in zip(used, W, strict=True):
        np.testing.assert_array_equal(now, then)
    with pytest.raises(StateError, match="updated after the last call"):
        _ = net.layers[0].grad


def test_a_shared_weight_is_overwritten_in_both_places(overwriting):
    f = Linear(4, 4, dtype="float64")
    first, second = Linear(4, 4, dtype="float64"), Linear(4, 4, dtype="float64")
    second.weight["W"] = first.weight["W"]
    net, optimizer = Net([first, f, second], None), AdamW(0.1)
    for step in range(3):
        with_gradients(net, step)
        where = first.weight["W"].__array_interface__["data"]
        optimizer.step(net)
        assert first.weight["W"] is second.weight["W"]
        assert first.weight["W"].__array_interface__["data"] == where


@pytest.mark.parametrize("held", [False, True])
def test_two_layers_may_have_one_dict_of_weights(held, overwriting):
    first, second = Linear(4, 4, dtype="float64"), Linear(4, 4, dtype="float64")
    second.weight = first.weight
    net, optimizer = Net([first, second], None), AdamW(0.1)
    mine = [first.weight["W"]] if held else []
    kept, where = first.weight["W"].copy(), first.weight["W"].__array_interface__["data"]
    with_gradients(net, 0)
    optimizer.step(net)
    assert (first.weight["W"].__array_interface__["data"] == where) is not held
    assert all(np.array_equal(W, kept) for W in mine)
    assert not np.array_equal(first.weight["W"], kept)


def test_an_update_that_fails_overwrites_nothing(overwriting):
    """A bad gradient in the last weight, when those before it have been prepared."""
    net, optimizer = small_net(), AdamW(0.1)
    with_gradients(net, 0)
    optimizer.step(net)
    before = copy.deepcopy((net.parameters(), optimizer.state, optimizer.steps))
    with_gradients(net, 1)
    net.layers[2].weight_update["b"] = normal(2, 2)
    with pytest.raises(dc.ShapeError):
        optimizer.step(net)
    np.testing.assert_equal((net.parameters(), optimizer.state, optimizer.steps), before)


def test_two_optimizers_may_overwrite_one_net(overwriting):
    nets = [small_net(), small_net()]
    rules = [[AdamW(0.1), SGD(0.1, momentum=0.9)] for _ in nets]
    held = []
    for step in range(6):
        for net, optimizers in zip(nets, rules, strict=True):
            with_gradients(net, step)
            optimizers[step % 2].step(net)
        held.append(nets[1].parameters())
    for path, W in nets[0].parameters().items():
        np.testing.assert_array_equal(W, nets[1].parameters()[path])


# ---- copies


def copies():
    pickled = [pytest.param(lambda x: pickle.loads(pickle.dumps(x)), id="pickle")]
    return [pytest.param(copy.deepcopy, id="deepcopy"), *pickled]


@pytest.mark.parametrize("copied", copies())
@pytest.mark.parametrize(
    "make",
    [lambda: SGD(0.1, momentum=0.9), lambda: AdamW(0.01), Muon, lambda: Adagrad(lr_decay=0.1)],
    ids=["SGD", "AdamW", "Muon", "Adagrad"],
)
def test_a_copied_optimizer_goes_on_with_a_copied_net(copied, make):
    """Ten steps, a copy of both, and ten more are twenty steps, bit for bit."""
    net, optimizer = small_net(), make()
    train(net, optimizer, steps=10)
    twin, other = copied(net), copied(optimizer)
    assert other.settings == optimizer.settings and other.steps == 10
    train(net, optimizer, steps=10, start=10)
    assert other.steps == 10
    train(twin, other, steps=10, start=10)
    for path, W in net.parameters().items():
        assert np.array_equal(W, twin.parameters()[path])
    with pytest.raises(StateError, match="belongs to another net"):
        one_pass(net)
        other.step(net)  # the copy has its own net now


def test_a_net_and_its_optimizer_in_one_pickle_stay_together():
    net, optimizer = small_net(), Adam()
    train(net, optimizer, steps=2)
    twin, other = pickle.loads(pickle.dumps((net, optimizer)))
    train(twin, other, steps=2)
    assert other.steps == 4


def test_overrides_survive_a_pickle():
    optimizer = AdamW(1e-3, overrides={"*.b": {"weight_decay": 0}})
    twin = pickle.loads(pickle.dumps(optimizer))
    assert twin.settings_of("layers.0.b")["weight_decay"] == 0
    assert twin.settings_of("layers.0.W")["weight_decay"] == 0.01


def test_the_state_follows_a_net_that_moves():
    pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    stays, moves = small_net(), small_net()
    rules = Adam(0.1), Adam(0.1)
    for net, rule in zip((stays, moves), rules, strict=True):
        train(net, rule, steps=3)
    one_pass(stays)
    moves.to("array_api_strict", device="device1")
    X, y = (dc.to_backend(x, "array_api_strict", device="device1") for x in batch(0))
    moves.loss(moves(X), y)
    moves.backward()
    for net, rule in zip((stays, moves), rules, strict=True):
        rule.step(net)
    assert dc.backend_of(rules[1].state["layers.0.W"]["M"]).name == "array_api_strict"
    for path, W in stays.parameters().items():
        np.testing.assert_allclose(dc.to_numpy(moves.parameters()[path]), W, rtol=0, atol=1e-12)
