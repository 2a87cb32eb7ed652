"""Normalisation beside torch's, over a grid of settings; running statistics, shapes and errors."""

import numpy as np
import pytest

import deepcore as dc
from tests.layers.peer import compare

RANKS = [1, 2, 3]
NAMES = (("gamma", "weight"), ("beta", "bias"))
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
ranks = pytest.mark.parametrize("rank", RANKS)
epsilons = pytest.mark.parametrize("epsilon", [1e-5, 0.1])


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="torch is the peer compared with")


def numbers(*shape):
    return np.random.default_rng(0).normal(1, 2, shape)


def shuffled(module):
    """Weights and running statistics that are no zeros and ones."""
    random = np.random.default_rng(2)
    for W in (*module.parameters(), *(b for b in module.buffers() if b.ndim)):
        W.data[...] = W.new_tensor(random.uniform(0.5, 1.5, tuple(W.shape)))
    return module


BATCHES = {1: [(6, 4), (3, 4, 5), (2, 4, 1)], 2: [(3, 4, 5, 2), (2, 4, 1, 1)], 3: [(3, 4, 2, 3, 2)]}


@dtypes
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.3, 0.0])
@pytest.mark.parametrize("rank, shape", [(rank, shape) for rank in RANKS for shape in BATCHES[rank]], ids=str)
def test_batch_norm_agrees_with_torch(torch, rank, shape, momentum, training, dtype):
    twin = shuffled(getattr(torch.nn, f"BatchNorm{rank}d")(4, eps=1e-3, momentum=momentum)).train(training)
    f = getattr(dc, f"BatchNorm{rank}D")(4, epsilon=1e-3, momentum=momentum)
    f.training = training
    for name in ("running_mean", "running_var"):
        f.buffer[name] = getattr(twin, name).numpy().reshape(f.buffer[name].shape).astype(dtype)
    compare(f, twin, numbers(*shape), dtype, NAMES)
    for name in ("running_mean", "running_var"):
        mine, theirs = getattr(f, name), getattr(twin, name).numpy()
        assert mine.shape == (1, 4, *(1,) * rank) and mine.dtype == dtype
        np.testing.assert_allclose(mine.ravel(), theirs, rtol=1e-6)


@dtypes
@epsilons
@pytest.mark.parametrize("shape", [(5,), (3, 5), (2, 3, 5)], ids=str)
def test_layer_and_rms_norm_agree_with_torch(torch, shape, epsilon, dtype):
    X = numbers(4, 2, 3, 5)
    compare(dc.LayerNorm(shape, epsilon), shuffled(torch.nn.LayerNorm(shape, epsilon)), X, dtype, NAMES)
    compare(dc.RMSNorm(shape, epsilon), shuffled(torch.nn.RMSNorm(shape, epsilon)), X, dtype, NAMES[:1])
    one_sample = X[0, 0] if len(shape) < 3 else X[0]  # shape may be all of X's axes
    compare(
        dc.LayerNorm(shape, epsilon), shuffled(torch.nn.LayerNorm(shape, epsilon)), one_sample, dtype, NAMES
    )


@dtypes
@epsilons
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("spatial", [(4,), (3, 2), (2, 3, 2)], ids=str)
def test_group_norm_agrees_with_torch(torch, groups, spatial, epsilon, dtype):
    twin = shuffled(torch.nn.GroupNorm(groups, 6, epsilon))
    compare(dc.GroupNorm(groups, 6, epsilon), twin, numbers(4, 6, *spatial), dtype, NAMES)


@dtypes
@epsilons
@ranks
def test_instance_norm_agrees_with_torch(torch, rank, epsilon, dtype):
    X = numbers(4, 6, *(3, 2, 4)[:rank])
    twin = shuffled(getattr(torch.nn, f"InstanceNorm{rank}d")(6, epsilon, affine=True))
    f = getattr(dc, f"InstanceNorm{rank}D")(6, epsilon)
    compare(f, twin, X, dtype, NAMES)
    f.training = False
    twin.eval()
    compare(f, twin, X, dtype, NAMES)
    # torch's default, without weights, is the layer as it is made
    plain = getattr(torch.nn, f"InstanceNorm{rank}d")(6, epsilon)
    Y = getattr(dc, f"InstanceNorm{rank}D")(6, epsilon, dtype=dtype)(X.astype(dtype))
    np.testing.assert_allclose(Y, plain(torch.tensor(X.astype(dtype))).numpy(), rtol=2e-5, atol=2e-6)


