"""Every activation beside torch's own, and its settings: values and gradients, at kinks and far out too."""

import numpy as np
import pytest

import deepcore as dc

torch = pytest.importorskip("torch", reason="torch is the peer compared with")
nn = torch.nn

PAIRS = [  # ours, torch's
    (dc.ReLU(), nn.ReLU()),
    (dc.LeakyReLU(), nn.LeakyReLU()),
    (dc.LeakyReLU(0.3), nn.LeakyReLU(0.3)),
    (dc.ReLU6(), nn.ReLU6()),
    (dc.HardTanh(), nn.Hardtanh()),
    (dc.HardTanh(-2, 0.5), nn.Hardtanh(-2, 0.5)),
    (dc.HardSigmoid(), nn.Hardsigmoid()),
    (dc.HardSwish(), nn.Hardswish()),
    (dc.Threshold(0.5, 20), nn.Threshold(0.5, 20)),
    (dc.Threshold(threshold=-1, value=3), nn.Threshold(threshold=-1, value=3)),
    (dc.HardShrink(), nn.Hardshrink()),
    (dc.HardShrink(lambd=2), nn.Hardshrink(lambd=2)),
    (dc.SoftShrink(), nn.Softshrink()),
    (dc.SoftShrink(lambd=2), nn.Softshrink(lambd=2)),
    (dc.TanhShrink(), nn.Tanhshrink()),
    (dc.Softsign(), nn.Softsign()),
    (dc.ELU(), nn.ELU()),
    (dc.ELU(0.3), nn.ELU(0.3)),
    (dc.CELU(), nn.CELU()),
    (dc.CELU(2.5), nn.CELU(2.5)),
    (dc.CELU(-2.5), nn.CELU(-2.5)),
    (dc.SELU(), nn.SELU()),
    (dc.Softplus(), nn.Softplus()),
    (dc.Softplus(3), nn.Softplus(3)),
    (dc.Softplus(0.5, 1), nn.Softplus(0.5, 1)),
    (dc.Softplus(beta=-1, threshold=2), nn.Softplus(beta=-1, threshold=2)),
    (dc.Sigmoid(), nn.Sigmoid()),
    (dc.LogSigmoid(), nn.LogSigmoid()),
    (dc.Tanh(), nn.Tanh()),
    (dc.SiLU(), nn.SiLU()),
    (dc.Mish(), nn.Mish()),
    (dc.GELU(), nn.GELU()),
    (dc.GELU(approximate="tanh"), nn.GELU(approximate="tanh")),
    *[(dc.Softmax(axis), nn.Softmax(axis)) for axis in (-1, 1, 0)],
    *[(dc.Softmin(axis), nn.Softmin(axis)) for axis in (-1, 1, 0)],
    *[(dc.LogSoftmax(axis), nn.LogSoftmax(axis)) for axis in (-1, 1, 0)],
    *[(dc.GLU(axis), nn.GLU(axis)) for axis in (-1, 1, -2)],
    (dc.PReLU(), nn.PReLU()),
    (dc.PReLU(init=0.375), nn.PReLU(init=0.375)),
    (dc.PReLU(num_parameters=6, init=-0.125), nn.PReLU(num_parameters=6, init=-0.125)),
]
each = pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=[repr(ours) for ours, _ in PAIRS])
KINKS = [-6, -3, -2.5, -2, -1, -0.5, -0.0, 0, 0.5, 1, 2, 3, 6, 20]


def close(got, wanted, dtype):
    rtol, atol = (1e-7, 1e-9) if dtype == "float64" else (1.3e-6, 1e-5)
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_are_torchs(ours, theirs, dtype):
    random = np.random.default_rng(0)
    X = (3 * random.standard_normal((8, 6, 4))).astype(dtype)
    X.ravel()[: len(KINKS)] = KINKS
    X.ravel()[20:26] = -90, -40, -15, 15, 40, 90
    dY = random.standard_normal((8, 6, 4)).astype(dtype)
    if dtype == "float64" and isinstance(ours, dc.PReLU):
        ours = dc.PReLU(ours.num_parameters, ours.init, dtype="float64")
    theirs = theirs.to(getattr(torch, dtype))
    x = torch.tensor(X, requires_grad=True)
    y = theirs(x)
    Y = ours(X)
    dY = np.broadcast_to(dY.reshape(-1)[: Y.size].reshape(Y.shape), Y.shape)
    theirs.zero_grad()
    y.backward(torch.tensor(dY.copy()))
    close(Y, y.detach().numpy(), dtype)
    close(ours.backward(dY), x.grad.numpy(), dtype)
    if isinstance(ours, dc.PReLU):
        close(ours.weight_update["alpha"], theirs.weight.grad.numpy(), dtype)


