"""torch's .pt format: named arrays in a zip file, read and written with NumPy alone, and without pickle.

A file holds the names, dtypes, shapes and strides in `archive/data.pkl`, which is in pickle's language, and
the numbers of each storage in `archive/data/0`, `archive/data/1` and so on, uncompressed.

pickle's language can call any function of any module. So no pickle is run here: the few instructions that a
state_dict needs are obeyed, on a stack of this file's own, and three functions have a meaning. Whatever else
a file wants is a CheckpointError. Memory is bounded by the size of the file.
"""

from __future__ import annotations

import errno
import io
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from deepcore.errors import CheckpointError, DTypeError, UnsupportedError
from deepcore.io.safetensors import replacing

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_STORAGE_OF = {name: storage for storage, name in _STORAGES.items()}
_REBUILD = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_ORDERED_DICT = "collections OrderedDict"
_GLOBALS = {_REBUILD, _PARAMETER, _ORDERED_DICT, *(f"torch {storage}" for storage in _STORAGES)}
_ALIGNMENT = 64  # bytes: so that torch.load(mmap=True) finds aligned numbers


class _Global(NamedTuple):
    """A function or a class that the file names. It is a name, and stays one."""

    name: str


class _Storage(NamedTuple):
    """The numbers of one member of the archive, which tensors show."""

    key: str
    dtype: str
    size: int


class _Tensor(NamedTuple):
    """How a tensor shows a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# ---- reading


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a `torch.save(model.state_dict(), path)`, by name and in their order.

    They are read-only, and may be views of one another, as the tensors were. bfloat16, which NumPy lacks,
    becomes float32, which holds the same numbers.

    Raises CheckpointError, naming the file and the fault, for a damaged file and for one that holds anything
    but a state_dict; OSError if there is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(os.path.join(folder, "weights.pt"), {"0.bias": np.ones(2)})
    ...     read(os.path.join(folder, "weights.pt"))
    {'0.bias': array([1., 1.])}
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except CheckpointError as error:
        error.inside(str(path))
        raise


def _read(file: Any) -> dict[str, np.ndarray]:
    start = file.read(2)
    if start == b"\x80\x02":
        raise CheckpointError(
            "it is in the format that torch wrote before version 1.6, and that only pickle can read; load it "
            "with torch, and save it anew: torch.save(torch.load(path, weights_only=True), path)"
        )
    if start != b"PK":
        raise CheckpointError("it is no .pt file: torch writes zip archives")
    try:
        with zipfile.ZipFile(file) as archive:
            return _Archive(archive, os.fstat(file.fileno()).st_size).arrays()
    except CheckpointError:
        raise
    except (*_OF_ZIPFILE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: a place that no file has
            raise
        raise CheckpointError(f"the archive is damaged: {error!s:.200}") from error


# what zipfile raises for a damaged file
_OF_ZIPFILE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)


class _Archive:
    """The members of an open .pt file."""

    def __init__(self, archive: zipfile.ZipFile, size: int):
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError("the archive is compressed, which torch never does")
        if sum(member.file_size for member in members) > size:
            raise CheckpointError("the members of the archive overlap")
        tables = [
            m.filename for m in members if m.filename.endswith("/data.pkl") and m.filename.count("/") == 1
        ]
        if len(tables) != 1:
            raise CheckpointError(
                "the archive holds no data.pkl: it is no state_dict (TorchScript files can't be read); "
                "save one with torch.save(model.state_dict(), path)"
            )
        self.archive, self.table = archive, tables[0]
        self.root = self.table.removesuffix("data.pkl")
        self.names = {member.filename for member in members}
        self.storages: dict[str, np.ndarray] = {}

    def arrays(self) -> dict[str, np.ndarray]:
        if f"{self.root}byteorder" in self.names and self.member("byteorder") != b"little":
            raise CheckpointError("its numbers are big-endian; save it anew on a little-endian machine")
        state = _evaluate(self.member("data.pkl"))
        if not isinstance(state, dict):
            raise CheckpointError(f"it holds a {type(state).__name__}; {_WANTED}")
        strange = [
            name for name, x in state.items() if not (isinstance(name, str) and isinstance(x, _Tensor))
        ]
        if strange:
            named = ", ".join(f"{name!r:.60}" for name in strange[:5])
            raise CheckpointError(f"it holds more than tensors by name: {named}; {_WANTED}")
        return {name: self.array(name, tensor) for name, tensor in state.items()}

    def member(self, name: str) -> bytes:
        if self.root + name not in self.names:
            raise CheckpointError(f"the archive lacks {name!r:.80}")
        return self.archive.read(self.root + name)

    def array(self, name: str, tensor: _Tensor) -> np.ndarray:
        """A view of the tensor's storage. Raises CheckpointError if it reaches beyond it."""
        numbers = self.numbers(tensor.storage)
        steps = zip(tensor.shape, tensor.strides, strict=True)
        last = tensor.offset + sum((n - 1) * step for n, step in steps)
        if math.prod(tensor.shape) == 0:
            return np.empty(tensor.shape, numbers.dtype)
        if last >= numbers.size:
            raise CheckpointError(f"tensor {name!r:.80} reaches beyond its storage")
        strides = tuple(step * numbers.itemsize for step in tensor.strides)
        view = np.lib.stride_tricks.as_strided(
            numbers[tensor.offset :], tensor.shape, strides, writeable=False
        )
        if view.dtype == np.bool_ and numbers.view(np.uint8).max() > 1:
            raise CheckpointError(f"tensor {name!r:.80} has a byte that is neither True nor False")
        return view

    def numbers(self, storage: _Storage) -> np.ndarray:
        """All numbers of a storage, read once."""
        if storage.key not in self.storages:
            data = self.member(f"data/{storage.key}")
            code = np.dtype("u2" if storage.dtype == "bfloat16" else storage.dtype).newbyteorder("<")
            if len(data) != storage.size * code.itemsize:
                raise CheckpointError(
                    f"storage {storage.key!r:.80} has {len(data):,} bytes, which is not what "
                    f"{storage.size:,} {storage.dtype} numbers take"
                )
            numbers = np.frombuffer(data, code)
            if storage.dtype == "bfloat16":  # the upper half of a float32
                numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
            self.storages[storage.key] = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
        return self.storages[storage.key]


