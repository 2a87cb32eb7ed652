"""Layers that carry a state from step to step of a sequence: one implementation, one class for each cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from deepcore import init as initialisers
from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.core.function import wants_floats
from deepcore.core.layer import Layer
from deepcore.core.record import Record
from deepcore.errors import ShapeError
from deepcore.ops import recurrent
from deepcore.shapes import to_tuple


class Recurrent(Layer):
    """A cell, run over the steps of a sequence, in `num_layers` layers and one or two directions.

    Abstract: use RNN, LSTM or GRU, whose docstrings call D the directions and L the layers.
    """

    traceable = True
    sample_axes = (0, -2)  # of Y, and of the state: the axis that counts the samples
    _cell: recurrent.Cell

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        *,
        return_state: bool = False,
        init: str | initialisers.Initialiser | None = None,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        who = type(self).__name__
        (self.input_dim,) = to_tuple(input_dim, 1, who, "input_dim", least=1)
        (self.hidden_dim,) = to_tuple(hidden_dim, 1, who, "hidden_dim", least=1)
        (self.num_layers,) = to_tuple(num_layers, 1, who, "num_layers", least=1)
        self.bidirectional = bool(bidirectional)
        self.return_state = bool(return_state)
        self.init = init
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        h, width = self.hidden_dim, self._cell.gates * self.hidden_dim
        init = initialisers.torch if self.init is None else self.init
        inits = (init, init, initialisers.of_bias(init), initialisers.of_bias(init))
        for layer in range(self.num_layers):
            i = self.input_dim if layer == 0 else self._directions * h
            for suffix, _, _ in self._runs(layer):
                for name, rows, draw in zip(_WEIGHTS, (i, h, 1, 1), inits, strict=True):
                    fan_in = h if initialisers.as_torch(init) else rows  # torch: the same bound for all four
                    W = initialisers.make(draw, (rows, width), fan_in, width, dtype, device, self)
                    self.weight[name + suffix] = W

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _runs(self, layer: int) -> Iterator[tuple[str, int, bool]]:
        """A layer's runs: what its weights' names end in, its place in the state, whether it is backwards."""
        for direction in range(self._directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            yield suffix, layer * self._directions + direction, direction == 1

    def _weights_of(self, suffix: str) -> tuple[Any, ...]:
        return tuple(self.weight[name + suffix] for name in _WEIGHTS)

    def __call__(self, X: Any, *state: Any) -> Any:
        """Y, or Y and the last state. Without a first state it is 0; a pair of arrays becomes one array."""
        return super().__call__(X, *map(self._one_array, state))

    def forward(self, X: Any, *state: Any) -> Any:
        if X.ndim != 3 or X.shape[1] == 0 or X.shape[2] != self.input_dim:
            raise ShapeError(
                f"{self._who()}: X must have shape (n, t, {self.input_dim}) with t >= 1 steps, "
                f"got {tuple(X.shape)}"
            )
        xp = array_namespace(X)
        first, last = self._first_state(X, state), []
        self.cache["tapes"] = tapes = []
        Y = X
        for layer in range(self.num_layers):
            X, Ys = Y, []
            for suffix, place, reverse in self._runs(layer):
                Y, S, tape = recurrent.recur(
                    self._cell, X, self._weights_of(suffix), _at(first, place), reverse
                )
                Ys.append(Y)
                last.append(S)
                tapes.append((X, tape))
            Y = Ys[0] if len(Ys) == 1 else xp.concat(Ys, axis=2)
        return (Y, *self._as_inputs(last, 1)) if self.return_state else Y

    def backward(self, dY: Any, dState: Any = None) -> Any:
        h = self.hidden_dim
        last, first = self._first_state(dY, (self._one_array(dState),)), []
        for layer in range(self.num_layers - 1, -1, -1):
            dX = None
            for suffix, place, reverse in reversed(list(self._runs(layer))):
                X, tape = self.cache["tapes"][place]
                part = dY[:, :, h:] if reverse else dY[:, :, :h]
                dX_run, S, dW = recurrent.recur_backward(
                    self._cell, part, _at(last, place), tape, X, self._weights_of(suffix), reverse
                )
                dX = dX_run if dX is None else dX + dX_run
                first.insert(0, S)
                self.weight_update.update({name + suffix: d for name, d in zip(_WEIGHTS, dW, strict=True)})
            dY = dX
        given = sum(S is not None for S in self._record.inputs[1:])
        return (dY, *self._as_inputs(first, given)) if given else dY

    def _fit_gradient(self, record: Record, dY: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return super()._fit_gradient(record, tuple(map(self._one_array, dY)), named)

    # ---- the state: inside, (S, D L, n, h) with S = 2 for an LSTM, else 1

    def _one_array(self, state: Any) -> Any:
        """The arrays of a tuple or list as one; an array, or None, as it is."""
        if not isinstance(state, tuple | list):
            return state
        for part in state:
            if not is_array(part):
                raise wants_floats(self, part)
        return array_namespace(*state).stack(list(state), axis=0)

    def _first_state(self, X: Any, state: tuple[Any, ...]) -> Any:
        """The state that is given, or 0, in the dtype and on the device of X."""
        xp, count = array_namespace(X), self._cell.states
        one = (self._directions * self.num_layers, X.shape[0], self.hidden_dim)
        given = [part for part in state if part is not None]
        if not given:
            return xp.zeros((count, *one), dtype=X.dtype, device=backend_of(X).device(X))
        wanted = one if len(given) == count else (count, *one)
        if len(given) > count or any(tuple(part.shape) != wanted for part in given):
            raise ShapeError(
                f"{self._who()}: for {X.shape[0]} samples the state must have shape {wanted}, "
                f"got {' and '.join(str(tuple(part.shape)) for part in given)}"
            )
        return xp.stack(given, axis=0) if len(given) == count else given[0]

    def _as_inputs(self, runs: list[tuple[Any, ...]], count: int) -> tuple[Any, ...]:
        """The state of every run, in `count` arrays."""
        xp = array_namespace(runs[0][0])
        parts = [xp.stack(list(part), axis=0) for part in zip(*runs, strict=True)]
        return tuple(parts) if len(parts) == count else (xp.stack(parts, axis=0),)


_WEIGHTS = ("W_ih", "W_hh", "b_ih", "b_hh")


def _at(state: Any, place: int) -> tuple[Any, ...]:
    """A run's part of the state, as its cell takes it."""
    return tuple(state[k, place, ...] for k in range(state.shape[0]))


