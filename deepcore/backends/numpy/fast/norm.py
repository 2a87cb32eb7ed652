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
from deepcore.backends.numpy.fast.rows import FEW, add_rows, sums
from deepcore.backends.numpy.memory import empty

_PARTS = 32
_ROWS = 16  # whose gradients are added in their own precision
_SHORT = 2048  # numbers, some 32 for each lane; to cut five arrays takes as long as to add 300


def batch_norm(X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> tuple[np.ndarray, ...]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if not _images_or_rows(X, gamma, beta) or not gamma.size == beta.size == X.shape[1]:
        return NotImplemented
    x, C = _by_channel(X), X.shape[1]
    Y, H = empty(X.shape, X.dtype), empty(X.shape, X.dtype)
    r, mean, var, m, rest = np.empty((5, C), X.dtype)
    arrays = x, flat(gamma), flat(beta), epsilon, Y.reshape(x.shape), H.reshape(x.shape), r, mean, var
    if X.ndim > 2:
        _batch_norm(X.size, *arrays, m, rest, np.empty((_PARTS, C, 2)))
    else:
        _batch_norm_of_rows(X.size, *arrays)
    return Y, H, *(s.reshape(1, C, *(1,) * (X.ndim - 2)) for s in (r, mean, var))


@Steps
def _batch_norm(parts, in_threads, X, gamma, beta, epsilon, Y, H, r, mean, var, m, rest, parts_sums):
    """With D = X - m, var X = mean D^2 - (mean D)^2, which is good if m is nearer than a few deviations.

    The mean of the first sample is such an m; where it isn't, what D says of the mean is, since a sample of
    N is no more than sqrt N deviations away.
    """
    N, C, S = X.shape
    for c in range(C):
        mean[c] = sums(X[0, c], X.dtype.type(0))[0] / S
    for _ in range(2):
        for c in range(C):
            m[c] = mean[c]
        _add_places(parts, in_threads, (X, m, parts_sums))
        far = False
        for c in range(C):
            s, squares = _sums_of_channel(parts_sums, c)
            s, squares = s / (N * S), squares / (N * S)
            v = max(squares - s * s, 0.0)
            mean[c], rest[c], var[c], r[c] = m[c] + s, s, v, 1 / math.sqrt(v + epsilon)
            far |= s * s > 4 * v
        if not far:
            break
    _finish_places(parts, in_threads, (X, m, rest, r, gamma, beta, H, Y))


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
def _finish_places(part, parts, X, m, rest, r, gamma, beta, H, Y):
    N, C, _ = X.shape
    for i in share(N * C, part, parts):
        n, c = i // C, i % C
        _standardise_places(X[n, c], m[c], rest[c], r[c], gamma[c], beta[c], H[n, c], Y[n, c])


@row
def _standardise_places(x, m, rest, r, gamma, beta, h, y):
    """h = r (x - mean), the mean in two parts, y = gamma h + beta"""
    widest_vectors()
    for j in range(len(x)):
        h[j] = _standard(x[j], m, rest, r)
        y[j] = gamma * h[j] + beta


def batch_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY"""
    fit = H.shape == dY.shape and gamma.size == r.size == dY.shape[1]
    if not (_images_or_rows(dY, H, r, gamma) and fit):
        return NotImplemented
    dX, C = empty(dY.shape, dY.dtype), dY.shape[1]
    dgamma, dbeta, mean, mean_hdy = np.empty((4, C), gamma.dtype)
    arrays = _by_channel(dY), _by_channel(H), flat(gamma * r), _by_channel(dX), dgamma, dbeta
    if dY.ndim > 2:
        _batch_norm_backward(dY.size, *arrays, mean, mean_hdy, np.empty((_PARTS, C, 2)))
    else:
        _batch_norm_of_rows_backward(dY.size, *arrays)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


@Steps
def _batch_norm_backward(parts, in_threads, dY, H, factor, dX, dgamma, dbeta, mean, mean_hdy, parts_sums):
    N, C, S = dY.shape
    _add_channel_products(parts, in_threads, (H, dY, parts_sums))
    for c in range(C):
        hdy, dy = _sums_of_channel(parts_sums, c)
        dgamma[c], dbeta[c] = hdy, dy
        mean[c], mean_hdy[c] = dy / (N * S), hdy / (N * S)
    _centre_places(parts, in_threads, (dY, mean, H, mean_hdy, factor, dX))


@shared_out
def _add_channel_products(thread, threads, H, dY, parts_sums):
    """sum H dY and sum dY, for each part and channel."""
    N, C, _ = dY.shape
    for part in share(_PARTS, thread, threads):
        for c in range(C):
            parts_sums[part, c, 0] = parts_sums[part, c, 1] = 0
        for i in share(N * C, part, _PARTS):
            n, c = i // C, i % C
            hdy, dy = _product_sums(H[n, c], dY[n, c])
            parts_sums[part, c, 0] += hdy
            parts_sums[part, c, 1] += dy


@row_sum
def _product_sums(h, dy):
    """sum h dy and sum dy, as `rows.sums`"""
    s, t = 0.0, 0.0
    for start in range(0, len(h), FEW):
        few, others = h[start : start + FEW], dy[start : start + FEW]
        products, total = h.dtype.type(0), h.dtype.type(0)
        widest_vectors()
        for j in range(len(few)):
            products += few[j] * others[j]
            total += others[j]
        s += products
        t += total
    return s, t


@shared_out
def _centre_places(part, parts, dY, mean, H, mean_hdy, factor, dX):
    N, C, _ = dY.shape
    for i in share(N * C, part, parts):
        n, c = i // C, i % C
        _centre_row_of_places(dY[n, c], mean[c], H[n, c], mean_hdy[c], factor[c], dX[n, c])


@row
def _centre_row_of_places(dy, mean, h, mean_hdy, factor, dx):
    """dx = factor (dy - mean - h mean_hdy)"""
    widest_vectors()
    for j in range(len(dy)):
        dx[j] = factor * (dy[j] - mean - h[j] * mean_hdy)


def _images_or_rows(X: np.ndarray, *others: np.ndarray) -> bool:
    """Whether numbers enough stand one after the other to be worked on in lanes: places, or channels."""
    return served(X, *others) and (math.prod(X.shape[2:]) >= 16 if X.ndim > 2 else X.ndim == 2)


def _by_channel(X: np.ndarray) -> np.ndarray:
    """(n, c, ...) -> (n, c, places); rows as they are"""
    return plain(X).reshape(*X.shape[:2], -1) if X.ndim > 2 else plain(X)


# ---- (n, c), channels side by side: sums of columns, by parts of the rows


@Steps
def _batch_norm_of_rows(parts, in_threads, X, gamma, beta, epsilon, Y, H, r, mean, var):
    N, C = X.shape
    sums, squares = np.zeros((_PARTS, C)), np.zeros((_PARTS, C))
    _add_rows(parts, in_threads, (X, sums))
    rest = _mean_and_rest(sums, N, mean)
    _centre_rows(parts, in_threads, (X, mean, rest, H, squares))
    v = _sum_of_parts(squares)
    for c in range(C):
        var[c], r[c] = v[c] / N, 1 / math.sqrt(v[c] / N + epsilon)
    _scale_and_shift_rows(parts, in_threads, (H, r, gamma, beta, Y))


_add_rows = shared_out(add_rows)


@shared_out
def _centre_rows(thread, threads, X, mean, rest, H, squares):
    for part in share(_PARTS, thread, threads):
        for n in share(len(X), part, _PARTS):
            _centre_row(X[n], mean, rest, H[n], squares[part])


@shared_out
def _scale_and_shift_rows(part, parts, H, r, gamma, beta, Y):
    for n in share(len(H), part, parts):
        _multiply(H[n], r, H[n])
        _multiply_and_add(H[n], gamma, beta, Y[n])


@row
def _mean_and_rest(sums, N, mean):
    """Write the mean; return what its type doesn't hold of it."""
    exact = _sum_of_parts(sums) / N
    for c in range(len(mean)):
        mean[c] = exact[c]
    return (exact - mean).astype(mean.dtype)


@row
def _sum_of_parts(parts):
    """parts.sum(axis=0)"""
    s = np.zeros(parts.shape[1])
    for part in range(len(parts)):
        for c in range(parts.shape[1]):
            s[c] += parts[part, c]
    return s


@row
def _centre_row(x, mean, rest, d, squares):
    """d = x - mean - rest, the mean in two parts. Adds d^2 to the squares."""
    for j in range(len(x)):
        d[j] = (x[j] - mean[j]) - rest[j]
        squares[j] += float(d[j]) * float(d[j])


@row
def _multiply(x, y, product):
    for j in range(len(x)):
        product[j] = x[j] * y[j]


@row
def _multiply_and_add(x, factors, shifts, y):
    for j in range(len(x)):
        y[j] = factors[j] * x[j] + shifts[j]


@Steps
def _batch_norm_of_rows_backward(parts, in_threads, dY, H, factor, dX, dgamma, dbeta):
    N, C = dY.shape
    hdys, dys = np.zeros((_PARTS, C)), np.zeros((_PARTS, C))
    _add_rows_to_sums(parts, in_threads, (H, dY, hdys, dys))
    hdy, dy = _sum_of_parts(hdys), _sum_of_parts(dys)
    for c in range(C):
        dgamma[c], dbeta[c] = hdy[c], dy[c]
    mean, mean_hdy = (dy / N).astype(factor.dtype), (hdy / N).astype(factor.dtype)
    _centre_by_columns(parts, in_threads, (dY, mean, H, mean_hdy, factor, dX))


@shared_out
def _add_rows_to_sums(thread, threads, H, dY, hdys, dys):
    for part in share(_PARTS, thread, threads):
        for n in share(len(dY), part, _PARTS):
            _add_to_sums(H[n], dY[n], hdys[part], dys[part])


@shared_out
def _centre_by_columns(part, parts, dY, mean, H, mean_hdy, factor, dX):
    for n in share(len(dY), part, parts):
        _centre_by_column(dY[n], mean, H[n], mean_hdy, factor, dX[n])


@row
def _add_to_sums(h, dy, dgamma, dbeta):
    for j in range(len(h)):
        dgamma[j] += float(h[j]) * float(dy[j])
        dbeta[j] += dy[j]


@row
def _centre_by_column(dy, mean, h, mean_hdy, factor, dx):
    for j in range(len(dy)):
        dx[j] = factor[j] * (dy[j] - mean[j] - h[j] * mean_hdy[j])


# ---- groups of channels of one sample


def group_norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int, epsilon: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if not served(X, gamma, beta):
        return NotImplemented
    return _standardised(X, gamma, beta, groups, epsilon, True)


def rms_norm(X: np.ndarray, gamma: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    if not served(X, gamma):
        return NotImplemented
    Y, _, r = _standardised(X, gamma, np.zeros_like(gamma), 1, epsilon, False)
    return Y, r


def _standardised(X: np.ndarray, gamma: Any, beta: Any, groups: int, epsilon: float, centred: bool) -> Any:
    shape, per_channel = _as_groups(X.shape, groups)
    Y, rows = empty(X.shape, X.dtype), X.shape[0] * groups
    mean, r = np.empty((rows, 2), X.dtype), np.empty((rows, 1), X.dtype)
    gamma, beta = plain(gamma).reshape(per_channel), plain(beta).reshape(per_channel)
    x = plain(X).reshape(shape)
    _standardise(X.size, x, gamma, beta, epsilon, centred, Y.reshape(shape), mean, r.reshape(-1))
    return Y, mean, r


def _as_groups(shape: tuple[int, ...], groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """X as (samples, groups, channels, places), and the shape of gamma that goes with it.

    Channels of one place each stand in the place of places: an axis to work along.
    """
    N, C, places = shape[0], shape[1] // groups, math.prod(shape[2:])
    return ((N, groups, 1, C), (groups, 1, C)) if places == 1 else ((N, groups, C, places), (groups, C, 1))


@InParts
def _standardise(part, parts, X, gamma, beta, epsilon, centred, Y, mean, r):
    """With D = X - m for an m near the mean, var X = mean D^2 - (mean D)^2: D is as small as X varies."""
    N, G, C, _ = X.shape
    for i in share(N * G, part, parts):
        n, g = i // G, i % G
        x = X[n, g].reshape(-1)
        m = X.dtype.type(sums(x, X.dtype.type(0))[0] / x.size if centred else 0.0)
        s, squares = sums(x, m)
        rest = s / x.size if centred else 0.0
        var = squares / x.size - rest * rest
        mean[i, 0], mean[i, 1], r[i] = m, rest, 1 / math.sqrt((0.0 if var < 0 else var) + epsilon)
        for c in range(C):
            if gamma.shape[2] == 1:
                _finish(X[n, g, c], mean[i, 0], mean[i, 1], r[i], gamma[g, c, 0], beta[g, c, 0], Y[n, g, c])
            else:
                _finish_each(X[n, g, c], mean[i, 0], mean[i, 1], r[i], gamma[g, c], beta[g, c], Y[n, g, c])


@inline  # exact, also in a sum whose terms may be reordered: else the rest would be lost
def _standard(x, mean, rest, r):
    """h = r (x - mean), the mean in two parts"""
    return r * ((x - mean) - rest)


@row
def _finish(x, mean, rest, r, gamma, beta, y):
    """y = gamma h + beta"""
    widest_vectors()
    for j in range(len(x)):
        y[j] = gamma * _standard(x[j], mean, rest, r) + beta


@row
def _finish_each(x, mean, rest, r, gamma, beta, y):
    """As `_finish`, each place with a gamma and a beta of its own."""
    widest_vectors()
    for j in range(len(x)):
        y[j] = gamma[j] * _standard(x[j], mean, rest, r) + beta[j]


def group_norm_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY"""
    if not served(dY, X, mean, r, gamma):
        return NotImplemented
    if dY.shape != X.shape or mean.shape != (len(r), 2) or len(r) % len(dY):
        return NotImplemented
    return _standardised_backward(dY, X, mean, r, gamma, True)


def rms_norm_backward(
    dY: np.ndarray, X: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)"""
    if not served(dY, X, r, gamma) or dY.shape != X.shape or len(r) != len(dY):
        return NotImplemented
    dX, dgamma, _ = _standardised_backward(dY, X, np.zeros((len(r), 2), r.dtype), r, gamma, False)
    return dX, dgamma


def _standardised_backward(
    dY: np.ndarray, X: np.ndarray, mean: np.ndarray, r: np.ndarray, gamma: np.ndarray, centred: bool
) -> Any:
    shape, per_channel = _as_groups(dY.shape, len(r) // len(dY))
    dX = empty(dY.shape, dY.dtype)
    sums = np.zeros((_PARTS, 2, *per_channel))
    arrays = plain(dY).reshape(shape), plain(X).reshape(shape), plain(mean), flat(r)
    weights = plain(gamma).reshape(per_channel)
    _standardise_backward(dY.size, *arrays, weights, centred, dX.reshape(shape), sums)
    dgamma, dbeta = np.add.reduce(sums, axis=0).astype(gamma.dtype)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


@InParts
def _standardise_backward(thread, threads, dY, X, mean, r, gamma, centred, dX, sums):
    N, G = dY.shape[:2]
    for part in share(_PARTS, thread, threads):
        first, last = N * part // _PARTS, N * (part + 1) // _PARTS
        for start in range(first, last, _ROWS):
            few = _zeros_like(sums[part], dX)
            for n in range(start, min(start + _ROWS, last)):
                for g in range(G):
                    i = n * G + g
                    statistics = mean[i, 0], mean[i, 1], r[i]
                    if gamma.shape[2] == 1:
                        _group_backward(dY, X, (n, g), statistics, gamma, centred, dX, few)
                    else:
                        _row_backward(dY, X, (n, g), statistics, gamma, centred, dX, few)
            _add_all(few, sums[part])


@row
def _zeros_like(sums, dX):
    return np.zeros(sums.shape, dX.dtype)


@row
def _add_all(few, sums):
    few, sums = few.reshape(-1), sums.reshape(-1)
    for j in range(len(few)):
        sums[j] += few[j]


@row
def _group_backward(dY, X, group, statistics, gamma, centred, dX, sums):
    """dX of a group; adds to the sums, dgamma and dbeta.

    dY, X, dX: (n, g, c, places)   group: n, g   statistics: mean, rest, r   gamma: (g, c, 1)
    """
    n, g = group
    _, _, C, S = dY.shape
    dh, hdh = 0.0, 0.0
    for c in range(C):
        dy, hdy = _sum_and_dot(dY[n, g, c], X[n, g, c], statistics)
        sums[0, g, c, 0] += hdy
        sums[1, g, c, 0] += dy
        dh += gamma[g, c, 0] * dy
        hdh += gamma[g, c, 0] * hdy
    means = (dh / (C * S) if centred else 0.0), hdh / (C * S)
    for c in range(C):
        _centre(dY[n, g, c], X[n, g, c], statistics, gamma[g, c, 0], means, dX[n, g, c])


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
    """dx = r (gamma dy - mean dh - h mean(h dh)), means: the two"""
    mean, rest, r = statistics
    dh, hdh = dy.dtype.type(means[0]), dy.dtype.type(means[1])
    widest_vectors()
    for j in range(len(dy)):
        dx[j] = r * (gamma * dy[j] - dh - _standard(x[j], mean, rest, r) * hdh)


@row
def _row_backward(dY, X, group, statistics, gamma, centred, dX, sums):
    """As `_group_backward` where c = 1 and each place has a gamma of its own.   gamma: (g, 1, places)"""
    n, g = group
    dy, x, weights = dY[n, g, 0], X[n, g, 0], gamma[g, 0]
    dh, hdh = _add_products(dy, x, statistics, weights, sums[0, g, 0], sums[1, g, 0])
    means = (dh / len(dy) if centred else 0.0), hdh / len(dy)
    _centre_each(dy, x, statistics, weights, means, dX[n, g, 0])


@row_sum
def _add_products(dy, x, statistics, gamma, dgamma, dbeta):
    """dgamma += h dy, dbeta += dy. Returns the sums of gamma dy and of h gamma dy, as `rows.sums`"""
    if len(dy) <= _SHORT:
        return _add_few_products(dy, x, statistics, gamma, dgamma, dbeta)
    dh, hdh = 0.0, 0.0
    for start in range(0, len(dy), _SHORT):
        few = slice(start, start + _SHORT)
        s, products = _add_few_products(dy[few], x[few], statistics, gamma[few], dgamma[few], dbeta[few])
        dh += s
        hdh += products
    return dh, hdh


@row_sum
def _add_few_products(dy, x, statistics, gamma, dgamma, dbeta):
    mean, rest, r = statistics
    dh, hdh = dy.dtype.type(0), dy.dtype.type(0)
    widest_vectors()
    for j in range(len(dy)):
        hdy = _standard(x[j], mean, rest, r) * dy[j]
        dgamma[j] += hdy
        dbeta[j] += dy[j]
        dh += gamma[j] * dy[j]
        hdh += gamma[j] * hdy
    return float(dh), float(hdh)


@row
def _centre_each(dy, x, statistics, gamma, means, dx):
    """As `_centre`, each place with a gamma of its own."""
    mean, rest, r = statistics
    dh, hdh = dy.dtype.type(means[0]), dy.dtype.type(means[1])
    widest_vectors()
    for j in range(len(dy)):
        dx[j] = r * (gamma[j] * dy[j] - dh - _standard(x[j], mean, rest, r) * hdh)
