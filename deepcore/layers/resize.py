"""Images of another size."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops import upsample
from deepcore.shapes import to_tuple


class Upsample2D(Function):
    """Images that are `scale` times as high and wide.   X: (n, c, h, w) -> Y: (n, c, s_h h, s_w w)

    scale: a whole number, or one for each axis.
    mode: "nearest", every pixel a block of itself, or "bilinear": pixels are squares, and their numbers
    stand at their centres; a new centre at distances u and 1 - u from the two nearest old ones, along an
    axis, has the weights 1 - u and u (torch's align_corners=False). Beyond the ends, the end is repeated.

    Y is linear in X, along one axis after the other: dX gets each dY with the weight that X had in Y.
    Raises ShapeError if X has other axes or no pixels, ArgumentError for another mode.

    >>> import numpy as np
    >>> Upsample2D((1, 2))(np.array([[[[1.0, 3.0]]]]))
    array([[[[1., 1., 3., 3.]]]])
    >>> Upsample2D((1, 2), mode="bilinear")(np.array([[[[1.0, 3.0]]]]))
    array([[[[1. , 1.5, 2.5, 3. ]]]])
    """

    traceable = True
    wants_floats = True

    def __init__(self, scale: int | tuple[int, int] = 2, mode: str = "nearest"):
        super().__init__()
        self.scale = to_tuple(scale, 2, "Upsample2D", "scale", least=1)
        if mode not in ("nearest", "bilinear"):
            raise ArgumentError(f'Upsample2D: mode must be "nearest" or "bilinear", got {mode!r}')
        self.mode = mode

    def forward(self, X: Any) -> Any:
        if X.ndim != 4 or 0 in X.shape[2:]:
            raise ShapeError(f"{self._who()}: X must have shape (n, c, h, w), got {tuple(X.shape)}")
        return upsample.upsample(X, self.scale, self.mode == "bilinear")

    def backward(self, dY: Any) -> Any:
        return upsample.upsample_backward(dY, self.scale, self.mode == "bilinear")

    def local_grad(self, X: Any) -> dict[str, Any]:
        """The sum of the weights that each number of X has in Y."""
        ones = upsample.upsample(array_namespace(X).ones_like(X), self.scale, False)
        return {"X": upsample.upsample_backward(ones, self.scale, self.mode == "bilinear")}