class RNN(Recurrent):
    """H_t = tanh(X_t W_ih + b_ih + H_(t-1) W_hh + b_hh), step by step; Y holds all H_t.

    X: (n, t, i)   W_ih: (i, h)   W_hh: (h, h)   b_ih, b_hh: (1, h)   H: (n, h)   Y: (n, t, D h)
    All weights ~ U(-1/sqrt(h), 1/sqrt(h)), as in torch; with another `init`, b_ih = b_hh = 0. Their names end
    in _l0, in _l1 for the second layer, whose input is the Y of the first, and then in _reverse for the
    direction from the last step to the first; D = 2 if `bidirectional`, and both directions' H stand side by
    side.

    f(X, state) starts from a state (D L, n, h), L = num_layers: a run's H_0, or with `return_state`, where
    the layer returns (Y, state), its last H. Each is an input or output like any other: backward then takes
    (dY, dstate), and returns (dX, dstate).

    H_t acts on Y_t and on the step after it. So, from the last step to the first,

    dH_t = dY_t + dA_(t+1) W_hh^T     dA_t = dH_t (1 - H_t^2)     dX_t = dA_t W_ih^T
    dW_ih = sum X_t^T dA_t     dW_hh = sum H_(t-1)^T dA_t     db_ih = db_hh = sum dA_t     over n and t

    Raises ShapeError if X is not (n, t, i) with t >= 1, or for a state of another shape.
    Elman 1990; back-propagation through time: Werbos 1990.

    >>> import numpy as np
    >>> layer = RNN(3, 4, return_state=True)
    >>> Y, state = layer(np.zeros((2, 5, 3)))
    >>> Y.shape, state.shape
    ((2, 5, 4), (1, 2, 4))
    """

    _cell = recurrent.RNN


