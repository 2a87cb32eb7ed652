"""Pictures of a net: its regions in the plane, mistakes, filters, gradients, activations, and its history."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from deepcore.backends.registry import is_array
from deepcore.backends.select import is_floating, to_numpy
from deepcore.core.function import Function
from deepcore.core.parameters import find_parameters, functions
from deepcore.diagnose.watch import Call, Pass, need_loss, norm, watched_pass
from deepcore.errors import ArgumentError, LabelError, ShapeError, UnsupportedError
from deepcore.layers.conv import Conv2D

# Okabe and Ito's colours, which the colour-blind can tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#666666")
_INK = "#222222"
_MOST = 16  # filters, and channels, that are drawn
_MOST_COUNTS = 20  # classes: the counts of more would not be read
_GRID = 300  # points along each axis
_MARGIN = 0.06  # around the data, as a fraction of its extent
_REGIONS = ". :-'~,_"  # one character for each class; the first two are those of the ring and the disc
_POINTS = "ox+*vsdz"
_WRONG = "#"


def decision_boundary(
    net: Any,
    X: Any,
    y: Any,
    path: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Draw the region that the net gives to each class, and the data over it; returns matplotlib's Figure.

    X: (n, 2)   y: (n,) labels   net: predict(X) gives (n, c) logits, c >= 2
    path: where to save the picture; its ending (.png, .svg, .pdf) says in which format.

    The tint is as strong as the net is certain. Samples on the wrong side have a dark rim.
    Raises ShapeError unless X has two columns, UnsupportedError without matplotlib.
    """
    X, y, wrong = _judge(net, X, y)
    low, high = _window(X)
    x1, x2 = np.linspace(low[0], high[0], _GRID), np.linspace(low[1], high[1], _GRID)
    Z = _logits(net, x1, x2)
    colours = np.array([_rgb(k) for k in range(Z.shape[-1])])

    extent = high - low
    alike = extent.max() < 3 * extent.min()  # else one scale for both axes would make a sliver
    w, h = 4.8 * extent / extent.max() if alike else (4.8, 4.8)
    figure = _figure(w + 0.7, h + 1.0)
    axes = figure.add_subplot(xlabel="$x_1$", ylabel="$x_2$")
    axes.imshow(
        _tints(Z, colours),
        extent=(low[0], high[0], low[1], high[1]),
        origin="lower",
        aspect="equal" if alike else "auto",
    )
    for k in range(1, len(colours)):
        ahead = Z[..., k] - np.delete(Z, k, axis=-1).max(axis=-1)
        if ahead.min() < 0 < ahead.max():
            axes.contour(x1, x2, ahead, levels=[0], colors=_INK, linewidths=1.2)
    size = float(np.clip(6400 / len(X), 4, 32))
    names = _names(class_names, len(colours)) or [f"class {k}" for k in range(len(colours))]
    for these, rim, width in ((~wrong, "white", 0.12), (wrong, _INK, 0.28)):  # width: of the rim, in radii
        for k, (colour, name) in enumerate(zip(colours, names, strict=True)):
            label = name if rim == "white" else None
            dot: dict[str, Any] = {"s": size, "edgecolors": rim, "linewidths": width * size**0.5}
            axes.scatter(*X[these & (y == k)].T, color=colour, label=label, **dot)
    if wrong.any():
        axes.scatter([], [], s=size, color="white", edgecolors=_INK, linewidths=1.4, label="wrong")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    axes.set_title(f"{(~wrong).sum()} of {len(y)} samples right", fontsize=11)
    return _saved(figure, path)


