"""A net as an ONNX graph, for the runtimes that read it. Needs the package onnx.

One line of the table below says a class in ONNX's operators. What ONNX has no operator for becomes a function
in the model itself: a node of the domain "deepcore", whose body is in ONNX's operators, and which carries the
layer's description, so that `load_onnx` finds the very layer again.
"""

from __future__ import annotations

import copy
import importlib
import json
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepcore.backends.base import import_optional
from deepcore.backends.select import dtype_name, is_floating
from deepcore.core.function import Function, first_weight, input_dtype
from deepcore.core.move import move
from deepcore.core.record import inference
from deepcore.errors import ArgumentError, UnsupportedError
from deepcore.io import state
from deepcore.io.architecture import describe, row_of
from deepcore.io.safetensors import replacing
from deepcore.shapes import to_tuple

OPSET = 20  # the first that has Gelu; runtimes of 2024 read it
_IR_VERSION = 9  # of the file, as old as the opset
DOMAIN = "deepcore"


def import_onnx(part: str = "") -> Any:
    """The package onnx, or a part of it. Raises UnsupportedError that names the extra."""
    onnx = import_optional("onnx")
    if onnx is not None and part:
        return importlib.import_module(f"onnx.{part}")
    if onnx is None:
        raise UnsupportedError('ONNX needs the package onnx: pip install "deepcore[onnx]"')
    return onnx


def save_onnx(net: Function, path: str | os.PathLike[str], input_shape: Any) -> None:
    """Write a net, as it predicts, to an ONNX file.

    input_shape: of one sample, without the batch, which may have any size.
    Input and output are called X and Y; the opset is 20. Weights of more than 2 GB don't fit in a file.
    The file appears, or takes the place of an older one, when it is complete and on the disk.

    Raises UnsupportedError, naming it, for a layer that ONNX can't say, and without the package onnx;
    ShapeError if the net doesn't take samples of that shape; OSError.
    """
    model = _model(net, _sizes(input_shape))
    with replacing(path) as file:
        file.write(model.SerializeToString())


def _sizes(input_shape: Any) -> tuple[int, ...]:
    sizes = input_shape if hasattr(input_shape, "__len__") else (input_shape,)
    return to_tuple(sizes, len(sizes), "save_onnx", "input_shape", least=1)


