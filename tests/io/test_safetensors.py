"""The file format: what is written comes back, and what is damaged is noticed, fast and by one exception."""

import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

from deepcore.errors import ArgumentError, CheckpointError, DTypeError, UnsupportedError
from deepcore.io import safetensors
from deepcore.io.safetensors import read, write

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(same_array(a[name], b[name]) for name in a)


def same_array(x: np.ndarray, y: np.ndarray) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def sample() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "layers.0.W": rng.normal(size=(2, 3)).astype("float32"),
        "layers.0.b": rng.normal(size=(1, 3)),
        "mask": np.array([True, False, True]),
        "step": np.array(7, dtype="int64"),
        "none": np.zeros((0, 4), dtype="float16"),
    }


# ---- round trips


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (1,), (3, 4), (2, 1, 3, 2)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(tmp_path, dtype, shape):
    x = np.random.default_rng(1).integers(0, 255, size=shape).astype(dtype)
    write(tmp_path / "a", {"x": x})
    arrays, metadata = read(tmp_path / "a")
    assert same(arrays, {"x": x})
    assert metadata == {}
    assert arrays["x"].flags.writeable
    assert arrays["x"].base is None  # memory of its own, as an array that has never been in a file


def test_several_arrays_keep_names_order_and_metadata(tmp_path):
    metadata = {"deepcore": '{"a": "ü"}', "": "empty key"}
    write(str(tmp_path / "a"), sample(), metadata)
    arrays, back = read(str(tmp_path / "a"))
    assert same(arrays, sample())
    assert back == metadata


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.T,
        lambda x: x[::2, ::-1],
        lambda x: x[:, 1],
        np.asfortranarray,
        lambda x: x.astype(">f4"),
        lambda x: np.broadcast_to(x[0], (3, 4)),
        lambda x: x[1, 2],
    ],
    ids=["transposed", "strided", "column", "fortran", "big-endian", "broadcast", "scalar"],
)
def test_views_are_written_as_the_values_that_they_show(tmp_path, view):
    x = view(np.arange(12, dtype="float32").reshape(3, 4))
    write(tmp_path / "a", {"x": x})
    y = read(tmp_path / "a")[0]["x"]
    assert y.dtype == np.float32
    assert y.shape == x.shape
    assert np.array_equal(x, y)


def test_read_only_arrays_are_written_and_nan_payloads_kept(tmp_path):
    x = np.array([0x7FC00123, 0x7F800000], dtype="uint32").view("float32")
    x.flags.writeable = False
    write(tmp_path / "a", {"x": x})
    assert same(read(tmp_path / "a")[0], {"x": x})


@pytest.mark.parametrize(
    "name", ["", "../../etc/passwd", "a/b", "C:\\x", "x\0y", "ü 漢", '"}', "deepcore.crc32"]
)
def test_names_are_opaque(tmp_path, name):
    write(tmp_path / "a", {name: np.ones(2)})
    assert list(read(tmp_path / "a")[0]) == [name]
    assert os.listdir(tmp_path) == ["a"]


def test_data_is_aligned_and_the_header_padded_with_spaces(tmp_path):
    write(tmp_path / "a", {"b": np.array([True]), "x": np.ones(3), "h": np.ones(1, "float16")})
    data = (tmp_path / "a").read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    assert length % 8 == 0
    assert data[8:9] == b"{"
    assert header["x"]["data_offsets"][0] % 8 == header["h"]["data_offsets"][0] % 2 == 0


def test_bfloat16_needs_ml_dtypes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(file({"x": entry("BF16", [2], 0, 4)}, b"\x80\x3f\x00\x40"))
    monkeypatch.setattr(safetensors, "import_optional", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"a, array 'x' is bfloat16.*pip install ml_dtypes"):
        read(tmp_path / "a")


