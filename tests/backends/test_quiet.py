"""NumPy is told in another way than np.errstate what to ignore, and must not see a difference."""

import numpy as np
import pytest

from deepcore.backends import quiet
from deepcore.backends.quiet import ignoring, quietly

ONE, HUGE = np.ones(1, "float32"), np.full(1, 1e30, "float32")


@quietly
def square(x):
    return x * x


@quietly
def divide_by_zero():
    return ONE / (ONE - ONE)


def test_overflow_is_ignored_inside_and_as_the_caller_said_outside():
    with np.errstate(over="raise"):
        assert np.isinf(square(HUGE))
        with pytest.raises(FloatingPointError):
            HUGE * HUGE
    with np.errstate(over="raise"):  # another setting than the first, though it says the same
        assert np.isinf(square(HUGE))


def test_what_the_caller_said_of_other_errors_is_obeyed_at_each_call():
    for _ in range(2):
        with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
            divide_by_zero()
        with np.errstate(divide="ignore"):
            assert np.isinf(divide_by_zero())


def test_an_error_inside_leaves_the_setting_as_it_was():
    @quietly
    def fail():
        raise ValueError

    before = np.geterr()
    with pytest.raises(ValueError):
        fail()
    assert np.geterr() == before


def test_one_such_call_inside_another():
    @ignoring("under")
    def outer():
        said = np.geterr()
        assert np.isinf(square(HUGE)) and np.geterr() == said
        return said

    @quietly
    def twice():
        return square(HUGE), np.geterr()

    with np.errstate(all="raise"):
        assert outer() == {"divide": "raise", "over": "raise", "under": "ignore", "invalid": "raise"}
        (inf,), said = twice()
        assert np.isinf(inf) and said["over"] == said["invalid"] == "ignore"
        assert np.geterr()["over"] == "raise"


def test_a_numpy_that_keeps_it_elsewhere(monkeypatch):
    monkeypatch.setattr(quiet, "_ERRORS", None)
    silent = ignoring.__wrapped__("over")(lambda: HUGE * HUGE)
    with np.errstate(all="raise"):
        assert np.isinf(silent())
