import numpy as np
import pytest
from scipy import special

from deepcore.ops import activation as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

SLOPES = [-0.5, 0.0, 0.01, 1.0, 3.0]
# the native kernels, and the references on devices that don't mix
everywhere = pytest.mark.parametrize("place", ["numpy", "CPU_DEVICE", "device1", "no_float64"])
either = pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])

# op -> its value in float64
DEFINITIONS = {
    "relu": lambda x: np.where(x > 0, x, 0),
    "relu_grad": lambda x: np.where(x > 0, 1, 0),
    "sigmoid": special.expit,
    "sigmoid_grad": lambda x: special.expit(x) * special.expit(-x),
    "tanh": np.tanh,
    "tanh_grad": lambda x: 4 * special.expit(2 * x) * special.expit(-2 * x),
}
DERIVATIVES = {"relu": "relu_grad", "sigmoid": "sigmoid_grad", "tanh": "tanh_grad"}


def run(place, name, *args):
    """An op at a place: arrays go there, and the result comes back."""
    if place == "numpy":
        return getattr(ops, name)(*args)
    device = strict.Device(place)
    moved = (strict.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in args)
    Y = getattr(ops, name)(*moved)
    assert Y.device == device
    return np.asarray(Y.to_device(strict.Device("CPU_DEVICE")))


def op(name, reference):
    return getattr(ops, name).reference if reference else getattr(ops, name)


def numbers(dtype="float64", shape=(40, 30), size=3.0):
    return (size * np.random.default_rng(0).standard_normal(shape)).astype(dtype)


@everywhere
@pytest.mark.parametrize("name", DEFINITIONS)
def test_values(place, name):
    X = numbers("float32")
    np.testing.assert_allclose(run(place, name, X), DEFINITIONS[name](X.astype("float64")), rtol=1e-6)


@everywhere
@pytest.mark.parametrize("alpha", SLOPES)
def test_leaky_relu_of_any_slope(place, alpha):
    X = numbers("float32")
    X[0, :3] = 0, 2, -2
    np.testing.assert_array_equal(
        run(place, "leaky_relu", X, alpha), np.where(X > 0, X, np.float32(alpha) * X)
    )
    slope = np.where(X > 0, np.float32(1), np.float32(alpha))
    np.testing.assert_array_equal(run(place, "leaky_relu_grad", X, alpha), slope)


@either
@pytest.mark.parametrize(("name", "slope"), DERIVATIVES.items())
def test_gradients_are_those_of_finite_differences(name, slope, reference):
    X = numbers()
    h = 1e-6
    difference = (op(name, reference)(X + h) - op(name, reference)(X - h)) / (2 * h)
    np.testing.assert_allclose(op(slope, reference)(X), difference, rtol=0, atol=1e-9)


@everywhere
def test_relu_backward_is_zero_where_X_is_not_positive(place):
    X = np.array([-1, -0.0, 0, 1e-40, 2, -np.inf, np.inf], "float32")
    dY = np.array([np.inf, -np.inf, np.nan, 3, -np.inf, np.nan, 5], "float32")
    np.testing.assert_array_equal(
        run(place, "relu_backward", dY, X), np.array([0, 0, 0, 3, -np.inf, 0, 5], "float32")
    )


@everywhere
def test_the_gradients_of_relu_agree(place):
    X, dY = numbers("float32"), numbers("float32", size=1)[::-1].copy()
    np.testing.assert_array_equal(run(place, "relu_backward", dY, X), dY * run(place, "relu_grad", X))


@everywhere
def test_sigmoid_is_right_to_3e_7_from_minus_110_to_110(place):
    X = np.linspace(-110, 110, 400_001).astype("float32")
    right = special.expit(X.astype("float64"))
    normal = right >= np.finfo("float32").tiny
    Y = run(place, "sigmoid", X)
    assert np.abs(Y / right - 1)[normal].max() <= 3e-7
    assert (Y[~normal] <= np.finfo("float32").tiny).all()


