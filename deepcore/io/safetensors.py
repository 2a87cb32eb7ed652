"""The safetensors format: named arrays and a few strings in one file, read without running anything in it.

A file holds, one after the other: the header's length (8 bytes), the header (JSON, padded with spaces to
a multiple of 8), and the bytes of the arrays, in C order and without gaps. All numbers are little-endian.

    {"__metadata__": {"key": "a string"},
     "layers.0.W": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]}}

deepcore adds two strings to the metadata: a CRC-32 of each array, and one of the rest of the header. Other
readers pass them over; `read` verifies them, so that no flipped bit goes unseen. Files that others wrote
have none, and are read without.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BufferedReader, BufferedWriter
from typing import Any, NamedTuple

import numpy as np

from deepcore.backends.base import import_optional
from deepcore.errors import ArgumentError, CheckpointError, DTypeError, MissingDataError, UnsupportedError

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
_NAMES = {code: name for name, code in _CODES.items()}
_SIZES = {code: 1 if code in ("BOOL", "I8", "U8") else int(code.lstrip("BFIU")) // 8 for code in _NAMES}

_METADATA = "__metadata__"
_CRC_OF_TENSORS = "deepcore.crc32"
_CRC_OF_HEADER = "deepcore.header"
_MAX_HEADER = 4 * 2**20  # 40,000 arrays; parsing hostile JSON of that size takes half a second
_MAX_AXES = 64  # NumPy's


class _Entry(NamedTuple):
    """One array's line in the header."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


# ---- writing


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write named arrays and strings to a file, whole or not at all.

    The file is made beside the old one and takes its place when it is complete and on the disk: after
    a crash, or with a full disk, the old file is still there. Strided, transposed and big-endian arrays
    are written as the values that they show.

    Raises UnsupportedError for a dtype that the format lacks, DTypeError for what is no NumPy array,
    ArgumentError for a name that can't be written, OSError.

    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "weights.safetensors")
    ...     write(path, {"W": np.ones((1, 2))}, {"made": "today"})
    ...     read(path)
    ({'W': array([[1., 1.]])}, {'made': 'today'})
    """
    arrays = {name: _in_file_order(name, x) for name, x in tensors.items()}
    stored = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # so that each is aligned
    header = _header(arrays, stored, dict(metadata or {}))
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for name in stored:
            file.write(_bytes_of(arrays[name]))


def _in_file_order(name: str, x: Any) -> np.ndarray:
    """x in C order and little-endian; x itself where it is so already."""
    if not isinstance(x, np.ndarray | np.generic):
        raise DTypeError(f"{name!r}: wanted a NumPy array, got {type(x).__name__}; use deepcore.to_numpy(x)")
    if x.dtype.name not in _CODES:
        raise UnsupportedError(
            f"{name!r}: safetensors has no dtype {x.dtype}; cast it to one of {', '.join(_CODES)}"
        )
    return np.asarray(x, dtype=x.dtype.newbyteorder("<"), order="C")


def _header(arrays: Mapping[str, np.ndarray], stored: list[str], metadata: dict[str, str]) -> bytes:
    """The header of a file that has the arrays in the order `stored`."""
    _check_names(arrays, metadata)
    places = {}
    begin = 0
    for name in stored:
        places[name] = [begin, begin + arrays[name].nbytes]
        begin += arrays[name].nbytes
    entries = [_Entry(name, _CODES[x.dtype.name], x.shape, *places[name]) for name, x in arrays.items()]
    checksums = {name: _crc(_bytes_of(x)) for name, x in arrays.items()}
    metadata = metadata | {_CRC_OF_TENSORS: json.dumps(checksums)}
    metadata[_CRC_OF_HEADER] = _crc_of_header(entries, metadata)
    header: dict[str, Any] = {_METADATA: metadata}
    for name, code, shape, *place in entries:
        header[name] = {"dtype": code, "shape": shape, "data_offsets": place}
    text = json.dumps(header, separators=(",", ":")).encode()
    if len(text) > _MAX_HEADER:
        raise UnsupportedError(
            f"names and metadata take {len(text):,} bytes, a file may have {_MAX_HEADER:,}; use several files"
        )
    return text + b" " * (-len(text) % 8)


def _check_names(arrays: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless all names and strings can stand in a header."""
    for text in (*arrays, *metadata, *metadata.values()):
        if not isinstance(text, str):
            raise ArgumentError(f"names and metadata must be strings, got {text!r}")
        if not text.isascii() and text != text.encode("utf-8", "replace").decode():
            raise ArgumentError(f"names and metadata must be valid Unicode, got {text!r}")
    reserved = {_METADATA} & arrays.keys() | {_CRC_OF_TENSORS, _CRC_OF_HEADER} & metadata.keys()
    if reserved:
        raise ArgumentError(f"these names have a meaning of their own in the file: {', '.join(reserved)}")


def _bytes_of(x: np.ndarray) -> memoryview:
    return x.reshape(-1).view(np.uint8).data


def _crc(data: Any) -> str:
    return f"{zlib.crc32(data):08x}"


