"""Pictures of a net at work: its regions in the plane, on paper or in the terminal, and its history."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from deepcore.backends.select import to_numpy
from deepcore.errors import ArgumentError, ShapeError, UnsupportedError

# Okabe and Ito's colours, which the colour-blind can tell apart
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#666666")
_INK = "#222222"
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
    names = class_names or [f"class {k}" for k in range(len(colours))]
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
    names = class_names or [f"class {k}" for k in range(Z.shape[-1])]
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


def _judge(net: Any, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X, y as (n,), and which samples the net gets wrong, all on the host."""
    X, y = to_numpy(X), to_numpy(y).reshape(-1)
    if X.ndim != 2 or X.shape[1] != 2 or len(X) != len(y) or not len(X):
        raise ShapeError(
            f"a boundary is drawn in the plane: X must be (n, 2) and y (n,), got {X.shape} and {y.shape}"
        )
    X, y = X.astype("float64"), y.astype("int64")
    return X, y, to_numpy(net.predict(X)).argmax(axis=1) != y


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


def _saved(figure: Any, path: str | os.PathLike[str] | None) -> Any:
    if path is not None:
        try:
            figure.savefig(path, dpi=150, bbox_inches="tight")
        except ValueError as error:  # an ending that matplotlib does not know
            raise ArgumentError(f"{path}: {error}") from error
    return figure
