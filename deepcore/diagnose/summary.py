"""The layers of a net in a table: where they stand, what they give out, how many weights they have."""

from __future__ import annotations

import copy
import html
import math
import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore.backends.registry import backend_of, is_array
from deepcore.backends.select import dtype_name, put, selected_backend
from deepcore.core.function import Function, first_weight, input_dtype
from deepcore.core.parameters import Parameter, find_buffers, find_parameters, functions
from deepcore.core.random import Generator, drawing_from
from deepcore.core.record import inference
from deepcore.errors import ShapeError

_BATCH = 2
_WIDEST = 48  # characters of a layer's repr


@dataclass(frozen=True)
class Row:
    """One place where a Function stands."""

    path: str
    depth: int
    layer: str
    output: str
    trainable: int
    frozen: int
    note: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text; numbers only where there are weights."""
        numbers = (f"{self.trainable:,}", f"{self.frozen:,}") if self.trainable or self.frozen else ("", "")
        return ("  " * self.depth + self.path, self.layer, self.output, *numbers, self.note)


@dataclass(frozen=True, repr=False)
class Summary:
    """What `summary` found; its text is a table.

    trainable, frozen: numbers of weights, each counted once.   weight_bytes, buffer_bytes: their memory.
    """

    title: str
    rows: tuple[Row, ...]
    trainable: int
    frozen: int
    weight_bytes: int
    buffer_bytes: int

    def __str__(self) -> str:
        body = [row.cells for row in self.rows]
        widths = [max(map(len, column)) for column in zip(_HEADS, *body, self._total, strict=True)]
        rule = "-" * (sum(widths[:5]) + 8)
        lines = [_line(cells, widths) for cells in (_HEADS, *body, self._total)]
        return "\n".join([self.title, "", lines[0], rule, *lines[1:-1], rule, lines[-1], self._memory])

    def __repr__(self) -> str:
        return str(self)

    def html(self) -> str:
        """The same as a fragment of a page, which needs nothing else; a notebook shows it by itself."""
        body = "\n".join(_row_html(row.cells, row.depth) for row in self.rows)
        return (
            f'<div class="deepcore-summary">\n<style>{_STYLE}</style>\n<p>{html.escape(self.title)}</p>\n'
            f"<table>\n<thead>\n{_row_html(_HEADS, 0, 'th')}\n</thead>\n<tbody>\n{body}\n</tbody>\n"
            f"<tfoot>\n{_row_html(self._total, 0)}\n</tfoot>\n</table>\n<p>{self._memory}</p>\n</div>"
        )

    _repr_html_ = html

    @property
    def _total(self) -> tuple[str, ...]:
        return ("total", "", "", f"{self.trainable:,}", f"{self.frozen:,}", "")

    @property
    def _memory(self) -> str:
        return f"weights {self.weight_bytes / 1e6:.2f} MB, buffers {self.buffer_bytes / 1e6:.2f} MB"


_HEADS = ("path", "layer", "output", "trainable", "frozen", "")
_STYLE = """
.deepcore-summary { font: 14px/1.45 system-ui, sans-serif; }
.deepcore-summary table { border-collapse: collapse; }
.deepcore-summary th, .deepcore-summary td { padding: .1em 1.2em .1em 0; text-align: left; }
.deepcore-summary td:first-child { font: 13px/1.45 ui-monospace, monospace; }
.deepcore-summary .number { text-align: right; }
.deepcore-summary th { font-weight: 600; }
.deepcore-summary thead, .deepcore-summary tbody { border-bottom: 1px solid #999; }
"""


def _row_html(cells: tuple[str, ...], depth: int, tag: str = "td") -> str:
    kinds = [f' style="padding-left: {2 * depth}em"' if depth else "", "", "", *[' class="number"'] * 2, ""]
    shown = (
        f"<{tag}{kind}>{html.escape(cell.strip())}</{tag}>" for kind, cell in zip(kinds, cells, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    path, layer, output, trainable, frozen, note = (
        cell.rjust(width) if column in (3, 4) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([path, layer, output, trainable, frozen, note]).rstrip()


def summary(net: Function, input_shape: Any, dtype: Any = None) -> Summary:
    """The layers of a net in a table, for inputs of a shape that is given without the batch.

    input_shape: such as (1, 28, 28), or a list of such tuples for a net with several inputs.
    dtype: of the input; unless given that of the weights, or int64 for a net that begins with Embedding.

    It runs zeros through a copy of the net, in inference mode: the net itself stays as it is. In the
    table n is the batch; a weight that layers share is counted where it stands first.
    Raises the ShapeError of the layer that the shape doesn't fit.

    >>> from deepcore.activations import ReLU
    >>> from deepcore.core.containers import Sequential
    >>> from deepcore.layers.linear import Linear
    >>> summary(Sequential(Linear(784, 100), ReLU(), Linear(100, 10)), (784,))
    Sequential, input (n, 784) float32
    <BLANKLINE>
    path   layer             output    trainable  frozen
    ----------------------------------------------------
    0      Linear(784, 100)  (n, 100)     78,500       0
    1      ReLU()            (n, 100)
    2      Linear(100, 10)   (n, 10)       1,010       0
    ----------------------------------------------------
    total                                 79,510       0
    weights 0.32 MB, buffers 0.00 MB
    """
    inputs = [_zeros(net, (_BATCH, *shape), dtype) for shape in _shapes(input_shape)]
    parameters = find_parameters(net)
    rows = _rows(net, _output_shapes(net, inputs), parameters)
    return Summary(
        title=f"{type(net).__name__}, input {', '.join(map(_shape_text, inputs))} {dtype_name(inputs[0])}",
        rows=tuple(rows),
        trainable=sum(row.trainable for row in rows),
        frozen=sum(row.frozen for row in rows),
        weight_bytes=sum(_bytes(p.value) for p in parameters.values()),
        buffer_bytes=sum(_bytes(f.buffer[name]) for f, name in find_buffers(net).values()),
    )


# ---- the pass


def _shapes(input_shape: Any) -> list[tuple[int, ...]]:
    """One shape for each input. Raises ShapeError if that is not what was given."""
    try:
        if hasattr(input_shape, "__index__"):
            input_shape = (input_shape,)
        several = len(input_shape) > 0 and all(isinstance(shape, tuple | list) for shape in input_shape)
        shapes = [tuple(map(operator.index, shape)) for shape in (input_shape if several else [input_shape])]
    except TypeError:
        shapes = []
    if not shapes or any(n < 0 for shape in shapes for n in shape):
        raise ShapeError(
            f"summary: input_shape must be whole numbers, without the batch, got {input_shape!r}; "
            "for 28x28 grey images, for example, (1, 28, 28)"
        )
    return shapes


def _zeros(net: Function, shape: tuple[int, ...], dtype: Any) -> Any:
    """Zeros where the net lives."""
    W = first_weight(net)
    name = input_dtype(net) if dtype is None else dtype_name(dtype)
    if W is None:
        return put(np.zeros(shape), selected_backend(), name)
    return put(np.zeros(shape), backend_of(W), name, backend_of(W).device(W))


def _output_shapes(net: Function, inputs: list[Any]) -> list[list[str]]:
    """For each of the net's places: the shapes of what its Function returned, call by call."""
    clone = _clone_sharing_arrays(net)
    shapes: dict[Function, list[str]] = {f: [] for f in functions(clone)}
    for f, found in shapes.items():
        _watch(f, found)
    with inference(), drawing_from(Generator(0)):
        clone(*inputs)
    return [shapes[f] for _, f, _ in _places(clone)]


def _clone_sharing_arrays(net: Function) -> Any:
    """A copy of a net whose weights and buffers are the very arrays of the net."""
    arrays = [parameter.value for parameter in find_parameters(net).values()]
    arrays += [f.buffer[name] for f, name in find_buffers(net).values()]
    return copy.deepcopy(net, {id(x): x for x in arrays})


def _watch(f: Function, found: list[str]) -> None:
    """From now on, note the shapes of all that calls of f return."""
    cls = type(f)

    def call(self: Function, *inputs: Any, **named: Any) -> Any:
        Y = cls.__call__(self, *inputs, **named)
        found.append(", ".join(map(_shape_text, Y if isinstance(Y, tuple) else (Y,))))
        return Y

    f.__class__ = type(cls.__name__, (cls,), {"__call__": call})


def _shape_text(X: Any) -> str:
    """(2, 3) -> "(n, 3)"."""
    if not is_array(X):
        return type(X).__name__
    sizes = [str(size) for size in X.shape]
    if X.ndim and X.shape[0] == _BATCH:
        sizes[0] = "n"
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"


# ---- the table


def _places(f: Function, path: str = "", depth: int = -1) -> list[tuple[str, Function, int]]:
    """Every Function at or below f: its path, itself, and how deep it stands; 0 for the parts of a net."""
    found = [(path, f, depth)]
    for name, child in f._children():
        found += _places(child, f"{path}.{name}" if path else name, depth + 1)
    return found


def _rows(net: Function, outputs: list[list[str]], parameters: dict[str, Parameter]) -> list[Row]:
    """A row for each place where a Function stands; the net itself only if it has weights or no parts."""
    of_array = {id(p.value): p for p in parameters.values()}  # sound: the layers hold the arrays meanwhile
    first: dict[Function, str] = {}
    times: Counter[Function] = Counter()
    rows = []
    for (path, f, depth), shapes in zip(_places(net), outputs, strict=True):
        output = shapes[min(times[f], len(shapes) - 1)] if shapes else "-"
        note, trainable, frozen = f"again {first.get(f)}", 0, 0
        if f not in first:
            own = {name: of_array[id(W)] for name, W in f._weights.items()}
            note = ", ".join(f"{name} is {p.path}" for name, p in own.items() if p.places[0] != (f, name))
            counted = [p for name, p in own.items() if p.places[0] == (f, name)]
            trainable = sum(math.prod(p.value.shape) for p in counted if p.trainable)
            frozen = sum(math.prod(p.value.shape) for p in counted if not p.trainable)
        first.setdefault(f, path)
        times[f] += 1
        if depth >= 0 or f._weights or not f._children():
            rows.append(Row(path, max(depth, 0), _layer_text(f), output, trainable, frozen, note))
    return rows


def _layer_text(f: Function) -> str:
    """The layer with its arguments; a container by its name, for its parts have rows of their own."""
    text = type(f).__name__ if f._children() else " ".join(repr(f).split())
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


def _bytes(x: Any) -> int:
    """The memory of an array: its dtype ends in its bits."""
    bits = "".join(filter(str.isdigit, dtype_name(x)))
    return math.prod(x.shape) * int(bits or 8) // 8
