"""What is tested, and where: CASES has a line for each Function, PLACES one for each array library.

A new Function, Layer, Loss or container joins by a line in CASES, with its formula written a second time;
`tests/test_battery.py` then runs all its tests on it, everywhere. The formulas are slow and plain, in
float64, and owe nothing to deepcore's own code. A library that deepcore cannot use yet, or that is not
installed, is skipped, with the reason (`test_places`); it joins by itself as soon as it can be used.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import pytest

import deepcore as dc
from deepcore import Add, Concat, Conv2D, Linear, MaxPool2D, Net, ReLU, Residual, Sequential, Tanh
from deepcore.backends.registry import backend_names, get_backend
from deepcore.core.parameters import find_buffers, find_parameters
from deepcore.errors import BackendUnavailable

Arrays = dict[str, np.ndarray]
Draw = Callable[[np.random.Generator, int], np.ndarray]


# ---- places


@dataclass(frozen=True)
class Place:
    """One library on one device, with arrays of one kind."""

    name: str
    backend: str
    device: str | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")  # which floating ones are tested here
    writeable: bool = True  # whether arrays here may be written to at all
    wide_integers: bool = True  # whether it has integers of 64 bits
    x64: bool = False  # whether JAX has numbers of 64 bits while a test runs (tests/conftest.py)

    @property
    def why_not(self) -> str | None:
        """The reason why nothing can be run here now, or None."""
        if self.backend not in backend_names():
            usable = ", ".join(dc.available_backends())
            return f"deepcore has no {self.backend} backend yet; available_backends(): {usable}"
        try:
            get_backend(self.backend)
        except BackendUnavailable as error:
            return str(error)
        return None

    def stored(self, dtype: str) -> str:
        """The dtype that arrays of `dtype` get here."""
        return dtype if self.wide_integers else {"int64": "int32", "uint64": "uint32"}.get(dtype, dtype)

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """An array here. Without a dtype, floats become float32 and integers stay what they are.

        It shares no memory with `values`.
        """
        host = np.array(values)
        if dtype is None and host.dtype.kind == "f":
            dtype = "float32"
        host = host.astype(dtype or host.dtype, copy=False)
        return self._seal(dc.to_backend(host, self.backend, self.device))

    def back(self, x: Any) -> np.ndarray:
        """The same numbers as a NumPy array."""
        return dc.to_numpy(x)

    def put(self, f: dc.Function) -> dc.Function:
        """The function itself, with its weights and buffers here."""
        net = Net([f]).to(self.backend, self.device)
        for W in (*net.parameters().values(), *net.buffers().values()):
            self._seal(W)
        return f

    def holds(self, x: Any) -> bool:
        """Whether an array is one of this library and on this device."""
        backend = dc.backend_of(x)
        here = backend.device(self.array(np.zeros(1, "float32")))
        return backend.name == self.backend and backend.device(x) == here

    def _seal(self, x: Any) -> Any:
        if not self.writeable:
            x.flags.writeable = False
        return x


NUMPY = Place("numpy", "numpy")
READ_ONLY = Place("numpy-readonly", "numpy", writeable=False)
STRICT = Place("strict", "array_api_strict", "CPU_DEVICE")
DEVICE1 = Place("strict-device1", "array_api_strict", "device1")  # where nothing is by accident
NO_FLOAT64 = Place("strict-no_float64", "array_api_strict", "no_float64", dtypes=("float32",))
TORCH = Place("torch", "torch", "cpu")
META = Place("torch-meta", "torch", "meta")  # shapes without numbers, where nothing is by accident either
JAX = Place("jax", "jax", dtypes=("float32",), wide_integers=False)  # deepcore never sets jax_enable_x64
JAX_X64 = Place("jax-x64", "jax", dtypes=("float64",), x64=True)
CUPY = Place("cupy", "cupy")

PLACES = [NUMPY, READ_ONLY, STRICT, DEVICE1, NO_FLOAT64, TORCH, JAX, CUPY]
EACH_LIBRARY = [NUMPY, DEVICE1, TORCH, JAX, CUPY]  # where a place more of the same library adds nothing
IN_FLOAT64 = [p for p in [*PLACES, JAX_X64] if "float64" in p.dtypes]
USABLE = [place for place in [*PLACES, META, JAX_X64] if place.why_not is None]


def params(rows: list[Any], places: list[Place] = PLACES, every: bool = False) -> list[Any]:
    """pytest.param(row, place) for each pair whose place can be used.

    JAX compiles every operation anew for every shape, half a second a test. So, unless `every` is True,
    it gets the first case of each class: what their settings change is tested with the values.
    """
    return [
        pytest.param(row, place, id=f"{getattr(row, 'name', row)}-{place.name}")
        for place in places
        if place in USABLE
        for row in (rows if every or place.backend != "jax" else first_of_each_class(rows))
    ]


def first_of_each_class(rows: list[Any]) -> list[Any]:
    """The rows without the cases whose class has had one; what is no case stays."""
    classes = {row.kind: row for row in reversed(rows) if isinstance(row, Case)}
    return [row for row in rows if not isinstance(row, Case) or classes[row.kind] is row]


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


# ---- user's own classes: the two of DESIGN 2.1, and one with several inputs


class Square(dc.Function):
    def forward(self, X):
        return X * X

    def local_grad(self, X):
        return {"X": 2 * X}


class Scale(dc.Layer):
    def __init__(self):
        super().__init__()
        self.weight["s"] = dc.asarray([[1.0]])

    def forward(self, X):
        self.cache["X"] = X
        return X * self.weight["s"]

    def backward(self, dY):
        xp = dc.array_namespace(dY)
        self.weight_update["s"] = xp.reshape(xp.sum(dY * self.cache["X"]), (1, 1))
        return dY * self.weight["s"]


class Product(dc.Function):
    """Two inputs, elementwise: the default backward returns a tuple."""

    def forward(self, A, B):
        return A * B

    def local_grad(self, A, B):
        return {"A": B, "B": A}


class Difference(dc.Function):
    """f(A) - f(B): a container of the user's own that calls its child twice."""

    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, A, B):
        return self.f(A) - self.f(B)

    def backward(self, dY):
        dB = self.f.backward(-dY)  # last call first
        return self.f.backward(dY), dB


