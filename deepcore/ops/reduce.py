"""Sums that keep their accuracy.

NumPy adds along axis 0 one row after the other: over 1e6 float32 rows the error of np.mean is 1.5e-2.
"""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.ops.dispatch import op


@op
def column_sum(X: Any) -> Any:
    """Sum over the rows.   X: (n, d) -> (1, d)

    Halves are folded onto each other, so that an addition is log2(n) deep and the error stays at a
    few units in the last place, on every library and without a wider dtype.
    """
    xp = array_namespace(X)
    n = X.shape[0]
    while n > 32:
        half = n // 2
        folded = X[:half, ...] + X[half : 2 * half, ...]
        X = folded if n % 2 == 0 else xp.concat([folded, X[2 * half :, ...]], axis=0)
        n = X.shape[0]
    return xp.sum(X, axis=0, keepdims=True)
