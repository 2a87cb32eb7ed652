"""Every native NumPy kernel, of both tiers, against its reference. A new kernel joins by one line."""

import importlib
import pkgutil
import sys

import numpy as np
import pytest

import deepcore.backends.numpy as native
import deepcore.ops as ops
from deepcore.backends.base import Backend
from deepcore.backends.numpy import fast
from deepcore.ops.dispatch import OPS

for module in pkgutil.iter_modules(ops.__path__, "deepcore.ops."):
    importlib.import_module(module.name)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


X, G, Z = normal(7, 5), normal(7, 5, seed=1), normal(7, 4, seed=2)
W, b = normal(5, 4, seed=3), normal(1, 4, seed=4)
IMAGES, FILTERS = normal(3, 4, 7, 6), normal(8, 2, 3, 2, seed=1)
GEOMETRY = ((2, 1), ((1, 0), (1, 2)), (1, 2), 2)  # stride, padding, dilation, groups
Y = OPS["conv.conv"].reference(IMAGES, FILTERS, None, *GEOMETRY)
POOLING = ((3, 2), (2, 1), ((1, 1), (0, 1)))  # kernel, stride, padding
POOLED, INDEX = OPS["pool.max_pool"].reference(IMAGES, *POOLING)
WINDOWS = [  # for each axis
    (((0, 2), (1, 4), (3, 7)), ((0, 2), (2, 4), (4, 6))),  # of any length, regular
    (((0, 1), (0, 1), (1, 3)), ((1, 2), (2, 2), (3, 5))),  # repeated; with an empty one, after a gap
    (((0, 7),), ((0, 6),)),  # the whole image
]
y = np.array([3, 0, -100, 1, 2, 2, 0])
W_HUGE, G_HUGE = normal(1100, 1000), normal(1100, 1000, seed=1)  # worth all threads
W_LARGE, G_LARGE = normal(600, 601), normal(600, 601, seed=1)  # several blocks, in two threads
GAMMA, BETA = normal(1, 4, 1, 1, seed=5), normal(1, 4, 1, 1, seed=6)
_, MEANS, R, VAR = OPS["norm.batch_norm"].reference(IMAGES, GAMMA, BETA, 1e-5)
MEAN = MEANS[:1]

RUN = normal(5, 3, 4), normal(4, 8), normal(2, 8), normal(1, 8), normal(1, 8, seed=1), *normal(2, 5, 2)
TAPE = OPS["recurrent.lstm_run"].reference(*RUN)[3:]
RUN_BACKWARD = normal(5, 3, 2), *normal(2, 5, 2, seed=1), *RUN[:3], *TAPE

_, *OF_ROWS, _ = OPS["norm.batch_norm"].reference(normal(70, 5), X[:1], X[1:2], 1e-5)

