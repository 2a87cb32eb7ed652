"""Normalisation: a thread has samples, which stay in its cache from pass to pass.

Sums are float64, those of few numbers first taken in their own precision where that loses nothing. None
depends on the number of threads: those over the samples (a mean of a batch, the gradient of a weight) are
those of a fixed number of parts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.numpy.fast.compiled import (
    InParts,
    Steps,
    flat,
    inline,
    plain,
    row,
    row_sum,
    served,
    share,
    shared_out,
)
from deepcore.backends.numpy.fast.elementary import widest_vectors
from deepcore.backends.numpy.fast.rows import FEW, add_rows, difference, sums
from deepcore.backends.numpy.memory import Out, empty

_PARTS = 32
_ROWS = 16  # whose gradients are added in their own precision
_SHORT = 2048  # numbers, some 32 for each lane; to cut five arrays takes as long as to add 300
_SOME = 64  # numbers of a row by which its mean is guessed


def batch_norm(
    X: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    epsilon: float,
    out: tuple[Out, ...] = (None,),
) -> tuple[np.ndarray, ...]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if not _images_or_rows(X, gamma, beta) or not gamma.size == beta.size == X.shape[1]:
        return NotImplemented
    x, C = _by_channel(X), X.shape[1]
    Y = empty(X.shape, X.dtype) if out[0] is None else out[0]
    mean, statistics = np.empty((2, C, *(1,) * (X.ndim - 2)), X.dtype), np.empty((2, C), X.dtype)
    arrays = x, flat(gamma), flat(beta), epsilon, Y.reshape(x.shape), *mean.reshape(2, C), *statistics
    if X.ndim > 2:
        _batch_norm(X.size, *arrays, np.empty((_PARTS, C, 2)))
    else:
        _batch_norm_of_rows(X.size, *arrays)
    return Y, mean, *(s.reshape(1, *mean.shape[1:]) for s in statistics)


@Steps
def _batch_norm(parts, in_threads, X, gamma, beta, epsilon, Y, mean, rest, r, var, parts_sums):
    """With D = X - m, var X = mean D^2 - (mean D)^2, which is good if m is nearer than a few deviations.

    The mean of the first sample is such an m; where it isn't, what D says of the mean is, since a sample of
    N is no more than sqrt N deviations away.
    """
    N, C, S = X.shape
    for c in range(C):
        mean[c] = sums(X[0, c], X.dtype.type(0))[0] / S
    for _ in range(2):
        _add_places(parts, in_threads, (X, mean, parts_sums))
        far = False
        for c in range(C):
            s, squares = _sums_of_channel(parts_sums, c)
            s, squares = s / (N * S), squares / (N * S)
            v = max(squares - s * s, 0.0)
            exact = float(mean[c]) + s
            mean[c], var[c], r[c] = exact, v, 1 / math.sqrt(v + epsilon)
            rest[c] = exact - float(mean[c])
            far |= s * s > 4 * v
        if not far:
            break
    _finish_places(parts, in_threads, (X, mean, rest, r, gamma, beta, Y))


@shared_out
def _add_places(thread, threads, X, m, parts_sums):
    """sum D and sum D^2 of D = X - m, for each part and channel."""
    N, C, _ = X.shape
    for part in share(_PARTS, thread, threads):
        for c in range(C):
            parts_sums[part, c, 0] = parts_sums[part, c, 1] = 0
        for i in share(N * C, part, _PARTS):
            n, c = i // C, i % C
            s, squares = sums(X[n, c], m[c])
            parts_sums[part, c, 0] += s
            parts_sums[part, c, 1] += squares


@row
def _sums_of_channel(parts_sums, c):
    s, t = 0.0, 0.0
    for part in range(len(parts_sums)):
        s += parts_sums[part, c, 0]
        t += parts_sums[part, c, 1]
    return s, t


@shared_out
def _finish_places(part, parts, X, mean, rest, r, gamma, beta, Y):
    N, C, _ = X.shape
    for i in share(N * C, part, parts):
        n, c = i // C, i % C
        _scale_and_shift_places(X[n, c], mean[c], rest[c], r[c], gamma[c], beta[c], Y[n, c])


@row
def _scale_and_shift_places(x, mean, rest, r, gamma, beta, y):
    """y = gamma h + beta"""
    widest_vectors()
    for j in range(len(x)):
        y[j] = gamma * _standard(x[j], mean, rest, r) + beta


def batch_norm_backward(
    dY: np.ndarray,
    X: np.ndarray,
    mean: np.ndarray,
    r: np.ndarray,
    gamma: np.ndarray,
    out: tuple[Out, ...] = (None,),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY"""
    fit = X.shape == dY.shape and mean.size == 2 * dY.shape[1] and r.size == gamma.size == dY.shape[1]
    if not (_images_or_rows(dY, X, mean, r, gamma) and fit):
        return NotImplemented
    dX, C = empty(dY.shape, dY.dtype) if out[0] is None else out[0], dY.shape[1]
    dgamma, dbeta, mean_dy, mean_hdy = np.empty((4, C), gamma.dtype)
    statistics = *plain(mean).reshape(2, C), flat(r)
    arrays = _by_channel(dY), _by_channel(X), *statistics, flat(gamma), _by_channel(dX), dgamma, dbeta
    if dY.ndim > 2:
        _batch_norm_backward(dY.size, *arrays, mean_dy, mean_hdy, np.empty((_PARTS, C, 2)))
    else:
        _batch_norm_of_rows_backward(dY.size, *arrays)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


