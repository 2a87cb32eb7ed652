"""Many weights in one launch: CuPy's updates inside `together()`, without a GPU."""

import functools
import importlib

import numpy as np
import pytest

import deepcore as dc
from deepcore.ops.dispatch import OPS

from . import emulation
from .pretend import kernel_of, pretended
from .test_nets import cupy, losses, mlp, mlp_without_noise  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation of CUDA needs g++")

SIZES = [
    1,
    3,
    5000,
    17,
    1024,
    1025,
    *range(100, 150),
]  # more than one launch takes; of several blocks too


def drawn(cupy, count):  # noqa: F811
    """For each of SIZES so many arrays."""
    return [
        [cupy.array(np.random.default_rng([n, k]).standard_normal(n).astype("f4")) for k in range(count)]
        for n in SIZES
    ]


def update():
    return importlib.import_module("deepcore.backends.cupy.update")


def test_many_weights_in_few_launches_move_as_each_alone(cupy):  # noqa: F811
    rate = cupy.array(np.float32(0.1))
    arguments = [(W, dW, M, abs(V), rate, 0.3, (0.9, 0.99), 1e-8, 0.1) for W, dW, M, V in drawn(cupy, 4)]
    alone = [kernel_of("update.adam")(*of) for of in arguments]
    launches = cupy.launches
    with update().together():
        got = [kernel_of("update.adam")(*of) for of in arguments]
        assert cupy.launches == launches  # nothing is done yet
    assert cupy.launches == launches + 2
    for new, wanted in zip(got, alone, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(new, wanted, strict=True))