CASES = [  # op, arguments
    *[("activation.relu", x) for x in (X, np.array([[np.nan, np.inf]], "float32"))],
    *[("activation.relu_backward", *xs) for xs in ((G, X), (normal(40, 30), normal(40, 30, seed=1)))],
    *[("activation.leaky_relu", X, alpha) for alpha in (0.1, 3.0)],
    ("activation.leaky_relu_grad", X, 0.1),
    *[(f"activation.{name}", 5 * X) for name in ("sigmoid", "sigmoid_grad", "tanh_grad")],
    *[(f"activation.{name}", 5 * X) for name in ("silu", "softplus_tail")],
    *[(f"activation.{name}", 5 * X) for name in ("tanh", "silu_grad", "gelu", "gelu_grad")],
    *[(f"activation.{name}", 5 * X) for name in ("gelu_tanh", "gelu_tanh_grad")],
    ("activation.gelu_and_slope", 5 * X),
    ("activation.chain", normal(40, 30), normal(40, 30, seed=1)),
    *[(f"activation.{name}", X, 0.7, 1.5, 1.2) for name in ("elu", "elu_grad")],
    ("conv.conv", IMAGES, FILTERS, normal(1, 8, 1, 1), *GEOMETRY),
    ("conv.conv_dX", Y, FILTERS, IMAGES.shape, *GEOMETRY),
    ("conv.conv_dW", Y, IMAGES, (3, 2), *GEOMETRY),
    ("conv.channel_sum", Y),
    ("embedding.embedding", normal(700, 256), np.arange(1200).reshape(3, 400) * 7 % 700),
    ("embedding.scatter_add", np.array([[1, 4], [1, 0]]), normal(2, 2, 3), 6),
    (
        "embedding.scatter_add",
        np.arange(60).reshape(6, 10) % 13 % 7,
        normal(6, 10, 3),
        9,
    ),  # runs short and long
    ("labels.as_index", y.astype("int32")),
    ("labels.all_within", y, 4),
    ("labels.all_within", abs(y) % 4, 4),
    ("labels.all_within", np.array([0, 4]), 4),
    *[("linear.linear", x, W, bias) for x in (X, X[0], normal(2, 3, 5)) for bias in (b, None)],
    *[("linear.linear_backward", normal(*x.shape[:-1], 4), x, W, True) for x in (X, X[0], normal(2, 3, 5))],
    *[("loss.cross_entropy", Z, y, None, -100, s, r) for s in (0.0, 0.1) for r in ("mean", "sum", "none")],
    ("loss.cross_entropy", Z, y, np.array([1.0, 2, 0.5, 1], "float32")),
    *[("loss.mean_square", X, G, per, r) for per in ("row", "element") for r in ("mean", "sum", "none")],
    ("norm.batch_norm", IMAGES, GAMMA, BETA, 1e-5),
    ("norm.batch_norm", normal(70, 5), X[:1], X[1:2], 1e-5),
    ("norm.batch_norm_backward", normal(70, 5, seed=1), normal(70, 5), *OF_ROWS, X[:1]),
    ("norm.batch_norm_backward", normal(3, 4, 7, 6, seed=7), IMAGES, MEANS, R, GAMMA),
    ("norm.batch_norm_inference", IMAGES, MEAN, VAR, GAMMA, BETA, 1e-5),
    ("norm.batch_norm_inference_backward", normal(3, 4, 7, 6, seed=7), IMAGES, MEAN, VAR, GAMMA, 1e-5),
    *[("norm.group_norm", IMAGES, GAMMA, BETA, groups, 1e-5) for groups in (1, 2, 4)],
    *[
        ("norm.group_norm_backward", normal(3, 4, 7, 6, seed=7), IMAGES, *of_groups, GAMMA)
        for groups in (1, 2, 4)
        for of_groups in [(normal(3 * groups, 2, seed=8) / 4, 0.5 + abs(normal(3 * groups, 1)))]
    ],
    ("norm.rms_norm", X, normal(1, 5), 1e-5),
    ("norm.rms_norm_backward", G, X, abs(normal(7, 1)), normal(1, 5)),
    ("pool.max_pool", IMAGES, *POOLING),
    ("pool.max_pool_backward", POOLED, INDEX, IMAGES.shape, *POOLING),
    *[("pool.window_sum", IMAGES, windows) for windows in WINDOWS],
    ("random.threefry", np.empty(0), 9, (3, 5), 2, 1),
    *[("recurrent.lstm_run", *RUN, reverse) for reverse in (False, True)],
    *[("recurrent.lstm_run_backward", *RUN_BACKWARD, reverse) for reverse in (False, True)],
    *[("reduce.column_sum", normal(n, c)) for n, c in ((1000, 3), (9, 3), (0, 3), (64, 0))],
    ("reduce.column_sum", abs(normal(70, 300))),  # so that no digits cancel
    ("update.adam", W_LARGE, G_LARGE, G_LARGE, abs(G_LARGE), 1e-3, 0.03, (0.9, 0.999), 1e-8, 0.1, 0.99),
    ("update.adam", W_LARGE, G_LARGE, G_LARGE, abs(G_LARGE), 1e-3, 0.03, (0.9, 0.999), 1e-8, 0.0),
    ("update.sgd", W_LARGE, G_LARGE, W_LARGE, 0.1, 0.9, False, 0.0),
    ("update.sgd", W_HUGE, G_HUGE, None, 0.1, 0.0, False, 0.0),
    *[(f"softmax.{name}", X, axis) for name in ("softmax", "log_softmax") for axis in (0, -1)],
    *[(f"softmax.{name}_backward", G, X, axis) for name in ("softmax", "log_softmax") for axis in (0, -1)],
]


CASES += [
    ("update.sgd", X, G, None, 0.1, 0.0, False, 0.01),
    *[("update.sgd", X, G, 2 * G, 0.1, 0.9, nesterov, 0.0) for nesterov in (False, True)],
    *[
        ("update.adam", X, G, 2 * G, X * X, 0.1, 0.5, (0.9, 0.99), 1e-8, d, k)
        for d, k in ((0, 0.9), (0.1, None))
    ],
]


