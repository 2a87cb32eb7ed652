"""What deepcore's CUDA kernels do on this machine's GPU: are they right, and how near the limit are they?

    python bench/gpu.py --out gpu.jsonl

First whether a product by cuBLASLt can be captured in a CUDA graph, on which all compiled steps hang; then
all kernels are compiled, by several processes; then the tests that need a GPU, a table, and the battery on
CuPy: under nine minutes in all (--seconds). Each line of the file is one result, written as soon as it is
known; at the end come the table and what it says of each goal. Needs CuPy; torch is compared if it is there.

Nothing that goes wrong ends it. Tests and table run in processes of their own. One that crashes, or is
silent for too long, costs the row that it was at, and another goes on with the next row.

Times are CUDA events' around calls that take turns (kernel, reference, torch, kernel, ...), over random
data in several sets of buffers, so that nothing is in the cache from the call before: medians, with the
spread between the 10th and the 90th percentile. "graph": the same calls captured in one CUDA graph, where
the host costs nothing. The limit is a copy of as many bytes as the work must move at least, or a large
product of as many operations, at the speeds of the same run, whichever takes longer. Products and
convolutions of float32 are in float32, not TF32, on both sides, but in rows of "tf32". "tuned": the library's
algorithms were tried, and the fastest was taken, as it always is in rows of "tf32".
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from deepcore.backends import select  # noqa: E402
from deepcore.backends.cupy.kernels import FAMILIES, _module  # noqa: E402
from deepcore.backends.registry import get_backend  # noqa: E402
from deepcore.errors import BackendUnavailable  # noqa: E402
from deepcore.ops.dispatch import OPS  # noqa: E402

MOST_SETS = 8
ENOUGH = 256 << 20  # bytes of buffers: several times the largest cache
MOST_SECONDS = 1.0  # for the measurements of one variant of a row
SILENCE = 75.0  # seconds that a row may take: torch.compile is slow
COMPILERS = min(os.cpu_count() or 1, 8)  # processes that compile kernels
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
    in_graph: bool = True  # whether the calls are captured too


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.jsonl"), help="results, one a line")
    parser.add_argument("--seconds", type=float, default=520, help="stop after so many")
    for part in ("--questions", "--compile", "--rows-from"):  # what the processes of its own are told to do
        parser.add_argument(part, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        get_backend("cupy")
    except (BackendUnavailable, ImportError) as error:
        print(f"{error}; deepcore needs array-api-compat and array-api-extra beside CuPy", file=sys.stderr)
        return 1
    end = time.monotonic() + options.seconds
    if options.questions is not None:
        return questions()
    if options.compile is not None:
        return compile_kernels(options.compile)
    if options.rows_from is not None:
        return table(options.rows_from, end)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # the table is printed all the same
    rows: list[dict[str, Any]] = []
    try:
        with options.out.open("w") as file:
            run(file, end, options.seconds, rows)
    finally:
        print("\n" + as_text(rows))
        for verdict in goals(rows):
            print(f"{verdict['goal']:75} {verdict['reached']}")
    return 0


def run(file: Any, end: float, seconds: float, rows: list[dict[str, Any]]) -> None:
    """All stages, whatever becomes of one; `rows` gets those of the table."""

    def write(**result: Any) -> None:
        file.write(json.dumps(result) + "\n")
        file.flush()
        print(result, flush=True)

    def attempt(stage: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        try:
            write(**stage(*arguments))
        except Exception as error:  # the other stages still count
            write(stage=stage.__name__, error=repr(error)[:500])

    attempt(answers, 60.0)
    attempt(compiled_kernels, min(90.0, seconds / 5))
    attempt(tests, "kernels", ["-m", "gpu", "tests/gpu"], min(150.0, seconds / 3))
    attempt(tests, "memory", ["-m", "gpu", "tests/gpu", "-k", "ten_thousand"], min(40.0, seconds / 10), 1)
    try:
        for row in rows_of_children(end - 0.2 * seconds):
            rows.append(row)
            write(**row)
    except Exception as error:
        write(stage="table", error=repr(error)[:500])
    attempt(tests, "battery", ["tests/test_battery.py", "-k", "cupy"], end - time.monotonic() - 20, 8)
    for verdict in goals(rows):
        write(**verdict)


def answers(seconds: float, command: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a process of its own says of the machine, and of captures: a library's fault may end it."""
    command = command or (sys.executable, __file__, "--questions", "0")
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds)
        output, error = done.stdout, f"ended with {done.returncode}: {done.stderr[-500:]}"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired as late:
        output, error, failed = (late.stdout or b"").decode(errors="replace"), "silent for too long", True
    told: dict[str, Any] = {}
    for line in output.splitlines():
        with contextlib.suppress(json.JSONDecodeError, TypeError, ValueError):
            told |= json.loads(line)
    return told | ({"error": error} if failed else {})


