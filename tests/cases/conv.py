"""Convolutions."""

import numpy as np

from deepcore import Conv2D
from tests.case import Case, normal


def conv(X, W, b=0.0, stride=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    """Y[n, f, p, q] = sum of the window at (p, q) times filter f, place by place."""
    X = np.pad(X, ((0, 0), (0, 0), *pads))
    n, c, *sizes = X.shape
    f, _, *kernel = W.shape
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(size - s) // step + 1 for size, s, step in zip(sizes, span, stride, strict=True)]
    Y = np.zeros((n, f, *out))
    for p, q in np.ndindex(*out):
        i, j = p * stride[0], q * stride[1]
        window = X[:, :, i : i + span[0] : dilation[0], j : j + span[1] : dilation[1]]
        window = window.reshape(n, groups, c // groups, *kernel)
        filters = W.reshape(groups, f // groups, c // groups, *kernel)
        Y[:, :, p, q] = np.einsum("ngcij,gfcij->ngf", window, filters).reshape(n, f)
    return Y + b


_PADS = ((2, 2), (1, 1))

CASES = [
    Case("Conv2D", lambda: Conv2D(2, 3), [normal(2, 4, 5)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D without bias", lambda: Conv2D(2, 3, bias=False), [normal(2, 4, 5)],
         lambda w, X: conv(X, w["W"])),
    Case("Conv2D 1x1", lambda: Conv2D(3, 2, 1), [normal(3, 3, 2)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D 2x3", lambda: Conv2D(2, 2, (2, 3)), [normal(2, 4, 4)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D whole image", lambda: Conv2D(2, 3, (4, 3)), [normal(2, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D one channel, many filters", lambda: Conv2D(1, 12, 2), [normal(1, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D stride 2", lambda: Conv2D(1, 2, 3, stride=2), [normal(1, 6, 5)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2))),
    Case("Conv2D stride (3, 1)", lambda: Conv2D(1, 2, 2, stride=(3, 1)), [normal(1, 6, 4)],
         lambda w, X: conv(X, w["W"], w["b"], (3, 1))),
    Case("Conv2D stride over kernel", lambda: Conv2D(1, 2, 1, stride=2), [normal(1, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2))),
    Case("Conv2D padding (2, 1)", lambda: Conv2D(2, 2, 3, padding=(2, 1)), [normal(2, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"], pads=_PADS)),
    Case("Conv2D padding over kernel", lambda: Conv2D(1, 2, 1, padding=(2, 1)), [normal(1, 2, 3)],
         lambda w, X: conv(X, w["W"], w["b"], pads=_PADS)),
    Case("Conv2D same", lambda: Conv2D(2, 2, 3, padding="same"), [normal(2, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"], pads=((1, 1), (1, 1)))),
    Case("Conv2D same, even kernel", lambda: Conv2D(1, 2, (2, 4), padding="same"), [normal(1, 4, 5)],
         lambda w, X: conv(X, w["W"], w["b"], pads=((0, 1), (1, 2)))),
    Case("Conv2D dilation (2, 1)", lambda: Conv2D(2, 2, 2, dilation=(2, 1)), [normal(2, 5, 4)],
         lambda w, X: conv(X, w["W"], w["b"], dilation=(2, 1))),
    Case("Conv2D 2 groups", lambda: Conv2D(4, 6, 2, groups=2), [normal(4, 2, 3)],
         lambda w, X: conv(X, w["W"], w["b"], groups=2)),
    Case("Conv2D depthwise", lambda: Conv2D(3, 6, 2, groups=3), [normal(3, 3, 2)],
         lambda w, X: conv(X, w["W"], w["b"], groups=3)),
    Case("Conv2D everything", lambda: Conv2D(4, 2, (2, 3), 2, (2, 1), (1, 2), 2), [normal(4, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2), _PADS, (1, 2), 2)),
]  # fmt: skip