X_LARGE, W_LONG, G_WIDE = normal(96, 128) / 16, normal(128, 96) / 16, normal(96, 96) / 16
PLAIN = ((2, 1), ((1, 0), (1, 2)), (1, 1), 1)
WHOLE = normal(8, 4, 3, 2) / 8
Y_PLAIN = OPS["conv.conv"].reference(IMAGES, WHOLE, None, *PLAIN)
CASES += [  # of a size, or in a geometry, that compiled kernels serve
    ("linear.linear", X_LARGE, W_LONG, normal(1, 96)),
    ("linear.linear_backward", G_WIDE, X_LARGE, W_LONG, True),
    ("conv.conv", IMAGES, WHOLE, normal(1, 8, 1, 1), *PLAIN),
    ("conv.conv_dX", Y_PLAIN / 8, WHOLE, IMAGES.shape, *PLAIN),
    ("conv.conv_dW", Y_PLAIN / 8, IMAGES / 8, (3, 2), *PLAIN),
]


def kernel_of(op):
    family, _, name = op.partition(".")
    return Backend.kernel(native.NumpyBackend(), family, name)


def compiled_kernel_of(op):
    return fast.kernel(*op.split("."))


compiled_tier = pytest.mark.skipif(not fast.usable(), reason='needs numba: pip install "deepcore[fast]"')


NATIVE = [op for op in OPS if kernel_of(op) is not None]


@pytest.mark.parametrize("op", NATIVE)
def test_a_native_kernel_gives_what_its_reference_gives(op):
    served = 0
    for _, *arguments in [case for case in CASES if case[0] == op]:
        got = kernel_of(op)(*arguments)
        if got is not NotImplemented:
            served += 1
            assert_same(got, OPS[op].reference(*arguments))
    assert served  # there is a case that it does not hand on


def assert_same(got, wanted):
    for a, e in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, wanted)), strict=True):
        if e is None:
            assert a is None
            continue
        assert np.shape(a) == np.shape(e) and np.result_type(a) == np.result_type(e)
        np.testing.assert_allclose(a, e, rtol=2e-6, atol=2e-6)


def test_every_native_kernel_has_a_case():
    cases = {case[0] for case in CASES}
    assert {*NATIVE, *COMPILED} == cases if fast.usable() else {*NATIVE} <= cases


COMPILED = [op for op in OPS if compiled_kernel_of(op) is not None]


@compiled_tier
@pytest.mark.parametrize("op", COMPILED)
@pytest.mark.parametrize("many", [False, True], ids=["one thread", "threads"])
def test_a_compiled_kernel_gives_what_its_reference_gives(op, many, monkeypatch):
    """In one thread and in all of them, in float32 and float64."""
    from deepcore.backends.numpy.fast import compiled

    monkeypatch.setattr(compiled, "WORTH_COMPILED", 0)
    if many:
        monkeypatch.setattr(compiled, "WORTH_THREADS", 0)
        if sys.platform == "linux":  # GNU OpenMP starts as many as are asked for
            monkeypatch.setattr(compiled.pool, "count", lambda: 3)
            monkeypatch.setattr(compiled.pool, "parts", lambda: 3)
    served = 0
    for _, *arguments in [case for case in CASES if case[0] == op]:
        for dtype in ("float32", "float64"):
            inputs = [of_dtype(x, dtype) for x in arguments]
            before = [x.copy() if isinstance(x, np.ndarray) else x for x in inputs]
            got = compiled_kernel_of(op)(*inputs)
            np.testing.assert_equal(inputs, before)
            if got is not NotImplemented:
                served += dtype == "float32"
                assert_same(got, OPS[op].reference(*inputs))
    assert served  # there is a case that it does not hand on


@compiled_tier
@pytest.mark.parametrize("op", COMPILED)
def test_a_compiled_kernel_reads_nothing_beyond_an_array(op, monkeypatch):
    """With one array cut short along one axis it hands on, raises, or does what its reference does."""
    from deepcore.backends.numpy.fast import compiled

    monkeypatch.setattr(compiled, "WORTH_COMPILED", 0)
    for _, *arguments in [case for case in CASES if case[0] == op]:
        inputs = [of_dtype(x, "float32") for x in arguments]
        for place, x in enumerate(inputs):
            axes = range(x.ndim) if isinstance(x, np.ndarray) else ()
            for axis in [axis for axis in axes if x.shape[axis] > 1]:
                short = np.array(np.delete(x, -1, axis))
                other = [*inputs[:place], short, *inputs[place + 1 :]]
                try:
                    got = compiled_kernel_of(op)(*other)
                except Exception:
                    continue
                if got is not NotImplemented:
                    assert_same(got, OPS[op].reference(*other))


def of_dtype(x, dtype):
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