def questions() -> int:
    """The answers, one a line."""
    for question in (machine, whether_products_are_captured):
        try:
            answer = question()
        except Exception as error:
            answer = {f"{question.__name__} failed": repr(error)[:500]}
        print(json.dumps(answer), flush=True)
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
        "backend": get_backend("cupy").features(),
        "numpy": np.__version__,
    }


def whether_products_are_captured() -> dict[str, Any]:
    """The first question: does a cuBLASLt call work inside a CuPy stream capture, and give the same bits?"""
    import cupy

    from deepcore.backends.cupy import cublaslt

    question = {"question": "does a cuBLASLt call work in a CuPy stream capture?"}
    try:
        A, B = array(0, 256, 128, dtype="float32"), array(1, 128, 64, dtype="float32")
        stream, pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        cupy.cuda.Device().synchronize()
        with stream, cupy.cuda.using_allocator(pool.malloc):
            wanted = cublaslt.product(A, B)
            if wanted is NotImplemented:
                return question | {"answer": "no: cuBLASLt isn't there, or refuses the product"}
            stream.begin_capture()
            try:
                Y = cublaslt.product(A, B)
            finally:
                graph = stream.end_capture()
            Y[...] = 0
            graph.launch()
            stream.synchronize()
            same = bool((wanted == Y).all())
        off = float(abs(wanted - cupy.matmul(A, B)).max() / abs(wanted).max())
        return question | {"answer": "yes" if same else "no: other bits", "off from cupy.matmul": off}
    except Exception as error:
        return question | {"answer": f"no: {error!r}"[:500]}


def compiled_kernels(seconds: float) -> dict[str, Any]:
    """All kernels, compiled by several processes at once into CuPy's cache on the disk."""
    start = time.monotonic()
    command = [sys.executable, __file__, "--compile"]
    children = [subprocess.Popen([*command, str(k)], stderr=subprocess.PIPE) for k in range(COMPILERS)]
    said = []
    for child in children:
        try:
            _, error = child.communicate(timeout=max(start + seconds - time.monotonic(), 0.1))
            if child.returncode:
                said.append(error.decode(errors="replace")[-300:])
        except subprocess.TimeoutExpired:
            child.kill()
            said.append("out of time")
    return {"stage": "compile kernels", "seconds": round(time.monotonic() - start, 1), "errors": said}


def compile_kernels(number: int) -> int:
    """The share of one of them."""
    modules = [(family, dtype) for family, dtypes in FAMILIES.items() for dtype in dtypes]
    for family, dtype in modules[number::COMPILERS]:
        _module(family, dtype).compile()
    return 0