@Steps
def _batch_norm_backward(
    parts, in_threads, dY, X, mean, rest, r, gamma, dX, dgamma, dbeta, mean_dy, mean_hdy, parts_sums
):
    N, C, S = dY.shape
    _add_channel_products(parts, in_threads, (X, mean, rest, r, dY, parts_sums))
    for c in range(C):
        hdy, dy = _sums_of_channel(parts_sums, c)
        dgamma[c], dbeta[c] = hdy, dy
        mean_dy[c], mean_hdy[c] = dy / (N * S), hdy / (N * S)
    _centre_places(parts, in_threads, (dY, mean_dy, X, mean, rest, r, mean_hdy, gamma, dX))


@shared_out
def _add_channel_products(thread, threads, X, mean, rest, r, dY, parts_sums):
    """sum H dY and sum dY, for each part and channel."""
    N, C, _ = dY.shape
    for part in share(_PARTS, thread, threads):
        for c in range(C):
            parts_sums[part, c, 0] = parts_sums[part, c, 1] = 0
        for i in share(N * C, part, _PARTS):
            n, c = i // C, i % C
            hdy, dy = _product_sums(X[n, c], mean[c], rest[c], r[c], dY[n, c])
            parts_sums[part, c, 0] += hdy
            parts_sums[part, c, 1] += dy


@row_sum
def _product_sums(x, mean, rest, r, dy):
    """sum h dy and sum dy, as `rows.sums`"""
    s, t = 0.0, 0.0
    for start in range(0, len(x), FEW):
        few, others = x[start : start + FEW], dy[start : start + FEW]
        products, total = x.dtype.type(0), x.dtype.type(0)
        widest_vectors()
        for j in range(len(few)):
            products += _standard(few[j], mean, rest, r) * others[j]
            total += others[j]
        s += products
        t += total
    return s, t


@shared_out
def _centre_places(part, parts, dY, mean_dy, X, mean, rest, r, mean_hdy, gamma, dX):
    N, C, _ = dY.shape
    for i in share(N * C, part, parts):
        n, c = i // C, i % C
        statistics = mean[c], rest[c], r[c]
        _centre_row_of_places(dY[n, c], mean_dy[c], X[n, c], *statistics, mean_hdy[c], gamma[c], dX[n, c])


