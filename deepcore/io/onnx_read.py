"""A net from an ONNX graph, as `save_onnx` or another program wrote it. Needs the package onnx.

One line of the table below says an operator in deepcore's classes. An operator that can't be mapped, and one
with an attribute that its line doesn't look at, is an UnsupportedError: nothing is passed over.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepcore.backends.select import selected_backend, use_backend
from deepcore.core.function import Function
from deepcore.core.move import move
from deepcore.errors import CheckpointError, DeepcoreError, UnsupportedError
from deepcore.io.architecture import build, registry
from deepcore.io.onnx_write import DOMAIN, import_onnx
from deepcore.io.safetensors import parse_json
from deepcore.layers.graph import Graph, Join, Product, Sum
from deepcore.shapes import same_padding

_OLDEST = 13  # opset: since then softmax has one axis, and axes of others are inputs


def load_onnx(path_or_bytes: str | os.PathLike[str] | bytes) -> Any:
    """The net that an ONNX file holds, or the bytes of one, on the selected backend.

    It is a Net with one layer after the other where the graph is such a chain, else a Net of one Graph. It
    has no loss; set net.loss_fn to train it on.

    Raises UnsupportedError, naming it, for an operator that can't be mapped, and without the package onnx;
    CheckpointError for a damaged file; OSError if there is no such file.
    """
    who = "load_onnx" if isinstance(path_or_bytes, bytes) else os.fspath(path_or_bytes)
    if isinstance(path_or_bytes, bytes):
        data = path_or_bytes
    else:
        with open(path_or_bytes, "rb") as file:
            data = file.read()
    try:
        with use_backend("numpy"):
            net = _Reader(_parsed(data)).net()
    except DeepcoreError as error:
        error.inside(who)
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{who}, the graph makes no sense: {error!r:.200}") from error
    move(net, selected_backend().name)
    return net


def _parsed(data: bytes) -> Any:
    """The model in a file, which onnx has checked, with the shapes that it can tell."""
    onnx = import_onnx()
    try:
        model = onnx.load_model_from_string(data)
        if not model.ByteSize():
            raise CheckpointError("the file is empty")
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
            raise UnsupportedError(
                "its weights are in other files; put them into one: onnx.save(onnx.load(path), path)"
            )
        shapeless = [
            x.type.tensor_type for x in model.graph.output if not x.type.tensor_type.HasField("shape")
        ]
        for kind in shapeless:  # many leave it out, though the checker wants one
            kind.shape.SetInParent()
        onnx.checker.check_model(model)
        for kind in shapeless:
            kind.ClearField("shape")
        opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
        if opset < _OLDEST:
            model = import_onnx("version_converter").convert_version(model, _OLDEST)
        foreign = [(f.domain, f.name) for f in model.functions if f.domain != DOMAIN]
        if foreign:
            model = import_onnx("inliner").inline_selected_functions(model, foreign)
        return onnx.shape_inference.infer_shapes(model)
    except DeepcoreError:
        raise
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError, and what C++ code throws
        raise CheckpointError(f"it is no valid ONNX file: {error!s:.300}") from error


class _Attributes:
    """What a node says beside its inputs; what nobody asked for is an error."""

    def __init__(self, onnx: Any, node: Any):
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        self.left = {name: _short(x) if isinstance(x, float) else x for name, x in values.items()}

    def take(self, name: str, default: Any = None) -> Any:
        value = self.left.pop(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def require(self, **defaults: Any) -> None:
        """Raise UnsupportedError unless these are left out, or are ONNX's own defaults."""
        for name, value in defaults.items():
            got = self.take(name, value)
            same = np.allclose(got, value) if isinstance(value, float) else got == value
            if not same:
                raise UnsupportedError(f"{name}={got!r} can't be mapped, only {value!r}")


def _short(x: float) -> float:
    """The shortest number that is this one in float32, which is how ONNX keeps it: 0.001."""
    return float(str(np.float32(x)))


