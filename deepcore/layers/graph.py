"""Functions wired in any way that has no loops, and those that join several arrays to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.core.containers import check_functions
from deepcore.core.function import Function
from deepcore.errors import ArgumentError, DeepcoreError, ShapeError


class Graph(Function):
    """Steps that each take what earlier steps gave, by name: what `load_onnx` makes of a net with branches.

    steps: (function, names of its inputs, name of its output) in an order in which they can be run; the
    input of the whole is called "X".   output: the name of what the whole gives.

    backward goes through the steps from the last to the first. A value that several steps take gets the sum
    of the gradients that they give:   dA = sum over the steps that take A of dY_step/dA^T dY_step

    Raises ArgumentError for a name that is not known yet, given twice, or that nothing takes.

    >>> import numpy as np
    >>> net = Graph([(Product(), ("X", "X"), "square"), (Sum(), ("square", "X"), "Y")], "Y")
    >>> net(np.array([1.0, 3.0]))
    array([ 2., 12.])
    >>> net.backward(np.array([1.0, 1.0]))  # 2 X + 1
    array([3., 7.])
    """

    traceable = True

    def __init__(self, steps: Sequence[tuple[Function, tuple[str, ...], str]], output: str):
        super().__init__()
        self.steps = [(f, tuple(names), name) for f, names, name in steps]
        self.output = output
        check_functions("Graph", [f for f, _, _ in self.steps])
        known, taken = {"X"}, {output}
        for f, names, name in self.steps:
            if not set(names) <= known or name in known or not names:
                raise ArgumentError(
                    f"Graph: {f!r} takes {', '.join(names)} and gives {name}; each name must be given once, "
                    f"and before it is taken; known there are {', '.join(sorted(known))}"
                )
            known.add(name)
            taken.update(names)
        if known - {"X"} != taken - {"X"}:
            odd = ", ".join(sorted(known ^ (taken | {"X"})))
            raise ArgumentError(f"Graph: each name must be given by one step and taken by another, got {odd}")

    def forward(self, X: Any) -> Any:
        values = {"X": X}
        for index, (f, names, name) in enumerate(self.steps):
            try:
                values[name] = f(*(values[taken] for taken in names))
            except DeepcoreError as error:
                error.inside(f"step {index}")
                raise
        return values[self.output]

    def backward(self, dY: Any) -> Any:
        gradients = {self.output: dY}
        for f, names, name in reversed(self.steps):
            dX = f.backward(gradients.pop(name))
            for taken, d in zip(names, dX if type(dX) is tuple else (dX,), strict=True):
                gradients[taken] = gradients[taken] + d if taken in gradients else d
        return gradients.get("X")


class Sum(Function):
    """Y = A + B + ... of arrays of one shape.   dA = dB = dY

    Raises ShapeError for other shapes.

    >>> import numpy as np
    >>> Sum()(np.array([1.0]), np.array([2.0]))
    array([3.])
    """

    traceable = True
    wants_floats = True

    def forward(self, *Xs: Any) -> Any:
        _check_shapes(self, Xs)
        self.cache["n"] = len(Xs)
        Y = Xs[0]
        for X in Xs[1:]:
            Y = Y + X
        return Y

    def backward(self, dY: Any) -> Any:
        n = self.cache["n"]
        return (dY,) * n if n > 1 else dY


class Product(Function):
    """Y = A B, number by number, of two arrays of one shape.   dA = dY B   dB = dY A

    Raises ShapeError for other shapes.

    >>> import numpy as np
    >>> Product()(np.array([2.0]), np.array([3.0]))
    array([6.])
    """

    traceable = True
    wants_floats = True

    def forward(self, A: Any, B: Any) -> Any:
        _check_shapes(self, (A, B))
        self.cache.update(A=A, B=B)
        return A * B

    def backward(self, dY: Any) -> Any:
        return dY * self.cache["B"], dY * self.cache["A"]

    def local_grad(self, A: Any, B: Any) -> dict[str, Any]:
        return {"A": B, "B": A}


class Join(Function):
    """Y = concat(A, B, ...) along an axis; each gets its part of dY.   axis: 1, the channels, unless given.

    Raises ShapeError if another axis differs.

    >>> import numpy as np
    >>> Join()(np.array([[1.0]]), np.array([[2.0, 3.0]]))
    array([[1., 2., 3.]])
    """

    traceable = True
    wants_floats = True

    def __init__(self, axis: int = 1):
        super().__init__()
        self.axis = axis

    def forward(self, *Xs: Any) -> Any:
        rank = Xs[0].ndim
        if not -rank <= self.axis < rank:
            raise ShapeError(f"{self._who()}: there is no axis {self.axis} in {tuple(Xs[0].shape)}")
        axis = self.axis % rank
        if len({(*X.shape[:axis], None, *X.shape[axis + 1 :]) for X in Xs}) > 1:
            shapes = ", ".join(str(tuple(X.shape)) for X in Xs)
            raise ShapeError(
                f"{self._who()}: the inputs must agree in all axes but {self.axis}, got {shapes}"
            )
        self.cache["widths"] = [X.shape[axis] for X in Xs]
        return array_namespace(*Xs).concat(Xs, axis=axis)

    def backward(self, dY: Any) -> Any:
        parts, start = [], 0
        for width in self.cache["widths"]:
            index = [slice(None)] * dY.ndim
            index[self.axis] = slice(start, start + width)
            parts.append(dY[tuple(index)])
            start += width
        return tuple(parts) if len(parts) > 1 else parts[0]


def _check_shapes(f: Function, Xs: Sequence[Any]) -> None:
    if len({tuple(X.shape) for X in Xs}) > 1:
        shapes = ", ".join(str(tuple(X.shape)) for X in Xs)
        raise ShapeError(f"{f._who()}: the inputs must have one shape, got {shapes}")
