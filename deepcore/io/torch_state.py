"""Weights from and for torch: a `state_dict` in a file, whose names and shapes are torch's.

The table below says, for each class, which of torch's arrays are which of ours. torch itself isn't needed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from deepcore.backends.select import to_numpy
from deepcore.core.function import Function
from deepcore.core.loss import Loss
from deepcore.core.parameters import walk
from deepcore.errors import ArgumentError, CheckpointError, DeepcoreError
from deepcore.io import pt, safetensors, state
from deepcore.io.architecture import row_of
from deepcore.io.net_file import KEY

Arrays = dict[str, np.ndarray]

# ---- the table


def same(x: np.ndarray) -> np.ndarray:
    """Of one shape on both sides."""
    return x


def transposed(x: np.ndarray) -> np.ndarray:
    """(i, o) here, (o, i) in torch, and the other way round."""
    return x.T


def vector(x: np.ndarray) -> np.ndarray:
    """(1, c) or (1, c, 1, 1) here, (c,) in torch."""
    return x.reshape(-1)


class Entry(NamedTuple):
    """One array of a torch module: its name, those of ours that it joins along axis 0, and their form."""

    theirs: str
    ours: tuple[str, ...]
    form: Callable[[np.ndarray], np.ndarray] = same

    def to_torch(self, tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """torch's array, from ours by name."""
        parts = [self.form(tables[name]) for name in self.ours]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def shape(self, tables: Mapping[str, Any]) -> tuple[int, ...]:
        """The shape of torch's array."""
        return self.to_torch({name: _stub(tables[name]) for name in self.ours}).shape

    def from_torch(self, x: np.ndarray, tables: Mapping[str, Any]) -> Arrays:
        """Ours by name, from torch's array, which has the right shape."""
        parts = x[None] if len(self.ours) == 1 else x.reshape(len(self.ours), -1, *x.shape[1:])
        found = {}
        for name, part in zip(self.ours, parts, strict=True):
            found[name] = (part.T if self.form is transposed else part).reshape(tables[name].shape)
        return found


def _stub(x: Any) -> np.ndarray:
    """An array of x's shape that takes no memory."""
    return np.broadcast_to(np.empty((), bool), tuple(x.shape))


def _linear(f: Function) -> list[Entry]:
    return [Entry("weight", ("W",), transposed), Entry("bias", ("b",), vector)]


def _kernel(f: Function) -> list[Entry]:
    return [Entry("weight", ("W",)), Entry("bias", ("b",), vector)]


def _scale_and_shift(f: Function) -> list[Entry]:
    return [Entry("weight", ("gamma",), vector), Entry("bias", ("beta",), vector)]


def _running(f: Function) -> list[Entry]:
    return [Entry(name, (name,), vector) for name in ("running_mean", "running_var")]


def _layer_norm(f: Function) -> list[Entry]:
    return [Entry("weight", ("gamma",)), Entry("bias", ("beta",))]


def _recurrent(f: Function) -> list[Entry]:
    """Torch's names but for the first letter: weight_ih_l0 is W_ih_l0, transposed."""
    return [
        Entry(name.replace("W_", "weight_"), (name,), transposed)
        if name.startswith("W_")
        else Entry(name.replace("b_", "bias_"), (name,), vector)
        for name in f.weight
    ]


def _attention(f: Function) -> list[Entry]:
    return [
        Entry("in_proj_weight", ("W_q", "W_k", "W_v"), transposed),
        Entry("in_proj_bias", ("b_q", "b_k", "b_v"), vector),
        Entry("out_proj.weight", ("W_o",), transposed),
        Entry("out_proj.bias", ("b_o",), vector),
    ]


# class, or a base of it -> its arrays; what a layer hasn't got (bias=False) is passed over
_ENTRIES: dict[str, Callable[[Any], list[Entry]]] = {
    "BatchNorm": lambda f: _scale_and_shift(f) + _running(f),
    "Conv": _kernel,
    "ConvTranspose": _kernel,
    "Embedding": lambda f: [Entry("weight", ("W",))],
    "GRU": _recurrent,
    "GroupNorm": _scale_and_shift,
    "InstanceNorm": _scale_and_shift,
    "LSTM": _recurrent,
    "LayerNorm": _layer_norm,
    "Linear": _linear,
    "MultiHeadAttention": _attention,
    "PReLU": lambda f: [Entry("weight", ("alpha",), vector)],
    "RMSNorm": _layer_norm,
    "RNN": _recurrent,
}
_COUNTER = "num_batches_tracked"  # of torch's batch norms; deepcore keeps no such number
_SUBMODULE = "out_proj"  # of torch's attention, which is one layer here


