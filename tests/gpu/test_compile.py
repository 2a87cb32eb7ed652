"""The CUDA kernels compile for each generation of GPUs, with no GPU, and no register is spilled."""

import pytest

from deepcore.backends.cupy.kernels import FAMILIES, source

from . import nvrtc
from .emulation import kernel_names

pytestmark = pytest.mark.skipif(
    nvrtc.compiler() is None, reason='needs NVIDIA\'s compiler: pip install "deepcore[kernels]"'
)

THREADS = 512  # of a block, so that each has 65536 / 512 registers at the most


@pytest.mark.parametrize("architecture", [80, 90, 100, 120])
@pytest.mark.parametrize(
    "family, dtype", [(family, d) for family, dtypes in FAMILIES.items() for d in dtypes]
)
def test_kernels_compile_and_spill_nothing(family, dtype, architecture, record_property):
    if architecture not in nvrtc.architectures():
        pytest.skip(f"this NVRTC knows {nvrtc.architectures()}, not sm_{architecture}")
    text = source(family, dtype)
    kernels = nvrtc.compile(text, architecture)
    assert set(kernels) == {f"{name}_{dtype}" for name in kernel_names(text)}
    for name, kernel in kernels.items():
        print(f"sm_{architecture} {name}: {kernel.registers} registers, {kernel.spilled} bytes spilled")
        record_property("compiled", [name.removesuffix(f"_{dtype}"), dtype, architecture, *kernel])
    assert not [name for name, kernel in kernels.items() if kernel.spilled or kernel.stack]
    assert all(kernel.registers <= 65536 // THREADS for kernel in kernels.values())


def test_a_fault_in_a_kernel_is_told_with_its_file_and_line():
    text = source("loss", "float32").replace("b * row_sum(wD)", "b * row_summ(wD)")
    with pytest.raises(nvrtc.CompileError, match=r'loss\.cu\(\d+\): error: identifier "row_summ"'):
        nvrtc.compile(text, 90)


def test_a_spill_is_seen():
    many = "__launch_bounds__(512, 1)", "__launch_bounds__(512, 4)"  # 32 registers a thread
    kernels = nvrtc.compile(source("loss", "bfloat16").replace(*many), 90)
    assert kernels["cross_entropy_bfloat16"].spilled
