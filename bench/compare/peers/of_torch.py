"""torch: functional layers and autograd, nets by loss.backward() and torch.optim.

Eager, or the forward pass through torch.compile. AdamW is the fused one, far faster than the default.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from bench.compare.rows import EPSILON, RATE, WEIGHT_DECAY


def _tensors(*arrays):
    return [torch.from_numpy(x) for x in arrays]


def _numpy(tensors):
    return [x.detach().numpy() for x in tensors]


def _leaf(x):
    return x.clone().contiguous().requires_grad_()


class Peer:
    def __init__(self, compiled):
        torch.set_num_threads(2)
        self.compile = torch.compile if compiled else lambda f: f

    def _there_and_back(self, f, leaves, dY):
        """f(*leaves), then all their gradients."""
        f = self.compile(f)

        def call():
            Y = f(*leaves)
            return Y, *torch.autograd.grad(Y, leaves, dY)

        return call

    def _step(self, loss_of, weights, X, y):
        loss_of = self.compile(loss_of)
        optimizer = torch.optim.SGD(weights, lr=RATE)
        before = [W.detach().clone() for W in weights]

        def call():
            optimizer.zero_grad()
            L = loss_of(X, y)
            L.backward()
            optimizer.step()
            return L

        return call, lambda L: _numpy([L, *((a - b) / RATE for a, b in zip(before, weights, strict=True))])

    def cross_entropy(self, X, y):
        X, y = _tensors(X, y)
        X.requires_grad_()
        loss_of = self.compile(F.cross_entropy)

        def call():
            L = loss_of(X, y)
            return L, *torch.autograd.grad(L, X)

        return call, _numpy

    def linear(self, X, W, b, dY):
        X, W, b, dY = _tensors(X, W, b, dY)
        call = self._there_and_back(F.linear, [_leaf(X), _leaf(W.T), _leaf(b[0])], dY)

        def read(result):
            Y, dX, dW, db = _numpy(result)
            return [Y, dX, dW.T, db[None]]

        return call, read

    def mlp(self, X, y, weights):
        X, y = _tensors(X, y)
        weights = _tensors(*weights)
        layers = []
        for W, b in zip(weights[::2], weights[1::2], strict=True):
            layers += [_linear(W, b), torch.nn.ReLU()]
        net = torch.nn.Sequential(*layers[:-1])
        call, read = self._step(lambda X, y: F.cross_entropy(net(X), y), list(net.parameters()), X, y)
        return call, lambda L: _in_our_shapes(read(L), weights)

    def cnn(self, X, y, weights):
        X, y = _tensors(X, y)
        weights = _tensors(*weights)
        layers = []
        for k in (0, 4):
            W, b = weights[k : k + 2]
            f, c = W.shape[:2]
            layer = torch.nn.Conv2d(c, f, 3, padding=1)
            with torch.no_grad():
                layer.weight.copy_(W)
                layer.bias.copy_(b.ravel())
            layers += [layer, torch.nn.MaxPool2d(2), torch.nn.ReLU(), torch.nn.BatchNorm2d(f)]
        net = torch.nn.Sequential(*layers, torch.nn.Flatten(), _linear(*weights[8:]))
        call, read = self._step(lambda X, y: F.cross_entropy(net(X), y), list(net.parameters()), X, y)
        return call, lambda L: _in_our_shapes(read(L), weights)

    def conv(self, X, W, b, dY, padding, stride):
        X, W, b, dY = _tensors(X, W, b, dY)
        call = self._there_and_back(
            lambda X, W, b: F.conv2d(X, W, b, stride, padding), [_leaf(X), _leaf(W), _leaf(b.ravel())], dY
        )

        def read(result):
            Y, dX, dW, db = _numpy(result)
            return [Y, dX, dW, db.reshape(b.shape)]

        return call, read

    def layer_norm(self, X, gamma, beta, dY):
        X, gamma, beta, dY = _tensors(X, gamma, beta, dY)
        leaves = [_leaf(X), _leaf(gamma), _leaf(beta)]
        return self._there_and_back(
            lambda X, g, b: F.layer_norm(X, g.shape, g, b, EPSILON), leaves, dY
        ), _numpy

    def batch_norm(self, X, gamma, beta, dY):
        X, gamma, beta, dY = _tensors(X, gamma, beta, dY)
        mean, var = torch.zeros(gamma.numel()), torch.ones(gamma.numel())

        def f(X, g, b):
            return F.batch_norm(X, mean, var, g, b, training=True, momentum=0.1, eps=EPSILON)

        call = self._there_and_back(f, [_leaf(X), _leaf(gamma.ravel()), _leaf(beta.ravel())], dY)
        return call, lambda result: _in_our_shapes(_numpy(result), [X, gamma, beta])

    def gelu(self, X, dY):
        X, dY = _tensors(X, dY)
        return self._there_and_back(F.gelu, [_leaf(X)], dY), _numpy

    def adamw(self, W, dW):
        W, dW = _tensors(W, dW)
        leaf = _leaf(W)
        leaf.grad = dW
        optimizer = torch.optim.AdamW([leaf], RATE, weight_decay=WEIGHT_DECAY, fused=True)
        return self.compile(optimizer.step), lambda _: _numpy([(W - leaf) / RATE])

    def embedding(self, X, W, dY):
        X, W, dY = _tensors(X, W, dY)
        return self._there_and_back(lambda W: F.embedding(X, W), [_leaf(W)], dY), _numpy

    def lstm(self, X, W_ih, W_hh, b_ih, b_hh, dY):
        X, W_ih, W_hh, b_ih, b_hh, dY = _tensors(X, W_ih, W_hh, b_ih, b_hh, dY)
        layer = torch.nn.LSTM(len(W_ih), len(W_hh), batch_first=True)
        weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
        with torch.no_grad():
            for weight, value in zip(weights, (W_ih.T, W_hh.T, b_ih[0], b_hh[0]), strict=True):
                weight.copy_(value)
        X.requires_grad_()
        forward = self.compile(layer)

        def call():
            Y, _ = forward(X)
            return Y, *torch.autograd.grad(Y, [X, *weights], dY)

        def read(result):
            Y, dX, dW_ih, dW_hh, db_ih, db_hh = _numpy(result)
            return [Y, dX, dW_ih.T, dW_hh.T, db_ih[None], db_hh[None]]

        return call, read


def _linear(W, b):
    layer = torch.nn.Linear(*W.shape)
    with torch.no_grad():
        layer.weight.copy_(W.T)
        layer.bias.copy_(b[0])
    return layer


def _in_our_shapes(results, weights):
    """The first result as it is; the gradients as our weights lie: torch's matrices are ours transposed."""
    first, *gradients = results
    turned = [d.T if d.ndim == 2 else d for d in gradients]
    return [first, *(d.reshape(W.shape) for d, W in zip(turned, weights, strict=True))]
