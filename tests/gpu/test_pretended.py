"""CuPy's native kernels without a GPU: as they are called, on a CuPy that runs them on the host.

Each case is compared with its reference in float64. test_emulation.py has more to say of softmax and loss.
"""

import re

import numpy as np
import pytest

from deepcore.backends.cupy.kernels import FAMILIES, source
from deepcore.ops.dispatch import OPS

from . import emulation
from .cases import BY_CUDNN, TOLERANCE, cases, dtype_of, named, results
from .emulation import kernel_names
from .pretend import kernel_of, pretended
from .test_emulation import NUMBERS, each_dtype

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation of CUDA needs g++")

CASES = cases(large=False)
OF_FAMILY = {
    f: [case for case in CASES if case[0].startswith(f"{f}.")]
    for f in sorted({c[0].partition(".")[0] for c in CASES})
}


@pytest.fixture
def cupy():
    with pretended() as cupy:
        yield cupy


def there(cupy, x, dtype):
    """An argument as it is handed to CuPy, and as float64 holds the very same numbers."""
    if not isinstance(x, np.ndarray):
        return x, x
    if x.dtype.kind != "f":
        return cupy.array(x), x
    x = x.astype(NUMBERS[dtype])
    return cupy.array(x), x.astype(np.float64)


@each_dtype
@pytest.mark.parametrize("family", OF_FAMILY)
def test_kernels_give_what_their_references_give_in_float64(family, dtype, cupy, record_property):
    worst: dict[str, list[float]] = {}
    for op, *arguments in OF_FAMILY[family]:
        case = named((op, *arguments))
        pairs = [there(cupy, x, dtype) for x in arguments]
        got = kernel_of(op)(*(x for x, _ in pairs))
        assert got is not NotImplemented, case
        wanted = OPS[op].reference(*(x for _, x in pairs))
        for k, (a, e) in enumerate(zip(results(got), results(wanted), strict=True)):
            assert a.shape == np.shape(e), case
            assert a.dtype.name == (dtype_of(op, k, dtype) if np.asarray(e).dtype.kind == "f" else e.dtype), (
                case
            )
            largest = max(float(np.abs(e).max()), 1e-30)
            np.testing.assert_allclose(
                a.astype(np.float64), e, TOLERANCE[dtype], TOLERANCE[dtype] * largest, err_msg=case
            )
            off = float(np.abs(a.astype(np.float64) - e).max()) / largest
        worst.setdefault(op, []).append(off)
    for op, errors in worst.items():
        record_property("emulated", [op, dtype, len(errors), max(errors)])
    dtypes = FAMILIES.get(family, ())
    for made_for in {dtype} & set(dtypes) or dtypes:
        there_are = {f"{name}_{made_for}" for name in kernel_names(source(family, made_for))}
        assert there_are <= cupy.launched, "a kernel that no case launches"


@pytest.mark.skipif("bfloat16" not in NUMBERS, reason="bfloat16 needs ml_dtypes")
@pytest.mark.parametrize("op", sorted({case[0] for case in CASES}))
def test_references_take_bfloat16(op, cupy):
    """They run where a kernel answers NotImplemented; CuPy's finfo, which is NumPy's, knows no bfloat16."""
    _, *arguments = next(case for case in CASES if case[0] == op)
    pairs = [there(cupy, x, "bfloat16") for x in arguments]
    got, wanted = (results(OPS[op].reference(*of)) for of in zip(*pairs, strict=True))
    for a, e in zip(got, wanted, strict=True):
        atol = 4 * TOLERANCE["bfloat16"] * max(float(np.abs(e).max()), 1e-30)
        np.testing.assert_allclose(np.asarray(a, np.float64), e, rtol=0, atol=atol)


def test_every_kernel_has_a_case(cupy):
    assert {op for op in OPS if has_kernel(op)} == {case[0] for case in CASES} | BY_CUDNN


def has_kernel(op):
    try:
        return kernel_of(op) is not None
    except ModuleNotFoundError:
        return False


# ---- accuracy, as NUMERICS wants it of float32


def off(got, wanted):
    """The largest relative error."""
    return float(np.abs(np.asarray(got, np.float64) / wanted - 1).max())


