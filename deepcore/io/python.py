"""A net as one Python file that needs NumPy alone: the formulas that it uses, `predict(X)`, and its weights.

The weights stand in the file itself, at its end: it can't be parted from them, comes into being whole, and
can be sent, imported or pasted as it is. (They take a third more room than in a file of their own.)
"""

from __future__ import annotations

import base64
import dis
import inspect
import io
import math
import os
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepcore.backends.select import dtype_name, to_numpy
from deepcore.core.function import Function, first_weight
from deepcore.errors import UnsupportedError
from deepcore.io import formulas as F
from deepcore.io import state
from deepcore.io.architecture import row_of
from deepcore.io.safetensors import replacing

# ---- the table


class W(NamedTuple):
    """A weight or buffer of the layer, by name; None if it has none of that name."""

    name: str


def _shape(f: Any) -> tuple[int, ...]:
    return (f.shape,) if isinstance(f.shape, int) else tuple(f.shape)


def _recurrent(step: Callable[..., Any]) -> Callable[[Any], tuple[Any, ...]]:
    def arguments(f: Any) -> tuple[Any, ...]:
        if getattr(f, "return_state", False):
            raise UnsupportedError(f"{f._who()}: predict gives one output; make it with return_state=False")
        ends = ("", "_reverse") if f.bidirectional else ("",)
        names = ("W_ih", "W_hh", "b_ih", "b_hh")
        layers = tuple(
            tuple(tuple(W(f"{name}_l{layer}{end}") for name in names) for end in ends)
            for layer in range(f.num_layers)
        )
        return F.recurrent, layers, step

    return arguments


_ATTENTION = tuple(W(f"{kind}_{part}") for part in "qkvo" for kind in "Wb")

# class, or a base of it -> its formula, and the arguments that come after X
_FORMULAS: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    "AdaptiveAvgPool": lambda f: (F.adaptive_pool, f.size, np.mean),
    "AdaptiveMaxPool": lambda f: (F.adaptive_pool, f.size, np.max),
    "AvgPool": lambda f: (F.avg_pool, f.kernel_size, f.stride, _pairs(f.padding), f.count_include_pad),
    "BatchNorm": lambda f: (
        F.batch_norm,
        W("running_mean"),
        W("running_var"),
        W("gamma"),
        W("beta"),
        f.epsilon,
    ),
    "CELU": lambda f: (F.celu, f.alpha),
    "Conv": lambda f: (F.conv, W("W"), W("b"), f.stride, f._pads, f.dilation, f.groups),
    "ConvTranspose": lambda f: (
        F.conv_transpose,
        W("W"),
        W("b"),
        f.stride,
        f.padding,
        f.output_padding,
        f.dilation,
        f.groups,
    ),
    "Dropout": lambda f: (None,),
    "ELU": lambda f: (F.elu, f.alpha),
    "Embedding": lambda f: (F.embedding, W("W")),
    "Flatten": lambda f: (F.flatten,),
    "GELU": lambda f: (F.gelu, f.approximate),
    "GLU": lambda f: (F.glu, f.axis),
    "GRU": _recurrent(F.gru_step),
    "GroupNorm": lambda f: (F.group_norm, W("gamma"), W("beta"), f.groups, f.epsilon),
    "HardShrink": lambda f: (F.hard_shrink, f.lambd),
    "HardSigmoid": lambda f: (F.hard_sigmoid,),
    "HardSwish": lambda f: (F.hard_swish,),
    "HardTanh": lambda f: (F.clip, f.min_val, f.max_val),
    "InstanceNorm": lambda f: (F.group_norm, W("gamma"), W("beta"), f.n_channels, f.epsilon),
    "LSTM": _recurrent(F.lstm_step),
    "LayerNorm": lambda f: (F.layer_norm, W("gamma"), W("beta"), _shape(f), f.epsilon),
    "LeakyReLU": lambda f: (F.leaky_relu, f.alpha),
    "Linear": lambda f: (F.linear, W("W"), W("b")),
    "LogSigmoid": lambda f: (F.log_sigmoid,),
    "LogSoftmax": lambda f: (F.log_softmax, f.axis),
    "MaxPool": lambda f: (F.max_pool, f.kernel_size, f.stride, _pairs(f.padding)),
    "Mish": lambda f: (F.mish,),
    "MultiHeadAttention": lambda f: (F.attention, *_ATTENTION, f.heads, f.causal),
    "PReLU": lambda f: (F.prelu, W("alpha")),
    "Pad": lambda f: (F.pad, f._pads, f.mode, f.value),
    "Permute": lambda f: (F.permute, f.axes),
    "RMSNorm": lambda f: (F.rms_norm, W("gamma"), _shape(f), f.epsilon),
    "RNN": _recurrent(F.rnn_step),
    "ReLU": lambda f: (F.relu,),
    "Reshape": lambda f: (F.reshape, f.shape),
    "SELU": lambda f: (F.selu,),
    "SiLU": lambda f: (F.silu,),
    "Sigmoid": lambda f: (F.sigmoid,),
    "SoftShrink": lambda f: (F.soft_shrink, f.lambd),
    "Softmax": lambda f: (F.softmax, f.axis),
    "Softmin": lambda f: (F.softmin, f.axis),
    "Softplus": lambda f: (F.softplus, f.beta, f.threshold),
    "Softsign": lambda f: (F.softsign,),
    "Tanh": lambda f: (F.tanh,),
    "TanhShrink": lambda f: (F.tanh_shrink,),
    "Threshold": lambda f: (F.threshold, f.threshold, f.value),
    "Upsample2D": lambda f: (F.upsample, f.scale, f.mode),
}


