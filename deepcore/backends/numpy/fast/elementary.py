"""Exponentials and logarithms that the compiler can work on 8 or 16 numbers at a time.

Numba calls the C library for these, number by number, which takes ten times as long. Each is a polynomial
that is as near to the function as one of its degree can be (Remez), for float32 and for float64, and has no
branch. Errors, in units of the last place, are held by tests/accuracy/test_elementary.py, against mpmath.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from deepcore.backends.numpy.fast.compiled import inline
from deepcore.backends.numpy.gelu import MILLS_DENOMINATOR, MILLS_NUMERATOR


def _singles(*numbers: float) -> tuple[np.float32, ...]:
    return tuple(np.float32(number) for number in numbers)


def _doubles(*numbers: float) -> tuple[np.float64, ...]:
    return tuple(np.float64(number) for number in numbers)


# (e^r - 1 - r) / r^2 for |r| <= log(2) / 2, to 5e-11 and 3e-18
_EXP_32 = _singles(0.5, 0.166666669, 0.0416662699, 0.00833326437, 0.00139460735, 0.000199183778)
_EXP_64 = _doubles(0.50000000000000127, 0.16666666666666699, 0.041666666666515428, 0.0083333333333071539,
                   0.0013888888947013236, 0.00019841269917501059, 2.4801489945084652e-5,
                   2.7557216191036405e-6, 2.7631279303828138e-7, 2.5117896980934293e-8)  # fmt: skip

# 1 / log 2; log 2 as the sum of two, of which the first has so few digits that n times it is exact; a number
# so large that what is added to it is rounded to a whole number; the least x whose e^x has all its digits
_RANGE_32 = _singles(1 / math.log(2), 0.693359375, -2.12194440e-4, 1.5 * 2**23, -87.3365)
_RANGE_64 = _doubles(
    1 / math.log(2), 6.93147180369123816490e-01, 1.90821492927058770002e-10, 1.5 * 2**52, -708.39
)

# (log((1 + s) / (1 - s)) - 2 s) / s^3 in s^2, for 0 <= s <= 1/3, to 2e-10 and 2e-21
_LOG_32 = _singles(0.666666795, 0.399986782, 0.286210421, 0.213899607, 0.244249086)
_LOG_64 = _doubles(0.66666666666666666, 0.40000000000000279, 0.28571428571373768,
                   0.22222222227805326, 0.18181817843798501, 0.15384628493520666, 0.13332993700427253,
                   0.11770701539403371, 0.10454166063687197, 0.10102851801236187, 0.057694029795302834,
                   0.16096584946218114)  # fmt: skip

# P(Z > A) e^(A^2/2) is the quotient of polynomials in A with these coefficients, for 0 <= A <= 14, to 5e-9
_NUMERATOR_32 = _singles(*(c / 2**k for k, c in enumerate(MILLS_NUMERATOR)))
_DENOMINATOR_32 = _singles(*(c / 2**k for k, c in enumerate(MILLS_DENOMINATOR)))
_NO_POWER_32 = np.float32(-127)  # two_to gives 0


@inline
def exp_of_negative(x):
    """e^x for x <= 0: to 1 unit.

    0 below the smallest number that has all its digits: smaller ones slow arithmetic down a hundredfold.
    """
    n, q = _power_of_2_and_rest(x)
    y = (q + type(x)(1)) * two_to(n)
    return type(x)(0) if x < by_type(x, _RANGE_32, _RANGE_64)[4] else y


@inline
def expm1_of_negative(x):
    """e^x - 1 for x <= 0, however small: to 1.5 units."""
    n, q = _power_of_2_and_rest(x)
    scale = two_to(n)
    return q * scale + (scale - type(x)(1))


@inline
def _power_of_2_and_rest(x):
    """n, a whole number, and q = e^r - 1, where x = n log 2 + r and |r| <= log(2) / 2: e^x = 2^n (1 + q)."""
    per_log_2, log_2, log_2_rest, rounder, least = by_type(x, _RANGE_32, _RANGE_64)
    x = least if x < least else x  # NaN stays NaN
    n = (x * per_log_2 + rounder) - rounder
    r = (x - n * log_2) - n * log_2_rest
    return n, _polynomial(by_type(x, _EXP_32, _EXP_64), r) * (r * r) + r


@inline
def log1p_of_fraction(x):
    """log(1 + x) for 0 <= x <= 1: to 1 unit.

    With s = x / (2 + x), it is log((1 + s) / (1 - s)) = 2 s + s^3 P(s^2), and 2 s = x - s x.
    """
    s = x / (x + type(x)(2))
    t = s * s
    return x - s * (x - t * _polynomial(by_type(x, _LOG_32, _LOG_64), t))


@inline
def log1p(x):
    """log(1 + x) for x >= 0, however small: to 1 unit.

    1 + x = 2^n (1 + f), -0.3 < f < 0.42, and with s = f / (2 + f) as in `log1p_of_fraction`.
    """
    log_2, log_2_rest = by_type(x, _RANGE_32, _RANGE_64)[1:3]
    n = exponent_of(x + type(x)(1))
    scale = two_to(-n)
    f = x * scale + (scale - type(x)(1))
    s = f / (f + type(x)(2))
    t = s * s
    return n * log_2 + (n * log_2_rest + (f - s * (f - t * _polynomial(by_type(x, _LOG_32, _LOG_64), t))))


@inline
def tanh(x):
    """With t = e^(-2 |x|) - 1, -t / (2 + t): to 3 units, however small x is."""
    t = expm1_of_negative(type(x)(-2) * abs(x))
    y = t / (t + type(x)(2))
    return -y if x > 0 else y


@inline
def mills_ratio(a):
    """P(Z > a) e^(a^2/2), Z ~ N(0, 1), for a float32 0 <= a <= 14."""
    return _polynomial(_NUMERATOR_32, a) / _polynomial(_DENOMINATOR_32, a)


@inline
def exp_of_minus_half_square(a):
    """e^(-a^2/2) for a float32 0 <= a <= 14: to 1 unit; 0 where it would have fewer digits, past 13.2.

    a^2/2 would be rounded: h, which is a cut to 12 bits, has an exact square, and what is left,
    a^2 - h^2 = (a - h) (a + h), is small. It joins what is left of h^2/2 beside the power of 2.
    """
    per_log_2, log_2, log_2_rest, rounder, _ = _RANGE_32
    half = np.float32(0.5)
    h = twelve_bits_of(a)
    x = -half * h * h
    n = (x * per_log_2 + rounder) - rounder
    r = ((x - n * log_2) - half * (a - h) * (a + h)) - n * log_2_rest
    q = _polynomial(_EXP_32, r) * (r * r) + r
    return (q + np.float32(1)) * two_to(_NO_POWER_32 if n < _NO_POWER_32 else n)


@inline
def _polynomial(coefficients, x):
    p = coefficients[len(coefficients) - 1]
    for k in range(len(coefficients) - 2, -1, -1):
        p = p * x + coefficients[k]
    return p


# What follows writes its instructions itself: numba takes longer to look at one line than LLVM to compile it.


def _by_type(typingctx, x, single, double):
    """`single` where x is a float32, `double` where it is a float64; decided when it is compiled."""
    place, kind = (1, single) if x == types.float32 else (2, double)
    return kind(x, single, double), lambda context, builder, signature, arguments: arguments[place]


def _two_to(typingctx, n):
    """2^n for a whole number n, -126 <= n <= 127 in float32, -1022 <= n <= 1023 in float64: its bits."""

    def generate(context, builder, signature, arguments):
        kind, bits, ones, digits = _parts_of(n)
        power = builder.add(builder.fptosi(arguments[0], bits), bits(ones))
        return builder.bitcast(builder.shl(power, bits(digits)), kind)

    return n(n), generate


def _exponent_of(typingctx, x):
    """The whole number n for which 0.7 < x / 2^n < 1.42, in x's type, for a finite x >= 1."""

    def generate(context, builder, signature, arguments):
        kind, bits, _, digits = _parts_of(x)
        root_of_half = bits(0x3F3504F3 if x == types.float32 else 0x3FE6A09E667F3BCD)
        apart = builder.sub(builder.bitcast(arguments[0], bits), root_of_half)
        return builder.sitofp(builder.ashr(apart, bits(digits)), kind)

    return x(x), generate


