"""Functions made of Functions."""

from __future__ import annotations

import numpy as np

import deepcore as dc
from deepcore import Add, Concat, Conv2D, Linear, MaxPool2D, Net, ReLU, Residual, Sequential, Tanh
from tests.case import Arrays, Case, distinct, normal
from tests.cases.activations import relu, sigmoid
from tests.cases.conv import conv
from tests.cases.linear import affine
from tests.cases.pool import max_pool


def nested_net() -> Net:
    block = Net([Linear(4, 4), Tanh()])
    return Net([Linear(3, 4), Residual(block), ReLU(), Net([Net([Linear(4, 2)])])])


def nested_net_formula(w: Arrays, X: np.ndarray) -> np.ndarray:
    H = affine(w, X, "layers.0.")
    H = relu(np.tanh(affine(w, H, "layers.1.f.layers.0.")) + H)
    return affine(w, H, "layers.3.layers.0.layers.0.")


def small_cnn() -> Sequential:
    return Sequential(Conv2D(1, 2, 3, padding=1), ReLU(), MaxPool2D(2), dc.Flatten(), Linear(4, 2))


def small_cnn_formula(w: Arrays, X: np.ndarray) -> np.ndarray:
    H = relu(conv(X, w["0.W"], w["0.b"], pads=((1, 1), (1, 1))))
    return affine(w, max_pool(H).reshape(len(X), -1), "4.")


def tied() -> Sequential:
    f = Sequential(Linear(3, 3), Tanh(), Linear(3, 3, bias=False))
    f[2].weight["W"] = f[0].weight["W"]
    return f


CASES = [
    Case("Sequential", lambda: Sequential(Linear(3, 4), Tanh(), Linear(4, 3)), [normal(3)],
         lambda w, X: affine(w, np.tanh(affine(w, X, "0.")), "2.")),
    Case("Sequential of nothing", Sequential, [normal(3)], lambda w, X: X),
    Case("Sequential CNN", small_cnn, [normal(1, 3, 4)], small_cnn_formula),
    Case("Sequential tied", tied, [normal(3)], lambda w, X: np.tanh(affine(w, X, "0.")) @ w["0.W"]),
    Case("Residual", lambda: Residual(Linear(3, 3)), [normal(3)], lambda w, X: affine(w, X, "f.") + X),
    Case("Residual with shortcut",
         lambda: Residual(Sequential(Linear(3, 2), Tanh()), Linear(3, 2, bias=False)), [normal(3)],
         lambda w, X: np.tanh(affine(w, X, "f.0.")) + X @ w["shortcut.W"]),
    Case("Concat", lambda: Concat(Linear(3, 2), Linear(3, 4), Tanh()), [normal(3)],
         lambda w, X: np.concatenate([affine(w, X, "0."), affine(w, X, "1."), np.tanh(X)], axis=1)),
    Case("Concat last axis", lambda: Concat(Tanh(), Linear(3, 2), axis=-1), [normal(2, 3)],
         lambda w, X: np.concatenate([np.tanh(X), affine(w, X, "1.")], axis=-1)),
    Case("Concat channels", lambda: Concat(Conv2D(2, 1, 1), MaxPool2D(3, 1, 1)), [distinct(2, 3, 2)],
         lambda w, X: np.concatenate(
             [conv(X, w["0.W"], w["0.b"]), max_pool(X, (3, 3), (1, 1), (1, 1))], axis=1)),
    Case("Add", lambda: Add(Linear(3, 2), Linear(3, 2, bias=False), Sequential(Linear(3, 2), dc.Sigmoid())),
         [normal(3)], lambda w, X: affine(w, X, "0.") + X @ w["1.W"] + sigmoid(affine(w, X, "2.0."))),
    Case("Add of one", lambda: Add(Tanh()), [normal(3)], lambda w, X: np.tanh(X)),
    Case("Net", lambda: Net([Linear(3, 4), ReLU(), Linear(4, 2)]), [normal(3)],
         lambda w, X: affine(w, relu(affine(w, X, "layers.0.")), "layers.2.")),
    Case("Net of nets", nested_net, [normal(3)], nested_net_formula),
]  # fmt: skip
