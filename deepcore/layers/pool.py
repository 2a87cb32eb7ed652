"""Pooling: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

from typing import Any

from deepcore.backends.select import dtype_name
from deepcore.core.function import Function
from deepcore.ops import pool
from deepcore.shapes import pool_output_shape, to_tuple


class MaxPool(Function):
    """Maximum over windows along `rank` spatial axes. Abstract: use MaxPool2D."""

    traceable = True
    wants_floats = True
    rank: int

    def __init__(
        self,
        kernel_size: int | tuple[int, ...] = 2,
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
    ):
        super().__init__()
        who, n = type(self).__name__, self.rank
        self.kernel_size = to_tuple(kernel_size, n, who, "kernel_size", least=1)
        self.stride = self.kernel_size if stride is None else to_tuple(stride, n, who, "stride", least=1)
        self.padding = to_tuple(padding, n, who, "padding")
        self._pads = tuple((p, p) for p in self.padding)

    def _config(self) -> dict[str, Any]:
        return super()._config() | ({"stride": None} if self.stride == self.kernel_size else {})

    def forward(self, X: Any) -> Any:
        pool_output_shape(X.shape, self.kernel_size, self.stride, self._pads, self)
        Y, index = pool.max_pool(X, self.kernel_size, self.stride, self._pads)
        self.cache["index"], self.cache["shape"] = index, X.shape
        return Y

    def backward(self, dY: Any) -> Any:
        return pool.max_pool_backward(
            dY, self.cache["index"], self.cache["shape"], self.kernel_size, self.stride, self._pads
        )

    def local_grad(self, X: Any) -> dict[str, Any]:
        """The mask: 1 where a number is its window's maximum (how often, if windows overlap), else 0."""
        _, index = pool.max_pool(X, self.kernel_size, self.stride, self._pads)
        mask = pool.max_pool_mask(
            index, X.shape, self.kernel_size, self.stride, self._pads, dtype=dtype_name(X)
        )
        return {"X": mask}


class MaxPool2D(MaxPool):
    """Y[n, c, p, q] = the maximum of X[n, c] over the window of (kh, kw) numbers at (s p, s q).

    X: (n, c, h, w)   Y: (n, c, h', w')   h' = floor((h + 2 padding - kh) / stride) + 1
    kernel_size, stride (the kernel size unless given), padding: an int, or one for each axis.

    The gradient goes to the number that was the maximum; of equal ones, to the first in reading order.
    Rows and columns that no window reaches get 0. Raises ShapeError if X is smaller than the kernel.

    >>> import numpy as np
    >>> layer = MaxPool2D(2)
    >>> layer(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    array([[[[4.]]]])
    >>> layer.backward(np.array([[[[10.0]]]]))
    array([[[[ 0.,  0.],
             [ 0., 10.]]]])
    """

    rank = 2
