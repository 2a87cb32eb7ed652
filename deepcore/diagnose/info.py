"""What deepcore runs on: versions, machine, BLAS, environment, and every backend, usable or not."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import textwrap
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.backends.registry import backend_class, backend_names, get_backend
from deepcore.backends.select import selected_backend
from deepcore.diagnose.process import apart
from deepcore.errors import DeepcoreError

_WIDTH = 80
_PATIENCE = 120.0  # seconds for a library to import and to run a small kernel, the first time on a cold disk
_PACKAGES = {
    "deepcore": "deepcore",
    "NumPy": "numpy",
    "array-api-compat": "array_api_compat",
    "array-api-extra": "array_api_extra",
}
_VARIABLES = (
    "DEEPCORE_BACKEND",
    "DEEPCORE_FALLBACK",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUPY_TF32",
    "DEEPCORE_AUTOTUNE",
    "DEEPCORE_CUDNN",
    "JAX_PLATFORMS",
)


@dataclass(frozen=True)
class Probe:
    """What looking at one backend found. `problem` is the reason and the remedy, or None if it is usable."""

    name: str
    version: str | None = None
    devices: list[str] = field(default_factory=list)
    problem: str | None = None
    features: list[str] = field(default_factory=list)


def info() -> str:
    """All of it as text, no line wider than 80 columns.

    Each backend is looked at in a process of its own: a library that is broken, or dies as it is
    imported, is told of in its line, and the others in theirs.
    """
    python = f"{platform.python_version()} ({platform.python_implementation()}, {platform.platform()})"
    sections = {
        "versions": [("Python", python), *((title, _version(name)) for title, name in _PACKAGES.items())],
        "machine": [
            ("CPU", f"{cpu_model()}, {_cores()}"),
            ("memory", _memory()),
            ("BLAS of NumPy", f"{_blas()}, {_blas_threads()}"),
        ],
        "environment": [(name, os.environ.get(name) or "not set") for name in _VARIABLES],
        "backends": [(name, _told(probe(name))) for name in backend_names()] + [("new arrays", _selected())],
    }
    return "\n\n".join(f"{title}\n{_aligned(lines)}" for title, lines in sections.items())


def probe(name: str) -> Probe:
    """Look at a backend, in a process of its own. Never raises because of the library."""
    try:
        return apart(look_at, name, seconds=_PATIENCE)
    except (ChildProcessError, TimeoutError) as error:
        return Probe(name, problem=f"{error}; it may be broken: reinstall it, or try importing it by itself")


def look_at(name: str) -> Probe:
    """Look at a backend, here."""
    warnings.simplefilter("ignore")  # a table has no room for what a library thinks of its other devices
    backend = backend_class(name)
    try:
        version = backend.version()
    except ImportError:  # `why_unusable` says it, with the remedy
        version = None
    problem = backend.why_unusable()
    if problem:
        return Probe(name, version, problem=problem)
    return Probe(name, version, get_backend(name).devices(), features=get_backend(name).features())


def _told(found: Probe) -> str:
    version = found.version or ""
    if found.problem is None:
        return f"{version:12s} {'; '.join(filter(None, [', '.join(found.devices), *found.features]))}"
    return " ".join(filter(None, [version, f"not usable: {found.problem}"]))


def _selected() -> str:
    """Which backend makes new arrays, as a fresh process finds it."""
    try:
        return apart(_name_of_selected, seconds=_PATIENCE)
    except (ChildProcessError, TimeoutError) as error:
        return f"none: {error}"


def _name_of_selected() -> str:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            name = selected_backend().name
        except DeepcoreError as error:
            return f"none: {error}"
    return f"{name} ({said[-1].message})" if said else name


def _aligned(lines: list[tuple[str, str]]) -> str:
    """Names on the left, and what belongs to them on the right, wrapped."""
    left = max(len(name) for name, _ in lines) + 4
    return "\n".join(
        textwrap.fill(
            " ".join(text.splitlines()),
            _WIDTH,
            initial_indent=f"  {name}".ljust(left),
            subsequent_indent=" " * left,
            break_on_hyphens=False,
        )
        for name, text in lines
    )


def _version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except Exception as error:  # whatever is wrong with it, the rest must still be told
        return f"broken ({type(error).__name__}: {error})"


# ---- the machine


def cpu_model() -> str:
    """The processor's name, or failing that its architecture."""
    try:
        if platform.system() == "Linux":
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            return next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
        if platform.system() == "Darwin":
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, StopIteration, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine() or "unknown"


def _cores() -> str:
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    return f"{count} cores" if usable == count else f"{count} cores, {usable} of them for this process"


def _memory() -> str:
    try:
        page, pages, free = (os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "PHYS_PAGES", "AVPHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, macOS not all of its names
        return "unknown"
    return f"{page * pages / 2**30:.1f} GiB, {page * free / 2**30:.1f} GiB of it free"


def _blas() -> str:
    built: Any = np.show_config(mode="dicts")
    blas = (built or {}).get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()


def _blas_threads() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "threads unknown (pip install threadpoolctl)"
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return f"threads: {pools[0]}" if pools else "threads unknown"
