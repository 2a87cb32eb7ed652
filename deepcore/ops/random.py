"""Random numbers that are the same on every library and device.

A counter-based generator keeps no state: number i of a draw is a function of (seed, stream, call, i)
alone. So a part of a draw is the same numbers as in the whole, whoever draws it, in any order.

The function is Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), which needs additions, rotations and exclusive ors of 32-bit words only. The standard has
no right shift that fills with zeros for int32, which every library has: a mask after it makes one.
"""

from __future__ import annotations

import functools
import math
import operator
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace, backend_of
from deepcore.errors import ArgumentError
from deepcore.ops.dispatch import op

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA  # so that a key of zeros mixes too
_WORD = 0xFFFFFFFF


def random_bits(
    like: Any, shape: Sequence[int], seed: int, stream: int | str, call: Any, start: int = 0
) -> Any:
    """32 random bits in each number: int32, where `like` is.

    seed: 0 <= seed < 2**64
    stream: a small int or a name; each is a generator of its own
    call: how many draws this stream has made, an int or a 0-d int32 array; 0 <= call < 2**32
    start: the first number's index, if `shape` is a part of a larger draw; at most 2**33 numbers
    """
    xp = array_namespace(like)
    call = signed(call) if isinstance(call, int) else call
    bits = threefry(like, math.prod(shape), stream_key(operator.index(seed), stream), call, start)
    return xp.reshape(bits, tuple(shape))


def uniform(
    like: Any,
    shape: Sequence[int],
    seed: int,
    stream: int | str,
    call: Any,
    start: int = 0,
    dtype: Any = None,
) -> Any:
    """Uniform in [0, 1): multiples of 2**-24, the same ones in float32 (the default) and float64."""
    xp = array_namespace(like)
    bits = high_bits(random_bits(like, shape, seed, stream, call, start))
    U = xp.astype(bits, xp.float32) * 2.0**-24
    return U if dtype is None else xp.astype(U, dtype)


def normal(
    like: Any,
    shape: Sequence[int],
    seed: int,
    stream: int | str,
    call: Any,
    start: int = 0,
    dtype: Any = None,
) -> Any:
    """Normal with mean 0 and variance 1, in float32 unless `dtype` is given; |Z| <= 5.77.

    Box and Muller: Z[2j] = r cos a, Z[2j+1] = r sin a, with r = (-2 log(1 - U[2j]))^1/2, a = 2 pi U[2j+1]
    in float64 where the device has it. Libraries may differ in the last place of a float32.
    """
    xp = array_namespace(like)
    n, odd = math.prod(shape), start % 2
    pairs = (n + odd + 1) // 2  # whole ones: the first or last may be needed in part only
    wide = widest_float(like)
    U = uniform(like, (pairs, 2), seed, stream, call, start - odd, dtype=wide)
    r = xp.sqrt(-2.0 * xp.log1p(-U[:, 0]))
    a = 2.0 * math.pi * U[:, 1]
    Z = xp.stack([r * xp.cos(a), r * xp.sin(a)], axis=1)
    Z = xp.reshape(Z, (2 * pairs,))[odd : odd + n]
    return xp.reshape(xp.astype(Z, xp.float32 if dtype is None else dtype), tuple(shape))


def keep_mask(
    like: Any,
    shape: Sequence[int],
    p_drop: float,
    seed: int,
    stream: int | str,
    call: Any,
    start: int = 0,
) -> Any:
    """True with probability 1 - p_drop: exactly where `uniform` of the same draw is >= p_drop."""
    xp = array_namespace(like)
    call = signed(call) if isinstance(call, int) else call
    least = math.ceil(p_drop * 2**24)  # an integer, as p_drop would be rounded to float32 on some libraries
    key = stream_key(operator.index(seed), stream)
    return xp.reshape(at_least(like, math.prod(shape), key, call, start, least), tuple(shape))


