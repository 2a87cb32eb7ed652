import itertools

import numpy as np
import pytest

from deepcore.backends.numpy import conv as alone
from deepcore.backends.numpy import threads, winograd
from deepcore.errors import ShapeError
from deepcore.ops import conv as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
DEVICES = ["CPU_DEVICE", "device1", "no_float64"]

# (images, channels, sizes), (filters, kernel), stride, padding, dilation, groups
CASES = [
    pytest.param((2, 3, 9), (4, 3), 1, (0, 0), 1, 1, id="1d"),
    pytest.param((2, 4, 9), (6, 4), 2, (1, 2), 2, 2, id="1d strided, dilated, grouped"),
    pytest.param((3, 1, 8, 7), (4, 3, 3), 1, (1, 1), 1, 1, id="2d one channel"),
    pytest.param((3, 4, 7, 8), (2, 3, 3), 1, (1, 1), 1, 1, id="2d rows as views"),
    pytest.param((2, 1, 7, 8), (20, 3, 2), 1, (0, 1), 1, 1, id="2d many filters"),
    pytest.param((2, 3, 9, 8), (4, 3, 2), 2, (1, 0), 1, 1, id="2d strided"),
    pytest.param((2, 3, 11, 12), (4, 2, 3), 3, (2, 1), 2, 1, id="2d strided and dilated"),
    pytest.param((2, 4, 6, 6), (8, 3, 3), 1, (1, 1), 1, 4, id="2d depthwise"),
    pytest.param((2, 6, 6, 5), (4, 3, 3), 1, (2, 2), 2, 2, id="2d grouped and dilated"),
    pytest.param((2, 3, 4, 5), (5, 1, 1), 1, (0, 0), 1, 1, id="2d 1x1"),
    pytest.param((2, 3, 4, 5), (5, 1, 1), 1, (1, 1), 1, 1, id="2d padding beyond the kernel"),
    pytest.param((2, 2, 5, 4, 6), (3, 3, 2, 3), 1, (1, 1), 1, 1, id="3d"),
    pytest.param((2, 4, 5, 6, 5), (4, 2, 3, 2), 2, (0, 1), 1, 2, id="3d strided, grouped"),
    pytest.param((0, 3, 6, 6), (4, 3, 3), 1, (1, 1), 1, 1, id="no images"),
    pytest.param((2, 16, 9), (3, 3), 2, (1, 2), 2, 1, id="1d many channels"),
    pytest.param((3, 17, 6, 8), (3, 3, 2), 2, (0, 1), 1, 1, id="2d many channels"),
    pytest.param((2, 16, 4, 5, 3), (2, 2, 1, 3), 1, (1, 0), 1, 1, id="3d many channels"),
    pytest.param((0, 16, 6, 6), (4, 3, 3), 2, (1, 1), 1, 1, id="no images, many channels"),
]


