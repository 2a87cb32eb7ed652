"""Initial weights: drawn on the host from the portable generator, so that every backend starts alike.

An initialiser is a function (shape, fan_in, fan_out) -> NumPy array in float64; a layer's `init=` takes
one, or the name of one here. fan_in and fan_out: how many numbers go into, and come out of, one unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from deepcore.backends.select import FLOATS, asarray, default_dtype, dtype_name
from deepcore.core.random import current_generator
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.ops import random

Shape = tuple[int, ...]
Initialiser = Callable[[Shape, int, int], Any]


class _Settings:
    """What makes an initialiser: two with the same settings are the same."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self).values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={x!r}' for name, x in vars(self).items())})"


class Constant(_Settings):
    """Every weight is `value`."""

    def __init__(self, value: float = 0.0):
        self.value = value

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        return np.full(shape, self.value, dtype=np.float64)


class Normal(_Settings):
    """N(mean, std^2)."""

    def __init__(self, std: float = 0.01, mean: float = 0.0):
        self.std, self.mean = std, mean

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        return self.mean + self.std * _draw(random.normal, shape)


class Uniform(_Settings):
    """Uniform on [low, high)."""

    def __init__(self, low: float = -0.05, high: float = 0.05):
        self.low, self.high = low, high

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        return self.low + (self.high - self.low) * _draw(random.uniform, shape)


class VarianceScaling(_Settings):
    """Mean 0 and variance scale / fan, normal or uniform. fan: "in", or "average" of in and out.

    It keeps the variance of a signal the same from layer to layer: scale 1 and fan "in" (LeCun et al.
    1998) before a linear map, 2 (He et al. 2015, arXiv:1502.01852) behind ReLU, which kills half of it,
    1 and "average" (Glorot and Bengio 2010) as a compromise between forward and backward.
    """

    def __init__(self, scale: float, fan: str, distribution: str):
        self.scale, self.fan, self.distribution = scale, fan, distribution

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        fan = fan_in if self.fan == "in" else (fan_in + fan_out) / 2
        std = math.sqrt(self.scale / max(fan, 1))
        if self.distribution == "normal":
            return std * _draw(random.normal, shape)
        return std * math.sqrt(3) * (2 * _draw(random.uniform, shape) - 1)


class Orthogonal(_Settings):
    """`gain` times a matrix whose rows or columns, whichever are fewer, are orthonormal: lengths stay.

    Of all such matrices none is more likely than another: it is Q of Z = Q R, Z normal, with the signs that
    make R's diagonal positive. A weight of more axes is such a matrix as (its first axis, all others).
    Raises ShapeError for a weight of one axis. Saxe et al. 2014, arXiv:1312.6120; Mezzadri 2007.
    """

    def __init__(self, gain: float = 1.0):
        self.gain = gain

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        if len(shape) < 2:
            raise ShapeError(f"init: orthogonal weights need two axes or more, got {shape}")
        m, n = shape[0], math.prod(shape[1:])
        Z = np.reshape(_draw(random.normal, shape), (m, n))
        Q, R = np.linalg.qr(Z if m >= n else Z.T)
        Q = Q * np.where(np.diagonal(R) < 0, -1.0, 1.0)
        return self.gain * np.reshape(Q if m >= n else Q.T, shape)


class TorchDefault(_Settings):
    """Uniform on +-1 / sqrt(fan_in), biases too: how the layers of torch start.

    A layer for which torch counts fan_in in a way of its own passes that number.
    """

    def __call__(self, shape: Shape, fan_in: int, fan_out: int) -> np.ndarray:
        return (2 * _draw(random.uniform, shape) - 1) / math.sqrt(max(fan_in, 1))


def _hint(wrong: Any) -> str:
    """What was given for an initialiser, and what to do."""
    if isinstance(wrong, type):
        return f"the class {wrong.__name__}; make an instance of it: init.{wrong.__name__.lower()}()"
    if hasattr(wrong, "shape"):
        return 'an array; make the layer first, then put the array into layer.weight["W"]'
    return f"{wrong!r}; all weights are one number with init.constant(value)"


def _draw(distribution: Any, shape: Shape) -> np.ndarray:
    generator = current_generator()
    call = generator.next_call("weights")
    return distribution(np.empty(0), shape, generator.seed, "weights", call, dtype="float64")


zeros = Constant(0.0)
ones = Constant(1.0)
constant = Constant
normal = Normal
uniform = Uniform
lecun_normal = VarianceScaling(1.0, "in", "normal")
lecun_uniform = VarianceScaling(1.0, "in", "uniform")
glorot_normal = VarianceScaling(1.0, "average", "normal")
glorot_uniform = VarianceScaling(1.0, "average", "uniform")
he_normal = VarianceScaling(2.0, "in", "normal")
he_uniform = VarianceScaling(2.0, "in", "uniform")
orthogonal = Orthogonal
torch = TorchDefault()

_NAMED: dict[str, Initialiser] = {
    "zeros": zeros,
    "ones": ones,
    "constant": constant(),
    "normal": normal(),
    "uniform": uniform(),
    "lecun_normal": lecun_normal,
    "lecun_uniform": lecun_uniform,
    "glorot_normal": glorot_normal,
    "glorot_uniform": glorot_uniform,
    "he_normal": he_normal,
    "he_uniform": he_uniform,
    "orthogonal": orthogonal(),
    "torch": torch,
}


def of_bias(init: str | Initialiser) -> str | Initialiser:
    """The initialiser of the bias, given that of the weight beside it: zeros, but for torch's.

    >>> of_bias("he_normal")
    'zeros'
    """
    return init if as_torch(init) else "zeros"


def as_torch(init: Any) -> bool:
    """Whether weights and biases shall start as torch's do."""
    return isinstance(init, TorchDefault) or (isinstance(init, str) and init == "torch")


def make(
    init: str | Initialiser,
    shape: Shape,
    fan_in: int,
    fan_out: int,
    dtype: Any = None,
    device: Any = None,
    layer: Any = None,
) -> Any:
    """A new weight on the selected backend, in the default dtype unless another is given.

    layer: whose weight it is, for messages.
    Raises ArgumentError for an unknown name, DTypeError for what is no initialiser and for a dtype that is
    not floating, ShapeError if the initialiser returns another shape.

    >>> make("zeros", (1, 3), 3, 3)
    array([[0., 0., 0.]], dtype=float32)
    """
    who = "init.make" if layer is None else type(layer).__name__
    if dtype is not None and dtype_name(dtype) not in FLOATS:
        raise DTypeError(
            f"{who}: dtype must be one of floating-point numbers, {', '.join(FLOATS)}, got {dtype!r}"
        )
    if isinstance(init, str):
        if init not in _NAMED:
            raise ArgumentError(f"{who}: init must be a function or one of {', '.join(_NAMED)}, got {init!r}")
        init = _NAMED[init]
    elif isinstance(init, type) or not callable(init):
        raise DTypeError(
            f"{who}: init must be a name or a function (shape, fan_in, fan_out) -> array, got {_hint(init)}"
        )
    values = np.asarray(init(shape, fan_in, fan_out))
    if values.shape != shape:
        raise ShapeError(f"{who}: init must return an array of shape {shape}, {init} gave {values.shape}")
    return asarray(values, dtype or default_dtype(), device)
