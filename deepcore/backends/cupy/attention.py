"""Attention by cuDNN, in 16 bits: P, as large as queries times keys, is never written.

In float32 there is no engine for the gradient, and the reference runs, with products by cuBLASLt and softmax
by a kernel. Whatever may not be attended to gets -1e30 added to its logit; a query that may attend to nothing
is then finite, and its row is set to 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cupy

from deepcore.backends.cupy import cudnn, tuning
from deepcore.backends.cupy.kernels import serves
from deepcore.backends.cupy.linear import product
from deepcore.backends.cupy.softmax import softmax, softmax_backward

_FORBIDDEN = -1e30


@dataclass(frozen=True)
class Attention:
    """All that a plan depends on.   n samples, h heads, q queries, k keys, d numbers of each

    steps: the strides of each array, in elements, in the order of `describe`
    mask: the samples and heads that the numbers have that are added to the logits, or None without them
    """

    gradient: bool
    sizes: tuple[int, int, int, int, int]
    steps: tuple[tuple[int, ...], ...]
    mask: tuple[int, int] | None
    dtype: str
    tuned: bool
    rough: bool = True

    def describe(self, library: Any, **where: Any) -> tuple[Any, list[Any]]:
        """The graph and its tensors: Q K V Y statistics, of the gradient dY dQ dK dV too, and any mask."""
        number, wide = getattr(library.data_type, cudnn.TYPES[self.dtype]), library.data_type.FLOAT
        graph = library.pygraph(
            io_data_type=number, intermediate_data_type=wide, compute_data_type=wide, **where
        )
        n, h, q, k, d = self.sizes
        lengths = (q, k, k, q, q, q, k, k)
        shapes = [(n, h, length, d) for length in lengths]
        shapes.insert(4, (n, h, q, 1))

        def given(i: int) -> Any:
            shape, dtype = list(shapes[i]), wide if i == 4 else number
            return graph.tensor(name=_NAMES[i], dim=shape, stride=list(self.steps[i]), data_type=dtype)

        def result(i: int, tensor: Any) -> Any:
            tensor.set_output(True)
            tensor.set_dim(list(shapes[i]))
            tensor.set_stride(list(self.steps[i]))
            tensor.set_data_type(wide if i == 4 else number)
            return tensor

        settings: dict[str, Any] = {"attn_scale": 1 / math.sqrt(d)}
        if self.mask is not None:
            shape = [*self.mask, q, k]
            settings["bias"] = graph.tensor(name="mask", dim=shape, stride=cudnn.steps(shape), data_type=wide)
        Q, K, V = map(given, range(3))
        if not self.gradient:
            made = graph.sdpa(name="attention", q=Q, k=K, v=V, generate_stats=True, **settings)
            tensors = [Q, K, V, *map(result, (3, 4), made)]
        else:
            Y, statistics, dY = map(given, range(3, 6))
            made = graph.sdpa_backward(
                **{"name": "gradient", "q": Q, "k": K, "v": V, "o": Y, "dO": dY, "stats": statistics},
                use_deterministic_algorithm=True,
                **settings,
            )
            tensors = [Q, K, V, Y, statistics, dY, *map(result, (6, 7, 8), made)]
        return graph, tensors + ([settings["bias"]] if self.mask is not None else [])


_NAMES = ("Q", "K", "V", "Y", "statistics", "dY", "dQ", "dK", "dV")


class Attended:
    """In place of P: what the gradient needs. P itself is computed where somebody reads it, as in P[0]."""

    def __init__(self, Q: Any, K: Any, Y: Any, statistics: Any, mask: Any, some: Any):
        self.Q, self.K, self.Y, self.statistics, self.mask, self.some = Q, K, Y, statistics, mask, some

    def __getitem__(self, index: Any) -> Any:
        return self.P()[index]

    def P(self) -> Any:
        """softmax(Q K^T / sqrt(d)) over the keys that are allowed"""
        Q = _scaled(self.Q.astype(cupy.float32), self.Q)
        S = product(Q, self.K.swapaxes(-1, -2)).astype(cupy.float32)
        if self.mask is None:
            return softmax(S).astype(Q.dtype)
        return cupy.where(self.some, softmax(S + self.mask), cupy.float32(0)).astype(Q.dtype)


def attention(Q: Any, K: Any, V: Any, allowed: Any = None) -> tuple[Any, Any]:
    """Y = P V, P = softmax(Q K^T / sqrt(d)), and an Attended in place of P"""
    if not _serve(Q, K, V):
        return NotImplemented
    n, h, q, _ = Q.shape
    mask, some = _as_numbers(allowed, (n, h, q, K.shape[2]))
    Q, K, V = map(_rows_in_one_piece, (Q, K, V))
    Y, statistics = _by_heads(Q), cupy.empty((n, h, q, 1), cupy.float32)
    if not _run(False, Q.shape, K.shape, mask, Q, K, V, Y, statistics):
        return NotImplemented
    if some is not None:
        Y = _zero_unless(some, Y)
    return Y, Attended(Q, K, Y, statistics, mask, some)


def attention_backward(dY: Any, Q: Any, K: Any, V: Any, P: Any) -> tuple[Any, Any, Any]:
    """dP = dY V^T, dS = P (dP - sum P dP); dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d), dV = P^T dY"""
    if not isinstance(P, Attended):
        return NotImplemented
    dY = dY.astype(Q.dtype, copy=False)
    if P.some is not None:
        dY = _zero_unless(P.some, dY)
    dY, Q, K, V, Y = map(_rows_in_one_piece, (dY, Q, K, V, P.Y))
    gradients = tuple(map(_by_heads, (Q, K, V)))
    if _run(True, Q.shape, K.shape, P.mask, Q, K, V, Y, P.statistics, dY, *gradients):
        return gradients
    weights = P.P()
    dP = product(dY, V.swapaxes(-1, -2))
    dS = _scaled(softmax_backward(dP.astype(cupy.float32), weights.astype(cupy.float32)), Q)
    return product(dS, K), product(dS.swapaxes(-1, -2), Q), product(weights.swapaxes(-1, -2), dY)


def _zero_unless(some: Any, X: Any) -> Any:
    """X, of 16 bits, where `some` is true, else 0; as bits, since cupy.where widens bfloat16 to float32."""
    return cupy.where(some, X.view(cupy.uint16), 0).view(X.dtype)


def _scaled(wide: Any, Q: Any) -> Any:
    """Numbers of float32, over sqrt(d), in Q's dtype."""
    return (wide * cupy.float32(1 / math.sqrt(Q.shape[-1]))).astype(Q.dtype)


