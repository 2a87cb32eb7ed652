"""Normalisation: what shares a mean stays in a core's cache from pass to pass. Sums are float64.

One thread has a channel (batch) or a sample (groups), so that no sum depends on the number of threads; sums
over the samples are those of a fixed number of parts.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from deepcore.backends.numpy.fast.compiled import Kernel, flat, plain, row, row_sum, served
from deepcore.backends.numpy.fast.rows import (
    dot,
    scale,
    scale_and_shift,
    subtract,
    total,
)
from deepcore.backends.numpy.memory import empty

_PARTS = 32


def batch_norm(X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float) -> tuple[np.ndarray, ...]:
    """Y = gamma H + beta, H = (X - mean X) r, r = (var X + epsilon)^-1/2"""
    if not _images_or_rows(X, gamma, beta):
        return NotImplemented
    kernel = _batch_norm if X.ndim > 2 else _batch_norm_of_rows
    x, statistics = _by_channel(X), (1, X.shape[1]) + (1,) * (X.ndim - 2)
    Y, H = empty(X.shape, X.dtype), empty(X.shape, X.dtype)
    r, mean, var = np.empty((3, X.shape[1]), X.dtype)
    kernel(
        *(X.size, x, flat(gamma), flat(beta), epsilon),
        *(Y.reshape(x.shape), H.reshape(x.shape), r, mean, var),
    )
    return Y, H, *(s.reshape(statistics) for s in (r, mean, var))


@Kernel
def _batch_norm(X, gamma, beta, epsilon, Y, H, r, mean, var):
    N, C, S = X.shape
    for channel in prange(C):
        c = np.int64(channel)  # what prange gives is unsigned, and would be compiled for once more
        m = _channel_sum(X, c) / (N * S)
        _subtract_from_channel(X, c, m, H)
        v = _channel_squares(H, c) / (N * S)
        mean[c], var[c] = m, v
        r[c] = 1 / math.sqrt(v + epsilon)
        _scale_and_shift_channel(H, c, r[c], gamma[c], beta[c], Y)


@row_sum
def _channel_sum(X, c):
    s = 0.0
    for n in range(len(X)):
        for j in range(X.shape[2]):
            s += X[n, c, j]
    return s


@row  # not with the sum of squares: where sums may be reordered, the rest of the mean is lost
def _subtract_from_channel(X, c, mean, D):
    """D = X - mean, as `rows.subtract`"""
    rounded = X.dtype.type(mean)
    rest = X.dtype.type(mean - rounded)
    for n in range(len(X)):
        for j in range(X.shape[2]):
            D[n, c, j] = (X[n, c, j] - rounded) - rest


@row_sum
def _channel_squares(D, c):
    """sum D^2, in float64"""
    s = 0.0
    for n in range(len(D)):
        for j in range(D.shape[2]):
            s += float(D[n, c, j]) * float(D[n, c, j])
    return s


@row
def _scale_and_shift_channel(H, c, r, gamma, beta, Y):
    """H = r H in place, Y = gamma H + beta"""
    for n in range(len(H)):
        for j in range(H.shape[2]):
            h = r * H[n, c, j]
            H[n, c, j] = h
            Y[n, c, j] = gamma * h + beta


def batch_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = gamma r (dY - mean dY - H mean(H dY)), dgamma = sum(H dY), dbeta = sum dY"""
    if not _images_or_rows(dY, H, r, gamma):
        return NotImplemented
    kernel = _batch_norm_backward if dY.ndim > 2 else _batch_norm_of_rows_backward
    dX = empty(dY.shape, dY.dtype)
    dgamma, dbeta = np.empty(gamma.shape, gamma.dtype), np.empty(gamma.shape, gamma.dtype)
    arrays = _by_channel(dY), _by_channel(H), flat(gamma * r), _by_channel(dX)
    kernel(dY.size, *arrays, dgamma.reshape(-1), dbeta.reshape(-1))
    return dX, dgamma, dbeta


@Kernel
def _batch_norm_backward(dY, H, factor, dX, dgamma, dbeta):
    N, C, S = dY.shape
    for channel in prange(C):
        c = np.int64(channel)
        hdy, dy = _channel_sums(H, dY, c)
        dgamma[c], dbeta[c] = hdy, dy
        _centre_channel(dY, c, dy / (N * S), H, hdy / (N * S), factor[c], dX)


