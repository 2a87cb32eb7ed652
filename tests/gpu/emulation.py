"""CUDA kernels on the host: the very .cu source, by g++ against emulation.h, launched as CuPy does."""

import ctypes
import functools
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from deepcore.backends.cupy.kernels import source

COMPILER = shutil.which("g++")
_FOLDER = tempfile.TemporaryDirectory(prefix="deepcore-emulation-")


class Launch(ctypes.Structure):
    """Grid, block, and the seed of the schedule."""

    _fields_ = [(name, ctypes.c_uint) for name in ("grid", "x", "y", "seed")]


class EmulationError(AssertionError):
    """The emulation saw a fault: a barrier that not all threads reach, a misaligned access."""


def kernel_names(text: str) -> list[str]:
    """A family's kernels, without their dtype: written out, or made by a macro as MACRO(kernel, T, ...)."""
    found = re.findall(r"(\w+)_##NAME|\b[A-Z_]+\((\w+), T,", text)
    return [written or made for written, made in found if made != "NAME"]


def changed(text: str, changes=()) -> str:
    """A source with some text of it changed, to plant a fault."""
    for old, new in changes:
        if text.count(old) != 1:
            raise ValueError(f"{old!r} stands {text.count(old)} times in the source")
        text = text.replace(old, new)
    return text


def library(family: str, dtype: str, *changes: tuple[str, str]) -> ctypes.CDLL:
    """A family's kernels for a dtype, with some text of theirs changed."""
    return compiled(changed(source(family, dtype), changes))


@functools.cache
def compiled(text: str) -> ctypes.CDLL:
    """The kernels of a source that ends with its line KERNELS(T, dtype)."""
    dtype = re.search(r"KERNELS\(\w+, (\w+)\)\s*$", text)[1]
    names = (f"{name}_{dtype}" for name in kernel_names(text))
    text += "".join(f"EMULATE({name})\n" for name in names)
    path = Path(_FOLDER.name) / (hashlib.sha256(text.encode()).hexdigest()[:16] + ".so")
    _gxx(["-include", _header(), "-shared", "-fPIC", "-o", path, "-"], text)
    return ctypes.CDLL(path)


@functools.cache
def _header() -> Path:
    """emulation.h, compiled in advance: with the headers that it includes, most of the work."""
    header = Path(_FOLDER.name) / "emulation.h"
    header.write_text((Path(__file__).parent / header.name).read_text())
    _gxx(["-fPIC", "-x", "c++-header", header, "-o", f"{header}.gch"])
    return header


def _gxx(arguments: list, text: str | None = None) -> None:
    options = ["-std=c++17", "-O1", "-fno-strict-aliasing", "-DEMULATION"]
    language = [] if text is None else ["-x", "c++"]
    subprocess.run([COMPILER, *options, *language, *arguments], input=text, text=True, check=True)


def run(library: ctypes.CDLL, kernel: str, grid, block, arguments, seed: int = 0) -> None:
    """Launch a kernel with arguments as a cupy.RawKernel takes them, arrays being NumPy's."""
    values = [_value(a) for a in arguments]
    addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    launch = getattr(library, f"emulate_{kernel}")
    launch.restype = ctypes.c_char_p
    failure = launch(ctypes.byref(Launch(*grid, *(*block, 1)[:2], seed)), addresses)
    if failure:
        raise EmulationError(failure.decode())


def _value(argument):
    if isinstance(argument, np.ndarray) and argument.dtype.fields:  # a struct, which goes by value
        return (ctypes.c_char * argument.nbytes).from_buffer_copy(argument)
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    return (ctypes.c_double if isinstance(argument, float) else ctypes.c_longlong)(argument)


class Guarded:
    """An array on a 16-byte boundary, all NaN at first, between margins of NaN that nobody may write to."""

    MARGIN = 256  # bytes

    def __init__(self, shape, dtype):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.full(2 * self.MARGIN + size + 16, 0xFF, np.uint8)
        start = self.MARGIN + (-raw.ctypes.data) % 16
        self.array = raw[start : start + size].view(dtype).reshape(shape)
        self._margins = raw[:start], raw[start + size :]

    @property
    def intact(self) -> bool:
        return all((margin == 0xFF).all() for margin in self._margins)
