"""A training step told layer by layer: formulas, shapes, local and global gradients, and the chain rule."""

from __future__ import annotations

import ast
import html
import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore.backends.registry import backend_of, is_array
from deepcore.backends.select import dtype_name, to_numpy
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.loss import Loss
from deepcore.core.net import Composition
from deepcore.core.parameters import walk
from deepcore.data.batches import Arrays
from deepcore.diagnose.watch import Call, need_loss, norm, watched_pass

_WIDTH = 80
_PLAIN = (Function, Layer, Loss, Composition, object)  # their docstrings hold no formula


@dataclass(frozen=True)
class Quantity:
    """One array: what it is called, its shape, and its Euclidean norm; None where it has none."""

    name: str
    shape: str
    norm: float | None

    @property
    def cells(self) -> tuple[str, str, str]:
        """The quantity as text."""
        return self.name, self.shape, "" if self.norm is None else f"{self.norm:.4g}"


@dataclass(frozen=True)
class Step:
    """One call of one layer.

    arrays: X, the weights, Y, each beside the gradient of the loss by it, the global gradient
    local: the factors that the chain rule multiplies dY by, or in words why there is none
    """

    path: str
    depth: int
    layer: str
    formula: tuple[str, ...]
    arrays: tuple[tuple[Quantity, Quantity], ...]
    local: tuple[Quantity, ...] | str
    note: str = ""


@dataclass(frozen=True, repr=False)
class Explanation:
    """What `explain` found: print it, or let a notebook show it.

    loss: its value   steps: one for each call of a layer, parts after their container, the loss last
    chain: the chain rule with the shapes of this step, line by line
    """

    title: str
    loss: float
    steps: tuple[Step, ...]
    chain: tuple[str, ...]

    def __str__(self) -> str:
        lines = [*textwrap.wrap(self.title, _WIDTH), f"Loss L = {self.loss:.6g}"]
        for step in self.steps:
            lines += ["", *_step_text(step)]
        return "\n".join([*lines, "", "The chain rule", *(f"  {line}".rstrip() for line in self.chain)])

    def __repr__(self) -> str:
        return str(self)

    def html(self) -> str:
        """The same as a fragment of a page, which needs nothing else."""
        head = f"<p>{html.escape(self.title)}<br>Loss L = {self.loss:.6g}</p>"
        chain = html.escape("\n".join(self.chain))
        end = f"<section><h4>The chain rule</h4>\n<pre>{chain}</pre></section>"
        body = "\n".join([f"<style>{_STYLE}</style>", head, *map(_step_html, self.steps), end])
        return f'<div class="deepcore-explain">\n{body}\n</div>'

    _repr_html_ = html


