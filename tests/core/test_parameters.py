"""Weights: their paths, their ties, freezing, and how gradients change them."""

import copy

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    Add,
    BatchNorm2D,
    Concat,
    Conv2D,
    CrossEntropyLoss,
    Linear,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    StateError,
    Tanh,
)


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def square_layers(n, width=3, kind=Linear):
    """Linear layers in float64, so that sums may be compared closely."""
    dc.seed(0)
    return [kind(width, width, dtype="float64") for _ in range(n)]


def one_pass(net, seed=0, accumulate=False):
    """Forward and backward with a gradient from outside."""
    out = net(normal(5, 3, seed=seed))
    net.backward(normal(*out.shape, seed=seed + 50), accumulate=accumulate)


# ---- paths


def test_paths_nest():
    net = Net(
        [
            Conv2D(1, 2),
            Residual(Sequential(Linear(3, 3), ReLU()), shortcut=Sequential(Linear(3, 3, bias=False))),
            Concat(Linear(3, 2), Sequential(ReLU(), BatchNorm2D(3))),
            Net([Add(Linear(2, 2))]),
        ],
        loss=CrossEntropyLoss(weight=[1.0, 2.0]),
    )
    assert list(net.parameters()) == [
        "layers.0.W",
        "layers.0.b",
        "layers.1.f.0.W",
        "layers.1.f.0.b",
        "layers.1.shortcut.0.W",
        "layers.2.0.W",
        "layers.2.0.b",
        "layers.2.1.1.gamma",
        "layers.2.1.1.beta",
        "layers.3.layers.0.0.W",
        "layers.3.layers.0.0.b",
    ]
    assert list(net.buffers()) == [
        "layers.2.1.1.running_mean",
        "layers.2.1.1.running_var",
        "loss_fn.weight",
    ]
    assert net.parameters()["layers.1.shortcut.0.W"] is net.layers[1].shortcut[0].weight["W"]


class Zoo(dc.Function):
    """Holds Functions in every way."""

    def __init__(self):
        a, b, c, d, e, f = square_layers(6)
        self.one = a
        self.many = [b, ReLU(), c]
        self.pair = (d, 3)
        self.named = {"left": e, "right": f, "size": 4}
        self.size = 7

    def forward(self, X):
        X = self.pair[0](self.many[2](self.many[0](self.one(X))))
        return self.named["left"](X) + self.named["right"](X)

    def backward(self, dY):
        dX = self.named["right"].backward(dY) + self.named["left"].backward(dY)
        for f in (self.pair[0], self.many[2], self.many[0], self.one):
            dX = f.backward(dX)
        return dX


ZOO_PATHS = ["one", "many.0", "many.2", "pair.0", "named.left", "named.right"]


def test_a_users_container_may_hold_functions_as_attributes_and_in_lists_tuples_and_dicts():
    net = Net([Zoo()])
    assert list(net.parameters()) == [f"layers.0.{path}.{name}" for path in ZOO_PATHS for name in "Wb"]
    assert dc.gradcheck(net, normal(4, 3))
    before = net.parameters()
    one_pass(net)
    assert net.gradients().keys() == before.keys()
    net.update_weights(0.1)
    assert all(not np.array_equal(before[path], W) for path, W in net.parameters().items())
    net.eval()
    assert not net.layers[0].named["left"].training
    assert not net.layers[0].many[1].training


def test_functions_in_lists_of_lists_are_seen():
    class Grid(dc.Function):
        def __init__(self):
            self.rows = [[Linear(2, 2), ReLU()], [Linear(2, 2)]]
            self.table = {"a": [Linear(2, 2)]}

    paths = [path for path in Net([Grid()]).parameters() if path.endswith("W")]
    assert paths == ["layers.0.rows.0.0.W", "layers.0.rows.1.0.W", "layers.0.table.a.0.W"]


def test_a_subclass_of_sequential_may_hold_more():
    class WithHead(Sequential):
        def __init__(self):
            super().__init__(Linear(2, 2, bias=False))
            self.head = Linear(2, 2, bias=False)

    assert list(Net([WithHead()]).parameters()) == ["layers.0.0.W", "layers.0.head.W"]


