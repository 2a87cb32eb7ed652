"""The random generator, a pair of words at a time in registers."""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.numpy.fast import compiled
from deepcore.backends.numpy.fast.compiled import InParts, inline

_PARITY = np.uint32(0x1BD11BDA)
# numba would compile a function anew for each number that it is called with
_ODD, _EVEN = (tuple(map(np.uint32, bits)) for bits in ((13, 15, 26, 6), (17, 29, 16, 24)))  # rounds in fours


def threefry(like: np.ndarray, n: int, key: tuple[int, int], call: Any, start: int) -> np.ndarray:
    """Words `start` to start + n - 1: two for each counter (j, call)."""
    if n < max(compiled.WORTH_COMPILED, 1):
        return NotImplemented
    first = start // 2
    words = np.empty(((start + n + 1) // 2 - first, 2), np.uint32)
    counter = np.asarray(call, np.int32).view(np.uint32)[()]
    k0, k1 = (np.uint32(k) for k in key)
    _threefry(words.size, np.uint32(first & 0xFFFFFFFF), counter, k0, k1, words)
    return words.reshape(-1)[start % 2 :][:n].view(np.int32)


@InParts
def _threefry(part, parts, first, counter, k0, k1, words):
    k2 = np.uint32(k0 ^ k1 ^ _PARITY)
    start = len(words) * part // parts
    words = words[start : len(words) * (part + 1) // parts]
    for j in range(len(words)):
        x0, x1 = np.uint32(first + np.uint32(start + j) + k0), np.uint32(counter + k1)
        x0, x1 = _four_rounds(x0, x1, _ODD, k1, k2, np.uint32(1))
        x0, x1 = _four_rounds(x0, x1, _EVEN, k2, k0, np.uint32(2))
        x0, x1 = _four_rounds(x0, x1, _ODD, k0, k1, np.uint32(3))
        x0, x1 = _four_rounds(x0, x1, _EVEN, k1, k2, np.uint32(4))
        words[j, 0], words[j, 1] = _four_rounds(x0, x1, _ODD, k2, k0, np.uint32(5))


@inline
def _four_rounds(x0, x1, rotations, key0, key1, count):
    for rotation in rotations:
        x0, x1 = _round(x0, x1, rotation)
    return np.uint32(x0 + key0), np.uint32(x1 + key1 + count)


@inline
def _round(x0, x1, rotation):
    x0 = np.uint32(x0 + x1)
    left, right = np.uint32(x1 << rotation), np.uint32(x1 >> np.uint32(32 - rotation))
    return x0, np.uint32((left | right) ^ x0)
