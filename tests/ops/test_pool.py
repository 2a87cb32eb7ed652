import itertools

import numpy as np
import pytest

from deepcore.errors import ShapeError
from deepcore.ops import pool as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

# X's shape, kernel, stride, padding
CASES = [
    pytest.param((3, 4, 6, 8), (2, 2), (2, 2), ((0, 0), (0, 0)), id="2x2"),
    pytest.param((2, 3, 7, 5), (2, 2), (2, 2), ((0, 0), (0, 0)), id="odd sizes"),
    pytest.param((2, 3, 7, 8), (3, 3), (2, 2), ((1, 1), (1, 1)), id="overlapping, padded"),
    pytest.param((2, 3, 7, 8), (2, 3), (1, 2), ((1, 0), (1, 1)), id="uneven"),
    pytest.param((2, 3, 9, 9), (2, 2), (3, 3), ((0, 0), (0, 0)), id="gaps"),
    pytest.param((2, 3, 9), (3,), (2,), ((1, 1),), id="1d"),
    pytest.param((2, 3, 5, 6, 4), (2, 3, 2), (2, 1, 2), ((1, 1), (0, 0), (0, 1)), id="3d"),
    pytest.param((2, 3, 4, 5), (1, 1), (1, 1), ((0, 0), (0, 0)), id="1x1"),
    pytest.param((1, 2, 40, 40), (17, 16), (17, 16), ((0, 0), (0, 0)), id="over 256 positions"),
    pytest.param((0, 3, 6, 6), (2, 2), (2, 2), ((0, 0), (0, 0)), id="no images"),
]
each_case = pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), CASES)
either = pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the peer compared with")


def image_with_ties(shape, dtype=np.float64):
    """Few different numbers, so that most windows have ties."""
    return np.random.default_rng(0).integers(-2, 3, shape).astype(dtype)


def gradient_like(Y):
    return np.random.default_rng(1).standard_normal(Y.shape).astype(Y.dtype)


def forward(X, *geometry, reference=False):
    return (ops.max_pool.reference if reference else ops.max_pool)(X, *geometry)


def backward(dY, index, shape, *geometry, reference=False):
    return (ops.max_pool_backward.reference if reference else ops.max_pool_backward)(
        dY, index, shape, *geometry
    )


def pool_by_loops(X, dY, kernel, stride, padding):
    """Y, index and dX, window by window."""
    Y = np.zeros(dY.shape)
    index = np.zeros(dY.shape, int)
    dX = np.zeros(X.shape)
    for n, c, *p in np.ndindex(*dY.shape):
        best = None
        for k, offset in enumerate(itertools.product(*map(range, kernel))):
            at = [s * q + i - lo for s, q, i, (lo, _) in zip(stride, p, offset, padding, strict=True)]
            if all(0 <= a < size for a, size in zip(at, X.shape[2:], strict=True)):
                x = X[(n, c, *at)]
                if best is None or x > best[0]:
                    best = x, k, at
        Y[(n, c, *p)], index[(n, c, *p)], winner = best
        dX[(n, c, *winner)] += dY[(n, c, *p)]
    return Y, index, dX


@either
@each_case
def test_each_window_has_its_first_maximum(shape, kernel, stride, padding, reference):
    X = image_with_ties(shape)
    Y, index = forward(X, kernel, stride, padding, reference=reference)
    dY = gradient_like(Y)
    dX = backward(dY, index, shape, kernel, stride, padding, reference=reference)
    wanted = pool_by_loops(X, dY, kernel, stride, padding)
    for A, B in zip((Y, index, dX), wanted, strict=True):
        np.testing.assert_allclose(A, B, rtol=0, atol=1e-14)


@either
@each_case
def test_agrees_with_torch(shape, kernel, stride, padding, reference, torch):
    X = np.random.default_rng(0).standard_normal(shape)
    Y, index = forward(X, kernel, stride, padding, reference=reference)
    dY = gradient_like(Y)
    tX = torch.tensor(X, requires_grad=True)
    pairs = list(itertools.chain(*reversed(padding)))
    padded = torch.nn.functional.pad(tX, pairs, value=-np.inf)
    tY = getattr(torch.nn.functional, f"max_pool{len(kernel)}d")(padded, kernel, stride)
    tY.backward(torch.tensor(dY))
    assert np.array_equal(Y, tY.detach())
    dX = backward(dY, index, shape, kernel, stride, padding, reference=reference)
    np.testing.assert_allclose(dX, tX.grad, rtol=0, atol=1e-14)


@either
def test_nan_and_minus_infinity(reference):
    X = np.array([[[[np.nan, 1, -np.inf, -np.inf], [2, 3, -np.inf, -np.inf]]]])
    Y, index = forward(X, (2, 2), (2, 2), ((0, 0), (0, 0)), reference=reference)
    assert np.array_equal(Y, [[[[np.nan, -np.inf]]]], equal_nan=True)
    assert np.array_equal(index, [[[[0, 0]]]])