@row
def _centre_row_of_places(dy, mean_dy, x, mean, rest, r, mean_hdy, gamma, dx):
    """dx = gamma r (dy - mean_dy - h mean_hdy)"""
    widest_vectors()
    factor = gamma * r
    for j in range(len(dy)):
        dx[j] = factor * (dy[j] - mean_dy - _standard(x[j], mean, rest, r) * mean_hdy)


@inline  # exact, also in a sum whose terms may be reordered: else the rest would be lost
def _standard(x, mean, rest, r):
    """h = r (x - mean), the mean in two parts"""
    return r * ((x - mean) - rest)


def _images_or_rows(X: np.ndarray, *others: np.ndarray) -> bool:
    """Whether numbers enough stand one after the other to be worked on in lanes: places, or channels."""
    return served(X, *others) and (math.prod(X.shape[2:]) >= 16 if X.ndim > 2 else X.ndim == 2)


def _by_channel(X: np.ndarray) -> np.ndarray:
    """(n, c, ...) -> (n, c, places); rows as they are"""
    return plain(X).reshape(*X.shape[:2], -1) if X.ndim > 2 else plain(X)


# ---- (n, c), channels side by side: sums of columns, by parts of the rows


@Steps
def _batch_norm_of_rows(parts, in_threads, X, gamma, beta, epsilon, Y, mean, rest, r, var):
    N, C = X.shape
    sums, squares = np.zeros((_PARTS, C)), np.zeros((_PARTS, C))
    _add_rows(parts, in_threads, (X, sums))
    s = _sum_of_parts(sums)
    for c in range(C):
        mean[c] = s[c] / N
        rest[c] = s[c] / N - float(mean[c])
    _add_squares(parts, in_threads, (X, mean, rest, squares))
    v = _sum_of_parts(squares)
    for c in range(C):
        var[c], r[c] = v[c] / N, 1 / math.sqrt(v[c] / N + epsilon)
    _scale_and_shift_rows(parts, in_threads, (X, mean, rest, r, gamma, beta, Y))


_add_rows = shared_out(add_rows)


@shared_out
def _add_squares(thread, threads, X, mean, rest, squares):
    for part in share(_PARTS, thread, threads):
        for n in share(len(X), part, _PARTS):
            _add_squares_of_row(X[n], mean, rest, squares[part])


@shared_out
def _scale_and_shift_rows(part, parts, X, mean, rest, r, gamma, beta, Y):
    for n in share(len(X), part, parts):
        _scale_and_shift_row(X[n], mean, rest, r, gamma, beta, Y[n])


@row
def _sum_of_parts(parts):
    """parts.sum(axis=0)"""
    s = np.zeros(parts.shape[1])
    for part in range(len(parts)):
        for c in range(parts.shape[1]):
            s[c] += parts[part, c]
    return s


@row
def _add_squares_of_row(x, mean, rest, squares):
    """Add d^2, d = x - mean, the mean in two parts."""
    for j in range(len(x)):
        d = float((x[j] - mean[j]) - rest[j])
        squares[j] += d * d


@row
def _scale_and_shift_row(x, mean, rest, r, gamma, beta, y):
    """y = gamma h + beta"""
    for j in range(len(x)):
        y[j] = gamma[j] * _standard(x[j], mean[j], rest[j], r[j]) + beta[j]


@Steps
def _batch_norm_of_rows_backward(parts, in_threads, dY, X, mean, rest, r, gamma, dX, dgamma, dbeta):
    N, C = dY.shape
    hdys, dys = np.zeros((_PARTS, C)), np.zeros((_PARTS, C))
    _add_rows_to_sums(parts, in_threads, (X, mean, rest, r, dY, hdys, dys))
    hdy, dy = _sum_of_parts(hdys), _sum_of_parts(dys)
    for c in range(C):
        dgamma[c], dbeta[c] = hdy[c], dy[c]
    mean_dy, mean_hdy = (dy / N).astype(gamma.dtype), (hdy / N).astype(gamma.dtype)
    _centre_by_columns(parts, in_threads, (dY, mean_dy, X, mean, rest, r, mean_hdy, gamma, dX))