def _crc_of_header(entries: list[_Entry], metadata: Mapping[str, str]) -> str:
    """A checksum of all that the header says but where the arrays are, which their own ones cover."""
    kinds = {entry.name: (entry.code, entry.shape) for entry in entries}
    strings = {key: value for key, value in metadata.items() if key != _CRC_OF_HEADER}
    return _crc(json.dumps([kinds, strings], sort_keys=True).encode())


# ---- replacing a file, whole or not at all


def check_place(who: str, path: str | os.PathLike[str]) -> None:
    """Raise, before there is anything to write, unless a file can stand at `path`.

    MissingDataError if there is no such folder, ArgumentError if it is a folder itself, PermissionError.
    """
    folder, name = os.path.split(os.fspath(path))
    if not os.path.isdir(folder or "."):
        raise MissingDataError(f"{who}: there is no folder {folder!r}; make it first")
    if not name or os.path.isdir(path):
        raise ArgumentError(f"{who}: {os.fspath(path)!r} is a folder; name a file")
    if not os.access(path if os.path.exists(path) else folder or ".", os.W_OK):
        raise PermissionError(errno.EACCES, f"{who}: writing is not allowed there", os.fspath(path))


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BufferedWriter]:
    """A new file, which takes the place of `path` when the with-block has ended without an error.

    It is written beside `path`, as `.name.saving`, and is on the disk before it takes the place. If the
    block fails, `path` is as it was. What a killed process left behind is used up by the next one; two
    that save to one path at once wait for each other. (On Windows they don't: let only one save.)
    """
    if os.path.isdir(path) or not os.fspath(path):
        raise IsADirectoryError(errno.EISDIR, "a file was wanted, and this is a folder", os.fspath(path))
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{name}.saving")
    file = _open_alone(beside)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.path.exists(target):
                os.chmod(beside, stat.S_IMODE(os.stat(target).st_mode))
            if os.name == "nt":
                file.close()  # an open file can't be renamed there
            os.replace(beside, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    _sync_folder(folder)


def _open_alone(path: str) -> BufferedWriter:
    """The file at `path`, empty, and locked until it is closed; waits while another process has it."""
    while True:
        # "a" does not empty it yet: another may be writing
        file = open(path, "ab")  # noqa: SIM115
        try:
            _lock(file)
            if _stands_at(file, path):
                file.truncate(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # the one who had it has put it in its place: start anew


def _lock(file: BufferedWriter) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(file, fcntl.LOCK_EX)


def _stands_at(file: BufferedWriter, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_folder(folder: str) -> None:
    """Wait until a rename in this folder is on the disk."""
    if os.name == "nt":  # folders can't be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- reading


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays and the strings of a file, by name.

    Everything that the header says is checked before it is used, and the checksums are verified. Memory
    is bounded by the file's size. Names are opaque: nothing is opened or imported because of them.

    Raises CheckpointError, naming the file and the fault, for a damaged file, UnsupportedError for
    bfloat16 arrays without the package ml_dtypes, OSError if there is no such file.
    """
    with open(path, "rb") as file:
        try:
            header, start = _read_header(file)
            metadata = _check_metadata(header.pop(_METADATA, {}))
            entries = [_check_entry(name, fields) for name, fields in header.items()]
            size = os.fstat(file.fileno()).st_size - start
            _check_places(entries, size)
            checksums = _check_checksums(entries, metadata)
            arrays = {
                entry.name: _read_tensor(file, start, entry, checksums)
                for entry in sorted(entries, key=_place)
            }
        except (CheckpointError, UnsupportedError) as error:
            error.inside(str(path))
            raise
        except RecursionError:
            raise CheckpointError(f"{path}, the header is nested too deeply") from None
    return {name: arrays[name] for name in header}, metadata


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The strings of a file alone, which say what it holds; `read` verifies all of it.

    Raises CheckpointError for what is no safetensors file, OSError if there is no such file.
    """
    with open(path, "rb") as file:
        try:
            header, _ = _read_header(file)
            return _check_metadata(header.get(_METADATA, {}))
        except CheckpointError as error:
            error.inside(str(path))
            raise


def _read_header(file: BufferedReader) -> tuple[dict[str, Any], int]:
    """The header, and where in the file the arrays begin."""
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    if len(start) < 8:
        raise CheckpointError(f"no safetensors file: it has {size} bytes, and the shortest one has 10")
    if start[:2] == b"PK":
        raise CheckpointError(
            "it is a zip archive, as torch's .pt files are, which deepcore.io.load_torch reads"
        )
    (length,) = struct.unpack("<Q", start)
    if length > size - 8:
        raise CheckpointError(
            "it is no safetensors file, or cut short: "
            f"the header should have {length:,} bytes, and the file has {size:,}"
        )
    if length > _MAX_HEADER:
        raise CheckpointError(f"the header has {length:,} bytes, and may have {_MAX_HEADER:,}")
    text = file.read(length)
    if len(text) != length or text[:1] != b"{":
        raise CheckpointError('the header does not begin with "{"; it is damaged or no safetensors file')
    return parse_json(text, "the header"), 8 + length


def parse_json(text: str | bytes, what: str) -> Any:
    """The value of a JSON text. Raises CheckpointError if it is none, or has a key twice."""
    try:
        text = text if isinstance(text, str) else text.decode("utf-8")
        return json.loads(text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
    except (CheckpointError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} is no valid JSON: {str(error)[:200]}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise CheckpointError(f"the key {twice!r:.80} stands there twice")
    return table


def _refuse_constant(word: str) -> None:
    raise CheckpointError(f"{word} is no JSON number")


def _check_metadata(metadata: Any) -> dict[str, str]:
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise CheckpointError("the metadata must be strings by name")
    return metadata


def _check_entry(name: str, fields: Any) -> _Entry:
    """One array's line in the header, if it makes sense by itself."""
    if type(fields) is not dict or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"array {name!r:.80} must have dtype, shape and data_offsets, and nothing else")
    code, shape, place = fields["dtype"], fields["shape"], fields["data_offsets"]
    if type(code) is not str or code not in _NAMES:
        raise CheckpointError(f"array {name!r:.80} has dtype {code!r:.40}; known are {', '.join(_NAMES)}")
    if not _are_sizes(shape) or len(shape) > _MAX_AXES:
        raise CheckpointError(f"array {name!r:.80} has no valid shape: {shape!r:.80}")
    if not _are_sizes(place) or len(place) != 2 or place[0] > place[1]:
        raise CheckpointError(f"array {name!r:.80} has no valid data_offsets: {place!r:.80}")
    begin, end = place
    if math.prod(shape) * _SIZES[code] != end - begin:
        raise CheckpointError(
            f"array {name!r:.80} has {end - begin:,} bytes, which is not what {code} of shape {shape} takes"
        )
    if math.prod(filter(None, shape)) * _SIZES[code] >= 2**63:  # (0, 2**63): no bytes, but no array either
        raise CheckpointError(f"array {name!r:.80} has a shape that no array can have: {shape!r:.80}")
    return _Entry(name, code, tuple(shape), begin, end)


def _are_sizes(x: Any) -> bool:
    return type(x) is list and all(type(n) is int and 0 <= n < 2**63 for n in x)


def _place(entry: _Entry) -> tuple[int, int]:
    return entry.begin, entry.end


def _check_places(entries: list[_Entry], size: int) -> None:
    """Raise unless the arrays fill the rest of the file, without overlaps and without holes."""
    position = 0
    for entry in sorted(entries, key=_place):
        if entry.begin != position:
            fault = "overlaps the one before it" if entry.begin < position else "leaves a hole before it"
            raise CheckpointError(f"array {entry.name!r:.80} {fault}, at byte {position:,}")
        position = entry.end
    if position != size:
        fault = "is cut short" if position > size else "has bytes that belong to no array"
        raise CheckpointError(f"the file {fault}: the arrays take {position:,} bytes, there are {size:,}")


def _check_checksums(entries: list[_Entry], metadata: dict[str, str]) -> dict[str, Any]:
    """Verify the header's checksum; returns those of the arrays, none if the file has none."""
    present = {_CRC_OF_HEADER, _CRC_OF_TENSORS} & metadata.keys()
    if not present:
        return {}
    if len(present) == 1 or metadata[_CRC_OF_HEADER] != _crc_of_header(entries, metadata):
        raise _damaged("the header")
    del metadata[_CRC_OF_HEADER]
    checksums = parse_json(metadata.pop(_CRC_OF_TENSORS), "the list of checksums")
    if type(checksums) is not dict or checksums.keys() != {entry.name for entry in entries}:
        raise CheckpointError("the list of checksums does not name the arrays of the file")
    return checksums


def _damaged(what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} is damaged: its checksum is wrong (a tool that changes the file on purpose must drop "
        f"{_CRC_OF_HEADER!r} and {_CRC_OF_TENSORS!r} from the metadata)"
    )


def _read_tensor(file: BufferedReader, start: int, entry: _Entry, checksums: dict[str, Any]) -> np.ndarray:
    """One array, in memory of its own."""
    dtype = _dtype(entry)
    x = np.empty(entry.shape, dtype)
    data = _bytes_of(x)
    file.seek(start + entry.begin)
    if file.readinto(data) != len(data):
        raise CheckpointError(f"the file is cut short in array {entry.name!r:.80}")
    if checksums and _crc(data) != checksums[entry.name]:
        raise _damaged(f"array {entry.name!r:.80}")
    if entry.code == "BOOL" and x.view(np.uint8).max(initial=0) > 1:
        raise CheckpointError(f"array {entry.name!r:.80} has a byte that is neither True nor False")
    return x.astype(dtype.newbyteorder("="), copy=False)


def _dtype(entry: _Entry) -> np.dtype[Any]:
    if entry.code != "BF16":
        return np.dtype(_NAMES[entry.code]).newbyteorder("<")
    ml_dtypes = import_optional("ml_dtypes")
    if ml_dtypes is None:
        raise UnsupportedError(
            f"array {entry.name!r:.80} is bfloat16, which NumPy lacks; add it with: pip install ml_dtypes"
        )
    return np.dtype(ml_dtypes.bfloat16)
