"""Where batches come from, and what is known of their targets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from deepcore.backends.registry import is_array
from deepcore.data.batches import Arrays, beside, pairs
from deepcore.errors import DataError
from deepcore.ops import random


class Source:
    """Where batches come from: arrays, shuffled anew each epoch, or an iterable as it is."""

    def __init__(self, X: Any, y: Any, batch_size: int, shuffle: bool):
        self.arrays = None if y is None else Arrays(X, y)
        if self.arrays is None and (is_array(X) or not hasattr(X, "__iter__")):
            raise DataError("y is missing: pass X and y, or an iterable of pairs (X, y)")
        if self.arrays is not None and not self.arrays.n:
            raise DataError("X has no samples")
        self.stream = X
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.weights: Any = None  # (n,), one for each sample of the arrays
        self.checked = False  # whether all targets are known to be good

    @property
    def runs_once(self) -> bool:
        """Whether the stream is an iterator, which is empty when it has been run through."""
        from deepcore.data.prefetch import Prefetch

        stream = self.stream.batches if isinstance(self.stream, Prefetch) else self.stream
        return self.arrays is None and iter(stream) is stream

    @property
    def samples(self) -> int | None:
        """Samples, if they are in arrays."""
        return None if self.arrays is None else self.arrays.n

    @property
    def count(self) -> int | None:
        """Batches in an epoch, if known."""
        if self.arrays is not None:
            return math.ceil(self.arrays.n / self.batch_size)
        try:
            return len(self.stream)
        except TypeError:  # of a Prefetch too, if what it is of has no length
            return None

    def batches(self, epoch: int = 0, seed: int = 0) -> Iterator[tuple[Any, Any, Any]]:
        """(X, y, weights) of each batch of one epoch; weights are None unless given.

        Raises DataError if there is none.
        """
        if self.arrays is not None:
            order = random.permutation(self.arrays.n, seed, "shuffle", epoch) if self.shuffle else None
            weights: Iterator[Any] = itertools.repeat((None, None))
            if self.weights is not None:
                weights = Arrays(self.weights).batches(self.batch_size, order)
            for (X, y), (w, _) in zip(self.arrays.batches(self.batch_size, order), weights, strict=False):
                yield X, y, w
            return
        empty = True
        for X, y in pairs(self.stream):
            empty = False
            yield X, y, None
        if empty:
            raise DataError(
                "the iterable gave no batch; a generator can be run through once, "
                "so pass a list, or an object whose __iter__ starts anew, for several epochs"
            )

    def targets(self, loss_fn: Any, yb: Any, shape: tuple[int, ...], home: Any) -> Any:
        """The targets of a batch, checked, where the array `home` is.   shape: of the output

        Those in arrays are all checked at the first batch, on the host, before anything has changed.
        """
        if self.arrays is not None and not self.checked:
            loss_fn.check_targets(self.arrays.y, shape)
            self.checked = True
        if self.arrays is None:
            yb = loss_fn.check_targets(yb, shape)
        return beside(home, yb)