def arrays(X_shape, f_kernel, stride, pair, dilation, groups, dtype=np.float64):
    """X, W, b and the geometry of a case."""
    random = np.random.default_rng(0)
    rank = len(X_shape) - 2
    X = random.standard_normal(X_shape).astype(dtype)
    W = random.standard_normal((f_kernel[0], X_shape[1] // groups, *f_kernel[1:])).astype(dtype)
    b = random.standard_normal((1, f_kernel[0], *(1,) * rank)).astype(dtype)
    return X, W, b, ((stride,) * rank, (pair,) * rank, (dilation,) * rank, groups)


def gradient_like(Y):
    return np.random.default_rng(1).standard_normal(Y.shape).astype(Y.dtype)


def forward_and_backward(X, W, b, geometry, reference=False, home=ops):
    """Y, dX, dW, db by the kernels that are there, by the references, or by those of a module."""
    found = (home.conv, home.conv_dX, home.conv_dW, home.channel_sum)
    conv, conv_dX, conv_dW, channel_sum = (op.reference if reference else op for op in found)
    Y = conv(X, W, b, *geometry)
    dY = gradient_like(Y)
    dX = conv_dX(dY, W, X.shape, *geometry)
    return Y, dX, conv_dW(dY, X, W.shape[2:], *geometry), channel_sum(dY)


def conv_by_loops(X, W, b, stride, padding, dilation, groups):
    """The sum of the docstring, number by number."""
    X = np.pad(X, [(0, 0), (0, 0), *padding])
    f, c_group, *kernel = W.shape
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(x - span) // s + 1 for x, span, s in zip(X.shape[2:], spans, stride, strict=True)]
    Y = np.zeros((X.shape[0], f, *out))
    for n, i, *p in np.ndindex(*Y.shape):
        first = i // (f // groups) * c_group
        for j, *k in np.ndindex(c_group, *kernel):
            at = [s * q + d * r for s, q, d, r in zip(stride, p, dilation, k, strict=True)]
            Y[(n, i, *p)] += W[(i, j, *k)] * X[(n, first + j, *at)]
    return Y + b


def close(A, B, tolerance):
    A, B = np.asarray(A), np.asarray(B)
    assert A.shape == B.shape
    scale = np.abs(B).max(initial=1.0)
    np.testing.assert_allclose(A / scale, B / scale, rtol=0, atol=tolerance)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the peer compared with")


either = pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])
each_case = pytest.mark.parametrize("case", [p.values for p in CASES], ids=[p.id for p in CASES])


@either
@each_case
def test_forward_is_the_sum_of_the_docstring(case, reference):
    X, W, b, geometry = arrays(*case)
    conv = ops.conv.reference if reference else ops.conv
    close(conv(X, W, b, *geometry), conv_by_loops(X, W, b, *geometry), 1e-13)


@either
@each_case
def test_gradients_are_those_of_finite_differences(case, reference):
    X, W, b, geometry = arrays(*case)
    Y, *gradients = forward_and_backward(X, W, b, geometry, reference)
    dY = gradient_like(Y)
    random = np.random.default_rng(2)
    for A, dA in zip((X, W, b), gradients, strict=True):
        step = random.standard_normal(A.shape)
        before, after = A - step / 2, A + step / 2  # Y is linear in each: any step is exact
        change = ops.conv(*(after if B is A else B for B in (X, W, b)), *geometry)
        change -= ops.conv(*(before if B is A else B for B in (X, W, b)), *geometry)
        assert dA.shape == A.shape
        assert np.sum(dA * step) == pytest.approx(np.sum(dY * change), rel=1e-10, abs=1e-10)


@either
@each_case
def test_agrees_with_torch(case, reference, torch):
    X, W, b, geometry = arrays(*case)
    stride, padding, dilation, groups = geometry
    Y, dX, dW, db = forward_and_backward(X, W, b, geometry, reference)
    tX, tW, tb = (torch.tensor(A, requires_grad=True) for A in (X, W, b))
    pairs = list(itertools.chain(*reversed(padding)))
    tconv = getattr(torch.nn.functional, f"conv{len(stride)}d")
    tY = tconv(torch.nn.functional.pad(tX, pairs), tW, tb.reshape(-1), stride, 0, dilation, groups)
    tY.backward(torch.tensor(gradient_like(Y)))
    for ours, theirs in [(Y, tY.detach()), (dX, tX.grad), (dW, tW.grad), (db, tb.grad)]:
        close(ours, theirs, 1e-12)


def test_many_blocks_of_images():
    """Blocks hold several images here, and the last one fewer."""
    X, W, b, geometry = arrays((71, 4, 20, 21), (6, 3, 3), 1, (1, 1), 1, 1)
    native = forward_and_backward(X, W, b, geometry)
    for A, B in zip(native, forward_and_backward(X, W, b, geometry, reference=True), strict=True):
        close(A, B, 1e-12)