@row_sum
def _channel_sums(H, dY, c):
    """sum H dY and sum dY, in float64."""
    hdy, dy = 0.0, 0.0
    for n in range(len(H)):
        for j in range(H.shape[2]):
            hdy += float(H[n, c, j]) * float(dY[n, c, j])
            dy += dY[n, c, j]
    return hdy, dy


@row
def _centre_channel(dY, c, mean, H, mean_hdy, factor, dX):
    """dX = factor (dY - mean - H mean_hdy)"""
    mean, mean_hdy = dY.dtype.type(mean), dY.dtype.type(mean_hdy)
    for n in range(len(H)):
        for j in range(H.shape[2]):
            dX[n, c, j] = factor * (dY[n, c, j] - mean - H[n, c, j] * mean_hdy)


@row
def _centre(dh, mean, h, mean_hdh, factor, dx):
    """dx = factor (dh - mean - h mean_hdh)"""
    mean, mean_hdh = dh.dtype.type(mean), dh.dtype.type(mean_hdh)
    for j in range(len(dh)):
        dx[j] = factor * (dh[j] - mean - h[j] * mean_hdh)


def _images_or_rows(X: np.ndarray, *others: np.ndarray) -> bool:
    """Whether numbers enough stand one after the other to be worked on in lanes: places, or channels."""
    return served(X, *others) and (math.prod(X.shape[2:]) >= 16 if X.ndim > 2 else X.ndim == 2)


def _by_channel(X: np.ndarray) -> np.ndarray:
    """(n, c, ...) -> (n, c, places); rows as they are"""
    return plain(X).reshape(*X.shape[:2], -1) if X.ndim > 2 else plain(X)


# ---- (n, c), channels side by side: sums of columns, by parts of the rows


@Kernel
def _batch_norm_of_rows(X, gamma, beta, epsilon, Y, H, r, mean, var):
    N, C = X.shape
    sums, squares = _zeros(C), _zeros(C)
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            _add_row(X[n], sums[part])
    rest = _mean_and_rest(sums, N, mean)
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            _centre_row(X[n], mean, rest, H[n], squares[part])
    v = _sum_of_parts(squares)
    for c in range(C):
        var[c], r[c] = v[c] / N, 1 / math.sqrt(v[c] / N + epsilon)
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            _multiply(H[n], r, H[n])
            _multiply_and_add(H[n], gamma, beta, Y[n])


# by themselves: in a kernel numba looks at each array operation for work to share out, and warns of none


@row
def _zeros(C):
    return np.zeros((_PARTS, C))


@row
def _divided(sums, N, like):
    return (sums / N).astype(like.dtype)


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
def _add_row(x, sums):
    for j in range(len(x)):
        sums[j] += x[j]


@row
def _centre_row(x, mean, rest, d, squares):
    """d = x - mean - rest, the mean in two parts. Adds d^2 to the squares."""
    for j in range(len(x)):
        d[j] = (x[j] - mean[j]) - rest[j]
        squares[j] += float(d[j]) * float(d[j])


@Kernel
def _batch_norm_of_rows_backward(dY, H, factor, dX, dgamma, dbeta):
    N, C = dY.shape
    hdys, dys = _zeros(C), _zeros(C)
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            _add_to_sums(H[n], dY[n], hdys[part], dys[part])
    hdy, dy = _sum_of_parts(hdys), _sum_of_parts(dys)
    for c in range(C):
        dgamma[c], dbeta[c] = hdy[c], dy[c]
    mean, mean_hdy = _divided(dy, N, factor), _divided(hdy, N, factor)
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            _centre_by_column(dY[n], mean, H[n], mean_hdy, factor, dX[n])


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


