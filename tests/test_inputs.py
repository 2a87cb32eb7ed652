"""Bad input: each is refused with an error that says who, wanted, got and remedy, and changes nothing."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    GRU,
    LSTM,
    Add,
    BatchNorm1D,
    BatchNorm2D,
    BCELoss,
    BCEWithLogitsLoss,
    Bilinear,
    Concat,
    Conv2D,
    ConvTranspose1D,
    CrossEntropyLoss,
    Dropout,
    Embedding,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    MeanSquareLoss,
    MSELoss,
    MultiHeadAttention,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    Net,
    NLLLoss,
    PReLU,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
    init,
)
from tests.case import buffers, params, weights
from tests.places import PLACES, USABLE
from tests.users import Product, Scale, Square

WRITEABLE = [place for place in PLACES if place.writeable]


def floats(place, *shape, dtype=None):
    return place.array(np.linspace(-1, 1, int(np.prod(shape))).reshape(shape), dtype)


def elsewhere(place):
    """A place of another library."""
    return next(other for other in USABLE if other.backend != place.backend)


def state(f):
    """Every weight and buffer: the arrays themselves, and their numbers."""
    tables = weights(f) | buffers(f)
    return {path: (id(W), dc.to_numpy(W).tobytes()) for path, W in tables.items()}


def assert_refused(f, bad, good, error, *pieces):
    """bad() raises an error with these pieces of text; f is as before, and good() gives what it gave."""
    good()
    clone = copy.deepcopy(f)
    before = state(f)
    with pytest.raises(error) as raised:
        bad()
    message = str(raised.value)
    assert [piece for piece in pieces if piece not in message] == [], message
    assert type(raised.value) is error
    assert state(f) == before
    wanted = [dc.to_numpy(x) for x in good(clone)]
    for got, x in zip(good(), wanted, strict=True):
        np.testing.assert_array_equal(dc.to_numpy(got), x)


def rows(table):
    """Parametrise by the rows of a table, whose first entry is the name, and by the places."""
    named = [_Row(row) for row in table]
    assert len({row.name for row in named}) == len(named)
    return pytest.mark.parametrize("row, place", params(named, WRITEABLE))


class _Row(tuple):
    @property
    def name(self):
        return self[0]


everywhere = pytest.mark.parametrize("_, place", params(["any"], WRITEABLE))


# ---- targets


def train_step(net, X, y):
    """A good pass: all that it gives."""
    out = net(X)
    return [out, net.loss(out, y), net.backward(), *net.gradients().values()]


def ignoring(label):
    return CrossEntropyLoss(ignore_index=label)


CE = CrossEntropyLoss
OUT_OF_RANGE = dc.LabelError, "CrossEntropyLoss", "labels must be 0 to 3 for 4 classes"
NO_INTEGERS = dc.LabelError, "CrossEntropyLoss", "labels must be integers"

LABELS = [  # name, loss, y for 3 samples and 4 classes, error, pieces of its message
    ("too large", CE, np.array([0, 4, 1]), *OUT_OF_RANGE, "ignore_index=-100", "got 4 in row 1"),
    ("negative", CE, np.array([0, 1, -1]), *OUT_OF_RANGE, "got -1 in row 2"),
    ("negative int8", CE, np.array([-2, 0, 1], "int8"), *OUT_OF_RANGE, "got -2 in row 0"),
    ("too large uint8", CE, np.array([1, 200, 1], "uint8"), *OUT_OF_RANGE, "got 200 in row 1"),
    ("-100 as uint8", CE, np.array([0, 156, 1], "uint8"), *OUT_OF_RANGE, "got 156 in row 1"),
    ("-100 as uint64", CE, np.array([0, 1, 2**64 - 100], "uint64"), *OUT_OF_RANGE, "in row 2"),
    ("column", CE, np.array([[0], [1], [9]]), *OUT_OF_RANGE, "got 9 in row 2"),
    ("only one is ignored", lambda: ignoring(-1), np.array([-1, 0, -100]), *OUT_OF_RANGE, "ignore_index=-1",
     "got -100 in row 2"),
    ("the first counts", CE, np.array([0, 8, -9]), *OUT_OF_RANGE, "got 8 in row 1"),
    ("float32", CE, np.array([0, 1, 2], "float32"), *NO_INTEGERS, "float32", "0.0 in row 0",
     "y.astype(int)", "probabilities of X's shape (3, 4)"),
    ("float column", CE, np.array([[0], [1], [2]], "float32"), *NO_INTEGERS, "float32"),
    ("bool", CE, np.array([True, False, True]), *NO_INTEGERS, "bool"),
    ("complex", CE, np.array([0, 1, 2], "complex64"), *NO_INTEGERS, "complex64"),
    ("probabilities of 3 classes", CE, np.ones((3, 3), "float32"), *NO_INTEGERS, "(3, 4)"),
    ("probabilities of 2 rows", CE, np.ones((2, 4), "float32"), dc.ShapeError, "3 rows", "there are 2"),
    ("one-hot integers", CE, np.eye(4, dtype="int64")[:3], dc.ShapeError, "shape (3,)", "got (3, 4)",
     "y.argmax(1)", "y.astype(float)"),
    ("too few", CE, np.array([0, 1]), dc.ShapeError, "3 rows", "there are 2"),
    ("a single number", CE, np.array(1), dc.ShapeError, "shape (3,)", "got ()"),
]  # fmt: skip


@rows(LABELS)
def test_labels(row, place):
    _, loss, y, error, *pieces = row
    if y.dtype == "uint64" and not place.wide_integers:  # it doesn't even get there
        error, pieces = dc.DTypeError, ["does not fit in uint32", "jax_enable_x64"]
    net = place.put(Net([Linear(3, 4)], loss=loss()))
    X, good_y = floats(place, 3, 3), place.array(np.array([3, 0, 2]))

    def bad():
        out = net(X)
        try:
            net.loss(out, place.array(y))
        finally:
            net.loss(out, good_y)  # the forward pass is still good
            net.backward()

    assert_refused(net, bad, lambda f=net: train_step(f, X, good_y), error, *pieces)


@rows(LABELS[:2])
def test_labels_of_places(row, place):
    _, loss, y, error, *pieces = row
    f = loss()
    X, good_y = floats(place, 3, 4, 2), np.array([[3, 0], [1, 2], [0, 0]])
    y = np.stack([good_y[:, 0], y], axis=1)
    assert_refused(
        f,
        lambda: f(X, place.array(y)),
        lambda f=f: [f(X, place.array(good_y)), f.backward()],
        error,
        *pieces,
    )


TARGETS = [  # name, Y for an output of (3, 1), error, pieces of its message
    ("(n,)", np.ones(3, "float32"), dc.ShapeError, "(3, 1)", "(3,)", "y.reshape(-1, 1)"),
    ("(n, 3)", np.ones((3, 3), "float32"), dc.ShapeError, "(3, 1)", "(3, 3)"),
    ("fewer rows", np.ones((2, 1), "float32"), dc.ShapeError, "(3, 1)", "(2, 1)"),
    ("one row", np.ones((1, 1), "float32"), dc.ShapeError, "(3, 1)", "(1, 1)"),
    ("one number", np.ones((), "float32"), dc.ShapeError, "(3, 1)", "()"),
    ("integers", np.ones((3, 1), "int32"), dc.DTypeError, "int32", 'y.astype("float32")'),
    ("bool", np.ones((3, 1), "bool"), dc.DTypeError, "bool", 'y.astype("float32")'),
]


@rows(TARGETS)
@pytest.mark.parametrize("loss", [MeanSquareLoss, MSELoss])
def test_regression_targets(loss, row, place):
    _, y, error, *pieces = row
    net = place.put(Net([Linear(3, 1)], loss=loss()))
    X, good_y = floats(place, 3, 3), floats(place, 3, 1)
    assert_refused(
        net,
        lambda: net.loss(net(X), place.array(y)),
        lambda f=net: train_step(f, X, good_y),
        error,
        loss.__name__,
        *pieces,
    )


@everywhere
@pytest.mark.parametrize("y", [[0, 1, 2], None, 1], ids=repr)
@pytest.mark.parametrize("loss", [CrossEntropyLoss, MSELoss, MeanSquareLoss])
def test_targets_that_are_no_array(loss, y, _, place):
    f, X = loss(), floats(place, 3, 4)
    with pytest.raises(
        dc.DTypeError, match=f"{loss.__name__}.* array, got {type(y).__name__}; .*deepcore.asarray"
    ):
        f(X, y)


@everywhere
@pytest.mark.parametrize("loss", [CrossEntropyLoss, MSELoss, MeanSquareLoss])
def test_the_mean_over_an_empty_batch(loss, _, place):
    net = place.put(Net([Linear(3, 4)], loss=loss()))
    X, y = floats(place, 3, 3), floats(place, 3, 4)

    def bad():
        net.loss(net(X[:0, :]), y[:0, :])

    pieces = loss.__name__, "mean over nothing", "(0, 4)", 'reduction="sum"'
    assert_refused(net, bad, lambda f=net: train_step(f, X, y), dc.ShapeError, *pieces)


@everywhere
@pytest.mark.parametrize("loss", [CrossEntropyLoss, MSELoss, MeanSquareLoss])
def test_outputs_that_are_integers(loss, _, place):
    X = place.array(np.ones((3, 4), "int64"))
    got = place.stored("int64")
    with pytest.raises(dc.DTypeError, match=f"{loss.__name__}.* floating-point numbers, got {got}"):
        loss()(X, floats(place, 3, 4))


def test_fit_checks_all_labels_before_it_trains():
    net = Net([Linear(3, 4)], loss=CrossEntropyLoss())
    X, y = np.ones((100, 3), "float32"), np.zeros(100, int)
    y[97] = 4
    before = state(net)
    with pytest.raises(dc.LabelError, match="got 4 in row 97"):
        net.fit(X, y, batch_size=8, progress=False)
    with pytest.raises(dc.LabelError, match="got 4 in row 97"):
        net.evaluate(X, y)
    assert state(net) == before


# ---- shapes


def cnn():
    return Net([Conv2D(2, 3, 3), ReLU(), MaxPool2D(2), Flatten(), Linear(3, 2)])


def norms():
    return Net([BatchNorm2D(2), Sequential(BatchNorm2D(2), Flatten(), Linear(8, 3))])


SHAPES = [  # name, function, a shape that it takes, one that it doesn't, pieces of the message
    ("last axis", lambda: Linear(3, 2), (2, 3), (2, 5), "Linear(3, 2): X must end in 3, got (2, 5)"),
    ("last axis 1-D", lambda: Linear(3, 2), (2, 3), (4,), "must end in 3, got (4,)"),
    ("last axis 0-D", lambda: Linear(3, 2), (2, 3), (), "must end in 3, got ()"),
    ("images for Linear", lambda: Net([ReLU(), Tanh(), Linear(784, 128)]), (2, 784), (32, 28, 28),
     "layer 2, Linear(784, 128): X must end in 784, got (32, 28, 28); put Flatten() before it"),
    ("deep inside", lambda: Net([Tanh(), Sequential(ReLU(), Net([Linear(3, 2)]))]), (2, 3), (2, 4),
     "layer 1, function 1, layer 0, Linear(3, 2): X must end in 3, got (2, 4)"),
    ("behind two BatchNorms", norms, (3, 2, 2, 2), (3, 2, 2, 3), "layer 1, function 2, Linear(8, 3)",
     "got (3, 12)"),
    ("channels", lambda: Conv2D(2, 3), (2, 2, 4, 4), (2, 3, 4, 4), "Conv2D(2, 3", "(n, 2, h, w)",
     "(2, 3, 4, 4)"),
    ("channels of groups", lambda: Conv2D(4, 4, groups=2), (2, 4, 4, 4), (2, 2, 4, 4), "(n, 4, h, w)",
     "(2, 2, 4, 4)"),
    ("a single image", lambda: Conv2D(2, 3), (2, 2, 4, 4), (2, 4, 4), "(n, 2, h, w)", "(2, 4, 4)"),
    ("channels last", lambda: Conv2D(3, 2), (2, 3, 4, 4), (2, 5, 4, 3),
     "got (2, 5, 4, 3); move the channels: X.transpose(0, 3, 1, 2)"),
    ("channels of one image", lambda: Conv2D(3, 2), (2, 3, 4, 4), (3, 4, 4),
     "got (3, 4, 4); add the axis of the samples: X[None, ...]"),
    ("grey images", lambda: Conv2D(1, 2), (2, 1, 4, 4), (5, 4, 4),
     "got (5, 4, 4); add the axis of the channel: X[:, None, ...]"),
    ("channels last, transposed", lambda: ConvTranspose1D(3, 2), (2, 3, 4), (2, 4, 3),
     "got (2, 4, 3); move the channels: X.transpose(0, 2, 1)"),
    ("channels last, BatchNorm2D", lambda: BatchNorm2D(3), (2, 3, 4, 4), (2, 4, 4, 3),
     "got (2, 4, 4, 3); move the channels: X.transpose(0, 3, 1, 2)"),
    ("channels last, BatchNorm1D", lambda: BatchNorm1D(3), (2, 3, 4), (2, 4, 3), "X.transpose(0, 2, 1)"),
    ("channels last, GroupNorm", lambda: GroupNorm(1, 3), (2, 3, 4, 4), (2, 4, 4, 3),
     "X.transpose(0, 3, 1, 2)"),
    ("channels last, PReLU", lambda: PReLU(3), (2, 3, 4, 4), (2, 4, 4, 3), "X.transpose(0, 3, 1, 2)"),
    ("one image for a pool", lambda: GlobalAvgPool2D(), (2, 3, 4, 4), (3, 4, 4), "X[None, ...]"),
    ("an axis that isn't there", lambda: Softmax(axis=2), (2, 3, 4), (2, 3), "its axes are -2 to 1"),
    ("kernel larger than the image", lambda: Conv2D(1, 2, 5, padding=1), (1, 1, 4, 4), (1, 1, 2, 4),
     "Conv2D(1, 2", "5x5 kernel", "larger than the padded 4x6 input", "use a smaller kernel or more padding"),
    ("kernel dilated", lambda: Conv2D(1, 2, 3, dilation=2), (1, 1, 5, 5), (1, 1, 4, 5),
     "3x3 kernel spans 5x5 with its dilation", "4x5 input"),
    ("image without height", lambda: Conv2D(1, 2, 3), (1, 1, 3, 3), (1, 1, 0, 4), "3x3 kernel", "0x4 input"),
    ("window larger than the image", MaxPool2D, (1, 1, 4, 4), (1, 1, 1, 4), "MaxPool2D(", "2x2 kernel",
     "1x4 input"),
    ("window in a net", cnn, (2, 2, 4, 4), (2, 2, 3, 3), "layer 2, MaxPool2D(", "2x2 kernel", "1x1 input"),
    ("pooling a single image", MaxPool2D, (1, 1, 4, 4), (1, 4, 4), "(n, c, h, w)", "(1, 4, 4)",
     "X[None, ...]"),
    ("one value per channel", lambda: BatchNorm2D(3), (2, 3, 1, 1), (1, 3, 1, 1),
     "BatchNorm2D(3)", "more than one value per channel", "(1, 3, 1, 1)", "net.eval()"),
    ("channels of BatchNorm", lambda: BatchNorm2D(3), (2, 3, 2, 2), (2, 2, 2, 2), "BatchNorm2D(3)",
     "(n, 3, h, w)"),
    ("rows for BatchNorm2D", lambda: BatchNorm2D(3), (2, 3, 2, 2), (2, 3), "(n, 3, h, w)", "got (2, 3)"),
    ("a number for Flatten", Flatten, (2, 3), (), "Flatten()", "axis of samples"),
    ("branches that differ", lambda: Add(Sequential(), MaxPool2D(1, 2)), (2, 2, 1, 1), (2, 2, 3, 3),
     "Add(", "one shape", "(2, 2, 3, 3)", "(2, 2, 2, 2)"),
    ("a shortcut that differs", lambda: Residual(MaxPool2D(1, 2)), (2, 2, 1, 1), (2, 2, 3, 3),
     "Residual(", "shortcut", "(2, 2, 2, 2)", "(2, 2, 3, 3)"),
]  # fmt: skip


@rows(SHAPES)
def test_shapes(row, place):
    _, make, good_shape, bad_shape, *pieces = row
    f = place.put(make())

    def good(f=f):
        Y = f(floats(place, *good_shape))
        return [Y, f.backward(Y)]

    assert_refused(f, lambda: f(floats(place, *bad_shape)), good, dc.ShapeError, *pieces)


@everywhere
def test_a_window_that_could_lie_in_the_padding(_, place):
    with pytest.raises(dc.ShapeError, match="MaxPool2D.* at most half the 2x2 kernel"):
        MaxPool2D(2, padding=2)(floats(place, 1, 1, 4, 4))


@everywhere
def test_logits_without_classes(_, place):
    with pytest.raises(dc.ShapeError, match=r"CrossEntropyLoss: X must be \(n, c\).*, got \(3,\)"):
        CrossEntropyLoss()(floats(place, 3), place.array(np.array([0, 1, 2])))


@everywhere
def test_class_weights_of_other_classes(_, place):
    f = place.put(CrossEntropyLoss(weight=[1.0, 2.0]))
    with pytest.raises(dc.ShapeError, match=r"weight must have one number a class, \(4,\), got \(2,\)"):
        f(floats(place, 3, 4), place.array(np.array([0, 1, 2])))


@everywhere
def test_a_gradient_of_another_shape(_, place):
    f = place.put(Linear(3, 2))

    def good(f=f):
        return [f(floats(place, 4, 3)), f.backward(floats(place, 4, 2))]

    def bad(dY):
        f(floats(place, 4, 3))
        try:
            f.backward(dY)
        finally:
            f.backward(floats(place, 4, 2))  # the call is not undone yet

    pieces = "Linear(3, 2).backward", "shape of the output, (4, 2)", "got (1, 2)"
    assert_refused(f, lambda: bad(floats(place, 1, 2)), good, dc.ShapeError, *pieces)
    assert_refused(f, lambda: bad([[1.0, 2.0]]), good, dc.DTypeError, "got list", "deepcore.asarray")
    assert_refused(f, lambda: bad(floats(elsewhere(place), 4, 2)), good, dc.MixedBackendError, "'numpy'")


# ---- numbers of another kind

WANT_FLOATS = [
    (Linear(3, 2), (2, 3)),
    (Conv2D(1, 2, 1), (2, 1, 2, 2)),
    (BatchNorm2D(2), (2, 2, 2, 2)),
    (MaxPool2D(), (1, 1, 2, 2)),
    (ReLU(), (2, 2)),
    (Sigmoid(), (2, 2)),
    (Tanh(), (2, 2)),
    (LeakyReLU(), (2, 2)),
    (Softmax(), (2, 2)),
    (Dropout(), (2, 2)),
    (Net([Linear(3, 2)]), (2, 3)),
    (Net([Flatten(), Tanh()]), (2, 3)),
    (Sequential(Conv2D(1, 2, 1)), (2, 1, 2, 2)),
]


@pytest.mark.parametrize("f, shape", WANT_FLOATS, ids=[repr(f) for f, _ in WANT_FLOATS])
@pytest.mark.parametrize("dtype, place", params(["uint8", "int64", "bool", "complex64"], WRITEABLE))
def test_integers_where_floats_are_wanted(dtype, place, f, shape):
    f = place.put(copy.deepcopy(f))

    def good(f=f):
        Y = f(floats(place, *shape))
        return [Y, f.backward(Y)] if "Dropout" not in repr(f) else []

    pieces = "wanted floating-point numbers", f"got {place.stored(dtype)}", 'X.astype("float32") / 255'
    X = place.array(np.ones(shape, dtype))
    assert_refused(f, lambda: f(X), good, dc.DTypeError, *pieces)


@pytest.mark.parametrize("f, shape", WANT_FLOATS, ids=[repr(f) for f, _ in WANT_FLOATS])
@pytest.mark.parametrize("X", [np.full((2, 3), None), np.full((2, 3), "a")], ids=["object", "str"])
def test_arrays_of_no_numbers(X, f, shape):
    with pytest.raises(dc.DTypeError, match=f"floating-point numbers, got ({X.dtype.name})"):
        f(np.resize(X, shape))


@pytest.mark.parametrize("f", [Flatten(), *(f for f, _ in WANT_FLOATS)], ids=repr)
@pytest.mark.parametrize("X", [[[1.0, 2.0, 3.0]], (1.0, 2.0), None, 1.0, "ab"], ids=repr)
def test_what_is_no_array(X, f):
    with pytest.raises(dc.DTypeError, match=f"({type(X).__name__}|array)") as raised:
        f(X)
    assert "deepcore.asarray" in str(raised.value)


# ---- weights that are no floating-point numbers: X would be cut to their dtype


def scale_by(s):
    layer = Scale()
    layer.weight["s"] = s
    return layer


NO_FLOATS = [  # what to put in the place of the weight, what the message calls it
    (np.array([[2]]), "int64"),
    (np.array([[True]]), "bool"),
    (np.array([[2j]], "complex64"), "complex64"),
]


@pytest.mark.parametrize("given", ["float32", "int64"])
@pytest.mark.parametrize("s, got", NO_FLOATS, ids=[got for _, got in NO_FLOATS])
@everywhere
def test_weights_that_are_no_floats(_, place, s, got, given):
    s = place.array(s)
    X = place.array(np.full((2, 3), 1.5), given)
    words = "weight['s'] must be an array of floating-point numbers", f"got {place.stored(got)}", "[[2.0]]"
    for net, where in (
        (scale_by(s), "Scale()"),
        (Net([Flatten(), scale_by(s), place.put(Linear(3, 2))]), "layer 1, Scale()"),
    ):
        before = state(net)
        with pytest.raises(dc.DTypeError) as raised:
            net(X)
        assert str(raised.value).startswith(f"{where}: {words[0]}"), str(raised.value)
        assert [piece for piece in words if piece not in str(raised.value)] == []
        assert state(net) == before
    if given == "float32":
        behind = Net([place.put(Linear(3, 3)), scale_by(s)])
        with pytest.raises(dc.DTypeError, match="layer 1, Scale.*weight.'s'"):
            behind(X)


@everywhere
def test_indices_do_not_excuse_weights_of_integers(_, place):
    layer = place.put(Embedding(3, 2))
    layer.weight["W"] = place.array(np.ones((3, 2), "int64"))
    with pytest.raises(dc.DTypeError, match=r"Embedding\(3, 2\): weight\['W'\] .* got int"):
        layer(place.array(np.array([0, 2])))


@pytest.mark.parametrize("W", [[[1.0]], np.full((1, 1), None)], ids=["list", "object"])
def test_weights_that_are_no_arrays_of_numbers(W):
    with pytest.raises(dc.DTypeError, match=r"weight\['s'\] must be an array .*, got (list|object);"):
        scale_by(W)(np.ones((2, 3), "float32"))


@pytest.mark.parametrize("backend", [p.backend for p in WRITEABLE if p in USABLE and p.device is None])
def test_steps_refuse_weights_of_integers(backend):
    """However the step is made: by fit, compiled, and by hand."""
    net = Net([Linear(3, 2)], loss=MSELoss()).to(backend)
    net.layers[0].weight["W"] = dc.to_backend(np.ones((3, 2), "int64"), backend)
    before, X, Y = state(net), np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    step = net.compile(dc.optim.SGD())
    for train in (
        lambda: net.fit(X, Y, progress=False),
        lambda: step(dc.to_backend(X, backend), dc.to_backend(Y, backend)),
    ):
        with pytest.raises(dc.DTypeError, match=r"layer 0, Linear\(3, 2\): weight\['W'\] must be"):
            train()
        assert state(net) == before


# ---- libraries and dtypes that don't go together


@everywhere
def test_input_of_another_library(_, place):
    other = elsewhere(place)
    net = place.put(Net([Flatten(), Linear(3, 2), Tanh()]))

    def good(f=net):
        Y = f(floats(place, 2, 3))
        return [Y, f.backward(Y)]

    pieces = (
        f"{place.backend!r} arrays",
        f"{other.backend!r} array",
        f"deepcore.to_backend(X, {place.backend!r})",
        f"net.to({other.backend!r})",
    )
    assert_refused(net, lambda: net(floats(other, 2, 3)), good, dc.MixedBackendError, *pieces)


@everywhere
@pytest.mark.parametrize("loss", [CrossEntropyLoss, MSELoss, MeanSquareLoss])
def test_targets_of_another_library(loss, _, place):
    other = elsewhere(place)
    net = place.put(Net([Linear(3, 4)], loss=loss()))
    X, y = floats(place, 3, 3), floats(place, 3, 4)
    pieces = loss.__name__, f"{place.backend!r}", f"{other.backend!r}", "deepcore.to_backend(y, "

    def bad():
        out = net(X)
        try:
            net.loss(out, floats(other, 3, 4))
        finally:
            net.loss(out, y)
            net.backward()

    assert_refused(net, bad, lambda f=net: train_step(f, X, y), dc.MixedBackendError, *pieces)


@everywhere
def test_two_inputs_of_two_libraries(_, place):
    other = elsewhere(place)
    with pytest.raises(dc.MixedBackendError, match=f"{place.backend}.*{other.backend}.*to_backend"):
        Product()(floats(place, 2), floats(other, 2))


@everywhere
def test_weights_in_two_libraries(_, place):
    other = elsewhere(place)
    net = Net([place.put(Linear(3, 3)), other.put(Linear(3, 2))])
    before = state(net)
    with pytest.raises(dc.MixedBackendError, match=rf"layer 1, Linear.*net\.to\('{other.backend}'\)"):
        net(floats(place, 2, 3))
    assert state(net) == before


def test_weights_of_two_dtypes():
    net = Net([Linear(3, 3), Linear(3, 2, dtype="float64")])
    before = state(net)
    with pytest.raises(dc.DTypeError) as raised:
        net(np.ones((2, 3)))
    wanted = "layer 1, Linear(3, 2): its weights are float64, its input is float32; make every layer"
    assert wanted in str(raised.value)
    assert state(net) == before


@pytest.mark.parametrize("dtype, place", params(["float32", "float64"], WRITEABLE))
def test_input_is_cast_to_the_dtype_of_the_weights(dtype, place):
    if dtype not in place.dtypes:
        return
    for given in {"float16", "float32", "float64"} & {
        *place.dtypes,
        *(["float16"] if place.backend == "numpy" else []),
    }:
        net = Net([Linear(3, 4), Tanh(), Linear(4, 2)], loss=MSELoss())
        for layer in (net.layers[0], net.layers[2]):
            layer.weight = {name: W.astype(dtype) for name, W in layer.weight.items()}
        place.put(net)
        out = net(floats(place, 5, 3, dtype=given))
        L = net.loss(out, floats(place, 5, 2, dtype=given))
        dX = net.backward()
        for x in [out, L, dX, *net.gradients().values()]:
            assert dc.to_numpy(x).dtype == dtype
        net.update_weights(lr=0.1)
        assert all(dc.to_numpy(W).dtype == dtype for W in net.parameters().values())


@pytest.mark.parametrize("dtype, place", params(["float32", "float64"], WRITEABLE))
def test_without_weights_the_input_keeps_its_dtype(dtype, place):
    if dtype not in place.dtypes:
        return
    for f in (ReLU(), Sigmoid(), Softmax(), Dropout(), Square(), Net([Tanh(), LeakyReLU()])):
        Y = f(floats(place, 2, 3, dtype=dtype))
        assert dc.to_numpy(Y).dtype == dc.to_numpy(f.backward(Y)).dtype == dtype
    for target in place.dtypes:  # a loss takes X's
        loss = MSELoss()
        L = loss(floats(place, 2, 3, dtype=dtype), floats(place, 2, 3, dtype=target))
        assert dc.to_numpy(L).dtype == dc.to_numpy(loss.backward()).dtype == dtype


WITH_FACTORS = [  # a loss, and which of its arguments is an array
    (CrossEntropyLoss, "weight"),
    (NLLLoss, "weight"),
    (MultiMarginLoss, "weight"),
    (BCELoss, "weight"),
    (BCEWithLogitsLoss, "weight"),
    (BCEWithLogitsLoss, "pos_weight"),
    (MultiLabelSoftMarginLoss, "weight"),
]


@everywhere
@pytest.mark.parametrize("make, name", WITH_FACTORS, ids=[f"{f.__name__}-{name}" for f, name in WITH_FACTORS])
def test_factors_of_a_loss_stay_in_their_library(make, name, _, place):
    other = elsewhere(place)
    X = place.array(np.array([[0.2, 0.6, 0.3], [0.7, 0.1, 0.5]]))
    labelled = "ignore_index" in vars(make()) or make is MultiMarginLoss
    y = place.array(np.array([2, 0]) if labelled else np.eye(3)[:2])
    factors = np.array([1.0, 2.0, 4.0], "float32")
    with dc.use_backend(other.backend):
        here, there = (make(**{name: at.array(factors)}) for at in (place, other))
        numbers = make(**{name: [1.0, 2.0, 4.0]})
    L = place.back(here(X, y))
    for loss in (there, numbers):
        with pytest.raises(dc.MixedBackendError) as raised:
            loss(X, y)
        wanted = (
            make.__name__,
            f"X is a {place.backend!r} array, {name} a {other.backend!r} array",
            f"{name}=deepcore.to_backend({name}, {place.backend!r})",
            f"net.to({place.backend!r})",
        )
        assert [piece for piece in wanted if piece not in str(raised.value)] == [], str(raised.value)
        net = Net([Flatten()], loss=loss).to(place.backend, place.device)
        assert place.back(net.loss(net(X), y)) == L


@pytest.mark.parametrize("s", [0.0, 0.1])
@everywhere
def test_labels_without_weight_have_no_mean(_, place, s):
    """Their smoothed losses are not 0, but what they would be divided by is."""
    X, y = floats(place, 2, 3), place.array(np.array([0, 0]))
    loss = place.put(CrossEntropyLoss(weight=[0.0, 1.0, 2.0], label_smoothing=s))
    assert place.back(loss(X, y)) == 0
    np.testing.assert_array_equal(place.back(loss.backward()), np.zeros((2, 3)))
    assert place.back(loss(X, place.array(np.array([0, 1])))) > 0
    assert abs(place.back(loss.backward())).max() > 0.1


@everywhere
def test_a_net_moves_to_a_device_alone(_, place):
    net = place.put(Net([Linear(3, 2)]))
    device = dc.backend_of(net.layers[0].weight["W"]).device(net.layers[0].weight["W"])
    before = place.back(net.layers[0].weight["W"])
    assert net.to(device=device) is net
    assert place.holds(net.layers[0].weight["W"])
    np.testing.assert_array_equal(place.back(net.layers[0].weight["W"]), before)
    with pytest.raises(dc.ArgumentError, match="Net.to: wanted a backend, a device or both"):
        net.to()


@pytest.mark.parametrize("use", ["predict", "evaluate", "fit"])
def test_several_arrays_are_no_batch(use):
    net, A, y = Net([Linear(3, 2)], loss=MSELoss()), np.ones((2, 3), "float32"), np.ones((2, 2), "float32")
    arguments = ((A, A),) if use == "predict" else ((A, A), y)
    with pytest.raises(dc.DTypeError, match="X: wanted one array, got a tuple of 2; .*inference"):
        getattr(net, use)(*arguments)
    assert net.predict([A[0], A[1]]).shape == (2, 2)  # a list of samples


# ---- learning rates


@everywhere
@pytest.mark.parametrize("lr", [float("nan"), float("inf"), -float("inf"), -0.1, np.float32("nan")])
def test_learning_rates(lr, _, place):
    net = place.put(Net([Linear(3, 4)], loss=CrossEntropyLoss()))
    X, y = floats(place, 3, 3), place.array(np.array([3, 0, 2]))
    pieces = "lr must be a finite number, zero or more", f"{lr}"

    def good(f=net):
        return train_step(f, X, y)

    assert_refused(net, lambda: net.update_weights(lr), good, dc.ArgumentError, *pieces)
    net.update_weights(lr=0.1)  # of the same gradients
    assert all(np.isfinite(place.back(W)).all() for W in net.parameters().values())


# ---- constructors

ONES, SEQUENCE = np.ones((2, 4), "float32"), np.ones((2, 5, 4), "float32")


def with_weight(W):
    layer = Linear(4, 3)
    layer.weight["W"] = W
    return layer(ONES)


CONSTRUCTORS = [  # call, error, pieces of its message
    (lambda: Linear(0, 3), dc.ShapeError, "Linear: in_dim must be an int >= 1, got 0"),
    (lambda: Linear(2, -1), dc.ShapeError, "Linear: out_dim must be an int >= 1, got -1"),
    (lambda: Linear(2.5, 3), dc.ShapeError, "in_dim", "2.5"),
    (lambda: Linear("2", 3), dc.ShapeError, "in_dim", "'2'"),
    (lambda: Linear(2, 3, init="kaiming"), dc.ArgumentError, "init", "he_normal", "'kaiming'"),
    (lambda: Linear(2, 3, init=lambda shape, *fans: np.ones(3)), dc.ShapeError, "(2, 3)", "(3,)"),
    (lambda: Linear(2, 3, dtype="int32"), dc.DTypeError, "Linear: dtype", "int32"),
    (lambda: Conv2D(1, 2, 0), dc.ShapeError, "Conv2D: kernel_size must be an int >= 1 or 2 of them, got 0"),
    (lambda: Conv2D(1, 2, (3, 3, 3)), dc.ShapeError, "kernel_size", "(3, 3, 3)"),
    (lambda: Conv2D(1, 2, 1.5), dc.ShapeError, "kernel_size", "1.5"),
    (lambda: Conv2D(0, 2), dc.ShapeError, "in_channels", "got 0"),
    (lambda: Conv2D(1, 2, stride=0), dc.ShapeError, "stride must be an int >= 1", "got 0"),
    (lambda: Conv2D(1, 2, padding=-1), dc.ShapeError, "padding", "got -1"),
    (lambda: Conv2D(1, 2, padding="valid"), dc.ArgumentError, "padding", '"same"', "'valid'"),
    (lambda: Conv2D(1, 2, padding="same", stride=2), dc.ArgumentError, '"same" needs stride 1', "(2, 2)"),
    (lambda: Conv2D(1, 2, dilation=0), dc.ShapeError, "dilation", "got 0"),
    (lambda: Conv2D(3, 4, groups=2), dc.ArgumentError, "groups must divide", "groups=2 for 3 and 4"),
    (lambda: Conv2D(4, 3, groups=2), dc.ArgumentError, "groups must divide", "groups=2 for 4 and 3"),
    (lambda: Conv2D(4, 4, groups=0), dc.ShapeError, "groups", "got 0"),
    (lambda: MaxPool2D(0), dc.ShapeError, "MaxPool2D: kernel_size", "got 0"),
    (lambda: MaxPool2D(2, 0), dc.ShapeError, "stride", "got 0"),
    (lambda: MaxPool2D(2, padding=-1), dc.ShapeError, "padding", "got -1"),
    (lambda: BatchNorm2D(0), dc.ShapeError, "BatchNorm2D: n_channels", "got 0"),
    (lambda: BatchNorm2D(2, momentum=1.5), dc.ArgumentError, "momentum", "weight of the new batch", "1.5"),
    (lambda: BatchNorm2D(2, momentum=float("nan")), dc.ArgumentError, "momentum", "nan"),
    (lambda: BatchNorm2D(2, epsilon=-1.0), dc.ArgumentError, "epsilon", "-1.0"),
    (
        lambda: Dropout(1.5),
        dc.ArgumentError,
        "Dropout: p, the fraction dropped, must be a number from 0 to 1, got 1.5",
    ),
    (lambda: Dropout("a"), dc.ArgumentError, "Dropout: p", "must be a number from 0 to 1", "'a'"),
    (lambda: LeakyReLU("a"), dc.ArgumentError, "LeakyReLU: alpha must be a number, got 'a'"),
    (
        lambda: Linear(2, 3, init=np.ones((2, 3))),
        dc.DTypeError,
        "Linear: init must be",
        "array",
        'weight["W"]',
    ),
    (lambda: Linear(2, 3, init=init.normal), dc.DTypeError, "Linear: init", "class Normal", "init.normal()"),
    (lambda: Embedding(3, 2, init=3), dc.DTypeError, "Embedding: init", "got 3", "init.constant(value)"),
    (
        lambda: dc.gradcheck(lambda x: x, ONES),
        dc.DTypeError,
        "gradcheck: f must be a Function",
        "write a class",
    ),
    (
        lambda: dc.optim.SGD().step(3),
        dc.DTypeError,
        "SGD.step: wanted the net",
        "got 3",
        "optimizer.step(net)",
    ),
    (lambda: dc.optim.Adam(overrides=3), dc.DTypeError, "Adam: overrides must be a dict", "got 3"),
    (lambda: dc.optim.Adam(overrides={"*": 3}), dc.DTypeError, "Adam: overrides must be a dict", "{'*': 3}"),
    (lambda: dc.optim.Adam(lr=-1), dc.ArgumentError, "Adam: lr must be a finite number", "got -1"),
    (lambda: dc.array_namespace(), dc.DTypeError, "array_namespace: wanted an array", "got none"),
    (lambda: dc.asarray([[1, 2], [3]]), dc.ShapeError, "asarray: ", "ragged list", "pad"),
    (lambda: Concat(ReLU(), ReLU())(ONES, ONES), dc.DTypeError, "Concat(", "takes the inputs (X), got 2"),
    (lambda: Residual(LSTM(4, 4))(ONES, ONES), dc.DTypeError, "Residual(", "takes the inputs (X), got 2"),
    (
        lambda: Net([Linear(4, 4)])(ONES, ONES),
        dc.DTypeError,
        "layer 0, Linear(4, 4): takes the inputs (X), got 2",
        "several outputs of one function",
    ),
    (lambda: Bilinear(3, 3, 2)(ONES), dc.DTypeError, "Bilinear(3, 3, 2): takes the inputs (A, B), got 1"),
    (lambda: MSELoss()(ONES), dc.DTypeError, "MSELoss(): takes the inputs (X, Y), got 1"),
    (
        lambda: Sequential(ReLU(), GRU(4, 4), MultiHeadAttention(4, 2), Bilinear(4, 4, 1))(SEQUENCE),
        dc.DTypeError,
        "function 3, Bilinear(4, 4, 1)",
    ),
    *(
        (
            lambda make=make: make(GRU(4, 4, return_state=True))(SEQUENCE),
            dc.DTypeError,
            make.__name__,
            "each branch must return one array, GRU(4, 4, return_state=True) returned 2",
        )
        for make in (Concat, Add, Residual)
    ),
    (
        lambda: with_weight(np.ones((3, 3), "float32")),
        dc.ShapeError,
        "Linear(4, 3): weight['W'] must be (4, 3), got (3, 3)",
    ),
    (lambda: LeakyReLU("0.1"), dc.ArgumentError, "LeakyReLU: alpha must be a number, got '0.1'"),
    (lambda: LeakyReLU(float("nan")), dc.ArgumentError, "LeakyReLU: alpha must be a number, got nan"),
    (lambda: Softmax(axis=1.5), dc.ArgumentError, "Softmax: axis must be a whole number, got 1.5"),
    (lambda: Concat(Tanh(), axis="a"), dc.ArgumentError, "Concat: axis must be a whole number, got 'a'"),
    (lambda: BatchNorm2D(2, momentum="a"), dc.ArgumentError, "BatchNorm2D: momentum", "from 0 to 1", "'a'"),
    (lambda: BatchNorm2D(2, epsilon="a"), dc.ArgumentError, "BatchNorm2D: epsilon must be", "'a'"),
    (lambda: BatchNorm2D(2, epsilon=float("inf")), dc.ArgumentError, "epsilon must be a finite number"),
    (
        lambda: CrossEntropyLoss(label_smoothing="a"),
        dc.ArgumentError,
        "label_smoothing",
        "from 0 to 1",
        "'a'",
    ),
    (lambda: CrossEntropyLoss(ignore_index="a"), dc.ArgumentError, "CrossEntropyLoss: ignore_index", "'a'"),
    (lambda: CrossEntropyLoss(ignore_index=1.5), dc.ArgumentError, "a whole number, got 1.5"),
    (lambda: NLLLoss(ignore_index=1.5), dc.ArgumentError, "NLLLoss: ignore_index", "a whole number, got 1.5"),
    (lambda: Dropout(-0.1), dc.ArgumentError, "got -0.1"),
    (lambda: Dropout(float("nan")), dc.ArgumentError, "got nan"),
    (
        lambda: CrossEntropyLoss(reduction="avg"),
        dc.ArgumentError,
        "CrossEntropyLoss",
        "mean, sum or none",
        "'avg'",
    ),
    (
        lambda: MSELoss(reduction="avg"),
        dc.ArgumentError,
        "MSELoss: reduction must be mean, sum or none, got 'avg'",
    ),
    (lambda: MeanSquareLoss(reduction=None), dc.ArgumentError, "MeanSquareLoss", "mean, sum or none", "None"),
    (lambda: CrossEntropyLoss(label_smoothing=1.5), dc.ArgumentError, "label_smoothing", "1.5"),
    (lambda: CrossEntropyLoss(label_smoothing=float("nan")), dc.ArgumentError, "label_smoothing", "nan"),
    (lambda: Net([Linear(2, 3), Tanh]), dc.DTypeError, "Net", "number 1", "Tanh", "make an instance of it"),
    (lambda: Net([Linear(2, 3), None]), dc.DTypeError, "Net", "number 1", "None"),
    (lambda: Net([Linear(2, 3)], loss=CrossEntropyLoss), dc.DTypeError, "loss=", "make an instance of it"),
    (lambda: Net([Linear(2, 3)], loss=Tanh()), dc.DTypeError, "loss=", "must be a Loss", "Tanh()"),
    (lambda: Net(Linear(2, 3)), dc.DTypeError, "Net", "Linear(2, 3)"),
    (lambda: Sequential([Tanh()]), dc.DTypeError, "Sequential", "number 0", "[Tanh()]"),
    (lambda: Sequential(3), dc.DTypeError, "Sequential", "3"),
    (lambda: Residual(Tanh), dc.DTypeError, "Residual", "make an instance of it"),
    (lambda: Residual(Tanh(), Tanh), dc.DTypeError, "Residual", "make an instance of it"),
    (lambda: Concat(), dc.DTypeError, "Concat", "at least one"),
    (lambda: Add(), dc.DTypeError, "Add", "at least one"),
    (lambda: Add(Tanh(), "relu"), dc.DTypeError, "Add", "number 1", "'relu'"),
    (lambda: dc.seed(-1), dc.ArgumentError, "seed", "got -1"),
    (lambda: dc.seed(1.5), dc.ArgumentError, "seed", "got 1.5"),
    (lambda: dc.seed(2**64), dc.ArgumentError, "seed", "2**64"),
    (lambda: dc.set_default_dtype("int32"), dc.DTypeError, "float32", "int32"),
    (lambda: dc.asarray("abc"), dc.DTypeError, "wanted numbers", "str"),
    (lambda: init.make("nothing", (1, 1), 1, 1), dc.ArgumentError, "'nothing'"),
]


@pytest.mark.parametrize(
    "call, error, pieces", [(call, error, pieces) for call, error, *pieces in CONSTRUCTORS]
)
def test_arguments(call, error, pieces):
    with pytest.raises(error) as raised:
        call()
    message = str(raised.value)
    assert [piece for piece in pieces if piece not in message] == [], message
    assert isinstance(raised.value, dc.DeepcoreError)


def test_settings_stay_after_a_bad_one():
    for call in (lambda: dc.set_default_dtype("int32"), lambda: dc.set_backend("nump"), lambda: dc.seed(-1)):
        with pytest.raises(dc.DeepcoreError):
            call()
    X = dc.asarray([1.0])
    assert dc.default_dtype() == "float32" and X.dtype == np.float32 and type(X) is np.ndarray


# ---- backends


def _use(name):
    with dc.use_backend(name):
        raise AssertionError("not reached")


@pytest.mark.parametrize("name", ["nump", "", "NumPy", "tensorflow"])
def test_unknown_backends(name):
    net = Net([Linear(3, 2), BatchNorm2D(2)])
    before = state(net)
    calls = [
        lambda: dc.set_backend(name),
        lambda: _use(name),
        lambda: net.to(name),
        lambda: dc.to_backend(np.ones(2), name),
    ]
    for call in calls:
        with pytest.raises(dc.BackendUnavailable, match=f"no backend '{name}'; choose one of: numpy, "):
            call()
    assert state(net) == before
    assert type(dc.asarray([1.0])) is np.ndarray


def test_an_unknown_device():
    net = Net([Linear(3, 2)])
    before = state(net)
    with pytest.raises((dc.DeepcoreError, ValueError), match="gpu9"):
        net.to("numpy", device="gpu9")
    assert state(net) == before


@everywhere
def test_what_gradcheck_cannot_check(_, place):
    with pytest.raises(dc.DTypeError, match=r"gradcheck.* arrays, got list; use deepcore.asarray"):
        dc.gradcheck(Tanh(), [1.0, 2.0])
