"""sample_weight, class_weight, and a training step of the user's own."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, CrossEntropyLoss, Linear, MeanSquareLoss, MSELoss, Net, ShapeError
from deepcore.optim import SGD
from tests.places import EACH_LIBRARY, USABLE

LIBRARIES = [place for place in EACH_LIBRARY if place in USABLE]
each_library = pytest.mark.parametrize("place", LIBRARIES, ids=lambda place: place.name)


def data(n=12, c=3):
    random = np.random.default_rng(0)
    return random.standard_normal((n, 4)).astype("float32"), random.integers(0, c, n)


def net_of(loss, out=3):
    dc.seed(0)
    return Net([Linear(4, out)], loss)


def after(net, X, y, **options):
    net.fit(X, y, optimizer=SGD(0.5), batch_size=len(X), shuffle=False, **options)
    return dc.to_numpy(net.layers[0].weight["W"])


LOSSES = {
    "cross-entropy": (CrossEntropyLoss, None),
    "sum": (lambda: CrossEntropyLoss(reduction="sum"), None),
    "smoothing": (lambda: CrossEntropyLoss(label_smoothing=0.1), None),
    "mean square": (MeanSquareLoss, 3),
    "mse": (MSELoss, 3),
}


@each_library
@pytest.mark.parametrize("kind", LOSSES)
def test_weights_multiply_each_samples_part_of_the_gradient(kind, place):
    """By one sample after the other: the sum of w_i times what each alone would change."""
    make, width = LOSSES[kind]
    X, y = data()
    if width:
        y = np.random.default_rng(1).standard_normal((len(X), width)).astype("float32")
    w = np.random.default_rng(2).uniform(0, 3, len(X))
    start = dc.to_numpy(net_of(make()).layers[0].weight["W"])
    moved = sum(w[i] * (after(net_of(make()), X[i : i + 1], y[i : i + 1]) - start) for i in range(len(X))) / (
        1 if kind == "sum" else len(X)
    )
    got = after(place.put(net_of(make())), X, y, sample_weight=w) - start
    np.testing.assert_allclose(got, moved, rtol=2e-4, atol=1e-6)


def test_equal_weights_change_nothing():
    X, y = data()
    plain = after(net_of(CrossEntropyLoss()), X, y)
    for options in (
        {"sample_weight": np.ones(len(X))},
        {"class_weight": [1, 1, 1]},
        {"class_weight": {1: 1.0}},
    ):
        np.testing.assert_allclose(after(net_of(CrossEntropyLoss()), X, y, **options), plain, rtol=1e-5)


@each_library
@pytest.mark.parametrize("shape", ["(n,)", "(n, 1)"])
def test_class_weights_are_sample_weights_by_label(place, shape):
    X, y = data()
    by_sample = after(net_of(CrossEntropyLoss()), X, y, sample_weight=np.array([0.5, 1, 3])[y])
    labels = y if shape == "(n,)" else y[:, None]
    for given in ([0.5, 1, 3], {0: 0.5, 2: 3}):
        got = after(place.put(net_of(CrossEntropyLoss())), X, labels, class_weight=given)
        np.testing.assert_allclose(got, by_sample, rtol=1e-5)
    both = after(
        place.put(net_of(CrossEntropyLoss())), X, labels,
        sample_weight=np.full(len(X), 2.0), class_weight=[0.25, 0.5, 1.5],
    )  # fmt: skip
    np.testing.assert_allclose(both, by_sample, rtol=1e-5)


def test_weights_follow_their_samples_through_the_shuffle():
    """Samples that weigh nothing can't be told from such that have other features."""
    X, y = data()
    w = (np.arange(len(X)) % 2).astype(float)
    other = np.where(w[:, None] == 0, X + 100, X)
    nets = []
    for features in (X, other):
        net = net_of(CrossEntropyLoss())
        net.fit(features, y, sample_weight=w, batch_size=5, epochs=3, seed=1, optimizer=SGD(0.1))
        nets.append(net.layers[0].weight["W"])
    np.testing.assert_array_equal(*nets)


def test_labels_that_are_ignored_count_for_nothing():
    X, y = data()
    w = np.linspace(0.5, 2, len(X))
    ignored = np.where(np.arange(len(X)) < 4, -100, y)
    kept = after(net_of(CrossEntropyLoss()), X[4:], y[4:], sample_weight=w[4:])
    np.testing.assert_allclose(
        after(net_of(CrossEntropyLoss()), X, ignored, sample_weight=w), kept, rtol=1e-6
    )


