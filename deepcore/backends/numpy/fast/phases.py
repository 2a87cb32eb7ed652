"""Images cut into phases, so that what lies s apart stands side by side: what convolutions begin with.

With a step of 1 there is one phase: the padded image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.extending import register_jitable

from deepcore.backends.numpy.fast.compiled import InParts
from deepcore.backends.numpy.fast.simd import (
    PANEL,
    copy,
    deinterleave_2,
    deinterleave_4,
    interleave_1,
    interleave_2,
    interleave_4,
    turn,
)
from deepcore.backends.numpy.fast.workspace import LINE
from deepcore.backends.numpy.fast.writer import FLOATS, INT, LANES, OFFSETS, standing_alone


@register_jitable  # plain Python where Python calls it
def apart(numbers):
    """At least so many numbers, filling an odd count of cache lines.

    Things a multiple of 4096 bytes apart compete for the same few places of the cache; these don't.
    """
    return LINE * (-(-numbers // LINE) | 1)


class Split(NamedTuple):
    """An image cut into phases: number (h, w) is number (h // s, w // s) of phase (h % s, w % s).

    Padding is counted in h and w. In memory: phase by phase, in it channel by channel, row by row.
    """

    channels: int
    height: int  # of the image that comes in
    width: int
    top: int  # padding before the first row and the first column
    left: int
    step_h: int
    step_w: int
    row: int  # numbers in a row of a phase
    plane: int  # numbers from a channel to the next
    size: int  # numbers in all

    @classmethod
    def of(
        cls, shape: Sequence[int], before: Sequence[int], after: Sequence[int], step: Sequence[int]
    ) -> Split:
        channels, height, width = shape
        rows = -(-(height + before[0] + after[0]) // step[0])
        row = -(-(width + before[1] + after[1]) // step[1])
        plane = apart(rows * row + LANES)  # with room for the rest of the vector that the last row ends in
        size = step[0] * step[1] * channels * plane + 2 * PANEL  # a vector may look beyond the last row
        return cls(channels, height, width, before[0], before[1], step[0], step[1], row, plane, size)

    def numbers(self) -> np.ndarray:
        """As compiled code takes them."""
        return np.array(self, np.int64)

    def offset(self, c: Any, h: Any, w: Any) -> Any:
        """Where number (h, w) of a channel stands, h and w counted from the corner of the padding."""
        phase = h % self.step_h * self.step_w + w % self.step_w
        return (phase * self.channels + c) * self.plane + h // self.step_h * self.row + w // self.step_w


@standing_alone(FLOATS, INT, OFFSETS, FLOATS)
def split_image(X, x, split, image):
    """Copy an image that starts at X[x]; the padding is there already.   split: the numbers of a Split"""
    channels, height, width, top, left = split[0], split[1], split[2], split[3], split[4]
    step_h, step_w, row, plane = split[5], split[6], split[7], split[8]
    step = channels * plane  # from a phase to the next
    for c in range(channels):
        i, target = top % step_h, c * plane + top // step_h * row  # the phase of a row, and where it goes
        for h in range(height):
            source, at = x + (c * height + h) * width, i * step_w * step + target
            if step_w == 1:
                for w in range(0, width, LANES):  # zeros beyond the row's end: the next row overwrites them
                    copy(X, source + w, image, at + left + w, width - w)
            elif step_w == 2 or step_w == 4:
                for k in range(0, row, LANES):
                    w = step_w * k - left
                    if step_w == 2:
                        deinterleave_2(X, source + w, -w, width - w, image, at + k, step, row - k)
                    else:
                        deinterleave_4(X, source + w, -w, width - w, image, at + k, step, row - k)
            else:
                for w in range(width):
                    b, k = (w + left) % step_w, (w + left) // step_w
                    image[at + b * step + k] = X[source + w]
            i += 1
            if i == step_h:
                i, target = 0, target + row


@standing_alone(FLOATS, INT, INT, INT, INT, INT, FLOATS, FLOATS, INT, INT, INT)
def join_phases(result, f, size, row, step_h, step_w, bias, Y, y, height, width):
    """Y = result + bias: the phases of each row, shuffled into each other.

    In `result` each phase of f filters is apart(f size) from the next one.
    """
    phase = apart(f * size)
    for g in range(f):
        i, start = 0, g * size  # the phase of a row, and where that row starts
        for h in range(height):
            source, target = i * step_w * phase + start, y + (g * height + h) * width
            if step_w == 1 or step_w == 2 or step_w == 4:
                at = source
                for w in range(0, width, step_w * LANES):
                    if step_w == 1:
                        interleave_1(result, at, phase, bias, g, Y, target + w, width - w)
                    elif step_w == 2:
                        interleave_2(result, at, phase, bias, g, Y, target + w, width - w)
                    else:
                        interleave_4(result, at, phase, bias, g, Y, target + w, width - w)
                    at += LANES
            else:
                for w in range(width):
                    Y[target + w] = result[source + w % step_w * phase + w // step_w] + bias[g]
            i += 1
            if i == step_h:
                i, start = 0, start + row


@InParts
def add_threads(thread, threads, sums, f, dW):
    """dW[f, t] = sum over k of sums[k][t, f], for some of the taps."""
    lanes, weights = -(-f // LANES) * LANES, len(dW) // f
    first, last = weights * thread // threads, weights * (thread + 1) // threads
    total = sums[0]
    for other in range(1, len(sums)):
        for k in range(first * lanes, last * lanes):
            total[k] += sums[other, k]
    turn(total, first * lanes, last - first, f, lanes, dW, first, weights)
