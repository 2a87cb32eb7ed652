"""Convolutions."""

import numpy as np

from deepcore import Conv1D, Conv2D, Conv3D, ConvTranspose1D, ConvTranspose2D, ConvTranspose3D
from tests.case import Case, normal


def every(value, rank):
    """One for each spatial axis."""
    return (value,) * rank if isinstance(value, int) else value


def places(sizes, kernel, stride, dilation):
    """Each window's place in the output, and where it lies in the padded input."""
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(size - s) // step + 1 for size, s, step in zip(sizes, span, stride, strict=True)]
    for p in np.ndindex(*out):
        starts = [q * step for q, step in zip(p, stride, strict=True)]
        yield p, tuple(slice(i, i + s, d) for i, s, d in zip(starts, span, dilation, strict=True))


def conv(X, W, b=0.0, stride=1, pads=0, dilation=1, groups=1):
    """Y[n, f, p] = sum of the window at p times filter f, place by place."""
    rank = X.ndim - 2
    stride, dilation = every(stride, rank), every(dilation, rank)
    pads = [every(pair, 2) for pair in every(pads, rank)]
    X = np.pad(X, ((0, 0), (0, 0), *pads))
    n, _, *sizes = X.shape
    f, _, *kernel = W.shape
    filters = W.reshape(groups, f // groups, -1)
    Y = {}
    for p, window in places(sizes, kernel, stride, dilation):
        columns = X[:, :, *window].reshape(n, groups, -1)
        Y[p] = np.einsum("ngk,gfk->ngf", columns, filters).reshape(n, f)
    out = [1 + max(along) for along in zip(*Y, strict=True)]
    return np.moveaxis(np.array(list(Y.values())), 0, -1).reshape(n, f, *out) + b


def conv_transpose(X, W, b=0.0, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Each number of X paints W, times itself, on a canvas whose edges are then cut."""
    rank = X.ndim - 2
    stride, padding, beyond, dilation = (every(v, rank) for v in (stride, padding, output_padding, dilation))
    n, c, *sizes = X.shape
    _, columns, *kernel = W.shape
    filters = W.reshape(groups, c // groups, columns, *kernel)
    painted = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip(sizes, stride, dilation, kernel, strict=True)
    ]
    canvas = np.zeros((n, groups, columns, *map(sum, zip(painted, beyond, strict=True))))
    for p, window in places(painted, kernel, stride, dilation):
        colours = X[:, :, *p].reshape(n, groups, -1)
        canvas[:, :, :, *window] += np.einsum("ngc,gcf...->ngf...", colours, filters)
    canvas = canvas.reshape(n, groups * columns, *canvas.shape[3:])
    inside = [slice(p, size - p) for p, size in zip(padding, canvas.shape[2:], strict=True)]
    return canvas[:, :, *inside] + b


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
    Case("Conv1D", lambda: Conv1D(2, 3), [normal(2, 5)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv1D everything", lambda: Conv1D(4, 6, 2, 2, 1, 3, 2, False), [normal(4, 7)],
         lambda w, X: conv(X, w["W"], 0.0, 2, 1, 3, 2)),
    Case("Conv1D same, dilation", lambda: Conv1D(1, 2, 4, padding="same", dilation=3), [normal(1, 5)],
         lambda w, X: conv(X, w["W"], w["b"], pads=((4, 5),), dilation=3)),
    Case("Conv3D", lambda: Conv3D(1, 2, 2), [normal(1, 3, 2, 3)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv3D everything", lambda: Conv3D(2, 2, (2, 1, 2), (1, 2, 2), (1, 0, 1), (1, 1, 2), 2),
         [normal(2, 2, 2, 3)],
         lambda w, X: conv(X, w["W"], w["b"], (1, 2, 2), (1, 0, 1), (1, 1, 2), 2)),
    Case("ConvTranspose1D", lambda: ConvTranspose1D(2, 3), [normal(2, 4)],
         lambda w, X: conv_transpose(X, w["W"], w["b"])),
    Case("ConvTranspose1D output padding over padding", lambda: ConvTranspose1D(2, 1, 2, 3, 1, 2),
         [normal(2, 3)], lambda w, X: conv_transpose(X, w["W"], w["b"], 3, 1, 2)),
    Case("ConvTranspose2D", lambda: ConvTranspose2D(2, 3), [normal(2, 3, 2)],
         lambda w, X: conv_transpose(X, w["W"], w["b"])),
    Case("ConvTranspose2D without bias", lambda: ConvTranspose2D(1, 2, 2, 2, bias=False), [normal(1, 2, 3)],
         lambda w, X: conv_transpose(X, w["W"], 0.0, 2)),
    Case("ConvTranspose2D everything",
         lambda: ConvTranspose2D(4, 2, (2, 3), (3, 2), 1, (2, 0), 2, True, (1, 2)), [normal(4, 2, 2)],
         lambda w, X: conv_transpose(X, w["W"], w["b"], (3, 2), (1, 1), (2, 0), 2, (1, 2))),
    Case("ConvTranspose2D output padding at stride 1", lambda: ConvTranspose2D(1, 2, 2, 1, 1, 1, dilation=2),
         [normal(1, 2, 3)], lambda w, X: conv_transpose(X, w["W"], w["b"], 1, 1, 1, dilation=2)),
    Case("ConvTranspose3D", lambda: ConvTranspose3D(1, 2, 2, 2, 1, 1), [normal(1, 2, 2, 2)],
         lambda w, X: conv_transpose(X, w["W"], w["b"], 2, 1, 1)),
]  # fmt: skip
