"""A net as JSON and back: the same classes, arguments, ties and flags, and nothing that was not allowed."""

import json
import math

import numpy as np
import pytest

import deepcore as dc
from deepcore.activations import LeakyReLU, ReLU, Softmax
from deepcore.core.containers import Add, Concat, Residual, Sequential
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.loss import Loss
from deepcore.core.net import Composition
from deepcore.core.random import Generator, drawing_from
from deepcore.errors import ArgumentError, CheckpointError, DTypeError, UnsupportedError
from deepcore.io import architecture
from deepcore.io.architecture import build, describe, register, registry
from deepcore.io.state import state_dict
from deepcore.layers.conv import Conv2D
from deepcore.layers.dropout import Dropout
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm2D
from deepcore.layers.pool import MaxPool2D
from deepcore.layers.shape import Flatten
from deepcore.losses import CrossEntropyLoss, MSELoss


def again(f: Function) -> Function:
    """f, written as JSON and built anew."""
    text = json.dumps(describe(f), allow_nan=False)
    return build(json.loads(text), state_dict(f))


@register
class Holder(Function):
    """A user's Function that keeps any argument."""

    def __init__(self, value=None, other=None):
        self.value = value
        self.other = other

    def forward(self, X):
        return X


@register
class Block(Function):
    """A user's container that makes its own parts."""

    def __init__(self, width: int, *, twice: bool = False):
        self.width, self.twice = width, twice
        self.first = Linear(width, width)
        self.second = self.first if twice else Linear(width, width)

    def forward(self, X):
        return self.second(self.first(X))


@register
class ScaleOf(Layer):
    """A user's Layer with an array for an argument."""

    def __init__(self, s):
        self.weight["s"] = dc.asarray(s)

    def _config(self):
        return {"s": self.weight["s"]}

    def forward(self, X):
        return X * self.weight["s"]


@register
class Mixed(Function):
    """A user's Function with arguments of every kind."""

    def __init__(self, first, *parts, axis=0, **options):
        self.first, self.parts, self.axis, self.options = first, parts, axis, options

    def _config(self):
        return {"first": self.first, "axis": self.axis} | self.options


@register
class MyNet(Composition):
    """A user's net that makes its own layers, and inherits config()."""

    def __init__(self, width=3):
        self.width = width
        super().__init__(layers=[Linear(2, width), ReLU()], loss=MSELoss())


FUNCTIONS = [
    lambda: ReLU(),
    lambda: LeakyReLU(0.2),
    lambda: Softmax(axis=0),
    lambda: Linear(2, 3),
    lambda: Linear(2, 3, bias=False, init="he_normal"),
    lambda: Linear(2, 3, init=dc.init.normal(0.5)),
    lambda: Linear(2, 3, init=dc.init.uniform(-1, 1)),
    lambda: Linear(2, 3, init=dc.init.constant(2.0)),
    lambda: Linear(2, 3, init=dc.init.VarianceScaling(3.0, "in", "uniform")),
    lambda: Conv2D(2, 4, (3, 1), padding="same", dilation=2, groups=2),
    lambda: Conv2D(2, 4, 3, stride=(1, 2), padding=1),
    lambda: MaxPool2D(3, 2, 1),
    lambda: BatchNorm2D(3, epsilon=1e-3, momentum=0.2),
    lambda: Dropout(0.1),
    lambda: Flatten(),
    lambda: Sequential(),
    lambda: Sequential(Linear(2, 3), Sequential(ReLU())),
    lambda: Residual(Linear(2, 2)),
    lambda: Residual(Linear(2, 3), shortcut=Linear(2, 3)),
    lambda: Concat(Linear(2, 3), ReLU(), axis=-1),
    lambda: Add(Linear(2, 3), Linear(2, 3)),
    lambda: CrossEntropyLoss(ignore_index=3, label_smoothing=0.1, reduction="sum"),
    lambda: CrossEntropyLoss(weight=[1.0, 2.0]),
    lambda: Composition([Linear(2, 3), Residual(Sequential(Linear(3, 3), ReLU()))], loss=CrossEntropyLoss()),
    lambda: Composition([]),
    lambda: Block(3),
    lambda: Block(3, twice=True),
    lambda: ScaleOf([1.0, 2.0]),
    lambda: MyNet(),
    lambda: MyNet(5),
]


