"""The CUDA kernels without a GPU: run on the host, thread by thread, against formulas in float64.

Sizes are odd, so that rows begin off the 16-byte boundaries of memory; schedules are drawn at random.
The last tests plant faults into the source, and see that they are found.
"""

import numpy as np
import pytest

from deepcore.backends.cupy.kernels import NULL, row_launch

from . import emulation
from .emulation import EmulationError, Guarded, library, run

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation of CUDA needs g++")

NUMBERS: dict[str, type] = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
try:
    import ml_dtypes

    NUMBERS["bfloat16"] = ml_dtypes.bfloat16
except ImportError:
    pass

EPSILON = {"float64": 2e-15, "float32": 4e-7, "float16": 6e-4, "bfloat16": 5e-3}
SIZES = [(3, 1), (5, 3), (9, 10), (3, 65), (2, 1003), (2, 4101)]  # warps; a block; rows over two chunks
LONG = {"float64": (2, 5001), "float32": (2, 9001), "float16": (2, 17001), "bfloat16": (2, 17001)}

each_dtype = pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(d, marks=() if d in NUMBERS else pytest.mark.skip(reason="bfloat16 needs ml_dtypes"))
        for d in ("float32", "float64", "float16", "bfloat16")
    ],
)


def put(values, dtype=None):
    """A guarded copy."""
    values = np.asarray(values)
    there = Guarded(values.shape, NUMBERS[dtype] if dtype else values.dtype)
    there.array[...] = values
    return there


def draw(shape, dtype, scale=4.0, seed=0):
    """Random numbers that the dtype holds, as float64."""
    X = scale * np.random.default_rng(seed).standard_normal(shape)
    return X.astype(NUMBERS[dtype]).astype(np.float64)


def on_rows(name, dtype, *inputs, seed=0, changes=()):
    """What a kernel of the softmax family makes of arrays (n, C)."""
    there = [put(X, dtype) for X in inputs]
    n, C = inputs[0].shape
    Y = Guarded((n, C), NUMBERS[dtype])
    arrays = [X.array for X in (*there, Y)]
    launch = row_launch(n, C, Y.array.itemsize)
    run(library("softmax", dtype, *changes), f"{name}_{dtype}", *launch, (*arrays, n, C), seed)
    assert all(X.intact for X in (*there, Y))
    return Y.array.astype(np.float64)


def cross_entropy(X, y, dtype, w=None, smoothing=0.0, mean=True, gradient=True, seed=0, changes=()):
    """Each row's loss, the total, and dX, as deepcore/backends/cupy/loss.py launches them."""
    n, C = X.shape
    x, labels = put(X, dtype), put(np.asarray(y, np.int64))
    weights = NULL if w is None else put(w, dtype).array
    wide = np.float64 if dtype == "float64" else np.float32
    sums, L, total = Guarded(2, np.float64), Guarded(n, wide), Guarded((), NUMBERS[dtype])
    dX = Guarded((n, C), NUMBERS[dtype])
    kernels = library("loss", dtype, *changes)
    one_block = ((1,), (512,))
    labelled = (labels.array, weights, sums.array)
    run(kernels, f"label_weights_{dtype}", *one_block, (*labelled, n, C, -100), seed)
    run(
        kernels,
        f"cross_entropy_{dtype}",
        *row_launch(n, C, x.array.itemsize),
        (x.array, *labelled, dX.array if gradient else NULL, L.array, n, C, -100, smoothing, int(mean)),
        seed,
    )
    run(kernels, f"sum_losses_{dtype}", *one_block, (L.array, sums.array, total.array, n, int(mean)), seed)
    assert all(a.intact for a in (x, labels, sums, L, total, dX))
    return L.array.astype(np.float64), float(total.array), dX.array.astype(np.float64)


def log_softmax(X):
    D = X - X.max(axis=1, keepdims=True)
    return D - np.log(np.exp(D).sum(axis=1, keepdims=True))


def cross_entropy_formula(X, y, w=None, smoothing=0.0, mean=True):
    C = X.shape[1]
    w = np.ones(C) if w is None else w
    T = np.where(np.arange(C) == y[:, None], 1.0, 0.0)
    kept = (y != -100)[:, None]
    m = (T * w).sum() if mean else 1.0
    T = ((1 - smoothing) * T + smoothing / C) * w * kept
    logP = log_softmax(X)
    L = -(T * logP).sum(axis=1)
    return L, L.sum() / m, (np.exp(logP) * T.sum(axis=1, keepdims=True) - T) / m


