"""One thing to test, on inputs that are drawn: a Function, and its formula written a second time."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pytest

import deepcore as dc
from deepcore import Net
from deepcore.core.parameters import find_buffers, find_parameters
from tests.places import IN_FULL, NUMPY, PLACES, USABLE, Place

Arrays = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], np.ndarray]


# ---- inputs: each draws a batch of n samples; floats are numbers that float32 holds exactly


def normal(*shape: int) -> Draw:
    """(n, *shape) from N(0, 1)."""
    return lambda random, n: single(random.standard_normal((n, *shape)))


def off_zero(*shape: int) -> Draw:
    """(n, *shape), each number between 0.1 and 1.6 in size: away from a kink at 0."""

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        size = random.uniform(0.1, 1.6, (n, *shape))
        return single(size * random.choice([-1.0, 1.0], (n, *shape)))

    return draw


def distinct(*shape: int) -> Draw:
    """(n, *shape), any two numbers of a sample at least 0.05 apart: no ties, nor nearly."""

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        steps = np.arange(np.prod(shape)) - np.prod(shape) // 2
        return single(random.permuted(np.tile(steps, (n, 1)), axis=1).reshape(n, *shape) / 16)

    return draw


def few_values(*shape: int) -> Draw:
    """(n, *shape) of -1, 0, 1: full of ties."""
    return lambda random, n: random.integers(-1, 2, (n, *shape)).astype(np.float64)


def row(*numbers: float) -> Draw:
    """(n, len(numbers)): the same row n times."""
    return lambda random, n: np.tile(single(np.array(numbers)), (n, 1))


def unbatched(*shape: int) -> Draw:
    """Of this very shape, whatever n is."""
    return lambda random, n: single(random.standard_normal(shape))


def labels(classes: int, *shape: int, dtype: str = "int64", ignore: int | None = None) -> Draw:
    """(n, *shape) class labels; with `ignore`, about a third of them have that value instead."""

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        y = random.integers(0, classes, (n, *shape)).astype(dtype)
        if ignore is not None:
            y[random.random(y.shape) < 0.35] = ignore
        return y

    return draw


def probabilities(*shape: int) -> Draw:
    """(n, c, ...), positive, with sum 1 over c."""

    def draw(random: np.random.Generator, n: int) -> np.ndarray:
        P = random.uniform(0.1, 1.0, (n, *shape))
        return single(P / P.sum(axis=1, keepdims=True))

    return draw


def single(x: np.ndarray) -> np.ndarray:
    """float64 numbers that float32 holds exactly."""
    return x.astype(np.float32).astype(np.float64)


# ---- cases


@dataclass(frozen=True, eq=False)
class Case:
    """One Function with its inputs and its formula."""

    name: str
    make: Callable[[], dc.Function]
    inputs: Sequence[Draw]
    reference: Callable[..., Any]  # (weights and buffers by path, *inputs) -> Y, all float64
    _: KW_ONLY
    gradient: Callable[..., Any] | None = None  # (w, dY, *inputs) -> dX, where finite differences don't apply
    evaluation: bool = False  # whether it runs in evaluation mode
    batched: bool = True  # whether the inputs' first axis is the samples
    mixes: bool = False  # whether a sample's output depends on other samples
    elementwise: bool = False  # whether local_grad is dY/dX number by number
    learned: int = 1  # how many of a loss's inputs get a gradient; the others are targets
    own: bool = False  # whether a user wrote it, whose arithmetic deepcore doesn't answer for

    def build(self, place: Place = NUMPY, dtype: str = "float32") -> Any:
        """A new function at a place, with this case's random weights in a dtype."""
        with dc.use_backend("numpy"):
            f = self.make()
        for path, parameter in find_parameters(f).items():
            W = self.weights[path].astype(dtype)
            for layer, name in parameter.places:  # several if layers share it
                layer.weight[name] = W
        for g, name in find_buffers(f).values():
            g.buffer[name] = np.asarray(g.buffer[name], dtype=dtype)
        Net([f]).train(not self.evaluation)
        return place.put(f)

    @functools.cached_property
    def weights(self) -> Arrays:
        """Path -> value of each weight: no zeros, ones or other numbers that would hide a fault."""
        random = np.random.default_rng(zlib.crc32(self.name.encode()))
        return {
            path: single(0.2 + 0.6 * random.standard_normal(W.shape))
            for path, W in weights(self.make()).items()
        }

    @functools.cached_property
    def tables(self) -> Arrays:
        """Weights and buffers by path, as the reference takes them."""
        return self.weights | {path: np.asarray(b, np.float64) for path, b in buffers(self.make()).items()}

    def draw(self, n: int = 3, seed: int = 0) -> list[np.ndarray]:
        """Inputs of n samples: float64 numbers that float32 holds, or labels."""
        random = np.random.default_rng([seed, n, zlib.crc32(self.name.encode())])
        return [draw(random, n) for draw in self.inputs]

    def value(self, *inputs: np.ndarray, tables: Arrays | None = None) -> np.ndarray:
        """The reference's output in float64."""
        with np.errstate(all="ignore"):
            return np.asarray(self.reference(self.tables if tables is None else tables, *inputs), np.float64)

    def draw_dY(self, Y: np.ndarray, seed: int = 0) -> np.ndarray:
        """A gradient of Y's shape."""
        return single(np.random.default_rng([seed, 99]).uniform(0.3, 1.7, np.shape(Y)))

    def gradients(self, *inputs: np.ndarray) -> tuple[list[np.ndarray], Arrays]:
        """The reference's gradients of each floating input and each weight, with draw_dY for dY."""
        dY = self.draw_dY(self.value(*inputs)) if not self.scalar else np.ones(())

        def project(tables: Arrays, xs: Sequence[np.ndarray]) -> float:
            return float((self.value(*xs, tables=tables) * dY).sum())

        if self.gradient is not None:
            dX = [self.gradient(self.tables, dY, *inputs)]
        else:
            dX = [
                differences(
                    lambda x, i=i: project(self.tables, [*inputs[:i], x, *inputs[i + 1 :]]), inputs[i]
                )
                for i in self.differentiable
            ]
        dW = {
            path: differences(
                lambda W, path=path: project(self.tables | {path: W}, inputs), self.weights[path]
            )
            for path in self.weights
        }
        return dX, dW

    @functools.cached_property
    def expected_gradients(self) -> tuple[list[np.ndarray], Arrays]:
        """`gradients` at the inputs that `draw()` gives."""
        return self.gradients(*self.draw())

    @functools.cached_property
    def kind(self) -> type:
        return type(self.make())

    @property
    def is_loss(self) -> bool:
        return issubclass(self.kind, dc.Loss)

    @property
    def scalar(self) -> bool:
        """Whether the output is a single number: a loss that is a mean or a sum."""
        return self.is_loss and getattr(self.make(), "reduction", "mean") != "none"

    @property
    def differentiable(self) -> list[int]:
        """Which inputs get a gradient."""
        floating = [i for i, x in enumerate(self.draw(1)) if x.dtype.kind == "f"]
        return list(range(self.learned)) if self.is_loss else floating

    @functools.cached_property
    def keeps_shape(self) -> bool:
        """Whether it can stand behind itself."""
        xs = self.draw()
        return len(xs) == 1 and self.value(*xs).shape == xs[0].shape