# a program that a shell has started with & ignores interrupts, and so would those that it starts
PYTEST = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import pytest
sys.exit(pytest.main())
"""


def tests(name: str, arguments: list[str], seconds: float, workers: int = 4) -> dict[str, Any]:
    """What pytest says, in processes of its own, which are interrupted when the time is up."""
    command = [sys.executable, "-c", PYTEST, "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider"]
    # the conftest.py beside this repository's README imports what only its documentation needs
    command += ["--confcutdir=tests", "-W", "default", *arguments]
    if workers > 1 and find_spec("xdist"):
        command += ["-n", str(workers)]
    start = time.monotonic()
    child = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    output, status = "", None
    for patience in (max(seconds, 1), 10.0, 10.0):  # an interrupt that comes into a finaliser is ignored
        try:
            output, _ = child.communicate(timeout=patience)
            status = status or child.returncode
            break
        except subprocess.TimeoutExpired:
            status = "out of time"
            child.send_signal(signal.SIGINT)  # pytest then says what it has found so far
    else:
        child.kill()
        output, _ = child.communicate()
    lines = output.splitlines()
    return {
        "tests": name,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "last": next((line for line in reversed(lines) if "passed" in line or "failed" in line), lines[-1:]),
        "failures": [line[:300] for line in lines if line.startswith(("FAILED", "ERROR", "E  ", "/"))][:60],
    }


# ---- the table, by processes that may die


def rows_of_children(end: float, command: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """The rows, until the time is up: of a process, and where that dies or is silent, of another one.

    command: what prints them from a number on, unless it is this program
    """
    command = command or (sys.executable, "-u", __file__, "--rows-from")
    number, in_vain = 0, 0
    while time.monotonic() < end and in_vain < 2:
        child = subprocess.Popen(
            [*command, str(number), "--seconds", str(end - time.monotonic())],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        said: list[str | None] = []
        threading.Thread(target=_read, args=(child.stdout, lines.put), daemon=True).start()
        listener = threading.Thread(target=_read, args=(child.stderr, said.append), daemon=True)
        listener.start()
        in_vain, died = in_vain + 1, "silent for too long"
        begun: dict[str, Any] | None = None
        with contextlib.suppress(queue.Empty):
            while (line := lines.get(timeout=SILENCE)) is not None:
                with contextlib.suppress(json.JSONDecodeError):  # else something that a library prints
                    row = json.loads(line)
                    begun, in_vain = (row if "begin" in row else None), 0
                    if begun is None:
                        yield row
                        number = max(number, row.get("number", -1) + 1)
            died = f"ended with {child.wait()}"
        child.kill()
        child.wait()
        if died == "ended with 0":
            return
        listener.join(2)
        words = "".join(filter(None, said))[-600:]
        if begun is None:  # before the next row, by a GPU that it had lost
            yield {"work": "start", "error": died, "said": words}
        else:
            yield {"work": begun["begin"], "number": begun["number"], "error": died, "said": words}
            number = begun["number"] + 1


def _read(stream: Any, put: Callable[[str | None], None]) -> None:
    with stream:
        for line in stream:
            put(line)
    put(None)


def table(first: int, end: float) -> int:
    """Print the rows from a number on, each after a line that says that it begins."""
    import cupy

    def say(**row: Any) -> None:
        print(json.dumps(row), flush=True)

    if find_spec("torch"):
        __import__("torch").backends.cudnn.allow_tf32 = False  # which it does unless it is told not to
    speeds = {"copy": copy_speed()}
    told: list[dict[str, Any]] = [{"work": "copy", "TB/s": round(speeds["copy"] / 1e12, 3)}]
    for dtype in ("float32", "bfloat16", "tf32"):
        told.append({"work": "product", "dtype": dtype})
        try:
            speeds[dtype] = product_speed("float32" if dtype == "tf32" else dtype, tf32=dtype == "tf32")
            told[-1]["TFLOP/s"] = round(speeds[dtype] / 1e12, 1)
        except Exception as error:  # for want of ml_dtypes, say: the rows still count
            told[-1]["error"] = repr(error)[:300]
    for row in told if first == 0 else ():
        say(**row)
    for number, work in islice(enumerate(works()), first, None):
        of_row = {"work": work.name, "shape": work.shape, "dtype": work.dtype, "number": number}
        if time.monotonic() > end:
            say(**of_row, **{"left out": "out of time"})
            continue
        say(begin=work.name, number=number)
        try:
            row = row_of(work, speeds)
        except Exception as error:  # out of memory, say: the other rows still count
            row = of_row | {"error": repr(error)[:300]}
        for pool in (cupy.get_default_memory_pool(), pool_of_graphs()):
            pool.free_all_blocks()
        say(**row, **({} if "number" in row else {"number": number}))
        cupy.cuda.Device().synchronize()  # raises if this process has lost its GPU: another one goes on
    return 0


def copy_speed() -> float:
    """Bytes a second, read and written, of a copy of 1 GB."""
    import cupy

    pairs = [(cupy.ones(1 << 28, "float32"), cupy.empty(1 << 28, "float32")) for _ in range(2)]
    calls = [lambda a=a, b=b: cupy.copyto(b, a) for a, b in pairs]
    seconds, _ = measure({"copy": calls})["copy"]
    return 2 * pairs[0][0].nbytes / seconds


def product_speed(dtype: str, n: int = 8192, tf32: bool = False) -> float:
    """Operations a second of a large product."""
    pairs = [(array(seed, n, n, dtype=dtype), array(seed + 9, n, n, dtype=dtype)) for seed in range(2)]
    calls = [lambda a=a, b=b: product(a, b) for a, b in pairs]
    if tf32:
        calls = [in_tf32(call) for call in calls]
    seconds, _ = measure({"product": calls}, rounds=5)["product"]
    return 2 * n**3 / seconds


def in_tf32(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, where deepcore and torch may both round products of float32 to TF32."""
    backends = __import__("torch").backends if find_spec("torch") else None

    def allow(tf32: bool) -> None:
        if backends is not None:
            backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = tf32

    def within() -> Any:
        before = select.precision.set("relaxed")
        try:
            allow(True)
            return call()
        finally:
            select.precision.reset(before)
            allow(False)

    return within