def test_changes_of_the_structure_are_seen_at_once():
    a, b, c, d = square_layers(4)
    net = Net([a])

    def weights():
        return [path for path in net.parameters() if path.endswith("W")]

    assert weights() == ["layers.0.W"]
    net.layers.append(Tanh())
    net.layers.append(b)
    assert weights() == ["layers.0.W", "layers.2.W"]
    net.layers[0] = c
    assert net.parameters()["layers.0.W"] is c.weight["W"]
    net.layers.insert(1, Residual(d))
    assert weights() == ["layers.0.W", "layers.1.f.W", "layers.3.W"]
    net.layers[1].shortcut = a
    assert weights() == ["layers.0.W", "layers.1.f.W", "layers.1.shortcut.W", "layers.3.W"]
    one_pass(net)
    assert len(net.gradients()) == 8
    del net.layers[1]
    assert weights() == ["layers.0.W", "layers.2.W"]
    net.layers = [d]
    assert net.parameters()["layers.0.W"] is d.weight["W"]
    one_pass(net)
    net.update_weights(0.1)
    net.layers.clear()
    assert weights() == []


@pytest.mark.parametrize("how", ["None", "del", "number"])
def test_a_function_taken_away_is_not_seen_any_more(how):
    f = Residual(*square_layers(2))
    net = Net([f])
    assert len(net.parameters()) == 4
    if how == "None":
        f.shortcut = None
    elif how == "del":
        del f.shortcut
    else:
        f.shortcut = 7
    assert list(net.parameters()) == ["layers.0.f.W", "layers.0.f.b"]


def test_changes_inside_a_dict_are_seen():
    zoo = Zoo()
    net = Net([zoo])
    net.parameters()
    (new,) = square_layers(1)
    zoo.named["left"] = new
    assert net.parameters()["layers.0.named.left.W"] is new.weight["W"]
    zoo.named["third"] = ReLU()
    zoo.named.pop("right")
    zoo.many += [Residual(Linear(3, 3))]
    assert [p for p in net.parameters() if p.endswith("W")][-3:] == [
        "layers.0.many.3.f.W",
        "layers.0.pair.0.W",
        "layers.0.named.left.W",
    ]
    net.eval()
    assert not zoo.named["third"].training


def test_an_attribute_set_after_the_first_call_is_trained():
    class Late(dc.Function):
        def forward(self, X):
            return self.f(X) if hasattr(self, "f") else X

        def backward(self, dY):
            return self.f.backward(dY) if hasattr(self, "f") else dY

    late = Late()
    net = Net([late])
    net(normal(5, 3))
    (late.f,) = square_layers(1)
    W = late.f.weight["W"]
    one_pass(net)
    net.update_weights(0.1)
    assert late.f.weight["W"] is not W


def test_a_users_attributes_may_have_common_names():
    """`config` and `children` are what people call their own things."""

    class Mine(dc.Function):
        def __init__(self, f):
            self.config = {"width": 3}
            self.children = [f]

        def forward(self, X):
            return self.children[0](X)

        def backward(self, dY):
            return self.children[0].backward(dY)

    (f,) = square_layers(1)
    net = Net([Mine(f)])
    one_pass(net)
    net.update_weights(0.1)
    assert "Mine" in repr(net)


def test_a_users_loss_may_call_its_class_weights_weight():
    """As torch's losses do, and as the argument of ours is called."""

    class Weighted(dc.Loss):
        def __init__(self, weight):
            self.weight = weight

        def forward(self, X, Y):
            return np.sum(self.weight * (X - Y) ** 2)

        def local_grad(self, X, Y):
            return {"X": 2 * self.weight * (X - Y)}

    net = Net([*square_layers(1)], loss=Weighted(np.array([1.0, 2.0, 3.0])))
    X = normal(4, 3)
    net.loss(net(X), X)
    net.backward()
    net.update_weights(0.1)


# ---- sharing


def share_layer():
    a, b = square_layers(2)
    return Net([a, Tanh(), b, Tanh(), a])


def share_dict():
    a, b, c = square_layers(3)
    c.weight = a.weight
    return Net([a, Tanh(), b, Tanh(), c])


def share_array():
    a, b, c = square_layers(3)
    c.weight["W"], c.weight["b"] = a.weight["W"], a.weight["b"]
    return Net([a, Tanh(), b, Tanh(), c])


SHARED = pytest.mark.parametrize("make", [share_layer, share_dict, share_array])


def apart(net):
    """The same net with nothing shared: its gradients are the shares that must add up."""
    return Net([copy.deepcopy(f) for f in net.layers])


