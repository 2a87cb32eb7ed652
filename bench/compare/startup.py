"""What a fresh process costs: the first call, `import deepcore`, and the megabytes on disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import deepcore
from bench.compare.peers import PEERS, NotThere
from bench.compare.rows import ROWS
from bench.compare.worker import Failure, Worker
from bench.overhead import import_seconds

_CNN = next(row for row in ROWS if row.kind == "cnn")
_MEGABYTE = 1e6


def _first_step(name: str) -> Iterator[dict[str, float]]:
    """Seconds of the import, and of the first step of the CNN, whatever that compiles."""
    arguments = _CNN.draw()
    start = time.perf_counter()
    peer = PEERS[name].load()
    imported = time.perf_counter()
    if not hasattr(peer, "cnn"):
        raise NotThere("no convolution")
    call, read = peer.cnn(**arguments)
    read(call())
    yield {"import": imported - start, "first": time.perf_counter() - imported}


def first_calls(names: list[str], rounds: int) -> dict[str, Any]:
    """A peer's first CNN step, with an empty cache folder and with what that call left in it."""
    found: dict[str, Any] = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            caches = {
                "NUMBA_CACHE_DIR": f"{folder}/numba",
                "TORCHINDUCTOR_CACHE_DIR": f"{folder}/torch",
                "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
            }
            try:
                cold, *warm = [_answer(name, caches)["first"] for _ in range(1 + rounds)]
            except Failure as failure:
                found[name] = {"why": str(failure)}
                continue
        found[name] = {"cold": cold, "warm": statistics.median(warm)}
    return found


def _answer(name: str, caches: dict[str, str]) -> Any:
    worker = Worker(_first_step, name, environment=PEERS[name].environment | caches)
    try:
        return worker.answer()
    finally:
        worker.stop()


def import_ratio(rounds: int) -> float:
    """`import deepcore` in the time of `import numpy`, whole processes."""
    for module in ("deepcore", "numpy"):
        import_seconds(module)
    return statistics.median(import_seconds("deepcore") / import_seconds("numpy") for _ in range(3 * rounds))


def install_size() -> dict[str, float]:
    """Megabytes on disk of deepcore and of what it requires, without compiled byte code."""
    package = Path(deepcore.__file__).parent
    sizes = {"deepcore": sum(path.stat().st_size for path in package.rglob("*") if _counts(path))}
    for name in ("numpy", "array-api-compat", "array-api-extra"):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:
            continue
        paths = [Path(str(file.locate())) for file in files]
        sizes[name] = sum(path.stat().st_size for path in paths if _counts(path))
    return {name: size / _MEGABYTE for name, size in sizes.items()}


def _counts(path: Path) -> bool:
    return path.suffix != ".pyc" and path.is_file()
