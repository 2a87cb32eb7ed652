"""What was found out about the CUDA kernels without a GPU, as a page: --kernels-page.

A test says by its properties what it has found: `compiled`, `emulated`; that of a planted fault by its name.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

OPTION = "--kernels-page"
DTYPES = ("float16", "bfloat16", "float32", "float64", "int32", "int64")


class Found(NamedTuple):
    """compiled: kernel, dtype -> architecture -> (registers, bytes spilled, bytes of the stack)
    emulated: op -> dtype -> (cases, largest error)   planted: the tests that found a fault
    """

    compiled: dict[tuple[str, str], dict[int, tuple[int, int, int]]]
    emulated: dict[str, dict[str, tuple[int, float]]]
    planted: list[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", help="write what tests/gpu has found to this file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    page = config.getoption(OPTION, None)
    if page:
        Path(page).write_text(as_page(gather(terminalreporter.stats.get("passed", ()))), encoding="utf-8")
        terminalreporter.write_line(f"written to {page}")


def gather(reports: Iterable[Any]) -> Found:
    found = Found(defaultdict(dict), defaultdict(dict), [])
    for report in reports:
        for name, value in report.user_properties:
            if name == "compiled":
                kernel, dtype, architecture, *numbers = value
                found.compiled[kernel, dtype][architecture] = tuple(numbers)
            elif name == "emulated":
                op, dtype, cases, error = value
                found.emulated[op][dtype] = cases, error
        if "planted" in report.nodeid:
            found.planted.append(re.sub(r".*::test_", "", report.nodeid).replace("--]", "]"))
    return found


def as_page(found: Found) -> str:
    architectures = sorted({a for of in found.compiled.values() for a in of})
    numbers = [n for of in found.compiled.values() for n in of.values()]
    spilled, stack = (max((n[k] for n in numbers), default=0) for k in (1, 2))
    registers = {kernel: _registers(found, kernel, architectures) for kernel, _ in sorted(found.compiled)}
    errors = {op: _errors(of) for op, of in sorted(found.emulated.items())}
    return f"""# CUDA kernels without a GPU

Written by `nox -s kernels`, with {_compilers()}.

## Compiled

{len(found.compiled)} kernels for {", ".join(f"sm_{a}" for a in architectures)}. The most bytes that one
spills: {spilled}; the most of a thread's stack: {stack}. Registers of a thread, in that order:

{_table("kernel", registers)}

## Run thread by thread

By g++, in schedules drawn at random, against references in float64: the largest error of all cases, relative
to the largest number of the result. Sizes are odd; each array lies between margins that nobody may write to.

{_table("op", errors, "cases")}

## Planted faults

Each of these, planted into the source, was found:

{chr(10).join(f"- {name}" for name in sorted(found.planted))}
"""


def _registers(found: Found, kernel: str, architectures: list[int]) -> dict[str, str]:
    return {
        dtype: " ".join(str(of[a][0]) for a in architectures if a in of)
        for dtype in DTYPES
        if (of := found.compiled.get((kernel, dtype)))
    }


def _errors(of: dict[str, tuple[int, float]]) -> dict[str, str]:
    return {"cases": str(max(cases for cases, _ in of.values()))} | {
        d: f"{e:.1e}" for d, (_, e) in of.items()
    }


def _table(first: str, rows: dict[str, dict[str, str]], *more: str) -> str:
    columns = [*more, *(d for d in DTYPES if any(d in cells for cells in rows.values()))]
    lines = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += (f"| {name} | {' | '.join(cells.get(c, '') for c in columns)} |" for name, cells in rows.items())
    return "\n".join(lines)


def _compilers() -> str:
    try:
        nvrtc = f"NVRTC {version('nvidia-cuda-nvrtc')}"
    except PackageNotFoundError:
        nvrtc = "no NVRTC"
    if shutil.which("g++") is None:
        return f"{nvrtc} and no g++"
    told = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True).stdout.strip()
    return f"{nvrtc} and g++ {told}"