def weights(f: dc.Function) -> dict[str, Any]:
    """Path -> weight, for any function."""
    return _by_path(Net([f]).parameters())


def gradients(f: dc.Function) -> dict[str, Any]:
    """Path -> gradient, for each weight of any function that the last backward reached."""
    return _by_path(Net([f]).gradients())


def buffers(f: dc.Function) -> dict[str, Any]:
    """Path -> buffer, for any function."""
    return _by_path(Net([f]).buffers())


def _by_path(table: dict[str, Any]) -> dict[str, Any]:
    return {path.removeprefix("layers.0."): x for path, x in table.items()}


def differences(g: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """dg/dx by central differences."""
    dx = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        moved = x.copy()
        moved[index] = x[index] + step
        above = g(moved)
        moved[index] = x[index] - step
        dx[index] = (above - g(moved)) / (2 * step)
    return dx


def params(rows: list[Any], places: list[Place] = PLACES, every: bool = False) -> list[Any]:
    """pytest.param(row, place) for each pair whose place can be used.

    Unless `every` is True, only IN_FULL get every case; elsewhere it is the first case of each class, because
    what their settings change is tested with the values. (JAX compiles every operation anew for every shape,
    half a second a test, and 30,000 tests take too long.)
    """
    return [
        pytest.param(row, place, id=f"{getattr(row, 'name', row)}-{place.name}")
        for place in places
        if place in USABLE
        for row in (rows if every or place in IN_FULL else first_of_each_class(rows))
    ]


def first_of_each_class(rows: list[Any]) -> list[Any]:
    """The rows without the cases whose class has had one; what is no case stays."""
    classes = {row.kind: row for row in reversed(rows) if isinstance(row, Case)}
    return [row for row in rows if not isinstance(row, Case) or classes[row.kind] is row]
