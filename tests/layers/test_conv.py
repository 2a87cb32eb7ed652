"""Convolutions and their transposes beside torch's, over a grid of settings; shapes and errors."""

import itertools

import numpy as np
import pytest

import deepcore as dc
from tests.layers.peer import compare

RANKS = [1, 2, 3]
SIZES = (9, 8, 7)
GRID = [
    settings
    for settings in itertools.product((1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2), (1, 2, 4), (True, False))
    # kernel, stride, padding, dilation, groups, bias: a third of them, so that each pair of values occurs
    if sum(settings) % 3 == 1
]
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
ranks = pytest.mark.parametrize("rank", RANKS)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the peer compared with")


def images(rank, channels=4, sizes=None):
    return np.random.default_rng(0).standard_normal((2, channels, *(sizes or SIZES[:rank])))


@dtypes
@ranks
def test_conv_agrees_with_torch(torch, rank, dtype):
    for kernel, stride, padding, dilation, groups, bias in GRID:
        settings = kernel, stride, padding, dilation, groups, bias
        f = getattr(dc, f"Conv{rank}D")(4, 8, *settings)
        compare(f, getattr(torch.nn, f"Conv{rank}d")(4, 8, *settings), images(rank), dtype)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")  # it copies X
@dtypes
@ranks
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_agrees_with_torch(torch, rank, kernel, dilation, dtype):
    f = getattr(dc, f"Conv{rank}D")(4, 2, kernel, padding="same", dilation=dilation)
    twin = getattr(torch.nn, f"Conv{rank}d")(4, 2, kernel, padding="same", dilation=dilation)
    compare(f, twin, images(rank), dtype)
    assert f(images(rank)).shape == (2, 2, *SIZES[:rank])


@dtypes
@ranks
def test_conv_transpose_agrees_with_torch(torch, rank, dtype):
    for kernel, stride, padding, dilation, groups, bias in GRID:
        if 2 * padding > dilation * (kernel - 1):  # torch's output would be empty for a single place
            continue
        for beyond in range(max(stride, dilation)):
            settings = kernel, stride, padding, beyond, groups, bias, dilation
            f = getattr(dc, f"ConvTranspose{rank}D")(4, 8, *settings)
            twin = getattr(torch.nn, f"ConvTranspose{rank}d")(4, 8, *settings)
            compare(f, twin, images(rank, sizes=(5, 3, 2)[:rank]), dtype)


UNEVEN = [
    dict(kernel_size=(2, 3), stride=(3, 1), padding=(1, 0), dilation=(1, 2), groups=2),
    dict(kernel_size=(1, 4), stride=(2, 3), padding=(0, 3), dilation=(2, 1)),
]


@dtypes
@pytest.mark.parametrize("settings", UNEVEN, ids=str)
def test_settings_that_differ_by_axis(torch, settings, dtype):
    compare(dc.Conv2D(4, 6, **settings), torch.nn.Conv2d(4, 6, **settings), images(2), dtype)
    settings = settings | {"output_padding": (1, 0)}
    twin = torch.nn.ConvTranspose2d(4, 6, **settings)
    compare(dc.ConvTranspose2D(4, 6, **settings), twin, images(2), dtype)


@ranks
def test_defaults_and_shapes_of_the_weights(rank):
    f = getattr(dc, f"Conv{rank}D")(4, 6, groups=2)
    assert f.weight["W"].shape == (6, 2, *(3,) * rank) and f.weight["b"].shape == (1, 6, *(1,) * rank)
    f = getattr(dc, f"ConvTranspose{rank}D")(4, 6, groups=2)
    assert f.weight["W"].shape == (4, 3, *(3,) * rank) and f.weight["b"].shape == (1, 6, *(1,) * rank)
    assert f(np.zeros((2, 4, *(5,) * rank))).shape == (2, 6, *(7,) * rank)
    assert repr(f) == f"ConvTranspose{rank}D(4, 6, groups=2)"
    assert f.weight["W"].dtype == "float32" and not f.weight["b"].any()


