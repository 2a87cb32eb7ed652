"""ONNX's operators in deepcore's words: the one table of what is mapped, and why the rest is not.

A translator gets a Node and returns its outputs, computed by deepcore's Functions alone (arrays are only
laid out as they want them). Where they don't have that meaning, it raises NotMapped with the reason. An
optional output that no Function returns (the mask of a Dropout, the indices of a MaxPool) is None, and isn't
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import deepcore as dc
from tests.conformance.listed import NotMapped, deepcore, refuse

Array = np.ndarray


@dataclass(frozen=True)
class Node:
    """One operator with its attributes and inputs; an input that is left out is None."""

    op: str
    attributes: dict[str, Any]
    inputs: list[Any]
    outputs: list[str]  # "" for one that is left out
    looked_at: set[str] = field(default_factory=set)  # attributes

    def get(self, name: str, default: Any = None) -> Any:
        self.looked_at.add(name)
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def input(self, index: int) -> Any:
        return self.inputs[index] if index < len(self.inputs) else None


Translator = Callable[[Node], Sequence[Any]]


class Given(dc.Function):
    """A branch of a container that gives one of the operator's inputs, whatever the container's own is."""

    def __init__(self, Y: Array):
        super().__init__()
        self.Y = Y

    def forward(self, X: Any) -> Any:
        return self.Y

    def backward(self, dY: Any) -> Any:
        return dY


def run(f: dc.Function, *inputs: Array, training: bool = False, **weights: Array) -> Any:
    """f(inputs) with these weights and buffers, in their own shape."""
    dc.Net([f]).train(training)
    for name, W in weights.items():
        table = f.weight if name in f.weight else f.buffer
        assert table[name].size == W.size, f"{name} is {table[name].shape}, not {W.shape}"
        table[name] = np.reshape(W, table[name].shape)
    return f(*inputs)


# ---- activations


def function(name: str, **settings: tuple[str, Any]) -> Translator:
    """The Function of this name; its settings, by ONNX's name and default."""

    def translate(node: Node) -> Sequence[Any]:
        chosen = {ours: node.get(theirs, default) for ours, (theirs, default) in settings.items()}
        (X,) = node.inputs
        refuse((X.dtype.kind != "f", f"{X.dtype} is no dtype of deepcore's"))
        return [run(deepcore(name)(**chosen), X)]

    return translate


def only(name: str, reason: str, **fixed: tuple[Any, str]) -> Translator:
    """The Function of this name, if each attribute (its default, ...) has the one value that it has here."""

    def translate(node: Node) -> Sequence[Any]:
        f = deepcore(name)
        for attribute, (default, value) in fixed.items():
            refuse((not np.isclose(node.get(attribute, default), value), reason))
        return [run(f(), node.inputs[0])]

    return translate


def clip(node: Node) -> Sequence[Any]:
    X, low, high = (node.input(i) for i in range(3))
    refuse(
        (X.dtype.kind != "f", "activations want floating-point numbers"),
        (low is None or high is None, "HardTanh has two bounds"),
    )
    f = deepcore("HardTanh")
    refuse((low > high, "HardTanh wants min_val <= max_val"))
    return [run(f(min_val=float(low), max_val=float(high)), X)]


def prelu(node: Node) -> Sequence[Any]:
    raise NotMapped("PReLU's slopes are one for all or one a channel (axis 1), not one for each number")


def shrink(node: Node) -> Sequence[Any]:
    lambd, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    refuse((bias not in (0.0, lambd), "SoftShrink shrinks by lambd"))
    return [run(deepcore("SoftShrink" if bias else "HardShrink")(lambd=lambd), node.inputs[0])]


def softmax(name: str) -> Translator:
    return function(name, axis=("axis", -1))


# ---- products


def matrix_product(A: Array, B: Array, b: Array | None) -> Array:
    f = deepcore("Linear")(*B.shape, bias=b is not None, dtype=B.dtype)
    return run(f, A, W=B, **({} if b is None else {"b": b}))


def gemm(node: Node) -> Sequence[Any]:
    A, B = (M.T if node.get(f"trans{letter}", 0) else M for letter, M in zip("AB", node.inputs, strict=False))
    b = node.input(2)
    alpha, beta = (np.asarray(node.get(name, 1.0), A.dtype) for name in ("alpha", "beta"))
    refuse((b is not None and b.ndim == 2 and b.shape[0] > 1, "Linear's b is one row, not a matrix"))
    if b is not None:
        b = np.broadcast_to(beta * b, (1, B.shape[1]))
    return [matrix_product(A, alpha * B, b)]