def draw_boundary(
    net: Any,
    X: Any,
    y: Any,
    width: int = 60,
    height: int = 24,
    class_names: Sequence[str] | None = None,
) -> str:
    """The same in characters, for a terminal: `height` lines of `width`, and a caption.

    A dot, a blank, ... stand for the regions of class 0, 1, ..., o, x, ... for samples of it, and # for a
    sample on the wrong side. Raises ShapeError unless X has two columns.
    """
    if width < 2 or height < 2:
        raise ArgumentError(f"draw_boundary: width and height must be 2 or more, got {width} and {height}")
    X, y, wrong = _judge(net, X, y)
    low, high = _window(X)
    cell = (high - low) / (width, height)
    x1, x2 = (low[a] + cell[a] * (np.arange(n) + 0.5) for a, n in ((0, width), (1, height)))
    Z = _logits(net, x1, x2)
    page = np.array(list(_REGIONS))[Z.argmax(axis=-1) % len(_REGIONS)]
    column, row = np.minimum((X - low) // cell, (width - 1, height - 1)).astype(int).T
    page[row, column] = np.array(list(_POINTS))[y % len(_POINTS)]
    page[row[wrong], column[wrong]] = _WRONG
    lines = ["".join(line) for line in page[::-1]]  # upwards on paper, downwards in a terminal
    names = _names(class_names, Z.shape[-1]) or [f"class {k}" for k in range(Z.shape[-1])]
    return "\n".join([*lines, *_caption(low, high, names, bool(wrong.any()))])


def history(course: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the History that `fit` returned, a panel for each number; returns matplotlib's Figure.

    Raises UnsupportedError without matplotlib.
    """
    numbers = course.history
    names = [name for name in numbers if not name.startswith("val_")]
    if not names:
        raise ArgumentError("history: there is nothing to draw; train for an epoch first")
    figure = _figure(4.6 * len(names), 3.4)
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        for k, (key, label) in enumerate(((name, "training"), (f"val_{name}", "validation"))):
            if key in numbers:
                epochs = range(1, len(numbers[key]) + 1)
                axes.plot(
                    epochs,
                    numbers[key],
                    color=_COLOURS[k],
                    marker="." if len(epochs) < 30 else "",
                    label=label,
                )
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9)
    return _saved(figure, path)


def confusion_matrix(
    net: Any,
    X: Any,
    y: Any,
    path: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Draw how often each class is taken for each other; returns matplotlib's Figure.

    X: (n, ...)   y: (n,) labels   net: predict(X) gives (n, c) logits
    Row k, column j: how many samples of class k the net takes for class j; tinted by their share of the row.
    Raises ShapeError unless there is one label for each sample, UnsupportedError without matplotlib.
    """
    y = to_numpy(y).reshape(-1)
    Z = to_numpy(net.predict(X))
    if Z.ndim != 2 or len(Z) != len(y) or not len(y):
        raise ShapeError(
            f"confusion_matrix: wanted outputs (n, c) and labels (n,), got {Z.shape} and {y.shape}"
        )
    y = _labels(y)
    c = max(Z.shape[1], int(y.max()) + 1)
    counts = np.zeros((c, c), dtype="int64")
    np.add.at(counts, (y, Z.argmax(axis=1)), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = _names(class_names, c) or [str(k) for k in range(c)]

    side = float(np.clip(0.45 * c, 2.6, 12))
    figure = _figure(side + 1.2, side + 1.0)
    axes = figure.add_subplot(xlabel="the net says", ylabel="the label says")
    axes.imshow(share, cmap=_shades(), vmin=0, vmax=1)
    axes.set_xticks(range(c), names, rotation=0 if max(map(len, names)) <= 10 * side / c else 90)
    axes.set_yticks(range(c), names)
    axes.tick_params(length=0)
    if c <= _MOST_COUNTS:
        for k, j in np.ndindex(c, c):
            ink = "white" if share[k, j] > 0.55 else _INK if counts[k, j] else "#bbbbbb"
            axes.text(j, k, f"{counts[k, j]}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_title(f"{counts.trace()} of {len(y)} samples right", fontsize=11)
    return _saved(figure, path)


def conv_filters(layer: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw the filters of a Conv2D, or of the first one in a net; returns matplotlib's Figure.

    A row for each filter, a column for each input channel (the first 16 of each); of 3 channels, colours.
    White is 0, blue is negative, orange positive, all on one scale.
    Raises ArgumentError where there is no Conv2D, UnsupportedError without matplotlib.
    """
    found = [f for f in functions(layer) if isinstance(f, Conv2D)] if isinstance(layer, Function) else []
    if not found:
        raise ArgumentError(f"conv_filters: wanted a Conv2D, or a net with one, got {layer!r}")
    W = to_numpy(found[0].weight["W"]).astype("float64")  # (f, c, kh, kw)
    most = float(np.abs(W).max()) or 1.0
    if W.shape[1] == 3:  # zero is grey, so that a colour says which channel the filter likes
        pictures = [[0.5 + 0.5 * np.moveaxis(F, 0, -1) / most] for F in W[: _MOST * _MOST]]
        pictures = _in_rows([row[0] for row in pictures])
    elif W.shape[1] == 1:
        pictures = _in_rows([F[0] for F in W[: _MOST * _MOST]])
    else:
        pictures = [list(F[:_MOST]) for F in W[:_MOST]]
    rows, columns = len(pictures), max(map(len, pictures))
    figure = _figure(max(0.62 * columns, 2.6) + 0.9, 0.62 * rows + 0.7)
    grid = figure.subplots(rows, columns, squeeze=False)
    image = None
    for axes, picture in _cells(grid, pictures):
        image = axes.imshow(picture, cmap=_two_sided(), vmin=-most, vmax=most)
    if W.shape[1] != 3:
        figure.colorbar(image, ax=grid, fraction=0.08, pad=0.03)
    f, c = W.shape[:2]
    drawn = sum(map(len, pictures)) * (3 if c == 3 else 1)
    title = f"{f} filter{'s' * (f > 1)} of {c} channel{'s' * (c > 1)}"
    figure.suptitle(f"{title}, of which a part" if drawn < f * c else title, fontsize=10)
    return _saved(figure, path)


def gradient_flow(net: Any, X: Any, y: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw how large the gradients are from the first layer to the last; returns matplotlib's Figure.

    On the left |dL/dY| at the output of each layer, on the right |dW| / |W| for each weight, by which share
    a step of rate 1 would change it; both on a logarithmic scale. A steep slope is a gradient that vanishes
    or explodes. X, y: a batch for a copy of the net, as in net.explain.
    Raises StateError without a loss, the layer's own error where the batch doesn't fit, UnsupportedError
    without matplotlib.
    """
    need_loss(net, "gradient_flow")
    seen = _watched(net, X, y)
    flow = [
        (f"{call.path}  {type(call.function).__name__}", norm(call.dY[0]))
        for call in _leaves(seen)
        if call.dY and is_array(call.dY[0])
    ]
    weights = [
        (path, norm(dW) / norm(p.value))
        for path, p in find_parameters(seen.net).items()
        if (dW := p.gradient()) is not None and norm(p.value) > 0
    ]
    figure = _figure(9.6, max(2.4, 0.26 * max(len(flow), len(weights)) + 1.0))
    left, right = figure.subplots(1, 2)
    _sizes(left, flow, "|dL/dY| at each layer's output", _COLOURS[0])
    _sizes(right, weights, "|dW| / |W| of each weight", _COLOURS[1])
    return _saved(figure, path)


def _sizes(axes: Any, rows: Sequence[tuple[str, float]], label: str, colour: str) -> None:
    """A dot for each name, along a logarithmic scale; what has no place there is written out."""
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # from the input at the top to the loss at the bottom
    axes.set_xlabel(label)
    axes.grid(axis="both", color="#dddddd", linewidth=0.8)
    axes.tick_params(axis="y", labelsize=8, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    drawn = [(k, size) for k, (_, size) in enumerate(rows) if 0 < size < np.inf]
    if drawn:
        places, sizes = zip(*drawn, strict=True)
        axes.set(xscale="log", xlim=(min(sizes) / 3, max(sizes) * 3))
        axes.plot(sizes, places, color=colour, marker="o", linewidth=1)
    for k in set(range(len(rows))) - {k for k, _ in drawn}:
        place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
        axes.annotate(f" {rows[k][1]:g}", (0, k), **place)


def activations(net: Any, X: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Draw how the outputs of each layer are distributed, a panel a layer; returns matplotlib's Figure.

    X: a batch for a copy of the net. Each panel says its layer, its deviation, and how many of its numbers
    are 0: a ReLU with 100 % is dead, a Sigmoid with two towers saturated, deviations that shrink or grow
    from panel to panel want other initial weights.
    Raises the layer's own error where the batch doesn't fit, UnsupportedError without matplotlib.
    """
    calls = [call for call in _leaves(_watched(net, X)) if is_array(call.output) and is_floating(call.output)]
    if not calls:
        raise ArgumentError("activations: the net has no layer with a floating output")
    columns = min(len(calls), 4)
    rows = -(-len(calls) // columns)
    figure = _figure(2.7 * columns, 2.1 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.ravel()[len(calls) :]:
        axes.set_axis_off()
    for axes, call in zip(grid.ravel(), calls, strict=False):
        Y = to_numpy(call.output).astype("float64").ravel()
        finite = Y[np.isfinite(Y)]
        if finite.size:
            counts, edges = np.histogram(finite, bins=40)
            axes.stairs(counts / Y.size, edges, fill=True, color=_COLOURS[0])
        zeros = (Y == 0).mean() if Y.size else 0.0
        odd = f", {1 - finite.size / Y.size:.0%} NaN or inf" if finite.size < Y.size else ""
        std = finite.std() if finite.size else np.nan
        axes.set_title(f"{call.path}  {type(call.function).__name__}", fontsize=9)
        axes.set_xlabel(f"std {std:.3g}, {zeros:.0%} zero{odd}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("share", fontsize=8)
    return _saved(figure, path)


def _watched(net: Any, X: Any, y: Any = None) -> Pass:
    """One pass through a copy of the net; raises what a layer raises."""
    seen = watched_pass(net, X, y)
    if seen.error is not None:
        raise seen.error
    return seen


def _leaves(seen: Pass) -> list[Call]:
    """The calls of layers without parts, in order."""
    return [] if seen.root is None else [call for call in seen.root.leaves() if call is not seen.root]


def _in_rows(pictures: Sequence[Any]) -> list[list[Any]]:
    """Rows of 8 to 16."""
    columns = int(np.clip(np.ceil(np.sqrt(2 * len(pictures))), 8, _MOST))
    return [list(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]


def _cells(grid: Any, pictures: Sequence[Sequence[Any]]) -> Iterator[tuple[Any, Any]]:
    """(axes, picture) for each picture; axes without ticks, and none where there is no picture."""
    for k, j in np.ndindex(*grid.shape):
        if j < len(pictures[k]):
            grid[k, j].set(xticks=[], yticks=[])
            yield grid[k, j], pictures[k][j]
        else:
            grid[k, j].set_axis_off()


def _shades() -> Any:
    """White to blue."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share", ["white", _COLOURS[0]])


def _two_sided() -> Any:
    """Blue below zero, white, orange above."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("signed", [_COLOURS[0], "white", _COLOURS[1]])


def _judge(net: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y as (n,), and which samples the net gets wrong, all on the host."""
    X, y = to_numpy(X), to_numpy(y).reshape(-1)
    if X.ndim != 2 or X.shape[1] != 2 or len(X) != len(y) or not len(X):
        raise ShapeError(
            f"a boundary is drawn in the plane: X must be (n, 2) and y (n,), got {X.shape} and {y.shape}"
        )
    X, y = X.astype("float64"), _labels(y)
    Z = to_numpy(net.predict(X))
    if Z.ndim != 2 or Z.shape[1] < 2 or y.max() >= Z.shape[1]:
        raise ShapeError(
            "a boundary lies between classes: the net must give (n, c), c >= 2 and more than the largest "
            f"label, {y.max()}, got {Z.shape}"
        )
    if not np.isfinite(X).all():
        raise ArgumentError(
            "a boundary is drawn around the data: X holds NaN or inf; leave these samples out"
        )
    return X, y, Z.argmax(axis=1) != y


def _labels(y: np.ndarray) -> np.ndarray:
    """y as int64. Raises LabelError unless all are whole numbers, 0 or more."""
    good = (y >= 0) & (y == np.floor(y)) if y.dtype.kind in "biuf" else np.zeros(len(y), bool)
    if not good.all():
        row = int(good.argmin())
        raise LabelError(f"labels must be whole numbers, 0 or more, got {y[row]} in row {row}")
    return y.astype("int64")


def _names(class_names: Sequence[str] | None, c: int) -> list[str]:
    """The names of c classes; none if none are given. Raises ArgumentError for another number of them."""
    names = list(class_names or ())
    if names and len(names) != c:
        raise ArgumentError(f"class_names: wanted one for each of {c} classes, got {len(names)}")
    return names


def _window(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the picture: the data's, and a margin."""
    low, high = X.min(axis=0), X.max(axis=0)
    margin = np.where(high > low, _MARGIN * (high - low), 1.0)
    return low - margin, high + margin


def _logits(net: Any, x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    """(len(x2), len(x1), c): what the net says at each point of a grid."""
    grid = np.stack(np.meshgrid(x1, x2), axis=-1)
    Z = to_numpy(net.predict(grid.reshape(-1, 2)))
    return Z.reshape(*grid.shape[:2], -1)


def _tints(Z: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(h, w, 3): the colour of the likeliest class, paler where it is less certain, white at a tie."""
    P = np.exp(Z - Z.max(axis=-1, keepdims=True))
    P /= P.sum(axis=-1, keepdims=True)
    tie = 1 / Z.shape[-1]
    certainty = (P.max(axis=-1, keepdims=True) - tie) / (1 - tie)
    return 1 - 0.42 * certainty * (1 - colours[Z.argmax(axis=-1)])


def _caption(low: np.ndarray, high: np.ndarray, names: Sequence[str], wrong: bool) -> list[str]:
    marks = ", ".join(
        f"{name} '{_REGIONS[k % len(_REGIONS)]}' {_POINTS[k % len(_POINTS)]}" for k, name in enumerate(names)
    )
    return [
        f"x1 from {low[0]:.2f} to {high[0]:.2f}, x2 from {low[1]:.2f} to {high[1]:.2f}",
        f"regions and samples: {marks}" + (f"; wrong {_WRONG}" if wrong else ""),
    ]


def _rgb(k: int) -> tuple[float, ...]:
    colour = _COLOURS[k % len(_COLOURS)]
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _figure(width: float, height: float) -> Any:
    """A figure of its own, in inches: no pyplot, so that no window opens and nothing global changes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "pictures are drawn by matplotlib, which is not installed; pip install 'deepcore[plot]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def check_picture(path: str | os.PathLike[str]) -> None:
    """Raise ArgumentError for an ending that no picture has, UnsupportedError without matplotlib."""
    known = _figure(1, 1).canvas.get_supported_filetypes()
    ending = os.path.splitext(path)[1].removeprefix(".")
    if ending and ending.lower() not in known:
        raise ArgumentError(
            f"{os.fspath(path)}: no picture can have the ending .{ending}; take .png, .svg or .pdf"
        )


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        check_picture(path)
        figure.savefig(path, dpi=150, bbox_inches="tight")
    return figure
