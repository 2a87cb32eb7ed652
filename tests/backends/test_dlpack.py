"""Arrays of libraries that deepcore doesn't know, handed over by DLPack."""

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends.registry import get_backend
from tests.places import EACH_LIBRARY, USABLE

HERE = [place for place in EACH_LIBRARY if place in USABLE]


class Foreign:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **settings):
        return self.x.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OnAGpu(Foreign):
    """Says that it is on a GPU, and does what GPU libraries do when a host asks for it."""

    def __dlpack__(self, **settings):
        raise BufferError("the array is on a GPU")

    def __dlpack_device__(self):
        return 2, 0


@pytest.mark.parametrize("place", HERE, ids=lambda place: place.name)
@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "uint8"])
def test_it_arrives_as_a_copy(dtype, place):
    x = np.arange(12).reshape(3, 4)[::-1, ::2].astype(dtype)
    there = dc.to_backend(Foreign(x), place.backend)
    assert dc.backend_of(there) == place.backend
    assert dc.to_numpy(there).dtype == x.dtype and np.array_equal(dc.to_numpy(there), x)
    before = x.copy()
    x[...] = 0
    assert np.array_equal(dc.to_numpy(there), before)


def test_asarray_takes_it_too():
    x = np.ones((2, 2))[::-1]
    assert dc.asarray(Foreign(x)).dtype == np.float64
    assert dc.asarray(Foreign(x), dtype="float32").dtype == np.float32


def test_what_cannot_be_read_is_refused():
    for x in (OnAGpu(np.ones(2)), Foreign(np.array(["a"])), Foreign(np.ones(2, ">f4"))):
        with pytest.raises(
            dc.DTypeError, match=r"can't take this .* by DLPack: .*; convert it to NumPy first"
        ):
            dc.to_backend(x, "numpy")


# ---- from one known library to another, on a device that both share


@pytest.fixture
def no_host(monkeypatch):
    """As if the memory of the CPU were a device that torch and JAX share."""
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    monkeypatch.setattr("deepcore.backends.select._HOST", 99)

    def to_numpy(self, x):
        raise AssertionError("it went over the host")

    for name in ("torch", "jax"):
        monkeypatch.setattr(type(get_backend(name)), "to_numpy", to_numpy)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32", "bool"])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4), (5,)])
@pytest.mark.parametrize("way", [("torch", "jax"), ("jax", "torch")])
def test_arrays_stay_on_a_device_that_both_share(way, shape, dtype, no_host):
    X = (np.arange(12)[: np.prod(shape, dtype=int)] % 5).reshape(shape).astype(dtype)
    x = dc.to_backend(X, way[0])
    there = dc.to_backend(x, way[1])
    assert dc.backend_of(there) == way[1] and there.shape == x.shape
    np.testing.assert_array_equal(np.asarray(there), X)
    assert np.asarray(there).dtype == X.dtype


def test_what_arrives_is_a_copy_in_one_piece(no_host):
    x = dc.to_backend(np.arange(6.0, dtype="float32").reshape(2, 3), "torch")
    there = dc.to_backend(x.T, "jax")
    x[:] = 0
    np.testing.assert_array_equal(np.asarray(there), np.arange(6.0).reshape(2, 3).T)


def test_numbers_that_the_other_library_lacks_are_refused_all_the_same(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    monkeypatch.setattr("deepcore.backends.select._HOST", 99)
    with pytest.raises(dc.DTypeError):
        dc.to_backend(torch.ones(3, dtype=torch.float64), "jax")


def test_what_cannot_go_by_dlpack_goes_over_the_host(monkeypatch):
    torch = pytest.importorskip("torch")
    pytest.importorskip("jax")
    monkeypatch.setattr("deepcore.backends.select._HOST", 99)
    x = torch.ones(3, requires_grad=True)
    np.testing.assert_array_equal(np.asarray(dc.to_backend(x, "jax")), np.ones(3))