def test_he_initialisation_counts_what_goes_into_one_unit():
    for f in (dc.Conv1D(64, 64, 5, groups=4), dc.ConvTranspose1D(64, 64, 5, groups=4)):
        assert f.weight["W"].std() == pytest.approx((2 / (16 * 5)) ** 0.5, rel=0.03)


@ranks
def test_the_transpose_is_the_adjoint(rank):
    """<conv(A), B> = <A, conv_transpose(B)> with one W: the definition of a transposed map."""
    settings = dict(kernel_size=3, stride=2, padding=1, bias=False, dtype="float64")
    f = getattr(dc, f"Conv{rank}D")(2, 4, **settings)
    g = getattr(dc, f"ConvTranspose{rank}D")(4, 2, **settings)
    g.weight["W"] = f.weight["W"]
    A = images(rank, 2, (7, 5, 3)[:rank])
    Y = f(A)
    B = np.random.default_rng(2).standard_normal(Y.shape)
    assert np.vdot(Y, B) == pytest.approx(np.vdot(A, g(B)), rel=1e-12)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@ranks
def test_float16(kind, rank):
    """As float32 rounded: sums of 64 * 8 * 8 * 27 numbers would overflow or drown."""
    f = getattr(dc, f"{kind}{rank}D")(2, 3, 3, stride=2, padding=1, dtype="float16")
    X = images(rank, 2).astype("float16")
    wide = getattr(dc, f"{kind}{rank}D")(2, 3, 3, stride=2, padding=1)
    for name, W in f.weight.items():
        wide.weight[name] = W.astype("float32")
    Y, wanted = f(X), wide(X.astype("float32"))
    assert Y.dtype == "float16"
    np.testing.assert_allclose(Y, wanted, rtol=2e-3, atol=2e-3)
    dX, wanted = f.backward(np.ones_like(Y)), wide.backward(np.ones_like(wanted))
    assert dX.dtype == "float16" and {dW.dtype for dW in f.weight_update.values()} == {Y.dtype}
    np.testing.assert_allclose(dX, wanted, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(f.weight_update["W"], wide.weight_update["W"], rtol=2e-3, atol=2e-3)


ERRORS = [
    (
        lambda: dc.Conv1D(2, 3)(np.zeros((1, 3, 5))),
        "Conv1D(2, 3): X must have shape (n, 2, w), got (1, 3, 5)",
    ),
    (lambda: dc.Conv3D(2, 3)(np.zeros((2, 5, 5, 5))), "X must have shape (n, 2, d, h, w), got (2, 5, 5, 5)"),
    (lambda: dc.Conv1D(2, 3, dilation=3)(np.zeros((1, 2, 6))), "the 3 kernel spans 7 with its dilation"),
    (
        lambda: dc.ConvTranspose2D(2, 3)(np.zeros((1, 3, 5, 5))),
        "X must have shape (n, 2, h, w), got (1, 3, 5, 5)",
    ),
    (lambda: dc.ConvTranspose2D(2, 3)(np.zeros((2, 5, 5))), "X must have shape (n, 2, h, w), got (2, 5, 5)"),
    (lambda: dc.ConvTranspose1D(1, 1, 1, padding=1)(np.zeros((1, 1, 2))), "padding would leave 0; use less"),
    (
        lambda: dc.ConvTranspose2D(1, 1, output_padding=1),
        "output_padding must be less than the stride or the",
    ),
    (lambda: dc.ConvTranspose2D(4, 3, groups=2), "groups must divide in_channels and out_channels"),
    (
        lambda: dc.ConvTranspose3D(4, 3, (2, 2)),
        "ConvTranspose3D: kernel_size must be an int >= 1 or 3 of them",
    ),
    (
        lambda: dc.ConvTranspose2D(4, 3, padding="same"),
        "padding must be an int >= 0 or 2 of them, got 'same'",
    ),
]


@pytest.mark.parametrize("wrong, message", ERRORS, ids=[message for _, message in ERRORS])
def test_errors_say_what_was_wanted(wrong, message):
    with pytest.raises(dc.DeepcoreError) as error:
        wrong()
    assert message in str(error.value)
