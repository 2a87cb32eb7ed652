"""Convolution and its transpose: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.core.layer import Layer
from deepcore.errors import ArgumentError
from deepcore.ops import conv
from deepcore.shapes import (
    conv_output_shape,
    conv_transpose_output_shape,
    same_padding,
    to_tuple,
)

Sizes = int | tuple[int, ...]  # one for all spatial axes, or one for each


class _Windows(Layer):
    """What convolution and its transpose share: channels in groups, windows, and a W and a b for them."""

    rank: int
    bias: bool
    init: str | initialisers.Initialiser

    def _set_windows(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        kernel_size: Sizes,
        stride: Sizes,
        dilation: Sizes,
    ) -> None:
        who, n = type(self).__name__, self.rank
        (self.in_channels,) = to_tuple(in_channels, 1, who, "in_channels", least=1)
        (self.out_channels,) = to_tuple(out_channels, 1, who, "out_channels", least=1)
        (self.groups,) = to_tuple(groups, 1, who, "groups", least=1)
        if in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"{who}: groups must divide in_channels and out_channels, "
                f"got groups={groups} for {in_channels} and {out_channels}"
            )
        self.kernel_size = to_tuple(kernel_size, n, who, "kernel_size", least=1)
        self.stride = to_tuple(stride, n, who, "stride", least=1)
        self.dilation = to_tuple(dilation, n, who, "dilation", least=1)

    def _init_weights(self, rows: int, columns: int, dtype: Any, device: Any) -> None:
        """W: (rows, columns, *kernel)   b: (1, out_channels, 1, ...), if there is one."""
        area = math.prod(self.kernel_size)
        fans = self.in_channels // self.groups * area, self.out_channels // self.groups * area
        if initialisers.as_torch(self.init):
            fans = columns * area, fans[1]  # also of a transpose, where what goes into one unit is rows
        W_shape, b_shape = (rows, columns, *self.kernel_size), (1, self.out_channels) + (1,) * self.rank
        self.weight["W"] = initialisers.make(self.init, W_shape, *fans, dtype, device, self)
        if self.bias:
            init = initialisers.of_bias(self.init)
            self.weight["b"] = initialisers.make(init, b_shape, *fans, dtype, device, self)

    def local_grad(self, X: Any) -> dict[str, Any]:
        """{"X": W, "W": X}: the other factor of each product under the sum."""
        return {"X": self.weight["W"], "W": X}


class Conv(_Windows):
    """Convolution over `rank` spatial axes. Abstract: use Conv1D, Conv2D or Conv3D."""

    traceable = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        init: str | initialisers.Initialiser = "he_normal",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        self._set_windows(in_channels, out_channels, groups, kernel_size, stride, dilation)
        who, n = type(self).__name__, self.rank
        self.padding = padding if isinstance(padding, str) else to_tuple(padding, n, who, "padding")
        self._pads = self._padding_pairs()
        self.bias = bool(bias)
        self.init = init
        self._init_weights(self.out_channels, self.in_channels // self.groups, dtype, device)

    def _padding_pairs(self) -> tuple[tuple[int, int], ...]:
        """(before, after) for each spatial axis."""
        if self.padding == "same":
            if set(self.stride) != {1}:
                raise ArgumentError(
                    f'{type(self).__name__}: padding="same" needs stride 1, got {self.stride}; '
                    "give the padding in numbers"
                )
            return tuple(same_padding(k, d) for k, d in zip(self.kernel_size, self.dilation, strict=True))
        if isinstance(self.padding, str):
            raise ArgumentError(
                f'{type(self).__name__}: padding must be whole numbers or "same", got {self.padding!r}'
            )
        return tuple((p, p) for p in self.padding)

    def forward(self, X: Any) -> Any:
        W = self.weight["W"]
        conv_output_shape(X.shape, W.shape, self.stride, self._pads, self.dilation, self.groups, self)
        self.cache["X"] = X
        return conv.conv(X, W, self.weight.get("b"), self.stride, self._pads, self.dilation, self.groups)

    def backward(self, dY: Any) -> Any:
        dX, dW, db = conv.conv_backward(
            dY,
            self.cache["X"],
            self.weight["W"],
            self.bias,
            self.stride,
            self._pads,
            self.dilation,
            self.groups,
        )
        self.weight_update["W"] = dW
        if self.bias:
            self.weight_update["b"] = db
        return dX


class Conv1D(Conv):
    """Y[n, f, p] = b[f] + sum over c, i of W[f, c, i] X[n, c, s p + i], X padded with 0.

    X: (n, c, w)   W: (f, c/groups, kw)   b: (1, f, 1)   Y: (n, f, w')
    w' = floor((w + padding - dilation (kw - 1) - 1) / stride) + 1
    W ~ N(0, 2 / (c/groups kw)) ("he_normal"), b = 0.

    Arguments, gradients and errors are those of Conv2D, along one axis:

    dW[f, c, i] = sum over n, p of dY[n, f, p] X[n, c, s p + i]     db = sum dY over n, p
    dX[n, c, s p + i] += W[f, c, i] dY[n, f, p]

    Waibel et al. 1989.

    >>> import numpy as np
    >>> layer = Conv1D(1, 1, 2, init="ones")
    >>> layer(np.array([[[1.0, 2.0, 4.0]]]))
    array([[[3., 6.]]], dtype=float32)
    """

    rank = 1


class Conv2D(Conv):
    """Y[n, f, p, q] = b[f] + sum over c, i, j of W[f, c, i, j] X[n, c, s p + i, s q + j], X padded with 0.

    X: (n, c, h, w)   W: (f, c/groups, kh, kw)   b: (1, f, 1, 1)   Y: (n, f, h', w')
    h' = floor((h + padding - dilation (kh - 1) - 1) / stride) + 1
    W ~ N(0, 2 / (c/groups kh kw)) ("he_normal"), b = 0.

    kernel_size, stride, padding, dilation: an int, or one for each axis; padding may be "same" (stride 1).
    Each number of W meets each window of X once, so, with the same index arithmetic:

    dW[f, c, i, j] = sum over n, p, q of dY[n, f, p, q] X[n, c, s p + i, s q + j]
    dX[n, c, s p + i, s q + j] += W[f, c, i, j] dY[n, f, p, q]     db = sum dY over n, p, q

    In float32 a CPU computes 3 x 3 kernels at stride 1, where channels are many, by Winograd's tiles. They
    err by 3e-6 of the largest number among the 6 x 6 places that a tile sees: next to a number 1e6 times as
    large as its surroundings these keep no digit, and an infinity or NaN reaches the whole tile. In float64
    there are no tiles.

    Raises ShapeError if X has other channels or is smaller than the kernel. LeCun et al. 1989.

    >>> import numpy as np
    >>> layer = Conv2D(1, 4, 3, padding=1)
    >>> layer(np.zeros((5, 1, 28, 28))).shape
    (5, 4, 28, 28)
    """

    rank = 2


class Conv3D(Conv):
    """Y[n, f, o, p, q] = b[f] + sum over c, h, i, j of W[f, c, h, i, j] X[n, c, s o + h, s p + i, s q + j].

    X: (n, c, d, h, w), padded with 0   W: (f, c/groups, kd, kh, kw)   b: (1, f, 1, 1, 1)
    Y: (n, f, d', h', w')   h' = floor((h + padding - dilation (kh - 1) - 1) / stride) + 1, likewise d', w'
    W ~ N(0, 2 / (c/groups kd kh kw)) ("he_normal"), b = 0.

    Arguments, gradients and errors are those of Conv2D, along three axes:

    dW[f, c, h, i, j] = sum over n, o, p, q of dY[n, f, o, p, q] X[n, c, s o + h, s p + i, s q + j]
    dX[n, c, s o + h, s p + i, s q + j] += W[f, c, h, i, j] dY[n, f, o, p, q]     db = sum dY over n, o, p, q

    Ji et al. 2013, doi:10.1109/TPAMI.2012.59.

    >>> import numpy as np
    >>> layer = Conv3D(1, 4, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
    >>> layer(np.zeros((5, 1, 8, 28, 28))).shape
    (5, 4, 8, 14, 14)
    """

    rank = 3


class ConvTranspose(_Windows):
    """The transpose of Conv over `rank` spatial axes. Abstract: use ConvTranspose1D, 2D or 3D."""

    traceable = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes = 3,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        *,
        init: str | initialisers.Initialiser = "he_normal",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        self._set_windows(in_channels, out_channels, groups, kernel_size, stride, dilation)
        who, n = type(self).__name__, self.rank
        self.padding = to_tuple(padding, n, who, "padding")
        self.output_padding = to_tuple(output_padding, n, who, "output_padding")
        steps = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(o >= max(s, d) for o, s, d in steps):
            raise ArgumentError(
                f"{who}: output_padding must be less than the stride or the dilation, "
                f"got {self.output_padding} with stride {self.stride} and dilation {self.dilation}"
            )
        pairs = list(zip(self.padding, self.output_padding, strict=True))
        self._pads = tuple((p, max(p - o, 0)) for p, o in pairs)
        self._beyond = tuple((0, max(o - p, 0)) for p, o in pairs)  # places of Y that no window reaches
        self.bias = bool(bias)
        self.init = init
        self._init_weights(self.in_channels, self.out_channels // self.groups, dtype, device)

    def forward(self, X: Any) -> Any:
        W, b = self.weight["W"], self.weight.get("b")
        shape = conv_transpose_output_shape(
            X.shape, W.shape, self.stride, self._pads, self.dilation, self.groups, self
        )
        self.cache["X"], self.cache["reached"] = X, (..., *(slice(size) for size in shape[2:]))
        Y = conv.conv_dX(X, W, shape, self.stride, self._pads, self.dilation, self.groups)
        Y = conv.pad(Y, self._beyond, 0.0)
        return Y if b is None else Y + b

    def backward(self, dY: Any) -> Any:
        X, W = self.cache["X"], self.weight["W"]
        geometry = self.stride, self._pads, self.dilation, self.groups
        reached = dY[self.cache["reached"]]
        self.weight_update["W"] = conv.conv_dW(X, reached, W.shape[2:], *geometry)
        if self.bias:
            self.weight_update["b"] = conv.channel_sum(dY)
        return conv.conv(reached, W, None, *geometry)


class ConvTranspose1D(ConvTranspose):
    """Y[n, f, s p + i] += W[c, f, i] X[n, c, p], plus b[f]: each number of X paints the kernel.

    X: (n, c, w)   W: (c, f/groups, kw)   b: (1, f, 1)   Y: (n, f, w')
    w' = stride (w - 1) - 2 padding + dilation (kw - 1) + 1 + output_padding
    W ~ N(0, 2 / (c/groups kw)) ("he_normal"), b = 0.

    Arguments, gradients and errors are those of ConvTranspose2D, along one axis:

    dX[n, c, p] = sum over f, i of W[c, f, i] dY[n, f, s p + i]     db = sum dY over n, p
    dW[c, f, i] = sum over n, p of X[n, c, p] dY[n, f, s p + i]

    >>> import numpy as np
    >>> layer = ConvTranspose1D(1, 1, 2, stride=2, init="ones")
    >>> layer(np.array([[[1.0, 2.0]]]))
    array([[[1., 1., 2., 2.]]], dtype=float32)
    """

    rank = 1


class ConvTranspose2D(ConvTranspose):
    """Y[n, f, s p + i, s q + j] += W[c, f, i, j] X[n, c, p, q], plus b[f]: the transpose of Conv2D's map.

    X: (n, c, h, w)   W: (c, f/groups, kh, kw)   b: (1, f, 1, 1)   Y: (n, f, h', w')
    h' = stride (h - 1) - 2 padding + dilation (kh - 1) + 1 + output_padding
    W ~ N(0, 2 / (c/groups kh kw)) ("he_normal"), b = 0.

    kernel_size, stride, padding, output_padding, dilation: an int, or one for each axis. `padding` cuts so
    many places off each side of Y. `output_padding`, less than the stride or the dilation, says which Y is
    wanted of those that a Conv2D of these settings would take to X's size, and adds so many at the end.

    Conv2D takes Y to X: its dX is this forward. So here dX is the convolution of dY, and dW is Conv2D's
    with X and dY in each other's place:

    dX[n, c, p, q] = sum over f, i, j of W[c, f, i, j] dY[n, f, s p + i, s q + j]
    dW[c, f, i, j] = sum over n, p, q of X[n, c, p, q] dY[n, f, s p + i, s q + j]     db = sum dY over n, p, q

    Raises ShapeError if X has other channels, or if the padding leaves nothing of Y.
    Zeiler et al. 2010, doi:10.1109/CVPR.2010.5539957; Dumoulin and Visin 2016, arXiv:1603.07285.

    >>> import numpy as np
    >>> layer = ConvTranspose2D(4, 1, 3, stride=2, padding=1, output_padding=1)
    >>> layer(np.zeros((5, 4, 14, 14))).shape
    (5, 1, 28, 28)
    """

    rank = 2


class ConvTranspose3D(ConvTranspose):
    """Y[n, f, s o + h, s p + i, s q + j] += W[c, f, h, i, j] X[n, c, o, p, q], plus b[f].

    X: (n, c, d, h, w)   W: (c, f/groups, kd, kh, kw)   b: (1, f, 1, 1, 1)   Y: (n, f, d', h', w')
    h' = stride (h - 1) - 2 padding + dilation (kh - 1) + 1 + output_padding, likewise d' and w'
    W ~ N(0, 2 / (c/groups kd kh kw)) ("he_normal"), b = 0.

    Arguments, gradients and errors are those of ConvTranspose2D, along three axes:

    dX[n, c, o, p, q] = sum over f, h, i, j of W[c, f, h, i, j] dY[n, f, s o + h, s p + i, s q + j]
    dW[c, f, h, i, j] = sum over n, o, p, q of X[n, c, o, p, q] dY[n, f, s o + h, s p + i, s q + j]
    db = sum dY over n, o, p, q

    >>> import numpy as np
    >>> ConvTranspose3D(2, 1, 2, stride=2)(np.zeros((5, 2, 4, 6, 6))).shape
    (5, 1, 8, 12, 12)
    """

    rank = 3