def test_defaults_and_shapes_of_the_weights():
    for f, shape, shown in [
        (dc.BatchNorm1D(4), (1, 4, 1), "BatchNorm1D(4)"),
        (dc.BatchNorm3D(4), (1, 4, 1, 1, 1), "BatchNorm3D(4)"),
        (dc.LayerNorm(4), (4,), "LayerNorm(4)"),
        (dc.LayerNorm((3, 4)), (3, 4), "LayerNorm((3, 4))"),
        (dc.RMSNorm(4), (4,), "RMSNorm(4)"),
        (dc.GroupNorm(2, 4), (4,), "GroupNorm(2, 4)"),
        (dc.InstanceNorm2D(4), (1, 4, 1, 1), "InstanceNorm2D(4)"),
    ]:
        assert f.epsilon == 1e-5 and repr(f) == shown
        assert {W.shape for W in f.weight.values()} == {shape}
        assert (f.weight["gamma"] == 1).all() and not f.weight.get("beta", np.zeros(1)).any()


def test_an_epsilon_of_numpy_widens_nothing():
    X = numbers(3, 4, 5).astype("float32")
    for f in (
        dc.LayerNorm(5, np.float64(0.1)),
        dc.RMSNorm(5, np.float64(0.1)),
        dc.GroupNorm(2, 4, np.float64(1)),
    ):
        assert f(X).dtype == f.backward(X).dtype == "float32"


@pytest.mark.parametrize("f", [dc.LayerNorm(400), dc.RMSNorm(400), dc.GroupNorm(1, 400), dc.BatchNorm1D(400)])
def test_float16_sums_in_float32(f):
    """The squares of 400 numbers around 100 add up to 4e6: float16 ends at 65,504. It rounds 100 by 0.03."""
    for name, W in f.weight.items():
        f.weight[name] = W.astype("float16")
    for name, B in f.buffer.items():
        f.buffer[name] = B.astype("float16")
    X = (100 + numbers(7, 400)).astype("float16")
    Y, dY = f(X), X[::-1] - np.float16(100)
    wide = type(f)(*([1, 400] if isinstance(f, dc.GroupNorm) else [400]), dtype="float64")
    np.testing.assert_allclose(Y, wide(X.astype("float64")), rtol=2e-3, atol=2e-3)
    dX = f.backward(dY)
    np.testing.assert_allclose(dX, wide.backward(dY.astype("float64")), rtol=2e-3, atol=4e-3)
    assert Y.dtype == "float16" and dX.dtype == "float16"
    assert {dW.dtype for dW in f.weight_update.values()} == {Y.dtype}


ERRORS = [
    (
        lambda: dc.BatchNorm1D(3)(np.zeros((2, 4))),
        "BatchNorm1D(3): X must have shape (n, 3) or (n, 3, w), got (2, 4)",
    ),
    (lambda: dc.BatchNorm1D(3)(np.zeros((2, 3, 4, 4))), "(n, 3) or (n, 3, w), got (2, 3, 4, 4)"),
    (lambda: dc.BatchNorm1D(3)(np.zeros((1, 3))), "more than one value per channel, got X: (1, 3);"),
    (
        lambda: dc.BatchNorm3D(3)(np.zeros((2, 3, 4, 4))),
        "X must have shape (n, 3, d, h, w), got (2, 3, 4, 4)",
    ),
    (lambda: dc.LayerNorm(3)(np.zeros((2, 4))), "LayerNorm(3): X must have shape (..., 3), got (2, 4)"),
    (lambda: dc.LayerNorm((2, 3))(np.zeros(3)), "X must have shape (..., 2, 3), got (3,)"),
    (lambda: dc.RMSNorm(3)(np.zeros((3, 4))), "RMSNorm(3): X must have shape (..., 3), got (3, 4)"),
    (lambda: dc.RMSNorm(3)(np.zeros((3, 3), int)), "wanted floating-point numbers, got int64"),
    (
        lambda: dc.GroupNorm(2, 4)(np.zeros((2, 6, 4))),
        "GroupNorm(2, 4): X must have shape (n, 4, ...), got (2, 6, 4)",
    ),
    (
        lambda: dc.InstanceNorm1D(4)(np.zeros((2, 4))),
        "InstanceNorm1D(4): X must have shape (n, 4, w), got (2, 4)",
    ),
    (
        lambda: dc.InstanceNorm2D(4)(np.zeros((2, 4, 1, 1))),
        "needs more than one value per channel and sample",
    ),
    (lambda: dc.GroupNorm(2, 5), "GroupNorm: groups must divide channels, got 2 for 5"),
    (lambda: dc.LayerNorm(()), "LayerNorm: shape must be an int >= 1, got ()"),
    (lambda: dc.LayerNorm((2, 0)), "LayerNorm: shape must be an int >= 1 or 2 of them, got (2, 0)"),
    (lambda: dc.LayerNorm(2, epsilon=-1), "LayerNorm: epsilon must be a finite number, 0 or more, got -1"),
    (lambda: dc.InstanceNorm3D(0), "InstanceNorm3D: n_channels must be an int >= 1, got 0"),
]


@pytest.mark.parametrize("wrong, message", ERRORS, ids=[message for _, message in ERRORS])
def test_errors_say_what_was_wanted(wrong, message):
    with pytest.raises(dc.DeepcoreError) as error:
        wrong()
    assert message in str(error.value)