def explain(net: Composition, X: Any, y: Any) -> Explanation:
    """Run one forward, loss and backward on a copy of the net, and tell what happened in each layer.

    X, y: a batch; they are moved to the net, as fit does. The net itself stays as it is: no weight,
    gradient, buffer or record changes. In training mode Dropout drops, in evaluation mode it doesn't.
    Raises StateError for a net without a loss, and the layer's own error where the batch doesn't fit.

    >>> import numpy as np
    >>> from deepcore.layers.linear import Linear
    >>> from deepcore.losses import MSELoss
    >>> net = Composition([Linear(2, 1, init="ones")], MSELoss())
    >>> print(explain(net, np.array([[1.0, 2.0]]), np.array([[0.0]])))
    Composition: X (1, 2) float32, y (1, 1) float64, on numpy, in training mode
    Loss L = 9
    <BLANKLINE>
    layers.0  Linear(2, 1, init='ones')
      Y = X W + b, over the last axis.
      dX = dY W^T   dW = X^T dY   db = sum dY
      forward   shape   norm    backward   shape   norm
      X        (1, 2)  2.236    dX        (1, 2)  8.485
      W        (2, 1)  1.414    dW        (2, 1)  13.42
      b        (1, 1)      0    db        (1, 1)      6
      Y        (1, 1)      3    dY        (1, 1)      6
      local gradients: for X (2, 1), norm 1.414; for W (1, 2), norm 2.236
    <BLANKLINE>
    loss_fn  MSELoss()
      L = mean over all elements of (X - Y)^2.
      dX = 2 (X - Y) / size
      forward   shape  norm    backward   shape  norm
      X        (1, 1)     3    dX        (1, 1)     6
      Y        (1, 1)     0
      L            ()     9    dL            ()     1
      local gradients: for X (1, 1), norm 6
    <BLANKLINE>
    The chain rule
      Z0 = X                              (1, 2)
      Z1 = Linear(2, 1, init='ones')(Z0)  (1, 1)
      L  = MSELoss()(Z1, y)               9
    <BLANKLINE>
      dL/dZ1                   (1, 1)  norm 6      from the loss
      dL/dZ0 = dL/dZ1 dZ1/dZ0  (1, 2)  norm 8.485  by layers.0
    <BLANKLINE>
      dL/dX = dL/dZ1 dZ1/dZ0
    """
    need_loss(net, "explain")
    data = Arrays(X, y)
    seen = watched_pass(net, data.X, data.y, local=True)
    if seen.error is not None:
        raise seen.error
    root, loss = seen.root, seen.loss
    assert root is not None and loss is not None  # nothing has failed
    frozen = {f for _, f, trainable in walk(seen.net) if not trainable}
    steps = [_step(call, call.function in frozen) for call in root.walk()][1:]
    value = float(np.sum(to_numpy(loss.output)))
    mode = "training" if net.training else "evaluation"
    X0 = root.inputs[0]
    title = (
        f"{type(net).__name__}: X {_shape(X0)} {dtype_name(X0)}, y {_shape(data.y)} {dtype_name(data.y)}, "
        f"on {backend_of(X0).name}, in {mode} mode"
    )
    return Explanation(title, value, (*steps, _loss_step(loss)), tuple(_chain(root, loss, value)))


# ---- what a call shows


def _step(call: Call, frozen: bool) -> Step:
    f = call.function
    layer: Any = f  # a Layer where it has weights
    arrays = [_pair(name, x, call.dX, i) for i, (name, x) in enumerate(_named_inputs(call))]
    for name, W in f._weights.items():
        dW = layer.weight_update.get(name)
        arrays.append((_quantity(name, W), _quantity(f"d{name}", dW)))
    ends = [("Y" if len(call.outputs) == 1 else f"Y{i + 1}", Y) for i, Y in enumerate(call.outputs)]
    arrays += [_pair(name, Y, call.dY, i) for i, (name, Y) in enumerate(ends)]
    note = "frozen" if frozen and f._weights else ""
    return Step(call.path, call.depth, _layer_text(f), formula(f), tuple(arrays), _local(call), note)


def _loss_step(call: Call) -> Step:
    arrays = [_pair(name, x, call.dX, i) for i, (name, x) in enumerate(_named_inputs(call))]
    arrays.append((_quantity("L", call.output), _quantity("dL", np.ones(()))))
    if is_array(call.output) and call.output.ndim:  # reduction "none"
        arrays[-1] = (arrays[-1][0], Quantity("dL", _shape(call.output), None))
    f = call.function
    return Step(call.path, 0, _layer_text(f), formula(f), tuple(arrays), _local(call))


def _named_inputs(call: Call) -> list[tuple[str, Any]]:
    """The inputs by the names that forward gives them."""
    parameters = inspect.signature(type(call.function).forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][1:]
    if len(names) < len(call.inputs):  # forward(self, *inputs)
        names = ["X"] if len(call.inputs) == 1 else [f"X{i + 1}" for i in range(len(call.inputs))]
    return list(zip(names, call.inputs, strict=False))


def _pair(name: str, x: Any, gradients: tuple[Any, ...], i: int) -> tuple[Quantity, Quantity]:
    return _quantity(name, x), _quantity(f"d{name}", gradients[i] if i < len(gradients) else None)


def _quantity(name: str, x: Any) -> Quantity:
    if x is None:
        return Quantity(name, "none", None)
    return Quantity(name, _shape(x), norm(x) if is_array(x) else None)


def _shape(x: Any) -> str:
    return str(tuple(x.shape)) if is_array(x) or hasattr(x, "shape") else type(x).__name__


def _local(call: Call) -> tuple[Quantity, ...] | str:
    if isinstance(call.local, str):
        return call.local
    return tuple(_quantity(name, factor) for name, factor in call.local.items())


