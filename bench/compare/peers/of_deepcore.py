"""deepcore: plain calls of layers and losses; net steps by net.compile(optimizer)."""

from __future__ import annotations

import deepcore as dc
from bench.compare.peers import NotThere
from bench.compare.rows import EPSILON, RATE, WEIGHT_DECAY


def _weighted(layer, **weights):
    layer.weight.update(weights)
    return layer


def _there_and_back(f, X, dY):
    """f(X), then f.backward(dY); Y, dX and the gradients of f's weights come back."""

    def call():
        Y = f(X)
        return Y, f.backward(dY)

    weights = f.weight if isinstance(f, dc.Layer) else ()
    return call, lambda result: [x for x in result if x is not None] + [f.weight_update[w] for w in weights]


def _step(layers, X, y):
    net = dc.Net(layers, dc.CrossEntropyLoss())
    before = {path: W.copy() for path, W in net.parameters().items()}
    step = net.compile(dc.optim.SGD(lr=RATE))
    return lambda: step(X, y), lambda L: [
        L,
        *((before[path] - W) / RATE for path, W in net.parameters().items()),
    ]


class Peer:
    def cross_entropy(self, X, y):
        loss = dc.CrossEntropyLoss()

        def call():
            L = loss(X, y)
            return L, loss.backward()

        return call, list

    def linear(self, X, W, b, dY):
        return _there_and_back(_weighted(dc.Linear(*W.shape), W=W, b=b), X, dY)

    def mlp(self, X, y, weights):
        layers = []
        for W, b in zip(weights[::2], weights[1::2], strict=True):
            layers += [_weighted(dc.Linear(*W.shape), W=W, b=b), dc.ReLU()]
        return _step(layers[:-1], X, y)

    def cnn(self, X, y, weights):
        layers = []
        for k in (0, 4):
            W, b, gamma, beta = weights[k : k + 4]
            f, c = W.shape[:2]
            layers += [_weighted(dc.Conv2D(c, f, 3, padding=1), W=W, b=b), dc.MaxPool2D(2), dc.ReLU()]
            layers.append(_weighted(dc.BatchNorm2D(f), gamma=gamma, beta=beta))
        W, b = weights[8:]
        return _step([*layers, dc.Flatten(), _weighted(dc.Linear(*W.shape), W=W, b=b)], X, y)

    def conv(self, X, W, b, dY, padding, stride, precision="float32"):
        if precision != "float32":
            _set_precision(precision)
        f, c, k, _ = W.shape
        return _there_and_back(_weighted(dc.Conv2D(c, f, k, stride, padding), W=W, b=b), X, dY)

    def layer_norm(self, X, gamma, beta, dY):
        layer = dc.LayerNorm(X.shape[1], EPSILON)
        return _there_and_back(_weighted(layer, gamma=gamma, beta=beta), X, dY)

    def batch_norm(self, X, gamma, beta, dY):
        layer = dc.BatchNorm2D(X.shape[1], EPSILON)
        return _there_and_back(_weighted(layer, gamma=gamma, beta=beta), X, dY)

    def gelu(self, X, dY):
        return _there_and_back(dc.GELU(), X, dY)

    def adamw(self, W, dW):
        layer = _weighted(dc.Linear(*W.shape, bias=False), W=W)
        net, optimizer = dc.Net([layer]), dc.optim.AdamW(RATE, weight_decay=WEIGHT_DECAY)

        def call():
            layer.weight_update["W"] = dW
            optimizer.step(net)

        return call, lambda _: [(W - layer.weight["W"]) / RATE]

    def embedding(self, X, W, dY):
        return _there_and_back(_weighted(dc.Embedding(*W.shape), W=W), X, dY)

    def lstm(self, X, W_ih, W_hh, b_ih, b_hh, dY):
        weights = {"W_ih_l0": W_ih, "W_hh_l0": W_hh, "b_ih_l0": b_ih, "b_hh_l0": b_hh}
        return _there_and_back(_weighted(dc.LSTM(W_ih.shape[0], W_hh.shape[0]), **weights), X, dY)


def _set_precision(word):
    """For the rest of this process."""
    from deepcore.backends import select

    precision = getattr(select, "precision", None)
    if precision is None:
        raise NotThere("no precision outside fit yet")
    precision.set(word)
