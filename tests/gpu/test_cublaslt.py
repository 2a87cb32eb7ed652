"""Matrix products by cuBLASLt, without a GPU: given to a library that does what it is told, on the host.

Where NVIDIA's own library is installed, it judges sizes and values of the attributes, for which it needs no
GPU; its header judges the numbers in cublaslt.py.
"""

import ctypes
import itertools
import re
import threading
from importlib.metadata import PackageNotFoundError, files

import numpy as np
import pytest

from .fake_cublaslt import FakeCublasLt
from .pretend import pretended
from .test_emulation import NUMBERS

ROUGH = {"float64": 1e-13, "float32": 1e-6, "float16": 2e-3, "bfloat16": 1e-2}


@pytest.fixture
def cupy():
    with pretended() as cupy:
        yield cupy


def module():
    import deepcore.backends.cupy.cublaslt as cublaslt

    return cublaslt


def draw(cupy, *shape, dtype="float32", seed=0):
    return cupy.array(np.random.default_rng(seed).standard_normal(shape).astype(dtype))


def close(got, wanted, dtype="float32"):
    wanted = np.asarray(wanted, np.float64)
    atol = ROUGH[dtype] * np.abs(wanted).max() * 4
    np.testing.assert_allclose(np.asarray(got, np.float64), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("n, k, m", [(3, 4, 5), (1, 7, 2), (6, 1, 3), (4, 5, 1), (1, 1, 1)])
def test_row_major_and_transposed(n, k, m, dtype, cupy):
    dtype_of = NUMBERS[dtype]
    for flip_A, flip_B in itertools.product((False, True), repeat=2):
        A = draw(cupy, *((k, n) if flip_A else (n, k)), dtype=dtype_of)
        B = draw(cupy, *((m, k) if flip_B else (k, m)), dtype=dtype_of, seed=1)
        A, B = A.T if flip_A else A, B.T if flip_B else B
        Y = module().product(A, B)
        assert Y.dtype == A.dtype and Y.shape == (n, m)
        close(Y, A.astype(np.float64) @ B.astype(np.float64), dtype)


def test_parts_of_larger_matrices(cupy):
    A, B = draw(cupy, 9, 8), draw(cupy, 12, 10, seed=1)
    for a, b in [(A[1:4, 2:7], B[3:8, 1:]), (A[:, ::2], B[:4]), (A[::2], B.T[:8, ::3]), (A[::-1], B[:8])]:
        close(module().product(a, b), a @ b)


def test_memory_off_the_boundaries(cupy):
    """An algorithm that reads 16 bytes at once must not be chosen for what begins between them."""
    for shift in range(1, 5):
        A, B = draw(cupy, 40)[shift:][:35].reshape(5, 7), draw(cupy, 7, 3, seed=1)
        close(module().product(A, B), A @ B)
    assert cupy.cublaslt.planned > 1


@pytest.mark.parametrize("activation", [None, "relu"])
def test_bias_and_relu(activation, cupy):
    A, B, bias = draw(cupy, 5, 4), draw(cupy, 4, 3, seed=1), draw(cupy, 1, 3, seed=2)
    wanted = A @ B + bias
    close(module().product(A, B, bias, activation), np.maximum(wanted, 0) if activation else wanted)


def test_two_biases_with_one_plan(cupy):
    A, B = draw(cupy, 5, 4), draw(cupy, 4, 3, seed=1)
    for seed in (2, 3):
        bias = draw(cupy, 1, 3, seed=seed)
        close(module().product(A, B, bias), A @ B + bias)
    assert cupy.cublaslt.planned == 1


def test_batches(cupy):
    shapes = [
        ((6, 3, 4), (6, 4, 5)),
        ((2, 3, 3, 4), (3, 4, 5)),
        ((3, 4), (2, 4, 5)),
        ((2, 1, 3, 4), (2, 3, 4, 5)),
    ]
    for left, right in shapes:
        A, B = draw(cupy, *left), draw(cupy, *right, seed=1)
        close(module().product(A, B), A @ B)
        close(module().product(B.swapaxes(-1, -2), A.swapaxes(-1, -2)), B.mT @ A.mT)


def test_equal_distances_make_one_call(cupy):
    module().product(draw(cupy, 2, 3, 3, 4), draw(cupy, 4, 5))
    assert len(cupy.cublaslt.products) == 1
    module().product(draw(cupy, 2, 3, 3, 4), draw(cupy, 3, 4, 5))
    assert len(cupy.cublaslt.products) == 3
    heads = draw(cupy, 2, 6, 3, 4).swapaxes(1, 2)  # (n, t, h, d) -> (n, h, t, d)
    close(module().product(heads, heads.mT), heads @ heads.mT)
    assert len(cupy.cublaslt.products) == 4


def test_stream_and_workspace_go_with_each_call(cupy):
    for _ in range(2):
        module().product(draw(cupy, 2, 3), draw(cupy, 3, 4))
    first, second = cupy.cublaslt.products
    assert first["stream"] == cupy.cuda.get_current_stream().ptr
    assert first["workspace"] == second["workspace"] and first["workspace"][1] == 32 << 20


def test_tf32_only_where_it_was_asked_for(cupy, monkeypatch):
    def compute(dtype):
        module().product(draw(cupy, 2, 3, dtype=dtype), draw(cupy, 3, 4, dtype=dtype))
        return cupy.cublaslt.products[-1]["compute"]

    monkeypatch.delenv("CUPY_TF32", raising=False)
    assert [compute(d) for d in ("f4", "f2", "f8")] == [68, 68, 70]
    monkeypatch.setenv("CUPY_TF32", "1")
    assert [compute(d) for d in ("f4", "f2", "f8")] == [77, 68, 70]


def test_parts_of_a_sum_are_never_rounded_to_16_bits(cupy):
    """In place (1) and of the output's type (4) they would be; 2: of the compute type, which is float32."""
    for dtype in NUMBERS.values():
        module().product(draw(cupy, 2, 3, dtype=dtype), draw(cupy, 3, 4, dtype=dtype))
        assert cupy.cublaslt.products[-1]["reductions"] == (2 if np.dtype(dtype).itemsize == 2 else 7)


# ---- the choice of an algorithm


def chosen(cupy, variable, monkeypatch, times=(2.0, 3.0, 1.0, 1.5)):
    """The algorithms that three products of one shape are made with, after trials if there are any."""
    monkeypatch.setenv("DEEPCORE_AUTOTUNE", variable)
    cupy.cublaslt.times = list(times)
    found = []
    A, B, bias = draw(cupy, 5, 4), draw(cupy, 4, 3, seed=1), draw(cupy, 1, 3, seed=2)
    for _ in range(3):
        close(module().product(A, B, bias), A @ B + bias)
        found.append(cupy.cublaslt.products[-1]["algorithm"])
    return found


def test_the_fastest_algorithm_is_found_once(cupy, monkeypatch):
    assert chosen(cupy, "1", monkeypatch) == [2, 2, 2]
    tried = [product["algorithm"] for product in cupy.cublaslt.products]
    assert {0, 1, 2, 3} == set(tried[:-3]) and tried[-3:] == [2, 2, 2]
    assert len(cupy.streams) == 1


@pytest.mark.parametrize("times", [(2.0, 1.97, 2.1), (2.0, None, 3.0), (2.0,)])
def test_the_first_algorithm_stays_unless_another_is_clearly_faster(times, cupy, monkeypatch):
    assert chosen(cupy, "1", monkeypatch, times) == [0, 0, 0]


def test_an_algorithm_that_refuses_is_not_taken(cupy, monkeypatch):
    assert chosen(cupy, "1", monkeypatch, (None, 3.0, 2.0)) == [2, 2, 2]


def test_nothing_is_tried_unless_it_is_allowed(cupy, monkeypatch):
    from deepcore.backends import select

    assert chosen(cupy, "", monkeypatch) == [0, 0, 0] and len(cupy.cublaslt.products) == 3
    before = select.precision.set("relaxed")
    try:
        assert chosen(cupy, "0", monkeypatch) == [0, 0, 0]
        assert chosen(cupy, "", monkeypatch) == [2, 2, 2]
    finally:
        select.precision.reset(before)
    assert chosen(cupy, "", monkeypatch) == [0, 0, 0]  # the same bits as if nobody had tried


def test_nothing_is_tried_in_a_capture(cupy, monkeypatch):
    """The first algorithm is captured; the next call that isn't captured tries them."""
    monkeypatch.setenv("DEEPCORE_AUTOTUNE", "1")
    cupy.cublaslt.times = [2.0, 1.0]
    A, B, stream = draw(cupy, 5, 4), draw(cupy, 4, 3, seed=1), cupy.cuda.Stream(non_blocking=True)
    with stream, cupy.cuda.using_allocator(object()):
        stream.begin_capture()
        module().product(A, B)
        stream.end_capture()
    assert [product["algorithm"] for product in cupy.cublaslt.products] == [0]
    module().product(A, B)
    assert cupy.cublaslt.products[-1]["algorithm"] == 1


def test_what_it_cannot_do_is_left_to_cupy(cupy):
    product = module().product
    A, B = draw(cupy, 2, 3), draw(cupy, 3, 4)
    assert product(A, B.astype("f8")) is NotImplemented
    assert product(A[:0], B) is NotImplemented and product(A[:, :0], B[:0]) is NotImplemented
    assert product(A.astype("f8"), B.astype("f8"), B[:1].astype("f8")) is NotImplemented
    assert product(A[0], B) is NotImplemented
    cupy.cublaslt.supported = False
    assert product(A, B) is product(A, B) is NotImplemented
    assert cupy.cublaslt.planned == 1  # it isn't asked again
    module().load = lambda: None
    assert product(draw(cupy, 2, 5), draw(cupy, 5, 2)) is NotImplemented


def test_each_thread_has_plans_of_its_own(cupy):
    """A bias is set in a plan before each call, so that two threads must not share one."""
    A, B = draw(cupy, 5, 4), draw(cupy, 4, 3, seed=1)
    results = {}

    def work(seed):
        bias = draw(cupy, 1, 3, seed=seed)
        results[seed] = bool(np.allclose(module().product(A, B, bias), A @ B + bias, atol=1e-5))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {2: True, 3: True} and cupy.cublaslt.planned == 2


def test_old_plans_are_forgotten(cupy):
    cublaslt = module()
    cublaslt._MOST_PLANS = 2
    for n in (1, 2, 3):
        cublaslt.product(draw(cupy, n, 3), draw(cupy, 3, 4))
    assert len(cublaslt._mine.plans) == 2


# ---- against NVIDIA's own


def of_the_wheel(name):
    for wheel in ("nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cuda-runtime"):
        try:
            found = [path for path in files(wheel) or () if path.name.startswith(name)]
        except PackageNotFoundError:
            continue
        if found:
            return found[0].locate()
    pytest.skip(f"{name} is in none of NVIDIA's wheels here")


def test_the_numbers_are_those_of_the_header(cupy):
    header = of_the_wheel("cublasLt.h").read_text() + of_the_wheel("cublas_api.h").read_text()
    cublaslt = module()
    prefixes = {
        "CUBLAS_": ("COMPUTE_32F", "COMPUTE_64F", "COMPUTE_32F_FAST_TF32", "OP_T"),
        "CUBLASLT_MATMUL_DESC_": ("TRANSA", "TRANSB", "EPILOGUE", "BIAS_POINTER", "BIAS_DATA_TYPE"),
        "CUBLASLT_MATRIX_LAYOUT_": ("BATCH_COUNT", "STRIDED_BATCH_OFFSET"),
        "CUBLASLT_MATMUL_PREF_": ("MAX_WORKSPACE_BYTES", "REDUCTION_SCHEME_MASK"),
        "CUBLASLT_": ("REDUCTION_SCHEME_COMPUTE_TYPE",),
    }
    for prefix, names in prefixes.items():
        for name in names:
            (value,) = re.findall(rf"\b{prefix}{name} *= *(\d+),", header)
            assert int(value) == getattr(cublaslt, name), name
    alignments = (re.findall(rf"PREF_MIN_ALIGNMENT_{matrix}_BYTES *= *(\d+),", header) for matrix in "ABCD")
    assert [int(value) for (value,) in alignments] == list(cublaslt.MIN_ALIGNMENTS)
    for (bias, activation), value in cublaslt.EPILOGUES.items():
        name = "_".join(filter(None, [activation and activation.upper(), bias and "BIAS"])) or "DEFAULT"
        (text,) = re.findall(rf"CUBLASLT_EPILOGUE_{name} *= *([^,]+),", header)
        for known, number in (("RELU", 2), ("GELU", 32), ("BIAS", 4)):
            text = text.replace(f"CUBLASLT_EPILOGUE_{known}", str(number))
        assert eval(text) == value, name
    assert ctypes.sizeof(cublaslt.Heuristic) == 64 + 8 + 4 + 4 + 16


def test_the_library_itself_takes_the_descriptors(cupy):
    """It makes and fills descriptors with no GPU; the fake chooses an algorithm and runs it."""
    real = ctypes.CDLL(str(of_the_wheel("libcublasLt.so")))
    attributes = []

    class Both(FakeCublasLt):
        def cublasLtMatmulDescCreate(self, out, compute, scale):
            handle = ctypes.c_void_p()
            assert real.cublasLtMatmulDescCreate(ctypes.byref(handle), compute, scale) == 0
            super().cublasLtMatmulDescCreate(out, compute, scale)
            self._of(out._obj)["real"] = handle
            return 0

        def cublasLtMatrixLayoutCreate(self, out, *numbers):
            handle = ctypes.c_void_p()
            assert real.cublasLtMatrixLayoutCreate(ctypes.byref(handle), *numbers) == 0
            super().cublasLtMatrixLayoutCreate(out, *numbers)
            self._of(out._obj)["real"] = handle
            return 0

        def cublasLtMatmulPreferenceCreate(self, out):
            handle = ctypes.c_void_p()
            assert real.cublasLtMatmulPreferenceCreate(ctypes.byref(handle)) == 0
            super().cublasLtMatmulPreferenceCreate(out)
            self._of(out._obj)["real"] = handle
            return 0

        def _set(self, handle, attribute, value, size, sizes):
            kind = {3: "MatmulDesc", 5: "MatrixLayout", 1: "MatmulPreference"}[next(iter(sizes))]
            setter = getattr(real, f"cublasLt{kind}SetAttribute")
            assert setter(self._of(handle)["real"], attribute, value, size) == 0, (kind, attribute)
            attributes.append((kind, attribute))
            return super()._set(handle, attribute, value, size, sizes)

    library = Both()
    module().load = lambda: library
    for dtype in NUMBERS.values():
        module().product(draw(cupy, 3, 2, 4, dtype=dtype).mT, draw(cupy, 3, 5, 2, dtype=dtype).mT)
    module().product(draw(cupy, 2, 3), draw(cupy, 3, 4), draw(cupy, 1, 4), "gelu")
    assert len(set(attributes)) == 13
