"""Functions made of Functions: each is a Function itself, nests, and differentiates itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.function import Function
from deepcore.core.settings import to_whole
from deepcore.errors import DeepcoreError, DTypeError, ShapeError


def chain_forward(functions: Sequence[Function], inputs: tuple[Any, ...], word: str) -> Any:
    """Y = f_n(... f_1(inputs)). A tuple that one function returns is several inputs of the next."""
    Y: Any = inputs[0] if len(inputs) == 1 else inputs
    for index, f in enumerate(functions):
        try:
            Y = f(*Y) if type(Y) is tuple else f(Y)
            if Y is None:
                raise DTypeError(f"{f._who()}: forward returned None; end it with return Y")
        except DeepcoreError as error:
            error.inside(f"{word} {index}")
            raise
    return Y


def chain_backward(functions: Sequence[Function], dY: tuple[Any, ...]) -> Any:
    """The gradients of chain_forward's inputs, given that of its output."""
    dX: Any = dY[0] if len(dY) == 1 else dY
    for index in range(len(functions) - 1, -1, -1):
        f = functions[index]
        dX = f.backward(*dX) if type(dX) is tuple else f.backward(dX)
        if dX is None and index:  # only the first function's input may have none, as labels and indices
            raise DTypeError(f"{f._who()}: backward returned None; end it with return dX")
    return dX


def one_output(whose: Function, f: Function, Y: Any) -> Any:
    """Y itself. Raises DTypeError if the branch f returned several arrays."""
    if type(Y) is tuple:
        raise DTypeError(
            f"{whose._who()}: each branch must return one array, {f._who()} returned {len(Y)}; "
            "put a Function behind it that makes one of them"
        )
    return Y


def check_functions(who: str, functions: Sequence[Any]) -> None:
    """Raise DTypeError unless all are Functions."""
    if not isinstance(functions, list | tuple):
        raise DTypeError(
            f"{who}: must be a list, and each of its items must be a Function or a Layer; got {functions!r}"
        )
    for index, f in enumerate(functions):
        if not isinstance(f, Function):
            hint = "; make an instance of it" if isinstance(f, type) else ""
            raise DTypeError(f"{who}: number {index} must be a Function or a Layer, got {f!r}{hint}")


class _Branched(Function):
    """Several Functions side by side, or in a row; their paths are their numbers."""

    functions: tuple[Function, ...]
    _unnamed = "functions"

    def __init__(self, *functions: Function):
        super().__init__()
        check_functions(type(self).__name__, functions)
        self.functions = functions

    def __iter__(self) -> Iterator[Function]:
        return iter(self.functions)

    def __len__(self) -> int:
        return len(self.functions)

    def __getitem__(self, index: int) -> Function:
        return self.functions[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.functions))})"


class Sequential(_Branched):
    """One function after the other: Y = f_n(... f_2(f_1(X))).

    >>> import numpy as np
    >>> Sequential()(np.array([1.0]))
    array([1.])
    """

    traceable = True

    def forward(self, *inputs: Any) -> Any:
        return chain_forward(self.functions, inputs, "function")

    def backward(self, *dY: Any) -> Any:
        """dX = J_1^T J_2^T ... J_n^T dY, from the last function to the first."""
        return chain_backward(self.functions, dY)


class Residual(Function):
    """Y = f(X) + shortcut(X); without a shortcut, Y = f(X) + X.

    He et al. 2016, arXiv:1512.03385.
    """

    traceable = True

    def __init__(self, f: Function, shortcut: Function | None = None):
        super().__init__()
        check_functions("Residual", (f,) if shortcut is None else (f, shortcut))
        self.f = f
        self.shortcut = shortcut

    def forward(self, X: Any) -> Any:
        branch = one_output(self, self.f, self.f(X))
        short = X if self.shortcut is None else one_output(self, self.shortcut, self.shortcut(X))
        if branch.shape != short.shape:
            raise ShapeError(
                f"{self._who()}: f(X) and the shortcut must have one shape, got {tuple(branch.shape)} and "
                f"{tuple(short.shape)}; give a shortcut that changes the shape as f does"
            )
        return branch + short

    def backward(self, dY: Any) -> Any:
        """dX = f.backward(dY) + shortcut.backward(dY): the gradient flows along both ways."""
        dX = self.f.backward(dY)
        return dX + (dY if self.shortcut is None else self.shortcut.backward(dY))


class Concat(_Branched):
    """Y = concat(f_1(X), ..., f_n(X)) along an axis (1, the channels, unless said otherwise)."""

    traceable = True

    def __init__(self, *branches: Function, axis: int = 1):
        super().__init__(*branches)
        if not branches:
            raise DTypeError("Concat: needs at least one branch")
        self.axis = to_whole(axis, "Concat", "axis")

    def forward(self, X: Any) -> Any:
        xp = array_namespace(X)
        Ys = [one_output(self, f, f(X)) for f in self.functions]
        if len({(Y.ndim, *Y.shape[: self.axis], *Y.shape[self.axis :][1:]) for Y in Ys}) > 1:
            raise ShapeError(
                f"{self._who()}: the branches must agree in all axes but {self.axis}, got "
                f"{', '.join(str(tuple(Y.shape)) for Y in Ys)}"
            )
        if not -Ys[0].ndim <= self.axis < Ys[0].ndim:
            raise ShapeError(f"{self._who()}: there is no axis {self.axis} in {tuple(Ys[0].shape)}")
        self.cache["widths"] = [Y.shape[self.axis] for Y in Ys]
        return xp.concat(Ys, axis=self.axis)

    def backward(self, dY: Any) -> Any:
        """Each branch gets its slice of dY; their gradients add up. The last call is undone first."""
        dX = None
        stop = dY.shape[self.axis]
        for f, width in zip(reversed(self.functions), reversed(self.cache["widths"]), strict=True):
            part = f.backward(_slice(dY, self.axis, stop - width, stop))
            dX = part if dX is None else dX + part
            stop -= width
        return dX

    def __repr__(self) -> str:
        axis = "" if self.axis == 1 else f", axis={self.axis}"
        return f"{super().__repr__()[:-1]}{axis})"


class Add(_Branched):
    """Y = f_1(X) + ... + f_n(X)."""

    traceable = True

    def __init__(self, *branches: Function):
        super().__init__(*branches)
        if not branches:
            raise DTypeError("Add: needs at least one branch")

    def forward(self, X: Any) -> Any:
        Y = one_output(self, self.functions[0], self.functions[0](X))
        for f in self.functions[1:]:
            term = one_output(self, f, f(X))
            if term.shape != Y.shape:
                raise ShapeError(
                    f"{self._who()}: all branches must give one shape, "
                    f"got {tuple(Y.shape)} and {tuple(term.shape)}"
                )
            Y = Y + term
        return Y

    def backward(self, dY: Any) -> Any:
        """dX = sum of f.backward(dY) over the branches."""
        dX = self.functions[-1].backward(dY)
        for f in reversed(self.functions[:-1]):
            dX = dX + f.backward(dY)
        return dX


def _slice(X: Any, axis: int, start: int, stop: int) -> Any:
    """X[..., start:stop, ...] along one axis."""
    index = [slice(None)] * X.ndim
    index[axis] = slice(start, stop)
    return X[tuple(index)]