def _parts_of(x: Any) -> tuple[Any, Any, int, int]:
    """A type, that of its bits, the exponent of 1 in these, and how many digits stand behind it."""
    if x == types.float32:
        return ir.FloatType(), ir.IntType(32), 127, 23
    return ir.DoubleType(), ir.IntType(64), 1023, 52


def _twelve_bits_of(typingctx, x):
    """A float32 without the lower half of its digits."""

    def generate(context, builder, signature, arguments):
        kind, bits, *_ = _parts_of(x)
        upper = builder.and_(builder.bitcast(arguments[0], bits), bits(-1 << 12))
        return builder.bitcast(upper, kind)

    return x(x), generate


def _maximum(typingctx, a, b):
    """The larger of two numbers of one type, or NaN if one of them is: LLVM's own, which works in lanes."""

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        function = builder.module.declare_intrinsic(
            "llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind])
        )
        return builder.call(function, arguments)

    return a(a, b), generate


def _widest_vectors(typingctx):
    """The loop around a call of this is to work in the widest vectors that there are.

    LLVM takes 32 bytes where the processor has 64: right where memory is the limit, half as fast where
    arithmetic is. The call writes no instruction; it marks the function that it stands in.
    """

    def generate(context, builder, signature, arguments):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite's own add knows few
        return context.get_dummy_value()

    return types.void(), generate


by_type: Any = intrinsic(_by_type)
two_to: Any = intrinsic(_two_to)
exponent_of: Any = intrinsic(_exponent_of)
twelve_bits_of: Any = intrinsic(_twelve_bits_of)
maximum: Any = intrinsic(_maximum)
widest_vectors: Any = intrinsic(_widest_vectors)