def test_bfloat16_with_ml_dtypes(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([1.0, 2.0], dtype=ml_dtypes.bfloat16)
    write(tmp_path / "a", {"x": x})
    assert (tmp_path / "a").read_bytes().endswith(b"\x80\x3f\x00\x40")
    assert same(read(tmp_path / "a")[0], {"x": x})


def test_files_of_the_safetensors_library_load(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    library.save_file(sample(), tmp_path / "a", metadata={"format": "np"})
    arrays, metadata = read(tmp_path / "a")
    assert same({name: arrays[name] for name in sample()}, sample())
    assert metadata == {"format": "np"}


def test_the_safetensors_library_loads_our_files(tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    write(tmp_path / "a", sample() | {"F": np.arange(6.0).reshape(2, 3).T}, {"key": "ü"})
    arrays = library.load_file(tmp_path / "a")
    assert np.array_equal(arrays.pop("F"), np.arange(6.0).reshape(2, 3).T)
    assert same({name: arrays[name] for name in sample()}, sample())


def test_an_unchanged_file_that_the_safetensors_library_wrote_anew_still_verifies(tmp_path):
    library = pytest.importorskip("safetensors")
    write(tmp_path / "a", sample(), {"key": "value"})
    with library.safe_open(tmp_path / "a", "np") as opened:
        metadata = opened.metadata()
        arrays = {name: opened.get_tensor(name) for name in sample()}
    library.numpy.save_file(arrays, tmp_path / "b", metadata)
    assert same({name: read(tmp_path / "b")[0][name] for name in sample()}, sample())
    library.numpy.save_file(arrays | {"step": np.array(8)}, tmp_path / "b", metadata)
    with pytest.raises(CheckpointError, match=r"'step' is damaged.*must drop 'deepcore\.header'"):
        read(tmp_path / "b")


# ---- what can't be written


@pytest.mark.parametrize(
    ("arrays", "metadata", "error", "text"),
    [
        ({"x": np.ones(2, dtype=complex)}, {}, UnsupportedError, "'x': safetensors has no dtype complex128"),
        ({"x": np.array(["a"])}, {}, UnsupportedError, "no dtype <U1"),
        ({"x": np.array([None])}, {}, UnsupportedError, "no dtype object"),
        ({"x": [1.0]}, {}, DTypeError, "'x': wanted a NumPy array, got list"),
        ({1: np.ones(2)}, {}, ArgumentError, "must be strings, got 1"),
        ({"x": np.ones(2)}, {"n": 1}, ArgumentError, "must be strings, got 1"),
        ({"x\ud800": np.ones(2)}, {}, ArgumentError, "valid Unicode"),
        ({"__metadata__": np.ones(2)}, {}, ArgumentError, "a meaning of their own"),
        ({}, {"deepcore.header": "x"}, ArgumentError, "a meaning of their own"),
        ({}, {"x": "y" * 2**25}, UnsupportedError, "use several files"),
    ],
)
def test_what_cannot_be_written_is_refused_and_the_old_file_stays(tmp_path, arrays, metadata, error, text):
    write(tmp_path / "a", sample())
    with pytest.raises(error, match=text):
        write(tmp_path / "a", arrays, metadata)
    assert same(read(tmp_path / "a")[0], sample())
    assert os.listdir(tmp_path) == ["a"]


# ---- malformed files


def file(header, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), begin=0, end=4, **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]} | more


MALFORMED = {
    "empty": (b"", "shortest"),
    "seven bytes": (b"\0" * 7, "shortest"),
    "no header": (struct.pack("<Q", 0), "does not begin"),
    "header past the end": (file({}, length=100), "cut short"),
    "header of 2**64 - 1 bytes": (file({}, length=2**64 - 1), "cut short"),
    "header too short": (file({"x": entry()}, b"1234", length=5), "no valid JSON"),
    "header and data": (file(b"{}1234", length=6), "no valid JSON"),
    "a list": (file([]), "does not begin"),
    "spaces first": (file(b" {}"), "does not begin"),
    "byte order mark": (file("{}".encode("utf-8-sig")), "does not begin"),
    "UTF-16": (file("{}".encode("utf-16")), "does not begin"),
    "not UTF-8": (file(b'{"\xff": 1}'), "no valid JSON"),
    "unfinished": (file(b'{"x": '), "no valid JSON"),
    "a number as long as a file": (file(b'{"x": ' + b"1" * 5000 + b"}"), "no valid JSON"),
    "NaN": (file(b'{"x": NaN}'), "NaN is no JSON number"),
    "nested": (file(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "no valid JSON"),
    "nested objects": (file(b'{"x":' * 100_000 + b"1" + b"}" * 100_000), "no valid JSON"),
    "same name twice": (
        file(b'{"x": %s, "x": %s}' % ((json.dumps(entry()).encode(),) * 2), b"1234"),
        "twice",
    ),
    "same field twice": (
        file(b'{"x": {"dtype": "I32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"1234"),
        "'dtype' stands there twice",
    ),
    "metadata twice": (file(b'{"__metadata__": {}, "__metadata__": {}}'), "twice"),
    "a metadata key twice": (file(b'{"__metadata__": {"k": "1", "k": "2"}}'), "'k' stands there twice"),
    "metadata a list": (file({"__metadata__": []}), "strings by name"),
    "metadata null": (file({"__metadata__": None}), "strings by name"),
    "metadata with a number": (file({"__metadata__": {"k": 1}}), "strings by name"),
    "metadata with a table": (file({"__metadata__": {"k": {}}}), "strings by name"),
    "entry a number": (file({"x": 1}), "must have dtype, shape"),
    "entry null": (file({"x": None}), "must have dtype, shape"),
    "field missing": (file({"x": {"dtype": "F32", "shape": []}}), "must have dtype, shape"),
    "field unknown": (file({"x": entry(strides=[4])}, b"1234"), "and nothing else"),
    "dtype unknown": (file({"x": entry("F31")}, b"1234"), "has dtype 'F31'"),
    "dtype lower-case": (file({"x": entry("f32")}, b"1234"), "has dtype 'f32'"),
    "dtype of complex numbers": (file({"x": entry("C64", end=8)}, b"12345678"), "has dtype 'C64'"),
    "dtype a number": (file({"x": entry(32)}, b"1234"), "has dtype 32"),
    "dtype a list": (file({"x": entry(["F32"])}, b"1234"), "has dtype"),
    "shape a number": (file({"x": entry() | {"shape": 1}}, b"1234"), "no valid shape"),
    "shape negative": (file({"x": entry(shape=[-1])}, b"1234"), "no valid shape"),
    "shape twice negative": (file({"x": entry(shape=[-1, -1])}, b"1234"), "no valid shape"),
    "shape with a fraction": (file({"x": entry(shape=[1.0])}, b"1234"), "no valid shape"),
    "shape with true": (file({"x": entry(shape=[True])}, b"1234"), "no valid shape"),
    "shape with a string": (file({"x": entry(shape=["1"])}, b"1234"), "no valid shape"),
    "shape of 2**63": (file({"x": entry(shape=[2**63])}, b"1234"), "no valid shape"),
    "shape of 65 axes": (file({"x": entry(shape=[1] * 65)}, b"1234"), "no valid shape"),
    "shape whose product wraps to 1": (
        file({"x": entry(shape=[2**62, 8, 1, 2**62])}, b"1234"),
        "what F32 of",
    ),
    "shape whose product wraps to 0": (file({"x": entry(shape=[2**32, 2**32], end=0)}), "what F32 of"),
    "shape empty and too large": (file({"x": entry(shape=[0, 2**62, 2**62], end=0)}), "no array can have"),
    "shape too large for the bytes": (file({"x": entry(shape=[2])}, b"1234"), "4 bytes, which is not what"),
    "shape too small for the bytes": (file({"x": entry(shape=[0])}, b"1234"), "4 bytes, which is not what"),
    "offsets a number": (file({"x": entry() | {"data_offsets": 0}}, b"1234"), "no valid data_offsets"),
    "offsets negative": (file({"x": entry(begin=-4, end=0)}, b"1234"), "no valid data_offsets"),
    "offsets backwards": (file({"x": entry(begin=4, end=0)}, b"1234"), "no valid data_offsets"),
    "offsets with a fraction": (file({"x": entry(end=4.0)}, b"1234"), "no valid data_offsets"),
    "offsets of 2**63": (file({"x": entry("U8", [2**63 - 1], 1, 2**63)}), "no valid"),
    "three offsets": (file({"x": entry() | {"data_offsets": [0, 4, 4]}}, b"1234"), "no valid data_offsets"),
    "data of 8 exabytes": (file({"x": entry("U8", [2**63 - 1], 0, 2**63 - 1)}), "cut short"),
    "data of 1 terabyte": (file({"x": entry("U8", [2**40], 0, 2**40)}, b"1234"), "cut short"),
    "overlap": (file({"x": entry(), "y": entry(begin=2, end=6)}, b"123456"), "overlaps"),
    "the same place twice": (file({"x": entry(), "y": entry()}, b"1234"), "overlaps"),
    "empty array inside another": (
        file({"x": entry(), "y": entry(shape=[0], begin=2, end=2)}, b"1234"),
        "overlaps",
    ),
    "hole at the start": (file({"x": entry(begin=4, end=8)}, b"12345678"), "leaves a hole"),
    "hole in the middle": (file({"x": entry(), "y": entry(begin=8, end=12)}, b"1" * 12), "leaves a hole"),
    "trailing byte": (file({"x": entry()}, b"12345"), "belong to no array"),
    "bytes without arrays": (file({}, b"1"), "belong to no array"),
    "a byte short": (file({"x": entry()}, b"123"), "cut short"),
    "BOOL of 2": (file({"x": entry("BOOL", [2], 0, 2)}, b"\1\2"), "neither True nor False"),
    "BOOL of 255": (file({"x": entry("BOOL", [1], 0, 1)}, b"\xff"), "neither True nor False"),
    "checksums without the header's": (file({"__metadata__": {"deepcore.crc32": "{}"}}), "header is damaged"),
    "header's checksum alone": (file({"__metadata__": {"deepcore.header": ""}}), "header is damaged"),
    "wrong header checksum": (
        file({"__metadata__": {"deepcore.header": "00000000", "deepcore.crc32": "{}"}}),
        "header is damaged",
    ),
    "a pickle": (b"\x80\x04\x95\x17\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93.", "cut short"),
    "a zip file": (b"PK\x03\x04" + b"\0" * 60, "it is a zip archive"),
    "an npy file": (b"\x93NUMPY\x01\0v\0{'descr': '<f8', 'fortran_order': False}", "cut short"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(tmp_path, name):
    data, text = MALFORMED[name]
    (tmp_path / "bad.file").write_bytes(data)
    with pytest.raises(CheckpointError, match=text) as caught:
        read(tmp_path / "bad.file")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.file'}, ")
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "forged", ["{}", '{"x": "00000000", "y": "00000000"}', "[]", '{"x": null}', "no JSON"]
)
def test_forged_lists_of_checksums(tmp_path, forged):
    """Only a program could write them: the header's own checksum is right."""
    metadata = {"deepcore.crc32": forged}
    metadata["deepcore.header"] = safetensors._crc_of_header(
        [safetensors._Entry("x", "F32", (1,), 0, 4)], metadata
    )
    (tmp_path / "a").write_bytes(file({"__metadata__": metadata, "x": entry()}, b"1234"))
    with pytest.raises(CheckpointError, match="checksum"):
        read(tmp_path / "a")


@pytest.mark.parametrize("what", [b"[],", b'{"a":{}},', b"0,", b'"",'])
def test_huge_headers_are_refused(tmp_path, what):
    """Just below the limit on a header, and far above it: work that grew with their square would not end."""
    for size in (4 * 2**20 - 100, 40 * 2**20):
        (tmp_path / "a").write_bytes(file(b'{"x":[' + what * (size // len(what)) + b"0]}"))
        with pytest.raises(CheckpointError):
            read(tmp_path / "a")


def test_a_key_that_stands_twice_among_many(tmp_path):
    """Work that grew with the square of their number would not end."""
    text = ",".join(f'"{n}":0' for n in range(200_000))
    (tmp_path / "a").write_bytes(file(f'{{{text},"199999":0}}'.encode()))
    with pytest.raises(CheckpointError, match="'199999' stands there twice"):
        read(tmp_path / "a")


def test_headers_nested_to_any_depth(tmp_path):
    for depth in (10, *range(800, 1000, 7), 5_000):
        header = b'{"x":{"dtype":"F32","shape":%s,"data_offsets":[0,4]}}' % (b"[" * depth + b"]" * depth)
        (tmp_path / "a").write_bytes(file(header))
        with pytest.raises(CheckpointError, match=r"no valid shape|nested too deeply|no valid JSON"):
            read(tmp_path / "a")


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "no folder" / "a", sample())


# ---- damage


def small_file(tmp_path) -> bytes:
    write(tmp_path / "whole", sample(), {"deepcore": '{"class": "Net"}'})
    return (tmp_path / "whole").read_bytes()


def check_damaged(path, data: bytes) -> bool:
    """Whether the damage was noticed; if it was not, the content must be the same."""
    with open(path, "r+b" if path.exists() else "wb") as file:  # emptying it first would cost 6 ms on ext4
        file.write(data)
        file.truncate()
    try:
        arrays, metadata = read(path)
    except CheckpointError:
        return True
    assert same(arrays, sample())
    assert metadata == {"deepcore": '{"class": "Net"}'}
    return False


def test_every_single_flipped_bit_is_noticed(tmp_path):
    whole = small_file(tmp_path)
    for position in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[position] ^= 1 << bit
            if not check_damaged(tmp_path / "a", bytes(data)):
                assert whole[position : position + 1].isspace()  # one space of JSON became another


def test_every_cut_and_every_addition_is_noticed(tmp_path):
    whole = small_file(tmp_path)
    for length in range(len(whole)):
        assert check_damaged(tmp_path / "a", whole[:length])
    for more in (b"\0", b" ", b"}", whole):
        assert check_damaged(tmp_path / "a", whole + more)


def test_random_mutations_are_noticed_or_harmless(tmp_path):
    whole = small_file(tmp_path)
    noticed = 0
    for seed in range(2_000):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            start, stop = np.sort(rng.integers(0, len(data) + 1, size=2))
            stop = min(stop, start + 8)
            kind = rng.integers(4)
            if kind == 0 and start < len(data):
                data[start] = rng.integers(256)
            elif kind == 1:
                del data[start:stop]
            elif kind == 2:
                data[start:start] = rng.bytes(stop - start)
            elif kind == 3:
                data[start:stop] = b'0123456789[]{}",: '[rng.integers(18) :][:1] * (stop - start)
        noticed += check_damaged(tmp_path / "a", bytes(data))
    assert noticed > 1_900


def test_a_tool_that_swaps_two_alike_arrays_is_noticed(tmp_path):
    write(tmp_path / "a", {"x": np.ones(2), "y": np.zeros(2)})
    data = (tmp_path / "a").read_bytes()
    swapped = data.replace(b"[0,16]", b"[A]").replace(b"[16,32]", b"[0,16]").replace(b"[A]", b"[16,32]")
    (tmp_path / "a").write_bytes(swapped)
    with pytest.raises(CheckpointError, match="array '[xy]' is damaged"):
        read(tmp_path / "a")


# ---- saving whole or not at all

CHILD = """
import sys, numpy as np
from deepcore.io import safetensors
path = sys.argv[1]
def content(n):
    return {"x": np.full((200, 1000), n), "y": np.full(7, n)}
"""


def child(code: str, path, **options):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + code, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    )


def whole_version(path) -> float:
    """The file's version, if all of it is of one."""
    arrays, _ = read(path)
    (version,) = {float(v) for x in arrays.values() for v in x.ravel()}
    assert {name: x.shape for name, x in arrays.items()} == {"x": (200, 1000), "y": (7,)}
    return version


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
def test_kill_9_in_the_middle_of_a_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    write(path, sample())
    code = """
with safetensors.replacing(path) as file:
    file.write(b"x" * 100_000)
    file.flush()
    print("half", flush=True)
    __import__("time").sleep(60)
"""
    with child(code, path) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    assert same(read(path)[0], sample())
    assert sorted(os.listdir(tmp_path)) == [".a.saving", "a"]
    write(path, {"x": np.ones(2)})
    assert os.listdir(tmp_path) == ["a"]
    assert same(read(path)[0], {"x": np.ones(2)})


@pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
@pytest.mark.parametrize("seed", range(5))
def test_kill_9_at_any_time_leaves_a_whole_file(tmp_path, seed):
    path = tmp_path / "a"
    code = """
for n in range(100_000):
    safetensors.write(path, content(n))
    print(n, flush=True)
"""
    with child(code, path) as process:
        for _ in range(3):
            done = int(process.stdout.readline())
        time.sleep(np.random.default_rng(seed).uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        done = max([done, *map(int, process.stdout.read().split())])
    assert whole_version(path) in (done, done + 1)
    write(path, sample())
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="needs resource limits")
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    write(path, sample())
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    safetensors.write(path, content(1))
except OSError as error:
    print("OSError", error.errno, flush=True)
"""
    with child(code, path) as process:
        assert process.stdout.read().startswith("OSError")
    assert same(read(path)[0], sample())
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("fault", ["flush", "fsync", "replace", "interrupt"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, fault):
    path = tmp_path / "a"
    write(path, sample())
    error = KeyboardInterrupt if fault == "interrupt" else OSError

    def fail(*_):
        raise error("no")

    monkeypatch.setattr(safetensors.os, "replace" if fault == "replace" else "fsync", fail)
    with pytest.raises(error):
        write(path, {"x": np.ones(2)})
    monkeypatch.undo()
    assert same(read(path)[0], sample())
    assert os.listdir(tmp_path) == ["a"]


def test_the_data_is_on_the_disk_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    size = []

    def noting_fsync(descriptor):
        mode = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(mode.st_mode) else "file")
        size.append(mode.st_size)
        fsync(descriptor)

    def noting_replace(*paths):
        calls.append("rename")
        replace(*paths)

    monkeypatch.setattr(safetensors.os, "fsync", noting_fsync)
    monkeypatch.setattr(safetensors.os, "replace", noting_replace)
    write(tmp_path / "a", sample())
    assert calls == (["file", "rename"] if os.name == "nt" else ["file", "rename", "folder"])
    assert size[0] == (tmp_path / "a").stat().st_size


def test_threads_that_save_to_one_path_at_once(tmp_path):
    path = tmp_path / "a"
    faults = []

    def work(n):
        try:
            for _ in range(10):
                write(path, {"x": np.full((200, 1000), n), "y": np.full(7, n)})
                whole_version(path)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="needs file locks")
def test_processes_that_save_to_one_path_at_once(tmp_path):
    path = tmp_path / "a"
    code = """
for _ in range(20):
    safetensors.write(path, content(int(sys.argv[0] != "")))
    safetensors.read(path)
print("done")
"""
    children = [child(code, path) for _ in range(3)]
    for process in children:
        with process:
            assert process.stdout.read() == "done\n"
    whole_version(path)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="needs symbolic links and modes")
def test_a_link_stays_a_link_and_a_private_file_private(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "a", tmp_path / "link"
    write(target, sample())
    target.chmod(0o600)
    link.symlink_to(target)
    write(link, {"x": np.ones(2)})
    assert link.is_symlink()
    assert same(read(target)[0], {"x": np.ones(2)})
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "folder") == ["a"]


# ---- memory


def test_memory_is_bounded_by_the_files_size(tmp_path):
    x = np.zeros((1_000, 1_000))
    write(tmp_path / "a", {"x": x, "y": x[:10].T})
    tracemalloc.start()
    try:
        read(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1.1 * (tmp_path / "a").stat().st_size
        tracemalloc.reset_peak()
        write(tmp_path / "a", {"x": x})  # no copy of what is in order already
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
