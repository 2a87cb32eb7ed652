"""Layers in which each step of a sequence looks at others."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.backends.registry import array_namespace, is_array
from deepcore.backends.select import dtype_name, is_floating
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops import attention, linear
from deepcore.shapes import to_tuple


class MultiHeadAttention(Layer):
    """Each query takes a mean of the values, weighed by how well their keys match it; `heads` times at once.

    q_i = X_q W_q + b_q   k_i = X_k W_k + b_k   v_i = X_v W_v + b_v, cut into heads of d = dim / heads columns
    P = softmax(q k^T / sqrt(d)) over the keys, in each head     Y = (P v, heads side by side) W_o + b_o

    X_q: (n, q, dim)   X_k, X_v: (n, k, dim)   P: (n, heads, q, k)   Y: (n, q, dim); n: any axes
    W_q, W_k, W_v, W_o: (dim, dim) ~ U(-sqrt(3 / dim), sqrt(3 / dim)) ("glorot_uniform")   b_...: (1, dim) = 0

    f(X)               self-attention: X is all three
    f(X_q, X_k)        cross-attention to what has keys and values in one, X_v = X_k
    f(X_q, X_k, X_v)   each its own

    and each may end in a mask, f(X, mask) or f(X, mask=mask): bool, True where a query may attend to a key,
    of shape (q, k), (n, q, k) or (n, heads, q, k), or 1 for any of these; of a mask (n, k) of keys, use
    mask[:, None, :]. causal: query i attends to the keys 0 to i alone. A query that may attend to nothing
    takes 0. After f(X), f.cache["P"] shows who looked at whom.

    With H = P v and Z = H W_o + b_o, by the chain rule:

    dW_o = H^T dY     db_o = sum dY     dH = dY W_o^T
    dv = P^T dH     dP = dH v^T     dS = P (dP - sum_k P dP)     dq = dS k / sqrt(d)     dk = dS^T q / sqrt(d)
    dX_q = dq W_q^T     dW_q = X_q^T dq     db_q = sum dq     and so for k and v

    backward returns one gradient for each input that is no mask; of f(X), their sum.

    Raises ShapeError for inputs or a mask that don't fit, DTypeError for a mask that is not bool.
    Vaswani et al. 2017, arXiv:1706.03762.

    >>> import numpy as np
    >>> layer = MultiHeadAttention(8, 2, causal=True)
    >>> layer(np.ones((3, 5, 8))).shape
    (3, 5, 8)
    >>> layer.cache["P"][0, 0, 1]
    array([0.5, 0.5, 0. , 0. , 0. ], dtype=float32)
    """

    traceable = True

    def __init__(
        self,
        dim: int,
        heads: int,
        causal: bool = False,
        *,
        init: str | initialisers.Initialiser = "glorot_uniform",
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        who = "MultiHeadAttention"
        (self.dim,) = to_tuple(dim, 1, who, "dim", least=1)
        (self.heads,) = to_tuple(heads, 1, who, "heads", least=1)
        if self.dim % self.heads:
            raise ArgumentError(f"{who}: heads must divide dim, got dim={dim} and heads={heads}")
        self.causal = bool(causal)
        self.init = init
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        d = self.dim
        for name in "qkvo":
            self.weight[f"W_{name}"] = initialisers.make(self.init, (d, d), d, d, dtype, device, self)
            self.weight[f"b_{name}"] = initialisers.make("zeros", (1, d), d, d, dtype, device, self)

    def __call__(self, *inputs: Any, mask: Any = None) -> Any:
        """Y, for X or X_q, X_k and X_v, with a mask at the end or by its name."""
        if mask is None:
            return super().__call__(*inputs)
        check_mask(self, mask)
        return super().__call__(*inputs, mask)

    def forward(self, *inputs: Any) -> Any:
        given = [x for x in inputs if x is not None]
        mask = given.pop() if len(given) > 1 and dtype_name(given[-1]) == "bool" else None
        self._check(given)
        Xs = (given + given[-1:] * 2)[:3]
        allowed = self._allowed(mask, *Xs[:2])
        rows = [_rows(X) for X in Xs]
        heads = [
            attention.split_heads(
                linear.linear(row, self.weight[f"W_{name}"], self.weight[f"b_{name}"]), X.shape, self.heads
            )
            for name, row, X in zip("qkv", rows, Xs, strict=True)
        ]
        taken, P = attention.attention(*heads, allowed)
        H = attention.join_heads(taken)
        self.cache.update(inputs=given, rows=rows, heads=heads, P=P, H=H)
        Y = linear.linear(H, self.weight["W_o"], self.weight["b_o"])
        return array_namespace(Y).reshape(Y, Xs[0].shape)

    def backward(self, dY: Any) -> Any:
        cache, xp = self.cache, array_namespace(dY)
        dH = self._linear_backward("o", _rows(dY), cache["H"])
        dH = attention.split_heads(dH, dY.shape, self.heads)
        parts = attention.attention_backward(dH, *cache["heads"], cache["P"])
        dXs = [
            self._linear_backward(name, attention.join_heads(part), row)
            for name, part, row in zip("qkv", parts, cache["rows"], strict=True)
        ]
        given = cache["inputs"]
        if len(given) < 3:  # the last input was keys and values, if not queries too
            dXs = [*dXs[: len(given) - 1], sum(dXs[len(given) :], start=dXs[len(given) - 1])]
        dXs = [xp.reshape(dX, X.shape) for dX, X in zip(dXs, given, strict=True)]
        return tuple(dXs) if len(dXs) > 1 else dXs[0]

    def _linear_backward(self, name: str, dY: Any, X: Any) -> Any:
        """dX of X W + b; dW and db are put down."""
        dX, dW, db = linear.linear_backward(dY, X, self.weight[f"W_{name}"])
        self.weight_update[f"W_{name}"], self.weight_update[f"b_{name}"] = dW, db
        return dX

    def _check(self, inputs: list[Any]) -> None:
        shapes = [tuple(X.shape) for X in inputs]
        for X in inputs:
            if not is_floating(X):
                raise DTypeError(
                    f"{self._who()}: inputs must be floating-point numbers, and a mask bool, "
                    f"got {dtype_name(X)}; use mask.astype(bool)"
                )
            if X.ndim < 2 or X.shape[-1] != self.dim:
                raise ShapeError(f"{self._who()}: X must have shape (n, t, {self.dim}), got {tuple(X.shape)}")
        fit = len({shape[:-2] for shape in shapes}) == 1 and len({shape[-2] for shape in shapes[1:]}) <= 1
        if not fit or len(inputs) > 3:
            raise ShapeError(
                f"{self._who()}: wanted X, or queries (n, q, {self.dim}) and keys and values "
                f"(n, k, {self.dim}), got {', '.join(map(str, shapes))}"
            )

    def _allowed(self, mask: Any, Q: Any, K: Any) -> Any:
        """Which keys each query may attend to, in the form that broadcasts to P, or None for all."""
        causal = attention.causal_mask(Q, K.shape[-2]) if self.causal else None
        if mask is None:
            return causal
        xp = array_namespace(Q, mask)
        wanted = (*Q.shape[:-2], self.heads, Q.shape[-2], K.shape[-2])
        if mask.ndim == Q.ndim > 2:
            mask = xp.expand_dims(mask, axis=-3)  # (n, q, k) -> (n, 1, q, k)
        ends = zip(reversed(mask.shape), reversed(wanted), strict=False)
        if mask.ndim > len(wanted) or any(size not in (1, most) for size, most in ends):
            raise ShapeError(
                f"{self._who()}: a mask must be (q, k) = {wanted[-2:]}, (n, q, k), or (n, heads, q, k) = "
                f"{wanted}, got {tuple(mask.shape)}; of a mask (n, k) of keys use mask[:, None, :]"
            )
        return mask if causal is None else mask & causal


def check_mask(f: Function, mask: Any) -> None:
    """Raise DTypeError unless the mask is bool: one of floats would be taken for keys."""
    wanted = "mask must be an array of bool, True where a query may attend to a key"
    if not is_array(mask):
        raise DTypeError(
            f"{f._who()}: {wanted}, got {type(mask).__name__}; convert it with deepcore.asarray(mask)"
        )
    if dtype_name(mask) != "bool":
        raise DTypeError(
            f"{f._who()}: {wanted}, got {dtype_name(mask)}; use mask > 0, "
            "or mask == 0 of one that is added to the scores"
        )


def _rows(X: Any) -> Any:
    """(n, t, dim) -> (n t, dim)"""
    return array_namespace(X).reshape(X, (math.prod(X.shape[:-1]), X.shape[-1]))
