"""Pools beside torch's, over a grid of settings; ties, what no number is, shapes and errors."""

import itertools

import numpy as np
import pytest

import deepcore as dc
from tests.layers.peer import compare

RANKS = [1, 2, 3]
SIZES = (9, 8, 7)
GEOMETRIES = [
    (kernel, stride, padding)
    for kernel, stride, padding in itertools.product((1, 2, 3, 4), (None, 1, 2, 3, 5), (0, 1, 2))
    if 2 * padding <= kernel
]
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
ranks = pytest.mark.parametrize("rank", RANKS)
kinds = pytest.mark.parametrize("kind", ["Avg", "Max"])


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the peer compared with")


def images(rank, ties=False, sizes=None):
    random = np.random.default_rng(0)
    shape = (2, 3, *(sizes or SIZES[:rank]))
    return random.integers(-2, 3, shape).astype("float64") if ties else random.standard_normal(shape)


@dtypes
@ranks
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_pools_agree_with_torch(torch, rank, geometry, dtype):
    for inside in (True, False):
        settings = {"count_include_pad": inside}
        twin = getattr(torch.nn, f"AvgPool{rank}d")(*geometry, **settings)
        compare(getattr(dc, f"AvgPool{rank}D")(*geometry, **settings), twin, images(rank), dtype, ())
    for ties in (True, False):
        twin = getattr(torch.nn, f"MaxPool{rank}d")(*geometry)
        compare(getattr(dc, f"MaxPool{rank}D")(*geometry), twin, images(rank, ties), dtype, ())


ADAPTIVE = [1, 2, 3, 5, 7, 11, None]


@dtypes
@ranks
@kinds
def test_adaptive_pools_agree_with_torch(torch, kind, rank, dtype):
    for sizes in ADAPTIVE if rank == 1 else zip(ADAPTIVE, [*ADAPTIVE[1:], 1], [4] * 7, strict=True):
        size = sizes if rank == 1 else sizes[:rank]
        if rank == 1 and size is None:
            continue  # torch's own AdaptiveAvgPool1d knows no None
        f = getattr(dc, f"Adaptive{kind}Pool{rank}D")(size)
        twin = getattr(torch.nn, f"Adaptive{kind}Pool{rank}d")(size)
        compare(f, twin, images(rank, ties=kind == "Max"), dtype, ())


@dtypes
@kinds
@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (64, 33)], ids=str)
def test_global_pools_agree_with_torch(torch, kind, sizes, dtype):
    f, twin = getattr(dc, f"Global{kind}Pool2D")(), getattr(torch.nn, f"Adaptive{kind}Pool2d")(1)
    compare(f, twin, images(2, kind == "Max", sizes), dtype, ())
    assert f(images(2, sizes=sizes)).shape == (2, 3, 1, 1)
    assert repr(f) == f"Global{kind}Pool2D()"


@ranks
@kinds
def test_none_keeps_an_axis(kind, rank):
    f = getattr(dc, f"Adaptive{kind}Pool{rank}D")(None)
    X = images(rank)
    assert np.array_equal(f(X), X) and np.array_equal(f.backward(X), X)
    assert getattr(dc, f"Adaptive{kind}Pool{rank}D")((None,) * (rank - 1) + (1,))(X).shape == (
        *X.shape[:-1],
        1,
    )