@each
def test_nan_and_infinity_give_what_torch_gives(ours, theirs):
    """But for GELU of infinity, which is infinity: torch's fast kernel says NaN."""
    X = np.array([np.nan, np.inf, -np.inf, 1, 2, 3], "float32")
    with torch.no_grad():
        if "dim" in vars(theirs):
            x = np.tile(X, (4, 4, 1)) if theirs.dim == -1 else np.tile(X[:, None, None], (1, 6, 4))
        else:
            x = np.tile(X, (2, 6, 1))
        wanted = theirs.float()(torch.tensor(x)).numpy()
    with np.errstate(all="ignore"):
        got = ours(x)
    if repr(ours) == "GELU()":
        wanted[x == np.inf] = np.inf
    np.testing.assert_allclose(got, wanted, rtol=1.3e-6, atol=1e-6)


BAD = [
    (lambda: dc.GELU("erf"), 'GELU: approximate must be "none" or "tanh", got \'erf\''),
    (lambda: dc.CELU(0), "CELU: alpha must be a number other than 0, got 0"),
    (lambda: dc.Softplus(beta=0), "Softplus: beta must be a number other than 0, got 0"),
    (lambda: dc.ELU("a"), "ELU: alpha must be a number, got 'a'"),
    (lambda: dc.Threshold(float("nan"), 0), "Threshold: threshold must be a number, got nan"),
    (lambda: dc.SoftShrink(-1), "SoftShrink: lambd must be a number, 0 or more, got -1"),
    (lambda: dc.HardShrink(-1), "HardShrink: lambd must be a number, 0 or more, got -1"),
    (lambda: dc.HardTanh(1, 1), "HardTanh: min_val must be less than max_val, got 1 and 1"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(dc.ArgumentError) as error:
        make()
    assert str(error.value) == message


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(dc.ShapeError, match=r"GLU\(\): X must be even along axis -1, got \(2, 3\)"):
        dc.GLU()(np.ones((2, 3)))
    for f in (dc.GLU(2), dc.Softmin(-3), dc.LogSoftmax(2)):
        with pytest.raises(dc.ShapeError, match=r"there is no axis -?\d in X of shape \(2, 4\)"):
            f(np.ones((2, 4)))
    layer = dc.PReLU(3)
    with pytest.raises(dc.ShapeError, match=r"PReLU\(num_parameters=3\): X must have 3 channels on axis 1"):
        layer(np.ones((3, 4), "float32"))
    with pytest.raises(dc.ShapeError, match="PReLU: num_parameters must be an int >= 1, got 0"):
        dc.PReLU(0)


@pytest.mark.parametrize("make", [dc.Softmin, dc.LogSoftmax])
def test_no_local_grad_where_it_would_be_a_whole_jacobian(make):
    with pytest.raises(dc.UnsupportedError, match="has no local gradient"):
        make().local_grad(np.ones((2, 3)))


def test_settings_of_numpy_widen_nothing():
    X = np.ones((2, 3), "float32")
    two = np.float64(2)
    for f in (dc.ELU(two), dc.CELU(two), dc.HardTanh(-two, two), dc.Threshold(two, two), dc.SoftShrink(two)):
        assert f(X).dtype == f.backward(X).dtype == np.float32


def test_prelu_starts_as_it_is_told_and_comes_back_from_a_description():
    from deepcore.io.architecture import build, describe

    assert dc.PReLU().weight["alpha"] == np.float32(0.25)
    assert (dc.PReLU(2, init="zeros").weight["alpha"] == 0).all()
    assert repr(build(describe(dc.PReLU(2, init=0.1)))) == "PReLU(num_parameters=2, init=0.1)"


def test_gelu_leaves_its_local_gradient_beside_the_output():
    """Most of the work is the same; but not where nobody differentiates."""
    f, X = dc.GELU(), np.linspace(-3, 3, 7)
    f(X)
    np.testing.assert_array_equal(f._record.grad["X"], f.local_grad(X)["X"])
    np.testing.assert_array_equal(f.backward(X), X * f.local_grad(X)["X"])
    with dc.inference():
        np.testing.assert_array_equal(f(X), f.forward(X))
    f.forward(X[:2])
    assert f.grad["X"].shape == X.shape  # of the recorded call, not of the direct one