def matmul(node: Node) -> Sequence[Any]:
    A, B = node.inputs
    refuse((B.ndim != 2, "Linear's W is one matrix"))
    return [matrix_product(A, B, None)]


# ---- windows


def windows(
    node: Node, kernel: Sequence[int], X: Array
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """(stride, dilation, (before, after) for each spatial axis)"""
    rank = len(kernel)
    stride = list(node.get("strides", [1] * rank))
    dilation = list(node.get("dilations", [1] * rank))
    auto = node.get("auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        pairs = []
        for size, k, s, d in zip(X.shape[2:], kernel, stride, dilation, strict=True):
            both = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
            pairs.append(
                (both // 2, both - both // 2) if auto == "SAME_UPPER" else (both - both // 2, both // 2)
            )
        return stride, dilation, pairs
    pads = node.get("pads", [0] * 2 * rank)
    return stride, dilation, list(zip(pads[:rank], pads[rank:], strict=True))


def padded(
    X: Array, pairs: list[tuple[int, int]], value: float, most: Sequence[float]
) -> tuple[Array, list[int]]:
    """X and the padding that a layer takes, one number an axis, up to `most`; else a Pad layer does it."""
    if all(before == after <= m for (before, after), m in zip(pairs, most, strict=True)):
        return X, [before for before, _ in pairs]
    f = deepcore(f"Pad{len(pairs)}D")(tuple(pairs), mode="constant", value=value)
    return run(f, X), [0] * len(pairs)


def convolution(node: Node) -> Sequence[Any]:
    X, W, b = (node.input(i) for i in range(3))
    stride, dilation, pairs = windows(node, W.shape[2:], X)
    X, padding = padded(X, pairs, 0.0, [np.inf] * len(pairs))
    f = deepcore(f"Conv{W.ndim - 2}D")(
        X.shape[1],
        W.shape[0],
        W.shape[2:],
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=node.get("group", 1),
        bias=b is not None,
        dtype=W.dtype,
    )
    return [run(f, X, W=W, **({} if b is None else {"b": b}))]


def transposed_convolution(node: Node) -> Sequence[Any]:
    X, W, b = (node.input(i) for i in range(3))
    rank, groups = W.ndim - 2, node.get("group", 1)
    stride = list(node.get("strides", [1] * rank))
    dilation = list(node.get("dilations", [1] * rank))
    output_padding = list(node.get("output_padding", [0] * rank))
    full = [
        s * (size - 1) + extra + d * (k - 1) + 1
        for size, k, s, d, extra in zip(
            X.shape[2:], W.shape[2:], stride, dilation, output_padding, strict=True
        )
    ]
    wanted = node.get("output_shape")
    if wanted is not None or node.get("auto_pad", "NOTSET").startswith("SAME"):
        same = [size * s for size, s in zip(X.shape[2:], stride, strict=True)]
        wanted = (same if wanted is None else wanted)[-rank:]
        both = [a - b for a, b in zip(full, wanted, strict=True)]
        upper = node.get("auto_pad", "NOTSET") == "SAME_UPPER"
        pairs = [(n // 2, n - n // 2) if upper else (n - n // 2, n // 2) for n in both]
    else:
        pads = node.get("pads", [0] * 2 * rank)
        pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    # Cropping less behind than before is a larger output: p before, and output_padding = before - after.
    refuse((any(after > before for before, after in pairs), "padding is one number an axis, not two"))
    output_padding = [o + before - after for o, (before, after) in zip(output_padding, pairs, strict=True)]
    make = deepcore(f"ConvTranspose{rank}D")
    refuse(
        (
            any(before < 0 for before, _ in pairs),
            "an output_shape beyond the full one: padding isn't negative",
        ),
    )
    f = make(
        X.shape[1],
        W.shape[1] * groups,
        W.shape[2:],
        stride=tuple(stride),
        padding=tuple(before for before, _ in pairs),
        output_padding=tuple(output_padding),
        groups=groups,
        bias=b is not None,
        dilation=tuple(dilation),
        dtype=W.dtype,
    )
    return [run(f, X, W=W, **({} if b is None else {"b": b}))]


def pool(name: str) -> Translator:
    def translate(node: Node) -> Sequence[Any]:
        (X,) = node.inputs
        kernel = node.get("kernel_shape")
        make = deepcore(f"{name}{len(kernel)}D")
        stride, dilation, pairs = windows(node, kernel, X)
        anywhere = any(map(any, pairs))
        refuse(
            (X.dtype.kind != "f", "pooling wants floating-point numbers"),
            (set(dilation) != {1}, "no dilation in pooling"),
            (
                node.get("ceil_mode", 0) == 1
                and any(
                    (size + sum(pair) - k) % s
                    for size, k, s, pair in zip(X.shape[2:], kernel, stride, pairs, strict=True)
                ),
                "no ceil_mode: sizes are rounded down",
            ),
            (
                name == "AvgPool" and anywhere and not node.get("count_include_pad", 0),
                "padding counts in the mean: no count_include_pad",
            ),
        )
        X, padding = padded(X, pairs, 0.0 if name == "AvgPool" else -np.inf, [k // 2 for k in kernel])
        f = make(tuple(kernel), tuple(stride), tuple(padding))
        return [run(f, X), *[None] * (len(node.outputs) - 1)]

    return translate


# ---- norms


def batch_norm(node: Node) -> Sequence[Any]:
    X, gamma, beta, mean, var = node.inputs
    training = bool(node.get("training_mode", 0))
    f = deepcore(f"BatchNorm{X.ndim - 2}D")(
        X.shape[1], epsilon=node.get("epsilon", 1e-5), momentum=1 - node.get("momentum", 0.9), dtype=X.dtype
    )
    Y = run(f, X, training=training, gamma=gamma, beta=beta, running_mean=mean, running_var=var)
    if not training:
        return [Y]
    return [Y, f.running_mean.reshape(-1), None]  # ONNX's running variance isn't the unbiased one


def over_last_axes(name: str) -> Translator:
    def translate(node: Node) -> Sequence[Any]:
        X, gamma, beta = (node.input(i) for i in range(3))
        shape = X.shape[node.get("axis", -1) :]
        f = deepcore(name)(shape, epsilon=node.get("epsilon", 1e-5), dtype=X.dtype)
        weights = {"gamma": gamma} | ({} if beta is None else {"beta": beta})
        return [run(f, X, **weights), *[None] * (len(node.outputs) - 1)]

    return translate


def group_norm(node: Node) -> Sequence[Any]:
    X, gamma, beta = node.inputs
    f = deepcore("GroupNorm")(
        node.get("num_groups"), X.shape[1], epsilon=node.get("epsilon", 1e-5), dtype=X.dtype
    )
    return [run(f, X, gamma=gamma, beta=beta)]


def instance_norm(node: Node) -> Sequence[Any]:
    X, gamma, beta = node.inputs
    make = deepcore(f"InstanceNorm{X.ndim - 2}D")
    f = make(X.shape[1], epsilon=node.get("epsilon", 1e-5), dtype=X.dtype)
    return [run(f, X, gamma=gamma, beta=beta)]


# ---- shapes


def flatten(node: Node) -> Sequence[Any]:
    X = node.inputs[0]
    refuse((node.get("axis", 1) % X.ndim != 1, "Flatten keeps the samples, and only them, apart"))
    return [run(deepcore("Flatten")(), X)]


def reshape(node: Node) -> Sequence[Any]:
    X, shape = node.inputs
    shape = [int(n) for n in shape]
    if not node.get("allowzero", 0):
        shape = [X.shape[i] if n == 0 else n for i, n in enumerate(shape)]
    if -1 in shape:
        known = -int(np.prod(shape))
        shape = [X.size // known if n == -1 else n for n in shape]
    refuse((shape[0] != X.shape[0], "Reshape keeps the samples apart: the first axis stays"))
    return [run(deepcore("Reshape")(*shape[1:]), X)]


def transpose(node: Node) -> Sequence[Any]:
    X = node.inputs[0]
    axes = node.get("perm", list(range(X.ndim))[::-1])
    refuse((axes[0] != 0, "Permute keeps the samples apart: the first axis stays"))
    return [run(deepcore("Permute")(*axes[1:]), X)]


def pad(node: Node) -> Sequence[Any]:
    X, pads, value, axes = (node.input(i) for i in range(4))
    axes = range(X.ndim) if axes is None else [int(axis) % X.ndim for axis in axes]
    half = len(pads) // 2
    pairs = [(0, 0)] * X.ndim
    for axis, before, after in zip(axes, pads[:half], pads[half:], strict=True):
        pairs[axis] = (int(before), int(after))
    refuse(
        (any(map(any, pairs[:2])), "a Pad layer pads the spatial axes alone, not samples and channels"),
        (any(n < 0 for pair in pairs for n in pair), "no negative padding"),
    )
    f = deepcore(f"Pad{X.ndim - 2}D")(
        tuple(pairs[2:]), mode=node.get("mode", "constant"), value=0.0 if value is None else float(value)
    )
    if X.dtype.kind != "f":  # whole numbers, which float64 holds
        return [run(f, X.astype("float64")).astype(X.dtype)]
    return [run(f, X)]


def resize(node: Node) -> Sequence[Any]:
    old = node.op == "Upsample"
    X, scales = node.inputs[0], node.input(1 if old else 2)
    sizes = node.input(3)
    mode = {"nearest": "nearest", "linear": "bilinear"}.get(node.get("mode", "nearest"))
    how = node.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    refuse(
        (X.ndim != 4, "Upsample2D is over two axes"),
        (mode is None, "Upsample2D is nearest or bilinear, not cubic"),
        (bool(node.get("antialias", 0)), "Upsample2D only enlarges, with no antialiasing"),
        (
            node.get("keep_aspect_ratio_policy", "stretch") != "stretch",
            "Upsample2D takes factors, not sizes with a policy",
        ),
        (
            how not in ("half_pixel", "pytorch_half_pixel") and not old,
            f"Upsample2D places its points by half pixels, not {how}",
        ),
        (
            not old and mode == "nearest" and node.get("nearest_mode", "round_prefer_floor") == "ceil",
            "Upsample2D takes the pixel that a point lies in",
        ),
    )
    axes = [int(axis) % 4 for axis in node.get("axes", range(4))]
    factors = dict.fromkeys(range(4), 1.0)
    if scales is not None:
        factors |= dict(zip(axes, map(float, scales), strict=True))
    else:
        factors |= {axis: n / X.shape[axis] for axis, n in zip(axes, sizes, strict=True)}
    values = [factors[axis] for axis in range(4)]
    refuse(
        (values[:2] != [1.0, 1.0], "Upsample2D leaves samples and channels"),
        (any(n != int(n) or n < 1 for n in values), "Upsample2D's factors are whole numbers"),
    )
    return [run(deepcore("Upsample2D")((int(values[2]), int(values[3])), mode=mode), X)]


# ---- containers


def concat(node: Node) -> Sequence[Any]:
    f = dc.Concat(*map(Given, node.inputs), axis=node.get("axis"))
    return [run(f, node.inputs[0])]


def add(node: Node) -> Sequence[Any]:
    refuse(
        (any(X.dtype.kind != "f" for X in node.inputs), "nets add floating-point numbers"),
        (len({X.shape for X in node.inputs}) > 1, "Add doesn't broadcast: its branches have one shape"),
    )
    return [run(dc.Add(*map(Given, node.inputs)), node.inputs[0])]


def dropout(node: Node) -> Sequence[Any]:
    X, ratio, training = (node.input(i) for i in range(3))
    p = float(node.get("ratio", 0.5) if ratio is None else ratio)
    training = training is not None and bool(training)
    refuse((training and p > 0, "which numbers are dropped is each generator's own"))
    return [run(dc.Dropout(p), X, training=training), *[None] * (len(node.outputs) - 1)]


# ---- sequences

GATES = {"RNN": [0], "LSTM": [0, 2, 3, 1], "GRU": [1, 0, 2]}  # torch's order in ONNX's: i o f c, z r h


def recurrent(node: Node) -> Sequence[Any]:
    X, W, R, B, lengths, h, c, peepholes = (node.input(i) for i in range(8))
    make = deepcore(node.op)
    by_sample = bool(node.get("layout", 0))
    X = X if by_sample else X.swapaxes(0, 1)
    directions, hidden = W.shape[0], node.get("hidden_size")
    n, t = X.shape[:2]
    defaults = {"RNN": ["Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}[node.op]
    chosen = [name.decode() for name in node.get("activations", [])] or defaults * directions
    bias = np.zeros((directions, 2 * len(GATES[node.op]) * hidden), X.dtype) if B is None else B
    nothing_to_reset = t == 1 and h is None and not bias[:, 5 * hidden :].any()
    refuse(
        (node.get("direction", "forward") == "reverse", "no layer that only runs backward in time"),
        (peepholes is not None and bool(peepholes.any()), "no peepholes"),
        (lengths is not None and bool((lengths < t).any()), "no lengths: all samples are of one"),
        (chosen != defaults * directions, "no other activations"),
        (node.get("clip", 0.0) > 0, "no clipping of the cell"),
        (bool(node.get("input_forget", 0)), "no coupled gates"),
        (
            node.op == "GRU" and not node.get("linear_before_reset", 0) and not nothing_to_reset,
            "GRU resets after the product, as torch (linear_before_reset=1)",
        ),
    )

    def gates(M: Array) -> Array:
        """(g h, ...) in ONNX's order -> in torch's"""
        parts = np.split(M, len(GATES[node.op]))
        return np.concatenate([parts[i] for i in GATES[node.op]])

    f = make(X.shape[2], hidden, bidirectional=directions == 2, return_state=True, dtype=X.dtype)
    weights = {}
    for d, suffix in zip(range(directions), ("", "_reverse"), strict=False):
        b_ih, b_hh = np.split(bias[d], 2)
        weights[f"W_ih_l0{suffix}"] = gates(W[d]).T
        weights[f"W_hh_l0{suffix}"] = gates(R[d]).T
        weights[f"b_ih_l0{suffix}"] = gates(b_ih)[None]
        weights[f"b_hh_l0{suffix}"] = gates(b_hh)[None]
    states = [x if not by_sample else x.swapaxes(0, 1) for x in (h, c) if x is not None]
    Y, last = run(f, X, *states, **weights)
    last = list(last) if last.ndim == 4 else [last]  # an LSTM's H and C
    Y = Y.reshape(n, t, directions, hidden)  # ONNX: (t, directions, n, h), or (n, t, directions, h)
    Y = Y if by_sample else Y.transpose(1, 2, 0, 3)
    return [Y, *(x.swapaxes(0, 1) if by_sample else x for x in last)][: len(node.outputs)]


def attention(node: Node) -> Sequence[Any]:
    """MultiHeadAttention whose four products are with the identity."""
    Q, K, V, mask, past = (node.input(i) for i in range(5))
    flat = Q.ndim == 3
    heads = node.get("q_num_heads") if flat else Q.shape[1]
    others = node.get("kv_num_heads") if flat else K.shape[1]
    make = deepcore("MultiHeadAttention")
    refuse(
        (Q.dtype not in (np.float32, np.float64), f"MultiHeadAttention in {Q.dtype} isn't promised"),
        (past is not None or node.input(5) is not None, "no cache of past keys and values"),
        (node.input(6) is not None, "no lengths of padded keys: a mask says it"),
        (heads != others, "as many heads of keys as of queries: no grouped queries"),
        (K.shape[-1] != V.shape[-1], "values have the keys' dimension"),
        (node.get("scale") is not None, "scores are divided by the root of the head's dimension"),
        (node.get("softcap", 0.0) > 0, "scores aren't capped"),
        (mask is not None and mask.dtype != bool, "masks are boolean, not numbers to add"),
        (mask is not None and bool(node.get("is_causal", 0)), "causal, or a mask"),
        (bool(node.get("softmax_precision", 0)), "no softmax in another precision"),
        (
            bool(node.get("is_causal", 0)) and Q.shape[-2] != K.shape[-2],
            "causal is within one sequence: as many queries as keys",
        ),
        (len(node.outputs) > 1, "the scores aren't an output"),
        (
            node.get("left_window_size", -1) >= 0 or node.get("right_window_size", -1) >= 0,
            "no window of keys: a mask says it",
        ),
        (node.get("qk_matmul_output_mode", 0) > 0, "the scores aren't an output"),
    )
    rows = lambda X: X if flat else X.transpose(0, 2, 1, 3).reshape(X.shape[0], X.shape[2], -1)
    Q, K, V = map(rows, (Q, K, V))
    d = Q.shape[-1]
    f = make(d, heads, causal=bool(node.get("is_causal", 0)), dtype=Q.dtype)
    identity = {f"W_{letter}": np.eye(d, dtype=Q.dtype) for letter in "qkvo"}
    zero = {f"b_{letter}": np.zeros((1, d), Q.dtype) for letter in "qkvo"}
    Y = run(f, Q, K, V, *([] if mask is None else [mask]), **identity, **zero)
    return [Y if flat else Y.reshape(*Y.shape[:2], heads, -1).transpose(0, 2, 1, 3)]


# ---- losses


def softmax_cross_entropy(node: Node) -> Sequence[Any]:
    X, y, weight = (node.input(i) for i in range(3))
    L = deepcore("CrossEntropyLoss")(
        ignore_index=node.get("ignore_index", -100), weight=weight, reduction=node.get("reduction", "mean")
    )(X, y)
    log_p = [run(deepcore("LogSoftmax")(axis=1), X)] if len(node.outputs) > 1 else []
    return [L, *log_p]


def negative_log_likelihood(node: Node) -> Sequence[Any]:
    X, y, weight = (node.input(i) for i in range(3))
    f = deepcore("NLLLoss")(
        ignore_index=node.get("ignore_index", -100), weight=weight, reduction=node.get("reduction", "mean")
    )
    return [f(X, y)]


# ---- the table

NODES: dict[str, dict[str, Translator]] = {
    "activations": {
        "Celu": function("CELU", alpha=("alpha", 1.0)),
        "Clip": clip,
        "Elu": function("ELU", alpha=("alpha", 1.0)),
        "Gelu": function("GELU", approximate=("approximate", "none")),
        "HardSigmoid": only(
            "HardSigmoid", "HardSigmoid's slope is 1/6, as torch's", alpha=(0.2, 1 / 6), beta=(0.5, 0.5)
        ),
        "HardSwish": function("HardSwish"),
        "LeakyRelu": function("LeakyReLU", alpha=("alpha", 0.01)),
        "LogSoftmax": softmax("LogSoftmax"),
        "Mish": function("Mish"),
        "PRelu": prelu,
        "Relu": function("ReLU"),
        "Selu": only(
            "SELU",
            "SELU's two numbers are its own",
            alpha=(1.67326319217681884765625, 1.6732632),
            gamma=(1.05070102214813232421875, 1.050701),
        ),
        "Shrink": shrink,
        "Sigmoid": function("Sigmoid"),
        "Softmax": softmax("Softmax"),
        "Softplus": function("Softplus"),
        "Softsign": function("Softsign"),
        "Swish": only("SiLU", "SiLU's factor is 1", alpha=(1.0, 1.0)),
        "Tanh": function("Tanh"),
        "ThresholdedRelu": lambda node: [
            run(deepcore("Threshold")(node.get("alpha", 1.0), 0.0), node.inputs[0])
        ],
    },
    "linear": {"Gemm": gemm, "MatMul": matmul},
    "convolution": {"Conv": convolution, "ConvTranspose": transposed_convolution},
    "pooling": {
        "AveragePool": pool("AvgPool"),
        "GlobalAveragePool": function("GlobalAvgPool2D"),
        "GlobalMaxPool": function("GlobalMaxPool2D"),
        "MaxPool": pool("MaxPool"),
    },
    "norms": {
        "BatchNormalization": batch_norm,
        "GroupNormalization": group_norm,
        "InstanceNormalization": instance_norm,
        "LayerNormalization": over_last_axes("LayerNorm"),
        "RMSNormalization": over_last_axes("RMSNorm"),
    },
    "shape": {
        "Flatten": flatten,
        "Pad": pad,
        "Reshape": reshape,
        "Resize": resize,
        "Transpose": transpose,
        "Upsample": resize,
    },
    "containers": {"Add": add, "Concat": concat, "Dropout": dropout, "Sum": add},
    "sequences": {"Attention": attention, "GRU": recurrent, "LSTM": recurrent, "RNN": recurrent},
    "losses": {
        "NegativeLogLikelihoodLoss": negative_log_likelihood,
        "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    },
}

NO_MATTER = {  # attributes that leave the compared outputs as they are
    "kernel_shape": "W's own shape, in convolutions",
    "seed": "of a Dropout that drops nothing",
    "stash_type": "the precision of LayerNormalization's sums",
    "storage_order": "how MaxPool counts its indices",
}

OUTSIDE = "deepcore has no Function of this operator's meaning"
SEVERAL = "a graph of several nodes: an operator spelled out in others, or the suite's own program"
