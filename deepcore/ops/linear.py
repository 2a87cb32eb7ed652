"""The affine map and its gradients."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op
from deepcore.ops.reduce import column_sum


@op
def linear(X: Any, W: Any, b: Any = None) -> Any:
    """Y = X W + b.   X: (..., i)   W: (i, o)   b: (1, o) or None   Y: (..., o)"""
    Y = X @ W
    if b is None:
        return Y
    return Y + (b if X.ndim > 1 else b[0, ...])


@op
def linear_backward(dY: Any, X: Any, W: Any, bias: bool = True) -> tuple[Any, Any, Any]:
    """dX = dY W^T, dW = X^T dY, db = sum dY (None without bias), the last two over all rows."""
    xp = array_namespace(dY)
    i, o = W.shape
    n = math.prod(X.shape[:-1])
    dY_rows = xp.reshape(dY, (n, o))
    dX = dY @ W.T
    dW = xp.reshape(X, (n, i)).T @ dY_rows
    db = column_sum(dY_rows) if bias else None
    return dX, dW, db