@SHARED
def test_a_shared_weight_has_its_first_path_only(make):
    assert list(make().parameters()) == ["layers.0.W", "layers.0.b", "layers.2.W", "layers.2.b"]


@SHARED
def test_a_shared_weight_gets_the_sum_of_the_gradients(make):
    net = make()
    twin = apart(net)
    one_pass(net)
    one_pass(twin)
    shares = twin.gradients()
    assert net.gradients().keys() == net.parameters().keys()
    for name in "Wb":
        total = shares[f"layers.0.{name}"] + shares[f"layers.4.{name}"]
        np.testing.assert_allclose(net.gradients()[f"layers.0.{name}"], total, rtol=1e-12)


@SHARED
@pytest.mark.parametrize("rule", ["update_weights", "SGD", "Adam"])
def test_a_shared_weight_gets_one_update_a_step_and_stays_shared(make, rule):
    net = make()
    optimizer = {"SGD": dc.optim.SGD(0.1, momentum=0.9), "Adam": dc.optim.Adam(0.1)}.get(rule)
    for seed in range(3):
        one_pass(net, seed=seed)
        W, dW = net.parameters()["layers.0.W"], net.gradients()["layers.0.W"]
        if optimizer is None:
            net.update_weights(0.1)
            np.testing.assert_allclose(net.parameters()["layers.0.W"], W - 0.1 * dW, rtol=1e-12)
        else:
            optimizer.step(net)
            assert optimizer.state["layers.0.W"]["step"] == seed + 1
            assert optimizer.state.keys() == net.parameters().keys()
        for name in "Wb":
            assert net.layers[0].weight[name] is net.layers[4].weight[name]
        assert net.layers[0].weight["W"] is not W


@SHARED
def test_gradcheck_knows_shared_weights(make):
    net = make()
    assert dc.gradcheck(net, normal(4, 3))
    assert net.layers[0].weight["W"] is net.layers[4].weight["W"]


@SHARED
def test_a_tie_survives_a_move(make):
    pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    net = make()
    right = net.parameters()
    net.to("array_api_strict")
    assert net.layers[0].weight["W"] is net.layers[4].weight["W"]
    assert net.parameters().keys() == right.keys()
    net.to("numpy")
    assert net.layers[0].weight["W"] is net.layers[4].weight["W"]
    assert all(np.array_equal(right[path], W) for path, W in net.parameters().items())


@pytest.mark.parametrize("back", [False, True], ids=["tied second", "tied first"])
def test_a_transposed_tie_raises(back):
    a, b = square_layers(2)
    if back:
        a.weight["W"] = b.weight["W"].T
    else:
        b.weight["W"] = a.weight["W"].T
    net = Net([a, b])
    before = [f.weight["W"] for f in net.layers]
    out = net(normal(5, 3))
    net.backward(out)
    match = r"layers\.0\.W and layers\.1\.W|layers\.1\.W and layers\.0\.W"
    with pytest.raises(StateError, match=match) as error:
        net.update_weights(0.1)
    assert "transposes the shared weight in its forward" in str(error.value)
    with pytest.raises(StateError, match=match):
        dc.optim.Adam().step(net)
    with pytest.raises(StateError, match=match):
        net.parameters()
    assert [f.weight["W"] is W for f, W in zip(net.layers, before, strict=True)] == [True, True]


def test_weights_that_are_other_parts_of_one_array_are_no_tie():
    whole = normal(3, 6)
    a, b = square_layers(2)
    a.weight["W"], b.weight["W"] = whole[:, :3], whole[:, 3:]
    net = Net([a, b])
    one_pass(net)
    net.update_weights(0.1)
    assert len(net.parameters()) == 4


# ---- freezing


