"""Pooling."""

import numpy as np

from deepcore import MaxPool2D
from tests.case import Case, distinct, few_values


def windows(X, kernel=(2, 2), stride=None, padding=(0, 0)):
    """Each window's place in the output, and its rows and columns in X; padding is left out."""
    stride = stride or kernel
    h, w = ((X.shape[a + 2] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    for p, q in np.ndindex(h, w):
        i, j = p * stride[0] - padding[0], q * stride[1] - padding[1]
        yield p, q, slice(max(i, 0), i + kernel[0]), slice(max(j, 0), j + kernel[1])


def max_pool(X, *geometry):
    places = list(windows(X, *geometry))
    Y = np.zeros((*X.shape[:2], places[-1][0] + 1, places[-1][1] + 1))
    for p, q, rows, columns in places:
        Y[:, :, p, q] = X[:, :, rows, columns].max(axis=(2, 3))
    return Y


def max_pool_gradient(dY, X, *geometry):
    """To the first of the largest in each window, in reading order."""
    dX = np.zeros_like(X)
    for p, q, rows, columns in windows(X, *geometry):
        for n, c in np.ndindex(*X.shape[:2]):
            window = X[n, c, rows, columns]
            i, j = np.unravel_index(np.argmax(window), window.shape)
            dX[n, c, rows.start + i, columns.start + j] += dY[n, c, p, q]
    return dX


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
]  # fmt: skip