@shared_out
def _add_rows_to_sums(thread, threads, X, mean, rest, r, dY, hdys, dys):
    for part in share(_PARTS, thread, threads):
        for n in share(len(dY), part, _PARTS):
            _add_to_sums(X[n], mean, rest, r, dY[n], hdys[part], dys[part])


@shared_out
def _centre_by_columns(part, parts, dY, mean_dy, X, mean, rest, r, mean_hdy, gamma, dX):
    for n in share(len(dY), part, parts):
        _centre_by_column(dY[n], mean_dy, X[n], mean, rest, r, mean_hdy, gamma, dX[n])


@row
def _add_to_sums(x, mean, rest, r, dy, dgamma, dbeta):
    for j in range(len(x)):
        dgamma[j] += float(_standard(x[j], mean[j], rest[j], r[j])) * float(dy[j])
        dbeta[j] += dy[j]


@row
def _centre_by_column(dy, mean_dy, x, mean, rest, r, mean_hdy, gamma, dx):
    """dx = gamma r (dy - mean_dy - h mean_hdy)"""
    for j in range(len(dy)):
        h = _standard(x[j], mean[j], rest[j], r[j])
        dx[j] = gamma[j] * r[j] * (dy[j] - mean_dy[j] - h * mean_hdy[j])


# ---- groups of channels of one sample


