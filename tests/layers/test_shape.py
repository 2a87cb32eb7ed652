"""Layers that move and resize arrays, beside torch's, and what they refuse."""

import numpy as np
import pytest

import deepcore as dc
from tests.places import EACH_LIBRARY, USABLE

torch = pytest.importorskip("torch", reason="torch is the peer compared with")
nn = torch.nn

PADS = [  # rank, padding as ours, as torch's: the last axis first
    (1, 2, 2),
    (1, (1, 2), (1, 2)),
    (1, ((2, 0),), (2, 0)),
    (2, 1, 1),
    (2, ((1, 2), (0, 3)), (0, 3, 1, 2)),
    (3, 1, 1),
    (3, ((1, 0), (0, 2), (2, 1)), (2, 1, 0, 2, 1, 0)),
]
MODES = {
    "constant": "ConstantPad",
    "reflect": "ReflectionPad",
    "edge": "ReplicationPad",
    "wrap": "CircularPad",
}
LAYERS = [
    *[
        (
            getattr(dc, f"Pad{rank}D")(ours, mode=mode, **({"value": 2.5} if mode == "constant" else {})),
            getattr(nn, f"{torchs}{rank}d")(theirs, *([2.5] if mode == "constant" else [])),
            (2, 3, 4, 5, 6)[: rank + 2],
        )
        for rank, ours, theirs in PADS
        for mode, torchs in MODES.items()
    ],
    (dc.Pad2D(1), nn.ZeroPad2d(1), (2, 3, 4, 5)),
    (dc.Pad2D(1, "edge"), nn.ReplicationPad2d(1), (3, 4, 5)),
    *[
        (
            dc.Upsample2D(s, mode),
            nn.Upsample(
                scale_factor=s, mode=mode, **({"align_corners": False} if mode == "bilinear" else {})
            ),
            shape,
        )
        for s in (1, 2, 3, (1, 4), (5, 2))
        for mode in ("nearest", "bilinear")
        for shape in [(2, 3, 4, 5), (1, 2, 1, 3), (2, 1, 2, 1)]
    ],
    (dc.Reshape(4, -1), nn.Unflatten(1, (4, -1)), (3, 12)),
    (dc.Flatten(), nn.Flatten(), (3, 4, 5)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("ours", "theirs", "shape"), LAYERS, ids=[f"{ours} {'x'.join(map(str, s))}" for ours, _, s in LAYERS]
)
def test_values_and_gradients_are_torchs(ours, theirs, shape, dtype):
    random = np.random.default_rng(0)
    X = random.standard_normal(shape).astype(dtype)
    x = torch.tensor(X, requires_grad=True)
    y = theirs(x)
    dY = random.standard_normal(tuple(y.shape)).astype(dtype)
    y.backward(torch.tensor(dY))
    close = {"rtol": 1e-6, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(ours(X), y.detach().numpy(), **close)
    np.testing.assert_allclose(ours.backward(dY), x.grad.numpy(), **close)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outer", [(5,), (2, 3), ()], ids=str)
def test_bilinear_is_torchs(outer, bias):
    random = np.random.default_rng(0)
    ours = dc.Bilinear(3, 4, 2, bias=bias, dtype="float64")
    theirs = nn.Bilinear(3, 4, 2, bias=bias, dtype=torch.float64)
    ours.weight["W"] = np.moveaxis(theirs.weight.detach().numpy(), 0, -1).copy()
    if bias:
        ours.weight["b"] = theirs.bias.detach().numpy().reshape(1, 2)
    A, B = random.standard_normal((*outer, 3)), random.standard_normal((*outer, 4))
    a, b = (torch.tensor(X, requires_grad=True) for X in (A, B))
    y = theirs(a, b)
    dY = random.standard_normal(tuple(y.shape))
    y.backward(torch.tensor(dY))
    np.testing.assert_allclose(ours(A, B), y.detach().numpy(), rtol=1e-12, atol=1e-12)
    dA, dB = ours.backward(dY)
    np.testing.assert_allclose(dA, a.grad.numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dB, b.grad.numpy(), rtol=1e-12, atol=1e-12)
    dW = np.moveaxis(theirs.weight.grad.numpy(), 0, -1)
    np.testing.assert_allclose(ours.weight_update["W"], dW, rtol=1e-12, atol=1e-12)
    if bias:
        np.testing.assert_allclose(ours.weight_update["b"][0], theirs.bias.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("axes", [(2, 3, 1), (3, 1, 2), (1, 3, 2), (0, 3, 2, 1)])
def test_permute_and_its_way_back(axes):
    X = np.random.default_rng(0).standard_normal((2, 3, 4, 5))
    for f in (dc.Permute(*axes), dc.Permute(axes), dc.Permute(list(axes))):
        Y = f(X)
        np.testing.assert_array_equal(Y, np.transpose(X, axes if 0 in axes else (0, *axes)))
        np.testing.assert_array_equal(f.backward(Y), X)


@pytest.mark.parametrize("p", [0.2, 0.7])
def test_dropout2d_drops_whole_channels(p):
    f = dc.Dropout2D(p)
    X = np.random.default_rng(0).uniform(1, 2, (40, 50, 2, 3)).astype("float32")
    dc.seed(3)
    Y = f(X)
    M = Y[:, :, 0, 0] != 0
    np.testing.assert_allclose(Y, np.where(M[:, :, None, None], X / (1 - p), 0), rtol=1e-6)
    assert abs(M.mean() - (1 - p)) < 4 * (p * (1 - p) / M.size) ** 0.5
    np.testing.assert_allclose(f.backward(X), Y)
    dc.seed(3)
    assert np.array_equal(dc.Dropout(p)(np.ones((40, 50))) != 0, M)  # the mask of one number a channel
    for wrong in (X[0], X[:, :, 0]):
        with pytest.raises(dc.ShapeError, match=r"Dropout2D.*: X must have shape \(n, c, h, w\), got"):
            f(wrong)
    f.training = False
    assert np.array_equal(f(X), X)


@pytest.mark.parametrize("place", EACH_LIBRARY, ids=lambda place: place.name)
def test_dropout_of_everything(place):
    if place not in USABLE:
        pytest.skip(place.why_not)
    X = place.array(np.ones((2, 3, 2, 2), "float32"))
    for f in (dc.Dropout(1), dc.Dropout2D(1.0)):
        for Z in (f(X), f.backward(X)):
            np.testing.assert_array_equal(place.back(Z), np.zeros((2, 3, 2, 2), "float32"))
        f.training = False
        np.testing.assert_array_equal(place.back(f(X)), place.back(X))


def test_numbers_near_infinity_do_not_spread():
    """A matrix of weights would make NaN of 0 times infinity, in a whole row."""
    X = np.ones((1, 1, 3, 3), "float32")
    X[0, 0, 1, 1] = np.inf
    Y = dc.Upsample2D(2, "bilinear")(X)
    assert not np.isnan(Y).any() and np.isfinite(Y[0, 0, 0]).all()


ones = np.ones
REFUSED = [
    (lambda: dc.Reshape(3, 4)(ones((2, 11))), dc.ShapeError, "Reshape(3, 4): each sample of X must have 12"),
    (lambda: dc.Reshape(5, -1)(ones((2, 11))), dc.ShapeError, "must have a multiple of 5 numbers"),
    (lambda: dc.Reshape(-1, -1), dc.ArgumentError, "one of which may be -1, got (-1, -1)"),
    (lambda: dc.Reshape(0, 2), dc.ArgumentError, "whole numbers, 1 or more"),
    (lambda: dc.Reshape(2.5), dc.ArgumentError, "whole numbers, 1 or more"),
    (lambda: dc.Permute(1, 1), dc.ArgumentError, "1, 2, ... in their new order"),
    (lambda: dc.Permute(1, 0), dc.ArgumentError, "0, the samples, first or left out; got (1, 0)"),
    (lambda: dc.Permute(), dc.ArgumentError, "1, 2, ... in their new order"),
    (lambda: dc.Permute(2, 1)(ones((2, 3))), dc.ShapeError, "Permute(2, 1): X must have 3 axes, got (2, 3)"),
    (lambda: dc.Pad2D(-1), dc.ShapeError, "or 2 pairs (before, after) of them"),
    (lambda: dc.Pad2D((1, 2)), dc.ShapeError, "or 2 pairs (before, after) of them"),
    (lambda: dc.Pad1D((1, 2, 3)), dc.ShapeError, "or one pair (before, after) of them, got (1, 2, 3)"),
    (lambda: dc.Pad1D(1.5), dc.ShapeError, "Pad1D: padding must be an int >= 0"),
    (lambda: dc.Pad1D(1, "symmetric"), dc.ArgumentError, "one of constant, reflect, edge, wrap"),
    (lambda: dc.Pad1D(1, value="a"), dc.ArgumentError, "Pad1D: value must be a number, got 'a'"),
    (lambda: dc.Pad2D(1)(ones((2, 2))), dc.ShapeError, "X must have shape (n, c, h, w), got (2, 2)"),
    (lambda: dc.Pad1D(3, "reflect")(ones((1, 1, 3))), dc.ShapeError, "pads by less than the size of an axis"),
    (lambda: dc.Pad1D(4, "wrap")(ones((1, 1, 3))), dc.ShapeError, "pads by at most the size of an axis"),
    (lambda: dc.Pad1D(1, "edge")(ones((1, 1, 0))), dc.ShapeError, "got (1, 1, 0)"),
    (lambda: dc.Upsample2D(0), dc.ShapeError, "Upsample2D: scale must be an int >= 1 or 2 of them, got 0"),
    (lambda: dc.Upsample2D(1.5), dc.ShapeError, "Upsample2D: scale must be an int >= 1"),
    (lambda: dc.Upsample2D(2, "cubic"), dc.ArgumentError, 'mode must be "nearest" or "bilinear"'),
    (lambda: dc.Upsample2D()(ones((2, 3, 4))), dc.ShapeError, "X must have shape (n, c, h, w)"),
    (lambda: dc.Dropout2D(2), dc.ArgumentError, "Dropout2D: p, the fraction dropped"),
    (lambda: dc.Bilinear(3, 2, 1)(ones((4, 3)), ones((5, 2))), dc.ShapeError, "got (4, 3) and (5, 2)"),
    (lambda: dc.Bilinear(3, 2, 1)(ones((4, 3)), ones((4, 3))), dc.ShapeError, "(..., 3) and (..., 2)"),
    (lambda: dc.Bilinear(3, 0, 1), dc.ShapeError, "Bilinear: in2_dim must be an int >= 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=[m for _, _, m in REFUSED])
def test_what_does_not_fit_is_refused(call, kind, message):
    with pytest.raises(kind) as error:
        call()
    assert message in str(error.value)


def test_they_come_back_from_a_description():
    from deepcore.io.architecture import build, describe

    for f in (
        dc.Reshape(2, -1),
        dc.Permute(2, 1),
        dc.Pad2D(((1, 2), (0, 3)), mode="wrap"),
        dc.Pad1D(2, value=1.5),
        dc.Upsample2D((1, 2), "bilinear"),
        dc.Dropout2D(0.25),
        dc.Bilinear(2, 3, 4, bias=False, init="torch"),
    ):
        assert repr(build(describe(f))) == repr(f)
