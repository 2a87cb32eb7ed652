"""Activations, and softmax."""

import numpy as np

import deepcore as dc
from deepcore import ReLU, Tanh
from tests.case import Case, normal, off_zero, row, unbatched


def relu(X):
    return np.where(np.isnan(X), X, np.where(X > 0, X, 0.0))


def sigmoid(X):
    return np.where(X < 0, np.exp(np.minimum(X, 0)), 1) / (1 + np.exp(-np.abs(X)))


def softmax(X, axis=-1):
    E = np.exp(X - X.max(axis=axis, keepdims=True))
    return E / E.sum(axis=axis, keepdims=True)


CASES = [
    Case("ReLU", ReLU, [off_zero(2, 3)], lambda w, X: relu(X), elementwise=True),
    Case("ReLU at 0", ReLU, [row(-1, -0.0, 0, 2)], lambda w, X: relu(X),
         gradient=lambda w, dY, X: dY * (X > 0)),
    Case("LeakyReLU", dc.LeakyReLU, [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 0.01 * X), elementwise=True),
    Case("LeakyReLU at 0", lambda: dc.LeakyReLU(0.2), [row(-1, -0.0, 0, 2)],
         lambda w, X: np.where(X > 0, X, 0.2 * X), gradient=lambda w, dY, X: dY * np.where(X > 0, 1, 0.2)),
    Case("LeakyReLU alpha=0", lambda: dc.LeakyReLU(0.0), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 0 * X), elementwise=True),
    Case("LeakyReLU alpha=-0.5", lambda: dc.LeakyReLU(-0.5), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, -0.5 * X), elementwise=True),
    Case("LeakyReLU alpha=3", lambda: dc.LeakyReLU(3), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 3 * X), elementwise=True),
    Case("Sigmoid", dc.Sigmoid, [normal(2, 3)], lambda w, X: sigmoid(X), elementwise=True),
    Case("Tanh", Tanh, [normal(2, 3)], lambda w, X: np.tanh(X), elementwise=True),
    Case("Softmax", dc.Softmax, [normal(4)], lambda w, X: softmax(X)),
    Case("Softmax axis 0", lambda: dc.Softmax(axis=0), [normal(4)], lambda w, X: softmax(X, 0), mixes=True),
    Case("Softmax axis 1", lambda: dc.Softmax(axis=1), [normal(4, 2, 3)], lambda w, X: softmax(X, 1)),
    Case("Softmax axis -2", lambda: dc.Softmax(axis=-2), [normal(3, 2)], lambda w, X: softmax(X, -2)),
    Case("Softmax of one class", dc.Softmax, [normal(1)], lambda w, X: np.where(np.isfinite(X), 1.0, np.nan)),
    Case("Softmax 1-D", dc.Softmax, [unbatched(5)], lambda w, x: softmax(x), batched=False),
]  # fmt: skip