def close(got, wanted, dtype, times=1.0):
    """To some units in the last place of the largest number."""
    scale = np.abs(wanted).max()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=times * EPSILON[dtype] * max(scale, 1e-30))


def each_size(dtype):
    return [*SIZES, LONG[dtype]]


@each_dtype
def test_softmax_and_its_logarithm(dtype):
    for seed, shape in enumerate(each_size(dtype)):
        X = draw(shape, dtype, seed=seed)
        close(on_rows("softmax", dtype, X, seed=seed), np.exp(log_softmax(X)), dtype)
        close(on_rows("log_softmax", dtype, X, seed=seed), log_softmax(X), dtype)


@each_dtype
def test_the_gradients_of_softmax(dtype):
    for seed, shape in enumerate(each_size(dtype)):
        dY, X = draw(shape, dtype, 1.0, seed), draw(shape, dtype, seed=seed + 100)
        P = np.exp(log_softmax(X)).astype(NUMBERS[dtype]).astype(np.float64)
        wanted = P * (dY - (P * dY).sum(axis=1, keepdims=True))
        close(on_rows("softmax_backward", dtype, dY, P, seed=seed), wanted, dtype, 4)
        Y = log_softmax(X).astype(NUMBERS[dtype]).astype(np.float64)
        wanted = dY - np.exp(Y) * dY.sum(axis=1, keepdims=True)
        close(on_rows("log_softmax_backward", dtype, dY, Y, seed=seed), wanted, dtype, 4)


