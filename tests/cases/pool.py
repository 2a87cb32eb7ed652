"""Pooling."""

import itertools

import numpy as np

import deepcore as dc
from deepcore import MaxPool2D
from tests.case import Case, distinct, few_values, normal


def windows(X, kernel=2, stride=None, padding=0):
    """Each window's place in the output, and where it lies in X; padding is left out."""
    rank = X.ndim - 2
    kernel = every(kernel, rank)
    stride, padding = every(stride or kernel, rank), every(padding, rank)
    out = [
        (size + 2 * p - k) // s + 1
        for size, k, s, p in zip(X.shape[2:], kernel, stride, padding, strict=True)
    ]
    for q in np.ndindex(*out):
        starts = [i * s - p for i, s, p in zip(q, stride, padding, strict=True)]
        yield q, tuple(slice(max(i, 0), i + k) for i, k in zip(starts, kernel, strict=True))


def adaptive_windows(X, *out):
    """Each window's place in the output, and where it lies in X, in the words of torch's documentation."""
    axes = [
        [slice(int(np.floor(p * size / o)), int(np.ceil((p + 1) * size / o))) for p in range(o)]
        for size, o in zip(X.shape[2:], out, strict=True)
    ]
    return zip(np.ndindex(*out), itertools.product(*axes), strict=True)


def every(value, rank):
    """One for each spatial axis."""
    return (value,) * rank if isinstance(value, int) else value


def reduce(X, places, f):
    """f of each window, over all its axes."""
    spatial = tuple(range(2, X.ndim))
    Y = {p: f(X[:, :, *window], axis=spatial) for p, window in places}
    out = [1 + max(along) for along in zip(*Y, strict=True)]
    return np.moveaxis(np.array(list(Y.values())), 0, -1).reshape(*X.shape[:2], *out)


def max_pool(X, *geometry):
    return reduce(X, windows(X, *geometry), np.max)


def avg_pool(X, kernel=2, stride=None, padding=0):
    """The average over the padded image."""
    pairs = [(p, p) for p in every(padding, X.ndim - 2)]
    X = np.pad(X, ((0, 0), (0, 0), *pairs))
    return reduce(X, windows(X, kernel, stride), np.mean)


def max_gradient(dY, X, places):
    """To the first of the largest in each window, in reading order."""
    dX = np.zeros_like(X)
    for p, window in places:
        for n, c in np.ndindex(*X.shape[:2]):
            inside = X[(n, c, *window)]
            where = np.unravel_index(np.argmax(inside), inside.shape)
            at = [w.start + i for w, i in zip(window, where, strict=True)]
            dX[(n, c, *at)] += dY[(n, c, *p)]
    return dX


def max_pool_gradient(dY, X, *geometry):
    return max_gradient(dY, X, windows(X, *geometry))


