"""Cross-entropy on CuPy: loss and gradient in one pass over the logits, with nothing read by the host."""

from __future__ import annotations

from typing import Any

import cupy

from deepcore.backends.cupy.kernels import NULL, aligned, kernel, row_launch, serves
from deepcore.backends.cupy.labels import NO_LABEL, ONE_BLOCK


def cross_entropy(
    X: Any,
    y: Any,
    weight: Any = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    gradient: bool = True,
) -> tuple[Any, Any]:
    """L = -log softmax(X)[y] and dX, for labels; with probabilities the reference runs."""
    if y.ndim != 1 or not serves(X, X.shape[1]):
        return NotImplemented
    n, C = X.shape
    X = aligned(X)
    y = cupy.ascontiguousarray(y, cupy.int64)
    w = NULL if weight is None else cupy.ascontiguousarray(weight, X.dtype)
    ignored = NO_LABEL if ignore_index is None else ignore_index
    mean = int(reduction == "mean")

    def launch(name: str, grid_and_block: Any, *arguments: Any) -> None:
        kernel("loss", name, X.dtype)(*grid_and_block, arguments)

    sums = cupy.empty(2, cupy.float64)  # the weights of the labels that count, those of all classes
    launch("label_weights", ONE_BLOCK, y, w, sums, n, C, ignored)
    dX = cupy.empty_like(X) if gradient else None
    L = cupy.empty(n, cupy.promote_types(X.dtype, cupy.float32))
    launch(
        "cross_entropy",
        row_launch(n, C, X.itemsize),
        *(X, y, w, sums, NULL if dX is None else dX, L),
        *(n, C, ignored, float(label_smoothing), mean),
    )
    if reduction == "none":
        return L.astype(X.dtype, copy=False), dX
    total = cupy.empty((), X.dtype)
    launch("sum_losses", ONE_BLOCK, L, sums, total, n, mean)
    return total, dX
