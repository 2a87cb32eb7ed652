"""What losses mean beyond torch: targets that are refused, extremes, and training with them."""

import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, DTypeError, LabelError, Linear, Net, ShapeError
from deepcore.optim import SGD
from tests.case import params
from tests.places import EACH_LIBRARY

places = pytest.mark.parametrize("_, place", params(["any"], EACH_LIBRARY))
X = np.linspace(-1, 1, 12).reshape(3, 4).astype("float32")
OF_X = [
    dc.L1Loss,
    dc.SmoothL1Loss,
    dc.HuberLoss,
    dc.BCELoss,
    dc.BCEWithLogitsLoss,
    dc.KLDivLoss,
    dc.PoissonNLLLoss,
    dc.HingeLoss,
    dc.HingeEmbeddingLoss,
    dc.SoftMarginLoss,
    dc.MultiLabelSoftMarginLoss,
    dc.CosineSimilarityLoss,
]
SIGNED = [dc.HingeLoss, dc.HingeEmbeddingLoss, dc.SoftMarginLoss]
OF_FLOATS = [loss for loss in OF_X if loss not in [*SIGNED, dc.MultiLabelSoftMarginLoss]]
LABELLED = [dc.NLLLoss, dc.MultiMarginLoss]


# ---- targets that don't fit


@pytest.mark.parametrize("make", OF_X)
def test_shapes_that_would_broadcast_are_refused(make):
    ones = np.ones((3, 1), "float32")
    for target in (ones[:, 0], ones[:1], np.ones((3, 3), "float32"), np.ones((3, 1, 1), "float32")):
        with pytest.raises(ShapeError, match=r"X and Y must have one shape, got \(3, 1\) and \("):
            make()(ones, target)
    with pytest.raises(ShapeError, match=r"must have one shape, got \(\d+, 1\) and \(6,\)"):
        Net([Linear(2, 1)], make()).fit(np.ones((6, 2)), np.ones(6))


@pytest.mark.parametrize("make", [dc.GaussianNLLLoss, dc.TripletMarginLoss])
def test_a_third_input_must_fit_too(make):
    with pytest.raises(ShapeError):
        make()(X, X, X[:, :3])
    with pytest.raises(ShapeError):
        make()(X, X[:, :3], X)
    with pytest.raises(ShapeError):
        make()(X, X, X[:2])


@pytest.mark.parametrize("make", OF_FLOATS)
def test_integer_targets_are_refused_with_the_remedy(make):
    with pytest.raises(DTypeError, match=r'floating-point numbers, got int64; use y.astype\("float32"\)'):
        make()(X, np.ones((3, 4), "int64"))


@places
@pytest.mark.parametrize("make", SIGNED)
def test_a_class_that_is_no_sign(_, place, make):
    bad = np.array([1.0, -1.0, 0.0])
    for target in (bad, bad.astype("int64")):
        with pytest.raises(LabelError, match=r"targets must be -1 or \+1, got 0(\.0)? in row 2.*2 \* y - 1"):
            make()(place.array(X[:, 0]), place.array(target))
    with pytest.raises(LabelError, match="got 3.0 in row 2"):
        make()(place.array(X), place.array(np.where(X > 0.9, 3.0, 1.0)))
    with pytest.raises(DTypeError, match="got bool"):
        make()(place.array(X), place.array(X > 0))
    with pytest.raises(LabelError, match="got 2 in row 1"):
        dc.CosineSimilarityLoss()(place.array(X), place.array(X), place.array(np.array([1, 2, -1])))


def test_signs_are_checked_before_fit_trains():
    net = Net([Linear(2, 1)], dc.HingeLoss())
    before = {path: W.copy() for path, W in net.parameters().items()}
    y = np.where(np.arange(40) == 37, 0.0, 1.0).reshape(-1, 1)
    with pytest.raises(LabelError, match="got 0.0 in row 37"):
        net.fit(np.ones((40, 2)), y, batch_size=4)
    assert all(np.array_equal(W, before[path]) for path, W in net.parameters().items())


@places
@pytest.mark.parametrize("make", LABELLED)
def test_labels_out_of_range_are_named(_, place, make):
    for y, message in (([0, 4, 1], "got 4 in row 1"), ([0, 1, -2], "got -2 in row 2")):
        with pytest.raises(LabelError, match=f"{make.__name__}: labels must be 0 to 3.*{message}"):
            make()(place.array(X), place.array(np.array(y)))
    with pytest.raises(LabelError, match="labels must be integers, got float32"):
        make()(place.array(X), place.array(np.array([0.0, 1.0, 2.0])))
    with pytest.raises(ShapeError, match="3 rows, but there are 2 targets"):
        make()(place.array(X), place.array(np.array([0, 1])))


def test_only_what_can_be_ignored_is():
    with pytest.raises(LabelError, match="for 4 classes, got -100 in row 0"):
        dc.MultiMarginLoss()(X, np.array([-100, 0, 1]))
    with pytest.raises(LabelError, match=r"\(or ignore_index=-100\), got 5 in row 0"):
        dc.NLLLoss()(X, np.array([5, 0, 1]))