def rms_norm(X: np.ndarray, gamma: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y = gamma H, H = X r, r = (mean X^2 + epsilon)^-1/2"""
    if not served(X, gamma):
        return NotImplemented
    return _standardised(X, gamma, np.zeros_like(gamma), 1, epsilon, False)


def _standardised(X: np.ndarray, gamma: Any, beta: Any, groups: int, epsilon: float, centred: bool) -> Any:
    shape, per_channel = _as_groups(X.shape, groups)
    Y, H = empty(X.shape, X.dtype), empty(X.shape, X.dtype)
    r = np.empty((X.shape[0] * groups, 1), X.dtype)
    gamma, beta = plain(gamma).reshape(per_channel), plain(beta).reshape(per_channel)
    x = plain(X).reshape(shape)
    _standardise(X.size, x, gamma, beta, epsilon, centred, Y.reshape(shape), H.reshape(shape), r.reshape(-1))
    return Y, H, r


def _as_groups(shape: tuple[int, ...], groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """X as (samples, groups, channels, places), and the shape of gamma that goes with it.

    Channels of one place each stand in the place of places: an axis to work along.
    """
    N, C, places = shape[0], shape[1] // groups, math.prod(shape[2:])
    return ((N, groups, 1, C), (groups, 1, C)) if places == 1 else ((N, groups, C, places), (groups, C, 1))


@Kernel
def _standardise(X, gamma, beta, epsilon, centred, Y, H, r):
    N, G, C, _ = X.shape
    for i in prange(N * G):
        n, g = i // G, i % G
        x, h = X[n, g].reshape(-1), H[n, g].reshape(-1)
        subtract(x, total(x) / x.size if centred else 0.0, h)
        r[i] = 1 / math.sqrt(dot(h, h) / x.size + epsilon)
        scale(h, r[i])
        for c in range(C):
            if gamma.shape[2] == 1:
                scale_and_shift(H[n, g, c], gamma[g, c, 0], beta[g, c, 0], Y[n, g, c])
            else:
                _multiply_and_add(H[n, g, c], gamma[g, c], beta[g, c], Y[n, g, c])


@row
def _multiply_and_add(x, factors, shifts, y):
    for j in range(len(x)):
        y[j] = factors[j] * x[j] + shifts[j]


def group_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dX = r (dH - mean dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY), dbeta = sum dY"""
    if not served(dY, H, r, gamma):
        return NotImplemented
    return _standardised_backward(dY, H, r, gamma, True)


def rms_norm_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """dX = r (dH - H mean(H dH)) with dH = gamma dY, dgamma = sum(H dY)"""
    if not served(dY, H, r, gamma):
        return NotImplemented
    dX, dgamma, _ = _standardised_backward(dY, H, r, gamma, False)
    return dX, dgamma


def _standardised_backward(
    dY: np.ndarray, H: np.ndarray, r: np.ndarray, gamma: np.ndarray, centred: bool
) -> Any:
    shape, per_channel = _as_groups(dY.shape, len(r) // len(dY))
    dX = empty(dY.shape, dY.dtype)
    sums = np.zeros((_PARTS, 2, *per_channel))
    arrays = (plain(dY).reshape(shape), plain(H).reshape(shape), plain(r).reshape(-1))
    weights = plain(gamma).reshape(per_channel)
    _standardise_backward(dY.size, *arrays, weights, centred, dX.reshape(shape), sums)
    dgamma, dbeta = np.add.reduce(sums, axis=0).astype(gamma.dtype)
    return dX, dgamma.reshape(gamma.shape), dbeta.reshape(gamma.shape)


@Kernel
def _standardise_backward(dY, H, r, gamma, centred, dX, sums):
    N, G, C, S = dY.shape
    for part in prange(_PARTS):
        for n in range(N * part // _PARTS, N * (part + 1) // _PARTS):
            for g in range(G):
                dh, hdh = 0.0, 0.0
                for c in range(C):
                    h, dy, dx = H[n, g, c], dY[n, g, c], dX[n, g, c]
                    if gamma.shape[2] == 1:
                        sums[part, 0, g, c, 0] += dot(h, dy)
                        sums[part, 1, g, c, 0] += total(dy)
                        scale_and_shift(dy, gamma[g, c, 0], dy.dtype.type(0), dx)
                    else:
                        _add_to_sums(h, dy, sums[part, 0, g, c], sums[part, 1, g, c])
                        _multiply(dy, gamma[g, c], dx)
                    dh += total(dx)
                    hdh += dot(h, dx)
                mean, mean_hdh = (dh / (C * S) if centred else 0.0), hdh / (C * S)
                for c in range(C):
                    _centre(dX[n, g, c], mean, H[n, g, c], mean_hdh, r[n * G + g], dX[n, g, c])


@row
def _add_to_sums(h, dy, dgamma, dbeta):
    for j in range(len(h)):
        dgamma[j] += float(h[j]) * float(dy[j])
        dbeta[j] += dy[j]


@row
def _multiply(x, y, product):
    for j in range(len(x)):
        product[j] = x[j] * y[j]
