"""torch.nn's modules in deepcore's words: the one table of what is mapped, and why the rest is not.

A translator gets a module and the arrays of its call, and returns its Twin; where a setting of the module
has no equivalent, it raises NotMapped with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import deepcore as dc
from tests.conformance.listed import deepcore, refuse

Array = np.ndarray
View = Callable[[Array], Array]  # an array of torch's, or its gradient, as deepcore lays it out
Tables = Mapping[str, Array]  # torch's parameters, or their gradients, by name


@dataclass
class Twin:
    """The Function of a module's meaning, and how its arrays follow from torch's."""

    f: dc.Function
    weights: dict[str, Callable[[Tables], Array]] = field(default_factory=dict)  # path -> weight, gradient
    constants: dict[str, Array] = field(default_factory=dict)  # path -> a weight that torch hasn't
    buffers: dict[str, Callable[[Tables], Array]] = field(default_factory=dict)
    inputs: Sequence[View] = ()  # of each input in turn; those beyond are taken as they are
    extra: Sequence[Array] = ()  # further inputs of f, without gradients
    outputs: Sequence[View] = (lambda Y: Y,)  # of those outputs that deepcore has
    stacked: bool = False  # whether those after the first come as one array


Translator = Callable[[Any, list[Array]], Twin]


# ---- views


def as_it_is(x: Array) -> Array:
    return x


def ndim(n: int) -> View:
    """A sample without a batch becomes a batch of one: deepcore's layers want the axis."""
    return lambda x: x if x.ndim == n else x[None]


def named(name: str, view: View = as_it_is) -> Callable[[Tables], Array]:
    return lambda tables: view(tables[name])


def row(b: Array) -> Array:
    return b.reshape(1, -1)


def channels(rank: int) -> View:
    """(c,) -> (1, c, 1, ...)"""
    return lambda b: b.reshape((1, -1) + (1,) * rank)


def as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, tuple | list) else (x,)


# ---- activations: elementwise, or along an axis


def function(name: str, **settings: str) -> Translator:
    """The Function of this name; its settings, and what torch calls them."""

    def translate(m: Any, xs: list[Array]) -> Twin:
        return Twin(deepcore(name)(**{ours: getattr(m, theirs) for ours, theirs in settings.items()}))

    return translate


def along_axis(name: str) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        f = deepcore(name)
        refuse(
            (xs[0].ndim == 0, "a 0-d array has no axis; torch takes it for one of size 1"),
            (m.dim is None, "without an axis torch guesses it from the number of axes, and warns"),
        )
        return Twin(f(axis=m.dim))

    return translate


def softmax_2d(m: Any, xs: list[Array]) -> Twin:
    return Twin(deepcore("Softmax")(axis=-3))


def prelu(m: Any, xs: list[Array]) -> Twin:
    f = deepcore("PReLU")(m.num_parameters, dtype=xs[0].dtype)
    shape = f.weight["alpha"].shape
    return Twin(f, {"alpha": named("weight", lambda a: a.reshape(shape))})


# ---- layers


def linear(m: Any, xs: list[Array]) -> Twin:
    bias = m.bias is not None
    f = deepcore("Linear")(m.in_features, m.out_features, bias=bias, dtype=xs[0].dtype)
    weights = {"W": named("weight", np.transpose)}
    return Twin(f, weights | ({"b": named("bias", row)} if bias else {}))


def bilinear(m: Any, xs: list[Array]) -> Twin:
    bias = m.bias is not None
    f = deepcore("Bilinear")(m.in1_features, m.in2_features, m.out_features, bias=bias, dtype=xs[0].dtype)
    weights = {"W": named("weight", lambda W: np.moveaxis(W, 0, -1))}  # (in1, in2, out)
    batch = ndim(2)
    return Twin(f, weights | ({"b": named("bias", row)} if bias else {}), inputs=[batch] * 2, outputs=[batch])


def embedding(m: Any, xs: list[Array]) -> Twin:
    refuse(
        (m.padding_idx is not None, "no row of Embedding is held at zero"),
        (m.max_norm is not None, "Embedding doesn't rescale its rows"),
        (m.scale_grad_by_freq, "no gradient scaled by frequency"),
        (m.sparse, "no sparse gradients"),
    )
    f = deepcore("Embedding")(m.num_embeddings, m.embedding_dim, dtype=m.weight.detach().numpy().dtype)
    return Twin(f, {"W": named("weight")})