@places
def test_all_ignored_is_zero(_, place):
    f = dc.NLLLoss()
    assert float(f(place.array(X), place.array(np.full(3, -100)))) == 0
    assert not place.back(f.backward()).any()


@pytest.mark.parametrize("library", ["jax", "numpy"])
def test_a_compiled_step_refuses_a_bad_sign(library):
    if library == "jax":
        pytest.importorskip("jax", reason="needs jax, which compiles")
    net = Net([Linear(2, 1)], dc.SoftMarginLoss()).to(library)
    step = net.compile(SGD(0.1))
    X, good, bad = (dc.to_backend(np.array(x, "float32"), library)
                    for x in ([[1, 2], [3, 4]], [[1], [-1]], [[1], [0]]))  # fmt: skip
    assert np.isfinite(float(step(X, good)))
    before = {path: dc.to_numpy(W).copy() for path, W in net.parameters().items()}
    with pytest.raises(LabelError, match="got 0.0 in row 1"):
        step(X, bad)
        step.check()
    assert all(np.array_equal(dc.to_numpy(W), before[path]) for path, W in net.parameters().items())


# ---- settings


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (dc.L1Loss, {"reduction": "avg"}, "L1Loss: reduction must be mean, sum or none, got 'avg'"),
        (dc.L1Loss, {"reduction": "batchmean"}, "must be mean, sum or none"),
        (dc.KLDivLoss, {"reduction": "max"}, "KLDivLoss: reduction must be mean, batchmean, sum or none"),
        (dc.HuberLoss, {"delta": 0}, "HuberLoss: delta must be a finite number above 0, got 0"),
        (dc.SmoothL1Loss, {"beta": -1}, "SmoothL1Loss: beta must be a finite number, 0 or more, got -1"),
        (dc.PoissonNLLLoss, {"eps": 0}, "PoissonNLLLoss: eps must be"),
        (dc.GaussianNLLLoss, {"eps": -1.0}, "GaussianNLLLoss: eps must be"),
        (dc.TripletMarginLoss, {"p": 0.5}, "TripletMarginLoss: p must be a finite number, 1 or more"),
        (dc.TripletMarginLoss, {"p": float("inf")}, "p must be a finite"),
        (dc.TripletMarginLoss, {"margin": float("nan")}, "margin must be a finite number, got nan"),
        (dc.MultiMarginLoss, {"p": 3}, "MultiMarginLoss: p must be 1 or 2, got 3"),
        (dc.HingeEmbeddingLoss, {"margin": "wide"}, "margin must be a finite number, got 'wide'"),
    ],
)
def test_settings_out_of_range(make, settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: dc.HuberLoss(number(0.5)),
        lambda number: dc.SmoothL1Loss(number(0.5)),
        lambda number: dc.PoissonNLLLoss(False, True, number(0.5)),
        lambda number: dc.HingeEmbeddingLoss(number(0.5)),
    ],
)
def test_settings_of_any_number_type_widen_nothing(make):
    f = make(np.float64)
    assert f(np.abs(X) + 1, np.ones_like(X)).dtype == f.backward().dtype == np.float32


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
def test_weights_that_do_not_broadcast(name):
    f = dc.BCEWithLogitsLoss(**{name: [1.0, 2.0, 3.0]})
    with pytest.raises(ShapeError, match=rf"{name} must broadcast to X's shape \(3, 4\), got \(3,\)"):
        f(X, np.ones_like(X))
    with pytest.raises(ShapeError, match=r"must broadcast to X's shape \(1, 3\), got \(2, 3\)"):
        dc.BCELoss(weight=np.ones((2, 3)))(X[:1, :3] ** 2, np.ones((1, 3), "float32"))


def test_settings_are_shown_and_saved(tmp_path):
    loss = dc.BCEWithLogitsLoss(pos_weight=[1.0, 3.0], reduction="sum")
    assert repr(loss) == "BCEWithLogitsLoss(reduction='sum', pos_weight=<float32 (2,)>)"
    net = Net([Linear(3, 2)], loss)
    net.save(tmp_path / "net.dc")
    twin = dc.load(tmp_path / "net.dc")
    assert repr(twin.loss_fn) == repr(loss)
    assert np.array_equal(twin.loss_fn.buffer["pos_weight"], [1.0, 3.0])


# ---- extremes