_WANTED = "wanted a state_dict: torch.save(model.state_dict(), path)"


def _evaluate(program: bytes) -> Any:
    """What a program in pickle's language makes, if it makes it of dicts, numbers, strings and tensors."""
    try:
        return _Machine().run(program)
    except CheckpointError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"data.pkl is damaged or no state_dict: {error!s:.100}") from error


class _Mark:
    """Where the items of a tuple or a dict begin on the stack."""


class _Machine:
    """A stack and a memory, and the instructions that a state_dict needs."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self, program: bytes) -> Any:
        for instruction, argument, _ in pickletools.genops(io.BytesIO(program)):
            if instruction.name == "STOP":
                return self.stack.pop()
            step = _STEPS.get(instruction.name)
            if step is None:
                raise CheckpointError(f"it holds a pickled object ({instruction.name}); {_WANTED}")
            step(self, argument)
        raise CheckpointError("data.pkl is cut short")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items = []
        while (item := self.stack.pop()) is not _Mark:
            items.append(item)
        return items[::-1]

    def push_tuple(self, length: int) -> None:
        items = [self.stack.pop() for _ in range(length)]
        self.push(tuple(reversed(items)))

    def set_items(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict):
            raise TypeError("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise TypeError("a key that is no string")
            if key in table:
                raise CheckpointError(f"two tensors have the name {key!r:.80}")
            table[key] = value

    def push_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise CheckpointError(f"it wants to run {name.replace(' ', '.')!r:.80}; {_WANTED}")
        self.push(_Global(name))

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        match function, arguments:
            case _Global(name), () if name == _ORDERED_DICT:
                self.push({})
            case _Global(name), (_Tensor() as tensor, *_) if name == _PARAMETER:
                self.push(tensor)
            case _Global(name), (_Storage() as storage, offset, shape, strides, *_) if name == _REBUILD:
                self.push(_Tensor(storage, *_geometry(offset, shape, strides)))
            case _:
                raise TypeError("a call that no state_dict makes")

    def push_storage(self) -> None:
        match self.stack.pop():
            case ("storage", _Global(name), str(key), str(), int(size)) if name in _STORAGE_NAMES:
                self.push(_Storage(key, _STORAGES[name.removeprefix("torch ")], size))
            case _:
                raise TypeError("a storage of an unknown kind")

    def pass_over_attributes(self) -> None:
        """The attributes of the state_dict itself: the versions of its modules."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise TypeError("attributes for what is no dict")


_STORAGE_NAMES = {f"torch {storage}" for storage in _STORAGES}
_STEPS: dict[str, Any] = {
    "PROTO": lambda m, x: None,
    "FRAME": lambda m, x: None,
    "NONE": lambda m, x: m.push(None),
    "NEWTRUE": lambda m, x: m.push(True),
    "NEWFALSE": lambda m, x: m.push(False),
    **dict.fromkeys(["BININT", "BININT1", "BININT2", "LONG1"], lambda m, x: m.push(x)),
    **dict.fromkeys(["BINUNICODE", "SHORT_BINUNICODE"], lambda m, x: m.push(x)),
    **dict.fromkeys(["BINPUT", "LONG_BINPUT"], lambda m, x: m.memory.update({x: m.stack[-1]})),
    "MEMOIZE": lambda m, x: m.memory.update({len(m.memory): m.stack[-1]}),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], lambda m, x: m.push(m.memory[x])),
    "MARK": lambda m, x: m.push(_Mark),
    "EMPTY_DICT": lambda m, x: m.push({}),
    "EMPTY_TUPLE": lambda m, x: m.push(()),
    "TUPLE": lambda m, x: m.push(tuple(m.since_mark())),
    "TUPLE1": lambda m, x: m.push_tuple(1),
    "TUPLE2": lambda m, x: m.push_tuple(2),
    "TUPLE3": lambda m, x: m.push_tuple(3),
    "SETITEM": lambda m, x: m.set_items([m.stack.pop(), m.stack.pop()][::-1]),
    "SETITEMS": lambda m, x: m.set_items(m.since_mark()),
    "GLOBAL": lambda m, x: m.push_global(x),
    "REDUCE": lambda m, x: m.call(),
    "BINPERSID": lambda m, x: m.push_storage(),
    "BUILD": lambda m, x: m.pass_over_attributes(),
}


