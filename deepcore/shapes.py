"""Output sizes and padding: the whole-number arithmetic of sliding windows, in plain Python.

A window has `kernel` positions along an axis, `dilation` apart; it moves by `stride` over an axis of
`size` with `lo` zeros before it and `hi` behind it. A window thus spans dilation (kernel - 1) + 1.
`who`: the layer, or its name, for messages.
"""

from __future__ import annotations

import itertools
import operator
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from deepcore.errors import ShapeError

Padding = Sequence[tuple[int, int]]  # (lo, hi) for each spatial axis
Windows = tuple[tuple[int, int], ...]  # (start, stop) of each window along an axis; neither ever falls


def to_tuple(value: Any, n: int, who: str, name: str, least: int = 0) -> tuple[int, ...]:
    """One whole number for each of n axes, from one number for all or from n of them.

    >>> to_tuple(3, 2, "Conv2D", "kernel_size")
    (3, 3)

    Raises ShapeError if there are not n numbers, if one is no whole number, or less than `least`.
    """
    try:
        numbers = tuple(value) if _is_sequence(value) else (value,) * n
        numbers = tuple(operator.index(number) for number in numbers)
    except TypeError:
        numbers = ()
    if len(numbers) != n or any(number < least for number in numbers):
        wanted = f"an int >= {least}" + (f" or {n} of them" if n > 1 else "")
        raise ShapeError(f"{who}: {name} must be {wanted}, got {value!r}")
    return numbers


def _is_sequence(value: Any) -> bool:
    return hasattr(value, "__len__")


