"""Functions that change the shape alone, or the size."""

import numpy as np

import deepcore as dc
from tests.case import Case, normal


def blocks(X, high, wide):
    return X.repeat(high, axis=2).repeat(wide, axis=3)


def between_pixels(X, s, axis):
    """New pixel i lies at (i + 1/2) / s - 1/2, between two old ones or at the end; by the definition."""
    n = X.shape[axis]
    slices = []
    for i in range(n * s):
        at = min(max((i + 0.5) / s - 0.5, 0), n - 1)
        low = int(at)
        high = min(low + 1, n - 1)
        near, far = X.take(low, axis), X.take(high, axis)
        slices.append(near if at == low else (1 - (at - low)) * near + (at - low) * far)
    return np.stack(slices, axis)


def bilinear_pixels(X, high, wide):
    return between_pixels(between_pixels(X, high, 2), wide, 3)


def padded(name, make, shape, widths, **options):
    outer = [(0, 0)] * (1 + len(shape) - len(widths))
    return Case(name, make, [normal(*shape)], lambda w, X: np.pad(X, outer + widths, **options))


CASES = [
    Case("Flatten", dc.Flatten, [normal(2, 3, 2)], lambda w, X: X.reshape(len(X), 12)),
    Case("Flatten rows", dc.Flatten, [normal(4)], lambda w, X: X),
    Case("Flatten numbers", dc.Flatten, [normal()], lambda w, X: X[:, None]),
    Case("Reshape", lambda: dc.Reshape(3, 4), [normal(2, 6)], lambda w, X: X.reshape(len(X), 3, 4)),
    Case("Reshape -1", lambda: dc.Reshape(2, -1, 2), [normal(3, 4)], lambda w, X: X.reshape(len(X), 2, 3, 2)),
    Case("Reshape a tuple", lambda: dc.Reshape((12,)), [normal(3, 4)], lambda w, X: X.reshape(len(X), 12)),
    Case("Permute", lambda: dc.Permute(2, 3, 1), [normal(2, 3, 4)], lambda w, X: X.transpose(0, 2, 3, 1)),
    Case("Permute with 0", lambda: dc.Permute(0, 2, 1), [normal(3, 3)], lambda w, X: X.transpose(0, 2, 1)),
    padded("Pad1D", lambda: dc.Pad1D(2), (2, 3), [(2, 2)]),
    padded("Pad1D pair", lambda: dc.Pad1D((1, 0), value=7), (2, 3), [(1, 0)], constant_values=7),
    padded("Pad1D reflect", lambda: dc.Pad1D((2, 1), "reflect"), (2, 4), [(2, 1)], mode="reflect"),
    padded("Pad1D reflect whole", lambda: dc.Pad1D(2, "reflect"), (2, 3), [(2, 2)], mode="reflect"),
    padded("Pad1D wrap whole", lambda: dc.Pad1D(((3, 2),), "wrap"), (2, 3), [(3, 2)], mode="wrap"),
    padded("Pad1D edge far", lambda: dc.Pad1D((0, 5), "edge"), (3,), [(0, 5)], mode="edge"),
    padded("Pad2D", lambda: dc.Pad2D(1), (2, 2, 3), [(1, 1), (1, 1)]),
    padded("Pad2D pairs", lambda: dc.Pad2D(((1, 2), (0, 3)), value=-0.5), (2, 2, 3), [(1, 2), (0, 3)],
           constant_values=-0.5),
    padded("Pad2D reflect", lambda: dc.Pad2D(((1, 2), (0, 1)), mode="reflect"), (2, 3, 2), [(1, 2), (0, 1)],
           mode="reflect"),
    padded("Pad2D edge", lambda: dc.Pad2D(((1, 2), (0, 3)), mode="edge"), (2, 2, 3), [(1, 2), (0, 3)],
           mode="edge"),
    padded("Pad2D wrap", lambda: dc.Pad2D(((1, 2), (0, 3)), mode="wrap"), (2, 2, 3), [(1, 2), (0, 3)],
           mode="wrap"),
    padded("Pad3D", lambda: dc.Pad3D(1, value=2), (1, 2, 1, 2), [(1, 1)] * 3, constant_values=2),
    padded("Pad3D reflect", lambda: dc.Pad3D(((1, 0), (0, 1), (1, 1)), "reflect"), (1, 2, 2, 3),
           [(1, 0), (0, 1), (1, 1)], mode="reflect"),
    padded("Pad3D wrap", lambda: dc.Pad3D(1, "wrap"), (1, 2, 1, 2), [(1, 1)] * 3, mode="wrap"),
    Case("Upsample2D", dc.Upsample2D, [normal(2, 2, 3)], lambda w, X: blocks(X, 2, 2)),
    Case("Upsample2D by axis", lambda: dc.Upsample2D((1, 3)), [normal(2, 2, 3)],
         lambda w, X: blocks(X, 1, 3)),
    Case("Upsample2D bilinear", lambda: dc.Upsample2D(mode="bilinear"), [normal(2, 3, 4)],
         lambda w, X: bilinear_pixels(X, 2, 2)),
    Case("Upsample2D bilinear by axis", lambda: dc.Upsample2D((3, 4), "bilinear"), [normal(1, 3, 2)],
         lambda w, X: bilinear_pixels(X, 3, 4)),
    Case("Upsample2D bilinear of one pixel", lambda: dc.Upsample2D(3, "bilinear"), [normal(2, 1, 1)],
         lambda w, X: blocks(X, 3, 3)),
]  # fmt: skip
