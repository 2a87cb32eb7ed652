"""A net in a file: its architecture as text, its weights and buffers beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from deepcore.backends.registry import backend_of
from deepcore.backends.select import put, selected_backend, to_numpy
from deepcore.core.function import Function
from deepcore.errors import CheckpointError, DeepcoreError
from deepcore.io import safetensors, state
from deepcore.io.architecture import build, describe

CHECKPOINT = "deepcore.checkpoint"  # of what io/checkpoint.py writes, among the metadata of a file
KEY = "deepcore"  # of the architecture, among the metadata of a file
_CLASSES = "deepcore.classes"  # of the names of the classes that the net tells apart, if they were given
_FORMAT = 1  # counts up when an older deepcore could not read the architecture of a newer one


def save(net: Function, path: str | os.PathLike[str], class_names: Sequence[str] | None = None) -> None:
    """Write a net to a file: its architecture, weights and buffers, in the safetensors format.

    The file appears, or takes the place of an older one, when it is complete and on the disk. Kept are
    also shared weights, frozen layers and evaluation mode; gradients and the optimizer's state are not.
    class_names: what the classes are called that the net tells apart, for `read_class_names`.

    Raises UnsupportedError, with the remedy, if a layer can't be built anew from what it keeps, OSError.

    >>> import os, tempfile
    >>> from deepcore.layers.linear import Linear
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Linear(2, 1), os.path.join(folder, "net.safetensors"))
    ...     load(os.path.join(folder, "net.safetensors"))
    Linear(2, 1)
    """
    arrays = {path: to_numpy(x) for path, x in state.state_arrays(net).items()}
    content = {"format": _FORMAT, "architecture": describe(net)}
    metadata = {KEY: json.dumps(content, allow_nan=False)}
    if class_names is not None:
        metadata[_CLASSES] = json.dumps(list(class_names))
    safetensors.write(path, arrays, metadata)


def load(path: str | os.PathLike[str], *, allow_nan: bool = False) -> Any:
    """The net that `save` wrote, on the selected backend, in the dtypes that it had.

    No code from the file is run: it can name deepcore's own classes and those that you registered with
    `deepcore.register`. allow_nan: whether weights may be NaN.

    Raises CheckpointError, naming the file and the fault, for a damaged file, one that holds no net, a
    class that is not known, and NaN; OSError if there is no such file.
    """
    arrays, metadata = safetensors.read(path)
    backend = selected_backend()
    try:
        net = build(_architecture(metadata), arrays, max_size=sum(x.size for x in arrays.values()))
        slots = state._slots(net)
        faults = state._faults(slots, arrays, strict=True, same_dtype=False, allow_nan=allow_nan)
        if faults:
            raise CheckpointError("\n  ".join(["the arrays do not fit the architecture", *faults]))
    except DeepcoreError as error:
        error.inside(str(path))
        raise
    devices = {  # a loss keeps the arrays that it is given, and those of the file are in host memory
        path: backend.device(slot.value) if backend_of(slot.value) is backend else None
        for path, slot in slots.items()
    }
    state._replace(slots, {path: put(x, backend, device=devices[path]) for path, x in arrays.items()})
    return net


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The class_names that `save` was given, or None. Raises CheckpointError, OSError."""
    metadata = safetensors.read_metadata(path)
    if _CLASSES not in metadata:
        return None
    names = safetensors.parse_json(metadata[_CLASSES], f"{path}, the list of class names")
    if type(names) is not list or not all(type(name) is str for name in names):
        raise CheckpointError(f"{path}: the class names are no list of strings")
    return tuple(names)


def _architecture(metadata: Mapping[str, str]) -> Any:
    """What `describe` said, from the metadata of a file."""
    if CHECKPOINT in metadata:
        raise CheckpointError("it is a checkpoint; take the net of deepcore.load_checkpoint(path)")
    if KEY not in metadata:
        raise CheckpointError(
            "it holds arrays but no net; make the net, then: "
            "net.load_state_dict(deepcore.io.safetensors.read(path)[0])"
        )
    match safetensors.parse_json(metadata[KEY], "the architecture"):
        case {"format": 1, "architecture": architecture}:
            return architecture
        case {"format": int(number)} if number > _FORMAT:
            raise CheckpointError(f"a newer deepcore wrote it (format {number}); upgrade deepcore")
    raise CheckpointError("the architecture makes no sense")