@pytest.mark.parametrize("make", FUNCTIONS, ids=lambda make: repr(make())[:60])
def test_round_trip(make):
    f = make()
    g = again(f)
    assert type(g) is type(f)
    assert repr(g) == repr(f)
    assert describe(g) == describe(f)
    assert {k: (x.shape, x.dtype) for k, x in state_dict(g).items()} == {
        k: (x.shape, x.dtype) for k, x in state_dict(f).items()
    }


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        10**30,
        0.1,
        1e-300,
        math.inf,
        -math.inf,
        "ü\n",
        (),
        (1, (2.5, None)),
        [1, [2], (3,)],
        {"a": (1,), "class": 3, "": {}},
        np.dtype("float16"),
        (math.inf, {"x": [np.dtype("int8")]}),
    ],
    ids=repr,
)
def test_arguments_of_any_plain_kind(value):
    back = again(Holder(value)).value
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_nan_and_numpy_scalars():
    assert math.isnan(again(Holder(math.nan)).value)
    for scalar in (np.float32(0.1), np.int64(3), np.bool_(True), np.float64("inf")):
        back = again(Holder(scalar)).value
        assert back == scalar
        assert type(back) is type(scalar.item())


def test_functions_inside_lists_tuples_and_dicts():
    f = Holder([Linear(2, 3), (ReLU(),)], {"a": Linear(1, 1), "b": [Sequential(ReLU())]})
    g = again(f)
    assert repr(g) == repr(f)
    assert isinstance(g.value[1], tuple)
    assert isinstance(g.other["b"][0][0], ReLU)


def test_constructors_with_every_kind_of_argument():
    g = again(Mixed(1, ReLU(), 2, axis=3, more=(4,), init="mine"))
    assert (g.first, type(g.parts[0]), g.parts[1], g.axis) == (1, ReLU, 2, 3)
    assert g.options == {"more": (4,), "init": "mine"}


def test_a_function_that_stands_twice_is_one():
    shared = Linear(3, 3)
    net = Composition([shared, ReLU(), Sequential(shared, Residual(shared)), Holder([shared], {"a": shared})])
    g = again(net)
    one = g.layers[0]
    assert one is g.layers[2][0] is g.layers[2][1].f is g.layers[3].value[0] is g.layers[3].other["a"]
    assert len(state_dict(g)) == 2
    assert sum(part.get("class") == "Linear" for part in describe(net)["config"]["layers"]) == 1


def test_two_alike_functions_stay_two():
    g = again(Composition([Linear(3, 3), Linear(3, 3)]))
    assert g.layers[0] is not g.layers[1]


def test_weights_that_layers_share_are_one_array():
    net = Composition([Linear(3, 3), Sequential(Linear(3, 3), Linear(3, 3)), Block(3)])
    a, (b, c), block = net.layers
    b.weight["W"] = block.second.weight["W"] = a.weight["W"]
    c.weight["b"] = b.weight["b"]
    assert describe(net)["ties"] == [
        ["layers.0.W", "layers.1.0.W", "layers.2.second.W"],
        ["layers.1.0.b", "layers.1.1.b"],
    ]
    g = again(net)
    a, (b, c), block = g.layers
    assert a.weight["W"] is b.weight["W"] is block.second.weight["W"]
    assert c.weight["b"] is b.weight["b"]
    assert c.weight["W"] is not a.weight["W"]
    assert state_dict(g).keys() == state_dict(net).keys()