def _run(gradient: bool, of_Q: Any, of_K: Any, mask: Any, *arrays: Any) -> bool:
    n, h, q, d = of_Q
    steps = tuple(tuple(step // x.itemsize for step in x.strides) for x in arrays)
    problem = Attention(
        gradient,
        (n, h, q, of_K[2], d),
        steps,
        None if mask is None else mask.shape[:2],
        arrays[0].dtype.name,
        tuning.allowed(),
    )
    return cudnn.run(problem, *arrays, *([] if mask is None else [mask]))


def _serve(Q: Any, K: Any, V: Any) -> bool:
    return (
        cudnn.load() is not None
        and Q.ndim == 4
        and Q.dtype.name in ("float16", "bfloat16")
        and Q.dtype == K.dtype == V.dtype
        and K.shape == V.shape
        and Q.shape[-1] % 8 == 0
        and Q.shape[-1] <= 128
        and serves(Q)
        and serves(K)
    )


def _as_numbers(allowed: Any, shape: tuple[int, ...]) -> tuple[Any, Any]:
    """What is added to the logits, (n or 1, h or 1, q, k), and which queries have a key; or None of both."""
    if allowed is None:
        return None, None
    allowed = allowed.reshape((1,) * (4 - allowed.ndim) + allowed.shape)
    allowed = cupy.broadcast_to(allowed, (*allowed.shape[:2], *shape[2:]))
    mask = cupy.where(allowed, cupy.float32(0), cupy.float32(_FORBIDDEN))
    return mask, allowed.any(axis=-1, keepdims=True)


def _rows_in_one_piece(X: Any) -> Any:
    """X with a last axis of neighbours, from a 16-byte boundary on; heads and steps in any order."""
    even = all(step % 16 == 0 for step in X.strides[:-1])
    return X if X.strides[-1] == X.itemsize and even and X.data.ptr % 16 == 0 else X.copy(order="C")


def _by_heads(X: Any) -> Any:
    """A new array of X's shape (n, h, t, d), in memory (n, t, h, d): to join the heads copies nothing."""
    n, h, t, d = X.shape
    return cupy.empty((n, t, h, d), X.dtype).swapaxes(1, 2)
