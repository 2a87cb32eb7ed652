"""`convert`: a net, or weights for one, from one kind of file to another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from deepcore import Linear, Net
from deepcore.commands.nets import Found, holds_weights_alone, load_net
from deepcore.errors import ArgumentError, UnsupportedError
from deepcore.io import safetensors
from deepcore.io.net_file import save as save_net
from deepcore.io.onnx_write import save_onnx
from deepcore.io.python import to_python
from deepcore.io.torch_state import load_torch, save_torch

Shape = tuple[int, ...]


def convert(source: Path, target: Path, net: Path | None = None, input_shape: Shape | None = None) -> None:
    """Read a net from `source` and write it to `target`, each as its ending says.

    net: a file with the net that weights alone are for.   input_shape: of one sample, for ONNX
    Raises ArgumentError for what makes no sense, before anything is read; UnsupportedError, CheckpointError
    for a net or a file that can't be converted; OSError.
    """
    _check(source, target, input_shape)
    safetensors.check_place("TARGET", target)
    found = _read(source, net)
    _WRITERS[target.suffix](found, target, input_shape)
    print(f"{target}: {_WHAT[target.suffix]}")


def _check(source: Path, target: Path, input_shape: Shape | None) -> None:
    if target.suffix not in _WRITERS:
        raise ArgumentError(f"TARGET must end in {', '.join(_WRITERS)}, got {str(target)!r}")
    if source.suffix == ".py":
        raise UnsupportedError(
            f"{source}: a Python file is for reading and running, not for loading; "
            "convert the file that the net was saved to"
        )
    if source.suffix == target.suffix and source.suffix != ".safetensors":
        raise ArgumentError(f"{str(source)!r} is such a file already; copy it")
    if source.exists() and target.exists() and source.samefile(target):
        raise ArgumentError(f"TARGET is SOURCE, {str(source)!r}; name another file")
    if input_shape is not None and target.suffix != ".onnx":
        raise ArgumentError("--input-shape is for a TARGET that ends in .onnx; leave it out")


def _read(source: Path, net: Path | None) -> Found:
    """The net of a file; or that of `net`, with the weights of the file."""
    alone = source.suffix != ".onnx" and holds_weights_alone(source)
    if net is None and alone:
        raise ArgumentError(f"{source}: holds weights alone; say with --net FILE which net they are for")
    if net is None:
        return load_net(source)
    if not alone:
        raise ArgumentError(f"{source}: holds a net of its own; leave --net out")
    found = load_net(net)
    if source.suffix == ".safetensors":
        arrays, _ = safetensors.read(source)
        if arrays.keys() == found.net.state_dict().keys():  # deepcore's own names
            found.net.load_state_dict(arrays)
            return found
    load_torch(found.net, source)
    return found


def _shape_for(net: Net, given: Shape | None) -> Shape:
    """Of one sample: as given, or as a Linear layer at the beginning wants it."""
    if given is not None:
        return given
    first = net.layers[0] if net.layers else None
    if isinstance(first, Linear):
        return (first.in_dim,)
    raise ArgumentError("--input-shape is missing: the shape of one sample, such as 1,28,28")


_WRITERS: dict[str, Callable[[Found, Path, Shape | None], None]] = {
    ".safetensors": lambda found, path, shape: save_net(found.net, path, found.class_names),
    ".onnx": lambda found, path, shape: save_onnx(found.net, path, _shape_for(found.net, shape)),
    ".py": lambda found, path, shape: to_python(found.net, path),
    ".pt": lambda found, path, shape: save_torch(found.net, path),
    ".pth": lambda found, path, shape: save_torch(found.net, path),
}
_WHAT = {
    ".safetensors": "a net of deepcore's, for deepcore.load",
    ".onnx": "an ONNX graph",
    ".py": "a program that needs NumPy alone, with a function predict(X)",
    ".pt": "weights in torch's names and shapes, for torch.load",
    ".pth": "weights in torch's names and shapes, for torch.load",
}
