"""Runs over time: each thread takes some of the samples through all of the steps, and waits for no other.

W_hh is packed once, and then stays in the cache. A step is a product of few rows, added to what came from
the input, and the arithmetic of the gates, sample by sample, while these are in the cache too. The arrays of
a run have the steps first, in the order that they are made: a step reads and writes what lies together.
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
from deepcore.backends.numpy.fast.simd import PANEL, ROWS, VECTORS, any_tile, side_by_side, vectors_of
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.fast.workspace import is_float32, room
from deepcore.backends.numpy.fast.writer import LANES, USABLE
from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.recurrent import samples_first, steps_first

_FLOAT32 = np.dtype(np.float32)
_ZEROS = np.zeros(PANEL, np.float32)


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
    """C' = F C + I G, T = tanh C', H' = O T, all steps' X W_ih + b at once."""
    (n, t, _), h = X.shape, len(W_hh)
    fit = W_ih.shape[1] == W_hh.shape[1] == 4 * h and H.shape == C.shape == (n, h)
    if not (fit and _suits(X, W_ih, W_hh, b_ih, b_hh, H, C)):
        return NotImplemented
    A = _either(linear, numpy_linear.linear, steps_first(X, reverse), plain(W_ih), b_ih + b_hh)
    Y, gates, T = (empty(shape, _FLOAT32) for shape in ((n, t, h), (4, t, n, h), (t, n, h)))
    Hs, Cs = empty((t + 1, n, h), _FLOAT32), empty((t + 1, n, h), _FLOAT32)
    Hs[0], Cs[0] = H, C
    samples = _shared_out(n, min(pool.parts(), n))
    (panels,) = room(1, _packed_size(h, 4 * h))
    _pack.run(len(samples), flat(W_hh), False, h, 4 * h, 4 * h, panels[0])
    arrays = A, reverse, Hs, Cs, gates, T, Y
    _lstm.run(len(samples), *arrays, samples, samples * h, samples * (4 * h), panels[0])
    return Y, Hs[t].copy(), Cs[t].copy(), gates, T, Hs[:t], Cs[:t]


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
    """The gradient goes back step by step; those of X and of the weights follow for all steps at once."""
    t, n, h = T.shape
    fit = dY.shape == (n, t, h) and dH.shape == dC.shape == (n, h) and H.shape == C.shape == T.shape
    fit = fit and W_ih.shape[1] == W_hh.shape[1] == 4 * len(W_hh) == 4 * h and gates.shape == (4, t, n, h)
    if not (fit and _suits(dY, dH, dC, X, W_ih, W_hh, gates, T, H, C)):
        return NotImplemented
    dH, dC = (np.array(x, order="C", subok=False) for x in (dH, dC))
    dA = empty((t, n, 4 * h), _FLOAT32)
    samples = _shared_out(n, min(pool.parts(), n))
    (panels,) = room(1, _packed_size(4 * h, h))
    _pack.run(len(samples), flat(W_hh), True, 4 * h, h, 4 * h, panels[0])
    arrays = plain(dY), reverse, plain(gates), plain(T), plain(C), dA, dH, dC, _ZEROS
    _lstm_backward.run(len(samples), *arrays, samples, samples * (4 * h), samples * h, panels[0])
    backward = linear_backward, numpy_linear.linear_backward
    dX, dW_ih, db = _either(*backward, dA, steps_first(X, reverse), plain(W_ih))
    _, dW_hh, _ = _either(*backward, dA, plain(H), W_hh, False, (False, True, False))
    return samples_first(dX, reverse), dH, dC, dW_ih, dW_hh, db


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
def _pack(part, parts, B, turned, rows, columns, length, panels):
    """Some panels of a matrix of so many rows and columns."""
    for panel in share(-(-columns // PANEL), part, parts):
        n = panel * PANEL
        pack(B, length, turned, 0, rows, n, min(PANEL, columns - n), panels, n * rows)


@InParts
def _lstm(thread, threads, A, reverse, H, C, gates, T, Y, samples, H_rows, A_rows, panels):
    t, n, width = A.shape
    h = width // 4
    sums, states = A.reshape(-1), H.reshape(-1)
    first, last = samples[thread, 0], samples[thread, -1] + 1
    for k in range(t):
        step = t - 1 - k if reverse else k
        multiply(
            (states, k * n * h, H_rows[thread]),
            *(h, panels, width),
            *(sums, k * n * width, A_rows[thread], last - first),
            *(sums, k * n * width, 1),
        )
        for s in range(first, last):
            I, F, G, O = gates[0, k, s], gates[1, k, s], gates[2, k, s], gates[3, k, s]
            _apply_gates(A[k, s], I, F, G, O)
            _update(I, F, G, O, C[k, s], C[k + 1, s], T[k, s], H[k + 1, s], Y[s, step])


@InParts
def _lstm_backward(
    thread, threads, dY, reverse, gates, T, C, dA, dH, dC, zeros, samples, A_rows, H_rows, panels
):  # fmt: skip
    t, n, h = T.shape
    width = 4 * h
    gradients, states = dA.reshape(-1), dH.reshape(-1)
    first, last = samples[thread, 0], samples[thread, -1] + 1
    for k in range(t - 1, -1, -1):
        step = t - 1 - k if reverse else k
        for s in range(first, last):
            I, F, G, O = gates[0, k, s], gates[1, k, s], gates[2, k, s], gates[3, k, s]
            _update_backward(dY[s, step], I, F, G, O, T[k, s], C[k, s], dH[s], dC[s], dA[k, s])
        multiply(
            (gradients, k * n * width, A_rows[thread]),
            *(width, panels, h),
            *(states, 0, H_rows[thread], last - first),
            *(zeros, 0, 0),
        )


@step
def multiply(A, K, panels, columns, C, c, C_rows, count, start, s, follow):
    """C = start + A B for some rows.   A: numbers, where those of a row start, where rows do   B: panels

    start: its rows are `follow` times as far apart as those of C, or, if that is 0, all the same
    """
    numbers, a, A_rows = A
    places = side_by_side()
    for n in range(0, columns, PANEL):
        vectors, lanes = vectors_of(min(PANEL, columns - n))
        shift = n if follow else 0
        for i in range(0, count, ROWS):
            rows = 4 if count - i <= 4 and vectors == VECTORS else ROWS
            any_tile(
                *(rows, vectors),
                *(numbers, a, A_rows, places, 1, panels, n * K, places, places, vectors * LANES),
                *(i, 1, K, C, c + n, C_rows, start, s + shift, follow, lanes),
            )


@row
def _apply_gates(a, I, F, G, O):
    """Sigmoids, and of g a tanh, of the four parts of a."""
    widest_vectors()
    h = len(I)
    i, f, g, o = a[:h], a[h : 2 * h], a[2 * h : 3 * h], a[3 * h :]
    for j in range(len(I)):
        I[j] = sigmoid_of(i[j])
    for j in range(len(F)):
        F[j] = sigmoid_of(f[j])
    for j in range(len(G)):
        G[j] = tanh(g[j])
    for j in range(len(O)):
        O[j] = sigmoid_of(o[j])


@row
def _update(I, F, G, O, c, new_c, T, new_h, y):
    """c' = F c + I G   T = tanh c'   h' = y = O T"""
    widest_vectors()
    for j in range(len(c)):
        new_c[j] = F[j] * c[j] + I[j] * G[j]
    for j in range(len(T)):
        T[j] = tanh(new_c[j])
    for j in range(len(y)):
        y[j] = O[j] * T[j]
    for j in range(len(new_h)):
        new_h[j] = y[j]


@row
def _update_backward(dy, I, F, G, O, T, c, dh, dc, da):
    """The formulas of ops.recurrent.lstm_backward, in loops that write to one array each, for vectors."""
    widest_vectors()
    h = len(dh)
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
