"""The rows of NUMERICS that can be reached through a Net: accuracy that a user would see."""

import warnings

import numpy as np
import pytest

import deepcore as dc
from deepcore import BatchNorm2D, CrossEntropyLoss, Linear, MeanSquareLoss, Net

BACKENDS = ["numpy", "array_api_strict"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    pytest.importorskip(request.param, reason=f"needs {request.param}")
    with dc.use_backend(request.param):
        yield request.param


def numpy(x):
    """The numbers in float64, as they are."""
    return dc.to_numpy(x).astype("float64")


# ---- BatchNorm on data far from zero


def standardised(X, epsilon=1e-5):
    """The definition, in float64, of the float32 numbers that the layer gets."""
    X = X.astype("float64")
    mean, var = X.mean(axis=0, keepdims=True), X.var(axis=0, keepdims=True)
    return (X - mean) / np.sqrt(var + epsilon), mean, var


@pytest.mark.parametrize("offset", [0, 1e4, 1e6])
def test_batch_norm_far_from_zero(backend, offset):
    """4096 x 32 numbers around 1e6: 2e-6, where torch and two-pass float32 are off by 5.2."""
    X = (offset + np.random.default_rng(0).standard_normal((4096, 32, 1, 1))).astype("float32")
    H, mean, var = standardised(X)
    bn = BatchNorm2D(32)
    Y = bn(dc.asarray(X))
    assert np.abs(numpy(Y) - H).max() <= 2e-6
    np.testing.assert_allclose(numpy(bn.running_mean), 0.1 * mean, rtol=2e-7, atol=1e-7)
    np.testing.assert_allclose(numpy(bn.running_var), 0.9 + 0.1 * var * 4096 / 4095, rtol=5e-7)


@pytest.mark.parametrize("offset", [0, 1e4, 1e6])
def test_the_gradient_of_batch_norm_far_from_zero(backend, offset):
    random = np.random.default_rng(1)
    X = (offset + random.standard_normal((4096, 32, 1, 1))).astype("float32")
    dY = random.standard_normal(X.shape).astype("float32")
    H, _, var = standardised(X)
    G = dY.astype("float64")
    right = (G - G.mean(axis=0) - H * (H * G).mean(axis=0)) / np.sqrt(var + 1e-5)
    bn = BatchNorm2D(32)
    bn(dc.asarray(X))
    dX = bn.backward(dc.asarray(dY))
    assert np.abs(numpy(dX) - right).max() <= 1e-5
    sums = (H * G).sum(axis=0, keepdims=True), G.sum(axis=0, keepdims=True)
    for name, total in zip(("gamma", "beta"), sums, strict=True):
        assert np.abs(numpy(bn.weight_update[name]) - total).max() <= 1e-5 * np.abs(G).sum(axis=0).max()


# ---- sums over very many rows


def test_the_gradient_of_a_bias_over_more_than_a_million_rows(backend):
    """2e-7, where np.mean over axis 0 is off by 1.5e-2."""
    dY = np.random.default_rng(0).random((1_250_000, 8), dtype="float32")
    right = dY.sum(axis=0, dtype="float64")
    net = Net([Linear(1, 8)])
    net(dc.asarray(np.ones((len(dY), 1), "float32")))
    net.backward(dc.asarray(dY))
    db = net.gradients()["layers.0.b"]
    assert db.dtype == dc.array_namespace(db).float32
    assert np.abs(numpy(db)[0] / right - 1).max() <= 2e-7


def test_a_mean_square_over_very_many_samples(backend):
    X = np.random.default_rng(0).random((1_250_000, 1), dtype="float32")
    right = (X.astype("float64") ** 2).mean()
    loss = MeanSquareLoss()
    L = loss(dc.asarray(X), dc.asarray(np.zeros_like(X)))
    assert abs(float(L) / right - 1) <= 2.5e-7


def test_the_mean_of_a_cross_entropy_over_very_many_samples(backend):
    X = np.random.default_rng(0).random((300_000, 3), dtype="float32")
    y = np.arange(len(X)) % 3
    wide = X.astype("float64")
    right = (np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(len(X)), y]).mean()
    L = CrossEntropyLoss()(dc.asarray(X), dc.asarray(y))
    assert abs(float(L) / right - 1) <= 2.5e-7


# ---- a confident cross-entropy


