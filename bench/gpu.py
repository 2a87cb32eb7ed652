"""What deepcore's CUDA kernels do on this machine's GPU: are they right, and how near the limit are they?

    python bench/gpu.py --out gpu.jsonl

First the tests that need a GPU, then a table, then the battery on CuPy; under nine minutes in all
(--seconds). Each line of the file is one result, written as soon as it is known. Needs CuPy; torch is
compared if it is there.

Times are CUDA events' around calls that take turns (kernel, reference, torch, kernel, ...), over random
data in several sets of buffers, so that nothing is in the cache from the call before: medians, with the
spread between the 10th and the 90th percentile. The limit is a copy of as many bytes as the work must
move at least, at the speed of a copy in the same run; for matrix products, cuBLAS alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepcore.backends.registry import get_backend  # noqa: E402
from deepcore.errors import BackendUnavailable  # noqa: E402
from deepcore.ops import linear, loss, reduce, softmax  # noqa: E402

MOST_SETS = 8
ENOUGH = 256 << 20  # bytes of buffers: several times the largest cache
Calls = list[Callable[[], Any]]  # one for each set of buffers


@dataclass
class Work:
    """One line of the table: what does the same work, each as calls on several sets of buffers."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    variants: dict[str, Callable[[Any], Callable[[], Any]]]  # name -> (one set) -> call
    make: Callable[[int], Any]  # seed -> one set of buffers
    bytes: int  # moved at least
    flops: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="results, one a line")
    parser.add_argument("--seconds", type=float, default=520, help="stop after so many")
    options = parser.parse_args()
    try:
        get_backend("cupy")
    except BackendUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    end = time.monotonic() + options.seconds
    with options.out.open("w") as file:

        def write(**result: Any) -> None:
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(result, flush=True)

        write(**machine())
        write(**tests("kernels", ["-m", "gpu", "tests/gpu"], min(200.0, options.seconds / 2)))
        rows = []
        for row in table(end - 0.35 * options.seconds):
            write(**row)
            rows.append(row)
        write(**tests("battery", ["tests/test_battery.py", "-k", "cupy"], end - time.monotonic()))
    print("\n" + as_text(rows))
    return 0


def machine() -> dict[str, Any]:
    """The GPU and the versions."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    return {
        "gpu": properties["name"].decode(),
        "memory_GB": round(properties["totalGlobalMem"] / 1e9, 1),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "cupy": cupy.__version__,
        "numpy": np.__version__,
    }


def tests(name: str, arguments: list[str], seconds: float) -> dict[str, Any]:
    """pytest's last lines, in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *arguments]
    start = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(seconds, 1))
        status, output = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        status, output = "out of time", (error.stdout or b"").decode()
    lines = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
    return {
        "tests": name,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "last": (output.splitlines() or [""])[-1],
        "failures": lines[:60],
    }


def table(end: float) -> Iterator[dict[str, Any]]:
    """The rows, until the time is up."""
    copy = copy_speed()
    yield {"work": "copy", "TB/s": round(copy / 1e12, 3)}
    for work in works():
        if time.monotonic() > end:
            yield {"work": work.name, "shape": work.shape, "dtype": work.dtype, "left out": "out of time"}
            continue
        try:
            yield row_of(work, copy)
        except Exception as error:  # out of memory, say: the other rows still count
            yield {"work": work.name, "shape": work.shape, "dtype": work.dtype, "error": repr(error)[:300]}
        import cupy

        cupy.get_default_memory_pool().free_all_blocks()


def copy_speed() -> float:
    """Bytes a second, read and written, of a copy of 1 GB."""
    import cupy

    pairs = [(cupy.ones(1 << 28, "float32"), cupy.empty(1 << 28, "float32")) for _ in range(2)]
    calls = [lambda a=a, b=b: cupy.copyto(b, a) for a, b in pairs]
    seconds, _ = measure({"copy": calls})["copy"]
    return 2 * pairs[0][0].nbytes / seconds