def convolution(rank: int, transposed: bool = False) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        refuse((m.padding_mode != "zeros", f"no padding_mode={m.padding_mode!r}: put a Pad layer before it"))
        bias = m.bias is not None
        settings = {
            "stride": m.stride,
            "padding": m.padding,
            "dilation": m.dilation,
            "groups": m.groups,
            "bias": bias,
            "dtype": xs[0].dtype,
        }
        if transposed:
            settings["output_padding"] = m.output_padding
        make = deepcore(f"Conv{'Transpose' if transposed else ''}{rank}D")
        f = make(m.in_channels, m.out_channels, m.kernel_size, **settings)
        weights = {"W": named("weight")} | ({"b": named("bias", channels(rank))} if bias else {})
        batch = ndim(rank + 2)
        return Twin(f, weights, inputs=[batch], outputs=[batch])

    return translate


def pool(name: str, rank: int) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        make = deepcore(f"{name}{rank}D")
        dilation = as_tuple(getattr(m, "dilation", 1))
        refuse(
            (m.ceil_mode, "no ceil_mode: sizes are rounded down"),
            (set(dilation) != {1}, "no dilation in pooling"),
            (getattr(m, "divisor_override", None) is not None, "no divisor_override: an average is a mean"),
            (not getattr(m, "count_include_pad", True), "padding counts in the mean: no count_include_pad"),
        )
        batch = ndim(rank + 2)
        return Twin(make(m.kernel_size, m.stride, m.padding), inputs=[batch], outputs=[batch])

    return translate


def adaptive_pool(name: str, rank: int) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        batch = ndim(rank + 2)
        return Twin(deepcore(f"{name}{rank}D")(m.output_size), inputs=[batch], outputs=[batch])

    return translate


def pad(rank: int, mode: str) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        last_first = as_tuple(m.padding)  # (left, right, top, bottom, ...)
        pairs = tuple(zip(last_first[::2], last_first[1::2], strict=True))[::-1]
        settings = {"value": m.value} if hasattr(m, "value") else {}
        batch = ndim(rank + 2)
        f = deepcore(f"Pad{rank}D")(pairs, mode=mode, **settings)
        return Twin(f, inputs=[batch], outputs=[batch])

    return translate


# ---- norms


def affine(m: Any, view: View = as_it_is, gamma: str = "weight") -> dict[str, Callable[[Tables], Array]]:
    """gamma and beta, where torch has them; else they stay 1 and 0."""
    pairs = {"gamma": gamma, "beta": "bias"}
    return {
        ours: named(theirs, view) for ours, theirs in pairs.items() if getattr(m, theirs, None) is not None
    }


def batch_norm(rank: int) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        make = deepcore(f"BatchNorm{rank}D")
        refuse(
            (m.momentum is None, "momentum=None, the average of all batches so far: deepcore's decays"),
            (
                not m.track_running_stats and not m.training,
                "evaluation with the batch's own statistics: deepcore uses the running ones",
            ),
        )
        view = channels(xs[0].ndim - 2 if rank == 1 else rank)
        f = make(m.num_features, epsilon=m.eps, momentum=m.momentum, dtype=xs[0].dtype)
        shaped = {name: W.shape for name, W in f.weight.items()} | {n: b.shape for n, b in f.buffer.items()}
        view = lambda b: b.reshape(shaped["gamma"])
        buffers = (
            {name: named(name, view) for name in ("running_mean", "running_var")}
            if m.track_running_stats
            else {}
        )
        return Twin(f, affine(m, view), buffers=buffers)

    return translate


def instance_norm(rank: int) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        make = deepcore(f"InstanceNorm{rank}D")
        refuse((m.track_running_stats, "InstanceNorm keeps no running statistics"))
        f = make(m.num_features, epsilon=m.eps, dtype=xs[0].dtype)
        shape = f.weight["gamma"].shape
        batch = ndim(rank + 2)
        return Twin(f, affine(m, lambda b: b.reshape(shape)), inputs=[batch], outputs=[batch])

    return translate


