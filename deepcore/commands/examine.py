"""`explain` and `doctor`: a net and a data set, looked at."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import deepcore as dc
from deepcore import CrossEntropyLoss, Net
from deepcore.commands.nets import load_net
from deepcore.commands.train import new_layers
from deepcore.data.prepare import column_scale, scale_images
from deepcore.data.sets import load
from deepcore.diagnose.watch import some_rows
from deepcore.errors import DeepcoreError
from deepcore.io.safetensors import check_place

_HEAD = '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>deepcore explain</title>\n'


def explain(
    data: str,
    net: Path | None,
    backend: str | None,
    seed: int,
    size: int | None,
    samples: int,
    html: Path | None,
) -> None:
    """Tell one training step layer by layer, on the terminal or as a page."""
    if html is not None:
        check_place("--html", html)
    with dc.use_backend(backend) if backend else contextlib.nullcontext():
        model, X, y = _net_and_data(data, net, seed, size)
        found = model.explain(*some_rows(X, y, samples))
    if html is None:
        print(found)
    else:
        html.write_text(f"{_HEAD}{found.html()}\n</html>\n", encoding="utf-8")
        print(f"page: {html}")


def doctor(data: str, net: Path | None, backend: str | None, seed: int, size: int | None) -> bool:
    """Print what ails the net and the data; whether all is well."""
    with dc.use_backend(backend) if backend else contextlib.nullcontext():
        model, X, y = _net_and_data(data, net, seed, size)
        diagnosis = model.doctor(X, y)
    print(diagnosis)
    return bool(diagnosis)


def _net_and_data(data: str, path: Path | None, seed: int, size: int | None) -> tuple[Net, Any, Any]:
    """The net of a file, or a new one as train makes it; and the samples as it wants them."""
    net = None
    if path is not None:
        try:
            net = load_net(path).net
        except DeepcoreError as error:
            error.inside("--load")
            raise
    found = load(data, size=size, seed=seed)
    X, classes = found.X, len(found.class_names)
    if X.ndim == 4:
        X = scale_images(X)
    elif data != "ring" and net is None:
        mean, std = column_scale(X)
        X = (X - mean) / std
    if net is None:
        dc.seed(seed)
        net = Net(new_layers(data, X, classes), CrossEntropyLoss())
    return net, X, found.y
