"""`predict`: what a net of a file says of samples, as lines of text or as an array."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

import deepcore as dc
from deepcore import CrossEntropyLoss, MultiMarginLoss, Net, NLLLoss
from deepcore.backends.select import dtype_name, is_floating
from deepcore.commands.nets import load_net
from deepcore.core.function import input_dtype
from deepcore.data.prepare import scale_images
from deepcore.data.samples import read_samples
from deepcore.errors import ArgumentError
from deepcore.io.safetensors import check_place, replacing
from deepcore.train.predict import probabilities

FORMS = ("labels", "probabilities", "raw")
_BATCH = 256


def predict(
    net: Path,
    data: str,
    form: str | None = None,
    out: Path | None = None,
    batch_size: int | None = None,
    size: int | None = None,
    backend: str | None = None,
) -> None:
    """Write the predictions for the samples to standard output, to a text file, or to an .npy file.

    form: one of FORMS; None: labels for a net whose loss takes labels, else raw outputs
    """
    if out is not None:
        check_place("--out", out)
    with dc.use_backend(backend) if backend else contextlib.nullcontext(), np.errstate(all="ignore"):
        model, class_names = load_net(net)
        X, names = read_samples(data, size)
        form = form or ("labels" if _takes_labels(model) else "raw")
        results = _results(model, X, form, batch_size or _BATCH)
        if form == "labels" and class_names:
            results = (_named(labels, class_names) for labels in results)
        if out is None:
            _write_lines(sys.stdout, results, names)
        elif out.suffix == ".npy":
            Y = np.concatenate(list(results))
            with replacing(out) as file:
                np.save(file, Y, allow_pickle=False)
        else:
            with replacing(out) as file:
                text = io.TextIOWrapper(file, encoding="utf-8", newline="")
                _write_lines(text, results, names)
                text.detach()  # flushed, and not closed: that is for `replacing` to do
    if out is not None:
        print(f"predictions: {out} ({len(X)} samples)")


def _takes_labels(net: Net) -> bool:
    return isinstance(net.loss_fn, CrossEntropyLoss | NLLLoss | MultiMarginLoss)


def _results(net: Net, X: np.ndarray, form: str, batch_size: int) -> Iterator[np.ndarray]:
    """What is asked for, batch by batch: (n, ...)."""
    dtype = input_dtype(net)
    for start in range(0, len(X), batch_size):
        Y = net.predict(_as_wanted(net, X[start : start + batch_size], dtype))
        if isinstance(Y, tuple):
            raise ArgumentError("the net has several outputs; only one can be written")
        if form == "labels":
            Y = dc.array_namespace(Y).argmax(_with_classes(Y, form), axis=1)
        elif form == "probabilities":
            Y = probabilities(net, _with_classes(Y, form))
        yield dc.to_numpy(Y)


def _as_wanted(net: Net, X: np.ndarray, dtype: str) -> np.ndarray:
    """Samples as train gives them to the net: images are divided by 255, other numbers stay."""
    if dtype == "int64":
        return X.astype(dtype)
    if X.dtype.kind in "iu" and X.ndim >= 3:
        return scale_images(X)
    first = net.layers[0] if net.layers else None
    if X.ndim == 3 and type(first).__name__.endswith("2D"):
        X = X[:, None]  # (n, h, w) -> (n, 1, h, w)
    return X.astype(dtype)


def _with_classes(Y: Any, form: str) -> Any:
    """Y: (n, c, ...), if there are classes to choose from."""
    if Y.ndim < 2 or Y.shape[1] < 2 or not is_floating(Y):
        raise ArgumentError(
            f"{form} need an output for each of two classes or more, this net's are {dtype_name(Y)} "
            f"of shape {tuple(Y.shape)}; use --as raw"
        )
    return Y


def _named(labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    if labels.max(initial=0) >= len(class_names):
        raise ArgumentError(
            f"the file names {len(class_names)} classes, the net has more; use --as raw or probabilities"
        )
    return np.array(class_names)[labels]


def _write_lines(file: TextIO, results: Iterator[np.ndarray], names: tuple[str, ...] | None) -> None:
    """A line for each sample: the name of its file, if it has one, and its numbers or its class."""
    writer = csv.writer(file, lineterminator="\n")
    row = 0
    for Y in results:
        digits = {"f2": 4, "f4": 9}.get(Y.dtype.str[1:], 17)  # so that each number can be read back exactly
        for y in Y.reshape(len(Y), -1):
            words = [f"{x:.{digits}g}" if isinstance(x, float | np.floating) else str(x) for x in y]
            writer.writerow([names[row], *words] if names else words)
            row += 1