def _geometry(offset: Any, shape: Any, strides: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """The three as they are, if they can be those of a tensor."""
    numbers = (offset, *shape, *strides)
    if not all(type(n) is int and 0 <= n < 2**48 for n in numbers) or len(shape) != len(strides):
        raise ValueError(f"a tensor of offset {offset}, shape {shape} and strides {strides}")
    if len(shape) > 32 or math.prod(filter(None, shape)) >= 2**60:
        raise ValueError(f"a tensor of shape {shape!r:.60}, which no array can have")
    return offset, tuple(shape), tuple(strides)


# ---- writing


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays to a file that `torch.load(path, weights_only=True)` reads as a dict of tensors.

    The file appears, or takes the place of an older one, when it is complete and on the disk.
    Raises UnsupportedError for a dtype that the format lacks, DTypeError for what is no NumPy array, OSError.
    """
    storages, table = [], {}
    for key, (name, x) in enumerate(tensors.items()):
        x = _in_file_order(name, x)
        storage = _PersistentId(
            ("storage", _Global(f"torch {_STORAGE_OF[x.dtype.name]}"), str(key), "cpu", x.size)
        )
        strides = tuple(step // x.itemsize for step in x.strides)
        no_hooks = _Call(_Global(_ORDERED_DICT), ())
        table[name] = _Call(_Global(_REBUILD), (storage, 0, x.shape, strides, False, no_hooks))
        storages.append(x)
    with replacing(path) as file, zipfile.ZipFile(_Stream(file), "w") as archive:  # type: ignore[call-overload]
        _add(archive, file, "data.pkl", b"\x80\x02" + _pickled(table) + b".")
        _add(archive, file, "byteorder", b"little")
        for key, x in enumerate(storages):
            _add(archive, file, f"data/{key}", x.reshape(-1).view(np.uint8).data)
        _add(archive, file, "version", b"3\n")


def _in_file_order(name: str, x: Any) -> np.ndarray:
    """x in C order and little-endian."""
    if not isinstance(x, np.ndarray):
        raise DTypeError(f"{name!r}: wanted a NumPy array, got {type(x).__name__}; use deepcore.to_numpy(x)")
    if x.dtype.name not in _STORAGE_OF:
        raise UnsupportedError(
            f"{name!r}: .pt files have no dtype {x.dtype}; cast it to one of {', '.join(_STORAGE_OF)}"
        )
    return np.asarray(x, dtype=x.dtype.newbyteorder("<"), order="C")


def _add(archive: zipfile.ZipFile, file: Any, name: str, data: Any) -> None:
    """One member, whose bytes begin at a multiple of the alignment."""
    entry = zipfile.ZipInfo(f"archive/{name}")  # 1980: two files of the same weights are the same bytes
    begin = file.tell() + zipfile.sizeFileHeader + len(entry.filename) + 4  # type: ignore[attr-defined]
    padding = -begin % _ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(entry, data)


class _Stream:
    """A file that can't go back, as one that was opened to append can't: zipfile is to know."""

    def __init__(self, file: Any):
        self.write, self.flush = file.write, file.flush


class _Call(NamedTuple):
    """function(*arguments), to be made by who reads the file."""

    function: _Global
    arguments: tuple[Any, ...]


class _PersistentId(NamedTuple):
    """What stands for a storage."""

    value: tuple[Any, ...]


def _pickled(value: Any) -> bytes:
    """A value in pickle's language, of the second version."""
    match value:
        case _Global(name):
            return b"c" + name.replace(" ", "\n").encode() + b"\n"
        case _Call(function, arguments):
            return _pickled(function) + _pickled(arguments) + b"R"
        case _PersistentId(identity):
            return _pickled(identity) + b"Q"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(data)]) + data
        case str():
            data = value.encode()
            return b"X" + struct.pack("<I", len(data)) + data
        case tuple():
            return b"(" + b"".join(map(_pickled, value)) + b"t"
        case dict():
            return b"}(" + b"".join(_pickled(key) + _pickled(item) for key, item in value.items()) + b"u"
    raise TypeError(f"no place for {type(value).__name__}")
