"""On a GPU: each native kernel against its reference in float64, over sizes and dtypes; `pytest -m gpu`.

Everything else that deepcore promises is tested on CuPy by the battery (tests/battery.py), which it joins by
itself where it works.
"""

import importlib
import os
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends.registry import get_backend
from deepcore.ops.dispatch import OPS
from tests.places import CUPY

from .cases import BY_CUDNN, TOLERANCE, cases, dtype_of, named, normal, results, targets
from .test_cudnn import MASKS
from .test_nets import attentive, averaging, cnn, gru, losses, lstm, mlp, rnn, words

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(CUPY.why_not is not None, reason=str(CUPY.why_not)),
    pytest.mark.filterwarnings("default"),  # CuPy's own, of a library that it lacks, say
]

DTYPES = list(TOLERANCE)
CASES = cases(large=True)


def kernel_of(op):
    family, _, name = op.partition(".")
    return get_backend("cupy").kernel(family, name)


def there(x, dtype):
    """An argument as it is handed to CuPy, and as float64 holds the very same numbers."""
    if not isinstance(x, np.ndarray):
        return x, x
    if x.dtype.kind != "f":
        return dc.to_backend(x, "cupy"), x
    on_gpu = get_backend("cupy").asarray(x, dtype)
    return on_gpu, dc.to_numpy(on_gpu).astype(np.float64)


def host(x):
    return dc.to_numpy(x).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_kernel_gives_what_the_reference_gives_in_float64(case, dtype):
    op, *arguments = case
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="CuPy's bfloat16 needs ml_dtypes")
    pairs = [there(x, dtype) for x in arguments]
    got = kernel_of(op)(*(x for x, _ in pairs))
    if got is NotImplemented:
        pytest.skip(f"the kernel leaves {dtype} to the reference")
    wanted = OPS[op].reference(*(x for _, x in pairs))
    for k, (a, e) in enumerate(zip(results(got), results(wanted), strict=True)):
        assert a.shape == np.shape(e)
        assert a.dtype.name == (dtype_of(op, k, dtype) if np.asarray(e).dtype.kind == "f" else e.dtype)
        atol = TOLERANCE[dtype] * max(float(np.abs(e).max()), 1e-30)
        np.testing.assert_allclose(host(a), e, rtol=TOLERANCE[dtype], atol=atol)


CONVOLUTIONS = [case for case in CASES if case[0].startswith("conv.conv")]
PRODUCTS = [case for case in CASES if case[0].startswith("linear.")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=named)
def test_convolution_without_cudnn(case, dtype, monkeypatch):
    monkeypatch.setattr(importlib.import_module("deepcore.backends.cupy.cudnn"), "load", lambda: None)
    test_a_kernel_gives_what_the_reference_gives_in_float64(case, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CONVOLUTIONS + PRODUCTS, ids=named)