@either
def test_nan_wins_wherever_it_stands_as_in_torch(reference, torch):
    random = np.random.default_rng(0)
    X = random.standard_normal((4, 5, 9, 9))
    X[random.random(X.shape) < 0.2] = np.nan
    Y, index = forward(X, (3, 3), (2, 2), ((1, 1), (1, 1)), reference=reference)
    dX = backward(np.ones(Y.shape), index, X.shape, (3, 3), (2, 2), ((1, 1), (1, 1)), reference=reference)
    tX = torch.tensor(X, requires_grad=True)
    tY = torch.nn.functional.max_pool2d(tX, 3, 2, 1)
    tY.sum().backward()
    assert np.array_equal(Y, tY.detach(), equal_nan=True)
    assert np.array_equal(dX, tX.grad)


@either
def test_padding_never_wins(reference):
    X = np.full((1, 1, 4, 4), -np.inf)
    Y, index = forward(X, (3, 3), (2, 2), ((1, 1), (1, 1)), reference=reference)
    dX = backward(np.ones(Y.shape), index, X.shape, (3, 3), (2, 2), ((1, 1), (1, 1)), reference=reference)
    assert np.all(np.isneginf(Y))
    assert np.array_equal(index, [[[[4, 3], [1, 0]]]])
    assert dX.sum() == Y.size


@either
def test_nan_gradients_stay_where_they_belong(reference):
    dY = np.array([[[[np.nan, 1.0], [-np.inf, 2.0]]]])
    index = np.array([[[[3, 0], [1, 2]]]], np.uint8)
    dX = backward(dY, index, (1, 1, 4, 4), (2, 2), (2, 2), ((0, 0), (0, 0)), reference=reference)
    wanted = [[[[0, 0, 1, 0], [0, np.nan, 0, 0], [0, -np.inf, 0, 0], [0, 0, 2, 0]]]]
    assert np.array_equal(dX, wanted, equal_nan=True)


@each_case
def test_mask_counts_the_windows_that_each_number_won(shape, kernel, stride, padding):
    X = image_with_ties(shape)
    Y, index = forward(X, kernel, stride, padding)
    mask = ops.max_pool_mask(index, shape, kernel, stride, padding, "float32")
    assert mask.dtype == np.float32
    assert np.array_equal(mask, backward(np.ones(Y.shape), index, shape, kernel, stride, padding))
    assert mask.sum() == Y.size


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1", "no_float64"])
@each_case
def test_reference_runs_on_every_device(shape, kernel, stride, padding, device):
    X = image_with_ties(shape, np.float32)
    wanted = forward(X, kernel, stride, padding)
    dY = gradient_like(wanted[0])
    on = strict.Device(device)
    Y, index = forward(strict.asarray(X, device=on), kernel, stride, padding)
    dX = backward(strict.asarray(dY, device=on), index, shape, kernel, stride, padding)
    mask = ops.max_pool_mask(index, shape, kernel, stride, padding, strict.float32)
    wanted += (
        backward(dY, wanted[1], shape, kernel, stride, padding),
        ops.max_pool_mask(wanted[1], shape, kernel, stride, padding, np.float32),
    )
    for A, B in zip((Y, index, dX, mask), wanted, strict=True):
        assert A.device == on
        A = np.asarray(A.to_device(strict.Device("CPU_DEVICE")))
        assert A.dtype == B.dtype
        np.testing.assert_allclose(A, B, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@each_case
def test_dtype_stays(shape, kernel, stride, padding, dtype):
    Y, index = forward(image_with_ties(shape, dtype), kernel, stride, padding)
    dX = backward(gradient_like(Y), index, shape, kernel, stride, padding)
    assert Y.dtype == dX.dtype == dtype
    assert index.dtype == (np.uint8 if np.prod(kernel) <= 256 else np.int32)


@pytest.mark.parametrize("case", [CASES[1].values, CASES[2].values])
def test_any_layout_gives_the_same_bits(case):
    shape, *geometry = case
    X = image_with_ties(shape)
    Y, index = forward(X, *geometry)
    dY = gradient_like(Y)
    dX = backward(dY, index, shape, *geometry)
    read_only = X.copy()
    read_only.flags.writeable = False
    strided = np.repeat(X, 2, axis=3)[..., ::2]
    for lX in (read_only, strided, np.asfortranarray(X), np.flip(np.flip(X).copy())):
        lY, l_index = forward(lX, *geometry)
        assert np.array_equal(lX, X)
        assert np.array_equal(lY, Y)
        assert np.array_equal(l_index, index)
    for ldY in (np.asfortranarray(dY), np.flip(np.flip(dY).copy()), np.repeat(dY, 2, axis=3)[..., ::2]):
        assert np.array_equal(backward(ldY, np.asfortranarray(index), shape, *geometry), dX)
    ones = np.broadcast_to(np.ones(()), dY.shape)
    assert backward(ones, index, shape, *geometry).sum() == dY.size


def test_a_window_larger_than_the_image_is_refused():
    with pytest.raises(ShapeError, match="the 3x3 kernel is larger than the padded 2x2 input"):
        ops.max_pool(np.zeros((1, 1, 2, 2)), (3, 3), (3, 3), ((0, 0), (0, 0)))


def test_windows_far_apart():
    """Some 200 rows from one to the next, more than a byte counts of numbers twice as many."""
    X = np.random.default_rng(0).standard_normal((8, 8, 601, 32), "float32")
    geometry = (2, 2), (200, 2), ((0, 0), (0, 0))
    Y, index = forward(X, *geometry)
    dY = gradient_like(Y)
    np.testing.assert_array_equal(
        backward(dY, index, X.shape, *geometry), backward(dY, index, X.shape, *geometry, reference=True)
    )
