import numpy as np
import pytest

from deepcore.ops import norm as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

# the native kernels, and the references on devices that don't mix
everywhere = pytest.mark.parametrize("place", ["numpy", "CPU_DEVICE", "device1", "no_float64"])
in_float64 = pytest.mark.parametrize("place", ["numpy", "reference", "CPU_DEVICE"])
SHAPES = [(7, 3), (40, 5), (1, 3, 6), (4, 3, 5), (4, 3, 1, 1), (2, 3, 4, 5), (2, 3, 2, 3, 2)]
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
EPSILON = 1e-5


def run(place, name, *args):
    """An op at a place: arrays go there, and the results come back, as a tuple."""
    f = getattr(ops, name)
    if place in ("numpy", "reference"):
        results = (f if place == "numpy" else f.reference)(*args)
        return results if isinstance(results, tuple) else (results,)
    device = strict.Device(place)
    moved = (strict.asarray(a, device=device) if isinstance(a, np.ndarray) else a for a in args)
    results = f(*moved)
    results = results if isinstance(results, tuple) else (results,)
    assert {x.device for x in results} == {device}
    return tuple(np.asarray(x.to_device(strict.Device("CPU_DEVICE"))) for x in results)


def numbers(shape, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def per_channel(shape, dtype="float64"):
    """gamma and beta for X of this shape"""
    shape = (1, shape[1]) + (1,) * (len(shape) - 2)
    return numbers(shape, dtype, 1), numbers(shape, dtype, 2)


def but_channels(X):
    return (0, *range(2, X.ndim))


def definition(X, gamma, beta):
    """Y, mean, r, var in float64, the mean in two parts"""
    X, axes = X.astype("float64"), but_channels(X)
    mean, var = X.mean(axis=axes, keepdims=True), X.var(axis=axes, keepdims=True)
    r = (var + EPSILON) ** -0.5
    return gamma * (X - mean) * r + beta, np.concat([mean, 0 * mean]), r, var


@in_float64
@shapes
def test_values(place, shape):
    X, (gamma, beta) = 3 + 2 * numbers(shape), per_channel(shape)
    results = run(place, "batch_norm", X, gamma, beta, EPSILON)
    for result, right in zip(results, definition(X, gamma, beta), strict=True):
        assert result.shape == right.shape
        np.testing.assert_allclose(result, right, rtol=1e-12, atol=1e-12)
    _, mean, _, var = results
    (Y,) = run(place, "batch_norm_inference", X, mean[:1], var, gamma, beta, EPSILON)
    np.testing.assert_allclose(Y, results[0], rtol=1e-12, atol=1e-12)


@in_float64
@pytest.mark.parametrize("shape", [(6, 3), (3, 2, 4), (2, 2, 2, 3)], ids=str)
def test_gradients_are_those_of_finite_differences(place, shape):
    X, dY, (gamma, beta) = numbers(shape), numbers(shape, seed=3), per_channel(shape)
    mean, var = per_channel(shape)[0], per_channel(shape)[1] ** 2 + 1
    _, *statistics, _ = run(place, "batch_norm", X, gamma, beta, EPSILON)

    def training(X, gamma, beta):
        return run(place, "batch_norm", X, gamma, beta, EPSILON)[0]

    def inference(X, gamma, beta):
        return run(place, "batch_norm_inference", X, mean, var, gamma, beta, EPSILON)[0]

    for f, gradients in (
        (training, run(place, "batch_norm_backward", dY, X, *statistics, gamma)),
        (inference, run(place, "batch_norm_inference_backward", dY, X, mean, var, gamma, EPSILON)),
    ):
        for place_of_A, gradient in enumerate(gradients):
            assert gradient.shape == (X, gamma, beta)[place_of_A].shape
            for i in np.ndindex(*gradient.shape):
                ends = []
                for h in (1e-5, -1e-5):
                    arrays = [X.copy(), gamma.copy(), beta.copy()]
                    arrays[place_of_A][i] += h
                    ends.append((f(*arrays) * dY).sum())
                assert gradient[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


# ---- accuracy


@everywhere
@pytest.mark.parametrize("shape", [(4096, 32), (4096, 32, 1, 1), (64, 32, 8, 8), (8, 32, 64, 64)], ids=str)
@pytest.mark.parametrize("offset", [0, 1e4, 1e6])
def test_data_far_from_zero_is_right_to_2e_6(place, offset, shape):
    """torch is off by 0.025 at 1e4 and by 5.2 at 1e6."""
    X = (offset + numbers(shape)).astype("float32")
    gamma = np.ones((1, 32) + (1,) * (len(shape) - 2), "float32")
    beta = np.zeros_like(gamma)
    right = definition(X, gamma, beta)
    Y, mean, r, var = run(place, "batch_norm", X, gamma, beta, EPSILON)
    assert np.abs(Y - right[0]).max() <= 2e-6
    lost = mean.sum(axis=0, dtype="float64") - right[1].sum(axis=0)
    assert np.abs(lost).max() <= 1e-7  # beside a spread of 1
    for result, wanted in zip((mean[:1], r, var), (right[1][:1], *right[2:]), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=5e-7, atol=1e-7)


@everywhere
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_so_is_its_gradient(place, offset):
    X, dY = (offset + numbers((4096, 32))).astype("float32"), numbers((4096, 32), "float32", 3)
    gamma, beta = np.ones((1, 32), "float32"), np.zeros((1, 32), "float32")
    right_H, _, right_r, _ = definition(X, gamma, beta)
    _, *statistics, _ = run(place, "batch_norm", X, gamma, beta, EPSILON)
    dX, dgamma, dbeta = run(place, "batch_norm_backward", dY, X, *statistics, gamma)
    dY = dY.astype("float64")
    mean_HdY, mean_dY = (right_H * dY).mean(axis=0), dY.mean(axis=0)
    assert np.abs(dX - right_r * (dY - mean_dY - right_H * mean_HdY)).max() <= 2e-6
    assert np.abs(dgamma / 4096 - mean_HdY).max() <= 1e-7
    assert np.abs(dbeta / 4096 - mean_dY).max() <= 1e-7


@everywhere
def test_a_gradient_over_very_many_rows(place):
    """2e-7, where np.mean over axis 0 is off by 1.5e-2."""
    shape = (1_250_000, 4)
    dY = np.random.default_rng(0).random(shape, dtype="float32")
    ones, zeros = np.ones((1, 4), "float32"), np.zeros((1, 4), "float32")
    right = dY.sum(axis=0, dtype="float64")
    H = np.ones(shape, "float32")
    _, dgamma, dbeta = run(place, "batch_norm_backward", dY, H, np.concat([zeros, zeros]), ones, ones)
    assert np.abs(dbeta / right - 1).max() <= 2e-7
    assert np.abs(dgamma / right - 1).max() <= 2e-7
    _, _, dbeta = run(place, "batch_norm_inference_backward", dY, H, zeros, ones, ones, EPSILON)
    assert np.abs(dbeta / right - 1).max() <= 2e-7


# ---- arrays of every kind


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_stays(dtype):
    shape = (6, 3, 4)
    X, dY, (gamma, beta) = numbers(shape, dtype), numbers(shape, dtype, 3), per_channel(shape, dtype)
    Y, *statistics, var = ops.batch_norm(X, gamma, beta, EPSILON)
    assert {A.dtype for A in (*statistics, var)} == {np.promote_types(dtype, "float32")}
    mean = statistics[0][:1].astype(dtype)
    results = [Y, *ops.batch_norm_backward(dY, X, *statistics, gamma)]
    var = var.astype(dtype)
    results.append(ops.batch_norm_inference(X, mean, var, gamma, beta, EPSILON))
    results += ops.batch_norm_inference_backward(dY, X, mean, var, gamma, EPSILON)
    assert {A.dtype for A in results} == {X.dtype}
    np.testing.assert_allclose(Y, definition(X, gamma, beta)[0], rtol=0, atol=16 * np.finfo(dtype).eps)


def test_float16_is_summed_in_float32():
    X = (100 + numbers((4096, 2))).astype("float16")  # the sum is 409,600
    gamma, beta = np.ones((1, 2), "float16"), np.zeros((1, 2), "float16")
    Y, mean, *_ = ops.batch_norm(X, gamma, beta, EPSILON)
    np.testing.assert_allclose(mean[:1], 100, rtol=2e-3)
    np.testing.assert_allclose(Y, definition(X, gamma, beta)[0], rtol=0, atol=4e-3)


def test_the_largest_numbers_give_no_warning():
    X = np.float32([[-3e38, 1], [3e38, 1]])
    gamma, beta = np.ones((1, 2), "float32"), np.zeros((1, 2), "float32")
    Y, mean, r, var = ops.batch_norm(X, gamma, beta, EPSILON)
    assert var[0, 0] == np.inf
    np.testing.assert_array_equal(Y[:, 1], 0)
    ops.batch_norm_backward(X, X, mean, r, gamma)
    ops.batch_norm_inference(X, mean[:1], np.ones_like(gamma), 1000 * gamma, beta, EPSILON)
    ops.batch_norm_inference_backward(X, X, mean[:1], np.ones_like(gamma), 1000 * gamma, EPSILON)


def test_squares_that_overflow_where_deviations_do_not():
    X = np.float32(1e21) + np.float32(1e16) * numbers((64, 3, 40), "float32")
    gamma, beta = np.ones((1, 3, 1), "float32"), np.zeros((1, 3, 1), "float32")
    Y, *statistics, _ = ops.batch_norm(X, gamma, beta, EPSILON)
    right = definition(X, gamma, beta)[0]
    np.testing.assert_allclose(Y, right, rtol=0, atol=2e-6)
    _, dgamma, _ = ops.batch_norm_backward(Y, X, *statistics, gamma)
    np.testing.assert_allclose(dgamma, Y[0, 0].size * 64, rtol=1e-5)


@everywhere
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2), (2, 3, 0)], ids=str)
def test_no_values(place, shape):
    X, (gamma, beta) = np.zeros(shape, "float32"), per_channel(shape, "float32")
    Y, mean, r, var = run(place, "batch_norm", X, gamma, beta, EPSILON)
    dX, dgamma, dbeta = run(place, "batch_norm_backward", X, X, mean, r, gamma)
    assert Y.shape == dX.shape == shape
    for total in (mean[:1], var, dgamma, dbeta):
        np.testing.assert_array_equal(total, np.zeros(gamma.shape))


