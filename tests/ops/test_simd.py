"""Kernels with hand-written vectors against float64: sizes that fill no tile, any layout, threads."""

import threading

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiled tier needs numba")

from deepcore.backends.numpy import fast
from deepcore.backends.numpy.fast import simd, workspace
from deepcore.ops import linear as linear_ops

pytestmark = pytest.mark.skipif(
    not (fast.usable() and simd.USABLE), reason="no compiled tier on this processor, or it is turned off"
)

TOLERANCE = 4e-6  # of the largest number: what oneDNN reaches
random = np.random.default_rng(0)


def normal(*shape):
    return random.standard_normal(shape, dtype=np.float32)


def wide(*arrays):
    return [A.astype(np.float64) for A in arrays]


def assert_close(got, exact, tolerance=TOLERANCE):
    for A, E in zip(got, exact, strict=True):
        assert A.dtype == np.float32 and A.shape == E.shape
        assert np.max(np.abs(A - E)) <= tolerance * np.max(np.abs(E))


@pytest.fixture(autouse=True)
def spoiled_memory():
    """A result that depends on what an earlier call has left behind is NaN."""
    (floats,) = workspace.room(1, 1 << 22)
    floats[:] = np.nan


def layouts(A):
    """The same numbers read-only, column by column, with gaps, backwards."""
    read_only = A.copy()
    read_only.flags.writeable = False
    return [read_only, np.asfortranarray(A), np.repeat(A, 2, axis=-1)[..., ::2], np.flip(np.flip(A).copy())]


def in_two_threads(call, *both):
    """call(*arguments) for two lists of arguments, again and again, at the same time."""
    results = [[], []]

    def work(i):
        for _ in range(10):
            results[i].append(call(*both[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


LINEAR = [  # n, i, o
    (128, 128, 128),
    (101, 97, 131),
    (12, 1000, 100),
    (13, 513, 300),  # two blocks of K, and a panel of 3 vectors
    (1025, 16, 65),
    (2000, 1030, 1),
    (2000, 1, 700),
    (517, 300, 257),
]
linear = fast.kernel("linear", "linear")
linear_backward = fast.kernel("linear", "linear_backward")


@pytest.mark.parametrize(("n", "i", "o"), LINEAR)
def test_linear_at_odd_sizes(n, i, o):
    X, W, b, dY = normal(n, i), normal(i, o), normal(1, o), normal(n, o)
    X8, W8, b8, dY8 = wide(X, W, b, dY)
    assert_close([linear(X, W, b), linear(X, W)], [X8 @ W8 + b8, X8 @ W8])
    dX, dW, db = linear_backward(dY, X, W)
    assert_close([dX, dW], [dY8 @ W8.T, X8.T @ dY8])
    assert_close([db], [dY8.sum(0, keepdims=True)], 1e-7)
    assert linear_backward(dY, X, W, False)[2] is None


def test_linear_over_more_axes():
    X, W, b, dY = normal(3, 50, 120), normal(120, 140), normal(1, 140), normal(3, 50, 140)
    assert_close([linear(X, W, b)], [linear_ops.linear.reference(*wide(X, W, b))])
    assert_close(linear_backward(dY, X, W), linear_ops.linear_backward.reference(*wide(dY, X, W)))


def test_linear_in_any_layout_has_the_same_bits():
    X, W, dY = normal(101, 97), normal(97, 131), normal(101, 131)
    Y, gradients = linear(X, W), linear_backward(dY, X, W)
    inputs = [A.copy() for A in (X, W, dY)]
    for lX, lW, ldY in zip(*map(layouts, (X, W, dY)), strict=True):
        for A, B in zip([Y, *gradients], [linear(lX, lW), *linear_backward(ldY, lX, lW)], strict=True):
            assert np.array_equal(A, B)
        for A, B in zip((lX, lW, ldY), inputs, strict=True):
            assert np.array_equal(A, B)


def test_linear_in_two_threads_at_once():
    both = [(normal(200, 128), normal(128, 150)), (normal(150, 500), normal(500, 70))]
    for (X, W), results in zip(both, in_two_threads(linear, *both), strict=True):
        assert len(results) == 10
        assert all(np.array_equal(Y, linear(X, W)) for Y in results)


def test_linear_leaves_to_others_what_it_does_not_do():
    X, W = normal(128, 128), normal(128, 128)
    assert linear(X.astype("float64"), W.astype("float64")) is NotImplemented
    assert linear(X[:4], W) is NotImplemented
    assert linear(X[0], W) is NotImplemented
    assert linear(X[:0], W) is NotImplemented
    assert linear(X[:, :0], W[:0]) is NotImplemented
    assert linear_backward(X, X.astype("float16"), W) is NotImplemented


def test_linear_lets_nan_and_infinity_through():
    X, W = normal(128, 128), normal(128, 128)
    X[3, 5], X[7, 8] = np.nan, np.inf
    Y = linear(X, W)
    assert np.all(np.isnan(Y[3])) and np.all(np.isinf(Y[7])) and np.all(np.isfinite(np.delete(Y, [3, 7], 0)))
