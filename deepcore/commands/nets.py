"""A net from a file of any kind that holds a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deepcore import Net
from deepcore.errors import ArgumentError, CheckpointError
from deepcore.io import safetensors
from deepcore.io.checkpoint import load_checkpoint
from deepcore.io.net_file import CHECKPOINT, load, read_class_names
from deepcore.io.net_file import KEY as NET
from deepcore.io.onnx_read import load_onnx


class Found(NamedTuple):
    """A net, and what its classes are called, if the file says so."""

    net: Net
    class_names: tuple[str, ...] | None = None


def load_net(path: Path) -> Found:
    """The net that net.save or `train --save` wrote, that of a checkpoint, or that of an .onnx file.

    Raises CheckpointError for a file that holds weights alone, or is damaged; ArgumentError for one that
    holds a Function which is no Net; OSError.
    """
    if path.suffix == ".onnx":
        return Found(load_onnx(path))
    if holds_weights_alone(path):
        raise CheckpointError(
            f"{path}: it holds weights but no net; "
            f"deepcore convert {path} NEW.safetensors --net FILE puts them into one"
        )
    if CHECKPOINT in safetensors.read_metadata(path):
        net, class_names = load_checkpoint(path).net, None
    else:
        net, class_names = load(path), read_class_names(path)
    if not isinstance(net, Net):
        raise ArgumentError(f"{str(path)!r} holds a {type(net).__name__}, not a whole Net")
    return Found(net, class_names)


def holds_weights_alone(path: Path) -> bool:
    """Whether the file is one of weights by name, torch's or deepcore's. Raises CheckpointError, OSError."""
    if path.suffix in (".pt", ".pth"):
        return True
    metadata = safetensors.read_metadata(path)
    return NET not in metadata and CHECKPOINT not in metadata