class _Reader:
    """Goes through the nodes, and makes steps of them."""

    def __init__(self, model: Any):
        self.onnx = import_onnx()
        self.graph = model.graph
        self.functions = {f.name: f for f in model.functions if f.domain == DOMAIN}
        self.size = model.ByteSize()
        to_array = self.onnx.numpy_helper.to_array
        self.constants: dict[str, np.ndarray] = {x.name: to_array(x) for x in self.graph.initializer}
        self.sizes: dict[str, list[Any]] = {}  # vectors of sizes, computed from shapes; "n" is the batch
        self.same: dict[str, str] = {}  # names of one value
        self.steps: list[tuple[Function, tuple[str, ...], str]] = []
        self.shapes = {x.name: _shape(x) for x in (*self.graph.value_info, *self.graph.input)}

    def net(self) -> Any:
        inputs = [x.name for x in self.graph.input if x.name not in self.constants]
        outputs = [x.name for x in self.graph.output]
        if len(inputs) != 1 or len(outputs) != 1:
            raise UnsupportedError(
                f"wanted a graph of one input and one output, got {', '.join(inputs) or 'none'} and "
                f"{', '.join(outputs) or 'none'}"
            )
        nodes = self.needed(outputs[0])
        self.uses = [self.name_of(name) for node in nodes for name in node.input] + outputs
        for index, node in enumerate(nodes):
            try:
                self.read(node)
            except DeepcoreError as error:
                error.inside(f"node {index}, {node.op_type}{f' {node.name!r}' if node.name else ''}")
                raise
        output = self.name_of(outputs[0])
        if output in self.constants or output in self.sizes:
            raise UnsupportedError("its output does not depend on its input")
        return self.chain(inputs[0], output)

    def needed(self, output: str) -> list[Any]:
        """The nodes that the output depends on, in their order."""
        wanted, found = {output}, []
        for node in reversed(self.graph.node):
            if wanted & set(node.output):
                found.append(node)
                wanted.update(node.input)
        return found[::-1]

    def chain(self, start: str, output: str) -> Any:
        """A Net: of the steps in a row, if each takes what the one before gave, else of a Graph."""
        net = registry()["Net"]
        name = start
        for _, names, out in self.steps:
            if names != (name,):
                break
            name = out
        else:
            return net([f for f, _, _ in self.steps])  # type: ignore[call-arg]
        named = [(f, tuple("X" if n == start else n for n in names), out) for f, names, out in self.steps]
        return net([Graph(named, output)])  # type: ignore[call-arg]

    def read(self, node: Any) -> None:
        """Make a step, a constant, a vector of sizes or another name of a node's output."""
        if node.domain not in ("", "ai.onnx", DOMAIN):
            raise UnsupportedError(f"the domain {node.domain!r} is not known")
        attributes = _Attributes(self.onnx, node)
        names = [self.name_of(name) for name in node.input]
        if node.domain == DOMAIN:
            row: Any = _own_function
        elif node.op_type == "Constant":
            self.constants[node.output[0]] = self.constant(node)
            return
        elif all(name in self.constants for name in names) and node.op_type in _FOLDED:
            self.constants[node.output[0]] = self.fold(node, names)
            return
        elif node.op_type in _OF_SIZES and (node.op_type == "Shape" or any(n in self.sizes for n in names)):
            self.sizes[node.output[0]] = _OF_SIZES[node.op_type](self, names, attributes)
            return
        else:
            row = _READERS.get(node.op_type)
        if row is None:
            raise UnsupportedError(f"the operator {node.op_type} can't be mapped")
        made = row(self, node, names, attributes)
        if attributes.left:
            raise UnsupportedError(f"the attribute {', '.join(attributes.left)} can't be mapped")
        if isinstance(made, str):
            self.same[node.output[0]] = made
        else:
            f, *taken = made
            for name in taken:
                if name in self.constants or name in self.sizes:
                    raise UnsupportedError("a constant takes the place of an activation")
            self.steps.append((f, tuple(taken), node.output[0]))

    def name_of(self, name: str) -> str:
        return self.same.get(name, name)

    def constant(self, node: Any) -> np.ndarray:
        value = self.onnx.helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name == "value":
            return self.onnx.numpy_helper.to_array(value)
        if node.attribute[0].name.startswith("value_int"):
            return np.array(value, np.int64)
        if node.attribute[0].name.startswith("value_float"):
            return np.array(value, np.float32)
        raise UnsupportedError(f"a constant of the kind {node.attribute[0].name}")

    def fold(self, node: Any, names: Sequence[str]) -> np.ndarray:
        """What a node makes of constants."""
        evaluator = import_onnx("reference").ReferenceEvaluator(node)
        feed = {own: self.constants[name] for own, name in zip(node.input, names, strict=True) if own}
        return np.asarray(evaluator.run(None, feed)[0])

    # ---- for the rows of the table

    def array(self, names: Sequence[str], index: int, what: str) -> np.ndarray:
        """The constant that an input is."""
        x = self.optional(names, index, what)
        if x is None:
            raise UnsupportedError(f"it lacks {what}")
        return x

    def optional(self, names: Sequence[str], index: int, what: str) -> np.ndarray | None:
        """The same for an input that may be left out."""
        if index >= len(names) or not names[index]:
            return None
        if names[index] not in self.constants:
            raise UnsupportedError(f"{what} is computed, and must be a constant")
        return self.constants[names[index]]

    def rank(self, name: str) -> int:
        """How many axes an activation has."""
        shape = self.shapes.get(name)
        if shape is None:
            raise UnsupportedError(f"the shape of {name!r} can't be told")
        return len(shape)

    def check_alike(self, names: Sequence[str]) -> None:
        """Raise UnsupportedError for activations that differ in shape, which ONNX would broadcast."""
        known = [shape[1:] for name in names if (shape := self.shapes.get(name))]
        sizes = [{size for size in axis if size is not None} for axis in zip(*known, strict=False)]
        if len(set(map(len, known))) > 1 or any(len(axis) > 1 for axis in sizes):
            raise UnsupportedError("inputs of several shapes, which would be broadcast, can't be mapped")

    def alone(self, name: str) -> Function | None:
        """The last step, if it made this, and nothing else takes it."""
        last = self.steps[-1] if self.steps else None
        return last[0] if last and last[2] == name and self.uses.count(name) == 1 else None