@pytest.mark.parametrize("d", [10, 15, 20, 30, 60, 80])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_confident_cross_entropy(backend, d, place):
    """Logits (d, 0, 0) and label 0: loss and gradient to 5e-7, where 1 - p cancels to nothing."""
    X = np.zeros((1, 3), "float32")
    X[0, place] = d
    small = 2 * np.exp(-float(d))  # the other two together
    right = np.full(3, np.exp(-float(d)) / (1 + small))
    right[place] = -small / (1 + small)
    net = Net([], CrossEntropyLoss())
    out = net(dc.asarray(X))
    loss = net.loss(out, dc.asarray(np.array([place])))
    dX = net.backward()
    assert abs(float(loss) / np.log1p(small) - 1) <= 5e-7
    assert np.abs(numpy(dX)[0] / right - 1).max() <= 5e-7


@pytest.mark.parametrize("size", [1e2, 1e3, 1e4])
def test_a_cross_entropy_of_large_logits(backend, size):
    mpmath = pytest.importorskip("mpmath", reason="needs mpmath for the right value") if size == 1e2 else None
    X = (size * np.random.default_rng(0).standard_normal((64, 5))).astype("float32")
    y = np.arange(64) % 5
    wide = X.astype("float64")
    top = wide.max(axis=1, keepdims=True)
    rows = np.log(np.exp(wide - top).sum(axis=1)) + top[:, 0] - wide[np.arange(64), y]
    if mpmath is not None:
        first = mpmath.log(sum(mpmath.exp(mpmath.mpf(float(x))) for x in wide[0])) - mpmath.mpf(wide[0, 0])
        assert float(first) == pytest.approx(rows[0], rel=1e-12, abs=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = CrossEntropyLoss()
        L = loss(dc.asarray(X), dc.asarray(y))
        dX = loss.backward()
    assert abs(float(L) / rows.mean() - 1) <= 2.5e-7
    P = np.exp(wide - top)
    P /= P.sum(axis=1, keepdims=True)
    P[np.arange(64), y] -= 1
    assert np.abs(numpy(dX) - P / 64).max() <= 1e-7 / 64 * 4


def test_no_step_overflows_at_a_logit_of_a_thousand(backend):
    """The original post's cross-entropy gave nan here."""
    net = Net([], CrossEntropyLoss())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X = np.array([[1000.0, 0.0], [0.0, 1000.0], [-1000.0, 1000.0]], "float32")
        loss = net.loss(net(dc.asarray(X)), dc.asarray(np.array([1, 1, 1])))
        dX = net.backward()
    assert float(loss) == pytest.approx(1000 / 3, rel=1e-7)
    np.testing.assert_allclose(numpy(dX), np.array([[1, -1], [0, 0], [0, 0]]) / 3, atol=1e-7)


# ---- nothing widens, nothing is hidden


def test_float32_stays_float32_all_the_way(backend):
    dc.seed(0)
    layers = [
        dc.Conv2D(1, 2, padding=1),
        BatchNorm2D(2),
        dc.LeakyReLU(),
        dc.MaxPool2D(2),
        dc.Sigmoid(),
        dc.Dropout(0.25),
        dc.Flatten(),
        Linear(8, 4),
        dc.Tanh(),
        dc.Residual(Linear(4, 4)),
        dc.Concat(dc.ReLU(), dc.Softmax()),
        dc.Add(Linear(8, 2)),
    ]
    net = Net(layers, CrossEntropyLoss(label_smoothing=0.1))
    float32 = dc.array_namespace(dc.asarray([1.0])).float32
    X = dc.asarray(np.random.default_rng(0).standard_normal((6, 1, 4, 4)))  # float64, as data often is
    y = dc.asarray(np.arange(6) % 2)
    for optimizer in (dc.optim.SGD(0.1, momentum=0.9), dc.optim.AdamW()):
        out = net(X)
        loss = net.loss(out, y)
        assert out.dtype == loss.dtype == net.backward().dtype == float32
        optimizer.step(net)
        arrays = net.parameters() | net.gradients() | net.buffers()
        assert {path for path, W in arrays.items() if W.dtype != float32} == set()
        for path, state in optimizer.state.items():
            assert all(not hasattr(x, "dtype") or x.dtype == float32 for x in state.values()), path


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_go_through_to_the_loss(backend, value):
    net = Net([Linear(2, 3), dc.ReLU(), Linear(3, 2)], CrossEntropyLoss())
    X = np.ones((2, 2), "float32")
    X[0, 0] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loss = net.loss(net(dc.asarray(X)), dc.asarray(np.array([0, 1])))
    assert not np.isfinite(float(loss))