class _Module(NamedTuple):
    """A layer of the net: the name that its module has in torch if names agree, and its arrays."""

    path: str
    name: str
    entries: list[Entry]
    tables: dict[str, Any]  # weights and buffers by name

    def wanted(self) -> dict[str, tuple[int, ...]]:
        """The name of each array in torch's module -> its shape there."""
        return {entry.theirs: entry.shape(self.tables) for entry in self.entries}


def _modules(net: Function) -> list[_Module]:
    """Every layer of the net that has weights or buffers, once; the loss is no part of torch's module."""
    found, visited = [], set()
    for path, f, _ in walk(net):
        tables = {**f._weights, **f.buffer}
        if f in visited or not tables or isinstance(f, Loss):
            continue
        visited.add(f)
        name = ".".join(part for part in path.split(".") if part != "layers")
        entries = [entry for entry in _entries(f) if tables.keys() >= set(entry.ours)]
        found.append(_Module(path, name, entries, tables))
    return found


def _entries(f: Function) -> list[Entry]:
    """The arrays of a layer; those of a class that isn't in the table have one name and shape everywhere."""
    row = row_of(_ENTRIES, f)
    if row is not None:
        return row(f)
    return [Entry(name, (name,)) for name in (*f._weights, *f.buffer)]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# ---- loading


def load_torch(net: Function, path: str | os.PathLike[str], *, allow_nan: bool = False) -> None:
    """Load weights that torch saved in a `.pt`, `.pth` or `.safetensors` file into a net that matches.

    torch.save(model.state_dict(), "model.pt") writes such a file; torch isn't needed to read it, and no code
    that it may hold is run. Linear's W, and those of recurrent layers, are transposed; vectors get our axes.

    Where every layer of the net finds its own name in the file ("layers.0" is "0" there, as in
    torch.nn.Sequential), names decide. Otherwise modules are taken in the order of the file. A .safetensors
    file is sorted, and has no order: its modules are then told apart by their shapes, and by the numbers in
    their names.
    allow_nan: whether the weights may be NaN.

    Raises one CheckpointError that lists all that is missing, extra, or of another shape or dtype; then the
    net has not changed. OSError if there is no such file.

    >>> import tempfile
    >>> from deepcore.layers.linear import Linear
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = os.path.join(folder, "model.pt")
    ...     save_torch(Linear(2, 1, init="ones"), file)
    ...     net = Linear(2, 1)
    ...     load_torch(net, file)
    >>> net.weight["W"]
    array([[1.],
           [1.]], dtype=float32)
    """
    arrays, ordered = _read(path)
    arrays = {name: x for name, x in arrays.items() if name.rpartition(".")[2] != _COUNTER}
    modules, faults = _modules(net), []
    try:
        named = _match(modules, arrays, ordered, faults)
        new = _translate(net, modules, named, arrays, faults, allow_nan)
        if faults:
            raise CheckpointError("\n  ".join(["load_torch: the file does not fit the net", *faults]))
        state.load_state_dict(net, new, strict=False, allow_nan=allow_nan)
    except DeepcoreError as error:
        error.inside(str(path))
        raise