def test_frozen_parts_and_evaluation_mode():
    net = Composition([Linear(2, 2), Sequential(Linear(2, 2), Dropout()), Block(2)], loss=MSELoss())
    net.layers[1][0].trainable = False
    net.layers[2].second.trainable = False
    net.layers[1].training = False
    g = again(net)
    assert describe(g) == describe(net)
    assert not g.layers[1][0].trainable
    assert not g.layers[2].second.trainable
    assert g.layers[2].first.trainable
    assert g.training
    assert not g.layers[1].training
    assert g.layers[1][1].training
    net.eval()
    assert not any(f.training for f in [again(net), *again(net).layers, *again(net).layers[1]])
    with dc.inference():
        text = describe(net.train())
    assert "evaluation" not in text


def test_a_class_that_is_frozen_from_the_start():
    @register
    class BornFrozen(Layer):
        trainable = False

        def __init__(self):
            self.training = False

    f = BornFrozen()
    assert not again(f).trainable
    assert not again(f).training
    f.trainable = f.training = True
    assert again(f).trainable
    assert again(f).training


def test_describing_and_building_use_up_no_random_numbers():
    net = Composition([Linear(3, 3), Block(3), Dropout()])
    with drawing_from(Generator(5)) as generator:
        again(net)
        assert generator.calls == {}


def test_initial_weights_are_not_drawn(monkeypatch):
    monkeypatch.setattr(dc.init, "_draw", None)
    net = Composition([Linear(3, 3, init="zeros"), Conv2D(1, 1, init="zeros")])
    for layer in net.layers:
        layer.init = "he_normal"
    assert [layer.init for layer in again(net).layers] == ["he_normal"] * 2


def test_an_initialiser_of_the_users_own_is_left_out():
    f = Linear(2, 3, init=lambda shape, fan_in, fan_out: np.ones(shape))
    assert "init" not in describe(f)["config"]
    assert again(f).init == "lecun_normal"


def test_json_holds_all_of_it():
    net = Composition([Linear(2, 3), Concat(ReLU())], loss=CrossEntropyLoss(weight=[1.0, 2.0]))
    description = describe(net)
    assert json.loads(json.dumps(description)) == description
    assert description["config"]["loss"]["config"]["weight"] == {"array": "loss_fn.weight"}
    assert description["config"]["layers"][0] == {
        "class": "Linear",
        "config": {"in_dim": 2, "out_dim": 3, "bias": True, "init": "lecun_normal"},
    }


# ---- what can't be described


class NotKept(Function):
    def __init__(self, width, depth, height=1):
        pass


def no_name(shape, fan_in, fan_out):
    return np.ones(shape)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NotKept(1, 2), r"NotKept: its constructor takes width, depth and .* self\.width = width"),
        (lambda: Holder(object()), r"Holder\(value=\): object can't be described in a file; let config\(\)"),
        (lambda: Holder([no_name]), r"Holder\(value=\): function can't be described"),
        (lambda: Holder({1: 2}), r"Holder\(value=\): dict can't"),
        (lambda: Holder(other={2, 3}), r"Holder\(other=\): set can't"),
        (lambda: Holder(1j), "complex can't"),
        (lambda: Holder(np.ones(3)), r"Holder\(value=\): ndarray can't .* self\.buffer"),
        (lambda: Sequential(Residual(Holder(b"x"))), r"Holder\(value=\): bytes can't"),
    ],
)
def test_what_cannot_be_described(make, text):
    with pytest.raises(UnsupportedError, match=text):
        describe(make())


def test_a_class_with_the_name_of_one_of_ours():
    class ReLU(Function):
        pass

    with pytest.raises(UnsupportedError, match=r"ReLU would come back as deepcore\.activations\.ReLU"):
        describe(Sequential(ReLU()))
    with pytest.raises(ArgumentError, match=r"deepcore\.activations\.ReLU has that name; give .*ReLU"):
        register(ReLU)


# ---- the registry


def test_the_registry_has_all_public_classes():
    public = {
        name: cls
        for name, cls in vars(dc).items()
        if isinstance(cls, type) and issubclass(cls, Function) and name != "Net"
    }
    assert len(public) > 10
    assert {name: registry().get(name) for name in public} == public