CASES = [
    Case("MaxPool2D", MaxPool2D, [distinct(2, 4, 2)], lambda w, X: max_pool(X)),
    Case("MaxPool2D odd", MaxPool2D, [distinct(2, 5, 3)], lambda w, X: max_pool(X)),
    Case("MaxPool2D overlap", lambda: MaxPool2D(3, 1), [distinct(2, 3, 4)],
         lambda w, X: max_pool(X, (3, 3), (1, 1))),
    Case("MaxPool2D gaps", lambda: MaxPool2D((1, 2), 3), [distinct(1, 5, 7)],
         lambda w, X: max_pool(X, (1, 2), (3, 3))),
    Case("MaxPool2D padding", lambda: MaxPool2D((3, 2), 2, 1), [distinct(1, 4, 3)],
         lambda w, X: max_pool(X, (3, 2), (2, 2), (1, 1))),
    Case("MaxPool2D 1x1", lambda: MaxPool2D(1), [distinct(2, 3, 3)], lambda w, X: X),
    Case("MaxPool2D ties", MaxPool2D, [few_values(2, 4, 5)], lambda w, X: max_pool(X),
         gradient=lambda w, dY, X: max_pool_gradient(dY, X)),
    Case("MaxPool2D ties, overlap", lambda: MaxPool2D(3, 2, 1), [few_values(2, 5, 4)],
         lambda w, X: max_pool(X, (3, 3), (2, 2), (1, 1)),
         gradient=lambda w, dY, X: max_pool_gradient(dY, X, (3, 3), (2, 2), (1, 1))),
    Case("MaxPool1D", lambda: dc.MaxPool1D(3, 2, 1), [distinct(2, 7)], lambda w, X: max_pool(X, 3, 2, 1)),
    Case("MaxPool1D ties", dc.MaxPool1D, [few_values(3, 9)], lambda w, X: max_pool(X),
         gradient=lambda w, dY, X: max_pool_gradient(dY, X)),
    Case("MaxPool3D", lambda: dc.MaxPool3D((2, 1, 2)), [distinct(1, 4, 2, 3)],
         lambda w, X: max_pool(X, (2, 1, 2))),
    Case("MaxPool3D ties, overlap", lambda: dc.MaxPool3D(2, 1, 1), [few_values(1, 2, 3, 2)],
         lambda w, X: max_pool(X, 2, 1, 1), gradient=lambda w, dY, X: max_pool_gradient(dY, X, 2, 1, 1)),
    Case("AvgPool1D", dc.AvgPool1D, [normal(2, 7)], lambda w, X: avg_pool(X)),
    Case("AvgPool2D", dc.AvgPool2D, [normal(2, 5, 4)], lambda w, X: avg_pool(X)),
    Case("AvgPool2D overlap, padding", lambda: dc.AvgPool2D((3, 2), 1, 1), [normal(1, 4, 3)],
         lambda w, X: avg_pool(X, (3, 2), 1, 1)),
    Case("AvgPool2D without the padding", lambda: dc.AvgPool2D(3, 2, 1, count_include_pad=False),
         [normal(2, 4, 5)], lambda w, X: reduce(X, windows(X, 3, 2, 1), np.mean)),
    Case("AvgPool2D gaps", lambda: dc.AvgPool2D((1, 2), 3), [normal(1, 5, 7)],
         lambda w, X: avg_pool(X, (1, 2), 3)),
    Case("AvgPool3D", lambda: dc.AvgPool3D((2, 1, 3), 2), [normal(1, 3, 3, 5)],
         lambda w, X: avg_pool(X, (2, 1, 3), 2)),
    Case("AdaptiveAvgPool1D", lambda: dc.AdaptiveAvgPool1D(3), [normal(2, 7)],
         lambda w, X: reduce(X, adaptive_windows(X, 3), np.mean)),
    Case("AdaptiveAvgPool1D larger", lambda: dc.AdaptiveAvgPool1D(5), [normal(2, 3)],
         lambda w, X: reduce(X, adaptive_windows(X, 5), np.mean)),
    Case("AdaptiveAvgPool2D", lambda: dc.AdaptiveAvgPool2D((2, 3)), [normal(2, 5, 4)],
         lambda w, X: reduce(X, adaptive_windows(X, 2, 3), np.mean)),
    Case("AdaptiveAvgPool2D one axis", lambda: dc.AdaptiveAvgPool2D((None, 1)), [normal(2, 3, 4)],
         lambda w, X: X.mean(axis=3, keepdims=True)),
    Case("AdaptiveAvgPool3D", lambda: dc.AdaptiveAvgPool3D((2, 1, 2)), [normal(1, 3, 2, 4)],
         lambda w, X: reduce(X, adaptive_windows(X, 2, 1, 2), np.mean)),
    Case("GlobalAvgPool2D", dc.GlobalAvgPool2D, [normal(3, 3, 2)],
         lambda w, X: X.mean(axis=(2, 3), keepdims=True)),
    Case("AdaptiveMaxPool1D", lambda: dc.AdaptiveMaxPool1D(3), [distinct(2, 7)],
         lambda w, X: reduce(X, adaptive_windows(X, 3), np.max)),
    Case("AdaptiveMaxPool2D", lambda: dc.AdaptiveMaxPool2D((None, 2)), [distinct(2, 3, 5)],
         lambda w, X: reduce(X, adaptive_windows(X, 3, 2), np.max)),
    Case("AdaptiveMaxPool2D ties", lambda: dc.AdaptiveMaxPool2D((3, 2)), [few_values(2, 5, 5)],
         lambda w, X: reduce(X, adaptive_windows(X, 3, 2), np.max),
         gradient=lambda w, dY, X: max_gradient(dY, X, adaptive_windows(X, 3, 2))),
    Case("AdaptiveMaxPool3D ties", lambda: dc.AdaptiveMaxPool3D((2, 1, 3)), [few_values(1, 3, 2, 4)],
         lambda w, X: reduce(X, adaptive_windows(X, 2, 1, 3), np.max),
         gradient=lambda w, dY, X: max_gradient(dY, X, adaptive_windows(X, 2, 1, 3))),
    Case("GlobalMaxPool2D", dc.GlobalMaxPool2D, [distinct(3, 3, 2)],
         lambda w, X: X.max(axis=(2, 3), keepdims=True)),
]  # fmt: skip
