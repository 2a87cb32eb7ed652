"""Kernels with hand-written vectors against float64: sizes that fill no tile, any layout, threads."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the compiled tier needs numba")

import deepcore as dc
from deepcore.backends import select
from deepcore.backends.numpy import fast
from deepcore.backends.numpy.fast import conv as conv_kernels
from deepcore.backends.numpy.fast import threads, winograd, workspace, writer
from deepcore.ops import conv as conv_ops
from deepcore.ops import linear as linear_ops
from deepcore.ops import pool as pool_ops
from deepcore.ops import recurrent as recurrent_ops

pytestmark = pytest.mark.skipif(
    not (fast.usable() and writer.USABLE), reason="no compiled tier on this processor, or it is turned off"
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


CONV = {  # X, filters and kernel, stride, padding, dilation
    "few channels": ((3, 1, 28, 28), (4, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "odd": ((2, 20, 17, 13), (37, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "no padding": ((1, 33, 9, 40), (70, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "stride 2": ((2, 17, 12, 15), (70, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)),
    "stride 3 by 2": ((2, 5, 20, 23), (9, 5, 7), (3, 2), ((2, 3), (0, 5)), (1, 1)),
    "stride 2 by 1": ((2, 5, 9, 33), (9, 3, 3), (2, 1), ((0, 0), (0, 0)), (1, 1)),
    "stride beyond the kernel": ((2, 16, 8, 9), (64, 1, 1), (2, 3), ((0, 0), (0, 0)), (1, 1)),
    "rows of one vector": ((2, 20, 19, 32), (70, 3, 3), (2, 2), ((1, 1), (1, 0)), (1, 1)),
    "rows of two vectors": ((2, 5, 7, 32), (9, 5, 5), (1, 1), ((2, 1), (2, 2)), (1, 1)),
    "1 x 1": ((2, 3, 4, 5), (5, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "padding beyond the kernel": ((2, 3, 4, 5), (5, 1, 2), (1, 1), ((3, 2), (0, 4)), (1, 1)),
    "2 x 5": ((5, 4, 14, 15), (8, 2, 5), (1, 1), ((1, 0), (4, 2)), (1, 1)),
    "dilation": ((3, 6, 20, 19), (9, 3, 3), (1, 2), ((2, 1), (0, 2)), (2, 3)),
    "one place": ((9, 40, 3, 3), (50, 3, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "one row": ((2, 64, 1, 100), (64, 1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    "3 x 3": ((3, 32, 11, 18), (49, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3 x 3, large": ((3, 64, 30, 33), (70, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3 x 3, several at once": ((9, 33, 13, 14), (40, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3 x 3, more channels than places": ((3, 67, 7, 9), (40, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3 x 3, more of them, in blocks": ((2, 200, 20, 18), (20, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "3 x 3, uneven": ((2, 40, 16, 14), (64, 3, 3), (1, 1), ((0, 2), (3, 1)), (1, 1)),
}
conv, channel_sum = fast.kernel("conv", "conv"), fast.kernel("conv", "channel_sum")
conv_dX, conv_dW = fast.kernel("conv", "conv_dX"), fast.kernel("conv", "conv_dW")  # noqa: N816
each_convolution = pytest.mark.parametrize("name", CONV)


def convolution(name):
    """X, W, b, a gradient dY, and the geometry."""
    X_shape, (f, *kernel), *geometry = CONV[name]
    X, W, b = normal(*X_shape), normal(f, X_shape[1], *kernel), normal(1, f, 1, 1)
    dY = normal(*conv_ops.conv.reference(X, W, None, *geometry, 1).shape)
    return X, W, b, dY, (*geometry, 1)


def forward_and_backward(X, W, b, dY, geometry):
    """Y, dX, dW, db"""
    return [
        conv(X, W, b, *geometry),
        conv_dX(dY, W, X.shape, *geometry),
        conv_dW(dY, X, W.shape[2:], *geometry),
        channel_sum(dY),
    ]


def exactly(X, W, b, dY, geometry):
    """The same by the references, in float64."""
    X, W, b, dY = wide(X, W, b, dY)
    return [
        conv_ops.conv.reference(X, W, b, *geometry),
        conv_ops.conv_dX.reference(dY, W, X.shape, *geometry),
        conv_ops.conv_dW.reference(dY, X, W.shape[2:], *geometry),
        conv_ops.channel_sum.reference(dY),
    ]


@each_convolution
def test_convolution_at_odd_sizes(name):
    arguments = convolution(name)
    assert_close(forward_and_backward(*arguments), exactly(*arguments))


@each_convolution
def test_convolution_of_one_image_and_without_bias(name):
    X, W, _, dY, geometry = convolution(name)
    assert_close(
        [conv(X[:1], W, None, *geometry)], [conv_ops.conv.reference(*wide(X[:1], W), None, *geometry)]
    )
    one = X[:1], W, np.zeros((1, len(W), 1, 1), "float32"), dY[:1], geometry
    assert_close(forward_and_backward(*one), exactly(*one))


@pytest.mark.parametrize("name", ["odd", "stride 2", "3 x 3"])
def test_convolution_in_any_layout_has_the_same_bits(name):
    X, W, b, dY, geometry = convolution(name)
    wanted = forward_and_backward(X, W, b, dY, geometry)
    inputs = [A.copy() for A in (X, W, b, dY)]
    for arrays in zip(*map(layouts, (X, W, b, dY)), strict=True):
        got = forward_and_backward(*arrays, geometry)
        assert all(np.array_equal(A, B) for A, B in zip(got, wanted, strict=True))
        assert all(np.array_equal(A, B) for A, B in zip(arrays, inputs, strict=True))


def test_convolution_in_two_threads_at_once():
    both = [convolution("odd"), convolution("3 x 3")]
    for arguments, results in zip(both, in_two_threads(forward_and_backward, *both), strict=True):
        wanted = forward_and_backward(*arguments)
        assert len(results) == 10
        assert all(np.array_equal(A, B) for result in results for A, B in zip(result, wanted, strict=True))


@each_convolution
def test_without_threads_convolution_has_the_same_bits(name, monkeypatch):
    """One part after the other, as in a forked child."""
    arguments = convolution(name)
    wanted = forward_and_backward(*arguments)
    monkeypatch.setattr(threads.pool, "forked", True)
    got = forward_and_backward(*arguments)
    assert all(np.array_equal(A, B) for A, B in zip(got, wanted, strict=True))


def test_a_long_sum_of_a_filter_gradient_keeps_its_digits():
    X, dY = normal(600, 1, 28, 28), normal(600, 2, 28, 28)
    geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
    exact = conv_ops.conv_dW.reference(*wide(dY, X), (3, 3), *geometry)
    assert_close([conv_dW(dY, X, (3, 3), *geometry)], [exact], 2e-6)


def test_convolution_leaves_to_others_what_it_does_not_do():
    X, W, b, dY, (*geometry, _) = convolution("odd")
    assert conv(X, W[:, :10], b, *geometry, 2) is NotImplemented
    assert conv(*wide(X, W, b), *geometry, 1) is NotImplemented
    assert conv(X[:0], W, b, *geometry, 1) is NotImplemented
    assert conv_dX(dY[:0], W, (0, *X.shape[1:]), *geometry, 1) is NotImplemented
    assert conv_dW(dY[:0], X[:0], (3, 3), *geometry, 1) is NotImplemented
    assert conv(X[..., 0], W[..., 0], b[..., 0], *(g[:1] for g in geometry), 1) is NotImplemented


def test_convolution_lets_nan_and_infinity_through():
    X, W, b, _, geometry = convolution("odd")
    X[0, 3, 5, 5], X[1, 0, 0, 0] = np.nan, np.inf
    Y, wanted = conv(X, W, b, *geometry), conv_ops.conv.reference(X, W, b, *geometry)
    assert np.array_equal(np.isnan(Y), np.isnan(wanted)) and np.array_equal(np.isinf(Y), np.isinf(wanted))


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(
    "name",
    [*(name for name in CONV if name.startswith("3 x 3")), "odd", "one place", "no padding"],
)
def test_winograd(name, m, monkeypatch):
    """Whatever the rule would choose."""
    monkeypatch.setattr(conv_kernels, "_winograd_tile", lambda *shapes: m)
    arguments = convolution(name)
    called = []
    for way in ("convolve", "convolve_dW"):
        kernel = getattr(winograd, way)
        monkeypatch.setattr(winograd, way, lambda *a, kernel=kernel: called.append(a[0]) or kernel(*a))
    assert_close(forward_and_backward(*arguments), exactly(*arguments))
    assert set(called) == {m} and len(called) >= 2


def test_winograd_in_two_threads_at_once():
    both = [convolution("3 x 3, large"), convolution("3 x 3, uneven")]
    for arguments, results in zip(both, in_two_threads(forward_and_backward, *both), strict=True):
        wanted = forward_and_backward(*arguments)
        assert all(np.array_equal(A, B) for result in results for A, B in zip(result, wanted, strict=True))


def test_winograd_runs_where_it_pays_with_larger_tiles_where_they_lose_little():
    def tile(channels, size, kernel=3, stride=1):
        W_shape, steps = (channels, channels, kernel, kernel), ((stride, stride), (1, 1))
        return conv_kernels._winograd_tile(W_shape, *steps, (8, channels, size, size))

    assert (tile(64, 32), tile(256, 14), tile(512, 14), tile(1024, 14), tile(64, 2)) == (4, 4, 4, 2, 2)
    assert (tile(8, 32), tile(64, 32, 5), tile(64, 32, 3, 2)) == (0, 0, 0)
    before = select.precision.set("relaxed")
    try:
        assert (tile(64, 32), tile(1024, 14), tile(8, 32)) == (4, 4, 0)
    finally:
        select.precision.reset(before)


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_larger_tiles_keep_the_digits_that_other_libraries_keep(channels):
    X, W, dY = normal(2, channels, 12, 12), normal(channels, channels, 3, 3), normal(2, channels, 12, 12)
    arguments = X, W, normal(1, channels, 1, 1), dY, ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert conv_kernels._winograd_tile(W.shape, (1, 1), (1, 1), dY.shape) == 4
    assert_close(forward_and_backward(*arguments), exactly(*arguments))


POOLS = {  # X, kernel, stride, padding
    "2 x 2": ((20, 4, 28, 28), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "2 x 2, odd": ((50, 4, 13, 37), (2, 2), (2, 2), ((0, 0), (0, 0))),
    "2 x 2, padding": ((50, 4, 13, 37), (2, 2), (3, 2), ((1, 1), (0, 1))),
    "wide": ((2, 3, 5, 70), (2, 3), (1, 2), ((0, 0), (0, 0))),
    "padding": ((60, 4, 17, 13), (3, 3), (3, 2), ((1, 1), (1, 1))),
    "uneven padding": ((60, 4, 17, 13), (4, 5), (2, 1), ((0, 2), (2, 1))),
    "padding on one side": ((60, 9, 9, 2), (3, 4), (1, 1), ((1, 1), (2, 0))),
    "steps of 4": ((60, 4, 17, 40), (3, 3), (1, 4), ((1, 0), (1, 1))),
    "gaps": ((23, 2, 40, 15), (1, 1), (2, 2), ((0, 0), (0, 0))),
    "the whole image": ((100, 8, 3, 3), (3, 3), (3, 3), ((0, 0), (0, 0))),
}


@pytest.mark.parametrize("name", POOLS)
def test_max_pooling_has_the_bits_of_its_reference(name):
    """Ties, NaN, and windows of nothing but -inf too."""
    shape, *windows = POOLS[name]
    X = np.round(normal(*shape), 1)
    X[0, 0, 1, 1], X[1, 1] = np.nan, -np.inf
    Y, index = fast.kernel("pool", "max_pool")(X, *windows)
    wanted, winners = pool_ops.max_pool.reference(X, *windows)
    assert index.dtype == winners.dtype and np.array_equal(index, winners)
    assert Y.dtype == X.dtype and np.array_equal(Y, wanted, equal_nan=True)
    dY = normal(*Y.shape)
    dX = fast.kernel("pool", "max_pool_backward")(dY, index, X.shape, *windows)
    if dX is not NotImplemented:
        assert_close([dX], [pool_ops.max_pool_backward.reference(dY.astype("f8"), index, X.shape, *windows)])


RUNS = [(32, 9, 20, 40), (3, 5, 7, 128), (1, 4, 9, 17), (13, 3, 90, 70), (200, 2, 4, 3)]  # n, t, i, h
lstm_run = fast.kernel("recurrent", "lstm_run")
lstm_run_backward = fast.kernel("recurrent", "lstm_run_backward")


def sequences(n, t, i, h):
    """What an LSTM's run takes, and the gradients that come back to it."""
    weights = normal(i, 4 * h) / 4, normal(h, 4 * h) / 4, normal(1, 4 * h), normal(1, 4 * h)
    return [normal(n, t, i), *weights, normal(n, h), normal(n, h)], [
        normal(n, t, h),
        normal(n, h),
        normal(n, h),
    ]