def test_weights_with_other_settings_have_launches_of_their_own(cupy):  # noqa: F811
    draws = drawn(cupy, 3)[:6]
    arguments = [(*three, 0.1 if k % 2 else 0.2, 0.9, False, 0.0) for k, three in enumerate(draws)]
    launches = cupy.launches
    with update().together():
        got = [kernel_of("update.sgd")(*of) for of in arguments]
        got.append(kernel_of("update.sgd")(*arguments[0][:2], None, 0.1, 0, False, 0.0))
    assert cupy.launches == launches + 3
    for of, new in zip(arguments, got[:-1], strict=True):
        W, V = OPS["update.sgd"].reference(*(np.asarray(x, "f8") if hasattr(x, "dtype") else x for x in of))
        np.testing.assert_allclose(new[0], W, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(new[1], V, rtol=1e-5, atol=1e-6)
    assert got[-1][1] is None


def test_copies_into_what_no_kernel_takes_are_plain(cupy):  # noqa: F811
    base = cupy.array(np.arange(40, dtype="f4"))
    new = [cupy.array(-np.arange(9, dtype=d)) for d in ("f4", "f4", "f4", "i8", "f8")]
    into = [base[:9], base[13:22], base[22:40:2], cupy.array(np.zeros(9, "i8")), cupy.array(np.zeros(9))]
    launches = cupy.launches
    update().copy_all(list(zip(into, new, strict=True)))
    assert (
        cupy.launches == launches + 2
    )  # float32 and float64; off the boundary, with steps, of integers: plain
    assert all(np.array_equal(a, b) for a, b in zip(into, new, strict=True))
    assert base[9] == 9 and base[12] == 12


def test_an_error_inside_launches_nothing(cupy):  # noqa: F811
    (W, dW), *_ = drawn(cupy, 2)
    launches = cupy.launches
    with pytest.raises(ZeroDivisionError), update().together():
        kernel_of("update.sgd")(W, dW, None, 0.1, 0.0, False, 0.0)
        raise ZeroDivisionError
    assert cupy.launches == launches and update()._noted.updates is None


def test_the_tables_layout_is_that_of_the_kernels(cupy):  # noqa: F811
    table = update()._TABLE
    assert table.itemsize == 3272 < 4096 - 128 and table.itemsize % 8 == 0
    assert table.fields["first_block"][1] == 64 * update().MOST


def test_a_compiled_step_has_few_launches(cupy):  # noqa: F811
    """One update of all weights, one choice between them and the old ones; the second graph copies once."""
    step = losses(mlp, dc.optim.AdamW(0.01), "cupy", compiled=True, steps=3)[2]
    (program,) = step._programs.values()
    for graph, choices in zip(program.function.graphs, (1, 2), strict=True):
        kernels = [work.args[1] for work in graph if isinstance(work, functools.partial)]
        assert kernels.count("adam_float32") == kernels.count("all_fit_int64") == 1
        assert kernels.count("either_float32") == choices


class Halfway(dc.optim.AdamW):
    """Half of AdamW's step: a rule that reads what an op has returned."""

    traceable = True

    def _rule(self, W, dW, memory, numbers, settings):
        new, memory = super()._rule(W, dW, memory, numbers, settings)
        return W + 0.5 * (new - W), memory


def test_a_rule_of_ones_own_may_read_what_an_op_returns(cupy):  # noqa: F811
    got, weights, step = losses(mlp, Halfway(0.01), "cupy", compiled=True)
    wanted, wanted_weights, _ = losses(mlp, Halfway(0.01), "numpy", compiled=False)
    np.testing.assert_allclose(got, wanted, rtol=2e-5)
    for path, W in wanted_weights.items():
        np.testing.assert_allclose(weights[path], W, rtol=1e-4, atol=2e-5, err_msg=path)
    (program,) = step._programs.values()
    assert program.function.why_not is None


@pytest.mark.parametrize("precision", ["relaxed", "fp16", "bf16"])
@pytest.mark.parametrize("compile", [False, True])
def test_mixed_precision_on_cupys_kernels(precision, compile, cupy):  # noqa: F811
    """The losses are those of float32 but for rounding, and TF32 is on only where it was asked for."""
    random = np.random.default_rng(0)
    X, y = random.standard_normal((32, 9)).astype("float32"), random.integers(0, 3, 32)
    found = []
    for p in ("float32", precision):
        dc.seed(0)
        net = dc.Net(mlp_without_noise(), dc.CrossEntropyLoss()).to("cupy")
        cupy.cublaslt.products.clear()
        history = net.fit(
            X, y, epochs=3, batch_size=16, optimizer=dc.optim.AdamW(0.01), seed=0, precision=p, clip_norm=1.0,
            compile=compile, metrics=[],
        )  # fmt: skip
        found.append(history.history["loss"])
        computes = {product["compute"] for product in cupy.cublaslt.products}
        assert (77 in computes) is (p == "relaxed")
        assert all(dc.to_numpy(W).dtype == np.float32 for W in net.parameters().values())
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=0.03)
    assert precision == "relaxed" or found[0] != found[1]


# ---- planted faults


@pytest.mark.parametrize(
    "old, new",
    [
        ("(int)blockIdx.x >= table.first_block[k + 1]", "(int)blockIdx.x > table.first_block[k + 1]"),
        ("*before = (int)blockIdx.x - table.first_block[k];", "*before = (int)blockIdx.x;"),
        ("first_of_thread_in<T>(before * VECTORS + k)", "first_of_thread_in<T>(before * VECTORS)"),
        ("of_warp[threadIdx.x / 32] = a;\n    __syncthreads();", "of_warp[threadIdx.x / 32] = a;"),
    ],
    ids=["off-by-one", "offset", "stride", "race"],
)
def test_a_planted_fault_in_a_table_is_found(old, new):
    with pretended([(old, new)]) as cupy, pytest.raises(AssertionError):  # noqa: F811
        gradients = [cupy.array(np.random.default_rng(n).standard_normal(n).astype("f4")) for n in SIZES]
        norm = kernel_of("update.gradient_norm")(*gradients)
        wanted = np.sqrt(sum((np.asarray(dW, "f8") ** 2).sum() for dW in gradients))
        np.testing.assert_allclose(norm, wanted, rtol=1e-6)
        with update().together():
            got = [kernel_of("update.sgd")(dW, dW, None, 0.1, 0.0, False, 0.0)[0] for dW in gradients]
        for W, dW in zip(got, gradients, strict=True):
            np.testing.assert_allclose(W, 0.9 * dW, rtol=1e-5)