def group_norm(m: Any, xs: list[Array]) -> Twin:
    f = deepcore("GroupNorm")(m.num_groups, m.num_channels, epsilon=m.eps, dtype=xs[0].dtype)
    shape = f.weight["gamma"].shape
    return Twin(f, affine(m, lambda b: b.reshape(shape)))


def shape_norm(name: str) -> Translator:
    def translate(m: Any, xs: list[Array]) -> Twin:
        epsilon = float(np.finfo(xs[0].dtype).eps) if m.eps is None else m.eps
        return Twin(deepcore(name)(m.normalized_shape, epsilon=epsilon, dtype=xs[0].dtype), affine(m))

    return translate


# ---- sequences


def recurrent(name: str) -> Translator:
    """The state's axes are torch's: (layers x directions, n, h)."""

    def translate(m: Any, xs: list[Array]) -> Twin:
        make = deepcore(name)
        refuse(
            (getattr(m, "nonlinearity", "tanh") != "tanh", "RNN is tanh's: no nonlinearity='relu'"),
            (m.proj_size > 0, "no projection of the LSTM's output (proj_size)"),
            (m.dropout > 0, "no dropout between layers"),
        )
        dtype = xs[0].dtype
        f = make(m.input_size, m.hidden_size, m.num_layers, m.bidirectional, return_state=True, dtype=dtype)
        weights, constants = {}, {}
        for layer in range(m.num_layers):
            for suffix in ("", "_reverse")[: 1 + m.bidirectional]:
                for side in ("ih", "hh"):
                    part = f"{side}_l{layer}{suffix}"
                    weights[f"W_{part}"] = named(f"weight_{part}", np.transpose)
                    if m.bias:
                        weights[f"b_{part}"] = named(f"bias_{part}", row)
                    else:
                        constants[f"b_{part}"] = np.zeros_like(f.weight[f"b_{part}"])
        if xs[0].ndim == 2:
            sequence, state = (lambda x: x[None]), (lambda h: h[:, None])
        else:
            sequence, state = (as_it_is if m.batch_first else lambda x: x.swapaxes(0, 1)), as_it_is
        states = [state] * (2 if name == "LSTM" else 1)
        views = [sequence, *states]
        return Twin(f, weights, constants, inputs=views, outputs=views, stacked=name == "LSTM")

    return translate


def attention(m: Any, xs: list[Array]) -> Twin:
    refuse(
        (m.bias_k is not None, "no bias added to the keys and values (add_bias_kv)"),
        (m.add_zero_attn, "no zeros added to the keys and values (add_zero_attn)"),
        (not m._qkv_same_embed_dim, "keys and values have the queries' dimension"),
    )
    f = deepcore("MultiHeadAttention")(m.embed_dim, m.num_heads, dtype=xs[0].dtype)
    d = m.embed_dim
    weights, constants = {"W_o": named("out_proj.weight", np.transpose)}, {}
    for i, letter in enumerate("qkv"):
        part = slice(i * d, (i + 1) * d)
        weights[f"W_{letter}"] = named("in_proj_weight", lambda W, part=part: W[part].T)
        if m.in_proj_bias is not None:
            weights[f"b_{letter}"] = named("in_proj_bias", lambda b, part=part: b[part][None])
    if m.in_proj_bias is not None:
        weights["b_o"] = named("out_proj.bias", row)
    else:
        constants = {f"b_{letter}": np.zeros_like(f.weight[f"b_{letter}"]) for letter in "qkvo"}
    if xs[0].ndim == 2:
        sequence: View = lambda x: x[None]
    else:
        sequence = as_it_is if m.batch_first else lambda x: x.swapaxes(0, 1)
    masks = [x for x in xs if x.dtype == bool]  # torch's True: may not attend
    allowed = np.ones((), bool)
    for mask in masks:
        if mask.ndim == 3:  # (n heads, t, s)
            allowed = allowed & ~mask.reshape(-1, m.num_heads, *mask.shape[1:])
        elif mask.ndim == 2 and mask.shape[0] == xs[0].shape[-2]:
            allowed = allowed & ~mask
        else:  # (n, s) or (s,): padding
            allowed = allowed & ~mask.reshape(-1, 1, 1, mask.shape[-1])
    return Twin(
        f,
        weights,
        constants,
        inputs=[sequence] * 3,
        extra=[allowed] if masks else [],
        outputs=[sequence],
    )


