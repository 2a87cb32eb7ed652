"""Runs over time on NumPy: what doesn't wait for the step before is done for all steps at once.

In the arrays of a run the steps come first, in the order that they are made, and then the samples. A step's
gates lie side by side, where A was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.reduce import column_sum
from deepcore.backends.quiet import quietly

_SHARE = 1 << 18  # numbers of gates that are worth a thread
_SAMPLES = 64  # that are worth one, step by step


@quietly
def lstm_run(
    X: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    H: np.ndarray,
    C: np.ndarray,
    reverse: bool = False,
) -> tuple[np.ndarray, ...]:
    """C' = F C + I G, T = tanh C', H' = O T; gates: sigmoid(A) (of G: tanh A), A = X W_ih + H W_hh + b"""
    if not _served(X, W_ih, W_hh, b_ih, b_hh, H, C):
        return NotImplemented
    (n, t, _), h = X.shape, len(W_hh)
    sign = np.repeat(np.array([-1, -1, 1, -1], X.dtype), h)  # sigmoid A = 1 / (1 + e^-A)
    W_hh = W_hh * sign
    W, rows = np.concat([W_ih, b_ih + b_hh]) * sign, _rows(X, reverse, np.ones((t, n, 1)))  # A = [X 1] W
    A = rows.dot(W, empty((t * n, 4 * h), X.dtype)).reshape(t, n, 4 * h)
    gates = A.reshape(t, n, 4, h).transpose(2, 0, 1, 3)
    Hs, Cs, T = empty((t + 1, n, h), X.dtype), empty((t + 1, n, h), X.dtype), empty((t, n, h), X.dtype)
    Hs[0], Cs[0] = H, C

    def part(first: int, last: int) -> None:
        some = slice(first, last)
        B, tanh_G = np.empty((last - first, 4 * h), X.dtype), np.empty((last - first, h), X.dtype)
        for k in range(t):
            S, (I, F, G, O) = A[k, some], gates[:, k, some]
            S += np.dot(Hs[k, some], W_hh, out=B)
            np.tanh(G, out=tanh_G)
            np.exp(S, out=S)  # of G too: four gates at a stretch take less time than three
            S += 1
            np.reciprocal(S, out=S)
            G[...] = tanh_G
            C = np.multiply(F, Cs[k, some], out=Cs[k + 1, some])
            C += np.multiply(I, G, out=tanh_G)
            np.multiply(O, np.tanh(C, out=T[k, some]), out=Hs[k + 1, some])

    _all_samples(part, n)
    return samples_first(Hs[1:], reverse), Hs[t].copy(), Cs[t].copy(), gates, T, Hs[:t], Cs[:t]


@quietly
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
) -> tuple[np.ndarray, ...]:
    """dA = (dC' P_i, dC' P_f, dC' P_g, dH' P_o), where the P come from the forward pass alone."""
    if not _served(X, W_ih, W_hh, dY, dH, dC):
        return NotImplemented
    t, n, h = T.shape
    P, Q, dA = empty(gates.shape, X.dtype), empty(T.shape, X.dtype), empty((t, n, 4 * h), X.dtype)

    def part(first: int, last: int) -> None:
        _local_gradients(*(A[..., first:last, :, :] for A in (gates, T, C, P, Q)))

    threads.share(part, t, -(-_SHARE // max(1, 4 * n * h)))
    dY, dH, dC = steps_first(dY, reverse), dH.copy(), dC.copy()
    W_hh_T = np.ascontiguousarray(W_hh.T)  # 42 us a product, not 63

    def back(first: int, last: int) -> None:
        some = slice(first, last)
        dh, dc, through_H = dH[some], dC[some], np.empty((last - first, h), X.dtype)
        for k in range(t - 1, -1, -1):
            dh += dY[k, some]
            dc += np.multiply(dh, Q[k, some], out=through_H)
            by_gate = _by_gate(dA[k, some])
            np.multiply(P[:3, k, some], dc, out=by_gate[:3])
            np.multiply(P[3, k, some], dh, out=by_gate[3])
            np.dot(dA[k, some], W_hh_T, out=dh)
            dc *= gates[1, k, some]

    _all_samples(back, n)
    dA, i = dA.reshape(t * n, 4 * h), X.shape[2]
    dW = _rows(X, reverse, H).T.dot(dA, empty((i + h, 4 * h), X.dtype))
    dX = dA.dot(W_ih.T, empty((t * n, i), X.dtype)).reshape(t, n, i)
    return samples_first(dX, reverse), dH, dC, dW[:i], dW[i:], column_sum(dA)


def _served(X: np.ndarray, *others: np.ndarray) -> bool:
    """Whether products of these, of 32 bits or more, may be written into arrays of X's dtype."""
    dtype = X.dtype
    return dtype.itemsize >= 4 and dtype.isnative and all(A.dtype == dtype for A in others)


def _all_samples(part: Callable[[int, int], None], n: int) -> None:
    """A run over time of many samples in parts. BLAS gains nothing in a product of few samples by threads,
    and loses milliseconds where they must share the cores with other programs.
    """
    with threads.one_blas_thread():
        threads.share(part, n, _SAMPLES)


def _local_gradients(gates: np.ndarray, T: np.ndarray, C: np.ndarray, P: np.ndarray, Q: np.ndarray) -> None:
    """P = (G I (1 - I), C F (1 - F), I (1 - G^2), T O (1 - O)), and Q = O (1 - T^2).   P: (4, t, n, h)"""
    I, F, G, O = gates
    P_i, P_f, P_g, P_o = P
    for S, factor, P_s in ((I, G, P_i), (F, C, P_f), (O, T, P_o)):
        np.subtract(1, S, out=P_s)
        P_s *= S
        P_s *= factor
    for S, factor, P_s in ((G, I, P_g), (T, O, Q)):
        np.multiply(S, S, out=P_s)
        np.subtract(1, P_s, out=P_s)
        P_s *= factor


def _by_gate(W: np.ndarray) -> np.ndarray:
    """(n, 4 h) -> (4, n, h), a view"""
    n, width = W.shape
    return W.reshape(n, 4, width // 4).swapaxes(0, 1)


def _rows(X: np.ndarray, reverse: bool, beside: np.ndarray) -> np.ndarray:
    """X of all steps and samples, and what is to stand beside it.   (n, t, i), (t, n, d) -> (t n, i + d)"""
    n, t, i = X.shape
    width = i + beside.shape[2]
    rows = empty((t, n, width), X.dtype)
    rows[..., :i] = (X[:, ::-1] if reverse else X).swapaxes(0, 1)
    rows[..., i:] = beside
    return rows.reshape(t * n, width)


def steps_first(X: np.ndarray, reverse: bool) -> np.ndarray:
    """(n, t, d) -> (t, n, d), in the order that the steps are made."""
    X = X.swapaxes(0, 1)
    return np.ascontiguousarray(X[::-1] if reverse else X)


def samples_first(Y: np.ndarray, reverse: bool) -> np.ndarray:
    """The opposite of `steps_first`."""
    return np.ascontiguousarray((Y[::-1] if reverse else Y).swapaxes(0, 1))