def _layer_text(f: Function) -> str:
    """The layer with its arguments; a container by its name, for its parts have steps of their own."""
    return type(f).__name__ if f._children() else " ".join(repr(f).split())


# ---- formulas


_EQUATION = re.compile(
    r"(?:^|: |With |with )"  # at the beginning, or after a few words
    r"((?:[A-Za-z]|d[A-Z])\w*(?:/d\w+)?(?:\[[^]]*\])?(?:, \w+)* = .+)"
)


def formula(f: Function) -> tuple[str, ...]:
    """The equations in the docstring of a Function's class, line by line.

    A class without any is shown by the first line of its docstring; one without a docstring, as users
    write them, by what its forward and its gradient return, if its source can be read.

    >>> from deepcore.activations import Tanh
    >>> formula(Tanh())
    ('Y = tanh X.   dX = dY / cosh^2 X.',)
    """
    words: tuple[str, ...] = ()
    for cls in type(f).__mro__:
        if cls in _PLAIN:
            break
        lines = inspect.cleandoc(vars(cls).get("__doc__") or "").partition(">>>")[0].splitlines()
        found = [line for line in map(_equations, lines) if line]
        if found:
            return tuple(found)
        words = words or tuple(lines[:1])
    return words or _returns(f) or ("(its class has no docstring)",)


def _equations(line: str) -> str:
    """What of a line is an equation. Three blanks part the equations of a line."""
    parts = [_EQUATION.search(part) for part in re.split(r"\s{3,}", line)]
    return "   ".join(part[1].removesuffix(":") for part in parts if part)


def _returns(f: Function) -> tuple[str, ...]:
    """("Y = X * X", "dY/dX = 2 * X"): what the methods of a class of the user's own return."""
    lines = []
    for name in ("forward", "local_grad", "backward"):
        method = getattr(type(f), name)
        if method in [getattr(cls, name, None) for cls in _PLAIN]:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method))))
        except (OSError, TypeError, SyntaxError):  # typed at a prompt: there is no source
            continue
        results = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return) and node.value]
        if len(results) != 1:
            continue
        (result,) = results
        if name != "local_grad":
            lines.append(f"{'Y' if name == 'forward' else 'dX'} = {ast.unparse(result)}")
        elif isinstance(result, ast.Dict):
            items = zip(result.keys, result.values, strict=True)
            lines += [
                f"dY/d{key.value} = {ast.unparse(x)}" for key, x in items if isinstance(key, ast.Constant)
            ]
    return tuple(lines)


# ---- the chain rule


def _chain(root: Call, loss: Call, value: float) -> list[str]:
    """The forward pass from the top, then the gradients from the bottom, with the shapes of this step."""
    calls, last = root.calls, len(root.calls)
    Z = [f"Z{i}" for i in range(last + 1)]
    names = [textwrap.shorten(_layer_text(call.function), 36, placeholder="...)") for call in calls]
    forward = [("Z0 = X", _shapes(root.inputs))]
    forward += [(f"{Z[i + 1]} = {names[i]}({Z[i]})", _shapes(call.outputs)) for i, call in enumerate(calls)]
    forward.append((f"L  = {_layer_text(loss.function)}({Z[last]}, y)", f"{value:.6g}"))
    gradients = [(f"dL/d{Z[last]}", loss.dX[:1], "from the loss")]
    for i in range(last, 0, -1):
        rule = f"dL/d{Z[i - 1]} = dL/d{Z[i]} d{Z[i]}/d{Z[i - 1]}"
        gradients.append((rule, calls[i - 1].dX, f"by {calls[i - 1].path}"))
    rows = [(rule, _shapes(dZ), f"norm {_norms(dZ)}", who) for rule, dZ, who in gradients]
    product = " ".join([f"dL/d{Z[last]}", *(f"d{Z[i]}/d{Z[i - 1]}" for i in range(last, 0, -1))])
    whole = textwrap.wrap(f"dL/dX = {product}", _WIDTH - 2, subsequent_indent=" " * 8)
    return [*_columns(forward), "", *_columns(rows), "", *whole]


def _shapes(arrays: tuple[Any, ...]) -> str:
    return ", ".join("none" if x is None else _shape(x) for x in arrays) or "none"


def _norms(arrays: tuple[Any, ...]) -> str:
    return ", ".join("-" if x is None else f"{norm(x):.4g}" for x in arrays) or "-"


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