@pytest.mark.parametrize("images", [0, 1, 5, 14])
@pytest.mark.parametrize("sizes", [(8, 8), (9, 14), (19, 6)], ids=str)
@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (2, 1)), ((3, 0), (0, 2))], ids=str)
def test_winograd_is_the_same_sum(images, sizes, pads, monkeypatch):
    """Tiles that stick out, images that fill no block, any padding; in one thread and in several."""
    X, W, b, (stride, _, *rest) = arrays((images, 48, *sizes), (52, 3, 3), 1, (0, 0), 1, 1)
    geometry = (stride, pads, *rest)
    exact = forward_and_backward(X, W, b, geometry)
    used = []
    for name in ("convolve", "convolve_dW"):
        f = getattr(winograd, name)
        monkeypatch.setattr(winograd, name, lambda *a, f=f, **k: [f(*a, **k), used.append(f)][0])
    for count in (1, 3):
        monkeypatch.setattr(threads, "count", lambda count=count: count)
        ours = forward_and_backward(*(A.astype(np.float32) for A in (X, W, b)), geometry, home=alone)
        for A, B in zip(ours, exact, strict=True):
            close(A, B, 3e-6)
    direct_dX = pads[0][0] > 2  # as a convolution dY would need padding below 0
    assert len(used) == 2 * ((1 if images else 0) + (1 if direct_dX else 2))


def test_winograd_spreads_what_is_not_finite():
    X, W, _, geometry = arrays((1, 48, 12, 12), (48, 3, 3), 1, (1, 1), 1, 1, dtype=np.float32)
    X[0, 3, 5, 5] = np.inf
    Y = ops.conv(X, W, None, *geometry)
    assert not np.any(np.isfinite(Y[:, :, 4:7, 4:7]))
    assert np.all(np.isfinite(Y[:, :, 8:, 8:]))


@pytest.mark.parametrize("case", [p.values for p in CASES], ids=[p.id for p in CASES])
def test_threads_give_what_one_gives(case, monkeypatch):
    from deepcore.backends.numpy import conv as native

    X, W, b, geometry = arrays(*case)
    one = forward_and_backward(X, W, b, geometry)
    monkeypatch.setattr(native, "_SHARE", 1)
    monkeypatch.setattr(threads, "count", lambda: 2)
    for A, B in zip(forward_and_backward(X, W, b, geometry), one, strict=True):
        close(A, B, 1e-13)


@pytest.mark.parametrize("device", DEVICES)
@each_case
def test_reference_runs_on_every_device(case, device):
    X, W, b, geometry = arrays(*case, dtype=np.float32)
    on = strict.Device(device)
    sX, sW, sb = (strict.asarray(A, device=on) for A in (X, W, b))
    Y = ops.conv(sX, sW, sb, *geometry)
    dY = strict.asarray(gradient_like(np.zeros(Y.shape, np.float32)), device=on)
    theirs = Y, *ops.conv_backward(dY, sX, sW, True, *geometry)
    for A, B in zip(theirs, forward_and_backward(X, W, b, geometry), strict=True):
        assert A.device == on
        assert A.dtype == strict.float32
        close(A.to_device(strict.Device("CPU_DEVICE")), B, 1e-5)


def test_conv_backward_gives_all_three_or_no_bias():
    X, W, b, geometry = arrays((2, 3, 9, 8), (4, 3, 2), 2, (1, 0), 1, 1)
    Y, dX, dW, db = forward_and_backward(X, W, b, geometry)
    dY = gradient_like(Y)
    for A, B in zip(ops.conv_backward(dY, X, W, True, *geometry), (dX, dW, db), strict=True):
        assert np.array_equal(A, B)
    assert ops.conv_backward(dY, X, W, False, *geometry)[2] is None
    assert np.array_equal(ops.conv(X, W, None, *geometry), ops.conv(X, W, 0 * b, *geometry))


def layouts(A):
    """The same numbers, laid out differently in memory."""
    read_only = A.copy()
    read_only.flags.writeable = False
    strided = np.repeat(A, 2, axis=0)[::2]
    turned = np.flip(np.flip(A).copy())
    return [read_only, np.asfortranarray(A), strided, turned]