@pytest.mark.parametrize("size", [20.0, 100.0, 1e4, 3e38])
def test_no_overflow_and_no_lost_digits_at_large_logits(size):
    X, Y = np.array([-size, size, -size, size], "float32"), np.array([1.0, 0.0, 0.0, 1.0], "float32")
    small = np.exp(-size)
    right = [size + small, size + small, np.log1p(small), np.log1p(small)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for f, target in ((dc.BCEWithLogitsLoss(reduction="none"), Y),
                          (dc.SoftMarginLoss("none"), 2 * Y - 1)):  # fmt: skip
            np.testing.assert_allclose(f(X, target), np.float32(right), rtol=3e-7)
            dX = f.backward()
            p = np.float32(small / (1 + small))
            np.testing.assert_allclose(dX, [p - 1, 1 - p, p, -p], rtol=3e-7, atol=1e-38)


def test_bce_outside_of_zero_to_one_is_nan():
    L = dc.BCELoss(reduction="none")(np.array([-0.1, 1.1, 0.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    assert np.isnan(L[:2]).all() and not L[2:].any()


def test_a_logarithm_counts_as_minus_100_at_least():
    X = np.array([0.0, 1e-50, 1e-40])  # log 1e-50 = -115
    np.testing.assert_allclose(dc.BCELoss(reduction="none")(X, np.ones(3)), [100, 100, 40 * np.log(10)])


def test_kl_of_what_is_impossible_for_both_is_zero():
    X, Y = np.array([[-np.inf, 0.0]]), np.array([[0.0, 1.0]])
    with np.errstate(all="raise"):
        assert float(dc.KLDivLoss("sum")(X, Y)) == 0
        assert float(dc.KLDivLoss("sum", log_target=True)(X, np.array([[-np.inf, 0.0]]))) == 0
    assert float(dc.KLDivLoss("sum")(X, Y[:, ::-1])) == np.inf


def test_a_negative_variance_is_nan():
    L = dc.GaussianNLLLoss(reduction="none")(np.ones(3), np.ones(3), np.array([1.0, -1.0, 0.0]))
    assert np.isnan(L[1]) and np.isfinite(L[[0, 2]]).all()


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_cosine_of_vectors_of_any_length(size):
    A, B = np.array([[3.0, 4.0]], "float32"), np.array([[4.0, 3.0]], "float32")
    f = dc.CosineSimilarityLoss()
    assert float(f(A * np.float32(size), B / np.float32(size))) == pytest.approx(0.04, abs=1e-6)
    dX = f.backward()
    wanted = -(B - 0.96 * A) / 25 / size
    np.testing.assert_allclose(dX, wanted, rtol=1e-5)


def test_a_vector_of_no_length_has_no_direction():
    f = dc.CosineSimilarityLoss(reduction="none")
    with np.errstate(all="raise"):
        assert f(np.zeros((1, 3)), np.ones((1, 3)))[0] == 1
        assert not f.backward().any()


@pytest.mark.parametrize("p", [1, 2, 3])
def test_a_triplet_of_one_point_has_no_gradient(p):
    f = dc.TripletMarginLoss(p=p, eps=0)
    A = np.ones((2, 3))
    with np.errstate(all="raise"):
        assert float(f(A, A, A)) == 1
        assert not any(dX.any() for dX in f.backward())


def test_hinge_means_the_margin_of_a_support_vector_machine():
    f = dc.HingeLoss("none")
    L = f(np.array([2.0, 1.0, 0.5, -1.0]), np.array([1, 1, 1, 1]))
    np.testing.assert_array_equal(L, [0, 0, 0.5, 2])
    np.testing.assert_array_equal(f.backward(), [0, 0, -1, -1])


# ---- in a net


@pytest.mark.parametrize(
    ("make", "targets"),
    [
        (dc.L1Loss, lambda s: s),
        (dc.SmoothL1Loss, lambda s: s),
        (dc.HuberLoss, lambda s: s),
        (dc.BCEWithLogitsLoss, lambda s: (s > 0) * 1.0),
        (dc.HingeLoss, np.sign),
        (dc.SoftMarginLoss, np.sign),
        (dc.PoissonNLLLoss, lambda s: np.floor(np.exp(s))),
        (dc.MultiLabelSoftMarginLoss, lambda s: (s > 0) * 1.0),
        (dc.CosineSimilarityLoss, lambda s: s),
        (dc.MultiMarginLoss, lambda s: s.argmax(axis=1)),
    ],
)
def test_a_linear_net_learns_with_it(make, targets):
    dc.seed(0)
    random = np.random.default_rng(0)
    X = random.standard_normal((128, 3))
    y = targets(X @ random.standard_normal((3, 2)))
    net = Net([Linear(3, 2)], make())
    history = net.fit(X, y, epochs=20, batch_size=16, optimizer=dc.optim.Adam(0.05), seed=0)
    first, *_, last = history.history["loss"]
    assert last < first - 0.3 * abs(first)
    assert net.evaluate(X, y)["loss"] == pytest.approx(last, abs=0.05)


@pytest.mark.parametrize("loss", [dc.CrossEntropyLoss, *LABELLED])
def test_an_output_without_classes_is_refused_by_shape(loss):
    with pytest.raises(dc.ShapeError, match=r"X must have shape \(n, c\) or .*, got \(2,\)"):
        loss().check_targets(np.array([0, 1]), (2,))
