"""The doctor: each fault by itself is found, and healthy nets are left in peace."""

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
    Function,
    LeakyReLU,
    Linear,
    Loss,
    MaxPool2D,
    MeanSquareLoss,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from deepcore.core.random import Generator, current_generator, drawing_from
from deepcore.data.ring import ring
from deepcore.diagnose.findings import SEVERITIES
from tests.users import Scale, Square


@pytest.fixture(autouse=True)
def seeded():
    with drawing_from(Generator(0)):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(n, c=2):
    return np.arange(n) % c


def images(n=60):
    """Like MNIST: grey strokes on black, 0 to 255."""
    rng = np.random.default_rng(0)
    X = np.zeros((n, 1, 12, 12))
    X[:, :, 2:10, 2:10] = 255 * np.clip(rng.normal(0, 1, (n, 1, 8, 8)), 0, 1)
    return X.astype("uint8"), classes(n, 10)


def perceptron(*between, loss=None, d=2, hidden=8, out=2, **settings):
    layers = [Linear(d, hidden, **settings), *(between or [ReLU()]), Linear(hidden, out)]
    return Net(layers, loss or CrossEntropyLoss())


def convolutional():
    return Net(
        [
            *(Conv2D(1, 4, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(4)),
            *(Conv2D(4, 8, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(8)),
            *(Flatten(), Dropout(0.5), Linear(8 * 3 * 3, 10)),
        ],
        CrossEntropyLoss(),
    )


def only(diagnosis):
    """The one finding that there is."""
    assert len(diagnosis) == 1, str(diagnosis)
    assert not diagnosis
    finding = diagnosis[0]
    assert finding.severity in SEVERITIES and finding.path and finding.why and finding.remedy
    assert max(map(len, str(diagnosis).splitlines())) <= 80
    return finding


def assert_well(diagnosis):
    assert diagnosis, str(diagnosis)
    assert str(diagnosis) == "The doctor found nothing: net and data look well."
    assert not diagnosis.findings and list(diagnosis) == []


class Exploding(Function):
    """X -> inf where X > 0."""

    def forward(self, X):
        return np.exp(1e6 * X)

    def backward(self, dY):
        return dY


# ---- the healthy


@pytest.mark.parametrize("seed", range(10))
def test_the_ring_is_well_before_and_after_training(seed):
    X, y = ring(seed=seed)
    with drawing_from(Generator(seed)):
        net = Net([Linear(2, 4), ReLU(), Linear(4, 2)], CrossEntropyLoss())
    assert_well(net.doctor(X, y))
    for _ in range(100):
        net.loss(net(X), y)
        net.backward()
        net.update_weights(0.5)
    assert_well(net.doctor(X, y))


def test_images_are_well_before_and_after_training():
    X, y = images()
    X = X.astype("float32") / 255
    net = convolutional()
    assert_well(net.doctor(X, y))
    net.fit(X, y, epochs=2, seed=0)
    assert_well(net.doctor(X, y))
    flat = X.reshape(len(X), -1)  # whose rim is black in every image
    assert_well(perceptron(d=144, out=10).doctor(flat, y))


@pytest.mark.parametrize(
    ("net", "X", "y"),
    [
        (perceptron(Tanh()), normal(40, 2), classes(40)),
        (perceptron(Sigmoid()), normal(40, 2), classes(40)),
        (perceptron(out=1, loss=MSELoss()), normal(40, 2), normal(40, 1)),
        (perceptron(out=1, loss=MeanSquareLoss()), normal(40, 2), normal(40, 1)),
        (Net([Linear(2, 2, init="zeros")], CrossEntropyLoss()), normal(40, 2), classes(40)),
        (perceptron(), normal(40, 2), classes(40)[:, None]),
        (perceptron(), normal(5, 2), classes(5)),
        (perceptron(), 3 * normal(40, 2) + 2, classes(40).astype("uint8")),
        (perceptron(), normal(40, 2), np.full((40, 2), 0.5)),
        (perceptron(Square(), Scale()), normal(40, 2), classes(40)),
        (
            Net(
                [Linear(2, 8), ReLU(), Residual(Sequential(Linear(8, 8), ReLU())), ReLU(), Linear(8, 2)],
                MSELoss(),
            ),
            normal(40, 2),
            normal(40, 2),
        ),
    ],
)
def test_other_nets_that_are_well(net, X, y):
    assert_well(net.doctor(X, y))


# ---- the net


def test_softmax_before_cross_entropy():
    found = only(
        Net([*perceptron().layers, Softmax()], CrossEntropyLoss()).doctor(normal(40, 2), classes(40))
    )
    assert (found.severity, found.path) == ("warning", "layers.3")
    assert "softmax" in found.what and "logits" in found.remedy
    inside = Net([Sequential(*perceptron().layers, Softmax())], CrossEntropyLoss())
    assert only(inside.doctor(normal(1, 2), classes(1))).path == "layers.0.3"
    assert_well(Net([*perceptron().layers, Softmax()], MSELoss()).doctor(normal(40, 2), normal(40, 2)))


@pytest.mark.parametrize("log", [False, True])
def test_a_users_own_softmax(log):
    class Own(Function):
        def forward(self, X):
            Y = np.exp(X) / np.exp(X).sum(axis=1, keepdims=True)
            return np.log(Y) if log else Y

        def backward(self, dY):
            return dY

    found = only(Net([*perceptron().layers, Own()], CrossEntropyLoss()).doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.3"
    assert ("log-softmax" in found.what, found.severity) == ((True, "note") if log else (False, "warning"))


@pytest.mark.parametrize(
    ("last", "loss", "severity", "what", "remedy"),
    [
        (dc.Sigmoid(), dc.BCEWithLogitsLoss(), "warning", "applies another", "leave the sigmoid out"),
        (dc.Softmax(), dc.NLLLoss(), "error", "takes the logarithms", "LogSoftmax()"),
        (dc.Tanh(), dc.BCELoss(), "error", "BCELoss takes probabilities, and the net gives -", "Sigmoid()"),
    ],
)
def test_an_output_in_another_form_than_the_loss_takes(last, loss, severity, what, remedy):
    X = np.random.default_rng(0).normal(size=(20, 2)).astype("float32")
    labels = np.arange(20) % 2
    y = labels if isinstance(loss, dc.NLLLoss) else np.stack([labels, 1 - labels], axis=1).astype("float32")
    found = [
        finding for finding in Net([Linear(2, 2), last], loss).doctor(X, y) if finding.path == "layers.1"
    ]
    assert found[0].severity == severity and what in found[0].what and remedy in found[0].remedy
    right = {dc.NLLLoss: dc.LogSoftmax(), dc.BCELoss: dc.Sigmoid(), dc.BCEWithLogitsLoss: dc.LeakyReLU(1.0)}
    assert Net([Linear(2, 2), right[type(loss)]], loss).doctor(X, y)


def test_targets_that_are_no_numbers():
    X, y = np.ones((9, 2)) * np.arange(9)[:, None], np.full((9, 1), np.inf)
    (finding,) = Net([Linear(2, 1)], dc.MSELoss()).doctor(X, y)
    assert finding.path == "loss_fn" and finding.remedy == "mend y"


@pytest.mark.parametrize("between", [[Flatten()], [Dropout(0.2)], []], ids=str)
def test_two_linear_layers_in_a_row(between):
    net = Net([Linear(2, 8), *between, Linear(8, 2)], CrossEntropyLoss())
    found = only(net.doctor(normal(40, 2), classes(40)))
    assert found.path == f"layers.{len(net.layers) - 1}"
    assert "Linear(8, 2) follows layers.0, Linear(2, 8)" in found.what


def test_two_convolutions_in_a_row():
    layers = [Conv2D(1, 4), Conv2D(4, 4), ReLU(), Flatten(), Linear(4 * 8 * 8, 10)]
    X, y = images()
    found = only(Net(layers, CrossEntropyLoss()).doctor(X / np.float32(255), y))
    assert found.path == "layers.1"


@pytest.mark.parametrize("init", ["zeros", "ones", dc.init.constant(0.1)])
def test_weights_that_are_all_equal(init):
    diagnosis = perceptron(Tanh(), init=init).doctor(normal(40, 2), classes(40))
    found = only(diagnosis)
    assert (found.severity, found.path) == ("error", "layers.0")
    assert "all 8 units have the same weights" in found.what


def test_equal_filters():
    net = convolutional()
    net.layers[4] = Conv2D(4, 8, padding=1, init="ones")
    X, y = images()
    assert "layers.4" in [f.path for f in net.doctor(X / np.float32(255), y) if "same weights" in f.what]


def test_evaluation_mode():
    found = only(perceptron().eval().doctor(normal(40, 2), classes(40)))
    assert found.severity == "note" and "evaluation mode" in found.what and "net.train()" in found.remedy


def test_no_loss():
    net = perceptron()
    net.loss_fn = None
    assert "has no loss" in only(net.doctor(normal(40, 2))).what


def test_weights_that_are_no_numbers():
    net = perceptron()
    net.layers[2].weight["W"][1, 0] = np.nan
    weights, layer = net.doctor(normal(40, 2), classes(40))
    assert (weights.path, weights.what) == ("layers.2.W", "1 of 16 weights are NaN or infinite")
    assert layer.path == "layers.2" and "NaN" in layer.what and "its weight W holds" in layer.why


def test_a_net_inside_itself_and_a_transposed_tie():
    net = perceptron()
    net.layers[1].me = net
    assert "stands inside itself" in only(net.doctor(normal(4, 2), classes(4))).what
    net = Net([Linear(2, 2), ReLU(), Linear(2, 2)], CrossEntropyLoss())
    net.layers[2].weight["W"] = net.layers[0].weight["W"].T
    assert "two views of one memory" in only(net.doctor(normal(4, 2), classes(4))).what


# ---- the data


def test_integer_images():
    X, y = images()
    found = only(convolutional().doctor(X, y))
    assert (found.severity, found.path) == ("error", "X")
    assert "uint8 numbers, 0 to 255" in found.what and 'astype("float32") / 255' in found.remedy


def test_integers_that_a_layer_wants_are_well():
    class Lookup(Function):
        def forward(self, X):
            return np.eye(5, dtype="float32")[X]

        def backward(self, dY):
            return None

    net = Net([Lookup(), Linear(5, 8), ReLU(), Linear(8, 2)], CrossEntropyLoss())
    assert_well(net.doctor(np.arange(40) % 5, classes(40)))


def test_unscaled_images():
    X, y = images()
    found = only(convolutional().doctor(X.astype("float32"), y))
    assert "not scaled: X runs from 0 to 255" in found.what
    assert found.remedy == "divide images by 255"


def test_unscaled_columns():
    X = normal(40, 3)
    X[:, 1] = 5000 + 40 * X[:, 1]
    found = only(perceptron(d=3).doctor(X, classes(40)))
    assert "(column 1)" in found.what and "standardise" in found.remedy
    assert "tiny" in only(perceptron().doctor(1e-5 * normal(40, 2), classes(40))).what


@pytest.mark.parametrize("value", [0, 3])
def test_a_constant_feature(value):
    X = normal(40, 3)
    X[:, 1] = value
    found = only(perceptron(d=3).doctor(X, classes(40)))
    assert found.what == "column 1 of 3 never varies"
    wide = normal(40, 40)
    wide[:, [3, 5]] = value
    diagnosis = perceptron(d=40).doctor(wide, classes(40))
    assert bool(diagnosis) == (value == 0)
    assert value == 0 or "columns 3, 5 of 40 never vary" in only(diagnosis).what


def test_equal_samples():
    assert "all 40 samples are equal" in only(perceptron().doctor(np.ones((40, 2)), classes(40))).what


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_x_that_is_no_number(bad):
    X = normal(40, 2)
    X[7, 1] = bad
    data, layer = perceptron().doctor(X, classes(40))
    assert (data.path, data.what) == ("X", "1 of 40 samples hold NaN or inf, the first is row 7")
    assert layer.path == "layers.0" and "they come from X" in layer.why


def test_no_samples_and_two_lengths():
    assert "no samples" in only(perceptron().doctor(normal(0, 2), classes(0))).what
    assert "X has 4 samples, y has 3" in only(perceptron().doctor(normal(4, 2), classes(3))).what
    only(perceptron().doctor([[1.0], [1.0, 2.0]], classes(2)))
    only(perceptron().doctor(normal(2, 2), ["cat", "dog"]))


# ---- the targets


@pytest.mark.parametrize("loss", [MSELoss(), MeanSquareLoss()])
def test_a_column_against_a_row(loss):
    found = only(perceptron(out=1, loss=loss).doctor(normal(40, 2), normal(40)))
    assert found.what == "the output has shape (n, 1), the targets (n,)"
    assert (found.path, found.remedy) == ("y", "pass y.reshape(-1, 1)")


def test_a_column_against_a_row_in_a_users_loss_that_broadcasts():
    class Own(Loss):
        def forward(self, X, Y):
            return np.mean((X - Y) ** 2)

        def local_grad(self, X, Y):
            return {"X": 2 * (X - Y).mean(axis=1, keepdims=True) / len(X)}

    net = perceptron(out=1, loss=Own())
    assert "the targets (n,)" in only(net.doctor(normal(40, 2), normal(40))).what
    assert_well(net.doctor(normal(40, 2), normal(40, 1)))


@pytest.mark.parametrize(
    ("y", "what", "remedy"),
    [
        (classes(40) + 1, r"got 2 in row 1", "pass y - 1"),
        (classes(40, 5), "got 2 in row 2", "give the last layer 5 outputs"),
        (classes(40) - 3, "got -3 in row 0", "labels must be 0 to 1"),
        (classes(40).astype(float), "labels must be integers, got float64", "y.astype(int)"),
        (classes(40) > 0, "labels must be integers, got bool", "y.astype(int)"),
    ],
    ids=["one-based", "more classes", "negative", "float", "bool"],
)
def test_labels(y, what, remedy):
    found = only(perceptron().doctor(normal(40, 2), y))
    assert (found.severity, found.path) == ("error", "y")
    assert what in found.what and remedy in found.remedy


def test_a_bad_label_outside_the_samples_that_go_through():
    y = classes(1000)
    y[1] = 9
    assert "got 9 in row 1" in only(perceptron().doctor(normal(1000, 2), y)).what


def test_classes_without_samples():
    net = perceptron(out=3)
    assert "of 3 classes, 2 is not among" in only(net.doctor(normal(100, 2), classes(100))).what
    assert "all 100 labels are 0" in only(net.doctor(normal(100, 2), np.zeros(100, int))).what
    assert_well(net.doctor(normal(20, 2), classes(20)))  # so few may miss one by chance


def test_one_output_for_classes_and_all_ignored():
    found = only(perceptron(out=1).doctor(normal(40, 2), np.zeros(40, int)))
    assert "single output" in found.what
    assert "ignored" in only(perceptron().doctor(normal(40, 2), np.full(40, -100))).what


def test_targets_that_are_integers_for_a_regression():
    found = only(perceptron(out=1, loss=MSELoss()).doctor(normal(40, 2), classes(40)[:, None]))
    assert "targets must be floating-point" in found.what and "astype" in found.remedy


# ---- the pass


def test_dead_units():
    net = perceptron()
    net.layers[0].weight["b"][0, :5] = -100
    found = only(net.doctor(normal(40, 2), classes(40)))
    assert (found.severity, found.path) == ("warning", "layers.1")
    assert "5 of 8 units of ReLU() are dead" in found.what
    net.layers[0].weight["b"][:] = -100
    whole, gradient = net.doctor(normal(40, 2), classes(40))
    assert whole.severity == "error" and "8 of 8" in whole.what
    assert gradient.path == "layers.0" and "is 0" in gradient.what


def test_dead_channels():
    net, (X, y) = convolutional(), images()
    net.layers[0].weight["b"][0, :3] = -100
    found = only(net.doctor(X / np.float32(255), y))
    assert found.path == "layers.2" and "3 of 4 units" in found.what


@pytest.mark.parametrize("f", [Sigmoid, Tanh])
def test_saturation(f):
    net = perceptron(f())
    net.layers[0].weight["W"] *= 30
    found = only(net.doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.1" and f"of the values of {f.__name__}() are saturated" in found.what


def deep(f, **settings):
    between = (layer for _ in range(8) for layer in (f, Linear(8, 8, **settings)))
    return Net([Linear(2, 8), *between, f, Linear(8, 2)], CrossEntropyLoss())


def test_vanishing_gradients():
    found = only(deep(Sigmoid()).doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.0" and "vanishes" in found.what and "layers.18" in found.what
    assert_well(deep(LeakyReLU(0.5)).doctor(normal(40, 2), classes(40)))


def test_exploding_gradients():
    net = deep(LeakyReLU(0.5), init=dc.init.normal(std=2.0))
    assert "the gradient explodes" in only(net.doctor(normal(40, 2), classes(40))).what


def test_the_first_layer_that_makes_inf():
    net = perceptron(Tanh(), Exploding())
    found = only(net.doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.2" and "inf" in found.what and "the numbers arise here" in found.why


def test_the_first_gradient_that_is_no_number():
    class Root(Function):
        def forward(self, X):
            return np.sqrt(np.maximum(X, 0))

        def backward(self, dY):
            with np.errstate(all="ignore"):
                return dY / np.zeros_like(dY)

    found = only(perceptron(Tanh(), Root()).doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.2" and "gradient dX holds" in found.what


def test_a_batch_of_one_with_batch_norm():
    net, (X, y) = convolutional(), images()
    found = only(net.doctor(X[:1] / np.float32(255), y[:1]))
    assert "batch of 1" in found.what
    pixel = Net([Conv2D(1, 4, 12), BatchNorm2D(4), ReLU(), Flatten(), Linear(4, 10)], CrossEntropyLoss())
    found = only(pixel.doctor(X[:1] / np.float32(255), y[:1]))
    assert (found.path, found.severity) == ("layers.1", "error")
    assert "more than one value per channel" in found.what and "use a larger batch" in found.remedy


def test_what_a_layer_raises_becomes_a_finding():
    found = only(perceptron(d=3).doctor(normal(40, 2), classes(40)))
    assert found.path == "layers.0"
    assert "X must end in 3, got (40, 2)" in found.what and "forward raised ShapeError" in found.why

    class Clumsy(Function):
        def forward(self, X):
            return X

        def backward(self, dY):
            raise IndexError("off by one")

    found = only(perceptron(ReLU(), Sequential(Clumsy())).doctor(normal(40, 2), classes(40)))
    assert (found.path, found.what) == ("layers.2.0", "IndexError: off by one")
    assert "backward raised IndexError" in found.why
    only(Net([ReLU()], CrossEntropyLoss()).doctor(normal(40), classes(40)))


def test_several_faults_at_once_the_worst_first():
    X, y = images()
    net = Net([Flatten(), Linear(144, 8), Linear(8, 10), Softmax()], CrossEntropyLoss()).eval()
    severities = [finding.severity for finding in net.doctor(X, y + 1)]
    assert severities == ["error", "error", "warning", "warning", "note"]


def test_the_text():
    found = perceptron().eval().doctor(normal(40, 2), classes(40))
    assert repr(found) == str(found)
    assert str(found).splitlines() == [
        "note: net: the net is in evaluation mode",
        "  why:    in a loop of your own Dropout drops nothing and BatchNorm learns no",
        "          statistics (fit switches)",
        "  remedy: call net.train() before training",
    ]


# ---- where it runs, and that it changes nothing


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax"])
def test_every_library(library):
    pytest.importorskip(library, reason=f"needs {library}")
    X, y = images()
    X = X.astype("float32") / 255
    assert_well(convolutional().to(library).doctor(X, y))
    net = perceptron(Tanh(), Dropout(0.1), d=144, out=10, init="ones").to(library)
    paths = [(f.severity, f.path) for f in net.doctor(X.reshape(60, -1), y - 1)]
    assert paths == [("error", "layers.0"), ("error", "y"), ("warning", "layers.1")]


class Restless(Function):
    """Draws random numbers, and has a buffer that it stages."""

    def __init__(self):
        super().__init__()
        self.buffer["n"] = np.zeros(1)

    def forward(self, X):
        self._stage(n=self._staged("n") + 1)
        current_generator().next_call("dropout")
        return X

    def backward(self, dY):
        return dY


@pytest.mark.parametrize("sick", [False, True])
def test_it_changes_nothing(sick):
    net, (X, y) = convolutional(), images()
    X = X / np.float32(255)
    net.layers.insert(0, Restless())
    net.loss(net(X), y)
    net.backward()
    net.loss(net(X), y)
    before, record = pickle.dumps(net), net._last.record
    arrays, gradients = {**net.parameters(), **net.buffers()}, net.gradients()
    with drawing_from(Generator(9)) as generator:
        net.doctor(X[:, :, :5] if sick else X, y)
        assert generator.calls == {}
    assert pickle.dumps(net) == before
    assert net._last.record is record
    assert all(x is arrays[path] for path, x in {**net.parameters(), **net.buffers()}.items())
    assert all(x is gradients[path] for path, x in net.gradients().items())
    net.backward()