# ---- formulas


def conv(X, W, b=0.0, stride=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    """Y[n, f, p, q] = sum of the window at (p, q) times filter f, place by place."""
    X = np.pad(X, ((0, 0), (0, 0), *pads))
    n, c, *sizes = X.shape
    f, _, *kernel = W.shape
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    out = [(size - s) // step + 1 for size, s, step in zip(sizes, span, stride, strict=True)]
    Y = np.zeros((n, f, *out))
    for p, q in np.ndindex(*out):
        i, j = p * stride[0], q * stride[1]
        window = X[:, :, i : i + span[0] : dilation[0], j : j + span[1] : dilation[1]]
        window = window.reshape(n, groups, c // groups, *kernel)
        filters = W.reshape(groups, f // groups, c // groups, *kernel)
        Y[:, :, p, q] = np.einsum("ngcij,gfcij->ngf", window, filters).reshape(n, f)
    return Y + b


def windows(X, kernel=(2, 2), stride=None, padding=(0, 0)):
    """Each window's place in the output, and its rows and columns in X; padding is left out."""
    stride = stride or kernel
    h, w = ((X.shape[a + 2] + 2 * padding[a] - kernel[a]) // stride[a] + 1 for a in (0, 1))
    for p, q in np.ndindex(h, w):
        i, j = p * stride[0] - padding[0], q * stride[1] - padding[1]
        yield p, q, slice(max(i, 0), i + kernel[0]), slice(max(j, 0), j + kernel[1])


def max_pool(X, *geometry):
    places = list(windows(X, *geometry))
    Y = np.zeros((*X.shape[:2], places[-1][0] + 1, places[-1][1] + 1))
    for p, q, rows, columns in places:
        Y[:, :, p, q] = X[:, :, rows, columns].max(axis=(2, 3))
    return Y


def max_pool_gradient(dY, X, *geometry):
    """To the first of the largest in each window, in reading order."""
    dX = np.zeros_like(X)
    for p, q, rows, columns in windows(X, *geometry):
        for n, c in np.ndindex(*X.shape[:2]):
            window = X[n, c, rows, columns]
            i, j = np.unravel_index(np.argmax(window), window.shape)
            dX[n, c, rows.start + i, columns.start + j] += dY[n, c, p, q]
    return dX


def standardise(X, gamma, beta, mean=None, var=None, epsilon=1e-5):
    axes = (0, 2, 3)
    mean = X.mean(axis=axes, keepdims=True) if mean is None else mean
    var = ((X - mean) ** 2).mean(axis=axes, keepdims=True) if var is None else var
    return gamma * (X - mean) / np.sqrt(var + epsilon) + beta


def softmax(X, axis=-1):
    E = np.exp(X - X.max(axis=axis, keepdims=True))
    return E / E.sum(axis=axis, keepdims=True)


def cross_entropy(X, y, ignore=-100, smoothing=0.0, weight=None, reduction="mean"):
    """torch's meaning, one sample and place after the other."""
    c = X.shape[1]
    weight = np.ones(c) if weight is None else np.asarray(weight, dtype=np.float64)
    rows = np.moveaxis(X, 1, -1).reshape(-1, c)
    soft = y.dtype.kind == "f"
    targets = np.moveaxis(y, 1, -1).reshape(-1, c) if soft else y.reshape(-1)
    losses, factors = np.zeros(len(rows)), np.zeros(len(rows))
    for i, (x, t) in enumerate(zip(rows, targets, strict=True)):
        if not soft and t == ignore:
            continue
        goal = t if soft else np.eye(c)[int(t)]
        goal = (1 - smoothing) * goal + smoothing / c
        nats = x.max() + np.log(np.exp(x - x.max()).sum()) - x  # -log p
        losses[i] = (np.where(goal > 0, nats, 0.0) * goal * weight).sum()
        factors[i] = 1.0 if soft else weight[int(t)]
    if reduction == "none":
        return losses.reshape(X.shape[0], *X.shape[2:])
    total = losses.sum()
    return total if reduction == "sum" else total / factors.sum() if factors.any() else 0.0 * total


def relu(X):
    return np.where(np.isnan(X), X, np.where(X > 0, X, 0.0))


def sigmoid(X):
    return np.where(X < 0, np.exp(np.minimum(X, 0)), 1) / (1 + np.exp(-np.abs(X)))


def affine(w, X, path=""):
    return X @ w[f"{path}W"] + w[f"{path}b"]


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
        return [0] if self.is_loss else floating

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


def batch_norm_with_statistics(channels: int) -> dc.BatchNorm2D:
    layer = dc.BatchNorm2D(channels)
    shape = layer.running_mean.shape
    layer.buffer["running_mean"] = dc.asarray(np.linspace(-0.5, 1, channels).reshape(shape), "float32")
    layer.buffer["running_var"] = dc.asarray(np.linspace(0.25, 2, channels).reshape(shape), "float32")
    return layer


def nested_net() -> Net:
    block = Net([Linear(4, 4), Tanh()])
    return Net([Linear(3, 4), Residual(block), ReLU(), Net([Net([Linear(4, 2)])])])


def nested_net_formula(w: Arrays, X: np.ndarray) -> np.ndarray:
    H = affine(w, X, "layers.0.")
    H = relu(np.tanh(affine(w, H, "layers.1.f.layers.0.")) + H)
    return affine(w, H, "layers.3.layers.0.layers.0.")


def small_cnn() -> Sequential:
    return Sequential(Conv2D(1, 2, 3, padding=1), ReLU(), MaxPool2D(2), dc.Flatten(), Linear(4, 2))


def small_cnn_formula(w: Arrays, X: np.ndarray) -> np.ndarray:
    H = relu(conv(X, w["0.W"], w["0.b"], pads=((1, 1), (1, 1))))
    return affine(w, max_pool(H).reshape(len(X), -1), "4.")


def tied() -> Sequential:
    f = Sequential(Linear(3, 3), Tanh(), Linear(3, 3, bias=False))
    f[2].weight["W"] = f[0].weight["W"]
    return f


_CE = dc.CrossEntropyLoss
_PADS = ((2, 2), (1, 1))
_EACH = (0.5, 2.0, 1.0, 0.25)  # weights of four classes

CASES = [
    # layers
    Case("Linear", lambda: Linear(4, 3), [normal(4)], affine),
    Case("Linear to itself", lambda: Linear(4, 4), [normal(4)], affine),
    Case("Linear without bias", lambda: Linear(4, 3, bias=False), [normal(4)], lambda w, X: X @ w["W"]),
    Case("Linear 3-D", lambda: Linear(4, 3), [normal(2, 4)], affine),
    Case("Linear 4-D", lambda: Linear(4, 3), [normal(2, 3, 4)], affine),
    Case("Linear 1-D", lambda: Linear(4, 3), [unbatched(4)], lambda w, x: affine(w, x)[0], batched=False),
    Case("Linear of one number", lambda: Linear(1, 1), [normal(1)], affine),
    Case("Conv2D", lambda: Conv2D(2, 3), [normal(2, 4, 5)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D without bias", lambda: Conv2D(2, 3, bias=False), [normal(2, 4, 5)],
         lambda w, X: conv(X, w["W"])),
    Case("Conv2D 1x1", lambda: Conv2D(3, 2, 1), [normal(3, 3, 2)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D 2x3", lambda: Conv2D(2, 2, (2, 3)), [normal(2, 4, 4)], lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D whole image", lambda: Conv2D(2, 3, (4, 3)), [normal(2, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D one channel, many filters", lambda: Conv2D(1, 12, 2), [normal(1, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"])),
    Case("Conv2D stride 2", lambda: Conv2D(1, 2, 3, stride=2), [normal(1, 6, 5)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2))),
    Case("Conv2D stride (3, 1)", lambda: Conv2D(1, 2, 2, stride=(3, 1)), [normal(1, 6, 4)],
         lambda w, X: conv(X, w["W"], w["b"], (3, 1))),
    Case("Conv2D stride over kernel", lambda: Conv2D(1, 2, 1, stride=2), [normal(1, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2))),
    Case("Conv2D padding (2, 1)", lambda: Conv2D(2, 2, 3, padding=(2, 1)), [normal(2, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"], pads=_PADS)),
    Case("Conv2D padding over kernel", lambda: Conv2D(1, 2, 1, padding=(2, 1)), [normal(1, 2, 3)],
         lambda w, X: conv(X, w["W"], w["b"], pads=_PADS)),
    Case("Conv2D same", lambda: Conv2D(2, 2, 3, padding="same"), [normal(2, 4, 3)],
         lambda w, X: conv(X, w["W"], w["b"], pads=((1, 1), (1, 1)))),
    Case("Conv2D same, even kernel", lambda: Conv2D(1, 2, (2, 4), padding="same"), [normal(1, 4, 5)],
         lambda w, X: conv(X, w["W"], w["b"], pads=((0, 1), (1, 2)))),
    Case("Conv2D dilation (2, 1)", lambda: Conv2D(2, 2, 2, dilation=(2, 1)), [normal(2, 5, 4)],
         lambda w, X: conv(X, w["W"], w["b"], dilation=(2, 1))),
    Case("Conv2D 2 groups", lambda: Conv2D(4, 6, 2, groups=2), [normal(4, 2, 3)],
         lambda w, X: conv(X, w["W"], w["b"], groups=2)),
    Case("Conv2D depthwise", lambda: Conv2D(3, 6, 2, groups=3), [normal(3, 3, 2)],
         lambda w, X: conv(X, w["W"], w["b"], groups=3)),
    Case("Conv2D everything", lambda: Conv2D(4, 2, (2, 3), 2, (2, 1), (1, 2), 2), [normal(4, 3, 4)],
         lambda w, X: conv(X, w["W"], w["b"], (2, 2), _PADS, (1, 2), 2)),
    Case("BatchNorm2D", lambda: dc.BatchNorm2D(3), [normal(3, 2, 3)],
         lambda w, X: standardise(X, w["gamma"], w["beta"]), mixes=True),
    Case("BatchNorm2D epsilon", lambda: dc.BatchNorm2D(2, epsilon=0.5), [normal(2, 3, 2)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], epsilon=0.5), mixes=True),
    Case("BatchNorm2D evaluation", lambda: batch_norm_with_statistics(3), [normal(3, 2, 3)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], w["running_mean"], w["running_var"]),
         evaluation=True),

    # functions without weights
    Case("MaxPool2D", MaxPool2D, [distinct(2, 4, 2)], lambda w, X: max_pool(X)),
    Case("MaxPool2D odd", MaxPool2D, [distinct(2, 5, 3)], lambda w, X: max_pool(X)),
    Case("MaxPool2D overlap", lambda: MaxPool2D(3, 1), [distinct(2, 3, 4)],
         lambda w, X: max_pool(X, (3, 3), (1, 1))),
    Case("MaxPool2D gaps", lambda: MaxPool2D((1, 2), 3), [distinct(1, 5, 7)],
         lambda w, X: max_pool(X, (1, 2), (3, 3))),
    Case("MaxPool2D padding", lambda: MaxPool2D((3, 2), 2, 1), [distinct(1, 4, 3)],
         lambda w, X: max_pool(X, (3, 2), (2, 2), (1, 1))),
    Case("MaxPool2D 1x1", lambda: MaxPool2D(1), [distinct(2, 3, 3)], lambda w, X: X),
    Case("MaxPool2D ties", MaxPool2D, [few_values(2, 4, 5)], lambda w, X: max_pool(X),
         gradient=lambda w, dY, X: max_pool_gradient(dY, X)),
    Case("MaxPool2D ties, overlap", lambda: MaxPool2D(3, 2, 1), [few_values(2, 5, 4)],
         lambda w, X: max_pool(X, (3, 3), (2, 2), (1, 1)),
         gradient=lambda w, dY, X: max_pool_gradient(dY, X, (3, 3), (2, 2), (1, 1))),
    Case("Flatten", dc.Flatten, [normal(2, 3, 2)], lambda w, X: X.reshape(len(X), 12)),
    Case("Flatten rows", dc.Flatten, [normal(4)], lambda w, X: X),
    Case("Flatten numbers", dc.Flatten, [normal()], lambda w, X: X[:, None]),
    Case("Dropout p=0", lambda: dc.Dropout(0), [normal(4)], lambda w, X: X, elementwise=True),
    Case("Dropout evaluation", dc.Dropout, [normal(4)], lambda w, X: X, evaluation=True, elementwise=True),
    Case("ReLU", ReLU, [off_zero(2, 3)], lambda w, X: relu(X), elementwise=True),
    Case("ReLU at 0", ReLU, [row(-1, -0.0, 0, 2)], lambda w, X: relu(X),
         gradient=lambda w, dY, X: dY * (X > 0)),
    Case("LeakyReLU", dc.LeakyReLU, [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 0.01 * X), elementwise=True),
    Case("LeakyReLU at 0", lambda: dc.LeakyReLU(0.2), [row(-1, -0.0, 0, 2)],
         lambda w, X: np.where(X > 0, X, 0.2 * X), gradient=lambda w, dY, X: dY * np.where(X > 0, 1, 0.2)),
    Case("LeakyReLU alpha=0", lambda: dc.LeakyReLU(0.0), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 0 * X), elementwise=True),
    Case("LeakyReLU alpha=-0.5", lambda: dc.LeakyReLU(-0.5), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, -0.5 * X), elementwise=True),
    Case("LeakyReLU alpha=3", lambda: dc.LeakyReLU(3), [off_zero(4)],
         lambda w, X: np.where(X > 0, X, 3 * X), elementwise=True),
    Case("Sigmoid", dc.Sigmoid, [normal(2, 3)], lambda w, X: sigmoid(X), elementwise=True),
    Case("Tanh", Tanh, [normal(2, 3)], lambda w, X: np.tanh(X), elementwise=True),
    Case("Softmax", dc.Softmax, [normal(4)], lambda w, X: softmax(X)),
    Case("Softmax axis 0", lambda: dc.Softmax(axis=0), [normal(4)], lambda w, X: softmax(X, 0), mixes=True),
    Case("Softmax axis 1", lambda: dc.Softmax(axis=1), [normal(4, 2, 3)], lambda w, X: softmax(X, 1)),
    Case("Softmax axis -2", lambda: dc.Softmax(axis=-2), [normal(3, 2)], lambda w, X: softmax(X, -2)),
    Case("Softmax of one class", dc.Softmax, [normal(1)], lambda w, X: np.where(np.isfinite(X), 1.0, np.nan)),
    Case("Softmax 1-D", dc.Softmax, [unbatched(5)], lambda w, x: softmax(x), batched=False),

    # losses
    Case("CrossEntropyLoss", _CE, [normal(4), labels(4)], lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss (n, 1) uint64", _CE, [normal(4), labels(4, 1, dtype="uint64")],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss confident", _CE, [row(25, 0, 1), row(1, 0, 0)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss probabilities", _CE, [normal(4), probabilities(4)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss probabilities, all settings", lambda: _CE(-100, 0.3, _EACH, "none"),
         [normal(4), probabilities(4)], lambda w, X, y: cross_entropy(X, y, -100, 0.3, _EACH, "none")),
    Case("CrossEntropyLoss probabilities over places", _CE, [normal(4, 2), probabilities(4, 2)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss ignore_index", _CE, [normal(4), labels(4, ignore=-100)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss ignore_index 2", lambda: _CE(ignore_index=2), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, 2), mixes=True),
    Case("CrossEntropyLoss ignore_index 255, uint8", lambda: _CE(255),
         [normal(4), labels(4, dtype="uint8", ignore=255)],
         lambda w, X, y: cross_entropy(X, y, 255), mixes=True),
    Case("CrossEntropyLoss all ignored", lambda: _CE(ignore_index=0), [normal(4), labels(1)],
         lambda w, X, y: cross_entropy(X, y, 0), mixes=True),
    Case("CrossEntropyLoss smoothing", lambda: _CE(label_smoothing=0.2), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, smoothing=0.2), mixes=True),
    Case("CrossEntropyLoss smoothing 1", lambda: _CE(label_smoothing=1.0), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, smoothing=1.0), mixes=True),
    Case("CrossEntropyLoss weight", lambda: _CE(weight=_EACH), [normal(4), labels(4, dtype="int32")],
         lambda w, X, y: cross_entropy(X, y, weight=_EACH), mixes=True),
    Case("CrossEntropyLoss all settings", lambda: _CE(1, 0.1, _EACH), [normal(4), labels(4, 1)],
         lambda w, X, y: cross_entropy(X, y, 1, 0.1, _EACH), mixes=True),
    Case("CrossEntropyLoss sum", lambda: _CE(reduction="sum"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, reduction="sum"), mixes=True),
    Case("CrossEntropyLoss none", lambda: _CE(reduction="none"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, reduction="none")),
    Case("CrossEntropyLoss none, all settings", lambda: _CE(3, 0.1, _EACH, "none"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, 3, 0.1, _EACH, "none")),
    Case("CrossEntropyLoss over places", _CE, [normal(4, 2, 3), labels(4, 2, 3)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss over places, (n, 1, ...)", _CE,
         [normal(4, 2, 3), labels(4, 1, 2, 3, dtype="uint8")], lambda w, X, y: cross_entropy(X, y),
         mixes=True),
    Case("CrossEntropyLoss over places, all settings", lambda: _CE(-1, 0.1, _EACH),
         [normal(4, 3), labels(4, 3, ignore=-1)], lambda w, X, y: cross_entropy(X, y, -1, 0.1, _EACH),
         mixes=True),
    Case("CrossEntropyLoss over places, none", lambda: _CE(reduction="none"),
         [normal(4, 2, 3), labels(4, 2, 3)], lambda w, X, y: cross_entropy(X, y, reduction="none")),
    Case("MeanSquareLoss", dc.MeanSquareLoss, [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum() / len(X), mixes=True),
    Case("MeanSquareLoss 1-D", dc.MeanSquareLoss, [normal(), normal()],
         lambda w, X, Y: ((X - Y) ** 2).mean(), mixes=True),
    Case("MeanSquareLoss images", dc.MeanSquareLoss, [normal(2, 3, 2), normal(2, 3, 2)],
         lambda w, X, Y: ((X - Y) ** 2).sum() / len(X), mixes=True),
    Case("MeanSquareLoss sum", lambda: dc.MeanSquareLoss("sum"), [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum(), mixes=True),
    Case("MeanSquareLoss none", lambda: dc.MeanSquareLoss("none"), [normal(2, 3), normal(2, 3)],
         lambda w, X, Y: ((X - Y) ** 2).sum(axis=(1, 2))),
    Case("MSELoss", dc.MSELoss, [normal(2, 3), normal(2, 3)],
         lambda w, X, Y: ((X - Y) ** 2).mean(), mixes=True),
    Case("MSELoss sum", lambda: dc.MSELoss("sum"), [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum(), mixes=True),
    Case("MSELoss none", lambda: dc.MSELoss("none"), [normal(4), normal(4)], lambda w, X, Y: (X - Y) ** 2),

    # containers
    Case("Sequential", lambda: Sequential(Linear(3, 4), Tanh(), Linear(4, 3)), [normal(3)],
         lambda w, X: affine(w, np.tanh(affine(w, X, "0.")), "2.")),
    Case("Sequential of nothing", Sequential, [normal(3)], lambda w, X: X),
    Case("Sequential CNN", small_cnn, [normal(1, 3, 4)], small_cnn_formula),
    Case("Sequential tied", tied, [normal(3)], lambda w, X: np.tanh(affine(w, X, "0.")) @ w["0.W"]),
    Case("Residual", lambda: Residual(Linear(3, 3)), [normal(3)], lambda w, X: affine(w, X, "f.") + X),
    Case("Residual with shortcut",
         lambda: Residual(Sequential(Linear(3, 2), Tanh()), Linear(3, 2, bias=False)), [normal(3)],
         lambda w, X: np.tanh(affine(w, X, "f.0.")) + X @ w["shortcut.W"]),
    Case("Concat", lambda: Concat(Linear(3, 2), Linear(3, 4), Tanh()), [normal(3)],
         lambda w, X: np.concatenate([affine(w, X, "0."), affine(w, X, "1."), np.tanh(X)], axis=1)),
    Case("Concat last axis", lambda: Concat(Tanh(), Linear(3, 2), axis=-1), [normal(2, 3)],
         lambda w, X: np.concatenate([np.tanh(X), affine(w, X, "1.")], axis=-1)),
    Case("Concat channels", lambda: Concat(Conv2D(2, 1, 1), MaxPool2D(3, 1, 1)), [distinct(2, 3, 2)],
         lambda w, X: np.concatenate(
             [conv(X, w["0.W"], w["0.b"]), max_pool(X, (3, 3), (1, 1), (1, 1))], axis=1)),
    Case("Add", lambda: Add(Linear(3, 2), Linear(3, 2, bias=False), Sequential(Linear(3, 2), dc.Sigmoid())),
         [normal(3)], lambda w, X: affine(w, X, "0.") + X @ w["1.W"] + sigmoid(affine(w, X, "2.0."))),
    Case("Add of one", lambda: Add(Tanh()), [normal(3)], lambda w, X: np.tanh(X)),
    Case("Net", lambda: Net([Linear(3, 4), ReLU(), Linear(4, 2)]), [normal(3)],
         lambda w, X: affine(w, relu(affine(w, X, "layers.0.")), "layers.2.")),
    Case("Net of nets", nested_net, [normal(3)], nested_net_formula),

    # the user's own
    Case("Square", Square, [normal(2, 3)], lambda w, X: X**2, elementwise=True, own=True),
    Case("Scale", Scale, [normal(2, 3)], lambda w, X: X * w["s"], own=True),
    Case("Net with the user's own", lambda: Net([Linear(3, 2), Square(), Scale(), Linear(2, 2)]), [normal(3)],
         lambda w, X: affine(w, affine(w, X, "layers.0.") ** 2 * w["layers.2.s"], "layers.3."), own=True),
    Case("Product", Product, [normal(3), normal(3)], lambda w, A, B: A * B, own=True),
    Case("Difference", lambda: Difference(Sequential(Linear(3, 2), Tanh())), [normal(3), normal(3)],
         lambda w, A, B: np.tanh(affine(w, A, "f.0.")) - np.tanh(affine(w, B, "f.0.")), own=True),
]  # fmt: skip
