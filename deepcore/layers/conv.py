"""Convolution: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.core.layer import Layer
from deepcore.errors import ArgumentError
from deepcore.ops import conv
from deepcore.shapes import conv_output_shape, same_padding, to_tuple


class Conv(Layer):
    """Convolution over `rank` spatial axes. Abstract: use Conv2D."""

    traceable = True
    rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...] = 3,
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        init: str | initialisers.Initialiser = "he_normal",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
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
        self.padding = padding if isinstance(padding, str) else to_tuple(padding, n, who, "padding")
        self._pads = self._padding_pairs()
        self.bias = bool(bias)
        self.init = init
        self._init_weights(dtype, device)

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

    def _init_weights(self, dtype: Any, device: Any) -> None:
        f, c, area = self.out_channels, self.in_channels // self.groups, math.prod(self.kernel_size)
        fans = c * area, f * area // self.groups
        self.weight["W"] = initialisers.make(self.init, (f, c, *self.kernel_size), *fans, dtype, device)
        if self.bias:
            init = initialisers.of_bias(self.init)
            self.weight["b"] = initialisers.make(init, (1, f) + (1,) * self.rank, *fans, dtype, device)

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

    def local_grad(self, X: Any) -> dict[str, Any]:
        """{"X": W, "W": X}: the other factor of each product under the sum."""
        return {"X": self.weight["W"], "W": X}


class Conv2D(Conv):
    """Y[n, f, p, q] = b[f] + sum over c, i, j of W[f, c, i, j] X[n, c, s p + i, s q + j], X padded with 0.

    X: (n, c, h, w)   W: (f, c/groups, kh, kw)   b: (1, f, 1, 1)   Y: (n, f, h', w')
    h' = floor((h + padding - dilation (kh - 1) - 1) / stride) + 1
    W ~ N(0, 2 / (c/groups kh kw)) ("he_normal"), b = 0.

    kernel_size, stride, padding, dilation: an int, or one for each axis; padding may be "same" (stride 1).
    Each number of W meets each window of X once, so, with the same index arithmetic:

    dW[f, c, i, j] = sum over n, p, q of dY[n, f, p, q] X[n, c, s p + i, s q + j]
    dX[n, c, s p + i, s q + j] += W[f, c, i, j] dY[n, f, p, q]     db = sum dY over n, p, q

    Raises ShapeError if X has other channels or is smaller than the kernel. LeCun et al. 1989.

    >>> import numpy as np
    >>> layer = Conv2D(1, 4, 3, padding=1)
    >>> layer(np.zeros((5, 1, 28, 28))).shape
    (5, 4, 28, 28)
    """

    rank = 2
