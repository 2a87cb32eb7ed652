"""The benchmark cases: which op, on what, and what must come out. The command and bench/ share them.

Linear and cross-entropy come in several sizes, from where calls dominate to where the machine does, each
with its formula written a second time. Every other op that a library has a native kernel for comes in one
realistic size, with its own reference body in float64 as the formula. A new kernel joins by one line.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import deepcore.ops
from deepcore.errors import ArgumentError
from deepcore.ops.dispatch import OPS

for _family in pkgutil.iter_modules(deepcore.ops.__path__, "deepcore.ops."):
    importlib.import_module(_family.name)  # each puts its ops into OPS


@dataclass(frozen=True)
class Case:
    """One op at one size.

    op: its name in OPS   draw: its arguments, arrays as NumPy's   flops: of its matrix products
    formula: its result, from the arguments in float64
    """

    op: str
    size: str
    draw: Callable[[], tuple[Any, ...]]
    formula: Callable[..., Any]
    flops: int = 0

    def __str__(self) -> str:
        return f"{self.op} {self.size}"

    def wanted(self, arguments: Sequence[Any]) -> Any:
        """The result that `arguments` must give, in float64."""
        return self.formula(*(_widened(x) for x in arguments))


def _widened(x: Any) -> Any:
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def choose(ops: Sequence[str] = (), smallest: bool = False) -> list[Case]:
    """The cases of the ops that are named, as "linear.linear" or "linear"; of none: of MAIN_OPS.

    smallest: only the first, smallest size of each.   Raises ArgumentError for an op that has no case.
    """
    found = [case for case in CASES if case.op in MAIN_OPS and not ops]
    for name in ops:
        cases = [case for case in CASES if name in (case.op, case.op.partition(".")[2])]
        if not cases:
            known = ", ".join(dict.fromkeys(case.op for case in CASES))
            raise ArgumentError(f"there is no benchmark of an op {name!r}; choose from: {known}")
        found += cases
    found = list(dict.fromkeys(found))  # an op that is named twice is timed once
    return list({case.op: case for case in reversed(found)}.values())[::-1] if smallest else found


def case_of(op: str, size: str) -> Case:
    """The case of that name: a case travels to another process by its name."""
    return next(case for case in CASES if (case.op, case.size) == (op, size))


# ---- data and formulas


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _labels(n: int, c: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, c, n)


def _linear(n: int, i: int, o: int) -> Case:
    def draw() -> tuple[Any, ...]:
        return _normal(n, i), _normal(i, o, seed=1) / np.float32(math.sqrt(i)), _normal(1, o, seed=2)

    return Case("linear.linear", f"{n}x{i}->{o}", draw, lambda X, W, b: X @ W + b, flops=2 * n * i * o)


def _linear_backward(n: int, i: int, o: int) -> Case:
    def draw() -> tuple[Any, ...]:
        W = _normal(i, o, seed=1) / np.float32(math.sqrt(i))
        return _normal(n, o, seed=2), _normal(n, i), W, True

    def formula(dY: Any, X: Any, W: Any, bias: bool) -> tuple[Any, ...]:
        return dY @ W.T, X.T @ dY, dY.sum(axis=0, keepdims=True)

    return Case("linear.linear_backward", f"{n}x{i}->{o}", draw, formula, flops=4 * n * i * o)


def _cross_entropy(n: int, c: int) -> Case:
    def formula(X: Any, y: Any, *settings: Any) -> tuple[Any, ...]:
        rows = np.arange(n)
        top = X.max(axis=1, keepdims=True)
        P = np.exp(X - top)
        Z = P.sum(axis=1, keepdims=True)
        L = np.log(Z[:, 0]) + top[:, 0] - X[rows, y]
        P /= Z
        P[rows, y] -= 1
        P /= n
        return L.mean(), P

    # no weights, and no label to ignore: what `fit` asks for when it has looked at the labels
    return Case("loss.cross_entropy", f"{n}x{c}", lambda: (_normal(n, c), _labels(n, c), None, None), formula)


def _native(op: str, size: str, draw: Callable[[], tuple[Any, ...]], flops: int = 0) -> Case:
    return Case(op, size, draw, OPS[op].reference, flops)


def _rows(*seeds: int) -> tuple[np.ndarray, ...]:
    return tuple(_normal(256, 1000, seed=seed) for seed in seeds)


_IMAGES = (32, 64, 32, 32)
_FILTERS = (64, 64, 3, 3)
_CONV_FLOPS = 2 * math.prod(_IMAGES) * math.prod(_FILTERS[1:])
_GEOMETRY = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)  # stride, padding, dilation, groups
_POOLING = ((2, 2), (2, 2), ((0, 0), (0, 0)))  # kernel, stride, padding
_HALVES = tuple((i, i + 2) for i in range(0, 32, 2))  # windows of 2 along an axis


def _channels(*seeds: int) -> tuple[np.ndarray, ...]:
    """A positive number for each channel."""
    return tuple(0.5 + abs(_normal(1, _IMAGES[1], 1, 1, seed=seed)) for seed in seeds)


def _pooled() -> tuple[Any, ...]:
    Y, index = OPS["pool.max_pool"].reference(_normal(*_IMAGES), *_POOLING)
    return _normal(*Y.shape, seed=1), index, _IMAGES, *_POOLING


_RUN_FLOPS = 2 * 32 * 32 * 512 * (128 + 128)


def _run() -> tuple[Any, ...]:
    """X, W_ih, W_hh, b_ih, b_hh and a state of an LSTM of 32 samples and steps, 128 -> 128."""
    weights = (_normal(*shape) / 11 for shape in ((128, 512), (128, 512), (1, 512), (1, 512)))
    return _normal(32, 32, 128), *weights, *_normal(2, 32, 128, seed=1)


def _run_backward() -> tuple[Any, ...]:
    tape = OPS["recurrent.lstm_run"].reference(*_run())[3:]
    return _normal(32, 32, 128, seed=2), *_normal(2, 32, 128, seed=3), *_run()[:3], *tape


MAIN_OPS = ("linear.linear", "linear.linear_backward", "loss.cross_entropy")
_LINEAR_SIZES = [(32, 64, 64), (128, 784, 128), (256, 1024, 1024), (1024, 4096, 1024)]

CASES = [
    *[_linear(*size) for size in _LINEAR_SIZES],
    *[_linear_backward(*size) for size in _LINEAR_SIZES],
    *[_cross_entropy(*size) for size in [(128, 10), (4096, 1000), (1024, 32000)]],
    _native("activation.relu", "256x1000", lambda: _rows(1)),
    _native("activation.relu_backward", "256x1000", lambda: _rows(1, 2)),
    _native("activation.leaky_relu", "256x1000", lambda: (*_rows(1), 0.1)),
    _native("activation.leaky_relu_grad", "256x1000", lambda: (*_rows(1), 0.1)),
    _native("activation.sigmoid", "256x1000", lambda: _rows(1)),
    _native("activation.sigmoid_grad", "256x1000", lambda: _rows(1)),
    _native("activation.silu", "256x1000", lambda: _rows(1)),
    _native("activation.softplus_tail", "256x1000", lambda: _rows(1)),
    _native("activation.tanh", "256x1000", lambda: _rows(1)),
    _native("activation.silu_grad", "256x1000", lambda: _rows(1)),
    _native("activation.gelu", "256x1000", lambda: _rows(1)),
    _native("activation.gelu_grad", "256x1000", lambda: _rows(1)),
    _native("activation.gelu_and_slope", "256x1000", lambda: _rows(1)),
    _native("activation.chain", "256x1000", lambda: _rows(1, 2)),
    _native("activation.gelu_tanh", "256x1000", lambda: _rows(1)),
    _native("activation.gelu_tanh_grad", "256x1000", lambda: _rows(1)),
    _native("activation.elu", "256x1000", lambda: (*_rows(1), 1.0)),
    _native("activation.elu_grad", "256x1000", lambda: (*_rows(1), 1.0)),
    _native("activation.tanh_grad", "256x1000", lambda: _rows(1)),
    _native(
        "conv.conv",
        "32x64x32x32->64",
        lambda: (_normal(*_IMAGES), _normal(*_FILTERS, seed=1) / 24, _normal(1, 64, 1, 1), *_GEOMETRY),
        _CONV_FLOPS,
    ),
    _native(
        "conv.conv_dX",
        "32x64x32x32->64",
        lambda: (_normal(*_IMAGES), _normal(*_FILTERS, seed=1) / 24, _IMAGES, *_GEOMETRY),
        _CONV_FLOPS,
    ),
    _native(
        "conv.conv_dW",
        "32x64x32x32->64",
        lambda: (_normal(*_IMAGES), _normal(*_IMAGES, seed=1), (3, 3), *_GEOMETRY),
        _CONV_FLOPS,
    ),
    _native("conv.channel_sum", "32x64x32x32", lambda: (_normal(*_IMAGES),)),
    _native("embedding.embedding", "8192 of 10000x128", lambda: (_normal(10000, 128), _labels(8192, 10000))),
    _native(
        "embedding.scatter_add", "4096 of 10000x64", lambda: (_labels(4096, 10000), _normal(4096, 64), 10000)
    ),
    _native("labels.as_index", "4096", lambda: (_labels(4096, 10).astype("int32"),)),
    _native("labels.all_within", "4096", lambda: (_labels(4096, 10), 10)),
    _native("loss.mean_square", "256x1000", lambda: _rows(1, 2)),
    _native("norm.batch_norm", "32x64x32x32", lambda: (_normal(*_IMAGES), *_channels(1, 2), 1e-5)),
    _native(
        "norm.batch_norm_backward",
        "32x64x32x32",
        lambda: (
            *(_normal(*_IMAGES), _normal(*_IMAGES, seed=1)),
            *(_normal(2, _IMAGES[1], 1, 1, seed=2), *_channels(3, 4)),
        ),
    ),
    _native(
        "norm.batch_norm_inference", "32x64x32x32", lambda: (_normal(*_IMAGES), *_channels(1, 2, 3, 4), 1e-5)
    ),
    _native(
        "norm.batch_norm_inference_backward",
        "32x64x32x32",
        lambda: (_normal(*_IMAGES), _normal(*_IMAGES, seed=1), *_channels(1, 2, 3), 1e-5),
    ),
    _native("norm.group_norm", "32x64x32x32", lambda: (_normal(*_IMAGES), *_channels(1, 2), 8, 1e-5)),
    _native(
        "norm.group_norm_backward",
        "32x64x32x32",
        lambda: (
            *(_normal(*_IMAGES), _normal(*_IMAGES, seed=1)),
            *(_normal(256, 2) * np.array([1, 0], np.float32), abs(_normal(256, 1)), *_channels(1)),
        ),
    ),
    _native("norm.rms_norm", "256x1000", lambda: (*_rows(1), _normal(1, 1000), 1e-5)),
    _native(
        "norm.rms_norm_backward", "256x1000", lambda: (*_rows(1, 2), abs(_normal(256, 1)), _normal(1, 1000))
    ),
    _native("pool.max_pool", "32x64x32x32", lambda: (_normal(*_IMAGES), *_POOLING)),
    _native("pool.max_pool_backward", "32x64x32x32", _pooled),
    _native("pool.window_sum", "32x64x32x32", lambda: (_normal(*_IMAGES), (_HALVES, _HALVES))),
    _native("random.threefry", "100000", lambda: (np.empty(0, np.float32), 100_000, (3, 5), 2, 1)),
    _native("recurrent.lstm_run", "32x32x128->128", lambda: (*_run(), False), _RUN_FLOPS),
    _native(
        "recurrent.lstm_run_backward", "32x32x128->128", lambda: (*_run_backward(), False), 2 * _RUN_FLOPS
    ),
    _native("reduce.column_sum", "4096x1000", lambda: (_normal(4096, 1000),)),
    _native("softmax.softmax", "256x1000", lambda: _rows(1)),
    _native("softmax.softmax_backward", "256x1000", lambda: _rows(1, 2)),
    _native("softmax.log_softmax", "256x1000", lambda: _rows(1)),
    _native("softmax.log_softmax_backward", "256x1000", lambda: _rows(1, 2)),
    _native("update.sgd", "256x1000", lambda: (*_rows(1, 2, 3), 0.1, 0.9, False, 0.0)),
    _native(
        "update.adam",
        "256x1000",
        lambda: (*_rows(1, 2, 3), abs(_normal(256, 1000)), 1e-3, 0.5, (0.9, 0.999), 1e-8, 0.0, 0.999),
    ),
]
