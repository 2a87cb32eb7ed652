import itertools

import numpy as np
import pytest

from deepcore.ops import loss as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

# the native kernels, and the references on devices that don't mix
PLACES = ["numpy", "CPU_DEVICE", "device1", "no_float64"]
everywhere = pytest.mark.parametrize("place", PLACES)
in_float64 = pytest.mark.parametrize("place", ["numpy", "reference", "CPU_DEVICE", "device1"])
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])


def run(place, name, *args, **options):
    """L and dX at a place: arrays go there, and the results come back."""
    f = getattr(ops, name)
    if place in ("numpy", "reference"):
        L, dX = (f if place == "numpy" else f.reference)(*args, **options)
        assert isinstance(L, np.ndarray)
        return L, dX
    device = strict.Device(place)
    moved = (strict.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in args)
    results = f(*moved, **options)
    assert {x.device for x in results if x is not None} == {device}
    host = strict.Device("CPU_DEVICE")
    return tuple(None if x is None else np.asarray(x.to_device(host)) for x in results)


def logits(N, C, dtype="float64", size=3.0):
    return (size * np.random.default_rng(0).standard_normal((N, C))).astype(dtype)


def classes(N, C):
    return np.random.default_rng(1).integers(0, C, N)


def exact(X, y, smoothing=0.0):
    """Each row's loss and the gradient of their sum, in extended precision and without cancellation."""
    X = X.astype("longdouble")
    N, C = X.shape
    T = np.full((N, C), np.longdouble(smoothing) / C)
    T[np.arange(N), y] += 1 - np.longdouble(smoothing)
    D = X - X.max(axis=1, keepdims=True)
    E = np.exp(D)
    E[np.arange(N), X.argmax(axis=1)] = 0
    log_P = D - np.log1p(E.sum(axis=1, keepdims=True))
    P, not_P = np.exp(log_P), -np.expm1(log_P)
    return -(T * log_P).sum(axis=1), P * (T.sum(axis=1, keepdims=True) - T) - not_P * T


# ---- cross-entropy: meaning

SETTINGS = list(itertools.product([False, True], [0.0, 0.1], ["mean", "sum", "none"], [-100, 2]))


@in_float64
@pytest.mark.parametrize(("weighted", "smoothing", "reduction", "ignore_index"), SETTINGS)
@pytest.mark.parametrize("probabilities", [False, True], ids=["labels", "probabilities"])
def test_torch_agrees(place, probabilities, weighted, smoothing, reduction, ignore_index):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    N, C = 9, 5
    X, y = logits(N, C), classes(N, C)
    w = np.random.default_rng(2).random(C) if weighted else None
    if probabilities:
        y = np.random.default_rng(3).random((N, C))
    else:
        y[:2] = ignore_index
    x = torch.tensor(X, requires_grad=True)
    right = torch.nn.functional.cross_entropy(
        x,
        torch.tensor(y),
        weight=torch.tensor(w) if weighted else None,
        ignore_index=-100 if probabilities else ignore_index,
        label_smoothing=smoothing,
        reduction=reduction,
    )
    right.sum().backward()
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing, "reduction": reduction}
    L, dX = run(place, "cross_entropy", X, y, w, **options)
    assert L.shape == (() if reduction != "none" else (N,))
    np.testing.assert_allclose(L, right.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dX, x.grad.numpy(), rtol=0, atol=1e-12)
    alone, nothing = run(place, "cross_entropy", X, y, w, **options, gradient=False)
    np.testing.assert_array_equal(alone, L)
    assert nothing is None


@in_float64
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_the_gradient_is_that_of_finite_differences(place, kind, smoothing):
    X, y, h = logits(4, 3), classes(4, 3), 1e-6
    w = np.array([0.5, 2.0, 1.0])
    if kind == "probabilities":
        y = np.random.default_rng(3).random((4, 3))
    _, dX = run(place, "cross_entropy", X, y, w, label_smoothing=smoothing)
    for i in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[i] = h
        ends = [run(place, "cross_entropy", X + s, y, w, label_smoothing=smoothing)[0] for s in (step, -step)]
        assert dX[i] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


@everywhere
@reductions
@pytest.mark.parametrize("weight", [None, np.float32([1, 2, 3])], ids=["plain", "weighted"])
def test_no_target_left_gives_zero(place, reduction, weight):
    """torch gives NaN for the mean."""
    X, y = logits(4, 3, "float32"), np.full(4, -100)
    L, dX = run(place, "cross_entropy", X, y, weight, label_smoothing=0.1, reduction=reduction)
    np.testing.assert_array_equal(L, np.zeros(L.shape))
    np.testing.assert_array_equal(dX, np.zeros((4, 3)))