def window_output(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> int:
    """How many windows fit on an axis; 0 if not even one does.

    >>> window_output(28, kernel=3, stride=2, padding=(1, 1), dilation=1)
    14
    """
    room = size + sum(padding) - window_span(kernel, dilation)
    return room // stride + 1 if room >= 0 else 0


def window_span(kernel: int, dilation: int) -> int:
    """From a window's first position to its last, both included."""
    return dilation * (kernel - 1) + 1


def same_padding(kernel: int, dilation: int = 1) -> tuple[int, int]:
    """The padding of one axis that keeps its size at stride 1; if it is odd, the end gets one more.

    >>> same_padding(4)
    (1, 2)
    """
    total = dilation * (kernel - 1)
    return total // 2, total - total // 2


def spatial_output(
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    who: Any,
) -> tuple[int, ...]:
    """window_output of every spatial axis. Raises ShapeError if the kernel doesn't fit."""
    axes = zip(sizes, kernel, stride, padding, dilation, strict=True)
    out = tuple(itertools.starmap(window_output, axes))
    if 0 in out:
        padded = _by(size + lo + hi for size, (lo, hi) in zip(sizes, padding, strict=True))
        span = _by(map(window_span, kernel, dilation))
        apart = f" spans {span} with its dilation: it" if span != _by(kernel) else ""
        raise ShapeError(
            f"{who}: the {_by(kernel)} kernel{apart} is larger than the padded {padded} input; "
            "use a smaller kernel or more padding"
        )
    return out


def _by(sizes: Any) -> str:
    return "x".join(map(str, sizes))


def channels_first(shape: Sequence[int], channels: int, rank: int) -> str:
    """How an X of this shape becomes (n, channels, *spatial): the end of a message, empty if nobody can say.

    >>> channels_first((8, 28, 28, 3), channels=3, rank=2)
    '; move the channels: X.transpose(0, 3, 1, 2)'
    """
    if len(shape) == rank + 2 and shape[-1] == channels != shape[1]:
        return f"; move the channels: X.transpose{(0, rank + 1, *range(1, rank + 1))}"
    if len(shape) == rank + 1:
        if channels == 1:
            return "; add the axis of the channel: X[:, None, ...]"
        if shape[0] == channels:
            return "; add the axis of the samples: X[None, ...]"
    return ""


def conv_output_shape(
    X_shape: Sequence[int],
    W_shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int = 1,
    who: Any = "conv",
) -> tuple[int, ...]:
    """X: (n, c, *sizes)   W: (f, c/groups, *kernel) -> (n, f, *out)

    Raises ShapeError if the axes or the channels don't match, or if the kernel doesn't fit.
    """
    f, channels, *kernel = W_shape
    if len(X_shape) != len(W_shape) or X_shape[1] != channels * groups:
        wanted = ", ".join(["n", str(channels * groups), *"dhw"[3 - len(kernel) :]])
        remedy = channels_first(X_shape, channels * groups, len(kernel))
        raise ShapeError(f"{who}: X must have shape ({wanted}), got {tuple(X_shape)}{remedy}")
    return (X_shape[0], f, *spatial_output(X_shape[2:], kernel, stride, padding, dilation, who))


def conv_transpose_output_shape(
    X_shape: Sequence[int],
    W_shape: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    dilation: Sequence[int],
    groups: int = 1,
    who: Any = "conv_transpose",
) -> tuple[int, ...]:
    """X: (n, c, *sizes)   W: (c, f/groups, *kernel) -> (n, f, *out): what a convolution takes to X's sizes.

    Raises ShapeError if the axes or the channels don't match, or if the padding leaves nothing.
    """
    c, filters, *kernel = W_shape
    if len(X_shape) != len(W_shape) or X_shape[1] != c:
        wanted = ", ".join(["n", str(c), *"dhw"[3 - len(kernel) :]])
        remedy = channels_first(X_shape, c, len(kernel))
        raise ShapeError(f"{who}: X must have shape ({wanted}), got {tuple(X_shape)}{remedy}")
    axes = zip(X_shape[2:], kernel, stride, padding, dilation, strict=True)
    out = [s * (size - 1) + window_span(k, d) - lo - hi for size, k, s, (lo, hi), d in axes]
    if min(out) < 1 or 0 in X_shape[2:]:
        raise ShapeError(
            f"{who}: of a {_by(X_shape[2:])} input the padding would leave {_by(out)}; use less padding"
        )
    return (X_shape[0], filters * groups, *out)


def single_sample(shape: Sequence[int], rank: int) -> str:
    """As `channels_first`, where any number of channels will do."""
    return "; of a single sample (c, ...) use X[None, ...]" if len(shape) == rank + 1 else ""


def pool_output_shape(
    X_shape: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Padding,
    who: Any = "pool",
) -> tuple[int, ...]:
    """X: (n, c, *sizes) -> (n, c, *out)

    Raises ShapeError if the axes don't match, if the kernel doesn't fit, or if the padding is so wide
    that a window could lie outside X altogether.
    """
    if len(X_shape) != len(kernel) + 2:
        wanted = ", ".join(["n", "c", *"dhw"[3 - len(kernel) :]])
        remedy = single_sample(X_shape, len(kernel))
        raise ShapeError(f"{who}: X must have shape ({wanted}), got {tuple(X_shape)}{remedy}")
    if any(2 * max(pair) > k for k, pair in zip(kernel, padding, strict=True)):
        raise ShapeError(f"{who}: the padding may be at most half the {_by(kernel)} kernel, got {padding}")
    no_dilation = (1,) * len(kernel)
    return (*X_shape[:2], *spatial_output(X_shape[2:], kernel, stride, padding, no_dilation, who))


def window_slices(
    kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], out: Sequence[int]
) -> list[tuple[Any, ...]]:
    """For each position within a window, in row-major order: where all windows have it.

    Indexing a padded array (..., *sizes) with one of them gives (..., *out).

    >>> window_slices(kernel=(2,), stride=(2,), dilation=(1,), out=(3,))
    [(Ellipsis, slice(0, 5, 2)), (Ellipsis, slice(1, 6, 2))]
    """
    places = [
        [slice(i * d, i * d + s * (o - 1) + 1, s) for i in range(k)]
        for k, s, d, o in zip(kernel, stride, dilation, out, strict=True)
    ]
    return [(..., *place) for place in itertools.product(*places)]


def pool_windows(size: int, kernel: int, stride: int, padding: tuple[int, int]) -> Windows:
    """The windows of pooling along one axis, without what they have in the padding.

    >>> pool_windows(5, kernel=3, stride=2, padding=(1, 1))
    ((0, 2), (1, 4), (3, 5))
    """
    starts = (stride * p - padding[0] for p in range(window_output(size, kernel, stride, padding, 1)))
    return tuple((max(start, 0), min(start + kernel, size)) for start in starts)


def adaptive_windows(size: int, out: int) -> Windows:
    """`out` windows that cover an axis as evenly as whole numbers can; neighbours may share a place.

    >>> adaptive_windows(5, 3)
    ((0, 2), (1, 4), (3, 5))
    """
    return tuple((p * size // out, -(-(p + 1) * size // out)) for p in range(out))


def windows_of_places(windows: Windows, size: int) -> Windows:
    """Which windows hold each place of an axis: the transpose of `windows`.

    >>> windows_of_places(((0, 2), (1, 4), (3, 5)), 5)
    ((0, 1), (0, 2), (1, 2), (1, 3), (2, 3))
    """
    starts, stops = zip(*windows, strict=True)
    return tuple((bisect_right(stops, i), bisect_right(starts, i)) for i in range(size))
