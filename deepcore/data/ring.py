"""The first experiment: a disc inside a ring, which no straight line can part."""

from __future__ import annotations

import math

import numpy as np

RADIUS = 2.0  # of the ring
VARIANCE = 0.1  # of the noise, along each axis


def ring(n: int = 100, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two classes in the plane: a ring (class 0) around a disc (class 1).

    X: (2n, 2) float64   y: (2n,) int64, n of each class
    class 0: 2 d / |d| + e, with d uniform in a square around 0     class 1: e     e ~ N(0, 0.1 I)

    The directions come from a square, hence there are more of them towards its corners.

    >>> X, y = ring(n=3)
    >>> X.shape, y
    ((6, 2), array([0, 0, 0, 1, 1, 1]))
    """
    rng = np.random.default_rng(seed)
    d = rng.random((n, 2)) - 0.5
    X = np.concatenate([RADIUS * d / np.linalg.norm(d, axis=1, keepdims=True), np.zeros((n, 2))])
    X += rng.normal(0, math.sqrt(VARIANCE), X.shape)
    return X, np.repeat(np.arange(2, dtype=np.int64), n)