@everywhere
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_ignored_row_may_hold_anything(place, smoothing):
    X, y = logits(4, 3, "float32"), np.array([0, -100, 2, 1])
    rows = [0, 2, 3]
    right, slope = run(place, "cross_entropy", X[rows], y[rows], label_smoothing=smoothing)
    X[1] = np.nan
    L, dX = run(place, "cross_entropy", X, y, label_smoothing=smoothing)
    np.testing.assert_allclose(L, right, rtol=2e-7)
    np.testing.assert_allclose(dX[rows], slope, rtol=2e-7)
    np.testing.assert_array_equal(dX[1], np.zeros(3))


@everywhere
def test_ignore_index_may_be_a_class_or_none(place):
    X, y = logits(6, 3, "float32"), np.array([0, 1, 2, 0, 1, 2])
    rows = y != 0
    zero, _ = run(place, "cross_entropy", X, y, ignore_index=0)
    assert zero == pytest.approx(run(place, "cross_entropy", X[rows], y[rows])[0], rel=2e-7)
    for a, b in zip(
        run(place, "cross_entropy", X, y, ignore_index=None), run(place, "cross_entropy", X, y), strict=True
    ):
        np.testing.assert_array_equal(a, b)


@everywhere
@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64"])
def test_any_signed_label(place, kind):
    X, y = logits(200, 100, "float32"), classes(200, 100)
    y[3] = -100
    right, _ = run(place, "cross_entropy", X, y)
    assert run(place, "cross_entropy", X, y.astype(kind))[0] == right


@everywhere
def test_a_masked_logit_costs_nothing_unless_it_is_the_target(place):
    X = np.float32([[1, -np.inf, 0], [1, -np.inf, 0]])
    L, dX = run(place, "cross_entropy", X, np.array([0, 1]), reduction="none")
    np.testing.assert_allclose(L, [np.log1p(np.exp(-1)), np.inf], rtol=1e-6)
    p = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(dX, [[p - 1, 0, 1 - p], [p, -1, 1 - p]], rtol=1e-6)
    T = np.float32([[0.5, 0, 0.5]] * 2)
    assert np.isfinite(run(place, "cross_entropy", X, T)[0])


@everywhere
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_go_through(place, value):
    X = logits(3, 4, "float32")
    X[1, 2] = value
    with np.errstate(invalid="ignore"):
        L, dX = run(place, "cross_entropy", X, np.array([0, 1, 2]), reduction="none")
    np.testing.assert_array_equal(np.isnan(L), [False, True, False])
    np.testing.assert_array_equal(np.isnan(dX).all(axis=1), [False, True, False])


# ---- cross-entropy: accuracy


@everywhere
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("d", [10, 15, 20, 30, 80])
def test_a_confident_row_is_right_to_5e_7(place, d, label):
    """p - 1 and -log p keep no digit of a p that rounds to 1."""
    X, y = np.float32([[d, 0, 0]]), np.array([label])
    right, slope = exact(X, y)
    L, dX = run(place, "cross_entropy", X, y)
    assert abs(L / right[0] - 1) <= 5e-7
    assert np.abs(dX / slope - 1).max() <= 5e-7


@everywhere
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("C", [2, 10, 1_000])
@pytest.mark.parametrize("size", [1, 1e2, 1e3, 1e4])
def test_losses_are_right_to_2_5e_7(place, size, C, smoothing):
    X, y = logits(400, C, "float32", size), classes(400, C)
    right, slope = exact(X, y, smoothing)
    L, dX = run(place, "cross_entropy", X, y, label_smoothing=smoothing)
    assert abs(L / right.mean() - 1) <= 2.5e-7
    assert np.abs(400 * dX - slope).max() <= 1e-6


@everywhere
def test_a_mean_over_very_many_rows(place):
    X, y = logits(300_000, 3, "float32", 1), classes(300_000, 3)
    right, _ = exact(X, y)
    assert abs(run(place, "cross_entropy", X, y, gradient=False)[0] / right.mean() - 1) <= 2.5e-7


def test_blocks_of_rows_join():
    """More than one block of 65,536 numbers, the last one not full, is the same as row by row."""
    X, y = logits(700, 300), classes(700, 300)
    y[5:600:7] = -100
    w = np.random.default_rng(2).random(300)
    for weight, smoothing in ((None, 0.0), (w, 0.1)):
        L, dX = ops.cross_entropy(X, y, weight, label_smoothing=smoothing, reduction="none")
        for i in range(700):
            l, dx = ops.cross_entropy(
                X[i : i + 1], y[i : i + 1], weight, label_smoothing=smoothing, reduction="sum"
            )
            assert L[i] == pytest.approx(l, rel=1e-12)
            np.testing.assert_allclose(dX[i : i + 1], dx, rtol=1e-9, atol=1e-15)


# ---- mean square


