"""Runs over time: each thread takes some of the samples through all of the steps, and waits for no other.

The weights are packed once, and then stay in the cache. A step is a product of few rows, [X H] with W_ih and
W_hh in one, and the arithmetic of the gates, while these rows are in the cache too; going back it is two, of
dA. The gradients of the weights follow for all steps at once; and so do X W_ih and dX where a thread has few
samples, and tiles would be filled up with repeated rows. The arrays of a run have the steps first, in the
order that they are made: a step reads and writes what lies together.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.numpy import linear as numpy_linear
from deepcore.backends.numpy.fast.activation import sigmoid_of
from deepcore.backends.numpy.fast.compiled import InParts, flat, plain, row, share, step
from deepcore.backends.numpy.fast.elementary import tanh, widest_vectors
from deepcore.backends.numpy.fast.linear import linear, linear_backward, pack
from deepcore.backends.numpy.fast.simd import PANEL, ROWS, panel_product, side_by_side, vectors_of
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.fast.workspace import is_float32, room
from deepcore.backends.numpy.fast.writer import LANES, USABLE
from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.recurrent import samples_first, steps_first

_FLOAT32 = np.dtype(np.float32)
_FEW = 4  # samples of a thread, below which X W_ih is made for all steps at once


def lstm_run(
    X: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    H: np.ndarray,
    C: np.ndarray,
    reverse: bool = False,
) -> Any:
    """C' = F C + I G, T = tanh C', H' = O T; gates: sigmoid(A) (of G: tanh A), A = [X H] [W_ih; W_hh] + b"""
    (n, t, i), h = X.shape, len(W_hh)
    fit = W_ih.shape == (i, 4 * h) and W_hh.shape == (h, 4 * h) and H.shape == C.shape == (n, h)
    if not (fit and _suits(X, W_ih, W_hh, b_ih, b_hh, H, C)):
        return NotImplemented
    samples, b = _shared_out(n, min(pool.parts(), n)), b_ih + b_hh
    if n < _FEW * len(samples):
        gates = _either(linear, numpy_linear.linear, steps_first(X, reverse), plain(W_ih), b)
        i, weights = 0, [(W_hh, 0)]
    else:
        gates, weights = empty((t, n, 4 * h), _FLOAT32), [(W_ih, 0), (W_hh, i)]
    Y, T = empty((n, t, h), _FLOAT32), empty((t, n, h), _FLOAT32)
    Hs, Cs = empty((t + 1, n, h), _FLOAT32), empty((t + 1, n, h), _FLOAT32)
    Hs[0], Cs[0] = H, C
    panels, XH = room(1, _packed_size(i + h, 4 * h), n * (i + h))
    for W, first in weights:
        _pack.run(len(samples), flat(W), False, len(W), 4 * h, first, i + h, panels[0])
    arrays = plain(X), i, reverse, flat(b), Hs, Cs, gates, T, Y
    _lstm.run(len(samples), *arrays, samples, samples * (i + h), samples * (4 * h), XH[0], panels[0])
    return Y, Hs[t].copy(), Cs[t].copy(), _by_gate(gates), T, Hs[:t], Cs[:t]