@pytest.mark.parametrize("case", [CASES[3].values, CASES[5].values, CASES[9].values])
def test_any_layout_gives_the_same_bits(case):
    X, W, b, geometry = arrays(*case, dtype=np.float32)
    wanted = forward_and_backward(X, W, b, geometry)
    dY = gradient_like(wanted[0])
    inputs = [X.copy(), W.copy(), b.copy(), dY.copy()]
    for lX, lW, lb, ldY in zip(*map(layouts, (X, W, b, dY)), strict=True):
        got = ops.conv(lX, lW, lb, *geometry), *ops.conv_backward(ldY, lX, lW, True, *geometry)
        for A, B in zip(got, wanted, strict=True):
            assert np.array_equal(A, B)
        for A, B in zip((lX, lW, lb, ldY), inputs, strict=True):
            assert np.array_equal(A, B)


def test_zero_strides():
    X, W, _, geometry = arrays((2, 3, 6, 6), (4, 3, 3), 1, (1, 1), 1, 1)
    dY = np.ones((2, 4, 6, 6))
    broadcast = np.broadcast_to(np.ones(()), dY.shape)
    for A, B in zip(
        ops.conv_backward(broadcast, X, W, True, *geometry),
        ops.conv_backward(dY, X, W, True, *geometry),
        strict=True,
    ):
        assert np.array_equal(A, B)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_stays(dtype):
    for case in CASES:
        X, W, b, geometry = arrays(*case.values, dtype=dtype)
        for A in forward_and_backward(X, W, b, geometry):
            assert A.dtype == dtype


@either
def test_float16_sums_in_float32(reference):
    X = np.full((4, 2, 40, 40), 8.0, np.float16)
    W = np.full((1, 2, 3, 3), 0.01, np.float16)
    geometry = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    exact = conv_by_loops(X[:1, :, :5, :5].astype(float), W.astype(float), 0.0, *geometry)
    conv = ops.conv.reference if reference else ops.conv
    assert conv(X, W, None, *geometry)[0, 0, 2, 2] == np.float16(exact[0, 0, 2, 2])
    dY = np.full((4, 1, 40, 40), 0.01, np.float16)
    dW = (ops.conv_dW.reference if reference else ops.conv_dW)(dY, X, (3, 3), *geometry)
    assert dW[0, 0, 1, 1] == np.float16(6400 * 8.0 * float(dY[0, 0, 0, 0]))


def test_overflow_gives_inf_and_no_warning():
    X = np.full((1, 2, 5, 5), 3e38, np.float32)
    W = np.full((1, 2, 3, 3), 2.0, np.float32)
    Y, dX, dW, _ = forward_and_backward(X, W, W[:1, :1, :1, :1], ((1, 1), ((1, 1), (1, 1)), (1, 1), 1))
    assert np.all(np.isinf(Y))
    assert np.all(np.isfinite(dX))
    assert not np.any(np.isfinite(dW))


def test_bias_gradient_is_accurate():
    dY = (np.random.default_rng(0).standard_normal((4096, 2, 16, 16)) + 1).astype(np.float32)
    exact = dY.sum(axis=(0, 2, 3), dtype=np.float64).reshape(1, 2, 1, 1)
    for channel_sum in (ops.channel_sum, ops.channel_sum.reference):
        assert np.max(np.abs(channel_sum(dY) / exact - 1)) < 2e-7


@pytest.mark.parametrize("channels", [32, 64, 256])
def test_float32_is_as_accurate_as_torch(torch, channels):
    case = (8, channels, 20, 20), (channels, 3, 3), 1, (1, 1), 1, 1
    exact = forward_and_backward(*arrays(*case))
    ours = forward_and_backward(*arrays(*case, dtype=np.float32))
    for A, B in zip(ours, exact, strict=True):
        close(A, B, 5e-6)  # torch's own error is 3e-7 to 4e-6


def test_a_kernel_larger_than_the_image_is_refused():
    with pytest.raises(ShapeError, match="the 5x5 kernel is larger than the padded 3x3 input"):
        ops.conv(np.zeros((1, 1, 3, 3)), np.zeros((1, 1, 5, 5)), None, (1, 1), ((0, 0),) * 2, (1, 1), 1)