@in_float64
@reductions
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 3, 2)])
@pytest.mark.parametrize("per", ["element", "row"])
def test_mean_square(place, per, reduction, shape):
    X, Y = np.random.default_rng(0).standard_normal((2, *shape))
    squares = (X - Y) ** 2 if per == "element" else ((X - Y) ** 2).reshape(5, -1).sum(axis=1)
    right = {"none": squares, "sum": squares.sum(), "mean": squares.mean()}[reduction]
    L, dX = run(place, "mean_square", X, Y, per=per, reduction=reduction)
    assert L.shape == right.shape
    np.testing.assert_allclose(L, right, rtol=1e-14)
    n = squares.size if reduction == "mean" else 1
    np.testing.assert_allclose(dX, 2 * (X - Y) / n, rtol=1e-14)
    assert run(place, "mean_square", X, Y, per=per, reduction=reduction, gradient=False)[1] is None


@everywhere
@pytest.mark.parametrize("per", ["element", "row"])
def test_a_mean_square_over_very_many_samples(place, per):
    X = np.random.default_rng(0).random((1_250_000, 1), dtype="float32")
    right = np.square(X, dtype="float64").mean()
    L, _ = run(place, "mean_square", X, np.zeros_like(X), per=per, gradient=False)
    assert abs(L / right - 1) <= 2.5e-7


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_mean_square_loss_of_torch_is_the_one_per_element(reduction):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    X, Y = np.random.default_rng(0).standard_normal((2, 4, 3))
    x = torch.tensor(X, requires_grad=True)
    right = torch.nn.functional.mse_loss(x, torch.tensor(Y), reduction=reduction)
    right.sum().backward()
    L, dX = ops.mean_square(X, Y, reduction=reduction)
    np.testing.assert_allclose(L, right.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(dX, x.grad.numpy(), rtol=1e-14)


# ---- both


def test_the_largest_numbers_give_no_warning():
    big = np.finfo("float32").max
    X, y = np.float32([[-big, 0, big], [0, 0, big]]), np.array([0, 2])
    for options in ({}, {"label_smoothing": 0.1}, {"weight": np.ones(3, "float32")}):
        L, dX = ops.cross_entropy(X, y, reduction="none", **options)
        assert L[0] >= big
        assert np.isfinite(dX).all()
    L, dX = ops.mean_square(X, -X)
    assert np.isposinf(L)
    assert not np.isnan(dX).any()


def test_float16_is_summed_in_float32():
    """4,000 squares of 8 add up to 256,000, and half of a million equal classes share log 5e5."""
    X = np.full((4_000, 1), 8, "float16")
    L, dX = ops.mean_square(X, np.zeros_like(X))
    assert (L.dtype, dX.dtype, float(L)) == (X.dtype, X.dtype, 64)
    L, dX = ops.cross_entropy(np.zeros((2, 500_000), "float16"), np.array([3, 5]))
    assert (L.dtype, dX.dtype) == (np.float16, np.float16)
    assert float(L) == pytest.approx(np.log(5e5), rel=1e-3)


def test_no_rows():
    X, y = np.zeros((0, 3), "float32"), np.zeros(0, "int64")
    for options in ({}, {"label_smoothing": 0.1}):
        L, dX = ops.cross_entropy(X, y, **options)
        assert (L.shape, float(L), dX.shape, dX.dtype) == ((), 0, (0, 3), X.dtype)
    for per in ("row", "element"):
        L, dX = ops.mean_square(X, X, per=per)
        assert (L.shape, float(L), dX.shape) == ((), 0, (0, 3))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_layouts_give_the_same_bits_and_inputs_stay_as_they_are(kind, smoothing):
    X = logits(60, 60, "float32")
    y = classes(60, 60) if kind == "labels" else np.random.default_rng(1).random((60, 60), dtype="float32")
    for view in (X.T, X[::-1, ::-1], np.asfortranarray(X), np.broadcast_to(X[0], (60, 60))):
        view.flags.writeable = y.flags.writeable = False
        copy, before = np.ascontiguousarray(view).copy(), y.copy()
        for place in ("numpy", "reference"):
            results = run(place, "cross_entropy", view, y, label_smoothing=smoothing)
            rights = run(place, "cross_entropy", copy, y, label_smoothing=smoothing)
            for a, b in zip(results, rights, strict=True):
                np.testing.assert_array_equal(a, b)
        if kind == "probabilities":
            for per, reduction in itertools.product(["row", "element"], ["mean", "none"]):
                results = ops.mean_square(view, y, per=per, reduction=reduction)
                rights = ops.mean_square(copy, y, per=per, reduction=reduction)
                for a, b in zip(results, rights, strict=True):
                    np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(view, copy)
        np.testing.assert_array_equal(y, before)
