"""A vector for each of finitely many things, such as words or characters."""

from __future__ import annotations

from typing import Any

from deepcore import init as initialisers
from deepcore.backends.registry import is_array
from deepcore.backends.select import dtype_name, is_integer, to_numpy
from deepcore.core.function import wants_floats
from deepcore.core.layer import Layer
from deepcore.core.record import CURRENT
from deepcore.errors import DTypeError, LabelError
from deepcore.ops import embedding, labels
from deepcore.shapes import to_tuple


class Embedding(Layer):
    """Y = W[X]: the row of W that each index names.

    X: (...) of any integer type, 0 <= X < num   W: (num, dim)   Y: (..., dim)   W ~ N(0, 1).

    It is the product onehot(X) W, without its zeros. So each row of W gets the gradients of all places
    where it was looked up, and an index has none:

    dW[k] = sum of dY over the places where X = k     no dX: backward returns None

    Raises DTypeError for floats, LabelError naming the first index out of range and its place. A compiled
    step can't look at numbers: there such an index gives a row of NaN.

    >>> import numpy as np
    >>> layer = Embedding(3, 2, init="ones")
    >>> layer(np.array([[0, 2, 2]])).shape
    (1, 3, 2)
    >>> layer.backward(np.ones((1, 3, 2), "float32"))
    >>> layer.weight_update["W"]
    array([[1., 1.],
           [0., 0.],
           [2., 2.]], dtype=float32)
    """

    traceable = True
    wants_floats = False
    looks_up = True

    def __init__(
        self,
        num: int,
        dim: int,
        *,
        init: str | initialisers.Initialiser | None = None,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        (self.num,) = to_tuple(num, 1, "Embedding", "num", least=1)
        (self.dim,) = to_tuple(dim, 1, "Embedding", "dim", least=1)
        self.init = init
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        as_torch = self.init is None or initialisers.as_torch(self.init)
        init: Any = initialisers.normal(1.0) if as_torch else self.init
        self.weight["W"] = initialisers.make(
            init, (self.num, self.dim), self.num, self.dim, dtype, device, self
        )

    def forward(self, X: Any) -> Any:
        if not is_array(X):
            raise wants_floats(self, X)
        if not is_integer(X):
            raise DTypeError(
                f"{self._who()}: X must hold integers, got {dtype_name(X)} numbers; use X.astype(int)"
            )
        in_doubt = CURRENT.thread.labels_checked  # in a compiled step nobody can look
        if not in_doubt and not labels.all_within(X, self.num):
            raise self._out_of_range(X)
        self.cache["X"] = X
        return embedding.embedding(self.weight["W"], X, in_doubt)

    def backward(self, dY: Any) -> None:
        self.weight_update["W"] = embedding.scatter_add(self.cache["X"], dY, self.num)

    def _out_of_range(self, X: Any) -> LabelError:
        first = labels.first_bad_label(X, self.num, ignore_index=0)  # 0 is never out of range
        place, host = [], to_numpy(X)
        for size in reversed(host.shape):
            first, i = divmod(first, size)
            place.insert(0, i)
        return LabelError(
            f"{self._who()}: indices must be 0 to {self.num - 1}, got {int(host[tuple(place)])} "
            f"at {tuple(place)}; clean X, or make num larger"
        )
