"""NVRTC, NVIDIA's run-time compiler, by its C interface: it compiles for any GPU, with no driver."""

import ctypes
import functools
import re
from importlib.metadata import PackageNotFoundError, files
from typing import NamedTuple

WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
LIBRARY = re.compile(r"(libnvrtc\.so|nvrtc64)(?!.*builtins)")


class Kernel(NamedTuple):
    """What the assembler says of a kernel."""

    registers: int
    spilled: int  # bytes stored and loaded, for want of registers
    stack: int  # bytes of a thread's own memory, where what is indexed at run time lies


class CompileError(AssertionError):
    """The compiler's own words."""


@functools.cache
def compiler() -> ctypes.CDLL | None:
    """NVRTC of the wheel, or None if it isn't installed."""
    for wheel in WHEELS:
        try:
            found = [path for path in files(wheel) or () if LIBRARY.match(path.name)]
        except PackageNotFoundError:
            continue
        if found:
            return ctypes.CDLL(str(found[0].locate()))
    return None


def architectures() -> list[int]:
    """The compute capabilities that this NVRTC compiles for: 80, 90, ..."""
    nvrtc, count = compiler(), ctypes.c_int()
    nvrtc.nvrtcGetNumSupportedArchs(ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    nvrtc.nvrtcGetSupportedArchs(numbers)
    return list(numbers)


def compile(source: str, architecture: int) -> dict[str, Kernel]:
    """Compile to machine code, with CuPy's options. Returns its kernels by name.

    Raises CompileError with the compiler's log.
    """
    nvrtc, program = compiler(), ctypes.c_void_p()
    options = [
        f"-arch=sm_{architecture}",
        "--std=c++17",
        "-ftz=true",
        "--device-as-default-execution-space",
        "--ptxas-options=-v",
    ]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernels.cu", 0, None, None)
    try:
        status = nvrtc.nvrtcCompileProgram(
            program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        )
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, text)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    log = text.value.decode()
    if status != 0:
        raise CompileError(log)
    return _kernels(log)


def _kernels(log: str) -> dict[str, Kernel]:
    kernels = {}
    for part in log.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)[1]
        stack = re.search(r"(\d+) bytes stack frame", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        kernels[name] = Kernel(int(registers[1]), int(spills[1]) + int(spills[2]), int(stack[1]))
    return kernels