def _pairs(padding: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((p, p) for p in padding)


# ---- the file


def to_python(net: Function, path: str | os.PathLike[str]) -> None:
    """Write a net to a Python file that needs NumPy alone: import it, and call `predict(X)`.

    The file holds the formula of each kind of layer, as in inference, and the weights. It appears, or takes
    the place of an older one, when it is complete and on the disk.
    Raises UnsupportedError, naming it, for a layer without a plain formula here, such as a class of your own.

    >>> import runpy, tempfile
    >>> from deepcore.layers.linear import Linear
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     to_python(Linear(2, 1, init="ones"), os.path.join(folder, "model.py"))
    ...     model = runpy.run_path(os.path.join(folder, "model.py"))
    >>> model["predict"]([[1.0, 2.0]])
    array([[3.]], dtype=float32)
    """
    text = _Writer(net).file()
    with replacing(path) as file:
        file.write(text.encode())


class _Writer:
    """Collects the lines of predict, the formulas that they call, and the weights that they name."""

    def __init__(self, net: Function):
        self.net = net
        self.arrays = {path: to_numpy(slot.value) for path, slot in state._slots(net).items()}
        self.path_of = {
            id(slot.value): path for path, slot in state._slots(net).items()
        }  # the net holds them
        self.lines: list[str] = []
        self.formulas: dict[str, Any] = {}
        self.used: dict[str, np.ndarray] = {}
        self.names = 0

    # ---- predict, line by line

    def write(self, f: Function, source: str, target: str) -> None:
        """Append `target = f(source)`."""
        if (container := row_of(_CONTAINERS, f)) is not None:
            container(self, f, source, target)
            return
        if row_of({"Bilinear": True}, f):
            raise UnsupportedError(f"{f._who()}: it takes two inputs, and to_python writes predict(X) of one")
        row = row_of(_FORMULAS, f)
        if row is None:
            raise UnsupportedError(
                f"{f._who()}: to_python has no formula for {type(f).__name__}; "
                "replace it by layers of deepcore's own, or keep the net with net.save(path)"
            )
        formula, *arguments = row(f)
        if formula is not None:
            tables = {**f._weights, **f.buffer}
            given = [source, *(self.shown(x, tables) for x in arguments)]
            while given[-1] == "None":
                given.pop()
            self.assign(target, f"{self.use(formula)}({', '.join(given)})")
        elif source != target:
            self.assign(target, source)

    def assign(self, target: str, value: str) -> None:
        self.lines.append(f"    {target} = {value}")

    def new_name(self) -> str:
        self.names += 1
        return f"X{self.names}"

    def shown(self, x: Any, tables: dict[str, Any]) -> str:
        """An argument as Python writes it."""
        if isinstance(x, W):
            if x.name not in tables:
                return "None"
            path = self.path_of[id(tables[x.name])]
            self.used[path] = self.arrays[path]
            return f'W["{path}"]'
        if isinstance(x, tuple):
            return f"({', '.join(self.shown(item, tables) for item in x)}{',' * (len(x) == 1)})"
        if callable(x):
            return f"np.{x.__name__}" if getattr(np, x.__name__, None) is x else self.use(x)
        if isinstance(x, float) and not math.isfinite(x):
            return f'float("{x}")'
        return repr(x)

    def use(self, formula: Any) -> str:
        """The name of a formula, which will be in the file with all that it calls."""
        if formula.__name__ not in self.formulas:
            self.formulas[formula.__name__] = formula
            for name in _names(formula.__code__):
                if isinstance(called := getattr(F, name, None), types.FunctionType):
                    self.use(called)
        return formula.__name__

    # ---- the whole

    def file(self) -> str:
        self.write(self.net, "X", "X")
        formulas = [f for name, f in vars(F).items() if name in self.formulas]  # in the order of their file
        body = "\n".join(self.lines)
        parts = [self.head(), *map(inspect.getsource, formulas)]
        title = '    """The output of the net for a batch X."""\n'
        parts.append(f"def predict(X):\n{title}{self.cast()}{body}\n    return X\n")
        if self.used:
            parts.append(self.weights())
        return "\n\n".join(parts)

    def head(self) -> str:
        used = "".join(f"import {name}\n" for name in ("base64", "io", "math") if self.needs(name))
        return (
            '"""A neural network, written by deepcore. It needs NumPy alone: call predict(X)."""\n\n'
            f"{used}{chr(10) * bool(used)}import numpy as np\n"
        )

    def needs(self, module: str) -> bool:
        if module != "math":
            return bool(self.used)
        return any(module in _names(f.__code__) for f in self.formulas.values())

    def cast(self) -> str:
        weight = first_weight(self.net)
        if weight is None:
            return "    X = np.asarray(X)\n"
        name = dtype_name(weight)
        if "embedding" in self.formulas:  # whole numbers stay what they are
            return f'    X = np.asarray(X)\n    X = X.astype("{name}") if X.dtype.kind == "f" else X\n'
        return f'    X = np.asarray(X, "{name}")\n'

    def weights(self) -> str:
        for path, x in self.used.items():
            if x.dtype.kind not in "fiub":
                raise UnsupportedError(f"{path}: NumPy has no {x.dtype}; make the net with another dtype")
        data = io.BytesIO()
        np.savez(data, **self.used)  # type: ignore[arg-type]
        text = base64.encodebytes(data.getvalue()).decode()
        return f'W = dict(np.load(io.BytesIO(base64.b64decode("""\n{text}"""))))\n'


def _names(code: types.CodeType) -> set[str]:
    """The global names that a function uses, those of functions inside it too."""
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))
    own = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return own.union(*inner)


