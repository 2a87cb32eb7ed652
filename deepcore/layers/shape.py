"""Functions that only give an array another shape."""

from __future__ import annotations

import math
import operator
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.errors import ArgumentError, ShapeError


class Flatten(Function):
    """Each sample becomes one row.   X: (n, ...) -> Y: (n, d).   dX is dY in X's shape.

    >>> import numpy as np
    >>> Flatten()(np.zeros((5, 1, 28, 28))).shape
    (5, 784)
    """

    traceable = True

    def forward(self, X: Any) -> Any:
        if X.ndim == 0:
            raise ShapeError(f"{self}: X must have an axis of samples, got a single number")
        self.cache["shape"] = X.shape
        return array_namespace(X).reshape(X, (X.shape[0], math.prod(X.shape[1:])))

    def backward(self, dY: Any) -> Any:
        return array_namespace(dY).reshape(dY, self.cache["shape"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        """Ones: every number passes unchanged."""
        return {"X": array_namespace(X).ones_like(X)}


class Reshape(Function):
    """Each sample gets another shape.   X: (n, ...) -> Y: (n, *shape).   dX is dY in X's shape.

    shape: without the samples' axis; one of its numbers may be -1, which stands for what is left over.
    Raises ShapeError if a sample of X has not as many numbers, ArgumentError for a shape that is none.

    >>> import numpy as np
    >>> Reshape(3, -1)(np.zeros((5, 12))).shape
    (5, 3, 4)
    """

    traceable = True

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = _whole_numbers(shape)
        if self.shape is None or self.shape.count(-1) > 1 or any(n < 1 and n != -1 for n in self.shape):
            raise ArgumentError(
                f"Reshape: the shape must be whole numbers, 1 or more, one of which may be -1, got {shape}"
            )

    def __repr__(self) -> str:
        return f"Reshape({', '.join(map(str, self.shape))})"

    def forward(self, X: Any) -> Any:
        known = math.prod(n for n in self.shape if n != -1)
        size = math.prod(X.shape[1:])
        if X.ndim == 0 or (size % known if -1 in self.shape else size != known):
            wanted = f"a multiple of {known}" if -1 in self.shape else known
            raise ShapeError(
                f"{self._who()}: each sample of X must have {wanted} numbers, got {tuple(X.shape)}"
            )
        self.cache["shape"] = X.shape
        shape = (size // known if n == -1 else n for n in self.shape)
        return array_namespace(X).reshape(X, (X.shape[0], *shape))

    def backward(self, dY: Any) -> Any:
        return array_namespace(dY).reshape(dY, self.cache["shape"])

    def local_grad(self, X: Any) -> dict[str, Any]:
        """Ones: every number passes unchanged."""
        return {"X": array_namespace(X).ones_like(X)}


class Permute(Function):
    """The axes of each sample in another order: axis i of Y is axis axes[i] of X.   dX has them back.

    axes: 1, 2, ... in their new order, counted with axis 0, the samples, which stays where it is:
    Permute(2, 3, 1) makes (n, h, w, c) of (n, c, h, w). Permute(0, 2, 3, 1) is the same.
    Raises ArgumentError if the axes are no such order, ShapeError if X has another number of them.

    >>> import numpy as np
    >>> Permute(2, 3, 1)(np.zeros((5, 3, 28, 32))).shape
    (5, 28, 32, 3)
    """

    traceable = True

    def __init__(self, *axes: int):
        super().__init__()
        order = _whole_numbers(axes) or ()
        self.axes = order[1:] if order[:1] == (0,) else order
        if not order or sorted(self.axes) != list(range(1, len(self.axes) + 1)):
            raise ArgumentError(
                "Permute: the axes must be 1, 2, ... in their new order, "
                f"and 0, the samples, first or left out; got {axes}"
            )

    def __repr__(self) -> str:
        return f"Permute({', '.join(map(str, self.axes))})"

    def forward(self, X: Any) -> Any:
        if X.ndim != len(self.axes) + 1:
            raise ShapeError(f"{self._who()}: X must have {len(self.axes) + 1} axes, got {tuple(X.shape)}")
        return array_namespace(X).permute_dims(X, (0, *self.axes))

    def backward(self, dY: Any) -> Any:
        back = tuple(self.axes.index(i) + 1 for i in range(1, len(self.axes) + 1))
        return array_namespace(dY).permute_dims(dY, (0, *back))

    def local_grad(self, X: Any) -> dict[str, Any]:
        """Ones: every number passes unchanged."""
        return {"X": array_namespace(X).ones_like(X)}


def _whole_numbers(numbers: tuple[Any, ...]) -> Any:
    """f(2, 3) and f((2, 3)) mean the same. None if there is anything but whole numbers."""
    if len(numbers) == 1 and isinstance(numbers[0], tuple | list):
        numbers = tuple(numbers[0])
    try:
        return tuple(operator.index(n) for n in numbers)
    except TypeError:
        return None