@pytest.mark.parametrize("kind", ["", "Adaptive"])
def test_of_equal_numbers_the_first_in_reading_order_wins(kind):
    f = getattr(dc, f"{kind}MaxPool2D")(2)
    f(np.array([[[[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 0.0, 5.0], [2.0, 3.0, 4.0, 1.0], [3.0, 3.0, 4.0, 4.0]]]]))
    won = [[1, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert f.backward(np.ones((1, 1, 2, 2))).tolist() == [[won]]


def test_local_gradients():
    X = images(2, ties=True)
    for f in (dc.AvgPool2D(3, 2, 1), dc.AdaptiveAvgPool2D(3), dc.AdaptiveMaxPool2D(3), dc.GlobalMaxPool2D()):
        Y = f(X)
        local = f.local_grad(X)["X"]
        assert np.array_equal(local, f.backward(np.ones_like(Y))), f
    assert np.array_equal(
        dc.AvgPool2D(2).local_grad(np.zeros((1, 1, 3, 2)))["X"][0, 0, :, 0], [0.25, 0.25, 0]
    )


@pytest.mark.parametrize("f", [dc.AvgPool2D(), dc.AdaptiveAvgPool2D(3), dc.GlobalAvgPool2D(), dc.MaxPool1D()])
def test_a_nan_or_an_infinity_stays_in_its_windows(f):
    """An average by prefix sums, or by a product with a matrix of zeros, would spread it."""
    X = images(f.rank)
    clean = f(X)
    X[0, 0, 0], X[1, 1, 0] = np.nan, np.inf
    Y = f(X)
    touched = np.zeros(Y.shape, bool)
    touched[0, 0, 0] = touched[1, 1, 0] = True
    assert np.isnan(Y[0, 0, 0]).all() and np.isposinf(Y[1, 1, 0]).all()
    assert np.array_equal(Y[~touched], clean[~touched])


@pytest.mark.parametrize("name", ["AvgPool2D", "GlobalAvgPool2D", "AdaptiveAvgPool2D"])
def test_float16_sums_in_float32(name):
    """1600 numbers of 100 add up to more than float16 can hold."""
    X = np.full((1, 1, 40, 40), 100, "float16")
    f = getattr(dc, name)(*{"AvgPool2D": [40], "AdaptiveAvgPool2D": [(1, 3)]}.get(name, []))
    Y = f(X)
    assert Y.dtype == "float16" and (Y == 100).all()
    assert f.backward(Y).dtype == "float16"


def test_the_mean_of_a_large_image_is_accurate():
    X = np.random.default_rng(0).random((2, 3, 512, 512)).astype("float32") + 100
    exact = X.mean(axis=(2, 3), dtype="float64")
    assert np.abs(dc.GlobalAvgPool2D()(X)[:, :, 0, 0] / exact - 1).max() <= 2e-7


ERRORS = [
    (lambda: dc.MaxPool1D()(np.zeros((2, 3))), "MaxPool1D(): X must have shape (n, c, w), got (2, 3)"),
    (lambda: dc.AvgPool3D()(np.zeros((1, 2, 2, 2))), "X must have shape (n, c, d, h, w), got (1, 2, 2, 2)"),
    (lambda: dc.AvgPool2D(5)(np.zeros((1, 2, 4, 4))), "the 5x5 kernel is larger than the padded 4x4 input"),
    (
        lambda: dc.AvgPool2D(3, padding=2)(np.zeros((1, 2, 4, 4))),
        "padding may be at most half the 3x3 kernel",
    ),
    (lambda: dc.AvgPool2D()(np.zeros((1, 2, 4, 4), int)), "wanted floating-point numbers, got int64"),
    (
        lambda: dc.GlobalAvgPool2D()(np.zeros((1, 2, 0, 4))),
        "(n, c, h, w), no axis of h, w empty, got (1, 2, 0, 4)",
    ),
    (
        lambda: dc.AdaptiveMaxPool1D(2)(np.zeros((2, 4))),
        "AdaptiveMaxPool1D(2): X must have shape (n, c, w), no",
    ),
    (
        lambda: dc.AdaptiveAvgPool2D(0),
        "AdaptiveAvgPool2D: size must be an int >= 1, None, or 2 of them, got 0",
    ),
    (lambda: dc.AdaptiveAvgPool2D((1, 2, 3)), "size must be an int >= 1, None, or 2 of them, got (1, 2, 3)"),
    (lambda: dc.AvgPool1D(stride=0), "AvgPool1D: stride must be an int >= 1, got 0"),
]


@pytest.mark.parametrize("wrong, message", ERRORS, ids=[message for _, message in ERRORS])
def test_errors_say_what_was_wanted(wrong, message):
    with pytest.raises(dc.DeepcoreError) as error:
        wrong()
    assert message in str(error.value)
