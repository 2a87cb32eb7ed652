"""The rows of the table: what is timed, what must come out, and how fast the machine could do it.

The result of each is written here a second time, in float64 and in plain NumPy. Two threads for everybody.
A net's step is judged by its loss and by its gradients, which are how far the weights moved, by the rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RATE = 0.1  # of the SGD in all nets' steps, and of AdamW
EPSILON = 1e-5  # of all norms
WEIGHT_DECAY = 0.01
_OF_A_STEP = 1e-2  # a weight's move is read off two float32 weights, and a ReLU may fall on either side of 0


@dataclass(frozen=True)
class Row:
    """One line of the table.

    kind: the name of the peers' methods   draw: the arguments of these
    wanted: from the same arguments in float64 to the arrays of the result
    flops: of the matrix products   nbytes: that must be read and written at least
    goals: "torch", "jax" or "best" of both -> peer's time / ours that is aimed at, (NumPy alone, with [fast])
    """

    title: str
    kind: str
    draw: Callable[[], dict[str, Any]]
    wanted: Callable[..., list[np.ndarray]]
    flops: float
    nbytes: float
    goals: dict[str, tuple[float | None, float | None]]
    tolerance: float = 1e-5  # of the largest value: float32 with room to add in any order
    settings: dict[str, Any] = field(default_factory=dict)  # of ours alone: not of the formula, nor of others

    def result(self, arguments: dict[str, Any]) -> list[np.ndarray]:
        return self.wanted(**{name: _widened(x) for name, x in arguments.items()})


def _widened(x: Any) -> Any:
    if isinstance(x, list):
        return [_widened(part) for part in x]
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def _normal(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng([seed, *shape]).standard_normal(shape, np.float32)


def _labels(n: int, classes: int) -> np.ndarray:
    return np.random.default_rng([7, n]).integers(0, classes, n)


# ---- formulas, in float64


def cross_entropy(X: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    D = X - X.max(axis=1, keepdims=True)
    S = np.exp(D).sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    dX = np.exp(D) / S
    dX[rows, y] -= 1
    return [(np.log(S[:, 0]) - D[rows, y]).mean(), dX / len(y)]


def linear(X: np.ndarray, W: np.ndarray, b: np.ndarray, dY: np.ndarray) -> list[np.ndarray]:
    return [X @ W + b, dY @ W.T, X.T @ dY, dY.sum(axis=0, keepdims=True)]


def mlp(X: np.ndarray, y: np.ndarray, weights: list[np.ndarray]) -> list[np.ndarray]:
    inputs, last = [X], len(weights) - 2
    for k in range(0, len(weights), 2):
        H = inputs[-1] @ weights[k] + weights[k + 1]
        inputs.append(np.maximum(H, 0) if k < last else H)
    L, dH = cross_entropy(inputs.pop(), y)
    gradients: list[np.ndarray] = []
    for k in range(last, -1, -2):
        A = inputs.pop()
        gradients = [A.T @ dH, dH.sum(axis=0, keepdims=True), *gradients]
        dH = dH @ weights[k].T * (A > 0)
    return [L, *gradients]


def conv(
    X: np.ndarray, W: np.ndarray, b: np.ndarray, dY: np.ndarray, padding: int, stride: int
) -> list[np.ndarray]:
    k = W.shape[2]
    _, _, h, w = X.shape
    padded = np.pad(X, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    Y = np.tensordot(windows, W, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2) + b  # (n, h, w, f) -> nfhw
    dW = np.tensordot(dY, windows, ((0, 2, 3), (0, 2, 3)))
    dX, (oh, ow) = np.zeros_like(padded), Y.shape[2:]
    for i in range(k):
        for j in range(k):
            part = dX[:, :, i : i + stride * oh : stride, j : j + stride * ow : stride]
            part += np.tensordot(dY, W[:, :, i, j], ((1,), (0,))).transpose(0, 3, 1, 2)
    inside = dX[:, :, padding : padding + h, padding : padding + w]
    return [Y, inside, dW, dY.sum(axis=(0, 2, 3)).reshape(b.shape)]


def layer_norm(X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dY: np.ndarray) -> list[np.ndarray]:
    return _norm(X, gamma, beta, dY, over=(1,), rest=(0,))


def batch_norm(X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dY: np.ndarray) -> list[np.ndarray]:
    return _norm(X, gamma, beta, dY, over=(0, 2, 3), rest=(0, 2, 3))


def _norm(
    X: np.ndarray, gamma: np.ndarray, beta: np.ndarray, dY: np.ndarray, over: tuple, rest: tuple
) -> list[np.ndarray]:
    r = 1 / np.sqrt(X.var(axis=over, keepdims=True) + EPSILON)
    H, dH = (X - X.mean(axis=over, keepdims=True)) * r, gamma * dY
    projected = dH - dH.mean(axis=over, keepdims=True) - H * (H * dH).mean(axis=over, keepdims=True)
    sums = [(H * dY).sum(axis=rest), dY.sum(axis=rest)]
    return [gamma * H + beta, r * projected, *(s.reshape(gamma.shape) for s in sums)]


def gelu(X: np.ndarray, dY: np.ndarray) -> list[np.ndarray]:
    Phi = np.frompyfunc(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), 1, 1)(X).astype(np.float64)
    return [X * Phi, dY * (Phi + X * np.exp(-0.5 * X * X) / math.sqrt(2 * math.pi))]


def adamw(W: np.ndarray, dW: np.ndarray) -> list[np.ndarray]:
    return [dW / (np.abs(dW) + 1e-8) + WEIGHT_DECAY * W]  # a first step's M' and sqrt V' are dW and |dW|


def embedding(X: np.ndarray, W: np.ndarray, dY: np.ndarray) -> list[np.ndarray]:
    dW = np.zeros_like(W)
    np.add.at(dW, X, dY)
    return [W[X], dW]


def _sigmoid(X: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-X))


def lstm(
    X: np.ndarray, W_ih: np.ndarray, W_hh: np.ndarray, b_ih: np.ndarray, b_hh: np.ndarray, dY: np.ndarray
) -> list[np.ndarray]:
    n, t, _ = X.shape
    h = len(W_hh)
    H, C, steps = np.zeros((n, h)), np.zeros((n, h)), []
    for k in range(t):
        i, f, g, o = np.split(X[:, k] @ W_ih + b_ih + H @ W_hh + b_hh, 4, axis=1)
        I, F, G, O = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        before, C = (H, C), F * C + I * G
        H = O * np.tanh(C)
        steps.append((before, I, F, G, O, np.tanh(C), H))
    dX, dW_ih, dW_hh, db = np.zeros_like(X), np.zeros_like(W_ih), np.zeros_like(W_hh), np.zeros_like(b_ih)
    dH, dC = np.zeros((n, h)), np.zeros((n, h))
    for k in range(t - 1, -1, -1):
        (H, C), I, F, G, O, T, _ = steps[k]
        dH = dH + dY[:, k]
        dC = dC + dH * O * (1 - T * T)
        gates = dC * G * I * (1 - I), dC * C * F * (1 - F), dC * I * (1 - G * G), dH * T * O * (1 - O)
        dA = np.concatenate(gates, axis=1)
        dX[:, k], dW_ih, dW_hh = dA @ W_ih.T, dW_ih + X[:, k].T @ dA, dW_hh + H.T @ dA
        db, dH, dC = db + dA.sum(axis=0, keepdims=True), dA @ W_hh.T, dC * F
    return [np.stack([step[-1] for step in steps], axis=1), dX, dW_ih, dW_hh, db, db]


def cnn(X: np.ndarray, y: np.ndarray, weights: list[np.ndarray]) -> list[np.ndarray]:
    """Two blocks of convolution, max pooling, ReLU and BatchNorm, then Linear. The post's order."""
    H, blocks = X, []
    for k in (0, 4):
        W, b, gamma, beta = weights[k : k + 4]
        Y = conv(H, W, b, np.zeros((len(H), len(W), *H.shape[2:])), 1, 1)[0]
        n, f, h, w = Y.shape
        tiles = Y.reshape(n, f, h // 2, 2, w // 2, 2).swapaxes(3, 4).reshape(n, f, h // 2, w // 2, 4)
        P = tiles.max(axis=-1)
        blocks.append((H, tiles, P))
        H = _norm(np.maximum(P, 0), gamma, beta, P, (0, 2, 3), (0, 2, 3))[0]
    W, b = weights[8:]
    L, dY = cross_entropy(H.reshape(len(H), -1) @ W + b, y)
    gradients = [H.reshape(len(H), -1).T @ dY, dY.sum(axis=0, keepdims=True)]
    dH = (dY @ W.T).reshape(H.shape)
    for k in (4, 0):
        W, b, gamma, beta = weights[k : k + 4]
        H, tiles, P = blocks.pop()
        _, dP, dgamma, dbeta = _norm(np.maximum(P, 0), gamma, beta, dH, (0, 2, 3), (0, 2, 3))
        first = np.arange(4) == tiles.argmax(axis=-1)[..., None]
        dtiles = first * (dP * (P > 0))[..., None]
        n, f, h, w, _ = dtiles.shape
        dY = dtiles.reshape(n, f, h, w, 2, 2).swapaxes(3, 4).reshape(n, f, 2 * h, 2 * w)
        _, dH, dW, db = conv(H, W, b, dY, 1, 1)
        gradients = [dW, db, dgamma, dbeta, *gradients]
    return [L, *gradients]


# ---- rows


def _cross_entropy_row(n: int, classes: int, goals: tuple[float, float]) -> Row:
    return Row(
        f"cross-entropy fwd+grad {n}x{classes}",
        "cross_entropy",
        lambda: {"X": _normal(n, classes, scale=3.0), "y": _labels(n, classes)},
        cross_entropy,
        *(0, 4 * 2 * n * classes),
        {"torch": goals},
    )


def _linear_row(n: int, i: int, o: int) -> Row:
    return Row(
        f"Linear fwd+bwd {n}x{i}->{o}",
        "linear",
        lambda: {
            "X": _normal(n, i),
            "W": _normal(i, o, scale=i**-0.5),
            "b": _normal(1, o),
            "dY": _normal(n, o),
        },
        linear,
        *(3 * 2 * n * i * o, 4 * (2 * n * i + 2 * i * o + 2 * n * o)),
        {"torch": (0.85, 1.05)},
    )


def _mlp_row(n: int, widths: tuple[int, ...], goals: dict[str, tuple[float | None, float | None]]) -> Row:
    pairs = list(itertools.pairwise(widths))

    def draw() -> dict[str, Any]:
        weights = [w for i, o in pairs for w in (_normal(i, o, scale=i**-0.5), _normal(1, o, scale=0.1))]
        return {"X": _normal(n, widths[0]), "y": _labels(n, widths[-1]), "weights": weights}

    products = 3 * sum(i * o for i, o in pairs) - pairs[0][0] * pairs[0][1]  # no dX of the first layer
    return Row(
        f"MLP step {'-'.join(map(str, widths))}, batch {n}",
        "mlp",
        draw,
        mlp,
        *(2 * n * products, 4 * (n * widths[0] + 2 * sum(i * o for i, o in pairs))),
        goals,
        tolerance=_OF_A_STEP,
    )


def _cnn_row(n: int) -> Row:
    def draw() -> dict[str, Any]:
        weights = []
        for c, f in ((1, 4), (4, 8)):
            kernel = _normal(f, c, 3, 3, scale=(2 / (9 * c)) ** 0.5)
            weights += [kernel, _normal(1, f, 1, 1, scale=0.1), np.ones((1, f, 1, 1), np.float32)]
            weights.append(np.zeros((1, f, 1, 1), np.float32))
        weights += [_normal(392, 10, scale=392**-0.5), np.zeros((1, 10), np.float32)]
        return {"X": _normal(n, 1, 28, 28), "y": _labels(n, 10), "weights": weights}

    products = 2 * 784 * 9 * 4 + 3 * 196 * 9 * 4 * 8 + 3 * 392 * 10
    return Row(
        f"MNIST CNN step, batch {n}",
        "cnn",
        draw,
        cnn,
        *(2 * n * products, 4 * n * (2 * 784 * 5 + 2 * 196 * 12 + 2 * 49 * 16)),
        {"torch": (1.0, 3.0)},
        tolerance=_OF_A_STEP,
    )


def _conv_row(
    size: tuple[int, int, int], f: int, k: int, stride: int, goals: tuple, precision: str = "float32"
) -> Row:
    n, c, h = size
    padding = (k - 1) // 2
    out = (h + 2 * padding - k) // stride + 1

    def draw() -> dict[str, Any]:
        return {
            "X": _normal(n, c, h, h),
            "W": _normal(f, c, k, k, scale=(2 / (c * k * k)) ** 0.5),
            "b": _normal(1, f, 1, 1),
            "dY": _normal(n, f, out, out),
            "padding": padding,
            "stride": stride,
        }

    words = [f"Conv2D fwd+bwd ({n},{c},{h},{h})->{f}", f"k{k}"]
    words += ["stride 2"] if stride == 2 else []
    words += [precision] if precision != "float32" else []
    return Row(
        " ".join(words),
        "conv",
        draw,
        conv,
        *(3 * 2 * n * f * out * out * c * k * k, 4 * 2 * n * (c * h * h + f * out * out)),
        {"best": goals},
        tolerance=1e-5 if precision == "float32" else 2e-5,
        settings={} if precision == "float32" else {"precision": precision},
    )


def _pointwise(n_arrays: int, *shape: int) -> float:
    return 4.0 * n_arrays * math.prod(shape)


def _norm_row(title: str, kind: str, formula: Callable, X: tuple[int, ...], weight: tuple[int, ...]) -> Row:
    return Row(
        title,
        kind,
        lambda: {
            "X": 3 + _normal(*X),
            "gamma": 1 + 0.1 * _normal(*weight),
            "beta": _normal(*weight, seed=1),
            "dY": _normal(*X, seed=2),
        },
        formula,
        *(0, _pointwise(5, *X)),
        {"torch": (0.7, 1.3)},
    )


def _lstm_row(n: int, t: int, i: int, h: int) -> Row:
    def draw() -> dict[str, Any]:
        bound = h**-0.5
        return {
            "X": _normal(n, t, i),
            "W_ih": _normal(i, 4 * h, scale=bound),
            "W_hh": _normal(h, 4 * h, scale=bound),
            "b_ih": _normal(1, 4 * h, scale=bound),
            "b_hh": _normal(1, 4 * h, scale=bound, seed=1),
            "dY": _normal(n, t, h),
        }

    flops = 3 * 2 * n * t * 4 * h * (i + h)
    nbytes = 4 * n * t * (2 * i + 4 * h)
    return Row(f"LSTM fwd+bwd {n}x{t}, {i}->{h}", "lstm", draw, lstm, flops, nbytes, {"torch": (0.7, 1.3)})


ROWS = [
    _cross_entropy_row(128, 10, (3.0, 4.0)),
    _cross_entropy_row(256, 1000, (0.7, 2.0)),
    _cross_entropy_row(4096, 1000, (0.8, 2.2)),
    _cross_entropy_row(1024, 32000, (2.5, 6.0)),
    _linear_row(128, 256, 256),
    _linear_row(256, 784, 128),
    _linear_row(256, 512, 512),
    _linear_row(1024, 4096, 1024),
    _mlp_row(32, (2, 4, 2), {"torch": (5.0, 5.0), "jax": (1.1, 1.1)}),
    _mlp_row(128, (784, 128, 10), {"best": (0.85, 1.3)}),
    _mlp_row(256, (784, 512, 512, 10), {"best": (0.85, 1.0)}),
    _mlp_row(512, (1024, 2048, 2048, 1000), {"best": (0.85, 1.0)}),
    _cnn_row(100),
    _conv_row((32, 64, 32), 64, 3, 1, (0.9, 1.8)),
    _conv_row((16, 128, 28), 128, 3, 1, (1.2, 1.8)),
    _conv_row((8, 256, 14), 256, 3, 1, (0.6, 1.5)),
    _conv_row((32, 3, 32), 32, 5, 1, (0.6, 1.3)),
    _conv_row((100, 1, 28), 4, 3, 1, (1.8, 5.0)),
    _conv_row((100, 4, 14), 8, 3, 1, (0.6, 2.4)),
    _conv_row((32, 64, 32), 128, 3, 2, (0.7, 1.1)),
    _conv_row((32, 64, 32), 64, 3, 1, (None, 2.7), "relaxed"),
    _conv_row((16, 128, 28), 128, 3, 1, (None, 2.6), "relaxed"),
    _conv_row((8, 256, 14), 256, 3, 1, (None, 1.7), "relaxed"),
    _norm_row("LayerNorm fwd+bwd 2048x768", "layer_norm", layer_norm, (2048, 768), (768,)),
    _norm_row("BatchNorm2D fwd+bwd (32,64,32,32)", "batch_norm", batch_norm, (32, 64, 32, 32), (1, 64, 1, 1)),
    Row(
        "GELU fwd+bwd 256x1000",
        "gelu",
        lambda: {"X": _normal(256, 1000, scale=2.0), "dY": _normal(256, 1000, seed=1)},
        gelu,
        *(0, _pointwise(5, 256, 1000)),
        {"torch": (0.7, 1.3)},
    ),
    Row(
        "AdamW step of 1024x2048",
        "adamw",
        lambda: {"W": _normal(1024, 2048, scale=0.03), "dW": _normal(1024, 2048, scale=0.01, seed=1)},
        adamw,
        *(0, _pointwise(7, 1024, 2048)),
        {"torch": (0.7, 1.3)},
        tolerance=1e-4,
    ),
    Row(
        "Embedding fwd+grad 64x128 of 10000x128",
        "embedding",
        lambda: {
            "X": np.random.default_rng(3).integers(0, 10000, (64, 128)),
            "W": _normal(10000, 128),
            "dY": _normal(64, 128, 128),
        },
        embedding,
        *(0, _pointwise(3, 8192, 128) + _pointwise(1, 10000, 128)),
        {"torch": (0.7, 1.3)},
    ),
    _lstm_row(32, 32, 128, 128),
]
