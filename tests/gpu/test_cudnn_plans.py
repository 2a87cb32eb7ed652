"""NVIDIA's own cuDNN, without a GPU: it takes the graphs that deepcore describes, and has plans for H100s."""

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deepcore.shapes import conv_output_shape

from .pretend import pretended

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("cudnn") is None, reason="needs deepcore[cudnn]"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]

GEOMETRIES = {  # X; W; stride, padding, dilation
    "3x3": ((16, 64, 56, 56), (128, 64, 3, 3), ((1, 1), ((1, 1), (1, 1)), (1, 1))),
    "of an image": ((32, 3, 32, 32), (32, 3, 3, 3), ((1, 1), ((1, 1), (1, 1)), (1, 1))),
    "of digits": ((100, 1, 28, 28), (4, 1, 3, 3), ((1, 1), ((1, 1), (1, 1)), (1, 1))),
    "odd": ((5, 7, 13, 11), (9, 7, 3, 2), ((2, 1), ((1, 1), (0, 0)), (1, 2))),
    "1x1": ((16, 64, 28, 28), (256, 64, 1, 1), ((1, 1), ((0, 0), (0, 0)), (1, 1))),
    "strides": ((16, 64, 56, 56), (128, 64, 3, 3), ((2, 2), ((1, 1), (1, 1)), (1, 1))),
    "dilated": ((16, 64, 56, 56), (64, 64, 3, 3), ((1, 1), ((2, 2), (2, 2)), (2, 2))),
    "a line": ((16, 32, 1, 500), (64, 32, 1, 5), ((1, 1), ((0, 0), (2, 2)), (1, 1))),
    "3 axes": ((2, 8, 8, 24, 24), (16, 8, 3, 3, 3), ((1,) * 3, ((1, 1),) * 3, (1,) * 3)),
}


@pytest.fixture(scope="module")
def without_driver(tmp_path_factory):
    """The environment of a process that finds the stand-ins."""
    folder = tmp_path_factory.mktemp("libraries")
    for name, *flags in [("libcuda.so.1",), *((f"libcudart.so.{n}", "-DRUNTIME") for n in (12, 13))]:
        built = ["gcc", "-shared", "-fPIC", "-w", *flags, "-o", str(folder / name), str(HERE / "no_driver.c")]
        subprocess.run(built, check=True)
    libraries = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    runtime = {"CUDNN_FRONTEND_CUDART_LIB_NAME": str(folder / "libcudart.so.12")}
    root = str(HERE.parents[1])
    return os.environ | runtime | {"LD_LIBRARY_PATH": os.pathsep.join(libraries), "PYTHONPATH": root}


@pytest.fixture(scope="module")
def plans(without_driver):
    """A function: problems -> for each the names of its plans, and their workspaces."""
    script = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    script += "from unittest import mock; sys.modules['cupy'] = mock.MagicMock()\n"
    script += "import plans_for_h100; plans_for_h100.main()\n"

    def ask(problems):
        told = "\n".join(json.dumps(dataclasses.asdict(problem)) for problem in problems)
        asked = [sys.executable, "-c", script]
        done = subprocess.run(
            asked, input=told, capture_output=True, text=True, env=without_driver, timeout=150
        )
        if "cudnnGetVersion" in done.stderr:
            pytest.skip("needs NVIDIA's library beside the package: nvidia-cudnn-cu12 or -cu13")
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]

    return ask


def problem(name, kind, dtype="float32", rough=True, tuned=True):
    from deepcore.backends.cupy.cudnn import Convolution

    X, W, (stride, padding, dilation) = GEOMETRIES[name]
    Y = conv_output_shape(X, W, stride, padding, dilation, 1)
    before, after = zip(*padding, strict=True)
    return Convolution(kind, X, W, tuple(Y), stride, before, after, dilation, dtype, rough, tuned)


@pytest.mark.parametrize(
    "dtype, rough", [("float32", False), ("float32", True), ("float16", True), ("bfloat16", True)]
)
def test_each_convolution_has_a_plan(dtype, rough, plans):
    with pretended():
        cases = [(name, kind) for name in GEOMETRIES for kind in ("fprop", "dgrad", "wgrad")]
        found = plans([problem(*case, dtype, rough, tuned=False) for case in cases])
    assert {case: len(of) for case, of in zip(cases, found, strict=True)} == dict.fromkeys(cases, 1)


def test_float32_is_not_rounded_to_tf32(plans):
    """What is the fastest, is by tensor cores: other plans are taken unless precision is relaxed."""
    with pretended():
        strict, relaxed = plans([problem("3x3", "fprop", rough=rough) for rough in (False, True)])
    assert strict and relaxed and not {name for name, _ in strict} & {name for name, _ in relaxed}


@pytest.mark.parametrize("gradient", [False, True], ids=["forward", "gradient"])
@pytest.mark.parametrize("mask", [None, (1, 1), (4, 1), (4, 8)])
def test_there_are_plans_for_attention(mask, gradient, plans):
    with pretended():
        from deepcore.backends.cupy.attention import Attention

        problems = []
        for dtype, q, k, d in [
            ("float16", 512, 512, 64),
            ("bfloat16", 100, 77, 128),
            ("bfloat16", 33, 33, 16),
        ]:
            lengths = (q, k, k, q, None, *((q, q, k, k) if gradient else ()))
            steps = [(8 * t * d, d, 8 * d, 1) if t else (8 * q, q, 1, 1) for t in lengths]
            problems.append(Attention(gradient, (4, 8, q, k, d), tuple(steps), mask, dtype, False))
        found = plans(problems)
    assert len(found) == len(problems) and all(found)
