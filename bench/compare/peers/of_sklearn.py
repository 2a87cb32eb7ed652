"""scikit-learn: MLPClassifier.partial_fit on one batch, which is one step of SGD."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier

from bench.compare.peers import NotThere
from bench.compare.rows import RATE


class Peer:
    def mlp(self, X, y, weights):
        classes = weights[-1].shape[1]
        if classes == 2:
            raise NotThere("another net: two classes have one output")
        net = MLPClassifier(
            [b.shape[1] for b in weights[1:-1:2]],
            solver="sgd",
            alpha=0,
            batch_size=len(X),
            learning_rate_init=RATE,
            momentum=0,
            shuffle=False,
        )
        net.partial_fit(X, y, classes=np.arange(classes))
        net.coefs_[:] = [W.copy() for W in weights[::2]]
        net.intercepts_[:] = [b[0].copy() for b in weights[1::2]]

        def read(_):
            after = [x for pair in zip(net.coefs_, net.intercepts_, strict=True) for x in pair]
            moved = [(a - b.reshape(a.shape)) / RATE for a, b in zip(weights, after, strict=True)]
            return [np.asarray(net.loss_), *moved]

        return lambda: net.partial_fit(X, y), read