# ---- text


def _step_text(step: Step) -> list[str]:
    margin = "  " * max(step.depth, 0)
    width = _WIDTH - len(margin)
    head = f"{step.path}  {step.layer}" + (f"  ({step.note})" if step.note else "")
    body: list[str] = []
    for line in step.formula:
        body += textwrap.wrap(line, width - 2, subsequent_indent="    ", replace_whitespace=False) or [""]
    body += _table(step.arrays, width - 2)
    body += textwrap.wrap(_local_text(step.local), width - 2, subsequent_indent="  ")
    lines = textwrap.wrap(head, width, subsequent_indent="    ") + [f"  {line}" for line in body]
    return [f"{margin}{line}" for line in lines]


def _table(arrays: tuple[tuple[Quantity, Quantity], ...], width: int) -> list[str]:
    """Forward on the left, backward on the right; one under the other where there is no room."""
    sides = [
        _side(head, [pair[k].cells for pair in arrays]) for k, head in enumerate(("forward", "backward"))
    ]
    beside = [f"{left}    {right}".rstrip() for left, right in zip(*sides, strict=True)]
    if max(map(len, beside)) <= width:
        return beside
    return [line.rstrip() for side in sides for line in side]


def _side(head: str, cells: list[tuple[str, str, str]]) -> list[str]:
    rows = [(head, "shape", "norm"), *(("", "", "") if row[1] == "none" else row for row in cells)]
    a, b, c = (max(map(len, column)) for column in zip(*rows, strict=True))
    return [f"{name:{a}}  {shape:>{b}}  {size:>{c}}" for name, shape, size in rows]


def _local_text(local: tuple[Quantity, ...] | str) -> str:
    if isinstance(local, str):
        return f"local gradient: {local}"
    found = (
        f"for {name} {shape}" + (f", norm {size}" if size else "") for name, shape, size in _cells(local)
    )
    return f"local gradients: {'; '.join(found)}"


def _cells(quantities: tuple[Quantity, ...]) -> list[tuple[str, str, str]]:
    return [quantity.cells for quantity in quantities]


# ---- HTML

_STYLE = """
.deepcore-explain { font: 14px/1.45 system-ui, sans-serif; max-width: 52em; }
.deepcore-explain section { border-left: 3px solid #0072B2; margin: 0 0 1em; padding: 0 0 0 .8em; }
.deepcore-explain h4 { margin: 0 0 .2em; font-size: 1em; }
.deepcore-explain code, .deepcore-explain pre { font: 13px/1.45 ui-monospace, monospace; }
.deepcore-explain pre { margin: .2em 0 .4em; white-space: pre-wrap; }
.deepcore-explain table { border-collapse: collapse; }
.deepcore-explain th, .deepcore-explain td { padding: .1em .9em .1em 0; text-align: right; }
.deepcore-explain th { font-weight: 600; border-bottom: 1px solid #999; }
.deepcore-explain .name { text-align: left; }
.deepcore-explain .gap { padding-left: 1.5em; }
"""


def _step_html(step: Step) -> str:
    note = f" ({html.escape(step.note)})" if step.note else ""
    rows = "\n".join(
        f"<tr>{_cells_html(forward, 'name')}{_cells_html(backward, 'name gap')}</tr>"
        for forward, backward in step.arrays
    )
    heads = "".join(
        f'<th class="{kind}">{head}</th><th>shape</th><th>norm</th>'
        for head, kind in (("forward", "name"), ("backward", "name gap"))
    )
    formulas = html.escape("\n".join(step.formula))
    return (
        f'<section style="margin-left: {2 * max(step.depth, 0)}em">\n'
        f"<h4><code>{html.escape(step.path)}</code> {html.escape(step.layer)}{note}</h4>\n"
        f"<pre>{formulas}</pre>\n<table>\n<tr>{heads}</tr>\n{rows}\n</table>\n"
        f"<p>{html.escape(_local_text(step.local))}</p>\n</section>"
    )


def _cells_html(quantity: Quantity, kind: str) -> str:
    name, shape, size = ("", "", "") if quantity.shape == "none" else map(html.escape, quantity.cells)
    return f'<td class="{kind}"><code>{name}</code></td><td>{shape}</td><td>{size}</td>'