def _model(net: Function, input_shape: tuple[int, ...]) -> Any:
    onnx = import_onnx()
    helper = onnx.helper
    net = copy.deepcopy(net)
    move(net, "numpy")
    W = first_weight(net)
    if W is not None and not is_floating(W):
        raise UnsupportedError(f"save_onnx: the weights are {dtype_name(W)}")
    X = np.zeros((1, *input_shape), input_dtype(net))
    graph = _Graph(onnx, state._slots(net))
    with inference():
        name, Y = graph.write(net, "X", X)
    graph.op("Identity", name, outputs=["Y"])
    proto = helper.make_graph(
        graph.nodes,
        type(net).__name__,
        [helper.make_tensor_value_info("X", helper.np_dtype_to_tensor_dtype(X.dtype), ["n", *input_shape])],
        [helper.make_tensor_value_info("Y", helper.np_dtype_to_tensor_dtype(Y.dtype), ["n", *Y.shape[1:]])],
        graph.arrays(),
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(
        proto,
        producer_name="deepcore",
        opset_imports=opsets,
        ir_version=_IR_VERSION,
        functions=graph.functions,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """The nodes and arrays of a graph, or of a function in it, as they are written."""

    def __init__(self, onnx: Any, slots: dict[str, Any], prefix: str = ""):
        self.onnx = onnx
        self.prefix = prefix
        self.values = {path: slot.value for path, slot in slots.items()}
        self.path_of = {id(slot.value): path for path, slot in slots.items()}  # the net holds them
        self.nodes: list[Any] = []
        self.used: dict[str, np.ndarray] = {}
        self.functions: list[Any] = []
        self.shape: tuple[int, ...] = ()  # of the input of the Function that is being written
        self.out: tuple[int, ...] = ()  # and of its output
        self.dtype = np.dtype("float32")

    def write(self, f: Function, name: str, X: Any) -> tuple[str, Any]:
        """Append what computes f of the array called `name`; X is such an array, of one sample."""
        container = row_of(_CONTAINERS, f)
        if container is not None:
            return container(self, f, name, X)
        if row_of({"Bilinear": True}, f):
            raise UnsupportedError(f"{f._who()}: it takes two inputs, and save_onnx writes graphs of one")
        row = row_of(_OPERATORS, f)
        if row is None:
            raise UnsupportedError(
                f"{f._who()}: save_onnx has no operator for {type(f).__name__}; "
                "replace it by layers of deepcore's own"
            )
        Y = f(X)
        if type(Y) is tuple:
            raise UnsupportedError(f"{f._who()}: save_onnx writes functions of one output")
        self.shape, self.out, self.dtype = tuple(X.shape), tuple(Y.shape), Y.dtype
        return row(self, f, name), Y

    def op(self, kind: str, *inputs: str, outputs: Any = 1, **attributes: Any) -> Any:
        """Append a node; returns the name of its output, or a list of names."""
        names = outputs
        if isinstance(outputs, int):
            names = [f"{self.prefix}{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        node = self.onnx.helper.make_node(kind, list(inputs), names, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def weight(self, f: Function, name: str, *shape: int) -> str:
        """The name of a weight or a buffer in the graph, in a shape; "" if f has none of that name."""
        table = {**f._weights, **f.buffer}
        if name not in table:
            return ""
        path = self.path_of[id(table[name])]
        x = table[name].reshape(shape) if shape else table[name]
        if path in self.used and self.used[path].shape != x.shape:  # shared, and seen in another shape
            path = f"{path} {'x'.join(map(str, x.shape))}"
        self.used[path] = x
        return path

    def number(self, value: float) -> str:
        """The name of a constant of X's dtype."""
        return self.constant(np.array(value, self.dtype))

    def integers(self, *values: int) -> str:
        """The name of a constant vector of whole numbers: a shape, axes, paddings."""
        return self.constant(np.array(values, np.int64))

    def constant(self, x: np.ndarray) -> str:
        return self.op("Constant", value=self.onnx.numpy_helper.from_array(x))

    def arrays(self) -> list[Any]:
        return [
            self.onnx.numpy_helper.from_array(np.ascontiguousarray(x), path) for path, x in self.used.items()
        ]

    def function(self, f: Function, X: str, body: Callable[[Any, Any, str], str]) -> str:
        """f as a function in the model: its inputs are X and the weights of f, its attribute describes f."""
        helper = self.onnx.helper
        kind = f"{type(f).__name__}_{len(self.functions)}"
        inner = _Graph(self.onnx, {}, "t_")
        inner.path_of = {id(x): name for name, x in f._weights.items()}
        inner.shape, inner.out, inner.dtype = self.shape, self.out, self.dtype
        inner.op("Identity", body(inner, f, "X"), outputs=["Y"])
        names = list(f._weights)
        opsets = [helper.make_opsetid("", OPSET)]
        self.functions.append(
            helper.make_function(DOMAIN, kind, ["X", *names], ["Y"], inner.nodes, opsets, ["description"])
        )
        weights = (self.weight(f, name) for name in names)
        return self.op(kind, X, *weights, domain=DOMAIN, description=json.dumps(describe(f)))


# ---- the table: (graph, f, name of X) -> name of Y


def _as(kind: str, *names: str, **fixed: Any) -> Callable[..., str]:
    """An operator whose attributes are those of f, under the same names."""
    return lambda g, f, X: g.op(kind, X, **{name: getattr(f, name) for name in names}, **fixed)


def _function(body: Callable[[Any, Any, str], str]) -> Callable[..., str]:
    return lambda g, f, X: g.function(f, X, body)


def _linear(g: _Graph, f: Any, X: str) -> str:
    W, b = g.weight(f, "W"), g.weight(f, "b", f.out_dim)
    if len(g.shape) == 2:
        return g.op("Gemm", X, W, *([b] if b else []))
    Y = g.op("MatMul", X, W)
    return g.op("Add", Y, b) if b else Y


def _ends(pads: Sequence[tuple[int, int]]) -> list[int]:
    """All beginnings, then all ends, as ONNX has them."""
    return [lo for lo, _ in pads] + [hi for _, hi in pads]


def _conv(g: _Graph, f: Any, X: str) -> str:
    return _convolution(g, f, X, "Conv", _ends(f._pads))


def _conv_transpose(g: _Graph, f: Any, X: str) -> str:
    ends, more = list(f.padding), list(f.output_padding)
    for axis, stride in enumerate(f.stride):
        if more[axis] >= stride:  # which onnxruntime refuses: less padding at the end is the same
            moved = min(ends[axis], more[axis])
            ends[axis], more[axis] = ends[axis] - moved, more[axis] - moved
    return _convolution(g, f, X, "ConvTranspose", [*f.padding, *ends], output_padding=more)


def _convolution(g: _Graph, f: Any, X: str, kind: str, pads: list[int], **more: Any) -> str:
    b = g.weight(f, "b", f.out_channels)
    sizes = {"kernel_shape": f.kernel_size, "strides": f.stride, "dilations": f.dilation, "pads": pads}
    return g.op(kind, X, g.weight(f, "W"), *([b] if b else []), group=f.groups, **sizes, **more)


def _pool(kind: str) -> Callable[..., str]:
    def write(g: _Graph, f: Any, X: str) -> str:
        more = {"count_include_pad": int(f.count_include_pad)} if kind == "AveragePool" else {}
        sizes = {"kernel_shape": f.kernel_size, "strides": f.stride, "pads": [*f.padding, *f.padding]}
        return g.op(kind, X, **sizes, **more)

    return write


def _adaptive_pool(kind: str, whole: str) -> Callable[..., str]:
    def write(g: _Graph, f: Any, X: str) -> str:
        sizes = list(zip(g.shape[2:], g.out[2:], strict=True))
        if all(m == 1 for _, m in sizes):
            return g.op(whole, X)
        if any(n % m for n, m in sizes):
            raise UnsupportedError(
                f"{f._who()}: ONNX has windows of one size only, "
                f"and {g.shape[2:]} can't be cut into {g.out[2:]} of them"
            )
        kernel = [n // m for n, m in sizes]
        return g.op(kind, X, kernel_shape=kernel, strides=kernel)

    return write


def _batch_norm(g: _Graph, f: Any, X: str) -> str:
    names = ("gamma", "beta", "running_mean", "running_var")
    vectors = (g.weight(f, name, f.n_channels) for name in names)
    return g.op("BatchNormalization", X, *vectors, epsilon=f.epsilon)


def _layer_norm(g: _Graph, f: Any, X: str) -> str:
    gamma, beta = (g.weight(f, name, *f.shape) for name in ("gamma", "beta"))
    return g.op("LayerNormalization", X, gamma, beta, axis=-len(f.shape), epsilon=f.epsilon)


def _instance_norm(g: _Graph, f: Any, X: str) -> str:
    gamma, beta = (g.weight(f, name, f.n_channels) for name in ("gamma", "beta"))
    return g.op("InstanceNormalization", X, gamma, beta, epsilon=f.epsilon)


def _group_norm(g: _Graph, f: Any, X: str) -> str:
    ones, zeros = (g.constant(np.full(f.groups, value, g.dtype)) for value in (1, 0))
    H = g.op("Reshape", X, g.integers(0, f.groups, -1))
    H = g.op("InstanceNormalization", H, ones, zeros, epsilon=f.epsilon)
    H = g.op("Reshape", H, g.op("Shape", X))
    vector = g.integers(1, -1, *(1,) * (len(g.shape) - 2))
    gamma, beta = (g.op("Reshape", g.weight(f, name), vector) for name in ("gamma", "beta"))
    return g.op("Add", g.op("Mul", H, gamma), beta)


def _rms_norm(g: _Graph, f: Any, X: str) -> str:
    axes = g.integers(*range(-len(f.shape), 0))
    square = g.op("ReduceMean", g.op("Mul", X, X), axes, keepdims=1)
    root = g.op("Sqrt", g.op("Add", square, g.number(f.epsilon)))
    return g.op("Mul", g.op("Div", X, root), g.op("Reshape", g.weight(f, "gamma"), g.integers(*f.shape)))


def _prelu(g: _Graph, f: Any, X: str) -> str:
    alone = f.weight["alpha"].size == 1
    return g.op("PRelu", X, g.weight(f, "alpha", -1, *() if alone else (1,) * (len(g.shape) - 2)))


def _pad(g: _Graph, f: Any, X: str) -> str:
    before = [(0, 0)] * (len(g.shape) - len(f._pads))
    return g.op("Pad", X, g.integers(*_ends([*before, *f._pads])), g.number(f.value), mode=f.mode)


def _upsample(g: _Graph, f: Any, X: str) -> str:
    scales = g.constant(np.array([1, 1, *f.scale], np.float32))
    if f.mode == "nearest":
        places = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return g.op("Resize", X, "", scales, mode="nearest", **places)
    return g.op("Resize", X, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")


def _clip(g: _Graph, f: Any, X: str) -> str:
    return g.op("Clip", X, g.number(f.min_val), g.number(f.max_val))


def _softplus(g: _Graph, f: Any, X: str) -> str:
    B = g.op("Mul", X, g.number(f.beta))
    Y = g.op("Div", g.op("Softplus", B), g.number(f.beta))
    return g.op("Where", g.op("Greater", B, g.number(f.threshold)), X, Y)


def _threshold(g: _Graph, f: Any, X: str) -> str:
    return g.op("Where", g.op("Greater", X, g.number(f.threshold)), X, g.number(f.value))


def _glu(g: _Graph, f: Any, X: str) -> str:
    A, B = g.op("Split", X, outputs=2, axis=f.axis, num_outputs=2)
    return g.op("Mul", A, g.op("Sigmoid", B))


_RECURRENT = {  # ONNX's operator, and which of our gates are its first, second and so on
    "GRU": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "LSTM": ("LSTM", (0, 3, 1, 2), {}),
    "RNN": ("RNN", (0,), {}),
}


def _recurrent(g: _Graph, f: Any, X: str) -> str:
    kind, order, more = row_of(_RECURRENT, f)
    if f.return_state:
        raise UnsupportedError(
            f"{f._who()}: save_onnx writes functions of one output; use return_state=False"
        )
    directions = ("", "_reverse") if f.bidirectional else ("",)

    def gates(name: str) -> str:
        """(rows, gates h) -> (gates h, rows), the gates in ONNX's order"""
        W = g.weight(f, name)
        if len(order) > 1:
            parts = g.op("Split", W, outputs=len(order), axis=1, num_outputs=len(order))
            W = g.op("Concat", *(parts[i] for i in order), axis=1)
        return g.op("Transpose", W, perm=[1, 0])

    def stacked(names: Sequence[str]) -> str:
        """Of each direction, one above the other."""
        parts = [g.op("Unsqueeze", name, g.integers(0)) for name in names]
        return g.op("Concat", *parts, axis=0)

    Y = g.op("Transpose", X, perm=[1, 0, 2])  # (n, t, i) -> (t, n, i)
    for layer in range(f.num_layers):
        ends = [f"_l{layer}{direction}" for direction in directions]
        W, R = (stacked([gates(f"{name}{end}") for end in ends]) for name in ("W_ih", "W_hh"))
        rows = [g.op("Concat", gates(f"b_ih{end}"), gates(f"b_hh{end}"), axis=0) for end in ends]
        B = stacked([g.op("Squeeze", row, g.integers(1)) for row in rows])
        direction = "bidirectional" if f.bidirectional else "forward"
        Y = g.op(kind, Y, W, R, B, hidden_size=f.hidden_dim, direction=direction, **more)  # (t, d, n, h)
        Y = g.op("Reshape", g.op("Transpose", Y, perm=[0, 2, 1, 3]), g.integers(0, 0, -1))
    return g.op("Transpose", Y, perm=[1, 0, 2])


def _attention(g: _Graph, f: Any, X: str) -> str:
    *more, t, dim = g.shape
    lead, batch = len(more), [0] * len(more)

    def affine(X: str, part: str) -> str:
        b = g.op("Reshape", g.weight(f, f"b_{part}"), g.integers(-1))
        return g.op("Add", g.op("MatMul", X, g.weight(f, f"W_{part}")), b)

    swapped = [*range(lead), lead + 1, lead, lead + 2]
    heads = g.integers(*batch, 0, f.heads, dim // f.heads)
    if lead == 0:
        heads = g.integers(0, f.heads, dim // f.heads)
    Q, K, V = (g.op("Transpose", g.op("Reshape", affine(X, p), heads), perm=swapped) for p in "qkv")
    S = g.op("MatMul", Q, g.op("Transpose", K, perm=[*range(lead + 1), lead + 2, lead + 1]))
    S = g.op("Div", S, g.number(math.sqrt(dim // f.heads)))
    if f.causal:
        allowed = g.constant(np.tri(t, dtype=bool))
        S = g.op("Where", allowed, S, g.number(-np.inf))
    H = g.op("Transpose", g.op("MatMul", g.op("Softmax", S, axis=-1), V), perm=swapped)
    return affine(g.op("Reshape", H, g.integers(*batch, 0, -1)), "o")


_OPERATORS: dict[str, Callable[[_Graph, Any, str], str]] = {
    "AdaptiveAvgPool": _adaptive_pool("AveragePool", "GlobalAveragePool"),
    "AdaptiveMaxPool": _adaptive_pool("MaxPool", "GlobalMaxPool"),
    "AvgPool": _pool("AveragePool"),
    "BatchNorm": _batch_norm,
    "CELU": _as("Celu", "alpha"),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Dropout": lambda g, f, X: X,
    "ELU": _as("Elu", "alpha"),
    "Embedding": lambda g, f, X: g.op("Gather", g.weight(f, "W"), X, axis=0),
    "Flatten": _as("Flatten", axis=1),
    "GELU": _as("Gelu", "approximate"),
    "GLU": _function(_glu),
    "GRU": _function(_recurrent),
    "GroupNorm": _function(_group_norm),
    "HardShrink": _as("Shrink", "lambd", bias=0.0),
    "HardSigmoid": _as("HardSigmoid", alpha=1 / 6, beta=0.5),
    "HardSwish": _as("HardSwish"),
    "HardTanh": _clip,
    "InstanceNorm": _instance_norm,
    "LSTM": _function(_recurrent),
    "LayerNorm": _layer_norm,
    "LeakyReLU": _as("LeakyRelu", "alpha"),
    "Linear": _linear,
    "LogSigmoid": _function(lambda g, f, X: g.op("Neg", g.op("Softplus", g.op("Neg", X)))),
    "LogSoftmax": _as("LogSoftmax", "axis"),
    "MaxPool": _pool("MaxPool"),
    "Mish": _as("Mish"),
    "MultiHeadAttention": _function(_attention),
    "PReLU": _prelu,
    "Pad": _pad,
    "Permute": lambda g, f, X: g.op("Transpose", X, perm=[0, *f.axes]),
    "RMSNorm": _function(_rms_norm),
    "RNN": _function(_recurrent),
    "ReLU": _as("Relu"),
    "Reshape": lambda g, f, X: g.op("Reshape", X, g.integers(0, *f.shape)),
    "SELU": _as("Selu"),
    "SiLU": _function(lambda g, f, X: g.op("Mul", X, g.op("Sigmoid", X))),
    "Sigmoid": _as("Sigmoid"),
    "SoftShrink": lambda g, f, X: g.op("Shrink", X, lambd=f.lambd, bias=f.lambd),
    "Softmax": _as("Softmax", "axis"),
    "Softmin": _function(lambda g, f, X: g.op("Softmax", g.op("Neg", X), axis=f.axis)),
    "Softplus": _function(_softplus),
    "Softsign": _as("Softsign"),
    "Tanh": _as("Tanh"),
    "TanhShrink": _function(lambda g, f, X: g.op("Sub", X, g.op("Tanh", X))),
    "Threshold": _function(_threshold),
    "Upsample2D": _upsample,
}


# ---- containers: (graph, f, name of X, X) -> name of Y, Y


def _chain(g: _Graph, functions: Sequence[Function], word: str, name: str, X: Any) -> tuple[str, Any]:
    for index, f in enumerate(functions):
        try:
            name, X = g.write(f, name, X)
        except (UnsupportedError, ArgumentError) as error:
            error.inside(f"{word} {index}")
            raise
    return name, X


def _branches(g: _Graph, functions: Sequence[Function], name: str, X: Any) -> tuple[list[str], list[Any]]:
    written = [g.write(f, name, X) for f in functions]
    return [name for name, _ in written], [Y for _, Y in written]


def _residual(g: _Graph, f: Any, name: str, X: Any) -> tuple[str, Any]:
    names, Ys = _branches(g, [f.f] if f.shortcut is None else [f.f, f.shortcut], name, X)
    return g.op("Add", *[*names, name][:2]), Ys[0]


def _concat(g: _Graph, f: Any, name: str, X: Any) -> tuple[str, Any]:
    names, Ys = _branches(g, f.functions, name, X)
    return g.op("Concat", *names, axis=f.axis), np.concatenate(Ys, axis=f.axis)


def _add(g: _Graph, f: Any, name: str, X: Any) -> tuple[str, Any]:
    names, Ys = _branches(g, f.functions, name, X)
    return g.op("Sum", *names), Ys[0]


def _transformer_block(g: _Graph, f: Any, name: str, X: Any) -> tuple[str, Any]:
    normed = g.write(f.norm_1, name, X)
    attended, _ = g.write(f.attention, *normed)
    A = g.op("Add", name, attended), X
    wide, Z = g.write(f.expand, *g.write(f.norm_2, *A))
    narrow, Y = g.write(f.contract, g.op("Gelu", wide), Z)
    return g.op("Add", A[0], narrow), Y


def _graph(g: _Graph, f: Any, name: str, X: Any) -> tuple[str, Any]:
    values = {"X": (name, X)}
    for index, (step, taken, given) in enumerate(f.steps):
        join = row_of(_JOINED, step)
        if join is not None:
            values[given] = (
                join(g, step, *(values[n][0] for n in taken)),
                step(*(values[n][1] for n in taken)),
            )
        else:
            if len(taken) > 1:
                raise UnsupportedError(
                    f"step {index}, {step._who()}: save_onnx writes functions of one input"
                )
            values[given] = g.write(step, *values[taken[0]])
    return values[f.output]


_JOINED: dict[str, Callable[..., str]] = {
    "Join": lambda g, f, *names: g.op("Concat", *names, axis=f.axis),
    "Product": lambda g, f, *names: g.op("Mul", *names),
    "Sum": lambda g, f, *names: g.op("Sum", *names),
}
_CONTAINERS: dict[str, Callable[..., tuple[str, Any]]] = {
    "Add": _add,
    "Composition": lambda g, f, name, X: _chain(g, f.layers, "layer", name, X),
    "Concat": _concat,
    "Graph": _graph,
    "Residual": _residual,
    "Sequential": lambda g, f, name, X: _chain(g, f.functions, "function", name, X),
    "TransformerBlock": _transformer_block,
}
