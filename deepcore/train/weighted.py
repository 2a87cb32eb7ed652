"""Weights of samples and of classes, for any loss that can give each sample's own."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_integer, to_numpy
from deepcore.core.loss import Loss
from deepcore.data.batches import beside
from deepcore.errors import ArgumentError, DTypeError, ShapeError


class WeightedLoss(Loss):
    """L = sum_i w_i L_i, divided by the number of samples if the loss itself is a mean.

    L_i: the loss of sample i   w: (n,), a factor for each   dX = w_i dL_i/dX / n
    So a weight of 2 pulls twice as hard, whatever the others of the batch weigh.
    """

    def __init__(self, loss: Loss):
        reduction = getattr(loss, "reduction", None)
        if reduction not in ("mean", "sum"):
            raise ArgumentError(f'fit: weights need a loss with reduction "mean" or "sum", got {loss!r}')
        if loss.buffer:
            raise ArgumentError(f"fit: {loss!r} has weights of its own; use either those or fit's")
        super().__init__()
        self.averages = reduction == "mean"
        self.loss: Any = copy.deepcopy(loss)
        self.loss.reduction = "none"

    def forward(self, X: Any, y: Any, w: Any) -> Any:
        L = self.loss(X, y)
        xp = array_namespace(L)
        if w.ndim < L.ndim:  # one for a sample, which has a loss for each of its places
            w = xp.reshape(w, (w.shape[0],) + (1,) * (L.ndim - 1))
        share = w / self._count(L, y) if self.averages else w
        self.cache["dL"] = share = xp.zeros_like(L) + share
        return xp.sum(share * L)

    def backward(self, *dY: Any) -> Any:
        return self.loss.backward(self.cache["dL"])

    def _count(self, L: Any, y: Any) -> Any:
        """What the mean divides by: the losses, without those of labels that are to be ignored."""
        ignored = getattr(self.loss, "ignore_index", None)
        if ignored is None or not is_integer(y):
            return max(math.prod(L.shape), 1)
        xp = array_namespace(L)
        kept = xp.sum(xp.astype(y != ignored, L.dtype))
        return xp.where(kept == 0, xp.ones_like(kept), kept)


class Weights:
    """fit's sample_weight and class_weight: a factor for each sample."""

    def __init__(self, loss: Loss, sample_weight: Any, class_weight: Any, samples: int | None):
        self.loss = WeightedLoss(loss)
        self.of_samples = None if sample_weight is None else _of_samples(sample_weight, samples)
        self.of_classes = class_weight

    def described(self) -> dict[str, Any]:
        """What tells them from others, for a checkpoint: a digest, and the classes that don't weigh 1."""
        digest = None if self.of_samples is None else hashlib.sha256(self.of_samples.tobytes()).hexdigest()
        if self.of_classes is None:
            return {"sample_weight": digest}
        table = self.of_classes
        if not isinstance(table, Mapping):
            table = dict(enumerate(_numbers("class_weight", table).ravel()))
        weights = _numbers("class_weight", list(table.values()))
        labels = [str(int(x) if isinstance(x, (int, float, np.number)) else x) for x in table]  # True, 1.0: 1
        pairs = sorted([label, float(w)] for label, w in zip(labels, weights, strict=True) if w != 1)
        return {"sample_weight": digest, "class_weight": pairs or None}

    def factors(self, out: Any, targets: Any, of_samples: Any) -> Any:
        """w: (n,), or one for each label of a sample, on the output's library.   of_samples: (n,) or None"""
        xp = array_namespace(out)
        w = None if of_samples is None else beside(out, of_samples)
        if self.of_classes is None:
            return w
        if not is_integer(targets):
            raise DTypeError("fit: class_weight needs class labels, but the targets are no integers")
        labels = xp.reshape(targets, (out.shape[0], *out.shape[2:]))  # (n, 1) are labels too
        table = beside(out, _of_classes(self.of_classes, out.shape[1]))
        flat = xp.reshape(xp.where(labels < 0, 0, labels), (-1,))  # a label to be ignored may be negative
        by_class = xp.reshape(xp.take(table, flat, axis=0), labels.shape)
        return by_class if w is None else by_class * xp.reshape(w, (w.shape[0],) + (1,) * (labels.ndim - 1))


def _of_samples(weights: Any, samples: int | None) -> np.ndarray:
    """(n,), on the host. Raises unless there is one finite number, zero or more, for each sample."""
    if samples is None:
        raise ArgumentError("fit: sample_weight needs X and y as arrays, so that each sample has its weight")
    w = _numbers("sample_weight", weights)
    if w.shape != (samples,):
        raise ShapeError(f"fit: sample_weight must have one number a sample, ({samples},), got {w.shape}")
    return w


def _of_classes(weights: Any, c: int) -> np.ndarray:
    """(c,), on the host: from an array, or from a dict label -> weight, which is 1 for all others."""
    if not isinstance(weights, Mapping):
        w = _numbers("class_weight", weights)
        if w.shape != (c,):
            raise ShapeError(f"fit: class_weight must have one number a class, ({c},), got {w.shape}")
        return w
    unknown = [label for label in weights if label not in range(c)]
    if unknown:
        raise ArgumentError(f"fit: class_weight names class {unknown[0]!r}; the classes are 0 to {c - 1}")
    w = np.ones(c, np.float32)
    w[[int(label) for label in weights]] = _numbers("class_weight", list(weights.values()))
    return w


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        w = np.asarray(to_numpy(values), np.float32)
    except (TypeError, ValueError):
        w = np.array([np.nan], np.float32)
    if not np.all(np.isfinite(w) & (w >= 0)):
        raise ArgumentError(f"fit: {name} must be finite numbers, zero or more")
    return w