def lstm_run_backward(
    dY: np.ndarray,
    dH: np.ndarray,
    dC: np.ndarray,
    X: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    gates: np.ndarray,
    T: np.ndarray,
    H: np.ndarray,
    C: np.ndarray,
    reverse: bool = False,
) -> Any:
    """The gradient goes back step by step, to H and to X; dW = [X H]^T dA follows for all steps at once."""
    (n, t, i), h = X.shape, len(W_hh)
    fit = (
        dY.shape == (n, t, h)
        and dH.shape == dC.shape == (n, h)
        and H.shape == C.shape == T.shape == (t, n, h)
    )
    fit = fit and W_ih.shape == (i, 4 * h) and W_hh.shape == (h, 4 * h) and gates.shape == (4, t, n, h)
    if not (fit and _suits(X, dY, dH, dC, W_ih, W_hh, gates, T, H, C)):
        return NotImplemented
    dH, dC = (np.array(x, order="C", subok=False) for x in (dH, dC))
    gates = plain(gates.transpose(1, 2, 0, 3)).reshape(t, n, 4 * h)  # as lstm_run has left them: no copy
    samples = _shared_out(n, min(pool.parts(), n))
    few = n < _FEW * len(samples)
    dX, XH = (empty((0,) * 3 if few else shape, _FLOAT32) for shape in (X.shape, (t, n, i + h)))
    dA = empty((t, n, 4 * h), _FLOAT32)
    to_X, to_H = room(1, _packed_size(4 * h, i), _packed_size(4 * h, h))
    for W, panels in ((W_hh, to_H),) if few else ((W_hh, to_H), (W_ih, to_X)):
        _pack.run(len(samples), flat(W), True, 4 * h, len(W), 0, 4 * h, panels[0])
    arrays = plain(dY), plain(X), reverse, gates, plain(T), plain(H), plain(C)
    rows = samples * (4 * h), samples * (t * i), samples * h
    zeros = np.zeros(max(i, h), _FLOAT32)
    _lstm_backward.run(len(samples), *arrays, dA, XH, dH, dC, dX, zeros, samples, *rows, to_X[0], to_H[0])
    backward = linear_backward, numpy_linear.linear_backward
    if few:
        dX, dW_ih, db = _either(*backward, dA, steps_first(X, reverse), plain(W_ih))
        _, dW_hh, _ = _either(*backward, dA, plain(H), W_hh, False, (False, True, False))
        return samples_first(dX, reverse), dH, dC, dW_ih, dW_hh, db
    dW = empty((i + h, 4 * h), _FLOAT32)  # in the place of W as well, of which only the shape counts
    _, _, db = _either(*backward, dA, XH, dW, True, (False, True, True), (None, dW, None))
    return dX, dH, dC, dW[:i], dW[i:], db