def test_a_frozen_layer_stays():
    a, b = square_layers(2)
    net = Net([a, Tanh(), b])
    a.trainable = False
    for step in (lambda: net.update_weights(0.1), lambda: dc.optim.Adam().step(net)):
        W, other = a.weight["W"], b.weight["W"]
        one_pass(net)
        step()
        assert a.weight["W"] is W
        assert b.weight["W"] is not other
    a.trainable = True
    one_pass(net)
    net.update_weights(0.1)
    assert a.weight["W"] is not W


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_freezing_holds_for_all_that_is_inside(depth):
    a, b, c = square_layers(3)
    inner = Sequential(a, Tanh())
    middle = Residual(inner, shortcut=b)
    outer = Net([middle])
    net = Net([outer, c])
    frozen = [a, inner, middle, outer][depth]
    frozen.trainable = False
    before = net.parameters()
    one_pass(net)
    optimizer = dc.optim.AdamW(0.1, weight_decay=0.5)
    net.update_weights(0.1)
    optimizer.step(net)
    moved = {path for path, W in net.parameters().items() if W is not before[path]}
    trained = {"layers.1.W", "layers.1.b"}
    if depth < 2:
        trained |= {"layers.0.layers.0.shortcut.W", "layers.0.layers.0.shortcut.b"}
    assert moved == trained
    assert optimizer.state.keys() == trained


def test_a_frozen_net_is_updated_without_an_error():
    net = Net(square_layers(2))
    net.trainable = False
    before = net.parameters()
    one_pass(net)
    net.update_weights(0.1)
    dc.optim.SGD(0.1).step(net)
    assert all(W is before[path] for path, W in net.parameters().items())


@pytest.mark.parametrize("frozen", [0, 1])
@pytest.mark.parametrize("by", ["layer", "array"])
def test_a_shared_weight_is_frozen_if_one_of_its_places_is(by, frozen):
    """Whichever comes first, and whether a layer or an array is shared."""
    a, b = square_layers(2)
    if by == "array":
        b.weight = dict(a.weight)
    else:
        b = a
    places = [Sequential(a), Sequential(b)]
    places[frozen].trainable = False
    net = Net(places)
    W = a.weight["W"]
    one_pass(net)
    net.update_weights(0.1)
    assert a.weight["W"] is W and b.weight["W"] is W


def test_freezing_is_no_clipping_nor_decay_for_the_others():
    """A frozen layer's gradient doesn't count in the length that clip_norm looks at."""
    X = normal(8, 3)

    def trained(freeze, **settings):
        a, b = square_layers(2)
        b.weight["W"] = b.weight["W"] * 1e-3  # so that a's gradients are small and b's are large
        net = Net([a, b], MSELoss())
        b.trainable = not freeze
        net.fit(X, 10 + X, batch_size=8, optimizer=dc.optim.SGD(0.1), **settings)
        return a.weight["W"]

    free = trained(freeze=True)
    np.testing.assert_array_equal(trained(freeze=True, clip_norm=1.0), free)
    assert not np.array_equal(trained(freeze=False, clip_norm=1.0), free)


# ---- gradients


def test_each_backward_forgets_the_gradients_before_and_makes_new_arrays():
    net, fresh = Net(square_layers(2)), Net(square_layers(2))
    one_pass(net)
    first = net.gradients()
    values = {path: dW.copy() for path, dW in first.items()}
    kept = net.layers[0].weight_update
    one_pass(net, seed=1)
    one_pass(fresh, seed=1)
    for path, dW in net.gradients().items():
        assert np.array_equal(dW, fresh.gradients()[path])
        assert dW is not first[path]
        assert np.array_equal(first[path], values[path])
    assert kept["W"] is first["layers.0.W"]


def test_accumulate_adds():
    net = Net([*square_layers(2)])
    one_pass(net, seed=1)
    first = net.gradients()
    values = {path: dW.copy() for path, dW in first.items()}
    one_pass(net, seed=2)
    second = net.gradients()
    one_pass(net, seed=1, accumulate=True)
    for path, dW in net.gradients().items():
        np.testing.assert_array_equal(dW, second[path] + values[path])
        assert np.array_equal(first[path], values[path])


@SHARED
def test_accumulate_adds_for_shared_weights_too(make):
    net = make()
    one_pass(net, seed=1)
    first = net.gradients()
    one_pass(net, seed=2)
    second = net.gradients()
    one_pass(net, seed=1)
    one_pass(net, seed=2, accumulate=True)
    for path, dW in net.gradients().items():
        np.testing.assert_allclose(dW, first[path] + second[path], rtol=1e-12)