def through_time(forward, backward, reverse=False, kernels=(lstm_run, lstm_run_backward)):
    """All results, and all gradients."""
    results = kernels[0](*forward, reverse)
    return [*results, *kernels[1](*backward, *forward[:3], *results[3:], reverse)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("n", "t", "i", "h"), RUNS)
def test_an_lstm_at_odd_sizes(n, t, i, h, reverse):
    forward, backward = sequences(n, t, i, h)
    references = recurrent_ops.lstm_run.reference, recurrent_ops.lstm_run_backward.reference
    exact = through_time(wide(*forward), wide(*backward), reverse, references)
    assert_close(through_time(forward, backward, reverse), exact)


def test_an_lstm_in_two_threads_at_once():
    both = [sequences(32, 9, 20, 40), sequences(13, 3, 90, 70)]
    for arguments, results in zip(both, in_two_threads(through_time, *both), strict=True):
        wanted = through_time(*arguments)
        assert len(results) == 10
        assert all(np.array_equal(A, B) for result in results for A, B in zip(result, wanted, strict=True))


def test_an_lstm_in_any_layout_has_the_same_bits():
    (X, W_ih, W_hh, *rest), (dY, *dState) = sequences(13, 3, 90, 70)
    wanted = through_time((X, W_ih, W_hh, *rest), (dY, *dState))
    for lX, lW_ih, lW_hh, ldY in zip(*map(layouts, (X, W_ih, W_hh, dY)), strict=True):
        got = through_time((lX, lW_ih, lW_hh, *rest), (ldY, *dState))
        assert all(np.array_equal(A, B) for A, B in zip(got, wanted, strict=True))


