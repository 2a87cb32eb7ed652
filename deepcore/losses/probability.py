"""Losses that are logarithms of probabilities: how little the output expected the target, in nats."""

from __future__ import annotations

import math
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_integer
from deepcore.errors import ShapeError
from deepcore.losses.reduced import Pointwise, finite
from deepcore.ops import pointwise
from deepcore.ops.softmax import row_major


class BCELoss(Pointwise):
    """L = mean over all elements of -w (Y log X + (1 - Y) log(1 - X)), in nats: binary cross-entropy.

    X: probabilities, 0 to 1 (outside of it L is NaN)   Y: 0 or 1, or between, floating, of X's shape
    dX = w (X - Y) / (X (1 - X)) / size

    As in torch, a logarithm counts as -100 at least, so that L stays finite, and X (1 - X) as 1e-12.
    Of a logit, BCEWithLogitsLoss gives the same with all its digits.

    weight: factors w, of a shape that broadcasts to X's, such as (c,) for (n, c).
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises ShapeError unless the shapes are equal: (n, 1) against (n,) would broadcast to (n, n).

    >>> import numpy as np
    >>> loss = BCELoss(reduction="none")
    >>> loss(np.array([0.5, 0.0]), np.array([1.0, 1.0])).round(6)
    array([  0.693147, 100.      ])
    >>> loss.backward()[:1]
    array([-2.])
    """

    def __init__(self, weight: Any = None, reduction: str = "mean"):
        super().__init__(reduction)
        self._keep("weight", weight)

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"weight": self.buffer.get("weight")}

    def _losses(self, X: Any, Y: Any) -> Any:
        return self._factors("weight", X) * pointwise.cross_entropy_of_probability(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return self._factors("weight", X) * pointwise.cross_entropy_of_probability_grad(X, Y)


class BCEWithLogitsLoss(BCELoss):
    """L = mean over all elements of -w (v Y log p + (1 - Y) log(1 - p)), in nats, where p = sigmoid(X).

    X: logits, of any shape   Y: 0 or 1, or between, floating, of X's shape
    dX = w ((1 - Y) p - v Y (1 - p)) / size, which is w (p - Y) / size for v = 1

    Computed without overflow and without the cancellation in 1 - p.

    weight: factors w, of a shape that broadcasts to X's, such as (c,) for (n, c).
    pos_weight: factors v of the positive class, likewise: above 1 for more recall, below for more precision.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises ShapeError unless the shapes are equal: (n, 1) against (n,) would broadcast to (n, n).

    >>> import numpy as np
    >>> loss = BCEWithLogitsLoss(reduction="none")
    >>> loss(np.array([0.0, -1000.0]), np.array([1.0, 1.0])).round(6)
    array([6.93147e-01, 1.00000e+03])
    >>> loss.backward()
    array([-0.5, -1. ])
    """

    def __init__(self, weight: Any = None, reduction: str = "mean", pos_weight: Any = None):
        super().__init__(weight, reduction)
        self._keep("pos_weight", pos_weight)

    def _config(self) -> dict[str, Any]:
        return super()._config() | {"pos_weight": self.buffer.get("pos_weight")}

    def _losses(self, X: Any, Y: Any) -> Any:
        w, v = self._factors("weight", X), self._factors("pos_weight", X)
        return w * pointwise.cross_entropy_of_logit(X, Y, v)

    def _slopes(self, X: Any, Y: Any) -> Any:
        w, v = self._factors("weight", X), self._factors("pos_weight", X)
        return w * pointwise.cross_entropy_of_logit_grad(X, Y, v)


class MultiLabelSoftMarginLoss(BCELoss):
    """L = mean over n of -1/c sum over c of w (Y log p + (1 - Y) log(1 - p)), where p = sigmoid(X).

    X: (n, c) or (n, ..., c) logits   Y: 0 or 1 for each of the c labels, integer or floating, of X's shape
    dX = w (p - Y) / size

    It is BCEWithLogitsLoss with a loss for each sample, so that "none" gives (n,) or (n, ...).
    weight: factors w, (c,).   reduction: "mean" over the samples, "sum", or "none" for each sample's own.

    Raises ShapeError unless the shapes are equal.

    >>> import numpy as np
    >>> loss = MultiLabelSoftMarginLoss(reduction="none")
    >>> loss(np.array([[0.0, 1000.0]]), np.array([[1.0, 1.0]])).round(6)
    array([0.346574])
    >>> loss.backward()
    array([[-0.25,  0.  ]])
    """

    def check_targets(self, Y: Any, shape: tuple[int, ...]) -> Any:
        """Y itself, if its samples have the shape of the output's, with an axis of labels."""
        if not shape:
            raise ShapeError(f"{self._who()}: X must have an axis of labels, got a single number")
        self._check_shape(Y, shape)
        return Y if is_integer(Y) else super().check_targets(Y, shape)

    def _shape_of_losses(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[:-1]

    def _beside(self, dY: Any, dX: Any) -> Any:
        return dY[..., None] if dY.ndim else dY

    def _losses(self, X: Any, Y: Any) -> Any:
        L = self._factors("weight", X) * pointwise.cross_entropy_of_logit(X, Y)
        return array_namespace(X).sum(L, axis=-1) / max(X.shape[-1], 1)

    def _slopes(self, X: Any, Y: Any) -> Any:
        slopes = pointwise.cross_entropy_of_logit_grad(X, Y)
        return self._factors("weight", X) * slopes / max(X.shape[-1], 1)


class KLDivLoss(Pointwise):
    """L = mean over all elements of Y (log Y - X): the Kullback-Leibler divergence of exp(X) from Y.

    X: log-probabilities   Y: probabilities, or their logarithms with log_target; of X's shape
    dX = -Y / size, or -e^Y / size with log_target

    0 log 0 counts as 0, also against an X of -inf.
    reduction: "mean" over all elements; "batchmean", the sum over the number of samples, which is the mean of
    their divergences; "sum"; or "none" for each element's own, in X's shape.
    Kullback and Leibler 1951.

    Raises ShapeError unless the shapes are equal.

    >>> import numpy as np
    >>> loss = KLDivLoss("batchmean")
    >>> round(float(loss(np.log([[0.5, 0.5]]), np.array([[1.0, 0.0]]))), 6)
    0.693147
    >>> loss.backward()
    array([[-1., -0.]])
    """

    _reductions = ("mean", "batchmean", "sum", "none")

    def __init__(self, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction)
        self.log_target = bool(log_target)

    def _divisor(self, shape: tuple[int, ...]) -> int:
        if self.reduction == "batchmean":
            return shape[0] if shape else 1
        return super()._divisor(shape)

    def _losses(self, X: Any, Y: Any) -> Any:
        return pointwise.divergence_from_log(X, Y) if self.log_target else pointwise.divergence(X, Y)

    def _slopes(self, X: Any, Y: Any) -> Any:
        return -(array_namespace(Y).exp(Y) if self.log_target else Y)


class PoissonNLLLoss(Pointwise):
    """L = mean over all elements of e^X - Y X: how unlikely counts Y are where e^X are expected.

    X: logarithms of the expected counts   Y: counts, floating, of X's shape   dX = (e^X - Y) / size
    log_input=False: X are the expected counts. L = X - Y log(X + eps)   dX = (1 - Y / (X + eps)) / size
    full: adds the part that X doesn't change, log Y!, by Stirling: Y log Y - Y + log(2 pi Y) / 2 where Y > 1.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.

    Raises ShapeError unless the shapes are equal, ArgumentError for an eps that is not above 0.

    >>> import numpy as np
    >>> loss = PoissonNLLLoss()
    >>> float(loss(np.array([0.0]), np.array([3.0])))
    1.0
    >>> loss.backward()
    array([-2.])
    """

    def __init__(
        self, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ):
        super().__init__(reduction)
        self.log_input = bool(log_input)
        self.full = bool(full)
        self.eps = finite(self, "eps", eps, above=0)

    def _losses(self, X: Any, Y: Any) -> Any:
        L = pointwise.poisson(X, Y, self.log_input, self.eps)
        return L + pointwise.log_factorial(Y) if self.full else L

    def _slopes(self, X: Any, Y: Any) -> Any:
        return pointwise.poisson_grad(X, Y, self.log_input, self.eps)


class GaussianNLLLoss(Pointwise):
    """L = mean over all elements of (log v + (X - Y)^2 / v) / 2: how unlikely Y is in N(X, v).

    v = max(var, eps)   X, Y: one shape
    var: variances, not negative: of X's shape, with 1 on one axis, or without the last axis
    With Z = (X - Y) / v:   dX = Z / size   dY = -Z / size   dvar = (1 / v - Z^2) / (2 size),
    summed over the axes along which var broadcasts, and where var < eps too (as torch does).

    `loss(X, Y, var)`; backward returns (dX, dY, dvar). A negative variance gives NaN.
    full: adds log(2 pi) / 2.
    reduction: "mean" over all elements, "sum", or "none" for each element's own, in X's shape.
    Nix and Weigend 1994.

    Raises ShapeError for shapes that don't fit, ArgumentError for an eps that is not above 0.

    >>> import numpy as np
    >>> loss = GaussianNLLLoss()
    >>> float(loss(np.array([[3.0]]), np.array([[1.0]]), np.array([[1.0]])))
    2.0
    >>> loss.backward()
    (array([[2.]]), array([[-2.]]), array([[-1.5]]))
    """

    traceable = True

    def __init__(self, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction)
        self.full = bool(full)
        self.eps = finite(self, "eps", eps, above=0)

    def forward(self, X: Any, Y: Any, var: Any) -> Any:
        L = pointwise.gaussian(*self._pair(X, Y), self._variances(X, var), self.eps)
        return self._reduce(L + 0.5 * math.log(2 * math.pi) if self.full else L, X)

    def backward(self, *dY: Any) -> Any:
        """(dX, dY, dvar). With reduction "none", backward(dL) weighs each element's loss by dL."""
        return tuple(self._gradients(*self._record.inputs, *dY).values())

    def local_grad(self, X: Any, Y: Any, var: Any) -> dict[str, Any]:
        return self._gradients(X, Y, var)

    def _gradients(self, X: Any, Y: Any, var: Any, dL: Any = 1) -> dict[str, Any]:
        xp = array_namespace(X)
        V = self._variances(X, var)
        Z, dV = pointwise.gaussian_grad(*self._pair(X, Y), V, self.eps)
        dL = dL / self._divisor(X.shape)
        repeated = tuple(i for i, size in enumerate(V.shape) if size == 1)
        dV = xp.reshape(xp.sum(dV * dL, axis=repeated), var.shape)
        return {
            "X": xp.asarray(Z * dL, dtype=X.dtype),
            "Y": xp.asarray(-Z * dL, dtype=X.dtype),
            "var": xp.asarray(dV, dtype=X.dtype),
        }

    def _variances(self, X: Any, var: Any) -> Any:
        """var, so that it broadcasts to X's shape."""
        wanted, shape = tuple(X.shape), tuple(var.shape)
        if wanted and shape == wanted[:-1] and shape != wanted:
            shape = (*shape, 1)
        differ = [a for a, b in zip(shape, wanted, strict=False) if a != b]
        if len(shape) != len(wanted) or differ not in ([], [1]):
            raise ShapeError(
                f"{self._who()}: var must have X's shape {wanted}, the same with 1 on one axis, "
                f"or without the last axis, got {tuple(var.shape)}"
            )
        return array_namespace(X).reshape(row_major(var), shape)
