"""Recurrent layers, one step of one sample after the other."""

import numpy as np

from deepcore import GRU, LSTM, RNN
from tests.case import Case, normal, single


def sigmoid(x):
    return np.exp(-np.logaddexp(0, -x))


def rnn(a, b, h, _):
    return np.tanh(a + b), None


def lstm(a, b, h, c):
    i, f, g, o = np.split(a + b, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(a, b, h, _):
    (ar, az, an), (br, bz, bn) = np.split(a, 3), np.split(b, 3)
    z = sigmoid(az + bz)
    return (1 - z) * np.tanh(an + sigmoid(ar + br) * bn) + z * h, None


def run(cell, w, X, H=None, C=None):
    """Y, and the last H and C, each (directions * layers, n, h)."""
    suffixes = [name.removeprefix("W_hh") for name in w if name.startswith("W_hh")]
    directions = 2 if "_l0_reverse" in suffixes else 1
    h = w["W_hh_l0"].shape[0]
    H = np.zeros((len(suffixes), len(X), h)) if H is None else H.copy()
    C = np.zeros_like(H) if C is None else C.copy()
    for place, suffix in enumerate(suffixes):
        if place % directions == 0:
            layer_input, X = X, np.zeros((*X.shape[:2], directions * h))
        W_ih, W_hh, b_ih, b_hh = (w[name + suffix] for name in ("W_ih", "W_hh", "b_ih", "b_hh"))
        steps = range(X.shape[1])
        for n in range(len(X)):
            for t in reversed(steps) if suffix.endswith("reverse") else steps:
                a, b = layer_input[n, t] @ W_ih + b_ih[0], H[place, n] @ W_hh + b_hh[0]
                H[place, n], c = cell(a, b, H[place, n], C[place, n])
                C[place, n] = np.nan if c is None else c
                X[n, t, place % directions * h :][:h] = H[place, n]
    return X, H, C


def outputs(cell):
    return lambda w, *inputs: run(cell, w, *inputs)[0]


def state(runs, h):
    """(runs, n, h) from N(0, 1)."""
    return lambda random, n: single(random.standard_normal((runs, n, h)))


def pair(runs, h):
    """(2, runs, n, h) from N(0, 1): H and C."""
    return lambda random, n: single(random.standard_normal((2, runs, n, h)))


def settings(layer, cell):
    """Each setting of a layer."""
    name = layer.__name__
    return [
        Case(name, lambda: layer(2, 3), [normal(4, 2)], outputs(cell)),
        Case(f"{name} of one step", lambda: layer(3, 2), [normal(1, 3)], outputs(cell)),
        Case(f"{name} both ways", lambda: layer(2, 2, bidirectional=True), [normal(3, 2)], outputs(cell)),
        Case(f"{name} of three layers", lambda: layer(3, 2, 3), [normal(2, 3)], outputs(cell)),
        Case(f"{name} of two layers both ways", lambda: layer(2, 2, 2, True), [normal(3, 2)], outputs(cell)),
    ]


CASES = [
    *settings(RNN, rnn),
    *settings(LSTM, lstm),
    *settings(GRU, gru),
    Case("RNN from a state", lambda: RNN(2, 3), [normal(3, 2), state(1, 3)], outputs(rnn)),
    Case("GRU from a state", lambda: GRU(2, 2, 2, True), [normal(2, 2), state(4, 2)], outputs(gru)),
    Case("LSTM from H and C", lambda: LSTM(2, 2, 1, True), [normal(3, 2), state(2, 2), state(2, 2)],
         outputs(lstm)),
    Case("LSTM from one array", lambda: LSTM(2, 3, 2), [normal(2, 2), pair(2, 3)],
         lambda w, X, S: run(lstm, w, X, *S)[0]),
]  # fmt: skip
