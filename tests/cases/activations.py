"""Activations, and softmax."""

import math

import numpy as np

import deepcore as dc
from deepcore import ReLU, Tanh
from tests.case import Case, normal, off_zero, row, single, unbatched


def relu(X):
    return np.where(np.isnan(X), X, np.where(X > 0, X, 0.0))


def sigmoid(X):
    return np.where(X < 0, np.exp(np.minimum(X, 0)), 1) / (1 + np.exp(-np.abs(X)))


def softmax(X, axis=-1):
    E = np.exp(X - X.max(axis=axis, keepdims=True))
    return E / E.sum(axis=axis, keepdims=True)


def log_softmax(X, axis=-1):
    D = X - X.max(axis=axis, keepdims=True)
    return D - np.log(np.exp(D).sum(axis=axis, keepdims=True))


def gate(X, axis=-1):
    A, B = np.split(X, 2, axis=axis)
    return A * sigmoid(B)


def elu(X, alpha=1.0):
    return np.where(X > 0, X, alpha * (np.exp(X) - 1))


def selu(X):
    return 1.0507009873554804934193349852946 * elu(X, 1.6732632423543772848170429916717)


def prelu(X, alpha):
    return np.where(X > 0, X, X * alpha.reshape(-1, *[1] * (X.ndim - 2)))


def mish(X):
    return X * np.tanh(np.log1p(np.exp(X)))


def softplus(X, beta=1.0, threshold=20.0):
    return np.where(beta * X > threshold, X, np.log1p(np.exp(beta * X)) / beta)


def log_sigmoid(X):
    return np.where(X < 0, X - np.log1p(np.exp(X)), -np.log1p(np.exp(-X)))


def gelu(X):
    return X * np.vectorize(math.erfc, otypes=[float])(-X / math.sqrt(2)) / 2


def gelu_tanh(X):
    return 0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3)))


def hard(X, low, high):
    return np.where(low > X, low, np.where(high < X, high, X))


def shrink(X, lambd):
    return np.where(lambd < X, X - lambd, np.where(-lambd > X, X + lambd, 0 * X))


def between(*kinks, reach=4.5):
    """(n, 3, 4) numbers up to 4.5 in size, but none near a kink."""

    def draw(random, n):
        X = random.uniform(-reach, reach, (n, 3, 4))
        for kink in kinks:
            X = np.where(abs(X - kink) < 0.1, X + 0.2, X)
        return single(X)

    return draw


def smooth(name, make, reference, inputs=None):
    inputs = inputs or between()
    return Case(name, make, [inputs], lambda w, X: reference(X), elementwise=True)


