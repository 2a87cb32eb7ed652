"""Windows that slide over images, as windows.cuh wants them: six numbers for each of three axes."""

from __future__ import annotations

from collections.abc import Sequence

from deepcore.backends.cupy.kernels import flat_launch

Numbers = tuple[int, ...]
_NO_AXIS = (1, 1, 1, 1, 0, 1)


def geometry(
    sizes: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Numbers:
    """size, places, window, stride, padding in front and dilation of each axis, the missing ones in front."""
    starts = [lo for lo, _ in padding]
    axes = list(zip(sizes, out, kernel, stride, starts, dilation, strict=True))
    return tuple(number for axis in [_NO_AXIS] * (3 - len(axes)) + axes for number in axis)


def thread_each(count: int) -> tuple[tuple[int], tuple[int]]:
    """Grid and block: a thread for each of so many things."""
    return flat_launch(count, 16)
