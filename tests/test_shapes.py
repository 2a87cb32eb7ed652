import numpy as np
import pytest

from deepcore import shapes
from deepcore.errors import ShapeError


@pytest.mark.parametrize("value", [3, np.int64(3), (3, 3), [3, 3], np.array([3, 3])])
def test_to_tuple_takes_a_number_or_a_sequence(value):
    numbers = shapes.to_tuple(value, 2, "Conv2D", "stride")
    assert numbers == (3, 3)
    assert all(type(number) is int for number in numbers)


@pytest.mark.parametrize("value", [(1, 2, 3), 1.5, "ab", None, -1, (1, None), ()])
def test_to_tuple_says_who_wanted_and_got(value):
    with pytest.raises(ShapeError) as error:
        shapes.to_tuple(value, 2, "Conv2D", "stride")
    assert str(error.value) == f"Conv2D: stride must be an int >= 0 or 2 of them, got {value!r}"


def test_to_tuple_has_a_least_value():
    assert shapes.to_tuple(1, 1, "Conv1D", "stride", least=1) == (1,)
    with pytest.raises(ShapeError, match="Conv1D: stride must be an int >= 1, got 0"):
        shapes.to_tuple(0, 1, "Conv1D", "stride", least=1)


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_windows_are_those_that_fit(kernel, stride, dilation):
    for size in range(1, 12):
        for lo, hi in [(0, 0), (1, 1), (0, 2)]:
            last = [start + dilation * (kernel - 1) for start in range(0, size + lo + hi, stride)]
            fitting = sum(end < size + lo + hi for end in last)
            assert shapes.window_output(size, kernel, stride, (lo, hi), dilation) == fitting


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_same_padding_keeps_the_size(kernel, dilation):
    lo, hi = shapes.same_padding(kernel, dilation)
    assert shapes.window_output(20, kernel, 1, (lo, hi), dilation) == 20
    assert 0 <= hi - lo <= 1


def test_conv_output_shape():
    shape = shapes.conv_output_shape((5, 4, 28, 9), (8, 2, 3, 1), (2, 1), [(1, 1), (0, 2)], (1, 2), groups=2)
    assert shape == (5, 8, 14, 11)


def test_a_kernel_larger_than_the_image_is_refused_in_words():
    with pytest.raises(ShapeError) as error:
        shapes.conv_output_shape(
            (5, 1, 1, 1), (4, 1, 5, 5), (1, 1), [(1, 1)] * 2, (1, 1), who="Conv2D(1, 4, 5)"
        )
    assert str(error.value) == (
        "Conv2D(1, 4, 5): the 5x5 kernel is larger than the padded 3x3 input; "
        "use a smaller kernel or more padding"
    )


def test_so_is_one_that_its_dilation_makes_too_large():
    with pytest.raises(ShapeError, match="the 3x3 kernel spans 5x3 with its dilation: it is larger"):
        shapes.spatial_output((4, 4), (3, 3), (1, 1), [(0, 0)] * 2, (2, 1), "Conv2D")


@pytest.mark.parametrize("X_shape", [(5, 3, 28, 28), (5, 28, 28), (5, 4, 28)])
def test_wrong_channels_or_axes_are_refused(X_shape):
    with pytest.raises(ShapeError) as error:
        shapes.conv_output_shape(X_shape, (8, 2, 3, 3), (1, 1), [(0, 0)] * 2, (1, 1), groups=2, who="Conv2D")
    assert str(error.value) == f"Conv2D: X must have shape (n, 4, h, w), got {X_shape}"


def test_pool_output_shape_drops_the_rest():
    assert shapes.pool_output_shape((2, 3, 7, 5), (2, 2), (2, 2), [(0, 0)] * 2) == (2, 3, 3, 2)


def test_pooling_refuses_padding_that_a_window_could_lie_in():
    with pytest.raises(ShapeError, match="MaxPool1D: the padding may be at most half the 3 kernel"):
        shapes.pool_output_shape((2, 3, 7), (3,), (1,), [(2, 2)], "MaxPool1D")


def test_pooling_refuses_other_axes():
    with pytest.raises(ShapeError, match=r"MaxPool2D: X must have shape \(n, c, h, w\), got \(2, 3, 7\)"):
        shapes.pool_output_shape((2, 3, 7), (2, 2), (2, 2), [(0, 0)] * 2, "MaxPool2D")


def test_window_slices_find_every_window():
    X = np.arange(9 * 8).reshape(9, 8)
    places = shapes.window_slices((2, 3), (3, 2), (2, 1), (2, 3))
    for k, place in enumerate(places):
        i, j = divmod(k, 3)
        expected = [[X[3 * p + 2 * i, 2 * q + j] for q in range(3)] for p in range(2)]
        assert np.array_equal(X[place], expected)
    assert len(places) == 6