def test_accumulate_works_with_a_loss_and_in_a_single_layer():
    X, y = normal(6, 3), np.array([0, 1, 2, 2, 1, 0])
    net = Net(square_layers(1), CrossEntropyLoss(reduction="sum"))
    net.loss(net(X), y)
    net.backward()
    whole = net.gradients()
    net.loss(net(X[:2]), y[:2])
    net.backward()
    net.loss(net(X[2:]), y[2:])
    net.backward(accumulate=True)
    for path, dW in net.gradients().items():
        np.testing.assert_allclose(dW, whole[path], atol=1e-12)
    f = net.layers[0]
    f(X)
    f.backward(X)
    once = f.weight_update["W"]
    f(X)
    f.backward(X, accumulate=True)
    np.testing.assert_allclose(f.weight_update["W"], 2 * once)


class Either(dc.Function):
    """Uses its first or its second child."""

    def __init__(self, *functions):
        self.functions = functions
        self.which = 0

    def forward(self, X):
        return self.functions[self.which](X)

    def backward(self, dY):
        return self.functions[self.which].backward(dY)


@pytest.mark.parametrize(
    "make", [dc.optim.SGD, dc.optim.Adam, dc.optim.AdamW], ids=lambda kind: kind.__name__
)
def test_a_weight_without_a_gradient_is_skipped_and_its_optimizer_state_too(make):
    settings = {"momentum": 0.9} if make is dc.optim.SGD else {}
    optimizer = make(0.1, weight_decay=0.5, **settings)
    either = Either(*square_layers(2))
    net = Net([either])
    one_pass(net)
    optimizer.step(net)
    assert set(optimizer.state) == {"layers.0.functions.0.W", "layers.0.functions.0.b"}
    either.which = 1
    before = either.functions[0].weight["W"]
    remembered = copy.deepcopy(optimizer.state["layers.0.functions.0.W"])
    for seed in range(3):
        one_pass(net, seed=seed)
        optimizer.step(net)
    assert either.functions[0].weight["W"] is before
    assert optimizer.state["layers.0.functions.0.W"].keys() == remembered.keys()
    for name, value in remembered.items():
        np.testing.assert_array_equal(optimizer.state["layers.0.functions.0.W"][name], value)
    assert optimizer.state["layers.0.functions.0.W"]["step"] == 1
    assert optimizer.state["layers.0.functions.1.W"]["step"] == 3
    assert list(net.gradients()) == ["layers.0.functions.1.W", "layers.0.functions.1.b"]
    net.update_weights(0.1)
    assert either.functions[0].weight["W"] is before


def test_a_gradient_of_another_shape_than_the_weights_is_refused():
    """It would broadcast, and the weight would change its shape."""

    class Careless(dc.Layer):
        def __init__(self):
            super().__init__()
            self.weight["s"] = np.array([[1.0]])

        def forward(self, X):
            self.cache["X"] = X
            return X * self.weight["s"]

        def backward(self, dY):
            self.weight_update["s"] = dY * self.cache["X"]  # the sum is missing
            return dY * self.weight["s"]

    f = Careless()
    net = Net([f])
    with pytest.raises(dc.ShapeError, match="s"):
        one_pass(net)
        net.update_weights(0.1)
    assert f.weight["s"].shape == (1, 1)


def test_a_gradient_in_another_dtype_does_not_widen_the_weight():
    class Wide(dc.Layer):
        def __init__(self):
            super().__init__()
            self.weight["s"] = dc.asarray([[1.0]])

        def forward(self, X):
            return X * self.weight["s"]

        def backward(self, dY):
            self.weight_update["s"] = np.ones((1, 1))  # float64, as NumPy makes it
            return dY * self.weight["s"]

    for step in (lambda net: net.update_weights(0.1), lambda net: dc.optim.Adam().step(net)):
        f = Wide()
        net = Net([f])
        out = net(normal(5, 3, dtype="float32"))
        net.backward(out)
        step(net)
        assert f.weight["s"].dtype == np.float32


# ---- a user's own _update_weights


class Signed(Linear):
    """Follows the sign of the gradient only."""

    def _update_weights(self, lr):
        for name, dW in self.weight_update.items():
            self.weight[name] = self.weight[name] - lr * np.sign(dW)


class Clipped(Linear):
    """Plain descent, and then back into a box."""

    def _update_weights(self, lr):
        super()._update_weights(lr)
        self.weight["W"] = np.clip(self.weight["W"], -0.1, 0.1)


class Hasty(Linear):
    """Twice the step."""

    def _update_weights(self, lr):
        super()._update_weights(2 * lr)


class Plain(Linear):
    """An override that changes nothing."""

    def _update_weights(self, lr):
        super()._update_weights(lr)