@each_dtype
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy(dtype, smoothing, weighted):
    for seed, (n, C) in enumerate(each_size(dtype)):
        random = np.random.default_rng(seed)
        X, y = draw((n, C), dtype, seed=seed), random.integers(0, C, n)
        y[n // 2] = -100
        w = draw(C, dtype, 0.3, seed + 7) ** 2 if weighted else None
        w = None if w is None else w.astype(NUMBERS[dtype]).astype(np.float64)
        mean = seed % 2 == 0
        X[n // 2] = np.nan  # what an ignored row holds doesn't matter
        L, total, dX = cross_entropy(X, y, dtype, w, smoothing, mean, seed=seed)
        wanted = cross_entropy_formula(np.nan_to_num(X), y, w, smoothing, mean)
        close(L, wanted[0], "float32" if dtype != "float64" else dtype, 2)
        close(total, wanted[1], dtype, 2)
        close(dX, wanted[2], dtype, 2)
        alone = cross_entropy(X, y, dtype, w, smoothing, mean, gradient=False, seed=seed)
        assert np.array_equal(alone[0], L) and alone[1] == total and np.isnan(alone[2]).all()


def test_where_all_rows_are_ignored_loss_and_gradient_are_zero():
    L, total, dX = cross_entropy(draw((3, 7), "float32"), np.full(3, -100), "float32")
    assert not L.any() and total == 0 and not dX.any()


@pytest.mark.parametrize("d", [10, 15, 20, 40, 80])
def test_cross_entropy_is_accurate_where_the_label_is_nearly_certain(d):
    L, _, dX = cross_entropy(np.array([[d, 0.0, 0.0]]), np.zeros(1), "float32")
    loss = np.log1p(2 * np.exp(-float(d)))
    gradient = -2 * np.exp(-float(d)) / (1 + 2 * np.exp(-float(d)))
    assert abs(L[0] / loss - 1) < 5e-7
    assert abs(dX[0, 0] / gradient - 1) < 5e-7


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_accuracy_in_float32(scale):
    X = draw((4, 1000), "float32", scale)
    logP = log_softmax(X)
    y = np.argsort(X, axis=1)[:, -2]
    for smoothing in (0.0, 0.1):
        L, *_ = cross_entropy(X, y, "float32", smoothing=smoothing)
        wanted = cross_entropy_formula(X, y, smoothing=smoothing)[0]
        assert np.abs(L / wanted - 1).max() < 2.5e-7
    P = on_rows("softmax", "float32", X)
    near = np.exp(logP) > 1e-30
    assert np.abs(P[near] / np.exp(logP)[near] - 1).max() < (1e-6 if scale == 1 else 1e-5)
    assert np.abs(P.sum(axis=1) - 1).max() < 3e-7
    near = logP > -1e-3  # -log(1 + s) where one class is nearly certain
    Y = on_rows("log_softmax", "float32", X)
    assert (np.abs(Y[near] - logP[near]) <= 2.5e-7 * np.abs(logP[near])).all()


def test_log_softmax_in_units_of_the_last_place():
    X = (1e4 + draw((4, 1000), "float32", 1.0)).astype(np.float32).astype(np.float64)
    wanted = log_softmax(X)
    off = np.abs(on_rows("log_softmax", "float32", X) - wanted) / np.spacing(np.abs(wanted).astype("f4"))
    assert off.max() <= 1.5


@pytest.mark.parametrize("row", [[np.nan, 1, 2], [np.inf, 0, 1], [-np.inf] * 3], ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_that_are_no_numbers(name, row):
    X = np.array([row, [1.0, 2, 3]])
    Y = on_rows(name, "float32", X)
    assert np.isnan(Y[0]).all() and np.isfinite(Y[1]).all()
    L, _, dX = cross_entropy(X, np.array([1, 1]), "float32")
    assert np.isnan(L[0]) and np.isnan(dX[0]).all() and np.isfinite(dX[1]).all()


def test_a_class_that_cannot_be_has_probability_zero():
    X = np.array([[-np.inf, 1.0, 2.0]])
    assert on_rows("softmax", "float32", X)[0, 0] == 0
    assert on_rows("log_softmax", "float32", X)[0, 0] == -np.inf
    L, _, dX = cross_entropy(X, np.array([2]), "float32")
    assert np.isfinite(L).all() and dX[0, 0] == 0
    assert cross_entropy(X, np.array([0]), "float32")[0][0] == np.inf


def test_a_label_that_was_not_checked_reads_nothing():
    for label in (-1, 3):
        L, _, dX = cross_entropy(draw((2, 3), "float32"), np.array([label, 0]), "float32")
        assert np.isnan(L[0]) and np.isfinite(L[1]) and np.isfinite(dX[1]).all()


def test_the_order_of_threads_changes_no_bit():
    X = draw((2, 9001), "float32")
    one, *others = (on_rows("softmax", "float32", X, seed=seed) for seed in range(4))
    assert all(np.array_equal(one, other) for other in others)


# ---- planted faults


def test_a_planted_race_is_found():
    """Without its last barrier, a sum is overwritten by the next one where a warp runs ahead."""
    barrier = "    __syncthreads();  // all have read of_warp before the next call writes to it\n"
    X = draw((1, 2003), "float32")
    y = np.array([5])
    sound = [cross_entropy(X, y, "float32", smoothing=0.1, seed=s) for s in range(12)]
    racy = [
        cross_entropy(X, y, "float32", smoothing=0.1, seed=s, changes=((barrier, ""),)) for s in range(12)
    ]
    right = sound[0][0]
    assert all(np.array_equal(L, right) for L, *_ in sound)
    assert any(not np.array_equal(L, right) for L, *_ in racy)


def test_a_planted_step_too_far_is_found():
    """Two columns past the end: what the last thread writes lands in the next row, or beyond the array."""
    test = "if (c + j >= 0 && c + j < C) to[j] = y[i].each[j];"
    fault = ((test, test.replace("c + j < C", "c + j < C + 2")),)
    with pytest.raises(AssertionError):
        on_rows("softmax", "float32", draw((1, 1001), "float32"), changes=fault)


def test_a_planted_misaligned_access_is_found():
    fault = (("const T* from = X + (start + shift + c);", "const T* from = X + (start + shift + c) + 1;"),)
    with pytest.raises(EmulationError, match="off its boundary"):
        on_rows("softmax", "float32", draw((1, 1000), "float32"), changes=fault)


def test_a_planted_barrier_for_some_is_found():
    fault = (("if (blockDim.x == 32) return a;", "if (threadIdx.x % 2) return a;"),)
    with pytest.raises(EmulationError, match="a barrier that not all threads reach"):
        on_rows("softmax", "float32", draw((1, 1001), "float32"), changes=fault)
