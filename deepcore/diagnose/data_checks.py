"""What can ail the samples and the targets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcore.backends.select import is_integer
from deepcore.diagnose.findings import Finding, raised
from deepcore.losses import CrossEntropyLoss

_LARGE, _TINY = 10.0, 1e-3  # root mean square of inputs; standardised ones have 1
_WIDE = 32  # columns: of so many, some that are always 0 are normal (the rim of an image, rare words)
_PER_CLASS = 20  # samples for each class: where there are as many on average, no class should be missing


def samples(X: np.ndarray) -> Iterator[Finding]:
    """Samples that are no numbers, all equal, or constant in a column."""
    n = len(X)
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = ~np.isfinite(X.reshape(n, -1)).all(axis=1)
        yield Finding(
            "error",
            "X",
            f"{bad.sum()} of {n} samples hold NaN or inf, the first is row {bad.argmax()}",
            "one such number makes the loss, and then every weight, NaN",
            "leave these samples out, or fill the gaps, for example with np.nan_to_num(X)",
        )
        return
    if n == 1:
        return
    if (X[:1] == X).all():
        yield Finding(
            "warning",
            "X",
            f"all {n} samples are equal",
            "no function of them can tell them apart",
            "look at how the samples were made",
        )
    elif X.ndim == 2:
        constant = (X[:1] == X).all(axis=0)
        if X.shape[1] >= _WIDE:
            constant &= X[0] != 0
        if constant.any():
            columns = np.flatnonzero(constant)
            yield Finding(
                "note",
                "X",
                f"{_columns(columns)} of {X.shape[1]} never {'varies' if len(columns) == 1 else 'vary'}",
                "a constant feature says nothing about a sample; it is a second bias at best",
                "leave it out, or look at why it is constant",
            )


def _columns(columns: np.ndarray) -> str:
    listed = ", ".join(map(str, columns[:5])) + (", ..." if len(columns) > 5 else "")
    return f"column {listed}" if len(columns) == 1 else f"columns {listed}"


def integers(X: np.ndarray, error: Exception) -> Finding:
    """Integers, where a layer wants floats and has said so."""
    large = X.max() > 1
    return Finding(
        "error",
        "X",
        f"X holds {X.dtype} numbers, {X.min()} to {X.max()}",
        str(error).partition("; ")[0],
        f'pass X.astype("float32"){" / 255" if large else ""}' + (", if it is images" if large else ""),
    )


def scale(X: np.ndarray) -> Iterator[Finding]:
    """Features far from the size that initial weights are made for."""
    if not np.isfinite(X).all() or not X.size:
        return
    X = X.astype("float64")
    flat = X.ndim != 2
    size = np.sqrt((X * X).mean(axis=None if flat else 0))
    mean, std = X.mean(), X.std()
    about = f"X runs from {X.min():.4g} to {X.max():.4g}, with mean {mean:.4g} and deviation {std:.4g}"
    images = X.min() >= 0 and 1 < X.max() <= 255 and (np.rint(X) == X).all()
    if np.max(size) > _LARGE:
        where = "" if flat or np.min(size) > _LARGE else f" ({_columns(np.flatnonzero(size > _LARGE))})"
        yield Finding(
            "warning",
            "X",
            f"the inputs are not scaled: {about}{where}",
            "initial weights and learning rates are made for inputs near 1; large ones saturate and diverge",
            "divide images by 255" if images else "standardise each feature: (X - mean) / std",
        )
    elif 0 < np.max(size) < _TINY:
        yield Finding(
            "warning",
            "X",
            f"the inputs are tiny: {about}",
            "next to the biases they hardly count, and their weights get tiny gradients",
            "standardise each feature: (X - mean) / std",
        )


def targets(y: np.ndarray, shape: tuple[int, ...], loss_fn: Any) -> Iterator[Finding]:
    """Targets against the output and the loss, all of them."""
    classes = isinstance(loss_fn, CrossEntropyLoss)
    one_each = math.prod(shape[1:]) == 1 and math.prod(y.shape[1:]) == 1
    if not classes and one_each and y.ndim != len(shape):
        yield Finding(
            "error",
            "y",
            f"the output has shape {_of_n(shape)}, the targets {_of_n(y.shape)}",
            "their difference would be of shape (n, n): each sample against every other's target",
            f"pass y.reshape({', '.join(['-1'] + ['1'] * (len(shape) - 1))})",
        )
        return
    if classes and len(shape) < 2:
        return  # what is wrong is the output; the loss says so
    try:
        loss_fn.check_targets(y, shape)
    except Exception as error:
        yield _misfit(y, shape, error) if classes else raised("y", error, "the loss can't take them")
        return
    if not classes or not is_integer(y):
        return
    counted = y[y != loss_fn.ignore_index]
    c = shape[1]
    if c == 1:
        yield Finding(
            "error",
            "net",
            "the net has a single output",
            "the softmax of one number is 1 whatever it is: the loss is 0 and nothing is learned",
            "give the last layer one output for each class",
        )
    elif not counted.size:
        yield Finding(
            "error", "y", "all targets are ignored", "the loss is 0 and nothing is learned", "pass labels"
        )
    elif len(counted) >= _PER_CLASS * c:
        missing = np.setdiff1d(np.arange(c), counted)
        if len(missing):
            alone = len(missing) == c - 1
            yield Finding(
                "warning" if alone else "note",
                "y",
                f"all {len(counted)} labels are {counted.flat[0]}"
                if alone
                else f"of {c} classes, {_listed(missing)} not among the {len(counted)} labels",
                "the net learns never to answer what it never sees",
                "shuffle before you split, or give the last layer as many outputs as there are classes",
            )


def _of_n(shape: tuple[int, ...]) -> str:
    """(5, 1) -> "(n, 1)"."""
    return f"(n, {', '.join(map(str, shape[1:]))})" if len(shape) > 1 else "(n,)"


def _listed(missing: np.ndarray) -> str:
    return ", ".join(map(str, missing[:5])) + (", ... are" if len(missing) > 5 else " is")


def _misfit(y: np.ndarray, shape: tuple[int, ...], error: Exception) -> Finding:
    """Class labels that the loss refuses."""
    found = raised("y", error, "there is no such class")
    c, remedy = shape[1], found.remedy
    if y.dtype.kind in "iu":
        low, high = int(y.min()), int(y.max())
        if low == 1 and high == c:
            remedy = "labels count from 0: pass y - 1"
        elif low >= 0 and high >= c:
            remedy = f"give the last layer {high + 1} outputs, or look at the labels"
        else:
            remedy = f"labels must be 0 to {c - 1}"
    elif y.dtype.kind == "b" or (y.dtype.kind == "f" and y.size and (y == np.rint(y)).all()):
        return Finding(found.severity, "y", found.what, "a label is the number of a class", remedy)
    return Finding(found.severity, "y", found.what, found.why, remedy)