class InPlace(Linear):
    def _update_weights(self, lr):
        self.weight["W"] -= lr * self.weight_update["W"]


def test_a_users_own_rule_is_honoured():
    (own,) = square_layers(1, kind=Signed)
    (plain,) = square_layers(1)
    net = Net([Residual(Sequential(own)), plain])
    before = net.parameters()
    one_pass(net)
    gradients = net.gradients()
    net.update_weights(0.25)
    after = net.parameters()
    for path, W in before.items():
        dW = gradients[path]
        right = W - 0.25 * (dW if path.startswith("layers.1") else np.sign(dW))
        np.testing.assert_allclose(after[path], right, rtol=1e-14)


def test_a_users_own_rule_may_call_super():
    (own,) = square_layers(1, kind=Clipped)
    net = Net([own])
    one_pass(net)
    W, b, update = own.weight["W"], own.weight["b"], dict(own.weight_update)
    net.update_weights(0.5)
    np.testing.assert_allclose(own.weight["W"], np.clip(W - 0.5 * update["W"], -0.1, 0.1))
    np.testing.assert_allclose(own.weight["b"], b - 0.5 * update["b"])


def test_a_users_own_rule_may_work_in_place():
    """`W -= lr * dW` is what one writes in NumPy; all weights must still change together."""

    class Failing(Linear):
        def _update_weights(self, lr):
            raise ValueError("no")

    own, failing = *square_layers(1, kind=InPlace), *square_layers(1, kind=Failing)
    net = Net([own])
    one_pass(net)
    right = own.weight["W"] - 0.5 * own.weight_update["W"]
    net.update_weights(0.5)
    np.testing.assert_allclose(own.weight["W"], right)
    with pytest.raises(StateError, match="weights were updated"):
        _ = own.grad
    net.layers.append(failing)
    one_pass(net)
    with pytest.raises(ValueError, match="no"):
        net.update_weights(0.5)
    np.testing.assert_allclose(own.weight["W"], right)


def test_a_users_own_rule_that_fails_leaves_every_weight():
    class Failing(Linear):
        def _update_weights(self, lr):
            super()._update_weights(lr)
            raise ValueError("no")

    net = Net([*square_layers(1), *square_layers(1, kind=Failing), *square_layers(1)])
    before = net.parameters()
    one_pass(net)
    with pytest.raises(ValueError, match="no"):
        net.update_weights(0.1)
    assert all(W is before[path] for path, W in net.parameters().items())
    assert net.layers[1].weight["W"] is before["layers.1.W"]


def test_a_users_own_rule_is_not_asked_when_frozen_or_without_a_gradient():
    own, other = square_layers(2, kind=Signed)
    either = Either(own, other)
    net = Net([either])
    one_pass(net)
    W = other.weight["W"]
    own.trainable = False
    frozen = own.weight["W"]
    net.update_weights(0.1)
    assert own.weight["W"] is frozen
    assert other.weight["W"] is W


@pytest.mark.parametrize("by", ["layer", "dict", "array"])
def test_a_users_own_rule_keeps_ties_and_sees_the_whole_gradient(by):
    a, b = square_layers(2, kind=Hasty)
    if by == "layer":
        b = a
    elif by == "dict":
        b.weight = a.weight
    else:
        b.weight = dict(a.weight)
    net = Net([a, Tanh(), b])
    one_pass(net)
    W, dW = a.weight["W"], net.gradients()["layers.0.W"]
    net.update_weights(0.1)
    np.testing.assert_allclose(a.weight["W"], W - 0.2 * dW, rtol=1e-12)
    assert a.weight["W"] is b.weight["W"]


def test_a_users_own_rule_is_honoured_in_fit():
    """What clips a weight in a loop by hand must clip it in fit too, whose default is plain descent."""
    (own,) = square_layers(1, kind=Clipped)
    net = Net([own], MSELoss())
    net.fit(normal(8, 3), normal(8, 3, seed=1), epochs=2)
    assert np.abs(own.weight["W"]).max() <= 0.1


