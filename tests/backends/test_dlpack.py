"""Arrays of libraries that deepcore doesn't know, handed over by DLPack."""

import numpy as np
import pytest

import deepcore as dc
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