def _read(path: str | os.PathLike[str]) -> tuple[Arrays, bool]:
    """The arrays of a file by name, and whether their order says anything."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[:2] in (b"PK", b"\x80\x02") and start[8:] != b"{":
        return pt.read(path), True
    arrays, metadata = safetensors.read(path)
    if KEY in metadata:
        raise CheckpointError(f"{path}: deepcore wrote it, so its names are ours; take deepcore.load(path)")
    return arrays, False


def _match(modules: Sequence[_Module], arrays: Arrays, ordered: bool, faults: list[str]) -> list[str]:
    """The name of each module in the file, in the order of `modules`. Notes what fits nowhere."""
    if all(_join(module.name, name) in arrays for module in modules for name in module.wanted()):
        found = [module.name for module in modules]
    elif ordered:
        found = list(_groups(arrays))
        if len(found) != len(modules):
            faults.append(
                f"the net has {len(modules)} layers with weights: {_listed(m.path for m in modules)}; "
                f"the file has {len(found)}: {_listed(found)}"
            )
    else:
        found = _match_shapes(modules, arrays, faults)
    if not faults:
        taken = {
            _join(name, wanted)
            for module, name in zip(modules, found, strict=True)
            for wanted in module.wanted()
        }
        faults += [f"extra: {name}" for name in arrays if name not in taken]
    return found


def _listed(names: Any) -> str:
    return ", ".join(name or "(the net itself)" for name in names) or "none"


def _groups(arrays: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Name of each module -> its arrays by name, in the order of the file."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for full, x in arrays.items():
        module, _, name = full.rpartition(".")
        above, _, last = module.rpartition(".")
        if last == _SUBMODULE and any(
            _join(above, f"in_proj_{kind}") in arrays for kind in ("weight", "bias")
        ):
            module, name = above, f"{last}.{name}"
        groups.setdefault(module, {})[name] = x
    return groups


def _match_shapes(modules: Sequence[_Module], arrays: Arrays, faults: list[str]) -> list[str]:
    """The same where the file has no order: by names and shapes of the arrays, and the numbers in names."""
    groups = dict(sorted(_groups(arrays).items(), key=lambda item: _natural(item[0])))
    shapes = {name: {key: x.shape for key, x in group.items()} for name, group in groups.items()}
    found = []
    for module in modules:
        wanted = module.wanted()
        alike = [name for name, have in shapes.items() if have == wanted]
        left = [name for name in alike if name not in found]
        if not left:
            faults.append(f"no module of the file has the arrays of {module.path}: {_with_shapes(wanted)}")
        elif len({re.sub(r"\d+", "0", name) for name in alike}) > 1:
            faults.append(
                f"{module.path} could be any of {_listed(alike)}: .safetensors files keep no order; "
                "give the layers those names, or save a .pt file"
            )
        else:
            found.append(left[0])
    return found


def _natural(name: str) -> list[Any]:
    """A key by which 2 comes before 10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]


def _with_shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _translate(
    net: Function,
    modules: Sequence[_Module],
    named: list[str],
    arrays: Arrays,
    faults: list[str],
    allow_nan: bool,
) -> Arrays:
    """Our path -> array. Notes what is missing, of another shape, or tied here and different there."""
    canonical = {id(slot.value): path for path, slot in state._slots(net).items()}  # the net holds them
    new: Arrays = {}
    for module, name in zip(modules, named, strict=False):
        for entry in module.entries:
            theirs, shape = _join(name, entry.theirs), entry.shape(module.tables)
            x = arrays.get(theirs)
            if x is None:
                faults.append(f"missing: {theirs}, for {_join(module.path, entry.ours[0])}")
            elif x.shape != shape:
                faults.append(f"{theirs}: {_join(module.path, entry.ours[0])} wants {shape}, got {x.shape}")
            else:
                for ours, W in entry.from_torch(x, module.tables).items():
                    path = canonical[id(module.tables[ours])]
                    if path in new and not np.array_equal(new[path], W, equal_nan=True):
                        faults.append(
                            f"{theirs}: {path} is shared by layers whose weights differ in the file"
                        )
                    new[path] = W
    if not faults:
        slots = state._slots(net)
        faults += state._faults(slots, new, strict=False, same_dtype=True, allow_nan=allow_nan)
    return new


# ---- saving


def save_torch(net: Function, path: str | os.PathLike[str]) -> None:
    """Write the weights of a net in torch's names and shapes, for `torch.load` or safetensors.

    path: ends in .pt or .pth, which torch.load(path, weights_only=True) reads, or in .safetensors.
    model.load_state_dict takes what it reads, if the model's modules have the names of our layers: "0" for
    "layers.0", as in torch.nn.Sequential. torch isn't needed. The file appears when it is complete.
    Raises ArgumentError for another suffix, UnsupportedError for a dtype that the format lacks, OSError.
    """
    suffix = os.path.splitext(path)[1]
    if suffix not in _WRITERS:
        raise ArgumentError(f"save_torch: path must end in {', '.join(_WRITERS)}, got {os.fspath(path)!r}")
    arrays: Arrays = {}
    for module in _modules(net):
        tables = {name: to_numpy(x) for name, x in module.tables.items()}
        for entry in module.entries:
            arrays[_join(module.name, entry.theirs)] = entry.to_torch(tables)
        if "running_mean" in tables:
            arrays[_join(module.name, _COUNTER)] = np.array(0)
    _WRITERS[suffix](path, arrays)


_WRITERS: dict[str, Callable[..., None]] = {
    ".pt": pt.write,
    ".pth": pt.write,
    ".safetensors": safetensors.write,
}
