"""Functions that only give an array another shape."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.errors import ShapeError


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