@pytest.mark.parametrize("what", [3, Linear(1, 1), int, Function.forward, "Linear"])
def test_only_classes_of_functions_register(what):
    with pytest.raises(DTypeError, match="register: wanted a class of Functions, got"):
        register(what)


def test_a_newer_version_of_a_class_replaces_the_older_one():
    def cell(version):
        @register
        class OfANotebook(Function):
            number = version

        return OfANotebook

    first, second = cell(1), cell(2)
    assert first is not second
    assert again(first()).number == 2


def test_another_class_of_the_same_name_is_refused():
    def one():
        @register
        class Namesake(Function):
            pass

    def other():
        @register
        class Namesake(Function):
            pass

    one()
    with pytest.raises(ArgumentError, match=r"one.<locals>.Namesake has that name; give .*other.<locals>"):
        other()


def test_importing_a_class_of_ours_again_is_no_clash():
    assert register(Linear) is Linear
    architecture._registered.pop("Linear")


def test_the_name_of_a_class_is_no_path_to_import():
    for name in (
        "os.system",
        "deepcore.layers.linear.Linear",
        "eval",
        "_Branched",
        "Square",
        "",
        None,
        3,
        [],
    ):
        with pytest.raises(CheckpointError, match=r"there is no class .*@deepcore\.register"):
            build({"class": name, "config": {}})


# ---- malformed descriptions


def linear(**config):
    return {"class": "Linear", "config": {"in_dim": 2, "out_dim": 3} | config}


def row(*functions):
    return {"class": "Sequential", "config": {"functions": list(functions)}}


RELU = {"class": "ReLU", "config": {}}