def _by_gate(gates: np.ndarray) -> np.ndarray:
    """(t, n, 4 h) -> (4, t, n, h), a view"""
    t, n, width = gates.shape
    return gates.reshape(t, n, 4, width // 4).transpose(2, 0, 1, 3)


def _suits(X: np.ndarray, *others: np.ndarray) -> bool:
    return USABLE and X.size > 0 and is_float32(X, *others)


def _either(compiled: Callable[..., Any], plain: Callable[..., Any], *arguments: Any) -> Any:
    """The compiled kernel's result; small matrices it leaves to BLAS."""
    result = compiled(*arguments)
    return plain(*arguments) if result is NotImplemented else result


def _packed_size(rows: int, columns: int) -> int:
    return rows * -(-columns // PANEL) * PANEL


@functools.lru_cache(maxsize=64)
def _shared_out(n: int, threads: int) -> np.ndarray:
    """The samples of each thread, the last one repeated to fill tiles: (threads, ...)."""
    ends = [n * k // threads for k in range(threads + 1)]
    most = -(-n // threads)
    places = np.arange(-(-most // ROWS) * ROWS)
    return np.array([np.minimum(a + places, b - 1) for a, b in itertools.pairwise(ends)])


@InParts
def _pack(part, parts, B, turned, rows, columns, first, depth, panels):
    """Some panels of a matrix of so many rows and columns, as rows `first` and following of panels so deep.

    B: the matrix, or, turned, its transpose
    """
    length = rows if turned else columns
    for panel in share(-(-columns // PANEL), part, parts):
        n = panel * PANEL
        some = min(PANEL, columns - n)
        vectors, _ = vectors_of(some)
        pack(B, length, turned, 0, rows, n, some, panels, n * depth + first * vectors * LANES)


@InParts
def _lstm(thread, threads, X, i, reverse, b, H, C, gates, T, Y, samples, XH_rows, A_rows, XH, panels):
    """i: how many numbers of X stand beside H in a row of XH: all, or 0 if gates hold X W_ih + b already"""
    t, n, width = gates.shape
    h = width // 4
    sums, xh = gates.reshape(-1), XH[: C.shape[1] * (i + h)].reshape(-1, i + h)
    first, last = samples[thread, 0], samples[thread, -1] + 1
    for s in range(first, last):
        _copy(H[0, s], xh[s, i:])
    for k in range(t):
        step = t - 1 - k if reverse else k
        for s in range(first, last):
            _copy(X[s, step, :i], xh[s, :i])
        start = (b, 0, 0) if i else (sums, k * n * width, 1)
        multiply(
            (XH, 0, XH_rows[thread]),
            *(i + h, panels, width),
            *(sums, k * n * width, A_rows[thread], last - first),
            *start,
        )
        for s in range(first, last):
            _apply_gates(gates[k, s])
            _update(gates[k, s], C[k, s], C[k + 1, s], T[k, s], Y[s, step])
            _copy(Y[s, step], H[k + 1, s])
            _copy(Y[s, step], xh[s, i:])


@InParts
def _lstm_backward(
    thread, threads, dY, X, reverse, gates, T, H, C, dA, XH, dH, dC, dX, zeros,
    samples, A_rows, X_rows, H_rows, to_X, to_H
):  # fmt: skip
    t, n, h = T.shape
    width, i = 4 * h, X.shape[2]
    gradients, of_X, of_H = dA.reshape(-1), dX.reshape(-1), dH.reshape(-1)
    first, last = samples[thread, 0], samples[thread, -1] + 1
    for k in range(t - 1, -1, -1):
        step = t - 1 - k if reverse else k
        for s in range(first, last):
            _update_backward(dY[s, step], gates[k, s], T[k, s], C[k, s], dH[s], dC[s], dA[k, s])
        A = gradients, k * n * width, A_rows[thread]
        multiply(A, width, to_H, h, of_H, 0, H_rows[thread], last - first, zeros, 0, 0)
        if XH.size:
            for s in range(first, last):
                _copy(X[s, step], XH[k, s, :i])
                _copy(H[k, s], XH[k, s, i:])
            multiply(A, width, to_X, i, of_X, step * i, X_rows[thread], last - first, zeros, 0, 0)


@step
def multiply(A, K, panels, columns, C, c, C_rows, count, start, s, follow):
    """C = start + A B for some rows.   A: numbers, where those of a row start, where rows do   B: panels

    start: its rows are `follow` times as far apart as those of C, or, if that is 0, all the same
    """
    numbers, a, A_rows = A
    places = side_by_side()
    for n in range(0, columns, PANEL):
        vectors, lanes = vectors_of(min(PANEL, columns - n))
        panel_product(
            *(count, vectors, numbers, a, A_rows, places, 1),
            *(panels, n * K, places, places, vectors * LANES),
            *(0, 1, K, C, c + n, C_rows, start, s + n, follow, lanes),
        )


@row
def _copy(source, target):
    for j in range(len(target)):
        target[j] = source[j]


@row
def _apply_gates(a):
    """The four parts of a become their sigmoids, the third one its tanh."""
    widest_vectors()
    h = len(a) // 4
    i_f, g, o = a[: 2 * h], a[2 * h : 3 * h], a[3 * h :]
    for j in range(len(i_f)):
        i_f[j] = sigmoid_of(i_f[j])
    for j in range(len(g)):
        g[j] = tanh(g[j])
    for j in range(len(o)):
        o[j] = sigmoid_of(o[j])


@row
def _update(gates, c, new_c, T, y):
    """c' = F c + I G   T = tanh c'   h' = y = O T"""
    widest_vectors()
    h = len(c)
    I, F, G, O = gates[:h], gates[h : 2 * h], gates[2 * h : 3 * h], gates[3 * h :]
    for j in range(len(c)):
        new_c[j] = F[j] * c[j] + I[j] * G[j]
    for j in range(len(T)):
        T[j] = tanh(new_c[j])
    for j in range(len(y)):
        y[j] = O[j] * T[j]


@row
def _update_backward(dy, gates, T, c, dh, dc, da):
    """The formulas of ops.recurrent.lstm_backward, in loops that write to one array each, for vectors."""
    widest_vectors()
    h = len(dh)
    I, F, G, O = gates[:h], gates[h : 2 * h], gates[2 * h : 3 * h], gates[3 * h :]
    dI, dF, dG, dO = da[:h], da[h : 2 * h], da[2 * h : 3 * h], da[3 * h :]
    one = dh.dtype.type(1)
    for j in range(len(dh)):
        dh[j] += dy[j]
    for j in range(len(dc)):
        dc[j] += dh[j] * O[j] * (one - T[j] * T[j])
    for j in range(len(dI)):
        dI[j] = dc[j] * G[j] * I[j] * (one - I[j])
    for j in range(len(dF)):
        dF[j] = dc[j] * c[j] * F[j] * (one - F[j])
    for j in range(len(dG)):
        dG[j] = dc[j] * I[j] * (one - G[j] * G[j])
    for j in range(len(dO)):
        dO[j] = dh[j] * T[j] * O[j] * (one - O[j])
    for j in range(len(dc)):
        dc[j] *= F[j]
