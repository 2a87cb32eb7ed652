import numpy as np
import pytest

from deepcore.ops import embedding as ops

strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")

either = pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])

# shape of index, n, d
CASES = [
    pytest.param((50,), 7, 3, id="many duplicates"),
    pytest.param((6, 5), 100, 4, id="two axes"),
    pytest.param((2, 3, 4), 30, 1, id="one column"),
    pytest.param((1,), 5, 2, id="one row"),
    pytest.param((), 5, 2, id="0-d"),
    pytest.param((40,), 1, 2, id="all in one"),
    pytest.param((0,), 4, 3, id="no rows"),
    pytest.param((3, 0), 4, 3, id="no rows, two axes"),
    pytest.param((5,), 4, 0, id="no columns"),
]
each_case = pytest.mark.parametrize(("shape", "n", "d"), CASES)


def scatter_add(index, rows, n, reference=False):
    return (ops.scatter_add.reference if reference else ops.scatter_add)(index, rows, n)


def index_and_rows(shape, n, d, dtype=np.float64):
    random = np.random.default_rng(0)
    return random.integers(0, n, shape), random.standard_normal((*shape, d)).astype(dtype)


def by_loops(index, rows, n):
    """The sums, and the sums of absolute values, in float64."""
    total, size = np.zeros((2, n, rows.shape[-1]))
    for i in np.ndindex(index.shape):
        total[index[i]] += rows[i]
        size[index[i]] += np.abs(rows[i])
    return total, size


@either
@each_case
def test_every_row_is_added_where_its_index_says(shape, n, d, reference):
    index, rows = index_and_rows(shape, n, d)
    out = scatter_add(index, rows, n, reference)
    assert out.shape == (n, d)
    np.testing.assert_allclose(out, by_loops(index, rows, n)[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1", "no_float64"])
@each_case
def test_reference_runs_on_every_device(shape, n, d, device):
    index, rows = index_and_rows(shape, n, d, np.float32)
    on = strict.Device(device)
    out = ops.scatter_add(strict.asarray(index, device=on), strict.asarray(rows, device=on), n)
    assert out.device == on
    assert out.dtype == strict.float32
    out = np.asarray(out.to_device(strict.Device("CPU_DEVICE")))
    np.testing.assert_allclose(out, scatter_add(index, rows, n), rtol=1e-5, atol=1e-5)


@either
def test_error_is_a_few_units_in_the_last_place(reference):
    random = np.random.default_rng(0)
    index = (random.zipf(1.2, 20_000) - 1) % 50
    rows = (random.standard_normal((20_000, 4)) + 1).astype(np.float32)
    total, size = by_loops(index, rows, 50)
    error = np.abs(scatter_add(index, rows, 50, reference) - total) / np.maximum(size, 1e-30)
    assert error.max() < 2e-7


@either
def test_nan_stays_in_its_row(reference):
    index = np.array([2, 0, 2, 1, 0])
    rows = np.ones((5, 2), np.float32)
    rows[3] = np.nan, np.inf
    out = scatter_add(index, rows, 4, reference)
    assert np.array_equal(out, [[2, 2], [np.nan, np.inf], [2, 2], [0, 0]], equal_nan=True)


@either
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtype_stays_and_float16_sums_in_float32(dtype, reference):
    out = scatter_add(np.zeros(10_000, int), np.full((10_000, 1), 1.001, dtype), 2, reference)
    assert out.dtype == dtype
    assert out[0, 0] == pytest.approx(10_000 * float(dtype(1.001)), rel=5e-4 if dtype == np.float16 else 1e-7)


@either
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_any_integer_type_is_an_index(dtype, reference):
    index, rows = index_and_rows((30,), 9, 2)
    wanted = scatter_add(index, rows, 9)
    assert np.allclose(scatter_add(index.astype(dtype), rows, 9, reference), wanted, atol=1e-14)
    assert np.array_equal(ops.embedding(wanted, index.astype(dtype)), wanted[index])


def test_any_layout_gives_the_same_bits():
    index, rows = index_and_rows((8, 6), 9, 5, np.float32)
    wanted = scatter_add(index, rows, 9)
    read_only = rows.copy()
    read_only.flags.writeable = False
    for layout in (read_only, np.asfortranarray(rows), np.flip(np.flip(rows).copy())):
        assert np.array_equal(scatter_add(np.asfortranarray(index), layout, 9), wanted)
        assert np.array_equal(layout, rows)
    broadcast = np.broadcast_to(np.float32(1), rows.shape)
    assert scatter_add(index, broadcast, 9).sum() == rows.size


def test_overflow_gives_inf_and_no_warning():
    out = scatter_add(np.zeros(2, int), np.full((2, 1), 3e38, np.float32), 1)
    assert np.isposinf(out[0, 0])


@each_case
def test_embedding_takes_rows(shape, n, d):
    index, _ = index_and_rows(shape, n, d)
    W = np.random.default_rng(1).standard_normal((n, d))
    assert np.array_equal(ops.embedding(W, index), W[index])
    sW, s_index = strict.asarray(W), strict.asarray(index)
    assert np.array_equal(np.asarray(ops.embedding(sW, s_index)), W[index])


def test_scatter_add_is_the_transpose_of_embedding():
    index, dY = index_and_rows((6, 5), 11, 3)
    W = np.random.default_rng(1).standard_normal((11, 3))
    assert np.sum(ops.embedding(W, index) * dY) == pytest.approx(np.sum(W * scatter_add(index, dY, 11)))


def test_gradient_agrees_with_torch():
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    index, dY = index_and_rows((6, 5), 11, 3)
    W = torch.zeros((11, 3), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.embedding(torch.tensor(index), W).backward(torch.tensor(dY))
    np.testing.assert_allclose(scatter_add(index, dY, 11), W.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("n", "count"), [(200, 600), (70_000, 90_000), (200_000, 300)])
@pytest.mark.parametrize("threads", [1, 3])
def test_numpys_own_kernels_at_sizes_of_use(n, count, threads, monkeypatch):
    """More rows than 16 bits can number, most of them hit or few; a row that is NaN stays alone."""
    from deepcore.backends.numpy import embedding as native

    monkeypatch.setattr(native.threads, "count", lambda: threads)
    monkeypatch.setattr(native, "_SHARE", 256)
    rng = np.random.default_rng(0)
    index, rows = rng.integers(0, n, count), rng.standard_normal((count, 3))
    rows[0] = np.nan
    wanted = np.zeros((n, 3))
    np.add.at(wanted, index, rows)
    got = native.scatter_add(index, rows, n)
    np.testing.assert_allclose(got, wanted, rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(
        native.embedding(wanted, index.reshape(2, -1)), wanted[index.reshape(2, -1)]
    )