def _shape(info: Any) -> list[int | None] | None:
    """The sizes of a value, None for those that vary; None if nothing is known."""
    if not info.type.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim]


def _make(name: str, *arguments: Any, weights: dict[str, Any] | None = None, **settings: Any) -> Function:
    """A Function of one of deepcore's classes, with these weights and buffers, in their dtype."""
    cls: Any = registry().get(name)
    if cls is None:
        raise UnsupportedError(f"deepcore has no {name}")
    if weights:
        dtype = next(iter(weights.values())).dtype
        if dtype.kind != "f":
            raise UnsupportedError(f"its weights are {dtype}")
        settings["dtype"] = dtype.name
    init = inspect.signature(cls).parameters.get("init")
    if init is None:
        f = cls(*arguments, **settings)
    else:  # draws nothing that is replaced below
        f = cls(*arguments, init="zeros", **settings)
        f.init = init.default
    for key, x in (weights or {}).items():
        table = f.weight if key in (f._weights or ()) else f.buffer
        if table[key].size != x.size:
            raise CheckpointError(f"{key} must have shape {tuple(table[key].shape)}, got {x.shape}")
        table[key] = np.array(x.reshape(table[key].shape), order="C")
    return f


# ---- the table: (reader, node, names of its inputs, attributes) -> (Function, names) or another name