@pytest.mark.parametrize(
    "settings", [{"batch_size": 4, "accumulate": 3}, {"batch_size": 12, "clip_norm": 0.01}]
)
def test_a_users_own_rule_gets_the_gradients_that_the_others_get_in_fit(settings):
    """Averaged over the batches of a step, and clipped."""
    X, Y = normal(12, 3), normal(12, 3, seed=1)
    results = []
    for kind in (Linear, Plain):
        net = Net(square_layers(1, kind=kind), MSELoss())
        net.fit(X, Y, shuffle=False, optimizer=dc.optim.SGD(0.1), **settings)
        results.append(net.parameters())
    for path, W in results[0].items():
        np.testing.assert_allclose(results[1][path], W, rtol=0, atol=1e-12)


# ---- update_weights


def test_update_weights_is_plain_descent_on_all_weights_at_once():
    net = Net([*square_layers(2), Residual(*square_layers(2))])
    before = net.parameters()
    one_pass(net)
    gradients = net.gradients()
    net.update_weights(lr=0.5)
    for path, W in net.parameters().items():
        np.testing.assert_array_equal(W, before[path] - 0.5 * gradients[path])


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_a_rate_that_is_none_changes_nothing(lr):
    net = Net(square_layers(2))
    before = net.parameters()
    one_pass(net)
    with pytest.raises(dc.ArgumentError, match="lr must be a finite number, zero or more, got"):
        net.update_weights(lr)
    assert all(W is before[path] for path, W in net.parameters().items())


@pytest.mark.parametrize("lr", [np.float64(0.1), np.array(0.1), np.float32(0.1), 1], ids=repr)
def test_a_rate_of_any_number_type_widens_no_weight(lr):
    net = Net([Linear(3, 3)])
    before = net.parameters()
    out = net(normal(4, 3, dtype="float32"))
    net.backward(out)
    gradients = net.gradients()
    net.update_weights(lr)
    for path, W in net.parameters().items():
        assert W.dtype == np.float32
        np.testing.assert_allclose(W, before[path] - float(lr) * gradients[path], rtol=1e-6, atol=1e-7)


def test_a_net_without_weights_may_be_updated():
    net = Net([ReLU()])
    net.backward(net(normal(2, 2)))
    net.update_weights(0.1)
    assert net.parameters() == net.gradients() == net.buffers() == {}


def test_after_a_backward_that_failed_there_is_nothing_to_update_with():
    """Half of the layers have a gradient by then; a step with those would be no step of the net."""

    class Bad(dc.Function):
        def forward(self, X):
            return X

        def backward(self, dY):
            raise ValueError("no")

    a, b = square_layers(2)
    net = Net([a, Bad(), b])
    before = net.parameters()
    with pytest.raises(ValueError, match="no"):
        one_pass(net)
    with pytest.raises(StateError):
        net.update_weights(0.1)
    assert all(W is before[path] for path, W in net.parameters().items())


def test_accumulate_as_the_first_backward_is_a_backward():
    net = Net(square_layers(1))
    one_pass(net, accumulate=True)
    first = net.gradients()["layers.0.W"]
    one_pass(net)
    np.testing.assert_array_equal(net.gradients()["layers.0.W"], first)


def test_a_loop_of_gradient_accumulation_by_hand_equals_a_large_batch():
    X, y = normal(12, 3), np.arange(12) % 3
    big, small = (Net(square_layers(2), CrossEntropyLoss()) for _ in range(2))
    for _ in range(3):
        big.loss(big(X), y)
        big.backward()
        big.update_weights(0.3)
        for k in range(3):
            rows = slice(4 * k, 4 * k + 4)
            small.loss(small(X[rows]), y[rows])
            small.backward(accumulate=k > 0)
        small.update_weights(0.1)
    for path, W in big.parameters().items():
        np.testing.assert_allclose(small.parameters()[path], W, rtol=1e-12)


def test_a_long_list_is_not_compared_item_by_item():
    """A vocabulary or a log among the attributes must not make every step cost its length."""

    class Logging(dc.Function):
        def __init__(self, f):
            self.log = [f"word {i}" for i in range(1000)]
            self.parts = [*self.log, f]

        def forward(self, X):
            self.log.append("called")
            return self.parts[-1](X)

        def backward(self, dY):
            return self.parts[-1].backward(dY)

    f, g = square_layers(2)
    own = Logging(f)
    net = Net([own])
    one_pass(net)
    (log,) = [table for table in own._structure.tables if table.value is own.log]
    assert log.before is None  # nothing to compare
    assert list(net.parameters()) == ["layers.0.parts.1000.W", "layers.0.parts.1000.b"]
    own.log.append(g)
    assert len(net.parameters()) == 4