# ---- losses


def loss(name: str, **settings: str) -> Translator:
    """A loss between arrays of one shape; its settings by torch's names. A 0-d array becomes (1,)."""

    def translate(m: Any, xs: list[Array]) -> Twin:
        weight = {}
        if getattr(m, "weight", None) is not None:
            weight = {"weight": m.weight.detach().numpy()}
        chosen = {ours: getattr(m, theirs) for ours, theirs in settings.items()}
        f = deepcore(name)(reduction=m.reduction, **chosen, **weight)
        outputs = [np.atleast_1d if m.reduction == "none" else as_it_is]
        return Twin(f, inputs=[np.atleast_1d] * len(xs), outputs=outputs)

    return translate


def class_loss(name: str, **settings: str) -> Translator:
    """A loss of classes. A sample without a batch becomes a batch of one."""

    def translate(m: Any, xs: list[Array]) -> Twin:
        twin = loss(name, **settings)(m, xs)
        alone = xs[0].ndim == 1
        batch = [(lambda x: x[None]) if alone else as_it_is]
        twin.inputs = batch * 2
        twin.outputs = batch if m.reduction == "none" else [as_it_is]
        return twin

    return translate


# ---- the table

MODULES: dict[str, dict[str, Translator]] = {
    "activations": {
        "nn.CELU": function("CELU", alpha="alpha"),
        "nn.ELU": function("ELU", alpha="alpha"),
        "nn.GELU": function("GELU", approximate="approximate"),
        "nn.GLU": function("GLU", axis="dim"),
        "nn.Hardshrink": function("HardShrink", lambd="lambd"),
        "nn.Hardswish": function("HardSwish"),
        "nn.Hardtanh": function("HardTanh", min_val="min_val", max_val="max_val"),
        "nn.LeakyReLU": function("LeakyReLU", alpha="negative_slope"),
        "nn.LogSigmoid": function("LogSigmoid"),
        "nn.LogSoftmax": along_axis("LogSoftmax"),
        "nn.Mish": function("Mish"),
        "nn.PReLU": prelu,
        "nn.ReLU": function("ReLU"),
        "nn.ReLU6": function("ReLU6"),
        "nn.SELU": function("SELU"),
        "nn.SiLU": function("SiLU"),
        "nn.Sigmoid": function("Sigmoid"),
        "nn.Softmax": along_axis("Softmax"),
        "nn.Softmax2d": softmax_2d,
        "nn.Softmin": along_axis("Softmin"),
        "nn.Softplus": function("Softplus", beta="beta", threshold="threshold"),
        "nn.Softshrink": function("SoftShrink", lambd="lambd"),
        "nn.Softsign": function("Softsign"),
        "nn.Tanh": function("Tanh"),
        "nn.Tanhshrink": function("TanhShrink"),
        "nn.Threshold": function("Threshold", threshold="threshold", value="value"),
    },
    "linear": {"nn.Bilinear": bilinear, "nn.Linear": linear},
    "convolution": {
        **{f"nn.Conv{n}d": convolution(n) for n in (1, 2, 3)},
        **{f"nn.ConvTranspose{n}d": convolution(n, transposed=True) for n in (1, 2, 3)},
    },
    "pooling": {
        **{f"nn.{kind}{n}d": pool(kind, n) for n in (1, 2, 3) for kind in ("AvgPool", "MaxPool")},
        **{
            f"nn.{kind}{n}d": adaptive_pool(kind, n)
            for n in (1, 2, 3)
            for kind in ("AdaptiveAvgPool", "AdaptiveMaxPool")
        },
    },
    "norms": {
        **{f"nn.BatchNorm{n}d": batch_norm(n) for n in (1, 2, 3)},
        **{f"nn.InstanceNorm{n}d": instance_norm(n) for n in (1, 2, 3)},
        "nn.GroupNorm": group_norm,
        "nn.LayerNorm": shape_norm("LayerNorm"),
        "nn.RMSNorm": shape_norm("RMSNorm"),
    },
    "shape": {
        f"nn.{kind}Pad{n}d": pad(n, mode)
        for n in (1, 2, 3)
        for kind, mode in {
            "Circular": "wrap",
            "Constant": "constant",
            "Reflection": "reflect",
            "Replication": "edge",
            "Zero": "constant",
        }.items()
    },
    "sequences": {
        "nn.Embedding": embedding,
        "nn.GRU": recurrent("GRU"),
        "nn.LSTM": recurrent("LSTM"),
        "nn.MultiheadAttention": attention,
        "nn.RNN": recurrent("RNN"),
    },
    "losses": {
        "nn.BCELoss": loss("BCELoss"),
        "nn.BCEWithLogitsLoss": loss("BCEWithLogitsLoss"),
        "nn.CosineEmbeddingLoss": loss("CosineSimilarityLoss", margin="margin"),
        "nn.CrossEntropyLoss": class_loss(
            "CrossEntropyLoss", ignore_index="ignore_index", label_smoothing="label_smoothing"
        ),
        "nn.GaussianNLLLoss": loss("GaussianNLLLoss", full="full", eps="eps"),
        "nn.HingeEmbeddingLoss": loss("HingeEmbeddingLoss", margin="margin"),
        "nn.HuberLoss": loss("HuberLoss", delta="delta"),
        "nn.KLDivLoss": loss("KLDivLoss", log_target="log_target"),
        "nn.L1Loss": loss("L1Loss"),
        "nn.MSELoss": loss("MSELoss"),
        "nn.MultiLabelSoftMarginLoss": loss("MultiLabelSoftMarginLoss"),
        "nn.MultiMarginLoss": class_loss("MultiMarginLoss", p="p", margin="margin"),
        "nn.NLLLoss": class_loss("NLLLoss", ignore_index="ignore_index"),
        "nn.PoissonNLLLoss": loss("PoissonNLLLoss", log_input="log_input", full="full", eps="eps"),
        "nn.SmoothL1Loss": loss("SmoothL1Loss", beta="beta"),
        "nn.SoftMarginLoss": loss("SoftMarginLoss"),
    },
}