def permutation(n: int, seed: int, stream: int | str, call: int) -> np.ndarray:
    """A random order of 0 ... n-1, as int64 on the host: that of n random 64-bit numbers."""
    words = random_bits(np.empty(0), (n, 2), seed, stream, call).astype(np.int64)
    return np.argsort(words[:, 0] << 32 | words[:, 1] & _WORD, kind="stable").astype(np.int64, copy=False)


@op
def threefry(like: Any, n: int, key: tuple[int, int], call: Any, start: int) -> Any:
    """n words from index `start` on: words 2j and 2j+1 are Threefry of the counter (j, call)."""
    xp = array_namespace(like)
    device = backend_of(like).device(like)
    first = start // 2
    pair = xp.arange((start + n + 1) // 2 - first, dtype=xp.int32, device=device) + signed(first)
    x0, x1 = mix(pair, xp.zeros_like(pair) + call, key)
    words = xp.reshape(xp.stack([x0, x1], axis=1), (-1,))  # (pairs, 2) -> (2 pairs)
    return words[start % 2 : start % 2 + n]


@op
def at_least(like: Any, n: int, key: tuple[int, int], call: Any, start: int, least: int) -> Any:
    """Which of the words of `threefry` have upper 24 bits that are at least `least`."""
    return high_bits(threefry(like, n, key, call, start)) >= least


def mix(x0: Any, x1: Any, key: tuple[int, int]) -> tuple[Any, Any]:
    """Threefry-2x32-20 of the counter words x0, x1, int32 arrays whose sums wrap round."""
    xp = array_namespace(x0)
    keys = [*key, key[0] ^ key[1] ^ _PARITY]
    x0, x1 = x0 + signed(keys[0]), x1 + signed(keys[1])
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            left = xp.bitwise_left_shift(x1, rotation)
            right = xp.bitwise_right_shift(x1, 32 - rotation) & ((1 << rotation) - 1)
            x1 = (left | right) ^ x0
        x0 = x0 + signed(keys[(group + 1) % 3])
        x1 = x1 + signed(keys[(group + 2) % 3] + group + 1)
    return x0, x1


@functools.lru_cache(maxsize=4096)
def stream_key(seed: int, stream: int | str) -> tuple[int, int]:
    """The key of a stream: Threefry of the stream's number under the seed, in Python's own integers."""
    if not 0 <= seed < 2**64:
        raise ArgumentError(f"seed must be an int from 0 to 2**64 - 1, got {seed}")
    named = isinstance(stream, str)
    number = zlib.crc32(stream.encode()) if named else stream
    return mix_ints(number & _WORD, int(named), (seed & _WORD, seed >> 32))


def mix_ints(x0: int, x1: int, key: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 of two Python ints, 0 <= x < 2**32."""
    keys = [*key, key[0] ^ key[1] ^ _PARITY]
    x0, x1 = x0 + keys[0] & _WORD, x1 + keys[1] & _WORD
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1 & _WORD
            x1 = (x1 << rotation & _WORD | x1 >> (32 - rotation)) ^ x0
        x0 = x0 + keys[(group + 1) % 3] & _WORD
        x1 = x1 + keys[(group + 2) % 3] + group + 1 & _WORD
    return x0, x1


def signed(word: int) -> int:
    """The 32 bits of `word` as an int32 reads them."""
    word &= _WORD
    return word - (1 << 32) if word >> 31 else word


def high_bits(bits: Any) -> Any:
    """The upper 24 of 32 bits, 0 <= . < 2**24: as many as float32 holds."""
    xp = array_namespace(bits)
    return xp.bitwise_right_shift(bits, 8) & 0xFFFFFF


def widest_float(like: Any) -> Any:
    """float64 where the device of `like` has it, else float32."""
    xp = array_namespace(like)
    device = backend_of(like).device(like)
    floats = xp.__array_namespace_info__().dtypes(device=device, kind="real floating")
    return floats.get("float64", xp.float32)