def test_weights_over_the_places_of_an_image():
    random = np.random.default_rng(0)
    X, y = random.standard_normal((6, 2, 3, 3)).astype("float32"), random.integers(0, 2, (6, 3, 3))
    w = random.uniform(0.5, 2, 6)

    def trained(**options):
        dc.seed(0)
        net = Net([dc.Conv2D(2, 2, 1)], CrossEntropyLoss())
        return after(net, X, y, **options)

    doubled = trained(sample_weight=2 * w) - trained(sample_weight=0 * w)
    once = trained(sample_weight=w) - trained(sample_weight=0 * w)
    np.testing.assert_allclose(doubled, 2 * once, rtol=1e-4, atol=1e-7)
    none = trained(class_weight=[0, 0])
    twice = trained(class_weight=[2, 2]) - none
    np.testing.assert_allclose(twice, 2 * (trained() - none), rtol=1e-4, atol=1e-7)


def test_accumulated_batches_weigh_as_one():
    X, y = data()
    w = np.linspace(0.1, 2, len(X))
    whole = after(net_of(CrossEntropyLoss()), X, y, sample_weight=w)
    net = net_of(CrossEntropyLoss())
    net.fit(X, y, sample_weight=w, batch_size=5, accumulate=3, shuffle=False, optimizer=SGD(0.5))
    np.testing.assert_allclose(net.layers[0].weight["W"], whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sample_weight": np.ones(3)}, ShapeError, r"one number a sample, \(12,\), got \(3,\)"),
        ({"sample_weight": -np.ones(12)}, ArgumentError, "finite numbers, zero or more"),
        ({"sample_weight": "heavy"}, ArgumentError, "finite numbers, zero or more"),
        ({"class_weight": [1, 2]}, ShapeError, r"one number a class, \(3,\), got \(2,\)"),
        ({"class_weight": {5: 1.0}}, ArgumentError, "names class 5; the classes are 0 to 2"),
        ({"class_weight": {0: np.nan}}, ArgumentError, "class_weight must be finite"),
        ({"precision": "int8"}, ArgumentError, "precision must be"),
        ({"step": 3}, dc.DTypeError, r"step\(net, X, y\) -> loss"),
        ({"step": lambda net, X, y: 1.0}, dc.DTypeError, "must return the loss, a 0-d array"),
    ],
)
def test_wrong_options(options, error, message):
    X, y = data()
    net = net_of(CrossEntropyLoss())
    before = net.state_dict()
    with pytest.raises(error, match=message):
        net.fit(X, y, **options)
    np.testing.assert_array_equal(net.layers[0].weight["W"], before["layers.0.W"])


@pytest.mark.parametrize("option", [{"accumulate": 2}, {"clip_norm": 1.0}, {"class_weight": [1, 1, 1]}])
def test_what_a_step_of_the_users_own_would_ignore_is_refused(option):
    X, y = data()
    with pytest.raises(ArgumentError, match="step makes the whole step itself"):
        net_of(CrossEntropyLoss()).fit(X, y, step=lambda net, X, y: net.loss(net(X), y), **option)


def test_losses_that_cannot_be_weighted():
    X, y = data()
    with pytest.raises(ArgumentError, match="weights of its own"):
        net_of(CrossEntropyLoss(weight=[1.0, 2.0, 3.0])).fit(X, y, class_weight=[1, 1, 1])
    with pytest.raises(ArgumentError, match="need a loss with reduction"):
        net_of(CrossEntropyLoss(reduction="none")).fit(X, y, sample_weight=np.ones(12))
    with pytest.raises(dc.DTypeError, match="class_weight needs class labels"):
        net_of(MSELoss()).fit(X, np.ones((12, 3)), class_weight=[1, 1, 1])
    with pytest.raises(ArgumentError, match="X and y as arrays"):
        net_of(CrossEntropyLoss()).fit([(X, y)], sample_weight=np.ones(12))


@each_library
def test_a_step_of_the_users_own(place):
    X, y = data()
    seen = []

    def step(net, X, y):
        seen.append((place.holds(X), place.holds(y)))
        loss = net.loss(net(X), y)
        net.backward()
        net.update_weights(0.5)
        return loss

    net = place.put(net_of(CrossEntropyLoss()))
    history = net.fit(X, y, step=step, batch_size=4, shuffle=False, epochs=2)
    other = net_of(CrossEntropyLoss())
    right = other.fit(X, y, optimizer=SGD(0.5), batch_size=4, shuffle=False, epochs=2)
    assert seen == [(True, True)] * 6
    np.testing.assert_allclose(
        dc.to_numpy(net.layers[0].weight["W"]), other.layers[0].weight["W"], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(history.history["loss"], right.history["loss"], rtol=1e-4)


def test_a_step_of_the_users_own_needs_no_loss_and_commits_statistics():
    dc.seed(0)
    net = Net([dc.Conv2D(1, 2, 2), dc.BatchNorm2D(2)])

    def step(net, X, y):
        out = net(X)
        net.backward(2 * out / out.size)
        net.update_weights(0.1)
        return dc.array_namespace(out).mean(out * out)

    before = net.layers[1].running_mean
    history = net.fit(np.ones((8, 1, 4, 4), "float32"), np.zeros(8), step=step, batch_size=4)
    assert np.any(net.layers[1].running_mean != before) and list(history.history) == ["loss"]