LAZY = "deepcore is told the sizes of its layers: it has none that wait for the first input"
CELL = "deepcore has whole recurrent layers, not the cell of one step"
BLOCK = "TransformerBlock is pre-norm with GELU; each of these cases is post-norm or has ReLU"

OUTSIDE: dict[str, str] = {  # modules that no case of can be put in deepcore's words
    "nn.CTCLoss": "deepcore has no connectionist temporal classification",
    "nn.FractionalMaxPool2d": "deepcore has no pooling over random windows",
    "nn.FractionalMaxPool3d": "deepcore has no pooling over random windows",
    "nn.GRUCell": CELL,
    "nn.LPPool1d": "deepcore has no power-average pooling",
    "nn.LPPool2d": "deepcore has no power-average pooling",
    "nn.LPPool3d": "deepcore has no power-average pooling",
    "nn.LSTMCell": CELL,
    "nn.LazyConv1d": LAZY,
    "nn.LazyConv2d": LAZY,
    "nn.LazyConv3d": LAZY,
    "nn.LazyConvTranspose1d": LAZY,
    "nn.LazyConvTranspose2d": LAZY,
    "nn.LazyConvTranspose3d": LAZY,
    "nn.LinearCrossEntropyLoss": "a Linear and a loss in one, to save memory; deepcore has the two",
    "nn.LocalResponseNorm": "deepcore has no normalisation over neighbouring channels",
    "nn.MarginRankingLoss": "deepcore has no ranking loss between two scores",
    "nn.MultiLabelMarginLoss": "deepcore has no margin loss over lists of labels",
    "nn.RNNCell": CELL,
    "nn.Transformer": "deepcore has no encoder-decoder",
    "nn.TransformerDecoderLayer": "deepcore has no block that attends to an encoder's output",
    "nn.TransformerEncoder": BLOCK,
    "nn.TransformerEncoderLayer": BLOCK,
}