# ---- containers


def _chain(writer: _Writer, functions: Sequence[Function], word: str, source: str, target: str) -> None:
    for index, f in enumerate(functions):
        try:
            writer.write(f, target if index else source, target)
        except UnsupportedError as error:
            error.inside(f"{word} {index}")
            raise
    if not functions and source != target:
        writer.assign(target, source)


def _branches(writer: _Writer, functions: Sequence[Function], source: str) -> list[str]:
    names = [writer.new_name() for _ in functions]
    for f, name in zip(functions, names, strict=True):
        writer.write(f, source, name)
    return names


def _residual(writer: _Writer, f: Any, source: str, target: str) -> None:
    names = _branches(writer, [f.f] if f.shortcut is None else [f.f, f.shortcut], source)
    writer.assign(target, " + ".join([*names, source][:2]))


def _concat(writer: _Writer, f: Any, source: str, target: str) -> None:
    names = ", ".join(_branches(writer, f.functions, source))
    writer.assign(target, f"np.concatenate(({names},), axis={f.axis})")


def _add(writer: _Writer, f: Any, source: str, target: str) -> None:
    writer.assign(target, " + ".join(_branches(writer, f.functions, source)))


def _transformer_block(writer: _Writer, f: Any, source: str, target: str) -> None:
    A, inner = writer.new_name(), writer.new_name()
    writer.write(f.norm_1, source, inner)
    writer.write(f.attention, inner, inner)
    writer.assign(A, f"{source} + {inner}")
    writer.write(f.norm_2, A, inner)
    writer.write(f.expand, inner, inner)
    writer.assign(inner, f"{writer.use(F.gelu)}({inner}, 'none')")
    writer.write(f.contract, inner, inner)
    writer.assign(target, f"{A} + {inner}")


def _graph(writer: _Writer, f: Any, source: str, target: str) -> None:
    names = {"X": source}
    for index, (step, taken, given) in enumerate(f.steps):
        join = row_of(_JOINED, step)
        name = writer.new_name()
        if join is not None:
            writer.assign(name, join(step, [names[n] for n in taken]))
        elif len(taken) == 1:
            writer.write(step, names[taken[0]], name)
        else:
            raise UnsupportedError(f"step {index}, {step._who()}: to_python writes functions of one input")
        names[given] = name
    writer.assign(target, names[f.output])


_JOINED: dict[str, Callable[[Any, list[str]], str]] = {
    "Join": lambda f, names: f"np.concatenate(({', '.join(names)},), axis={f.axis})",
    "Product": lambda f, names: " * ".join(names),
    "Sum": lambda f, names: " + ".join(names),
}
_CONTAINERS: dict[str, Callable[..., None]] = {
    "Add": _add,
    "Composition": lambda writer, f, *names: _chain(writer, f.layers, "layer", *names),
    "Concat": _concat,
    "Graph": _graph,
    "Residual": _residual,
    "Sequential": lambda writer, f, *names: _chain(writer, f.functions, "function", *names),
    "TransformerBlock": _transformer_block,
}