@everywhere
def test_nan_stays_in_its_channel(place):
    X = numbers((4, 3), "float32")
    X[1, 1] = np.nan
    gamma, beta = per_channel(X.shape, "float32")
    for A in run(place, "batch_norm", X, gamma, beta, EPSILON):
        np.testing.assert_array_equal(np.isnan(A).all(axis=0), [False, True, False])
        np.testing.assert_array_equal(np.isnan(A).any(axis=0), [False, True, False])


@pytest.mark.parametrize("shape", [(40, 40), (20, 20, 20), (300, 40, 20)], ids=str)
def test_layouts_give_the_same_bits_and_inputs_stay_as_they_are(shape):
    A = numbers(shape, "float32")
    (gamma, beta), (mean, spread) = per_channel(shape, "float32"), per_channel(shape, "float32")
    for view in (A.swapaxes(0, -1), A[::-1, ..., ::-1], np.asfortranarray(A), np.broadcast_to(A[0], shape)):
        if view.shape[1] != shape[1]:
            continue
        view.flags.writeable = False
        copy = np.ascontiguousarray(view).copy()
        results = []
        for X in (view, copy):
            first = _, *statistics, _ = ops.batch_norm(X, gamma, beta, EPSILON)
            results.append(
                [
                    *first,
                    *ops.batch_norm_backward(X, X, *statistics, gamma),
                    ops.batch_norm_inference(X, mean, spread**2, gamma, beta, EPSILON),
                    *ops.batch_norm_inference_backward(X, X, mean, spread**2, gamma, EPSILON),
                ]
            )
        for a, b in zip(*results, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(view, copy)


@shapes
def test_torch_agrees(shape):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    X, dY, (gamma, beta) = numbers(shape), numbers(shape, seed=3), per_channel(shape)
    mean, var = (np.abs(A) + 1 for A in per_channel(shape))
    for training in (True, False):
        x = torch.tensor(X, requires_grad=True)
        g, b = (torch.tensor(A.ravel(), requires_grad=True) for A in (gamma, beta))
        running = [torch.tensor(A.ravel()) for A in (mean, var)]
        y = torch.nn.functional.batch_norm(x, *running, g, b, training=training, eps=EPSILON)
        y.backward(torch.tensor(dY))
        if training:
            Y, *statistics, _ = ops.batch_norm(X, gamma, beta, EPSILON)
            gradients = ops.batch_norm_backward(dY, X, *statistics, gamma)
        else:
            Y = ops.batch_norm_inference(X, mean, var, gamma, beta, EPSILON)
            gradients = ops.batch_norm_inference_backward(dY, X, mean, var, gamma, EPSILON)
        np.testing.assert_allclose(Y, y.detach().numpy(), rtol=0, atol=1e-12)
        for A, a in zip(gradients, (x, g, b), strict=True):
            np.testing.assert_allclose(A.ravel(), a.grad.numpy().ravel(), rtol=0, atol=1e-11)


def test_numpys_buffers_are_as_before():
    """Long rows want smaller ones, but only as long as a kernel runs."""
    from deepcore.backends.numpy import norm as native

    X, gamma, beta = numbers((4, 3, 1000), "float32"), *per_channel((4, 3, 1000), "float32")
    before = np.getbufsize()
    _, mean, r, _ = native.batch_norm(X, gamma, beta, EPSILON)
    native.batch_norm_backward(X, X, mean, r, gamma)
    _, mean, r = native.group_norm(X, gamma, beta, 3, EPSILON)
    native.group_norm_backward(X, X, mean, r, gamma)
    _, r = native.rms_norm(X[:, 0], X[:1, 0], EPSILON)
    native.rms_norm_backward(X[:, 0], X[:, 0], r, X[:1, 0])
    assert np.getbufsize() == before


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_of_numpys_own_kernels(threads, monkeypatch):
    """Many blocks, the last one smaller, give what one would."""
    from deepcore.backends.numpy import norm as native

    monkeypatch.setattr(native.threads, "count", lambda: threads)
    monkeypatch.setattr(native, "_BLOCK", 80)
    monkeypatch.setattr(native, "_SHARED_BLOCK", 120)
    X, dY = numbers((50, 12), "float32"), numbers((50, 12), "float32", 1)
    gamma, beta = numbers((1, 12), "float32", 2), numbers((1, 12), "float32", 3)
    _, mean, r = got = native.group_norm(X, gamma, beta, 2, 1e-5)
    _, s = got_rms = native.rms_norm(X, gamma, 1e-5)
    kept = dY, X, mean, r, gamma
    pairs = [
        (got, ops.group_norm.reference(X, gamma, beta, 2, 1e-5)),
        (got_rms, ops.rms_norm.reference(X, gamma, 1e-5)),
        (native.group_norm_backward(*kept), ops.group_norm_backward.reference(*kept)),
        (native.rms_norm_backward(dY, X, s, gamma), ops.rms_norm_backward.reference(dY, X, s, gamma)),
    ]
    for results, wanted in pairs:
        for a, b in zip(results, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-6, atol=5e-6)