class LSTM(Recurrent):
    """A state C that gates add to and forget from, and what another gate shows of it, H.

    i, f, g, o = the four parts of X_t W_ih + b_ih + H_(t-1) W_hh + b_hh
    I = sigmoid(i)   F = sigmoid(f)   G = tanh(g)   O = sigmoid(o)
    C_t = F C_(t-1) + I G     H_t = O tanh C_t     Y holds all H_t

    X: (n, t, i)   W_ih: (i, 4 h)   W_hh: (h, 4 h)   b_ih, b_hh: (1, 4 h)   C, H: (n, h)   Y: (n, t, D h)
    Weights, layers, directions and `return_state` are as in RNN; the state is H and C in one array,
    (2, D L, n, h). A pair (H, C) will do too, and f(X, H, C), whose backward returns three gradients.

    With T = tanh C_t, from the last step to the first,

    dH_t = dY_t + dA_(t+1) W_hh^T     dC_t = dH_t O (1 - T^2) + dC_(t+1) F_(t+1)
    dI = dC_t G     dF = dC_t C_(t-1)     dG = dC_t I     dO = dH_t T
    dA_t = (dI I (1 - I), dF F (1 - F), dG (1 - G^2), dO O (1 - O))

    and from dA_t the rest as in RNN. Raises ShapeError if X is not (n, t, i) with t >= 1, or for a state of
    another shape. Hochreiter and Schmidhuber 1997; with F: Gers et al. 2000.

    >>> import numpy as np
    >>> layer = LSTM(3, 4, num_layers=2, return_state=True)
    >>> Y, (H, C) = layer(np.zeros((2, 5, 3)))
    >>> Y.shape, H.shape
    ((2, 5, 4), (2, 2, 4))
    """

    _cell = recurrent.LSTM


class GRU(Recurrent):
    """A state H, of which a gate Z keeps a part and a gate R shows a part to what replaces the rest.

    A_r, A_z, A_n = the three parts of X_t W_ih + b_ih     B_r, B_z, B_n = those of H_(t-1) W_hh + b_hh
    R = sigmoid(A_r + B_r)   Z = sigmoid(A_z + B_z)   N = tanh(A_n + R B_n)
    H_t = (1 - Z) N + Z H_(t-1)     Y holds all H_t

    X: (n, t, i)   W_ih: (i, 3 h)   W_hh: (h, 3 h)   b_ih, b_hh: (1, 3 h)   H: (n, h)   Y: (n, t, D h)
    R acts behind the product with W_hh, as in torch and cuDNN (in the paper, before it). Weights, layers,
    directions and the state, (D L, n, h), are as in RNN.

    From the last step to the first,

    dH_t = dY_t + dB_(t+1) W_hh^T + dH_(t+1) Z_(t+1)
    dA_n = dH_t (1 - Z) (1 - N^2)     dA_r = dA_n B_n R (1 - R)     dA_z = dH_t (H_(t-1) - N) Z (1 - Z)
    dA_t = (dA_r, dA_z, dA_n)     dB_t = (dA_r, dA_z, dA_n R)

    dX_t = dA_t W_ih^T     dW_ih = sum X_t^T dA_t     db_ih = sum dA_t     over n and t
    dW_hh = sum H_(t-1)^T dB_t     db_hh = sum dB_t

    Raises ShapeError if X is not (n, t, i) with t >= 1, or for a state of another shape.
    Cho et al. 2014, arXiv:1406.1078.

    >>> import numpy as np
    >>> GRU(3, 4, bidirectional=True)(np.zeros((2, 5, 3))).shape
    (2, 5, 8)
    """

    _cell = recurrent.GRU
