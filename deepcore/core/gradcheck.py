"""Does backward agree with finite differences?"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from deepcore.backends.registry import backend_of, is_array
from deepcore.backends.select import is_floating, put, to_numpy
from deepcore.core.function import Function
from deepcore.core.loss import Loss
from deepcore.core.parameters import find_parameters, functions
from deepcore.core.random import Generator, drawing_from
from deepcore.core.record import staging
from deepcore.errors import DTypeError, GradientError


def gradcheck(f: Function, *inputs: Any, step: float = 1e-6, rtol: float = 1e-5, atol: float = 1e-7) -> bool:
    """True if the gradients of every floating input and every weight agree with central differences.

    The check works on a copy of f in float64, weights included, and changes nothing. With a random
    dY of Y's shape, it compares <dY, f> derived by each entry x, (g(x + step) - g(x - step)) / (2 step),
    with what backward returns; entries must agree to atol + rtol * |difference quotient|.

    f: a Function, a Layer, a Loss (then only the gradient of X is checked) or a whole Net (without its loss).
    Raises GradientError naming the worst entry, DTypeError for what is no array.

    >>> import numpy as np
    >>> class Square(Function):
    ...     def forward(self, X):
    ...         return X * X
    ...
    ...     def local_grad(self, X):
    ...         return {"X": 2 * X}
    >>> gradcheck(Square(), np.array([1.0, 2.0]))
    True
    """
    if not isinstance(f, Function):
        raise DTypeError(
            f"gradcheck: f must be a Function, a Layer, a Loss or a Net, got {f!r}; "
            "write a class with forward, and backward or local_grad"
        )
    for x in inputs:
        if not is_array(x):
            raise DTypeError(
                f"gradcheck: inputs must be arrays, got {type(x).__name__}; use deepcore.asarray(x)"
            )
    f = copy.deepcopy(f)
    try:
        _widen_weights(f)
        xs = [_widen(x) for x in inputs]
    except DTypeError as error:  # a library or a device without float64
        error.inside("gradcheck works in float64")
        raise
    with _unchanged():
        Y = f(*xs)
        dY = _random_gradient(Y)
        back = f.backward() if isinstance(f, Loss) else f.backward(*(dY if isinstance(dY, tuple) else (dY,)))
    gradients = back if isinstance(back, tuple) else (back,)
    if isinstance(f, Loss):
        dY = None
    named = [
        (f"input {i}", x, i, gradients[i]) for i, x in enumerate(xs) if i < len(gradients) and is_floating(x)
    ]

    for name, x, i, dX in named:
        if dX is None:
            continue

        def shifted(value: Any, i: int = i) -> float:
            return _project(f, [*xs[:i], value, *xs[i + 1 :]], dY)

        _compare(f, name, x, dX, shifted, step, rtol, atol)
    for path, parameter in find_parameters(f).items():
        dW, W = parameter.gradient(), parameter.value
        if not is_floating(W):
            continue
        if dW is None:  # right only for a weight that changes nothing
            dW = 0 * W

        def shifted_weight(value: Any, places: Any = parameter.places, W: Any = W) -> float:
            for layer, key in places:
                layer.weight[key] = value
            try:
                return _project(f, xs, dY)
            finally:
                for layer, key in places:
                    layer.weight[key] = W

        _compare(f, path, W, dW, shifted_weight, step, rtol, atol)
    return True


@contextlib.contextmanager
def _unchanged() -> Iterator[None]:
    """Each evaluation draws the same random numbers and leaves no running statistics behind."""
    with staging(), drawing_from(Generator(0)):
        yield


def _widen(x: Any) -> Any:
    """A float64 copy of a floating array; any other array as it is."""
    return put(x, backend_of(x), "float64") if is_floating(x) else x


def _widen_weights(f: Function) -> None:
    for parameter in find_parameters(f).values():
        W = _widen(parameter.value)
        for layer, name in parameter.places:
            layer.weight[name] = W
    for g in functions(f):
        for name, value in g.buffer.items():
            g.buffer[name] = _widen(value)


def _random_gradient(Y: Any) -> Any:
    """Numbers of Y's shape that are neither symmetric nor zero, on Y's library and device."""
    if isinstance(Y, tuple):
        return tuple(_random_gradient(part) for part in Y)
    import numpy as np

    host = np.random.default_rng(7).uniform(0.5, 1.5, size=tuple(Y.shape))
    return put(host, backend_of(Y), "float64", backend_of(Y).device(Y))


def _project(f: Function, xs: list[Any], dY: Any) -> float:
    """<dY, f(xs)>: one number, whose gradient by any input backward claims to know."""
    with _unchanged():
        Y = f(*xs)
    Ys = Y if isinstance(Y, tuple) else (Y,)
    dYs = (None,) * len(Ys) if dY is None else dY if isinstance(dY, tuple) else (dY,)
    return sum(
        float((to_numpy(y) * (1.0 if d is None else to_numpy(d))).sum()) for y, d in zip(Ys, dYs, strict=True)
    )


def _compare(
    f: Function, name: str, x: Any, gradient: Any, g: Any, step: float, rtol: float, atol: float
) -> None:
    import numpy as np

    host, claimed = np.array(to_numpy(x), dtype=np.float64), to_numpy(gradient)
    if claimed.shape != host.shape:
        raise GradientError(
            f"{f}: the gradient of {name} must have its shape {host.shape}, got {claimed.shape}"
        )
    measured = np.empty_like(host)
    backend, device = backend_of(x), backend_of(x).device(x)
    for index in np.ndindex(*host.shape):
        ends = []
        for sign in (1, -1):
            moved = host.copy()
            moved[index] += sign * step
            ends.append(g(put(moved, backend, device=device)))
        measured[index] = (ends[0] - ends[1]) / (2 * step)
    excess = np.abs(claimed - measured) - (atol + rtol * np.abs(measured))
    if host.size and not excess.max() <= 0:
        worst = np.unravel_index(np.argmax(np.where(np.isnan(excess), np.inf, excess)), host.shape)
        place = tuple(int(i) for i in worst)
        raise GradientError(
            f"{f}: the gradient of {name} at {place} is {claimed[worst]:.8g}, "
            f"finite differences say {measured[worst]:.8g}"
        )