def group_norm(
    X: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    groups: int,
    epsilon: float,
    out: tuple[Out, ...] = (None,),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if not (served(X, gamma, beta) and _in_lanes(X.shape, groups)):
        return NotImplemented
    return _standardised(X, gamma, beta, groups, epsilon, True, out[0])


def rms_norm(
    X: np.ndarray, gamma: np.ndarray, epsilon: float, out: tuple[Out, ...] = (None,)
) -> tuple[np.ndarray, np.ndarray]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    if not served(X, gamma):
        return NotImplemented
    Y, _, r = _standardised(X, gamma, np.zeros_like(gamma), 1, epsilon, False, out[0])
    return Y, r


def _standardised(
    X: np.ndarray, gamma: Any, beta: Any, groups: int, epsilon: float, centred: bool, Y: Out
) -> Any:
    shape, per_channel = _as_groups(X.shape, groups)
    kernel = _standardise_rows if len(shape) == 2 else _standardise_groups
    Y, rows = empty(X.shape, X.dtype) if Y is None else Y, X.shape[0] * groups
    mean, r = np.empty((rows, 2), X.dtype), np.empty((rows, 1), X.dtype)
    weights = plain(gamma).reshape(per_channel), plain(beta).reshape(per_channel)
    kernel(X.size, plain(X).reshape(shape), *weights, epsilon, centred, Y.reshape(shape), mean, r.reshape(-1))
    return Y, mean, r


def group_norm_backward(
    dY: np.ndarray,
    X: np.ndarray,
    mean: np.ndarray,
    r: np.ndarray,
    gamma: np.ndarray,
    out: tuple[Out, ...] = (None,),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY"""
    if not served(dY, X, mean, r, gamma):
        return NotImplemented
    if dY.shape != X.shape or mean.shape != (len(r), 2) or len(r) % len(dY):
        return NotImplemented
    if not _in_lanes(X.shape, len(r) // len(X)):
        return NotImplemented
    return _standardised_backward(dY, X, mean, r, gamma, True, out[0])


def rms_norm_backward(
    dY: np.ndarray, X: np.ndarray, r: np.ndarray, gamma: np.ndarray, out: tuple[Out, ...] = (None,)
) -> tuple[np.ndarray, np.ndarray]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)"""
    if not served(dY, X, r, gamma) or dY.shape != X.shape or len(r) != len(dY):
        return NotImplemented
    dX, dgamma, _ = _standardised_backward(dY, X, np.zeros((len(r), 2), r.dtype), r, gamma, False, out[0])
    return dX, dgamma


def _standardised_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, r: np.ndarray, gamma: np.ndarray, centred: bool, dX: Out
) -> Any:
    shape, per_channel = _as_groups(dY.shape, len(r) // len(dY))
    kernel = _standardise_rows_backward if len(shape) == 2 else _standardise_groups_backward
    dX = empty(dY.shape, dY.dtype) if dX is None else dX
    few, sums = (empty((_PARTS, 2, *per_channel), dtype) for dtype in (dY.dtype, np.float64))
    gradients = np.empty((2, gamma.size), gamma.dtype)
    arrays = plain(dY).reshape(shape), plain(X).reshape(shape), plain(mean), flat(r)
    weights = plain(gamma).reshape(per_channel)
    kernel(dY.size, *arrays, weights, centred, dX.reshape(shape), few, sums, gradients)
    dgamma, dbeta = gradients
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


def _as_groups(shape: tuple[int, ...], groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """X as (samples, groups, channels, places), or rows of channels; and gamma's shape."""
    N, C, places = shape[0], shape[1] // groups, math.prod(shape[2:])
    return ((N, C), (C,)) if places == 1 else ((N, groups, C, places), (groups, C))


def _in_lanes(shape: tuple[int, ...], groups: int) -> bool:
    """Whether there are rows to work along: places that share a gamma, or all the channels."""
    return groups == 1 or math.prod(shape[2:]) > 1


@row
def _statistics(x, m, s, squares, centred, epsilon, mean):
    """r, and into `mean` the mean in two parts, of `sums` of D = x - m.

    var x = mean D^2 - (mean D)^2, which is good if m is no farther from the mean than numbers are. If it is,
    what D says of the mean is.
    """
    rest = s / len(x) if centred else 0.0
    var = squares / len(x) - rest * rest
    if rest * rest > var:
        m = x.dtype.type(m + rest)
        s, squares = sums(x, m)
        rest = s / len(x)
        var = squares / len(x) - rest * rest
    mean[0] = m + rest
    mean[1] = (m - mean[0]) + rest
    return 1 / math.sqrt((0.0 if var < 0 else var) + epsilon)


@row
def _guess(x, centred):
    """The mean of some numbers, which is near that of all of them where they are alike."""
    some = x[:_SOME]
    return x.dtype.type(sums(some, x.dtype.type(0))[0] / len(some) if centred else 0.0)


@row
def _move_all(few, sums):
    """Add them to the sums, and begin anew."""
    few, sums = few.reshape(-1), sums.reshape(-1)
    for j in range(len(few)):
        sums[j] += few[j]
    for j in range(len(few)):
        few[j] = 0


@row
def _total(parts_sums, gradients):
    """dgamma and dbeta: of all parts."""
    for part in range(1, len(parts_sums)):
        _move_all(parts_sums[part], parts_sums[0])
    totals, gradients = parts_sums[0].reshape(-1), gradients.reshape(-1)
    for j in range(len(totals)):
        gradients[j] = totals[j]


# -- channels with their places, a gamma for each channel


@InParts
def _standardise_groups(part, parts, X, gamma, beta, epsilon, centred, Y, mean, r):
    """X, Y: (n, g, c, places)   gamma, beta: (g, c)"""
    N, G, C, _ = X.shape
    for i in share(N * G, part, parts):
        n, g = i // G, i % G
        x = X[n, g].reshape(-1)
        m = _guess(x, centred)
        s, squares = sums(x, m)
        r[i] = _statistics(x, m, s, squares, centred, epsilon, mean[i])
        for c in range(C):
            _finish(X[n, g, c], mean[i, 0], mean[i, 1], r[i], gamma[g, c], beta[g, c], Y[n, g, c])


@row
def _finish(x, mean, rest, r, gamma, beta, y):
    """y = gamma h + beta"""
    widest_vectors()
    for j in range(len(x)):
        y[j] = gamma * _standard(x[j], mean, rest, r) + beta


@Steps
def _standardise_groups_backward(
    parts, in_threads, dY, X, mean, r, gamma, centred, dX, few, parts_sums, gradients
):  # fmt: skip
    _groups_backward(parts, in_threads, (dY, X, mean, r, gamma, centred, dX, parts_sums))
    _total(parts_sums, gradients)


@shared_out
def _groups_backward(thread, threads, dY, X, mean, r, gamma, centred, dX, parts_sums):
    """parts_sums: (parts, 2, g, c), dgamma and dbeta of some samples each"""
    N, G = dY.shape[:2]
    for part in share(_PARTS, thread, threads):
        parts_sums[part] = 0
        for i in range(N * part // _PARTS * G, N * (part + 1) // _PARTS * G):
            n, g = i // G, i % G
            statistics = mean[i, 0], mean[i, 1], r[i]
            _group_backward(
                *(dY[n, g], X[n, g], statistics, gamma[g], centred, dX[n, g]),
                *(parts_sums[part, 0, g], parts_sums[part, 1, g]),
            )


@row
def _group_backward(dy, x, statistics, gamma, centred, dx, dgamma, dbeta):
    """dx of a group, (c, places); adds to dgamma and dbeta, (c,)."""
    C, S = dy.shape
    dh, hdh = 0.0, 0.0
    for c in range(C):
        s, products = _sum_and_dot(dy[c], x[c], statistics)
        dgamma[c] += products
        dbeta[c] += s
        dh += gamma[c] * s
        hdh += gamma[c] * products
    means = (dh / (C * S) if centred else 0.0), hdh / (C * S)
    for c in range(C):
        _centre(dy[c], x[c], statistics, gamma[c], means, dx[c])


@row_sum
def _sum_and_dot(dy, x, statistics):
    """sum dy and sum h dy, as `rows.sums`"""
    mean, rest, r = statistics
    s, products = 0.0, 0.0
    for start in range(0, len(x), FEW):
        few, others = dy[start : start + FEW], x[start : start + FEW]
        part, part_products = dy.dtype.type(0), dy.dtype.type(0)
        widest_vectors()
        for j in range(len(few)):
            part += few[j]
            part_products += few[j] * _standard(others[j], mean, rest, r)
        s += part
        products += part_products
    return s, products


@row
def _centre(dy, x, statistics, gamma, means, dx):
    mean, rest, r = statistics
    dh, hdh = dy.dtype.type(means[0]), dy.dtype.type(means[1])
    widest_vectors()
    for j in range(len(dy)):
        dx[j] = _centred(dy[j], _standard(x[j], mean, rest, r), r, gamma, dh, hdh)


@inline
def _centred(dy, h, r, gamma, dh, hdh):
    """dx = r (gamma dy - mean dh - h mean(h dh))"""
    return r * (gamma * dy - dh - h * hdh)


# -- rows: channels of one place, each with a gamma of its own. A row is finished in the loop that looks at
#    the next one. In loops of their own, the one that finds all in the cache would let memory stand idle.
#    What it writes comes last: loads that follow a store wait for it.


@InParts
def _standardise_rows(part, parts, X, gamma, beta, epsilon, centred, Y, mean, r):
    """X, Y: (n, c)   gamma, beta: (c,)"""
    first, last = len(X) * part // parts, len(X) * (part + 1) // parts
    if first == last:
        return
    m = _guess(X[first], centred)
    s, squares = sums(X[first], m)
    for i in range(first, last):
        r[i] = _statistics(X[i], m, s, squares, centred, epsilon, mean[i])
        statistics, following = (mean[i, 0], mean[i, 1], r[i]), X[min(i + 1, last - 1)]
        m = _guess(following, centred)
        s, squares = _finish_and_look(X[i], statistics, gamma, beta, Y[i], following, m)


@inline
def _finish_and_look(x, statistics, gamma, beta, y, following, m):
    """y = gamma h + beta, and `sums` of the following row."""
    if len(x) <= _SHORT:
        return _finish_and_look_at_few(x, statistics, gamma, beta, y, following, m)
    s, squares = 0.0, 0.0
    for start in range(0, len(x), _SHORT):
        few = slice(start, start + _SHORT)
        of_few = _finish_and_look_at_few(x[few], statistics, gamma[few], beta[few], y[few], following[few], m)
        s += of_few[0]
        squares += of_few[1]
    return s, squares


@row_sum
def _finish_and_look_at_few(x, statistics, gamma, beta, y, following, m):
    mean, rest, r = statistics
    s, squares = x.dtype.type(0), x.dtype.type(0)
    widest_vectors()
    for j in range(len(x)):
        d = difference(following[j], m)
        s += d
        squares += d * d
        y[j] = gamma[j] * _standard(x[j], mean, rest, r) + beta[j]
    return float(s), float(squares)


@Steps
def _standardise_rows_backward(
    parts, in_threads, dY, X, mean, r, gamma, centred, dX, few, parts_sums, gradients
):  # fmt: skip
    _rows_backward(parts, in_threads, (dY, X, mean, r, gamma, centred, dX, few, parts_sums))
    _total(parts_sums, gradients)


@shared_out
def _rows_backward(thread, threads, dY, X, mean, r, gamma, centred, dX, few, parts_sums):
    """parts_sums: (parts, 2, c), dgamma and dbeta of some rows each   few: the same of fewer rows"""
    for part in share(_PARTS, thread, threads):
        first, last = len(X) * part // _PARTS, len(X) * (part + 1) // _PARTS
        dgamma, dbeta, means = few[part, 0], few[part, 1], (0.0, 0.0)
        few[part] = parts_sums[part] = 0
        for k in range(first, last + (first < last)):  # k is looked at: the first dx is written again
            if k == last or (k > first and (k - first) % _ROWS == 0):
                _move_all(few[part], parts_sums[part])
            i, k = max(k - 1, first), min(k, last - 1)
            means = _centre_and_look(
                *((dY[i], X[i], (mean[i, 0], mean[i, 1], r[i])), gamma, means, centred, dX[i]),
                *((dY[k], X[k], (mean[k, 0], mean[k, 1], r[k])), dgamma, dbeta),
            )


@inline
def _centre_and_look(of_row, gamma, means, centred, dx, following, dgamma, dbeta):
    """dx of a row. Of the following one dgamma += h dy, dbeta += dy, and mean dh and mean(h dh) come back.

    of_row, following: dy, x, statistics
    """
    dh, hdh = dx.dtype.type(means[0] if centred else 0.0), dx.dtype.type(means[1])
    if len(dx) <= _SHORT:
        s, products = _centre_and_look_at_few(of_row, gamma, dh, hdh, dx, following, dgamma, dbeta)
        return s / len(dx), products / len(dx)
    s, products = 0.0, 0.0
    (dy, x, statistics), (next_dy, next_x, next_statistics) = of_row, following
    for start in range(0, len(dx), _SHORT):
        few = slice(start, start + _SHORT)
        of_few = _centre_and_look_at_few(
            *((dy[few], x[few], statistics), gamma[few], dh, hdh, dx[few]),
            *((next_dy[few], next_x[few], next_statistics), dgamma[few], dbeta[few]),
        )
        s += of_few[0]
        products += of_few[1]
    return s / len(dx), products / len(dx)


@row_sum
def _centre_and_look_at_few(of_row, gamma, dh, hdh, dx, following, dgamma, dbeta):
    dy, x, (mean, rest, r) = of_row
    next_dy, next_x, (next_mean, next_rest, next_r) = following
    s, products = dx.dtype.type(0), dx.dtype.type(0)
    widest_vectors()
    for j in range(len(dx)):
        hdy = _standard(next_x[j], next_mean, next_rest, next_r) * next_dy[j]
        dgamma[j] += hdy
        dbeta[j] += next_dy[j]
        s += gamma[j] * next_dy[j]
        products += gamma[j] * hdy
        dx[j] = _centred(dy[j], _standard(x[j], mean, rest, r), r, gamma[j], dh, hdh)
    return float(s), float(products)
