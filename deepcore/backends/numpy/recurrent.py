"""Runs over time on NumPy: what doesn't wait for the step before is done for all steps at once.

In the arrays of a run the gates come first, then the steps in the order that they are made: a gate of a step
is one piece of memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.conv import quiet
from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.reduce import column_sum

_SHARE = 1 << 18  # numbers of gates that are worth a thread
_SAMPLES = 64  # that are worth one, step by step


@quiet
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
    if X.dtype.itemsize < 4:
        return NotImplemented
    n, t, i = X.shape
    h = len(W_hh)
    gates = empty((4, t, n, h), X.dtype)
    A = steps_first(X, reverse).reshape(t * n, i).dot(W_ih)
    A += b_ih + b_hh
    A = A.reshape(t, n, 4 * h)
    Hs, Cs, T = empty((t + 1, n, h), X.dtype), empty((t + 1, n, h), X.dtype), empty((t, n, h), X.dtype)
    Hs[0], Cs[0] = H, C
    W_hh = np.ascontiguousarray(W_hh)

    def part(first: int, last: int) -> None:
        some = slice(first, last)
        B, IG = np.empty((last - first, 4 * h), X.dtype), np.empty((last - first, h), X.dtype)
        for k in range(t):
            np.add(_by_gate(A[k, some]), _by_gate(np.dot(Hs[k, some], W_hh, out=B)), out=gates[:, k, some])
            I, F, G, O = gates[:, k, some]
            np.tanh(G, out=G)
            for S in (gates[:2, k, some], O):
                np.negative(S, out=S)
                np.exp(S, out=S)
                S += 1
                np.reciprocal(S, out=S)
            C = np.multiply(F, Cs[k, some], out=Cs[k + 1, some])
            C += np.multiply(I, G, out=IG)
            np.multiply(O, np.tanh(C, out=T[k, some]), out=Hs[k + 1, some])

    _all_samples(part, n)
    return samples_first(Hs[1:], reverse), Hs[t].copy(), Cs[t].copy(), gates, T, Hs[:t], Cs[:t]


@quiet
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
    if X.dtype.itemsize < 4:
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
    dA = dA.reshape(t * n, 4 * h)
    X = steps_first(X, reverse)
    dX = dA.dot(W_ih.T).reshape(X.shape)
    dW_ih, dW_hh = X.reshape(t * n, X.shape[2]).T.dot(dA), H.reshape(t * n, h).T.dot(dA)
    return samples_first(dX, reverse), dH, dC, dW_ih, dW_hh, column_sum(dA)


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


def steps_first(X: np.ndarray, reverse: bool) -> np.ndarray:
    """(n, t, d) -> (t, n, d), in the order that the steps are made."""
    X = X.swapaxes(0, 1)
    return np.ascontiguousarray(X[::-1] if reverse else X)


def samples_first(Y: np.ndarray, reverse: bool) -> np.ndarray:
    """The opposite of `steps_first`."""
    return np.ascontiguousarray((Y[::-1] if reverse else Y).swapaxes(0, 1))