def run(cupy, op, *arguments):
    """What a kernel makes of float32 arrays, and its reference of the very same numbers in float64."""
    pairs = [there(cupy, x, "float32") for x in arguments]
    return kernel_of(op)(*(x for x, _ in pairs)), OPS[op].reference(*(x for _, x in pairs))


@pytest.mark.parametrize(
    "name, low, high, most",
    [
        ("sigmoid", -87, 110, 3e-7),
        ("log_sigmoid", -110, 80, 2.5e-7),
        ("softplus", -80, 110, 2.5e-7),
        ("silu", -87, 110, 6e-7),
        ("gelu", -13, 13, 1e-6),
        ("tanh", -20, 20, 3e-7),
    ],
)
def test_activations_are_accurate_far_out(name, low, high, most, cupy):
    X = np.concatenate([np.linspace(low, high, 4001), np.geomspace(1e-6, 1, 99), -np.geomspace(1e-6, 1, 99)])
    got, wanted = run(cupy, f"activation.{name}", X[X != 0])
    assert off(got, wanted) <= most


@pytest.mark.parametrize("name", [c[0] for c in CASES if c[0].startswith("activation.")])
def test_activations_of_nan_and_infinity(name, cupy):
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0])
    settings = next(c[2:] for c in CASES if c[0] == name)
    arguments = (special, special) if name.endswith("_backward") else (special, *settings)
    with np.errstate(invalid="ignore"):
        got, wanted = run(cupy, name, *arguments)
    np.testing.assert_array_equal(got, wanted.astype(np.float32))


def test_layer_norm_of_numbers_around_1e4(cupy):
    X = 1e4 + np.random.default_rng(0).standard_normal((4, 1024))
    (Y, _, _), (wanted, _, _) = run(
        cupy, "norm.group_norm", X, np.ones((1, 1024)), np.zeros((1, 1024)), 1, 1e-5
    )
    assert np.abs(Y - wanted).max() <= 5e-6


@pytest.mark.parametrize("center", [1e4, 1e6])
def test_batch_norm_of_numbers_around(center, cupy):
    X = center + np.random.default_rng(0).standard_normal((1024, 8))
    X[0, 0] = 0  # the number that the others are measured from may itself be far away
    (Y, *_), (wanted, *_) = run(cupy, "norm.batch_norm", X, np.ones((1, 8)), np.zeros((1, 8)), 1e-5)
    assert np.abs(Y - wanted).max() <= 2e-6


def test_a_column_of_many_numbers_is_summed_accurately(cupy):
    X = np.random.default_rng(0).random((20_000, 3))
    got, wanted = run(cupy, "reduce.column_sum", X)
    assert off(got, wanted) <= 2e-7


# ---- planted faults


@pytest.mark.parametrize(
    "op, old, new",
    [
        (  # a race: a sum is overwritten by the next one where a warp runs ahead
            "norm.batch_norm",
            "        __syncthreads();  // all have read before the next sum is written\n",
            "",
        ),
        (
            "activation.relu",
            "            if (i + j < n) Y[i + j] = y.each[j];",
            "            Y[i + j] = y.each[j];",
        ),
        ("norm.group_norm_backward", "row = walker; row < rows;", "row = walker + 1; row < rows;"),
        ("conv.conv_dX", "start % stride == 0 &&", ""),
        ("pool.max_pool", "!(x > best) && x == x", "!(x >= best) && x == x"),
        ("random.threefry", "keys[(group + 2) % 3] + group + 1", "keys[(group + 2) % 3] + group"),
        ("embedding.scatter_add", "i < first[k + 1];", "i < first[k + 1] - 1;"),
        ("update.adam", "sqrt(square) / root", "sqrt(square)"),
    ],
    ids=lambda x: x if re.fullmatch(r"\w+\.\w+", x) else "",
)
def test_a_planted_fault_is_found(op, old, new):
    with pretended([(old, new)]) as cupy, pytest.raises(AssertionError):
        for case in (c for c in CASES if c[0] == op):
            for _ in range(6):
                got, wanted = run(cupy, *case)
                for a, e in zip(results(got), results(wanted), strict=True):
                    atol = TOLERANCE["float32"] * max(float(np.abs(e).max()), 1e-30)
                    np.testing.assert_allclose(a.astype(np.float64), e, TOLERANCE["float32"], atol)