def at_kinks(name, make, numbers, reference, slopes):
    return Case(f"{name} at its kinks", make, [row(*numbers)], lambda w, X: reference(X),
                gradient=lambda w, dY, X: dY * slopes)  # fmt: skip


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
    Case("Softmin", dc.Softmin, [normal(4)], lambda w, X: softmax(-X)),
    Case("Softmin axis 1", lambda: dc.Softmin(axis=1), [normal(3, 2)], lambda w, X: softmax(-X, 1)),
    Case("LogSoftmax", dc.LogSoftmax, [normal(4)], lambda w, X: log_softmax(X)),
    Case("LogSoftmax axis 0", lambda: dc.LogSoftmax(axis=0), [normal(4)], lambda w, X: log_softmax(X, 0),
         mixes=True),
    Case("LogSoftmax axis 1", lambda: dc.LogSoftmax(1), [normal(4, 2, 3)], lambda w, X: log_softmax(X, 1)),
    Case("GLU", dc.GLU, [normal(6)], lambda w, X: gate(X)),
    Case("GLU axis 1", lambda: dc.GLU(axis=1), [normal(4, 3, 2)], lambda w, X: gate(X, 1)),
    Case("GLU axis -2", lambda: dc.GLU(-2), [normal(2, 3)], lambda w, X: gate(X, -2)),
    Case("GLU 1-D", dc.GLU, [unbatched(4)], lambda w, x: gate(x), batched=False),
    Case("PReLU", dc.PReLU, [off_zero(2, 3)], lambda w, X: prelu(X, w["alpha"])),
    Case("PReLU of 3 channels", lambda: dc.PReLU(3), [off_zero(3, 2, 2)], lambda w, X: prelu(X, w["alpha"])),
    Case("PReLU of rows", lambda: dc.PReLU(4, init=0.1), [off_zero(4)], lambda w, X: prelu(X, w["alpha"])),
    Case("PReLU 1-D", dc.PReLU, [unbatched(5)], lambda w, x: np.where(x > 0, x, w["alpha"] * x),
         batched=False),
    smooth("ReLU6", dc.ReLU6, lambda X: hard(X, 0, 6), between(0, 6, reach=8)),
    at_kinks("ReLU6", dc.ReLU6, (0, 6, 3), lambda X: hard(X, 0, 6), (0, 0, 1)),
    smooth("HardTanh", dc.HardTanh, lambda X: hard(X, -1, 1), between(-1, 1)),
    smooth("HardTanh of a range", lambda: dc.HardTanh(-2, 0.5), lambda X: hard(X, -2, 0.5), between(-2, 0.5)),
    at_kinks("HardTanh", dc.HardTanh, (-1, 1, 0), lambda X: hard(X, -1, 1), (0, 0, 1)),
    smooth("HardSigmoid", dc.HardSigmoid, lambda X: hard(X / 6 + 0.5, 0, 1), between(-3, 3)),
    at_kinks("HardSigmoid", dc.HardSigmoid, (-3, 3, 0), lambda X: hard(X / 6 + 0.5, 0, 1), (0, 0, 1 / 6)),
    smooth("HardSwish", dc.HardSwish, lambda X: X * hard(X / 6 + 0.5, 0, 1), between(-3, 3)),
    at_kinks("HardSwish", dc.HardSwish, (-3, 3, 0), lambda X: X * hard(X / 6 + 0.5, 0, 1), (0, 1, 0.5)),
    smooth("Threshold", lambda: dc.Threshold(0.5, -2), lambda X: np.where(X <= 0.5, -2, X), between(0.5)),
    at_kinks("Threshold", lambda: dc.Threshold(1, 5), (1, 2, 0), lambda X: np.where(X <= 1, 5, X), (0, 1, 0)),
    smooth("HardShrink", dc.HardShrink, lambda X: np.where(abs(X) <= 0.5, 0, X), between(-0.5, 0.5)),
    smooth("HardShrink lambd=0", lambda: dc.HardShrink(0), lambda X: X, between(0)),
    at_kinks("HardShrink", dc.HardShrink, (-0.5, 0.5, 1), lambda X: np.where(abs(X) <= 0.5, 0, X), (0, 0, 1)),
    smooth("SoftShrink", dc.SoftShrink, lambda X: shrink(X, 0.5), between(-0.5, 0.5)),
    smooth("SoftShrink lambd=2", lambda: dc.SoftShrink(2), lambda X: shrink(X, 2), between(-2, 2)),
    at_kinks("SoftShrink", dc.SoftShrink, (-0.5, 0.5, 1), lambda X: shrink(X, 0.5), (0, 0, 1)),
    smooth("TanhShrink", dc.TanhShrink, lambda X: X - np.tanh(X)),
    smooth("Softsign", dc.Softsign, lambda X: X / (1 + abs(X))),
    smooth("ELU", dc.ELU, elu, between(0)),
    smooth("ELU alpha=0.4", lambda: dc.ELU(0.4), lambda X: elu(X, 0.4), between(0)),
    at_kinks("ELU", lambda: dc.ELU(2), (0, -0.0, 1), lambda X: elu(X, 2), (2, 2, 1)),
    smooth("CELU", dc.CELU, elu, between(0)),
    smooth("CELU alpha=2.5", lambda: dc.CELU(2.5), lambda X: 2.5 * elu(X / 2.5), between(0)),
    smooth("CELU alpha=0.25", lambda: dc.CELU(0.25), lambda X: 0.25 * elu(X / 0.25), between(0)),
    smooth("SELU", dc.SELU, selu, between(0)),
    smooth("Softplus", dc.Softplus, softplus),
    smooth("Softplus beta=3", lambda: dc.Softplus(3), lambda X: softplus(X, 3)),
    smooth("Softplus threshold", lambda: dc.Softplus(0.5, 1), lambda X: softplus(X, 0.5, 1), between(2)),
    smooth("LogSigmoid", dc.LogSigmoid, log_sigmoid),
    smooth("SiLU", dc.SiLU, lambda X: X * sigmoid(X)),
    smooth("Mish", dc.Mish, mish),
    smooth("GELU", dc.GELU, gelu),
    smooth("GELU tanh", lambda: dc.GELU(approximate="tanh"), gelu_tanh),
]  # fmt: skip
