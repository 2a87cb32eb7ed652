"""Means over the samples of an epoch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_floating, to_numpy
from deepcore.data.batches import take_rows
from deepcore.train.metrics import default_metrics, one_number


class Tally:
    """Means over the samples of an epoch. They stay on the device until they are asked for."""

    def __init__(self, metrics: dict[str, Any] | None, loss_fn: Any, exact: bool = False):
        self.metrics = metrics  # by name; None: those that suit the first batch
        self.divisor = loss_fn.divisor if exact else None  # else a batch counts by its samples, which is fast
        self.ignored = getattr(loss_fn, "ignore_index", None)
        self.adds = getattr(loss_fn, "reduction", "mean") == "sum"
        self.sums: dict[str, Any] = {}
        self.counts: dict[str, Any] = {}

    def add(self, out: Any, targets: Any, loss: Any) -> None:
        labels = not is_floating(targets)
        if self.metrics is None:
            self.metrics = default_metrics(out, targets)
        n = out.shape[0] if not isinstance(out, tuple) else out[0].shape[0]
        self.add_loss(loss, n if self.divisor is None else self.divisor(targets, n))
        if self.metrics and labels and self.ignored is not None:
            out, targets, n = self._without_ignored(out, targets, n)
        for name, metric in self.metrics.items():
            if n:
                self._add(name, one_number(name, metric(out, targets)), n)

    def add_loss(self, loss: Any, n: Any) -> None:
        """The loss of n samples, or each sample's own. n may be a 0-d array, if their weights are counted."""
        if getattr(loss, "ndim", 0):
            self._add("loss", array_namespace(loss).mean(loss), n)
        else:
            self._add("loss", loss, 1 if self.adds else n)

    def _without_ignored(self, out: Any, y: Any, n: int) -> tuple[Any, Any, int]:
        """The samples whose label counts: metrics, like the loss, leave the others out."""
        if y.ndim > 1 and math.prod(y.shape) != n:  # a label for each place of an image
            return out, y, n
        y = array_namespace(y).reshape(y, (n,))
        kept = to_numpy(y) != self.ignored
        if kept.all():
            return out, y, n
        rows = np.flatnonzero(kept)
        return take_rows(out, rows), take_rows(y, rows), len(rows)

    def _add(self, name: str, mean: Any, n: Any) -> None:
        self.sums[name] = mean * n + self.sums[name] if name in self.sums else mean * n
        self.counts[name] = self.counts.get(name, 0) + n

    def means(self) -> dict[str, float]:
        """By name. The loss of a reduction "sum" is the sum over all samples."""
        return {
            name: float(to_numpy(total)) / (1 if self.adds and name == "loss" else self._count(name))
            for name, total in self.sums.items()
        }

    def _count(self, name: str) -> float:
        """What a sum is divided by; 1 where nothing counts, so that the mean is 0."""
        return float(to_numpy(self.counts[name])) or 1.0
