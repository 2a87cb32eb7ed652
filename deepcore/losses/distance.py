"""Losses of embeddings: things that are alike should lie close together, others far apart."""

from __future__ import annotations

from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.errors import ShapeError
from deepcore.losses.reduced import Reduced, check_signs, finite
from deepcore.ops import loss
from deepcore.ops.softmax import row_major


class _OfVectors(Reduced):
    """A loss of vectors (..., d), one number for each."""

    traceable = True

    def _shape_of_losses(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:-1]

    def _beside(self, dY: Any, dX: Any) -> Any:
        return dY[..., None] if dY.ndim else dY

    def _check_output(self, X: Any) -> None:
        if X.ndim == 0 or X.shape[-1] == 0:
            raise ShapeError(f"{self._who()}: X must be vectors (..., d), got {tuple(X.shape)}")
        super()._check_output(X)

    def _gradient(self, dX: Any, X: Any) -> Any:
        """dX over what the mean divides by, in X's dtype."""
        return array_namespace(X).asarray(dX / self._divisor(X.shape), dtype=X.dtype)


class CosineSimilarityLoss(_OfVectors):
    """L = mean over n of 1 - cos(X, Y), cos(X, Y) = X Y / (|X| |Y|) along the last axis.

    X, Y: (n, d) or (..., d)   y: (n,) or (...), -1 or +1
    With U = X / |X|:   dX = -(Y / |Y| - cos(X, Y) U) / |X| / n

    `loss(X, Y)` turns each X towards its Y, and backward gives dX.
    `loss(X, Y, y)` does so where y = 1; where y = -1 the loss is max(0, cos(X, Y) - margin), which turns them
    away from each other; both are learned, so backward gives (dX, dY). It is torch's CosineEmbeddingLoss.

    A vector of length 0 has cosine 0 to all others, and no gradient.
    margin: -1 to 1, the cosine up to which things may be alike that are not.
    reduction: "mean" over the vectors, "sum", or "none" for each one's own, (n,) or (...).

    Raises ShapeError unless the shapes are equal, LabelError naming the row and the value of a y that is
    neither -1 nor +1.

    >>> import numpy as np
    >>> loss = CosineSimilarityLoss()
    >>> float(loss(np.array([[2.0, 0.0]]), np.array([[0.0, 3.0]])))
    1.0
    >>> loss.backward()
    array([[-0. , -0.5]])
    >>> float(loss(np.array([[2.0, 0.0]]), np.array([[3.0, 0.0]]), np.array([-1])))
    1.0
    """

    traceable = True

    def __init__(self, margin: float = 0.0, reduction: str = "mean"):
        super().__init__(reduction)
        self.margin = finite(self, "margin", margin)

    def forward(self, X: Any, Y: Any, y: Any = None) -> Any:
        C, _, _ = self._cosine(X, Y, y)
        return self._reduce(self._of_signs(X, y, 1 - C, self._excess(C)), X)

    def local_grad(self, X: Any, Y: Any, y: Any = None) -> dict[str, Any]:
        xp = array_namespace(X)
        C, dA, dB = self._cosine(X, Y, y)
        slope = self._of_signs(X, y, -xp.ones_like(C), xp.astype(self._excess(C) > 0, C.dtype))[..., None]
        gradients = {"X": self._gradient(slope * dA, X)}
        return gradients if y is None else gradients | {"Y": self._gradient(slope * dB, X)}

    def _cosine(self, X: Any, Y: Any, y: Any) -> tuple[Any, Any, Any]:
        self._check_pair(X, Y)
        if y is not None:
            if tuple(y.shape) != tuple(X.shape[:-1]):
                raise ShapeError(
                    f"{self._who()}: y must have one number for each vector, {tuple(X.shape[:-1])}, "
                    f"got {tuple(y.shape)}"
                )
            check_signs(self, y)
        return loss.cosine(row_major(X), row_major(Y))

    def _excess(self, C: Any) -> Any:
        """max(0, cos - margin)"""
        return array_namespace(C).maximum(C - self.margin, 0)

    def _of_signs(self, X: Any, y: Any, alike: Any, others: Any) -> Any:
        return alike if y is None else array_namespace(X).where(y > 0, alike, others)


class TripletMarginLoss(_OfVectors):
    """L = mean over n of max(0, d(A, P) - d(A, N) + margin), d(A, B) = (sum |A - B + eps|^p)^(1/p).

    A: anchors   P: what is like them   N: what is not   all (n, d) or (..., d)
    With g(A, B) = sign D (|D| / d(A, B))^(p - 1), D = A - B + eps, the gradient of d(A, B) by A, -g by B;
    where L > 0, over n:   dA = g(A, P) - g(A, N)   dP = -g(A, P)   dN = g(A, N)

    `loss(A, P, N)`; backward returns (dA, dP, dN). Where a distance is 0 its gradient counts as 0.
    p: 1 <= p < inf, the norm.   eps: keeps a distance from 0, torch's.
    swap: uses d(P, N) for d(A, N) where that is smaller: then g(P, N) is P's, and A has none of it.
    reduction: "mean" over the triplets, "sum", or "none" for each one's own, (n,) or (...).
    Balntas et al. 2016.

    Raises ShapeError unless the three shapes are equal, ArgumentError for p below 1.

    >>> import numpy as np
    >>> loss = TripletMarginLoss(eps=0)
    >>> A, P, N = np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]]), np.array([[0.0, 5.0]])
    >>> float(loss(A, P, N))
    1.0
    >>> loss.backward()
    (array([[-0.6,  0.2]]), array([[0.6, 0.8]]), array([[ 0., -1.]]))
    """

    traceable = True

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ):
        super().__init__(reduction)
        self.margin = finite(self, "margin", margin)
        self.p = finite(self, "p", p, least=1)
        self.eps = finite(self, "eps", eps, least=0)
        self.swap = bool(swap)

    def forward(self, A: Any, P: Any, N: Any) -> Any:
        return self._reduce(self._parts(A, P, N)[0], A)

    def local_grad(self, A: Any, P: Any, N: Any) -> dict[str, Any]:
        xp = array_namespace(A)
        L, to_P, to_N, swapped, from_P = self._parts(A, P, N)
        active = xp.astype(L > 0, L.dtype)[..., None]
        to_P = active * to_P
        dN = active * xp.where(swapped, from_P, to_N)
        dP = xp.where(swapped, -to_P - dN, -to_P)
        dA = xp.where(swapped, to_P, to_P - dN)
        return {name: self._gradient(dX, A) for name, dX in (("A", dA), ("P", dP), ("N", dN))}

    def _parts(self, A: Any, P: Any, N: Any) -> tuple[Any, Any, Any, Any, Any]:
        """L; g(A, P); g(A, N); whether d(P, N) stands for d(A, N), (..., 1); g(P, N)"""
        self._check_pair(A, P)
        self._check_pair(A, N)
        xp = array_namespace(A)
        A, P, N = (row_major(X) for X in (A, P, N))
        near, to_P = loss.distance(A, P, self.p, self.eps)
        far, to_N = loss.distance(A, N, self.p, self.eps)
        swapped, from_P = xp.zeros_like(far, dtype=xp.bool), to_N
        if self.swap:
            between, from_P = loss.distance(P, N, self.p, self.eps)
            swapped = between < far
            far = xp.where(swapped, between, far)
        return xp.maximum(near - far + self.margin, 0), to_P, to_N, swapped[..., None], from_P
