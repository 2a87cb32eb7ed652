import numpy as np
import pytest

from deepcore.ops import softmax as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

# the native kernels, and the references on devices that don't mix
everywhere = pytest.mark.parametrize("place", ["numpy", "CPU_DEVICE", "device1", "no_float64"])
axes = pytest.mark.parametrize(("shape", "axis"), [((5, 7), -1), ((5, 7), 0), ((3, 4, 2, 3), 1), ((6,), 0)])


def run(place, name, *args):
    """An op at a place: arrays go there, and the result comes back."""
    if place == "numpy":
        return getattr(ops, name)(*args)
    device = strict.Device(place)
    moved = (strict.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in args)
    Y = getattr(ops, name)(*moved)
    assert Y.device == device
    return np.asarray(Y.to_device(strict.Device("CPU_DEVICE")))


def numbers(shape, dtype="float64", size=3.0):
    return (size * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def log_probabilities(X, axis=-1):
    """In extended precision; where one entry is the largest, by the logarithm of 1 + the others' sum."""
    X = np.moveaxis(X, axis, -1).astype("longdouble")
    top = X.argmax(axis=-1)[..., None]
    D = X - X.max(axis=-1, keepdims=True)
    E = np.exp(D)
    np.put_along_axis(E, top, 0, axis=-1)
    return np.moveaxis(D - np.log1p(E.sum(axis=-1, keepdims=True)), -1, axis)


@everywhere
@axes
def test_values(place, shape, axis):
    X = numbers(shape, "float32")
    log_P = log_probabilities(X, axis)
    np.testing.assert_allclose(run(place, "softmax", X, axis), np.exp(log_P), rtol=2e-6)
    np.testing.assert_allclose(run(place, "log_softmax", X, axis), log_P, rtol=2e-6)


@axes
@pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gradients_are_those_of_finite_differences(name, reference, shape, axis):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    if reference:
        forward, backward = forward.reference, backward.reference
    X, dY, h = numbers(shape), numbers(shape)[::-1].copy(), 1e-6
    dX = np.empty(shape)
    for i in np.ndindex(*shape):
        step = np.zeros(shape)
        step[i] = h
        dX[i] = ((forward(X + step, axis) - forward(X - step, axis)) * dY).sum() / (2 * h)
    np.testing.assert_allclose(backward(dY, forward(X, axis), axis), dX, rtol=0, atol=2e-8)


@everywhere
@pytest.mark.parametrize("C", [1_000, 50_000])
def test_softmax_is_right_to_1e_6_and_its_rows_sum_to_1(place, C):
    X = numbers((2_000_000 // C, C), "float32", size=1)
    P = run(place, "softmax", X)
    assert np.abs(P / np.exp(log_probabilities(X)) - 1).max() <= 1e-6
    assert np.abs(P.sum(axis=1, dtype="float64") - 1).max() <= 3e-7


def test_rows_sum_to_1_whatever_the_logits():
    """NumPy adds in float64: in float32 these sums are off by 5e-7."""
    for size in (3, 10):
        P = ops.softmax(numbers((5_000, 1_000), "float32", size))
        assert np.abs(P.sum(axis=1, dtype="float64") - 1).max() <= 3e-7


@everywhere
def test_softmax_of_many_channels_that_are_not_the_last_axis(place):
    X = numbers((4, 1_000, 50), "float32", size=1)
    P = run(place, "softmax", X, 1)
    assert np.abs(P / np.exp(log_probabilities(X, 1)) - 1).max() <= 1e-6
    assert np.abs(P.sum(axis=1, dtype="float64") - 1).max() <= 3e-7


@everywhere
def test_log_softmax_far_from_zero_is_right_to_one_and_a_half_units(place):
    X = (1e4 + numbers((500, 1_000), size=1)).astype("float32")
    right = log_probabilities(X)
    unit = np.spacing(np.abs(right).astype("float32"))
    assert (np.abs(run(place, "log_softmax", X) - right) / unit).max() <= 1.5


@everywhere
def test_log_softmax_near_zero_keeps_its_digits(place):
    """Logits of 1e4, and rows whose top stands 5 to 80 above the rest: log sum e^X rounds to 0 there."""
    X = numbers((20_000, 10), "float32", size=1e4)
    close = np.repeat(np.float32([[0, 0, 0]]), 76, axis=0)
    close[:, 1] = np.arange(5, 81)
    for logits in (X, close):
        right = log_probabilities(logits)
        normal = np.abs(right) >= np.finfo("float32").tiny
        Y = run(place, "log_softmax", logits)
        assert np.abs(Y / np.where(normal, right, 1) - 1)[normal].max() <= 2.5e-7
        assert (np.abs(Y[~normal]) <= np.finfo("float32").tiny).all()


@everywhere
def test_masked_entries_get_no_probability_and_rows_without_one_give_nan(place):
    X = np.float32([[0, -np.inf, 0], [5, -np.inf, -np.inf], [-np.inf] * 3, [0, np.nan, 1], [0, np.inf, 1]])
    with np.errstate(invalid="ignore"):
        P, log_P = run(place, "softmax", X), run(place, "log_softmax", X)
    np.testing.assert_array_equal(P, [[0.5, 0, 0.5], [1, 0, 0], *[[np.nan] * 3] * 3])
    np.testing.assert_array_equal(np.exp(log_P[1:]), P[1:])
    np.testing.assert_allclose(log_P[0], [-np.log(2), -np.inf, -np.log(2)], rtol=1e-7)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_the_largest_numbers_give_no_warning(name):
    big = np.finfo("float32").max
    Y = getattr(ops, name)(np.float32([[-big, 0, big], [big, big, big]]))
    assert not np.isnan(Y).any()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_backward", "log_softmax_backward"])
def test_shapes_dtypes_and_layouts(name):
    f = getattr(ops, name)
    n = 1 + name.endswith("backward")
    for shape in [(0, 3), (3, 0), (2, 0, 4)]:
        for axis in range(len(shape)):
            assert f(*[np.zeros(shape, "float32")] * n, axis).shape == shape
    X = numbers((4, 6), "float32")
    for dtype in ("float16", "float32", "float64"):
        Y = f(*[X.astype(dtype)] * n)
        assert Y.dtype == dtype
        np.testing.assert_allclose(Y, f(*[X.astype("float16").astype("float64")] * n), rtol=0.02, atol=0.02)
    for view in (X.T, X[::-1, ::-2], np.asfortranarray(X), np.broadcast_to(X[0], (4, 6))):
        view.flags.writeable = False
        for axis in (0, 1):
            copy = view.copy(order="C")
            np.testing.assert_array_equal(f(*[view] * n, axis), f(*[copy] * n, axis))
            np.testing.assert_array_equal(view, copy)


def test_float16_is_summed_in_float32():
    """100,000 entries: their sum overflows in float16, and stops at 2,048 if added one by one."""
    X = np.zeros((2, 100_000), "float16")
    np.testing.assert_allclose(ops.softmax(X), 1e-5, rtol=0.01)
    np.testing.assert_allclose(ops.log_softmax(X), -np.log(1e5), rtol=1e-3)


@axes
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_torch_agrees(name, shape, axis):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    X, dY = numbers(shape), numbers(shape)[::-1].copy()
    x = torch.tensor(X, requires_grad=True)
    y = getattr(torch, name)(x, dim=axis)
    y.backward(torch.tensor(dY))
    Y = getattr(ops, name)(X, axis)
    np.testing.assert_allclose(Y, y.detach().numpy(), rtol=0, atol=1e-12)
    dX = getattr(ops, f"{name}_backward")(dY, Y, axis)
    np.testing.assert_allclose(dX, x.grad.numpy(), rtol=0, atol=1e-12)