@pytest.mark.parametrize("wanted", ["float32", "relaxed"])
def test_fit_says_how_precise_kernels_are(wanted):
    seen = set()

    class Spy(dc.Function):
        def forward(self, X):
            seen.add(select.precision.get())
            return X

        def backward(self, dY):
            return dY

    net = dc.Net(layers=[Spy(), dc.Linear(2, 2)], loss=dc.CrossEntropyLoss())
    net.fit(normal(4, 2), np.array([0, 1, 0, 1]), precision=wanted)
    assert seen == {wanted} and select.precision.get() == "float32"


@pytest.mark.slow
@pytest.mark.parametrize(("width", "lanes"), [("narrow", 8), ("wide", 16)])
def test_kernels_with_and_without_avx_512(width, lanes, tmp_path):
    """Some; `nox -s widths` tests all. In a new cache: that they are compiled is said once, on stderr."""
    script = """
import numpy as np
from deepcore.backends.numpy.fast import conv, linear, writer
assert writer.LANES == lanes
X, W = np.ones((70, 300), "float32"), np.full((300, 53), 2, "float32")
X[:, 1::2] = -3
assert np.all(linear.linear(X, W) == -600)
images, filters = np.ones((2, 33, 9, 17), "float32"), np.ones((35, 33, 3, 3), "float32")
geometry = (1, 1), ((1, 1), (1, 1)), (1, 1), 1
Y = conv.conv(images, filters, None, *geometry)
assert np.allclose(Y[..., 1:-1, 1:-1], 9 * 33, 1e-5) and np.allclose(Y[..., 0, 0], 4 * 33, 1e-5)
one_empty, dY = np.ones((2, 200, 20, 18), "float32"), np.ones((2, 20, 20, 18), "float32")
one_empty[1] = 0
assert np.allclose(conv.conv_dW(dY, one_empty, (3, 3), *geometry)[:, :, 1, 1], 20 * 18, 1e-5)
"""
    command = [sys.executable, "-c", f"import tests.{width}\nlanes = {lanes}\n{script}"]
    env, root = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, Path(__file__).parents[2]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("deepcore: compiling") == 1
