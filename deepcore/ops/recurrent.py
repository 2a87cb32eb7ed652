"""Recurrent cells, and the loop over time that all of them share.

n samples, t steps, h numbers of state, G gates in a cell: A, B and their gradients are (n, G h).
A = X W_ih + b_ih comes from the input, B = H W_hh + b_hh from the state before, and a cell makes the new
state of the two: rnn (H), lstm (H and C), gru (H). It returns that state, and what its gradient needs beside.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deepcore.backends.registry import array_namespace
from deepcore.ops.activation import sigmoid
from deepcore.ops.dispatch import op
from deepcore.ops.linear import linear, linear_backward, matmul
from deepcore.ops.reduce import column_sum

# ---- cells


@op
def rnn(A: Any, B: Any, H: Any) -> tuple[Any]:
    """H' = tanh(A + B). Returns H'."""
    return (array_namespace(A).tanh(A + B),)


@op
def rnn_backward(dH: Any, H: Any) -> tuple[Any, Any]:
    """dA = dB = dH' (1 - H'^2). Returns dA, dB."""
    dA = dH * (1 - H * H)
    return dA, dA


@op
def lstm(A: Any, B: Any, H: Any, C: Any) -> tuple[Any, Any, Any, Any]:
    """C' = F C + I G, T = tanh C', H' = O T. Returns H', C', the gates, T.

    gates: (n, 4 h) = I F G O, side by side: sigmoid (of G: tanh) of the parts of A + B
    """
    xp = array_namespace(A)
    i, f, g, o = _parts(A + B, 4)
    I, F, G, O = sigmoid(i), sigmoid(f), xp.tanh(g), sigmoid(o)
    C_new = F * C + I * G
    T = xp.tanh(C_new)
    return O * T, C_new, xp.concat([I, F, G, O], axis=1), T


@op
def lstm_backward(dH: Any, dC: Any, gates: Any, T: Any, C: Any) -> tuple[Any, Any]:
    """dC' gets dH' O (1 - T^2); then dI = dC' G, dF = dC' C, dG = dC' I, dO = dH' T, and dC = dC' F.

    dA = dB = (dI I (1 - I), dF F (1 - F), dG (1 - G^2), dO O (1 - O)). Returns dA, dC.
    """
    xp = array_namespace(dH)
    I, F, G, O = (gates[k, ...] for k in range(4))
    dC = dC + dH * O * (1 - T * T)
    di, df = dC * G * I * (1 - I), dC * C * F * (1 - F)
    dg, do = dC * I * (1 - G * G), dH * T * O * (1 - O)
    dA = xp.concat([di, df, dg, do], axis=1)
    return dA, dC * F


@op
def gru(A: Any, B: Any, H: Any) -> tuple[Any, Any, Any, Any]:
    """H' = (1 - Z) N + Z H. Returns H', the gates, B_n, H.

    gates: (n, 3 h) = R Z N, side by side: sigmoid(A_r + B_r), sigmoid(A_z + B_z), tanh(A_n + R B_n)
    """
    xp = array_namespace(A)
    A_r, A_z, A_n = _parts(A, 3)
    B_r, B_z, B_n = _parts(B, 3)
    R, Z = sigmoid(A_r + B_r), sigmoid(A_z + B_z)
    N = xp.tanh(A_n + R * B_n)
    return (1 - Z) * N + Z * H, xp.concat([R, Z, N], axis=1), B_n, H


@op
def gru_backward(dH: Any, H_new: Any, gates: Any, B_n: Any, H: Any) -> tuple[Any, Any, Any]:
    """dN = dH' (1 - Z), dZ = dH' (H - N), and dA_n = dN (1 - N^2), dR = dA_n B_n, dB_n = dA_n R.

    dA_r = dB_r = dR R (1 - R), dA_z = dB_z = dZ Z (1 - Z). Returns dA, dB, and dH' Z: what H gets itself.
    """
    xp = array_namespace(dH)
    R, Z, N = _parts(gates, 3)
    dA_n = dH * (1 - Z) * (1 - N * N)
    dA_r, dA_z = dA_n * B_n * R * (1 - R), dH * (H - N) * Z * (1 - Z)
    return xp.concat([dA_r, dA_z, dA_n], axis=1), xp.concat([dA_r, dA_z, dA_n * R], axis=1), dH * Z


def _parts(A: Any, G: int) -> list[Any]:
    """(..., G h) -> G times (..., h)"""
    h = A.shape[-1] // G
    return [A[..., k * h : (k + 1) * h] for k in range(G)]


@op
def lstm_run(
    X: Any, W_ih: Any, W_hh: Any, b_ih: Any, b_hh: Any, H: Any, C: Any, reverse: bool = False
) -> tuple[Any, ...]:
    """The LSTM over all steps. Returns Y, the last H' and C'; and what the gradient needs of each step.

    X: (n, t, i), t > 0   H, C: (n, h), the first state   reverse: whether time runs backwards   Y: (n, t, h)
    These are the gates (4, t, n, h) and T, H, C (t, n, h), in the order that the steps are made.
    """
    A = linear(X, W_ih, b_ih)  # of all steps at once
    Hs, tape = [], []
    for step in _steps(X, reverse):
        before = H, C
        H, C, gates, T = lstm(A[:, step, :], linear(H, W_hh, b_hh), H, C)
        Hs.append(H)
        tape.append((gates, T, *before))
    gates, *parts = (stacked(*part) for part in zip(*tape, strict=True))
    gates = stacked(*_parts(gates, 4))  # (t, n, 4 h) -> (4, t, n, h)
    return (_in_time(Hs, reverse), H, C, gates, *parts)


@op
def lstm_run_backward(
    dY: Any,
    dH: Any,
    dC: Any,
    X: Any,
    W_ih: Any,
    W_hh: Any,
    gates: Any,
    T: Any,
    H: Any,
    C: Any,
    reverse: bool = False,
) -> tuple[Any, ...]:
    """dX, dH and dC of the first state, dW_ih, dW_hh, and db, which both biases have.

    dH, dC: of the last state   gates, T, H, C: what lstm_run returned
    """
    dAs = []
    for k, step in zip(range(T.shape[0] - 1, -1, -1), _steps(X, not reverse), strict=True):
        dA, dC = lstm_backward(dH + dY[:, step, :], dC, gates[:, k, ...], T[k, ...], C[k, ...])
        dH = matmul(dA, W_hh.T)
        dAs.append(dA)
    dX, dW_ih, db = linear_backward(_in_time(dAs, not reverse), X, W_ih)
    dW_hh = matmul(_rows(H).T, _rows(stacked(*dAs[::-1])))
    return dX, dH, dC, dW_ih, dW_hh, db


class Cell(NamedTuple):
    """A cell and its gradient, for one step, or for a whole run.

    gates: G   states: how many arrays its state is
    """

    gates: int
    states: int
    forward: Any = None
    backward: Any = None
    run: Any = None
    run_backward: Any = None


RNN = Cell(1, 1, rnn, rnn_backward)
LSTM = Cell(4, 2, run=lstm_run, run_backward=lstm_run_backward)
GRU = Cell(3, 1, gru, gru_backward)


# ---- the loop


def recur(
    cell: Cell, X: Any, weights: tuple[Any, ...], state: tuple[Any, ...], reverse: bool = False
) -> tuple[Any, tuple[Any, ...], list[Any]]:
    """Y, which is H after every step, the last state, and a tape: what the gradient needs of the run.

    X: (n, t, i), t > 0   W_ih: (i, G h)   W_hh: (h, G h)   b_ih, b_hh: (1, G h)   state: each (n, h)
    Y: (n, t, h)   reverse: whether time runs backwards
    """
    if cell.run is not None:
        Y, *rest = cell.run(X, *weights, *state, reverse)
        return Y, tuple(rest[: cell.states]), rest[cell.states :]
    W_ih, W_hh, b_ih, b_hh = weights
    A = linear(X, W_ih, b_ih)  # of all steps at once
    tape = []  # H before each step, and what the cell returned
    for step in _steps(X, reverse):
        after = cell.forward(A[:, step, :], linear(state[0], W_hh, b_hh), *state)
        tape.append((state[0], after))
        state = after[: cell.states]
    return _in_time([after[0] for _, after in tape], reverse), state, tape


def recur_backward(
    cell: Cell,
    dY: Any,
    dState: tuple[Any, ...],
    tape: list[Any],
    X: Any,
    weights: tuple[Any, ...],
    reverse: bool = False,
) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """dX, the gradient of the first state, and those of W_ih, W_hh, b_ih, b_hh.

    dState: of the last state. Each step's H gets dB W_hh^T from the step after it, beside its own dY; the
    weights are the same in all steps, so that their gradients are sums over samples and steps.
    """
    W_ih, W_hh, _, _ = weights
    if cell.run_backward is not None:
        dX, *dFirst, dW_ih, dW_hh, db = cell.run_backward(dY, *dState, X, W_ih, W_hh, *tape, reverse)
        return dX, tuple(dFirst), (dW_ih, dW_hh, db, db)
    dAs, dBs = [], []
    (dH,) = dState
    for step, (_, after) in zip(_steps(X, not reverse), reversed(tape), strict=True):
        dA, dB, *direct = cell.backward(dH + dY[:, step, :], *after)
        dAs.append(dA)
        dBs.append(dB)
        dH = matmul(dB, W_hh.T)
        if direct:
            dH = dH + direct[0]
    dX, dW_ih, db_ih = linear_backward(_in_time(dAs, not reverse), X, W_ih)
    dB = _rows(stacked(*dBs))  # the last step made comes first
    dW_hh = matmul(_rows(stacked(*(before for before, _ in tape[::-1]))).T, dB)
    return dX, (dH,), (dW_ih, dW_hh, db_ih, column_sum(dB))


def _steps(X: Any, reverse: bool) -> range:
    t = X.shape[1]
    return range(t - 1, -1, -1) if reverse else range(t)


def _in_time(steps: list[Any], reverse: bool) -> Any:
    """t arrays (n, d), the last first if `reverse`, as (n, t, d)"""
    return stacked(*(steps[::-1] if reverse else steps), axis=1)


@op
def stacked(*arrays: Any, axis: int = 0) -> Any:
    """Arrays of one shape along a new axis: a library's own stack may be one that can't be captured."""
    return array_namespace(arrays[0]).stack(arrays, axis=axis)


def _rows(A: Any) -> Any:
    """(t, n, d) -> (t n, d)"""
    return array_namespace(A).reshape(A, (-1, A.shape[2]))