def test_algorithms_that_were_tried_give_the_same(case, dtype, monkeypatch):
    monkeypatch.setenv("DEEPCORE_AUTOTUNE", "1")
    test_a_kernel_gives_what_the_reference_gives_in_float64(case, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cudnn_has_plans_if_it_is_there(dtype):
    cudnn = importlib.import_module("deepcore.backends.cupy.cudnn")
    if cudnn.load() is None:
        pytest.skip("cuDNN or its package isn't installed")
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="CuPy's bfloat16 needs ml_dtypes")
    X, W = (there(normal(*shape), dtype)[0] for shape in [(4, 8, 9, 9), (16, 8, 3, 3)])
    how = (1, 1), ((1, 1), (1, 1)), (1, 1)
    Y = cudnn.conv(X, W, (4, 16, 9, 9), *how)
    assert Y is not NotImplemented
    assert cudnn.conv_dX(Y, W, X.shape, *how) is not NotImplemented
    assert cudnn.conv_dW(Y, X, W.shape, *how) is not NotImplemented


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_attention_in_16_bits(dtype, mask):
    """By cuDNN where it is there; heads lie as split_heads leaves them."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="CuPy's bfloat16 needs ml_dtypes")
    pairs = [there(normal(2, t, 3, 64, seed=seed), dtype) for seed, t in enumerate((6, 5, 5, 6))]
    arrays, wide = zip(*((x.swapaxes(1, 2), e.swapaxes(1, 2)) for x, e in pairs), strict=True)
    allowed, forward, backward = MASKS[mask], *(OPS[f"attention.attention{end}"] for end in ("", "_backward"))
    Y, P = forward(*arrays[:3], None if allowed is None else dc.to_backend(allowed, "cupy"))
    if importlib.import_module("deepcore.backends.cupy.cudnn").load() is not None:
        assert type(P).__name__ == "Attended"
    with np.errstate(invalid="ignore"):
        wanted_Y, wanted_P = forward.reference(*wide[:3], allowed)
    wanted = backward.reference(wide[3], *wide[:3], wanted_P)
    found = Y, P[...], *backward(arrays[3], *arrays[:3], P)
    for a, e in zip(found, (wanted_Y, wanted_P, *wanted), strict=True):
        np.testing.assert_allclose(host(a), e, rtol=0, atol=4 * TOLERANCE[dtype] * np.abs(e).max())


@pytest.mark.parametrize("op", sorted({case[0] for case in CASES}))
def test_a_reference_runs_on_cupy_too(op):
    """It is what takes over where a kernel answers NotImplemented."""
    of_op = [case for case in CASES if case[0] == op]
    _, *arguments = next((case for case in of_op if case[1].size > 20), of_op[-1])
    pairs = [there(x, "float32") for x in arguments]
    got = OPS[op].reference(*(x for x, _ in pairs))
    wanted = OPS[op].reference(*(x for _, x in pairs))
    for a, e in zip(results(got), results(wanted), strict=True):
        np.testing.assert_allclose(host(a), e, rtol=1e-5, atol=1e-5 * np.abs(e).max())


def test_every_kernel_has_a_case():
    assert {op for op in OPS if kernel_of(op) is not None} == {case[0] for case in CASES} | BY_CUDNN


def test_arrays_that_are_views():
    """Off a 16-byte boundary, transposed, with steps: the same bits as of a copy."""
    import cupy

    base = cupy.asarray(normal(1 + 6 * 77).astype("float32"))
    softmax = kernel_of("softmax.softmax")
    views = [base[1:].reshape(6, 77), base[1:].reshape(77, 6).T, base[: 6 * 76].reshape(6, 76)[:, ::-2]]
    for X in views:
        assert bool((softmax(X) == softmax(cupy.array(X, order="C"))).all())


@pytest.mark.parametrize("d", [10, 15, 20, 40, 80])
def test_cross_entropy_where_the_label_is_nearly_certain(d):
    X, y = (
        dc.to_backend(np.array([[d, 0, 0]], "float32"), "cupy"),
        dc.to_backend(np.zeros(1, "int64"), "cupy"),
    )
    L, dX = kernel_of("loss.cross_entropy")(X, y)
    s = 2 * np.exp(-float(d))
    assert abs(float(L) / np.log1p(s) - 1) < 5e-7
    assert abs(float(dX[0, 0]) / (-s / (1 + s)) - 1) < 5e-7


def test_cross_entropy_waits_for_nothing():
    """Ten losses of a large batch are launched in less time than one takes."""
    import cupy

    X = cupy.ones((8192, 32000), "float32")
    y = cupy.zeros(8192, "int64")
    cross_entropy = kernel_of("loss.cross_entropy")
    cross_entropy(X, y)
    start, launched, done = (cupy.cuda.Event() for _ in range(3))
    cupy.cuda.Device().synchronize()
    start.record()
    for _ in range(10):
        cross_entropy(X, y)
    launched.record()
    assert not launched.done  # the host is here, the device isn't
    done.record()
    done.synchronize()


def test_the_order_is_always_the_same():
    X = dc.to_backend(normal(64, 50257).astype("float32"), "cupy")
    softmax = kernel_of("softmax.softmax")
    first = softmax(X)
    assert all(bool((softmax(X) == first).all()) for _ in range(5))


def test_a_net_trains_there_as_on_numpy_and_comes_back():
    X, y = normal(64, 20).astype("float32"), targets(64, 5)

    def train(place):
        dc.seed(0)
        net = dc.Net([dc.Linear(20, 32), dc.ReLU(), dc.Linear(32, 5)], dc.CrossEntropyLoss())
        net.to(place, **({} if place == "numpy" else {"device": 0}))
        net.fit(X, y, epochs=3, batch_size=16, seed=1)
        return net

    here, gpu = train("numpy"), train("cupy")
    for path, W in gpu.parameters().items():
        assert dc.backend_of(W) == "cupy" and get_backend("cupy").device(W) == 0
        np.testing.assert_allclose(host(W), here.parameters()[path], rtol=1e-4, atol=1e-5)
    opened = pickle.loads(pickle.dumps(gpu))
    assert all(dc.backend_of(W) == "numpy" for W in opened.parameters().values())
    assert all(dc.backend_of(W) == "numpy" for W in gpu.to("numpy").parameters().values())
    with pytest.raises(dc.BackendUnavailable, match="wanted device 99, but there are"):
        gpu.to("cupy", device=99)


@pytest.mark.parametrize("make", [mlp, cnn, averaging, attentive, words, lstm, gru, rnn])
def test_a_compiled_step_is_captured_and_does_what_calls_do(make):
    rule = dc.optim.SGD if make is attentive else dc.optim.AdamW  # as in test_nets
    wanted, weights, _ = losses(make, rule(0.01), "cupy", compiled=False)
    got, captured, step = losses(make, rule(0.01), "cupy", compiled=True)
    (program,) = step._programs.values()
    assert program.function.why_not is None and len(program.function.graphs) == 2
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    for path, W in weights.items():
        np.testing.assert_allclose(captured[path], W, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("precision", ["relaxed", "bf16", "fp16"])
def test_mixed_precision_learns_as_float32_does(precision, compile):
    if precision == "bf16":
        pytest.importorskip("ml_dtypes", reason="CuPy's bfloat16 needs ml_dtypes")
    X, y = normal(256, 9).astype("float32"), np.arange(256) % 3
    found = []
    for p in ("float32", precision):
        dc.seed(0)
        net = dc.Net(mlp(), dc.CrossEntropyLoss()).to("cupy")
        options = {"epochs": 4, "optimizer": dc.optim.AdamW(0.01), "seed": 1, "clip_norm": 1.0}
        found.append(net.fit(X, y, precision=p, compile=compile, **options).history["loss"])
        assert all(W.dtype.name == "float32" for W in net.parameters().values())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=0.03)


@pytest.mark.slow
def test_ten_thousand_captured_steps_need_no_more_memory():
    import cupy

    net = dc.Net(mlp(), dc.CrossEntropyLoss()).to("cupy")
    step = net.compile(dc.optim.AdamW())
    X, y = dc.to_backend(normal(8, 9).astype("float32"), "cupy"), dc.to_backend(np.arange(8) % 3, "cupy")
    for _ in range(100):
        float(step(X, y))
    pool = cupy.get_default_memory_pool()
    before = pool.total_bytes(), cupy.cuda.runtime.memGetInfo()[0]
    for _ in range(10_000):
        loss = step(X, y)
    assert np.isfinite(float(loss)) and pool.total_bytes() == before[0]
    if "PYTEST_XDIST_WORKER" not in os.environ:  # else other processes use the same GPU
        assert before[1] - cupy.cuda.runtime.memGetInfo()[0] < 1 << 22


def test_views_of_one_memory():
    import cupy

    backend, A = get_backend("cupy"), cupy.zeros((4, 6), "float32")
    assert backend.memory_owner(A[1:].T) is A
    assert backend.share_memory(A, A.T) and not backend.share_memory(A[:, :3], A[:, 3:])
    assert not backend.share_memory(A, A.copy())