def row_of(work: Work, copy: float) -> dict[str, Any]:
    """Microseconds of each variant, and the limit."""
    count = int(min(max(ENOUGH // work.bytes, 2), MOST_SETS))
    sets = [work.make(seed) for seed in range(count)]
    calls, failed = {}, {}
    for name, prepare in work.variants.items():
        try:
            calls[name] = [prepare(s) for s in sets]
            calls[name][0]()
        except Exception as error:  # a dtype that a reference or a library doesn't have
            calls.pop(name, None)
            failed[name] = repr(error)[:200]
    row: dict[str, Any] = {"work": work.name, "shape": work.shape, "dtype": work.dtype}
    for name, (seconds, spread) in measure(calls).items():
        row[name] = round(seconds * 1e6, 2)
        row[f"{name} spread"] = round(spread, 3)
    kernel = row.get("deepcore")
    row["limit"] = round(work.bytes / copy * 1e6, 2) if not work.flops else row.get("cuBLAS alone")
    if kernel and row["limit"]:
        row["% of limit"] = round(100 * row["limit"] / kernel, 1)
    if kernel and work.flops:
        row["TFLOP/s"] = round(work.flops / kernel / 1e6, 2)
    elif kernel:
        row["TB/s"] = round(work.bytes / kernel / 1e6, 3)
    return row | ({"failed": failed} if failed else {})


def measure(variants: dict[str, Calls], rounds: int = 15) -> dict[str, tuple[float, float]]:
    """Median seconds of a call, and the spread relative to it, of variants that take turns."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()

    def seconds(calls: Calls, count: int) -> float:
        start.record()
        for k in range(count):
            calls[k % len(calls)]()
        stop.record()
        stop.synchronize()
        return cupy.cuda.get_elapsed_time(start, stop) / 1e3 / count

    counts = {}
    for name, calls in variants.items():
        seconds(calls, 2 * len(calls))  # warm up: compile, autotune, fill the memory pool
        once = seconds(calls, len(calls))
        counts[name] = int(min(max(5e-3 / once, 3), 400))  # 5 ms or more: the events' own cost vanishes
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, calls in variants.items():
            times[name].append(seconds(calls, counts[name]))
    result = {}
    for name, values in times.items():
        deciles, median = statistics.quantiles(values, n=10), statistics.median(values)
        result[name] = (median, (deciles[-1] - deciles[0]) / median)
    return result


# ---- the works


def works() -> Iterator[Work]:
    """In the order of their interest."""
    for n, C in [(4096, 1000), (8192, 32000), (128, 10), (1024, 32000), (8192, 128256)]:
        for dtype in ("float32", "bfloat16"):
            yield cross_entropy(n, C, dtype)
    for n, i, o in [(128, 784, 128), (1024, 4096, 1024), (8192, 4096, 4096)]:
        for dtype in ("float32", "bfloat16"):
            yield linear_forward(n, i, o, dtype)
            yield linear_backward(n, i, o, dtype)
    for n, C in [(4096, 1000), (8192, 32000)]:
        for dtype in ("float32", "bfloat16"):
            yield softmax_forward(n, C, dtype)
            yield softmax_backward(n, C, dtype)
    yield column_sum(8192, 4096)
    yield column_sum(1_000_000, 64)


def array(seed: int, *shape: int, dtype: str, scale: float = 1.0) -> Any:
    """Normal numbers, drawn on the device."""
    import cupy

    random = cupy.random.RandomState(seed)
    X = random.standard_normal(shape, dtype=cupy.float32) * np.float32(scale)
    return X.astype(get_backend("cupy").dtype(dtype), copy=False)


def itemsize(dtype: str) -> int:
    return 2 if dtype.endswith("16") else 4


def to_torch(x: Any, grad: bool = False) -> Any:
    """The same memory as a torch tensor."""
    import cupy
    import torch

    if x.dtype.name == "bfloat16":  # not every version hands these over by DLPack
        return torch.from_dlpack(x.view(cupy.int16)).view(torch.bfloat16).requires_grad_(grad)
    return torch.from_dlpack(x).requires_grad_(grad)


def with_torch(variants: dict[str, Any], **torch: Any) -> dict[str, Any]:
    return variants | (torch if find_spec("torch") else {})


def cross_entropy(n: int, C: int, dtype: str) -> Work:
    """Loss and gradient of labels."""
    import cupy

    def torch(s: Any) -> Callable[[], Any]:
        from torch.nn.functional import cross_entropy

        X, y = to_torch(s[0], grad=True), to_torch(s[1])

        def call() -> None:
            X.grad = None
            cross_entropy(X, y).backward()

        return call

    return Work(
        "cross_entropy",
        (n, C),
        dtype,
        with_torch(
            {
                "deepcore": lambda s: lambda: loss.cross_entropy(*s),
                "reference": lambda s: lambda: loss.cross_entropy.reference(*s),
            },
            torch=torch,
        ),
        lambda seed: (
            array(seed, n, C, dtype=dtype, scale=4.0),
            cupy.random.RandomState(seed).randint(0, C, n).astype("int64"),
        ),
        2 * n * C * itemsize(dtype),
    )


def linear_forward(n: int, i: int, o: int, dtype: str) -> Work:
    """Y = X W + b"""

    def torch(s: Any) -> Callable[[], Any]:
        import torch

        X, W, b = (to_torch(x) for x in s[:3])
        return lambda: torch.addmm(b, X, W)

    return Work(
        "linear",
        (n, i, o),
        dtype,
        with_torch(
            {
                "deepcore": lambda s: lambda: linear.linear(*s[:3]),
                "reference": lambda s: lambda: linear.linear.reference(*s[:3]),
                "cuBLAS alone": lambda s: lambda: s[0] @ s[1],
            },
            torch=torch,
        ),
        lambda seed: affine(seed, n, i, o, dtype),
        (n * i + i * o + n * o) * itemsize(dtype),
        2 * n * i * o,
    )


def linear_backward(n: int, i: int, o: int, dtype: str) -> Work:
    """dX, dW, db"""

    def torch(s: Any) -> Callable[[], Any]:
        X, W, _, dY = (to_torch(x) for x in s)
        return lambda: (dY @ W.T, X.T @ dY, dY.sum(0, keepdim=True))

    return Work(
        "linear_backward",
        (n, i, o),
        dtype,
        with_torch(
            {
                "deepcore": lambda s: lambda: linear.linear_backward(s[3], s[0], s[1]),
                "reference": lambda s: lambda: linear.linear_backward.reference(s[3], s[0], s[1]),
                "cuBLAS alone": lambda s: lambda: (s[3] @ s[1].T, s[0].T @ s[3]),
            },
            torch=torch,
        ),
        lambda seed: affine(seed, n, i, o, dtype),
        2 * (n * i + i * o + n * o) * itemsize(dtype),
        4 * n * i * o,
    )


def affine(seed: int, n: int, i: int, o: int, dtype: str) -> tuple[Any, ...]:
    """X, W, b, dY"""
    shapes = ((n, i), (i, o), (1, o), (n, o))
    return tuple(array(4 * seed + k, *shape, dtype=dtype) for k, shape in enumerate(shapes))


def softmax_forward(n: int, C: int, dtype: str) -> Work:
    """Y = softmax X"""

    def torch(s: Any) -> Callable[[], Any]:
        X = to_torch(s[0])
        return lambda: X.softmax(-1)

    return Work(
        "softmax",
        (n, C),
        dtype,
        with_torch(
            {
                "deepcore": lambda s: lambda: softmax.softmax(s[0]),
                "reference": lambda s: lambda: softmax.softmax.reference(s[0]),
            },
            torch=torch,
        ),
        lambda seed: (array(seed, n, C, dtype=dtype, scale=4.0),),
        2 * n * C * itemsize(dtype),
    )


def softmax_backward(n: int, C: int, dtype: str) -> Work:
    """dX of softmax"""
    return Work(
        "softmax_backward",
        (n, C),
        dtype,
        {
            "deepcore": lambda s: lambda: softmax.softmax_backward(*s),
            "reference": lambda s: lambda: softmax.softmax_backward.reference(*s),
        },
        lambda seed: (
            array(seed, n, C, dtype=dtype),
            softmax.softmax(array(seed + 1, n, C, dtype=dtype)),
        ),
        3 * n * C * itemsize(dtype),
    )


def column_sum(n: int, d: int) -> Work:
    """The gradient of a bias."""

    def torch(s: Any) -> Callable[[], Any]:
        X = to_torch(s[0])
        return lambda: X.sum(0, keepdim=True)

    return Work(
        "column_sum",
        (n, d),
        "float32",
        with_torch(
            {
                "deepcore": lambda s: lambda: reduce.column_sum(s[0]),
                "reference": lambda s: lambda: reduce.column_sum.reference(s[0]),
            },
            torch=torch,
        ),
        lambda seed: (array(seed, n, d, dtype="float32"),),
        n * d * 4,
    )


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table, microseconds."""
    columns = ("deepcore", "reference", "torch", "limit", "% of limit", "TB/s", "TFLOP/s")
    lines = [f"{'work':40}" + "".join(f"{column:>12}" for column in columns)]
    for row in rows:
        name = f"{row['work']} {'x'.join(map(str, row.get('shape', ())))} {row.get('dtype', '')}"
        lines.append(f"{name:40}" + "".join(f"{row.get(column, ''):>12}" for column in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
