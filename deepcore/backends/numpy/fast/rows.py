"""What kernels do with a row of numbers: steps of softmax, of cross-entropy and of normalisation.

A sum is taken in the numbers' own precision over so few of them that nothing is lost, then in float64.
"""

from __future__ import annotations

from deepcore.backends.numpy.fast.compiled import inline, row, row_sum, share
from deepcore.backends.numpy.fast.elementary import exp_of_negative, maximum, widest_vectors

FEW = 512  # some 16 for each lane


@row
def largest(x):
    """max x, or NaN if x holds one."""
    top = x[0]
    for j in range(len(x)):
        top = maximum(top, x[j])
    return top


@row_sum
def exp_and_sum(x, top, E):
    """E = e^(x - top), where no x is above top. Returns sum E."""
    total = 0.0
    for start in range(0, len(x), FEW):
        few, e = x[start : start + FEW], E[start : start + FEW]
        s = x.dtype.type(0)
        for j in range(len(few)):
            y = exp_of_negative(few[j] - top)
            e[j] = y
            s += y
        total += s
    return total


@row
def scale(x, factor):
    """x = factor x, in place."""
    for j in range(len(x)):
        x[j] *= factor


def add_rows(thread, threads, X, sums):
    """sums[part] += the sum of the rows of X that the part has, for the parts of one thread."""
    for part in share(len(sums), thread, threads):
        for n in share(len(X), part, len(sums)):
            _add(X[n], sums[part])


@row
def _add(x, sums):
    for j in range(len(x)):
        sums[j] += x[j]


@row_sum
def total(x):
    """sum x, in float64."""
    s = 0.0
    for j in range(len(x)):
        s += x[j]
    return s


@row_sum
def dot(x, y):
    """sum x y, in float64."""
    s = 0.0
    for j in range(len(x)):
        s += float(x[j]) * float(y[j])
    return s


@row_sum
def sums(x, m):
    """sum D and sum D^2 of D = x - m, each quick and nearly as good as in float64 throughout."""
    s, squares = 0.0, 0.0
    for start in range(0, len(x), FEW):
        few = x[start : start + FEW]
        part, part_squares = x.dtype.type(0), x.dtype.type(0)
        widest_vectors()
        for j in range(len(few)):
            d = difference(few[j], m)
            part += d
            part_squares += d * d
        s += part
        squares += part_squares
    return s, squares


@inline
def difference(x, m):
    """x - m, taken before anything is added: where x is near m, it is exact."""
    return x - m
