"""Memory that is used again: only when nobody holds it, and no more of it than the limit."""

import threading

import numpy as np
import pytest

from deepcore.backends.numpy import memory

SHAPE = (300, 301)  # some 360 KB


@pytest.fixture(autouse=True)
def books(monkeypatch):
    monkeypatch.setattr(memory, "_buffers", type(memory._buffers)())


def address(X):
    return X.__array_interface__["data"][0]


def test_what_nobody_holds_is_used_again():
    X = memory.empty(SHAPE, np.float32)
    where = address(X)
    del X
    assert address(memory.empty(SHAPE, np.float32)) == where
    assert address(memory.empty((301, 300), "int32")) == where  # as many bytes, for another shape


@pytest.mark.parametrize(
    "hold", [lambda X: X, lambda X: X[5:, ::2].T, lambda X: X.data, lambda X: X.view(np.int32)]
)
def test_what_anybody_holds_is_not(hold):
    held = hold(memory.empty(SHAPE, np.float32))
    values = np.asarray(held)
    values[...] = 7
    for _ in range(5):
        memory.empty(SHAPE, np.float32)[...] = 8
    assert np.all(values == 7)


def test_arrays_are_in_c_order_and_start_with_a_line_of_the_cache():
    for shape in [(), (3,), (100, 100), SHAPE, (0, 5)]:
        X = memory.empty(shape, np.float64)
        assert X.shape == shape and X.dtype == np.float64 and X.flags.c_contiguous and X.flags.writeable
        assert X.nbytes <= memory._SMALL or address(X) % 64 == 0


def test_no_more_is_kept_than_the_limit(monkeypatch):
    monkeypatch.setattr(memory, "_MOST", 5 * 10**6)
    for k in range(50):
        memory.empty((10**5 + 1000 * k,), np.float32)
    assert sum(buffer.nbytes for alike in memory._buffers.values() for buffer in alike) <= 5 * 10**6


def test_threads_never_get_the_same_memory():
    torn = []

    def work(number):
        for _ in range(2000):
            X = memory.empty((300_000,), np.uint8)[:50]
            Y = memory.empty((300_000,), np.uint8)
            Y[::5000] = number
            X[...] = number
            torn.extend(x for x in (X, Y[::5000]) if np.any(x != number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
