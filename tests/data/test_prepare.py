import numpy as np
import pytest

from deepcore.data.prepare import column_scale, scale_images, split
from deepcore.errors import ArgumentError, DataError


def test_split_parts_the_samples():
    X, y = np.arange(40).reshape(20, 2), np.arange(20)
    X_train, y_train, X_test, y_test = split(X, y, fraction=0.25, seed=1)
    assert len(y_train) == 15 and len(y_test) == 5
    assert sorted([*y_train, *y_test]) == list(range(20))
    assert np.array_equal(X_test, X[y_test]) and np.array_equal(X_train, X[y_train])


def test_split_follows_the_seed():
    X = y = np.arange(50)
    assert np.array_equal(split(X, y, seed=1)[3], split(X, y, seed=1)[3])
    assert not np.array_equal(split(X, y, seed=1)[3], split(X, y, seed=2)[3])


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_split_leaves_one_sample_on_each_side(fraction):
    X_train, _, X_test, _ = split(np.arange(2), np.arange(2), fraction)
    assert len(X_train) == len(X_test) == 1


def test_split_of_a_single_sample():
    with pytest.raises(DataError, match=r"split: .* from two samples or more, got 1"):
        split(np.zeros(1), np.zeros(1))


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_split_by_no_fraction(fraction):
    with pytest.raises(ArgumentError, match="fraction must be between 0 and 1, got"):
        split(np.arange(4), np.arange(4), fraction)


def test_whole_numbers_become_0_to_1():
    for dtype in ("uint8", "int64"):
        scaled = scale_images(np.array([[0, 255]], dtype=dtype))
        assert scaled.dtype == np.float32 and scaled.tolist() == [[0.0, 1.0]]


def test_floating_images_stay():
    scaled = scale_images(np.array([[0.25, -3.0]]))
    assert scaled.dtype == np.float32 and scaled.tolist() == [[0.25, -3.0]]


def test_standardised_columns():
    X = np.random.default_rng(0).normal([5, -300], [0.1, 20], (500, 2)).astype("float32")
    mean, std = column_scale(X)
    Z = (X - mean) / std
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(Z.std(axis=0), 1, atol=1e-6)


def test_a_constant_column_is_not_divided_by_zero():
    mean, std = column_scale(np.full((4, 1), 7, dtype="uint8"))
    assert mean.tolist() == [7] and std.tolist() == [1]