MALFORMED = {
    "nothing": (None, "unknown parts"),
    "a list": ([], "unknown parts"),
    "a string": ("Linear", "unknown parts"),
    "empty": ({}, "makes no sense"),
    "no config": ({"class": "ReLU"}, "makes no sense"),
    "no class": ({"config": {}}, "makes no sense"),
    "config a list": ({"class": "ReLU", "config": []}, "makes no sense"),
    "unknown part": (RELU | {"code": "print()"}, "unknown parts"),
    "unknown part inside": (row(RELU | {"code": "print()"}), "makes no sense"),
    "facts inside": (row(RELU | {"frozen": []}), "makes no sense"),
    "unknown argument": (linear(color="red"), r"can't make Linear from .*color"),
    "missing argument": ({"class": "Linear", "config": {"in_dim": 2}}, "can't make Linear from"),
    "argument out of range": (linear(out_dim=-1), "can't make Linear from .*out_dim must be"),
    "argument of a wrong kind": (linear(out_dim="3"), "can't make Linear from .*out_dim must be"),
    "argument to a function without": ({"class": "ReLU", "config": {"alpha": 1}}, "can't make ReLU"),
    "an abstract class": (
        {"class": "Conv", "config": {"in_channels": 1, "out_channels": 1}},
        "can't make Conv",
    ),
    "no initialiser": (linear(init={"init": "make", "config": {}}), "makes no sense"),
    "initialiser with a wrong one": (
        linear(init={"init": "Normal", "config": {"x": 1}}),
        "can't make Normal",
    ),
    "unknown device": (linear(device="nowhere"), "can't make Linear"),
    "a number for a function": (row(3), "can't make Sequential .*must be a Function"),
    "functions no list": ({"class": "Sequential", "config": {"functions": 3}}, "can't make Sequential"),
    "repeat of nothing": (
        row({"repeat": 0}),
        "makes no sense",
    ),
    "repeat of a later one": (row({"repeat": 1}, RELU, RELU), "makes no sense"),
    "repeat of the whole": (row(RELU, {"repeat": 1}), "makes no sense"),
    "repeat below 0": (row(RELU, {"repeat": -1}), "makes no sense"),
    "repeat of a name": (row(RELU, {"repeat": "0"}), "makes no sense"),
    "repeat and more": (row(RELU, {"repeat": 0, "class": "ReLU"}), "makes no sense"),
    "unknown kind": (linear(bias={"set": []}), "makes no sense"),
    "tuple of no list": (linear(bias={"tuple": 1}), "makes no sense"),
    "dict of no table": (linear(bias={"dict": []}), "makes no sense"),
    "float of a number": (linear(bias={"float": "1e999"}), "makes no sense"),
    "dtype of Python objects": (linear(bias={"dtype": "object"}), "makes no sense"),
    "array that is missing": (linear(bias={"array": "layers.0.W"}), "makes no sense"),
    "two kinds": (linear(bias={"tuple": [], "dict": {}}), "makes no sense"),
    "frozen no list": (RELU | {"frozen": "0"}, "list of paths"),
    "frozen a number": (RELU | {"frozen": [0]}, "names 0, which"),
    "frozen a list": (RELU | {"frozen": [[]]}, "names "),
    "frozen unknown": (RELU | {"frozen": ["layers.0"]}, "names 'layers.0', which it does not have"),
    "evaluation unknown": (RELU | {"evaluation": ["x"]}, "names 'x'"),
    "evaluation null": (RELU | {"evaluation": None}, "list of paths"),
    "ties null": (linear() | {"ties": None}, "unknown parts"),
    "ties a number": (linear() | {"ties": [3]}, "list of paths"),
    "ties unknown": (linear() | {"ties": [["W", "V"]]}, "names 'V'"),
    "ties a function": (row(linear(), linear()) | {"ties": [["0", "1"]]}, "names '0'"),
    "ties of two shapes": (linear() | {"ties": [["W", "b"]]}, "different shapes"),
    "empty tie": (linear() | {"ties": [[]]}, "different shapes"),
    "loss that is none": (
        {"class": "Composition", "config": {"layers": [], "loss": RELU}},
        r"can't make Composition .*must be a Loss",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_descriptions(name):
    description, text = MALFORMED[name]
    with pytest.raises(CheckpointError, match=text) as caught:
        build(description)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("depth", [10, 100, *range(150, 500, 25), 2_000, 20_000])
def test_nesting_to_any_depth(depth):
    description = RELU
    for _ in range(depth):
        description = row(description)
    try:
        built = build(description)
    except CheckpointError as error:
        assert depth > 50
        assert "nested too deeply" in str(error)
    else:
        assert isinstance(built, Sequential)


@pytest.mark.parametrize(
    "description",
    [
        linear(in_dim=10**6, out_dim=10**6),
        linear(in_dim=10**15, out_dim=10**15),
        row(linear(), linear(in_dim=200_000, out_dim=200_000)),
        {"class": "Conv2D", "config": {"in_channels": 10**5, "out_channels": 10**5}},
        {"class": "BatchNorm2D", "config": {"n_channels": 10**10}},
        {"class": "BatchNorm2D", "config": {"n_channels": {"tuple": [10**4000] * 1000}}},
        row(*[{"class": "BatchNorm2D", "config": {"n_channels": 10**5}}] * 1_000),
    ],
)
def test_layers_larger_than_their_file_are_refused_before_they_are_made(description):
    with pytest.raises(CheckpointError, match=r"a layer wants .* numbers, and the file has 1,000"):
        build(description, max_size=1_000)


@pytest.mark.parametrize("repeats", [2, 1000])
def test_parts_that_repeat_parts_that_repeat_are_refused(repeats):
    """Each holds the one before it twice: 60 lines stand for a net of 2**60 layers."""
    description = RELU
    for index in range(60):
        description = row(description, *[{"repeat": index}] * (repeats - 1))
    with pytest.raises(CheckpointError, match="repeats its parts without end"):
        build(description)


def test_a_loss_needs_its_array():
    loss = CrossEntropyLoss(weight=[1.0, 2.0])
    with pytest.raises(CheckpointError, match="makes no sense"):
        build(describe(loss))
    back = build(describe(loss), {"weight": np.array([3.0, 4.0])})
    assert isinstance(back, Loss)
    assert back.buffer["weight"].tolist() == [3.0, 4.0]
