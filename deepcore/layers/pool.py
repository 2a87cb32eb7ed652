"""Pooling: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import dtype_name
from deepcore.core.function import Function
from deepcore.errors import ShapeError
from deepcore.ops import pool
from deepcore.shapes import (
    Windows,
    adaptive_windows,
    pool_output_shape,
    pool_windows,
    single_sample,
    to_tuple,
)

Sizes = int | tuple[int, ...]  # one for all spatial axes, or one for each
Wanted = int | None | tuple[int | None, ...]  # None keeps an axis as it is


class _Pool(Function):
    """Windows of one size along `rank` spatial axes."""

    wants_floats = True
    rank: int

    def _set_windows(self, kernel_size: Sizes, stride: Sizes | None, padding: Sizes) -> None:
        who, n = type(self).__name__, self.rank
        self.kernel_size = to_tuple(kernel_size, n, who, "kernel_size", least=1)
        self.stride = self.kernel_size if stride is None else to_tuple(stride, n, who, "stride", least=1)
        self.padding = to_tuple(padding, n, who, "padding")
        self._pads = tuple((p, p) for p in self.padding)

    def _config(self) -> dict[str, Any]:
        return super()._config() | ({"stride": None} if self.stride == self.kernel_size else {})


class MaxPool(_Pool):
    """Maximum over windows along `rank` spatial axes. Abstract: use MaxPool1D, MaxPool2D or MaxPool3D."""

    traceable = True

    def __init__(self, kernel_size: Sizes = 2, stride: Sizes | None = None, padding: Sizes = 0):
        super().__init__()
        self._set_windows(kernel_size, stride, padding)

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


class MaxPool1D(MaxPool):
    """Y[n, c, p] = the maximum of X[n, c] over the window of k numbers at s p.

    X: (n, c, w)   Y: (n, c, w')   w' = floor((w + 2 padding - k) / stride) + 1

    Arguments, errors and ties are those of MaxPool2D, along one axis; dX is dY where a number won, else 0.

    >>> import numpy as np
    >>> MaxPool1D(2)(np.array([[[1.0, 4.0, 3.0, 2.0, 9.0]]]))
    array([[[4., 3.]]])
    """

    rank = 1


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


class MaxPool3D(MaxPool):
    """Y[n, c, o, p, q] = the maximum of X[n, c] over the window of (kd, kh, kw) numbers at (s o, s p, s q).

    X: (n, c, d, h, w)   Y: (n, c, d', h', w')   h' = floor((h + 2 padding - kh) / stride) + 1, and so on

    Arguments, errors and ties are those of MaxPool2D, along three axes; dX is dY where a number won, else 0.

    >>> import numpy as np
    >>> MaxPool3D((1, 2, 2))(np.zeros((5, 3, 7, 8, 8))).shape
    (5, 3, 7, 4, 4)
    """

    rank = 3


class _Average(Function):
    """The average of each window: the sum of what X has there, over a count."""

    def _windows(self, shape: Sequence[int]) -> tuple[Sequence[Windows], Sequence[Sequence[int]]]:
        """The windows along each spatial axis, and their counts; ShapeError if X doesn't fit."""
        raise NotImplementedError

    def forward(self, X: Any) -> Any:
        windows, counts = self._windows(X.shape)
        self.cache.update(windows=windows, counts=counts, sizes=tuple(X.shape[2:]))
        return pool.avg_pool(X, windows, counts)

    def backward(self, dY: Any) -> Any:
        return pool.avg_pool_backward(dY, self.cache["windows"], self.cache["counts"], self.cache["sizes"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        """The share: 1 over the count, of each window that holds a number; 0 where none does."""
        windows, counts = self._windows(X.shape)
        ones = array_namespace(X).ones_like(pool.avg_pool(X, windows, counts))
        return {"X": pool.avg_pool_backward(ones, windows, counts, X.shape[2:])}


class AvgPool(_Average, _Pool):
    """Average over windows along `rank` spatial axes. Abstract: use AvgPool1D, AvgPool2D or AvgPool3D."""

    traceable = True

    def __init__(
        self,
        kernel_size: Sizes = 2,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        count_include_pad: bool = True,
    ):
        super().__init__()
        self._set_windows(kernel_size, stride, padding)
        self.count_include_pad = bool(count_include_pad)

    def _windows(self, shape: Sequence[int]) -> tuple[Sequence[Windows], Sequence[Sequence[int]]]:
        pool_output_shape(shape, self.kernel_size, self.stride, self._pads, self)
        windows = tuple(map(pool_windows, shape[2:], self.kernel_size, self.stride, self._pads))
        if not self.count_include_pad:
            return windows, tuple(map(lengths, windows))
        return windows, tuple((k,) * len(along) for k, along in zip(self.kernel_size, windows, strict=True))


class AvgPool1D(AvgPool):
    """Y[n, c, p] = the average of X[n, c] over the window of k numbers at s p.

    X: (n, c, w)   Y: (n, c, w')   w' = floor((w + 2 padding - k) / stride) + 1
    dX[n, c, s p + i] += dY[n, c, p] / k

    Arguments and errors are those of AvgPool2D, along one axis.

    >>> import numpy as np
    >>> AvgPool1D(2)(np.array([[[1.0, 3.0, 4.0, 6.0, 9.0]]]))
    array([[[2., 5.]]])
    """

    rank = 1


class AvgPool2D(AvgPool):
    """Y[n, c, p, q] = the average of X[n, c] over the window of (kh, kw) numbers at (s p, s q).

    X: (n, c, h, w)   Y: (n, c, h', w')   h' = floor((h + 2 padding - kh) / stride) + 1
    kernel_size, stride (the kernel size unless given), padding: an int, or one for each axis.
    count_include_pad: whether a padded place counts as a 0, or not at all.

    Each number of a window has the same share in its average, so each gets the same share of its gradient,
    and a number gets one from each window that holds it:

    dX[n, c, s p + i, s q + j] += dY[n, c, p, q] / (kh kw)

    Raises ShapeError if X is smaller than the kernel, or the padding more than half of it.
    LeCun et al. 1989.

    >>> import numpy as np
    >>> layer = AvgPool2D(2)
    >>> layer(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    array([[[[2.5]]]])
    >>> layer.backward(np.array([[[[8.0]]]]))
    array([[[[2., 2.],
             [2., 2.]]]])
    """

    rank = 2


class AvgPool3D(AvgPool):
    """Y[n, c, o, p, q] = the average of X[n, c] over the window of (kd, kh, kw) numbers at (s o, s p, s q).

    X: (n, c, d, h, w)   Y: (n, c, d', h', w')   h' = floor((h + 2 padding - kh) / stride) + 1, and so on
    dX[n, c, s o + h, s p + i, s q + j] += dY[n, c, o, p, q] / (kd kh kw)

    Arguments and errors are those of AvgPool2D, along three axes.

    >>> import numpy as np
    >>> AvgPool3D(2)(np.ones((5, 3, 4, 8, 8))).shape
    (5, 3, 2, 4, 4)
    """

    rank = 3


def lengths(windows: Windows) -> tuple[int, ...]:
    """How many places each window has."""
    return tuple(stop - start for start, stop in windows)


# ---- windows that follow from the output's size


class _Adaptive(Function):
    """As many windows along each of `rank` spatial axes as are asked for."""

    wants_floats = True
    rank: int

    def _set_size(self, size: Wanted) -> None:
        sizes = tuple(size) if isinstance(size, tuple | list) else (size,) * self.rank
        try:
            given = [to_tuple(s, 1, "", "size", least=1)[0] for s in sizes if s is not None]
        except ShapeError:
            given = []
        if len(sizes) != self.rank or len(given) != self.rank - sizes.count(None):
            wanted = "an int >= 1, None" if self.rank == 1 else f"an int >= 1, None, or {self.rank} of them"
            raise ShapeError(f"{type(self).__name__}: size must be {wanted}, got {size!r}")
        self.size = sizes

    def _adaptive_windows(self, shape: Sequence[int]) -> tuple[Windows, ...]:
        if len(shape) != self.rank + 2 or 0 in shape[2:]:
            axes = ", ".join("dhw"[3 - self.rank :])
            raise ShapeError(
                f"{self._who()}: X must have shape (n, c, {axes}), "
                f"no axis of {axes} empty, got {tuple(shape)}{single_sample(shape, self.rank)}"
            )
        return tuple(
            adaptive_windows(size, size if out is None else out)
            for size, out in zip(shape[2:], self.size, strict=True)
        )


class AdaptiveAvgPool(_Average, _Adaptive):
    """Average over `size` windows. Abstract: use AdaptiveAvgPool1D, 2D or 3D."""

    traceable = True

    def __init__(self, size: Wanted):
        super().__init__()
        self._set_size(size)

    def _windows(self, shape: Sequence[int]) -> tuple[Sequence[Windows], Sequence[Sequence[int]]]:
        windows = self._adaptive_windows(shape)
        return windows, tuple(map(lengths, windows))


class AdaptiveAvgPool1D(AdaptiveAvgPool):
    """Y[n, c, p] = the average of X[n, c] from floor(p w / w') up to, not including, ceil((p + 1) w / w').

    X: (n, c, w)   Y: (n, c, w')   w' = size, or w if that is None
    dX[n, c, i] = sum of dY[n, c, p] / (length of window p) over the windows that hold i

    Raises ShapeError if X has other axes, or no numbers along one.

    >>> import numpy as np
    >>> AdaptiveAvgPool1D(2)(np.array([[[1.0, 2.0, 6.0]]]))  # the 2 is in both
    array([[[1.5, 4. ]]])
    """

    rank = 1


class AdaptiveAvgPool2D(AdaptiveAvgPool):
    """The average over h' x w' windows that cover X as evenly as whole numbers can.

    X: (n, c, h, w)   Y: (n, c, h', w')   (h', w') = size: an int, or one for each axis; None keeps an axis
    Window p holds the rows from floor(p h / h') up to, not including, ceil((p + 1) h / h'); likewise columns.
    Neighbours share a row where h' doesn't divide h.

    dX[n, c, i, j] = sum of dY[n, c, p, q] / (size of window p, q) over the windows that hold (i, j)

    Raises ShapeError if X has other axes, or no numbers along one. He et al. 2014, arXiv:1406.4729.

    >>> import numpy as np
    >>> AdaptiveAvgPool2D((2, None))(np.zeros((5, 3, 7, 9))).shape
    (5, 3, 2, 9)
    """

    rank = 2


class AdaptiveAvgPool3D(AdaptiveAvgPool):
    """The average over d' x h' x w' windows that cover X as evenly as whole numbers can.

    X: (n, c, d, h, w)   Y: (n, c, d', h', w')   (d', h', w') = size, as in AdaptiveAvgPool2D
    dX = sum of dY / (size of the window) over the windows that hold a place

    Raises ShapeError if X has other axes, or no numbers along one.

    >>> import numpy as np
    >>> AdaptiveAvgPool3D(2)(np.zeros((5, 3, 7, 8, 9))).shape
    (5, 3, 2, 2, 2)
    """

    rank = 3


class GlobalAvgPool2D(AdaptiveAvgPool2D):
    """Y[n, c] = the average of the whole image X[n, c], kept as an image of one pixel.

    X: (n, c, h, w)   Y: (n, c, 1, 1)   dX[n, c, i, j] = dY[n, c] / (h w)

    Put Flatten() behind it for (n, c). Raises ShapeError if X has other axes, or no numbers along one.
    Lin et al. 2014, arXiv:1312.4400.

    >>> import numpy as np
    >>> GlobalAvgPool2D()(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    array([[[[2.5]]]])
    """

    traceable = True

    def __init__(self) -> None:
        super().__init__(1)


class AdaptiveMaxPool(_Adaptive):
    """Maximum over `size` windows. Abstract: use AdaptiveMaxPool1D, 2D or 3D."""

    traceable = True

    def __init__(self, size: Wanted):
        super().__init__()
        self._set_size(size)

    def forward(self, X: Any) -> Any:
        windows = self._adaptive_windows(X.shape)
        Y, places = pool.window_max(X, windows)
        self.cache.update(windows=windows, places=places, sizes=tuple(X.shape[2:]))
        return Y

    def backward(self, dY: Any) -> Any:
        return pool.window_max_backward(dY, self.cache["places"], self.cache["windows"], self.cache["sizes"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        """The mask: 1 where a number is its window's maximum (how often, if windows overlap), else 0."""
        windows = self._adaptive_windows(X.shape)
        Y, places = pool.window_max(X, windows)
        ones = array_namespace(X).ones_like(Y)
        return {"X": pool.window_max_backward(ones, places, windows, X.shape[2:])}


class AdaptiveMaxPool1D(AdaptiveMaxPool):
    """Y[n, c, p] = the maximum of X[n, c] from floor(p w / w') up to, not including, ceil((p + 1) w / w').

    X: (n, c, w)   Y: (n, c, w')   w' = size, or w if that is None
    dX is dY where a number won, summed over its windows, else 0; of equal ones the first wins.

    Raises ShapeError if X has other axes, or no numbers along one.

    >>> import numpy as np
    >>> AdaptiveMaxPool1D(2)(np.array([[[1.0, 2.0, 6.0]]]))
    array([[[2., 6.]]])
    """

    rank = 1


class AdaptiveMaxPool2D(AdaptiveMaxPool):
    """The maximum over h' x w' windows that cover X as evenly as whole numbers can.

    X: (n, c, h, w)   Y: (n, c, h', w')   (h', w') = size; the windows are those of AdaptiveAvgPool2D
    dX is dY where a number won, summed over its windows, else 0; of equal ones the first wins.

    Raises ShapeError if X has other axes, or no numbers along one. He et al. 2014, arXiv:1406.4729.

    >>> import numpy as np
    >>> layer = AdaptiveMaxPool2D((1, None))
    >>> layer(np.array([[[[1.0, 5.0], [3.0, 4.0]]]]))
    array([[[[3., 5.]]]])
    >>> layer.backward(np.array([[[[10.0, 20.0]]]]))
    array([[[[ 0., 20.],
             [10.,  0.]]]])
    """

    rank = 2


class AdaptiveMaxPool3D(AdaptiveMaxPool):
    """The maximum over d' x h' x w' windows that cover X as evenly as whole numbers can.

    X: (n, c, d, h, w)   Y: (n, c, d', h', w')   (d', h', w') = size, as in AdaptiveMaxPool2D
    dX is dY where a number won, summed over its windows, else 0; of equal ones the first wins.

    Raises ShapeError if X has other axes, or no numbers along one.

    >>> import numpy as np
    >>> AdaptiveMaxPool3D(2)(np.zeros((5, 3, 7, 8, 9))).shape
    (5, 3, 2, 2, 2)
    """

    rank = 3


class GlobalMaxPool2D(AdaptiveMaxPool2D):
    """Y[n, c] = the maximum of the whole image X[n, c], kept as an image of one pixel.

    X: (n, c, h, w)   Y: (n, c, 1, 1)   dX is dY at the (first) maximum, else 0

    Put Flatten() behind it for (n, c). Raises ShapeError if X has other axes, or no numbers along one.
    Oquab et al. 2015, doi:10.1109/CVPR.2015.7298668.

    >>> import numpy as np
    >>> GlobalMaxPool2D()(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]))
    array([[[[4.]]]])
    """

    traceable = True

    def __init__(self) -> None:
        super().__init__(1)