def _as(kind: str, **attributes: Any) -> Callable[..., Any]:
    """A class whose arguments are the attributes of those names, with ONNX's defaults."""

    def read(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
        return _make(kind, **{name: a.take(name, default) for name, default in attributes.items()}), names[0]

    return read


def _own_function(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    """A layer that `save_onnx` wrote as a function in the model, with its description."""
    function = r.functions.get(node.op_type)
    if function is None:
        raise CheckpointError(f"the model has no function {node.op_type!r}")
    f = build(parse_json(str(a.take("description", "")), "the description"), max_size=r.size)
    for key, name in zip(function.input[1:], names[1:], strict=True):
        x = r.array([name], 0, key)
        if key not in (f._weights or ()) or f.weight[key].shape != x.shape:
            raise CheckpointError(f"{key} of shape {x.shape} does not fit {f!r}")
        f.weight[key] = np.array(x, order="C")
    return f, names[0]


def _linear(W: np.ndarray, b: np.ndarray | None) -> Function:
    if W.ndim != 2 or 0 in W.shape:
        raise UnsupportedError(f"a matrix of shape {W.shape}")
    if b is not None:
        if b.size not in (1, W.shape[1]) or b.shape[-1:] not in ((), (b.size,)):
            raise UnsupportedError(f"a bias of shape {b.shape} can't be mapped: one for each output can")
        b = np.broadcast_to(b.reshape(-1), (1, W.shape[1]))
    weights = {"W": W} if b is None else {"W": W, "b": b}
    return _make("Linear", *W.shape, bias=b is not None, weights=weights)


def _gemm(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(transA=0)
    W, b = r.array(names, 1, "W"), r.optional(names, 2, "b")
    W = W.T if a.take("transB", 0) else W
    alpha, beta = a.take("alpha", 1.0), a.take("beta", 1.0)
    return _linear(
        W if alpha == 1 else W * W.dtype.type(alpha), b if beta == 1 or b is None else b * b.dtype.type(beta)
    ), names[0]


def _matmul(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    return _linear(r.array(names, 1, "its second factor"), None), names[0]


def _add(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    constant = [name for name in names if name in r.constants]
    if not constant:
        r.check_alike(names)
        return (Sum(), *names) if len(names) > 1 else names[0]
    (name,) = set(names) - set(constant)
    b, before = r.constants[constant[0]], r.alone(name)
    if type(before) is not type(_make("Linear", 1, 1)) or before.bias or len(names) != 2:  # type: ignore[union-attr]
        raise UnsupportedError("the sum with a constant can't be mapped, but behind MatMul, as its bias")
    if b.ndim > 2 and b.ndim > r.rank(name):
        raise UnsupportedError(f"a bias of shape {b.shape} gives the output more axes than its input has")
    _, taken, _ = r.steps.pop()
    return _linear(before.weight["W"], b), *taken  # type: ignore[union-attr]


def _concat(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    return Join(a.take("axis")), *names


def _pads(a: _Attributes, kernel: Sequence[int], dilation: Sequence[int], strides: Sequence[int]) -> Any:
    """A padding of ours, from pads or auto_pad."""
    pads, auto = a.take("pads") or [0] * 2 * len(kernel), a.take("auto_pad", "NOTSET")
    pairs = list(zip(pads[: len(kernel)], pads[len(kernel) :], strict=True))
    same = [same_padding(k, d) for k, d in zip(kernel, dilation, strict=True)]
    if auto == "SAME_UPPER" and set(strides) == {1}:
        pairs = same
    elif auto not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad={auto!r} can't be mapped; write the pads as numbers")
    if all(lo == hi for lo, hi in pairs):
        return tuple(lo for lo, _ in pairs)
    if pairs == same and set(strides) == {1}:
        return "same"
    raise UnsupportedError(f"pads={pairs!r}, other before than behind, can't be mapped")


def _conv(kind: str) -> Callable[..., Any]:
    def read(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
        W, b = r.array(names, 1, "W"), r.optional(names, 2, "b")
        kernel, rank = W.shape[2:], W.ndim - 2
        a.require(kernel_shape=list(kernel))
        groups = a.take("group", 1)
        stride, dilation = (tuple(a.take(name) or (1,) * rank) for name in ("strides", "dilations"))
        settings = {"stride": stride, "dilation": dilation, "groups": groups, "bias": b is not None}
        if kind == "Conv":
            settings["padding"] = _pads(a, kernel, dilation, stride)
        channels = W.shape[1] * groups, W.shape[0]
        if kind == "ConvTranspose":
            a.require(output_shape=None)
            channels = W.shape[0], W.shape[1] * groups
            a.require(auto_pad="NOTSET")
            pads, more = a.take("pads") or (0,) * 2 * rank, a.take("output_padding") or (0,) * rank
            ends = list(zip(pads[:rank], pads[rank:], more, strict=True))
            if any(lo < hi - o for lo, hi, o in ends):
                raise UnsupportedError(f"pads={pads}, more behind than before, can't be mapped")
            settings["padding"] = tuple(lo for lo, _, _ in ends)
            settings["output_padding"] = tuple(o + lo - hi for lo, hi, o in ends)
        weights = {"W": W} if b is None else {"W": W, "b": b}
        return _make(f"{kind}{rank}D", *channels, kernel, weights=weights, **settings), names[0]

    return read


def _pool(kind: str) -> Callable[..., Any]:
    def read(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
        kernel = tuple(a.take("kernel_shape"))
        ones = (1,) * len(kernel)
        a.require(ceil_mode=0, storage_order=0, dilations=list(ones))
        if len(node.output) > 1 and node.output[1]:
            raise UnsupportedError("a second output, the places of the maxima")
        stride = tuple(a.take("strides") or ones)
        settings = {"stride": stride, "padding": _pads(a, kernel, ones, stride)}
        if settings["padding"] == "same":
            raise UnsupportedError("padding that is other before than behind can't be mapped")
        counts = bool(a.take("count_include_pad", 0))
        if kind == "AvgPool" and any(settings["padding"]):
            settings["count_include_pad"] = counts
        return _make(f"{kind}{len(kernel)}D", kernel, **settings), names[0]

    return read


def _global_pool(kind: str) -> Callable[..., Any]:
    def read(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
        rank = r.rank(names[0]) - 2
        known = registry()
        name = f"Global{kind}Pool{rank}D"
        f = _make(name) if name in known else _make(f"Adaptive{kind}Pool{rank}D", 1)
        return f, names[0]

    return read


def _batch_norm(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(training_mode=0)
    keys = ("gamma", "beta", "running_mean", "running_var")
    weights = {key: r.array(names, i, key) for i, key in enumerate(keys, start=1)}
    settings = {"epsilon": a.take("epsilon", 1e-5), "momentum": _short(1 - a.take("momentum", 0.9))}
    rank = max(r.rank(names[0]) - 2, 1)
    return _make(f"BatchNorm{rank}D", weights["gamma"].size, weights=weights, **settings), names[0]


def _layer_norm(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(stash_type=1)
    gamma, beta = r.array(names, 1, "gamma"), r.optional(names, 2, "beta")
    axis = a.take("axis", -1)
    if (axis if axis < 0 else axis - r.rank(names[0])) != -gamma.ndim:
        raise UnsupportedError(f"axis={axis} with gamma of shape {gamma.shape} can't be mapped")
    weights = {"gamma": gamma, "beta": np.zeros_like(gamma) if beta is None else beta}
    return _make("LayerNorm", gamma.shape, a.take("epsilon", 1e-5), weights=weights), names[0]


def _instance_norm(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    weights = {"gamma": r.array(names, 1, "gamma"), "beta": r.array(names, 2, "beta")}
    kind = f"InstanceNorm{r.rank(names[0]) - 2}D"
    return _make(kind, weights["gamma"].size, a.take("epsilon", 1e-5), weights=weights), names[0]


def _gather(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(axis=0)
    W = r.array(names, 0, "the table")
    return _make("Embedding", *W.shape, weights={"W": W}), names[1]


def _flatten(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(axis=1)
    return _make("Flatten"), names[0]


def _reshape(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(allowzero=0)
    target = r.sizes.get(names[1]) or r.array(names, 1, "the shape").tolist()
    shape = r.shapes.get(names[0])
    batch, *rest = target or [1]
    known = shape is not None and None not in shape[1:]
    if batch == -1 and not (known and shape and math.prod(rest) == math.prod(shape[1:])):  # type: ignore[arg-type]
        raise UnsupportedError(f"a reshape to {target} can't be told apart from one that moves the batch")
    if batch not in (0, -1, "n") and not (shape and shape[0] == batch):
        raise UnsupportedError(f"a reshape to {target} moves the batch")
    rest = [shape[i] if n == 0 and shape else n for i, n in enumerate(rest, start=1)]
    if not all(isinstance(n, int) and n for n in rest):
        raise UnsupportedError(f"a reshape to {target} of an unknown size")
    return (_make("Flatten") if len(rest) == 1 else _make("Reshape", *rest)), names[0]


def _transpose(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    order = a.take("perm") or []
    if order[:1] != [0]:
        raise UnsupportedError(f"perm={order} moves the batch")
    return names[0] if order == sorted(order) else (_make("Permute", *order[1:]), names[0])


def _pad(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    pads, value = r.array(names, 1, "pads").tolist(), r.optional(names, 2, "the value")
    n = len(pads) // 2
    rank, pairs = max(n - 2, 1), tuple(zip(pads[:n], pads[n:], strict=True))
    if len(names) > 3 and names[3]:
        raise UnsupportedError("axes as an input can't be mapped")
    if any(map(any, pairs[: n - rank])) or rank > 3 or min(pads) < 0:
        raise UnsupportedError(f"pads={pads} can't be mapped: only borders around images can")
    mode = a.take("mode", "constant")
    border = 0.0 if value is None else float(value.item())
    return _make(f"Pad{rank}D", pairs[n - rank :], mode, border), names[0]


def _resize(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    scales = r.array(names, 2, "scales").tolist()
    if len(scales) != 4 or scales[:2] != [1, 1] or any(s != int(s) or s < 1 for s in scales):
        raise UnsupportedError(f"scales={scales} can't be mapped: only whole ones of images can")
    mode = a.take("mode", "nearest")
    places = (
        a.take("coordinate_transformation_mode", "half_pixel"),
        a.take("nearest_mode", "round_prefer_floor"),
    )
    a.take("cubic_coeff_a")  # of mode="cubic" alone
    ok = mode == "linear" and places[0] in ("half_pixel", "pytorch_half_pixel")
    if not (ok or (mode == "nearest" and places == ("asymmetric", "floor"))):
        raise UnsupportedError(f"mode={mode!r} with {' and '.join(places)} can't be mapped")
    scale = tuple(int(s) for s in scales[2:])
    return _make("Upsample2D", scale, "nearest" if mode == "nearest" else "bilinear"), names[0]


def _prelu(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    alpha = r.array(names, 1, "the slope")
    channels = (1,) * (r.rank(names[0]) - 2)
    if alpha.size > 1 and alpha.shape not in ((alpha.size, *channels), (1, alpha.size, *channels)):
        raise UnsupportedError(f"a slope of shape {alpha.shape} can't be mapped: one for each channel can")
    return _make("PReLU", alpha.size, weights={"alpha": alpha}), names[0]


def _clip(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    low, high = r.optional(names, 1, "min"), r.optional(names, 2, "max")
    limits = [
        -math.inf if low is None else float(low.item()),
        math.inf if high is None else float(high.item()),
    ]
    if limits == [0, 6] and "ReLU6" in registry():
        return _make("ReLU6"), names[0]
    if limits == [0, math.inf]:
        return _make("ReLU"), names[0]
    return _make("HardTanh", *limits), names[0]


def _hard_sigmoid(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    alpha, beta = a.take("alpha", 0.2), a.take("beta", 0.5)
    if not np.allclose((alpha, beta), (1 / 6, 0.5)):
        raise UnsupportedError(f"alpha={alpha} and beta={beta} can't be mapped, only 1/6 and 0.5")
    return _make("HardSigmoid"), names[0]


def _shrink(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    lambd, bias = a.take("lambd", 0.5), a.take("bias", 0.0)
    if bias not in (0, lambd):
        raise UnsupportedError(f"lambd={lambd} with bias={bias} can't be mapped: a bias of 0 or lambd can")
    return _make("HardShrink" if bias == 0 else "SoftShrink", lambd), names[0]


def _dropout(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.take("seed")
    training = r.optional(names, 2, "training_mode")
    if (training is not None and training.any()) or (len(node.output) > 1 and r.uses.count(node.output[1])):
        raise UnsupportedError("dropout that drops can't be mapped")
    return names[0]


def _selu(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    a.require(alpha=1.6732632423543772, gamma=1.0507009873554805)
    return _make("SELU"), names[0]


def _product(r: _Reader, node: Any, names: list[str], a: _Attributes) -> Any:
    if any(name in r.constants for name in names):
        raise UnsupportedError("the product with a constant can't be mapped")
    r.check_alike(names)
    return Product(), *names


_READERS: dict[str, Callable[[_Reader, Any, list[str], _Attributes], Any]] = {
    "Add": _add,
    "AveragePool": _pool("AvgPool"),
    "BatchNormalization": _batch_norm,
    "Celu": _as("CELU", alpha=1.0),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv("Conv"),
    "ConvTranspose": _conv("ConvTranspose"),
    "Dropout": _dropout,
    "Elu": _as("ELU", alpha=1.0),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _as("GELU", approximate="none"),
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("Avg"),
    "GlobalMaxPool": _global_pool("Max"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _as("HardSwish"),
    "Identity": lambda r, node, names, a: names[0],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _as("LeakyReLU", alpha=0.01),
    "LogSoftmax": _as("LogSoftmax", axis=-1),
    "MatMul": _matmul,
    "MaxPool": _pool("MaxPool"),
    "Mish": _as("Mish"),
    "Mul": _product,
    "PRelu": _prelu,
    "Pad": _pad,
    "Relu": _as("ReLU"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _as("Sigmoid"),
    "Softmax": _as("Softmax", axis=-1),
    "Softplus": _as("Softplus"),
    "Softsign": _as("Softsign"),
    "Sum": _add,
    "Tanh": _as("Tanh"),
    "Transpose": _transpose,
}

# what is done to constants alone, before the net runs: nothing that makes them larger
_FOLDED = {"Cast", "Concat", "Gather", "Identity", "Neg", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}


# ---- sizes: x.view(x.size(0), -1) is Shape, Gather, Unsqueeze, Concat and Reshape


def _sizes_of_shape(r: _Reader, names: list[str], a: _Attributes) -> list[Any]:
    shape = r.shapes.get(names[0])
    if shape is None:
        raise UnsupportedError(f"the shape of {names[0]!r} can't be told")
    return ["n", *shape[1:]][a.take("start", 0) : a.take("end")]


def _sizes_gathered(r: _Reader, names: list[str], a: _Attributes) -> list[Any]:
    sizes, index = r.sizes[names[0]], r.array(names, 1, "the index")
    return [sizes[i] for i in index.reshape(-1).tolist()]


def _sizes_joined(r: _Reader, names: list[str], a: _Attributes) -> list[Any]:
    joined: list[Any] = []
    for index, name in enumerate(names):
        joined += r.sizes[name] if name in r.sizes else r.array(names, index, "a size").tolist()
    return joined


_OF_SIZES: dict[str, Callable[[_Reader, list[str], _Attributes], list[Any]]] = {
    "Cast": lambda r, names, a: r.sizes[names[0]],
    "Concat": _sizes_joined,
    "Gather": _sizes_gathered,
    "Identity": lambda r, names, a: r.sizes[names[0]],
    "Shape": _sizes_of_shape,
    "Squeeze": lambda r, names, a: r.sizes[names[0]],
    "Unsqueeze": lambda r, names, a: r.sizes[names[0]],
}