def tuned(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, where the fastest algorithm may be looked for."""

    def within() -> Any:
        os.environ["DEEPCORE_AUTOTUNE"] = "1"
        try:
            return call()
        finally:
            del os.environ["DEEPCORE_AUTOTUNE"]

    return within


def product(A: Any, B: Any) -> Any:
    """A B, by deepcore's way to cuBLAS: CuPy's own has none for bfloat16 that is fast."""
    from deepcore.backends.cupy.linear import product

    return product(A, B)


def row_of(work: Work, speeds: dict[str, float]) -> dict[str, Any]:
    """Microseconds of each variant, and the limit."""
    count = int(min(max(ENOUGH // work.bytes, 2), MOST_SETS))
    sets = [work.make(seed) for seed in range(count)]
    calls, failed = {}, {}
    for name, prepare in work.variants.items():
        try:
            of_sets = [prepare(s) for s in sets]
            of_sets[0]()
            calls[name] = of_sets
            if name in GRAPH_OF and work.in_graph:
                calls[f"{name} graph"] = [GRAPH_OF[name](of_sets)]
        except Exception as error:  # a dtype that a reference or a library doesn't have
            failed[name if name not in calls else f"{name} graph"] = repr(error)[:200]
    row: dict[str, Any] = {"work": work.name, "shape": work.shape, "dtype": work.dtype}
    for name, (seconds, spread) in measure(calls).items():
        each = seconds / (count if name.endswith(" graph") and work.in_graph else 1)
        row[name] = round(each * 1e6, 2)
        row[f"{name} spread"] = round(spread, 3)
    best = min((row[name] for name in OURS if name in row), default=None)
    flops = speeds.get(work.dtype, speeds["float32"])
    row["limit"] = round(max(work.bytes / speeds["copy"], work.flops / flops) * 1e6, 2)
    if best:
        row["% of limit"] = round(100 * row["limit"] / best, 1)
        row["TFLOP/s" if work.flops else "TB/s"] = round((work.flops or work.bytes) / best / 1e6, 3)
    return row | ({"failed": failed} if failed else {})


def graph_of_cupy(calls: Calls) -> Callable[[], Any]:
    """All the calls as one CUDA graph."""
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream, cupy.cuda.using_allocator(pool_of_graphs().malloc):
        for call in calls:
            call()
        stream.begin_capture()
        try:
            for call in calls:
                call()
        finally:
            graph = stream.end_capture()
    stream.synchronize()
    return graph.launch


@functools.cache
def pool_of_graphs() -> Any:
    """Where all graphs have their memory: CuPy never gives back what is free in a pool that is gone."""
    import cupy

    return cupy.cuda.MemoryPool()


def graph_of_torch(calls: Calls) -> Callable[[], Any]:
    """The same for torch's."""
    import torch

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


OURS = ("deepcore", "deepcore graph", "tuned", "tuned graph", "compiled")
GRAPH_OF = {"deepcore": graph_of_cupy, "tuned": graph_of_cupy, "torch": graph_of_torch}


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
            if len(times[name]) < 5 or sum(times[name]) * counts[name] < MOST_SECONDS:
                times[name].append(seconds(calls, counts[name]))
    result = {}
    for name, values in times.items():
        deciles, median = statistics.quantiles(values, n=10), statistics.median(values)
        result[name] = (median, (deciles[-1] - deciles[0]) / median)
    return result


# ---- the works


def works() -> Iterator[Work]:
    """In the order of their interest."""
    yield from steps()
    for n, C in [(8192, 32000), (8192, 128256), (4096, 1000), (128, 10)]:
        for dtype in ("bfloat16", "float32"):
            yield cross_entropy(n, C, dtype, compiled=dtype == "bfloat16" and C >= 32000)
    for n, C, dtype in [(8192, 8192, "bfloat16"), (8192, 4096, "float32"), (32768, 768, "bfloat16")]:
        yield from row_norms(n, C, dtype, compiled=C == 8192)
    yield adamw(100_000_000)
    yield adamw(100_000)
    yield gradient_norm(100_000_000, 40)
    for n, i, o in [(8192, 8192, 8192), (4096, 784, 512), (128, 784, 128)]:
        for dtype in ("bfloat16", "tf32", "float32"):
            yield from products(n, i, o, dtype)
    yield from batch_norms((256, 64, 56, 56), "bfloat16")
    for n, d, dtype in [(8192, 4096, "float32"), (1_000_000, 64, "float32"), (8192, 4096, "bfloat16")]:
        yield of_op("reduce.column_sum", (n, d), dtype, [(n, d)], n * d, lambda X: lambda: X.sum(0, True))
    for name in ("gelu", "gelu_grad", "silu", "relu"):
        yield activation(name, 1 << 26, "bfloat16")
    yield mask(1 << 26)
    yield embedding(8192, 1024, 50257)
    yield from softmax(8192, 32000, "bfloat16")
    yield from pooling((128, 64, 56, 56), "float32")
    yield from attention((8, 16, 1024, 64), "bfloat16")
    for dtype in ("bfloat16", "tf32", "float32"):
        yield from convolution((64, 64, 56, 56), 128, dtype)


def array(seed: int, *shape: int, dtype: str, scale: float = 1.0) -> Any:
    """Normal numbers, drawn on the device."""
    import cupy

    random = cupy.random.RandomState(seed)
    X = random.standard_normal(shape, dtype=cupy.float32) * np.float32(scale)
    return X.astype(get_backend("cupy").dtype(dtype), copy=False)


def integers(seed: int, below: int, *shape: int) -> Any:
    """Whole numbers from 0 on, drawn on the device."""
    import cupy

    return cupy.random.RandomState(seed).randint(0, below, shape).astype("int64")


def itemsize(dtype: str) -> int:
    """Bytes of a number."""
    return 2 if dtype.endswith("16") else 4


def to_torch(x: Any) -> Any:
    """The same memory as a torch tensor."""
    import cupy
    import torch

    if x.dtype.name == "bfloat16":  # not every version hands these over by DLPack
        return torch.from_dlpack(x.view(cupy.int16)).view(torch.bfloat16)
    return torch.from_dlpack(x)


def of_op(
    op: str,
    shape: tuple[int, ...],
    dtype: str,
    draw: Any,
    numbers: int,
    torch: Callable[..., Any] | None = None,
    settings: tuple[Any, ...] = (),
    compiled: bool = False,
    flops: int = 0,
) -> Work:
    """One op on drawn arrays.

    draw: their shapes, or seed -> the arrays   numbers: that are read and written at least
    torch: the same arrays as tensors -> a call   compiled: whether torch.compile is timed as well
    """

    def make(seed: int) -> Any:
        if callable(draw):
            return draw(seed)
        return tuple(array(9 * seed + k, *shape, dtype=dtype) for k, shape in enumerate(draw))

    def torchs(compile: bool) -> Callable[[Any], Callable[[], Any]]:
        def prepare(s: Any) -> Callable[[], Any]:
            call = torch(*(to_torch(x) if hasattr(x, "dtype") else x for x in s))  # type: ignore[misc]
            return __import__("torch").compile(call) if compile else call

        return prepare

    variants = {
        "deepcore": lambda s: lambda: OPS[op](*s, *settings),
        "reference": lambda s: lambda: OPS[op].reference(*s, *settings),
    }
    if torch is not None and find_spec("torch"):
        variants |= {"torch": torchs(False)} | ({"torch.compile": torchs(True)} if compiled else {})
    return Work(op.partition(".")[2], shape, dtype, variants, make, numbers * itemsize(dtype), flops)


def cross_entropy(n: int, C: int, dtype: str, compiled: bool) -> Work:
    """Loss and gradient of labels."""

    def torch(X: Any, y: Any) -> Callable[[], Any]:
        from torch.nn.functional import cross_entropy

        X.requires_grad_(True)

        def call() -> Any:
            X.grad = None
            cross_entropy(X, y).backward()
            return X.grad

        return call

    def draw(seed: int) -> Any:
        return array(seed, n, C, dtype=dtype, scale=4.0), integers(seed, C, n)

    return of_op("loss.cross_entropy", (n, C), dtype, draw, 2 * n * C, torch, compiled=compiled)


def row_norms(n: int, C: int, dtype: str, compiled: bool) -> Iterator[Work]:
    """Layer normalisation, which reads X and writes Y, and its gradients; those of RMSNorm."""
    shape, row = (n, C), (1, C)

    def forward(X: Any, gamma: Any, beta: Any) -> Callable[[], Any]:
        from torch.nn.functional import layer_norm

        return lambda: layer_norm(X, (C,), gamma[0], beta[0], 1e-5)

    def backward(dY: Any, X: Any, mean: Any, r: Any, gamma: Any) -> Callable[[], Any]:
        import torch

        mean, r = mean[:, :1].float().contiguous(), r.float()
        op = torch.ops.aten.native_layer_norm_backward
        return lambda: op(dY, X, [C], mean, r, gamma[0], gamma[0], [True, True, True])

    yield of_op("norm.group_norm", shape, dtype, [shape, row, row], 2 * n * C, forward, (1, 1e-5), compiled)
    arrays = [shape, shape, (n, 2), (n, 1), row]
    yield of_op("norm.group_norm_backward", shape, dtype, arrays, 3 * n * C, backward, compiled=compiled)
    yield of_op("norm.rms_norm", shape, dtype, [shape, row], 2 * n * C, settings=(1e-5,))

    def rms_backward(dY: Any, X: Any, r: Any, gamma: Any) -> Callable[[], Any]:
        def call() -> Any:
            dy, h = dY.float(), r.float() * X.float()
            dh = gamma.float() * dy
            dX = r.float() * (dh - h * (h * dh).mean(-1, keepdim=True))
            return dX.to(dY.dtype), (h * dy).sum(0, keepdim=True).to(dY.dtype)

        return call

    arrays = [shape, shape, (n, 1), row]
    yield of_op("norm.rms_norm_backward", shape, dtype, arrays, 3 * n * C, rms_backward, compiled=compiled)


def batch_norms(shape: tuple[int, ...], dtype: str) -> Iterator[Work]:
    """In training, and the gradients."""
    channel, size = (1, shape[1], 1, 1), int(np.prod(shape))

    def forward(X: Any, gamma: Any, beta: Any) -> Callable[[], Any]:
        from torch.nn.functional import batch_norm

        return lambda: batch_norm(X, None, None, gamma.flatten(), beta.flatten(), True, 0.1, 1e-5)

    yield of_op("norm.batch_norm", shape, dtype, [shape, channel, channel], 3 * size, forward, (1e-5,))
    arrays = [shape, shape, (2, *channel[1:]), channel, channel]
    yield of_op("norm.batch_norm_backward", shape, dtype, arrays, 5 * size)


def adamw(n: int) -> Work:
    """One weight's step."""

    def torch(W: Any, dW: Any, M: Any, V: Any) -> Callable[[], Any]:
        import torch

        W.grad = dW
        optimizer = torch.optim.AdamW([W], fused=True, capturable=True)
        return optimizer.step

    def draw(seed: int) -> Any:
        W, dW, M, V = (array(4 * seed + k, n, dtype="float32") for k in range(4))
        return W, dW, M, abs(V)

    settings = (0.001, 0.03, (0.9, 0.999), 1e-8, 0.0, 0.99999)
    return of_op("update.adam", (n,), "float32", draw, 7 * n, torch, settings)


def gradient_norm(n: int, count: int) -> Work:
    """The length of so many gradients together."""

    def torch(*gradients: Any) -> Callable[[], Any]:
        import torch

        return lambda: torch.nn.utils.get_total_norm(gradients)

    shapes = [(n // count,)] * count
    return of_op("update.gradient_norm", (count, n // count), "float32", shapes, n, torch)


def products(n: int, i: int, o: int, dtype: str) -> Iterator[Work]:
    """Y = X W + b, and dX, dW, db. dtype: "tf32" for float32 that may be rounded to it"""

    def forward(X: Any, W: Any, b: Any) -> Callable[[], Any]:
        import torch

        return lambda: torch.addmm(b, X, W)

    def backward(dY: Any, X: Any, W: Any) -> Callable[[], Any]:
        return lambda: (dY @ W.T, X.T @ dY, dY.sum(0, keepdim=True))

    numbers, flops = n * i + i * o + n * o, 2 * n * i * o
    for op, shapes, times, torch in [
        ("linear.linear", [(n, i), (i, o), (1, o)], 1, forward),
        ("linear.linear_backward", [(n, o), (n, i), (i, o)], 2, backward),
    ]:
        numbered = "float32" if dtype == "tf32" else dtype
        work = of_op(op, (n, i, o), numbered, shapes, times * numbers, torch, flops=times * flops)
        yield with_algorithms(work, dtype)


def with_algorithms(work: Work, dtype: str) -> Work:
    """The work in TF32, if that is the dtype; else with a variant whose algorithms are tried."""
    if dtype != "tf32":
        ours = work.variants["deepcore"]
        work.variants["tuned"] = lambda s: tuned(ours(s))
        return work
    work.dtype = dtype
    work.variants = {
        name: lambda s, prepare=prepare: in_tf32(prepare(s)) for name, prepare in work.variants.items()
    }
    return work


def activation(name: str, n: int, dtype: str) -> Work:
    """Elementwise."""

    def torch(X: Any) -> Callable[[], Any]:
        import torch.nn.functional as F

        return lambda: getattr(F, name)(X)

    return of_op(f"activation.{name}", (n,), dtype, [(n,)], 2 * n, None if name.endswith("_grad") else torch)


def mask(n: int) -> Work:
    """The mask of a dropout: which words of the generator are large enough. 1 byte each."""
    import cupy

    def torch(like: Any) -> Callable[[], Any]:
        import torch

        out = torch.empty(n, dtype=torch.bool, device=like.device)
        return lambda: out.bernoulli_(0.5)

    like = lambda seed: (cupy.zeros(1, "float32"),)
    settings = (n, (3, 5), 7, 0, 1 << 23)
    return of_op("random.at_least", (n,), "float32", like, n // 4, torch, settings)


def embedding(n: int, d: int, words: int) -> Work:
    """The gradient of a table of words."""

    def torch(index: Any, rows: Any) -> Callable[[], Any]:
        import torch

        out = torch.zeros(words, d, device=rows.device)
        return lambda: out.zero_().index_add_(0, index, rows)

    def draw(seed: int) -> Any:
        return integers(seed, words, n), array(seed, n, d, dtype="float32")

    numbers = n * d + words * d
    work = of_op("embedding.scatter_add", (n, d, words), "float32", draw, numbers, torch, (words,))
    work.in_graph = False  # a sort asks for memory
    return work


def softmax(n: int, C: int, dtype: str) -> Iterator[Work]:
    """Y, and dX."""
    shape = (n, C)
    yield of_op("softmax.softmax", shape, dtype, [shape], 2 * n * C, lambda X: lambda: X.softmax(-1))
    yield of_op("softmax.softmax_backward", shape, dtype, [shape, shape], 3 * n * C)


def pooling(shape: tuple[int, ...], dtype: str) -> Iterator[Work]:
    """The largest of 2 x 2, and the gradient."""
    how, size = ((2, 2), (2, 2), ((0, 0), (0, 0))), int(np.prod(shape))

    def torch(X: Any) -> Callable[[], Any]:
        from torch.nn.functional import max_pool2d

        return lambda: max_pool2d(X, 2, return_indices=True)

    def draw(seed: int) -> Any:
        Y, index = OPS["pool.max_pool"](array(seed, *shape, dtype=dtype), *how)
        return Y, index

    yield of_op("pool.max_pool", shape, dtype, [shape], size * 21 // 16, torch, how)
    yield of_op("pool.max_pool_backward", shape, dtype, draw, size * 21 // 16, None, (shape, *how))


def convolution(shape: tuple[int, ...], filters: int, dtype: str) -> Iterator[Work]:
    """3 x 3: Y, dX and dW, by cuDNN if it is there, and by im2col; torch's in NHWC, which it likes best."""
    n, c, h, w = shape
    how = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    X, W, Y = shape, (filters, c, 3, 3), (n, filters, h, w)

    def nhwc(x: Any) -> Any:
        return x.contiguous(memory_format=__import__("torch").channels_last)

    def forward(X: Any, W: Any) -> Callable[[], Any]:
        import torch

        X, W = nhwc(X), nhwc(W)
        return lambda: torch.conv2d(X, W, padding=1)

    def gradient(of: int) -> Callable[..., Any]:
        def torch(dY: Any, given: Any) -> Callable[[], Any]:
            import torch

            dY, other = nhwc(dY), torch.empty(W if of else X, dtype=dY.dtype, device=dY.device)
            images, weights = (given, other) if of else (other, given)
            images, weights, mask = nhwc(images), nhwc(weights), [of == 0, of == 1, False]
            op = torch.ops.aten.convolution_backward
            return lambda: op(dY, images, weights, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)

        return torch

    numbers, flops = n * h * w * (c + filters), 2 * n * h * w * c * filters * 9
    numbered = "float32" if dtype == "tf32" else dtype
    for op, arrays, torch, settings in [
        ("conv.conv", [X, W], forward, (None, *how)),
        ("conv.conv_dX", [Y, W], gradient(0), (X, *how)),
        ("conv.conv_dW", [Y, X], gradient(1), ((3, 3), *how)),
    ]:
        work = of_op(op, shape, numbered, arrays, numbers, torch, settings, flops=flops)
        work.variants["no cuDNN"] = lambda s, prepare=work.variants["deepcore"]: without_cudnn(prepare(s))
        yield with_algorithms(work, dtype)


def attention(shape: tuple[int, ...], dtype: str) -> Iterator[Work]:
    """Of as many queries as keys, all allowed: Y; and dQ, dK, dV."""
    n, h, t, d = shape

    def forward(*QKV: Any) -> Callable[[], Any]:
        from torch.nn.functional import scaled_dot_product_attention

        return lambda: scaled_dot_product_attention(*QKV)

    def backward(dY: Any, Q: Any, K: Any, V: Any, P: Any) -> Callable[[], Any]:
        import torch

        QKV = [x.detach().requires_grad_(True) for x in (Q, K, V)]
        Y = torch.nn.functional.scaled_dot_product_attention(*QKV)
        return lambda: torch.autograd.grad(Y, QKV, dY, retain_graph=True)

    def draw(seed: int) -> Any:
        dY, Q, K, V = (array(4 * seed + k, *shape, dtype=dtype) for k in range(4))
        return dY, Q, K, V, OPS["attention.attention"](Q, K, V)[1]

    size, flops = n * h * t * d, 4 * n * h * t * t * d
    yield of_op("attention.attention", shape, dtype, [shape] * 3, 4 * size, forward, flops=flops)
    backwards = of_op(
        "attention.attention_backward", shape, dtype, draw, 8 * size, backward, flops=5 * flops // 2
    )
    del backwards.variants["reference"]  # it takes a P that cuDNN doesn't write
    yield backwards


def without_cudnn(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, where deepcore's own kernels do the work of cuDNN."""
    from deepcore.backends.cupy import cudnn

    def within() -> Any:
        load, cudnn.load = cudnn.load, lambda: None
        try:
            return call()
        finally:
            cudnn.load = load

    return within


# ---- whole training steps


def steps() -> Iterator[Work]:
    """Of perceptrons with AdamW: forward, loss, backward, update."""
    yield step(128, (784, 128, 10))
    yield step(256, (784, 512, 512, 10))
    yield step(512, (1024, 2048, 2048, 1000))
    yield step(4096, (4096, 4096, 4096, 1000), "bfloat16")


def step(n: int, sizes: tuple[int, ...], dtype: str = "float32") -> Work:
    """deepcore: call by call; compiled: one CUDA graph. torch likewise, and by torch.compile.

    dtype: "bfloat16" for mixed precision, torch's being its autocast
    """
    variants: dict[str, Any] = {
        "deepcore": lambda s: deepcore_step(sizes, *s, compiled=False, dtype=dtype),
        "compiled": lambda s: deepcore_step(sizes, *s, compiled=True, dtype=dtype),
    }
    if find_spec("torch"):
        for name, way in (("torch", "eager"), ("torch graph", "graph"), ("torch.compile", "compile")):
            variants[name] = lambda s, way=way: torch_step(sizes, *map(to_torch, s), way=way, dtype=dtype)
    weights = sum(i * o + o for i, o in pairwise(sizes))
    return Work(
        f"step {'-'.join(map(str, sizes))}",
        (n,),
        dtype,
        variants,
        lambda seed: (array(seed, n, sizes[0], dtype="float32"), integers(seed, sizes[-1], n)),
        28 * weights + 4 * n * sum(sizes),
        6 * n * weights,
        in_graph=False,
    )


def deepcore_step(sizes: tuple[int, ...], X: Any, y: Any, compiled: bool, dtype: str) -> Callable[[], Any]:
    """A net of its own, and a step on this batch."""
    import deepcore as dc
    from deepcore.train.mixed import passes

    layers = [f for i, o in pairwise(sizes) for f in (dc.Linear(i, o), dc.ReLU())][:-1]
    net = dc.Net(layers, dc.CrossEntropyLoss()).to("cupy", device=0)
    optimizer = dc.optim.AdamW()
    precision = "bf16" if dtype == "bfloat16" else "float32"
    if compiled:
        step = net.compile(optimizer, precision)
        for _ in range(4):
            step(X, y)
        for program in step._programs.values():
            if program.function.why_not is not None:
                raise RuntimeError(f"not captured: {program.function.why_not}")
        return lambda: step(X, y)

    def call() -> None:
        passed = passes(net, precision)
        passed.loss(passed(X), y)
        passed.backward()
        optimizer.step(net)

    return call


def torch_step(sizes: tuple[int, ...], X: Any, y: Any, way: str, dtype: str) -> Callable[[], Any]:
    """The same in torch, with its fused AdamW."""
    import torch
    from torch import nn

    pairs, mixed, in_graph = pairwise(sizes), dtype == "bfloat16", way == "graph"
    model = nn.Sequential(*[f for i, o in pairs for f in (nn.Linear(i, o), nn.ReLU())][:-1]).to(X.device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, capturable=in_graph)
    loss = nn.CrossEntropyLoss()

    def forward(X: Any, y: Any) -> Any:
        with torch.autocast(X.device.type, torch.bfloat16, enabled=mixed, cache_enabled=not in_graph):
            return loss(model(X), y)

    if way == "compile":
        forward = torch.compile(forward)

    def call(X: Any = X, y: Any = y) -> Any:
        optimizer.zero_grad(set_to_none=True)
        L = forward(X, y)
        L.backward()
        optimizer.step()
        return L

    if not in_graph:
        return call
    static_X, static_y = X.clone(), y.clone()
    replay = graph_of_torch([lambda: call(static_X, static_y)] * 1)

    def once() -> None:
        static_X.copy_(X)
        static_y.copy_(y)
        replay()

    return once


# ---- what is wanted


def goals(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What the rows say of each goal."""
    ours, torch = OURS, ("torch", "torch graph")
    by_compiler, large = ("torch.compile",), (8192, 8192, 8192)
    logits = [(8192, 128256), (8192, 32000)]
    wanted: list[tuple[str, tuple[int, ...], str, tuple[str, ...], float]] = [
        *(("cross_entropy", shape, "bfloat16", (), 85) for shape in logits),
        *(("cross_entropy", shape, "bfloat16", by_compiler, 1.5) for shape in logits),
        *((f"{name}_norm_backward", (8192, 8192), "bfloat16", by_compiler, 1.3) for name in ("group", "rms")),
        ("adam", (100_000_000,), "float32", torch, 1.2),
        *(
            (name, shape, dtype, torch, 0.95 if shape == large else 1.0)
            for shape in (large, (4096, 784, 512))
            for dtype in ("bfloat16", "tf32")
            for name in ("linear", "linear_backward")
        ),
        ("step 784-128-10", (128,), "float32", ("torch",), 5.0),
        ("step 784-128-10", (128,), "float32", ("torch graph",), 1.0),
    ]  # fmt: skip
    for name, shape, dtype, peers, least in wanted:
        found = [
            r for r in rows if (r["work"], tuple(r.get("shape", ())), r.get("dtype")) == (name, shape, dtype)
        ]
        reached: Any = "not measured"
        if found and not peers and "% of limit" in found[0]:
            reached = found[0]["% of limit"]
        elif found:
            best = [min((found[0][v] for v in of if v in found[0]), default=None) for of in (ours, peers)]
            if None not in best:
                reached = round(best[1] / best[0], 2)
        what = f"times faster than {' and '.join(peers)}" if peers else "% of the limit"
        where = f"{name} {'x'.join(map(str, shape))} {dtype}"
        met = "" if isinstance(reached, str) else " (reached)" if reached >= least else " (missed)"
        yield {"goal": f"{where}: {least} {what}", "reached": f"{reached}{met}"}


def as_text(rows: list[dict[str, Any]]) -> str:
    """The table, microseconds."""
    columns = (
        *(*OURS, "no cuDNN", "reference"),
        *("torch", "torch graph", "torch.compile", "limit", "% of limit", "TB/s", "TFLOP/s"),
    )
    lines = [f"{'work':44}" + "".join(f"{column:>15}" for column in columns)]
    for row in rows:
        name = f"{row['work']} {'x'.join(map(str, row.get('shape', ())))} {row.get('dtype', '')}"
        lines.append(f"{name:44}" + "".join(f"{row.get(column, ''):>15}" for column in columns))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
