"""Runs over time on NumPy: what doesn't wait for the step before is done for all steps at once.

In the arrays of a run steps come first, in the order they are made, so that a step is one piece of memory.
Samples don't wait for one another: each thread takes some of them through all steps.
"""

from __future__ import annotations

import numpy as np

from deepcore.backends.numpy import threads
from deepcore.backends.numpy.conv import quiet
from deepcore.backends.numpy.memory import empty
from deepcore.backends.numpy.reduce import column_sum

_SHARE = 1 << 17  # numbers of gates that are worth a thread


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
    gates = empty((t, n, 4 * h), X.dtype)
    np.dot(_steps_first(X, reverse).reshape(t * n, i), W_ih, out=gates.reshape(t * n, 4 * h))
    gates += b_ih + b_hh
    Hs, Cs, T = empty((t + 1, n, h), X.dtype), empty((t + 1, n, h), X.dtype), empty((t, n, h), X.dtype)
    Hs[0], Cs[0] = H, C

    def part(first: int, last: int) -> None:
        B, IG = np.empty((last - first, 4 * h), X.dtype), np.empty((last - first, h), X.dtype)
        for k in range(t):
            A = gates[k, first:last]
            A += np.dot(Hs[k, first:last], W_hh, out=B)
            np.tanh(A[:, 2 * h : 3 * h], out=IG)
            np.negative(A, out=A)
            np.exp(A, out=A)
            A += 1
            np.reciprocal(A, out=A)
            I, F, G, O = (A[:, j : j + h] for j in range(0, 4 * h, h))
            G[...] = IG
            IG *= I
            C = np.multiply(F, Cs[k, first:last], out=Cs[k + 1, first:last])
            C += IG
            np.multiply(O, np.tanh(C, out=T[k, first:last]), out=Hs[k + 1, first:last])

    threads.share(part, n, _least(t, h))
    return _samples_first(Hs[1:], reverse), Hs[t].copy(), Cs[t].copy(), gates, T, Hs[:t], Cs[:t]


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
    dA, Q = empty((t, n, 4, h), X.dtype), empty((t, n, h), X.dtype)
    gates = gates.reshape(t, n, 4, h)

    dY, dH, dC = _steps_first(dY, reverse), dH.copy(), dC.copy()

    def part(first: int, last: int) -> None:
        dh, dc = dH[first:last], dC[first:last]
        through_H = np.empty_like(dh)
        for k in range(t - 1, -1, -1):
            P, q, a = dA[k, first:last], Q[k, first:last], gates[k, first:last]
            _local_gradients(a, T[k, first:last], C[k, first:last], P, q)
            dh += dY[k, first:last]
            dc += np.multiply(dh, q, out=through_H)
            P[:, :3] *= dc[:, None]
            P[:, 3] *= dh
            np.dot(P.reshape(-1, 4 * h), W_hh.T, out=dh)
            dc *= a[:, 1]

    threads.share(part, n, _least(t, h))
    dA = dA.reshape(t * n, 4 * h)
    X = _steps_first(X, reverse)
    dX = dA.dot(W_ih.T).reshape(X.shape)
    dW_ih, dW_hh = X.reshape(t * n, -1).T.dot(dA), H.reshape(t * n, h).T.dot(dA)
    return _samples_first(dX, reverse), dH, dC, dW_ih, dW_hh, column_sum(dA)


def _least(t: int, h: int) -> int:
    """Samples that are worth a thread."""
    return max(8, -(-_SHARE // (4 * t * h)))


def _local_gradients(gates: np.ndarray, T: np.ndarray, C: np.ndarray, P: np.ndarray, Q: np.ndarray) -> None:
    """P = (G I (1 - I), C F (1 - F), I (1 - G^2), T O (1 - O)), and Q = O (1 - T^2).   P: (n, 4, h)"""
    I, F, G, O = gates.swapaxes(0, 1)
    P_i, P_f, P_g, P_o = P.swapaxes(0, 1)
    for S, factor, P_s in ((I, G, P_i), (F, C, P_f), (O, T, P_o)):
        np.subtract(1, S, out=P_s)
        P_s *= S
        P_s *= factor
    for S, factor, P_s in ((G, I, P_g), (T, O, Q)):
        np.multiply(S, S, out=P_s)
        np.subtract(1, P_s, out=P_s)
        P_s *= factor


def _steps_first(X: np.ndarray, reverse: bool) -> np.ndarray:
    """(n, t, d) -> (t, n, d), in the order that the steps are made."""
    X = X.swapaxes(0, 1)
    return np.ascontiguousarray(X[::-1] if reverse else X)


def _samples_first(Y: np.ndarray, reverse: bool) -> np.ndarray:
    """The opposite of `_steps_first`."""
    return np.ascontiguousarray((Y[::-1] if reverse else Y).swapaxes(0, 1))