@everywhere
@pytest.mark.parametrize("name", ["sigmoid_grad", "tanh_grad"])
def test_slopes_keep_their_digits_in_the_tails(place, name):
    """1 - Y^2 is 0 from 9 on."""
    X = np.linspace(-50, 50, 200_001).astype("float32")
    right = DEFINITIONS[name](X.astype("float64"))
    normal = right >= np.finfo("float32").tiny
    assert np.abs(run(place, name, X) / right - 1)[normal].max() <= 6e-7


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", DEFINITIONS)
def test_the_largest_numbers_give_no_warning(name, dtype):
    big = np.finfo(dtype).max
    X = np.array([-big, -1, 0, 1, big], dtype)
    Y = getattr(ops, name)(X)
    assert Y.dtype == X.dtype
    with np.errstate(over="ignore"):
        right = DEFINITIONS[name](X.astype("float64"))
    np.testing.assert_allclose(Y, right, rtol=4 * np.finfo(dtype).eps)


def test_a_steep_leaky_relu_overflows_without_a_warning():
    X = np.array([-3e38, 3e38], "float32")
    np.testing.assert_array_equal(ops.leaky_relu(X, 2.0), np.array([-np.inf, 3e38], "float32"))


@everywhere
@pytest.mark.parametrize("name", ["relu", "sigmoid", "sigmoid_grad", "tanh", "tanh_grad"])
def test_nan_goes_through(place, name):
    Y = run(place, name, np.array([np.nan, 1], "float32"))
    assert np.isnan(Y[0])
    assert not np.isnan(Y[1])


@pytest.mark.parametrize("alpha", SLOPES)
def test_leaky_relu_of_nan_and_infinity(alpha):
    with np.errstate(invalid="ignore"):
        Y = ops.leaky_relu(np.array([np.nan, np.inf, -np.inf], "float32"), alpha)
        np.testing.assert_array_equal(Y, [np.nan, np.inf, alpha * -np.inf])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4, 2)], ids=str)
def test_every_shape_and_dtype(shape, dtype):
    X = np.asarray(numbers(dtype, shape))
    for name in DEFINITIONS:
        Y = getattr(ops, name)(X)
        assert (Y.shape, Y.dtype) == (shape, X.dtype), name
        right = DEFINITIONS[name](X.astype("float64"))
        close = {"rtol": 8 * np.finfo(dtype).eps, "atol": np.finfo(dtype).smallest_subnormal}
        np.testing.assert_allclose(Y, right, **close)
    for Y in (ops.relu_backward(X, X), ops.leaky_relu(X, 0.1), ops.leaky_relu_grad(X, 0.1)):
        assert (Y.shape, Y.dtype) == (shape, X.dtype)


@pytest.mark.parametrize("name", [*DEFINITIONS, "leaky_relu", "leaky_relu_grad", "relu_backward"])
def test_layouts_give_the_same_bits_and_inputs_stay_as_they_are(name):
    f = getattr(ops, name)
    X = numbers("float32", (12, 10))
    for view in (X.T, X[::-1, ::-2], X[::3], np.asfortranarray(X), np.broadcast_to(X[0], (4, 10))):
        view.flags.writeable = False
        rest = (0.1,) if "leaky" in name else (view,) if name == "relu_backward" else ()
        copies = (np.ascontiguousarray(r) if isinstance(r, np.ndarray) else r for r in rest)
        before = view.copy()
        np.testing.assert_array_equal(f(view, *rest), f(np.ascontiguousarray(view), *copies))
        np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_torch_agrees(name):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    X, dY = numbers(), numbers()[::-1].copy()
    x = torch.tensor(X, requires_grad=True)
    y = getattr(torch, name)(x)
    y.backward(torch.tensor(dY))
    np.testing.assert_allclose(run("numpy", name, X), y.detach().numpy(), rtol=0, atol=1e-12)
    slope = run("numpy", DERIVATIVES[name], X)
    np.testing.assert_allclose(dY * slope, x.grad.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_of_gelu(threads, monkeypatch):
    """Many blocks, the last one smaller, give the bits that one would."""
    from deepcore.backends.numpy import gelu as native

    X = numbers("float32", (7, 31))
    whole = native.gelu(X), native.gelu_grad(X)
    monkeypatch.setattr(native.threads, "count", lambda: threads)
    monkeypatch.setattr(native, "_BLOCK", 20)
    monkeypatch.setattr(native, "_SHARE", 50)
    for got in ((native.gelu(X), native.gelu_grad(X)), native.gelu_and_slope(X)):
        np.testing.assert_array_equal(got, whole)
