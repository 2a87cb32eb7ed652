"""bench/gpu.py without a GPU: each of its works, small, on the stand-in for CuPy. No time counts here."""

import importlib.util
import json
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

from deepcore.backends import registry

from . import emulation
from .test_nets import PretendBackend, cupy  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="the emulation of CUDA needs g++")

PATH = Path(__file__).resolve().parents[2] / "bench" / "gpu.py"


@pytest.fixture
def bench(cupy, monkeypatch):  # noqa: F811
    assert isinstance(registry.get_backend("cupy"), PretendBackend)
    monkeypatch.setattr(registry.get_backend("cupy"), "dtype", np.dtype, raising=False)
    monkeypatch.setattr(
        cupy, "random", types.SimpleNamespace(RandomState=lambda seed: Random(cupy, seed)), raising=False
    )
    spec = importlib.util.spec_from_file_location("bench_gpu", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "bench_gpu", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ENOUGH", 0)
    monkeypatch.setattr(module, "measure", once)
    monkeypatch.setattr(module, "find_spec", lambda name: None)  # torch would want a GPU
    return module


def once(variants, rounds=1):
    """Each call, made once and said to take a second."""
    for calls in variants.values():
        for call in calls:
            call()
    return dict.fromkeys(variants, (1.0, 0.0))


class Random:
    """Numbers drawn on the device."""

    def __init__(self, cupy, seed):  # noqa: F811
        self.cupy, self.host = cupy, np.random.RandomState(seed)

    def standard_normal(self, shape, dtype):
        return self.cupy.array(self.host.standard_normal(shape).astype(dtype))

    def randint(self, low, high, shape):
        return self.cupy.array(self.host.randint(low, high, shape))


def small(bench):
    yield bench.cross_entropy(4, 5, "float32", compiled=True)
    yield from bench.row_norms(4, 8, "float32", compiled=True)
    yield bench.adamw(100)
    yield bench.gradient_norm(100, 4)
    yield from bench.products(4, 3, 5, "float32")
    yield from bench.products(4, 3, 5, "tf32")
    yield from bench.batch_norms((2, 3, 4, 4), "float32")
    yield bench.of_op("reduce.column_sum", (9, 4), "float32", [(9, 4)], 36)
    yield bench.activation("gelu_grad", 64, "float32")
    yield bench.mask(64)
    yield bench.embedding(8, 4, 7)
    yield from bench.softmax(2, 9, "float32")
    yield from bench.pooling((2, 3, 4, 4), "float32")
    yield from bench.convolution((2, 3, 4, 4), 5, "float32")
    yield from bench.convolution((2, 3, 4, 4), 5, "tf32")
    yield from bench.attention((2, 3, 4, 8), "float16")
    yield bench.step(4, (6, 5, 3), "bfloat16")
    yield bench.step(4, (6, 5, 3))


def test_each_work_runs(bench):
    speeds = {"copy": 1e12, "float32": 1e13, "bfloat16": 1e14}
    rows = [bench.row_of(work, speeds) for work in small(bench)]
    for row in rows:
        assert "failed" not in row, row["failed"]
        assert row["deepcore"] > 0 and row["limit"] >= 0
    assert "compiled" in rows[-1] and "deepcore graph" in rows[0]
    text = bench.as_text(rows)
    assert all(row["work"] in text for row in rows)


def test_the_first_question_is_asked(bench, cupy):  # noqa: F811
    assert bench.whether_products_are_captured()["answer"] == "yes"
    cupy.cublaslt.supported = False
    importlib.import_module("deepcore.backends.cupy.cublaslt")._mine.plans.clear()
    assert bench.whether_products_are_captured()["answer"].startswith("no")


def test_all_works_can_be_made(bench):
    names = {work.name for work in bench.works()}
    assert {"cross_entropy", "adam", "group_norm_backward", "linear", "step 784-128-10"} <= names


def test_torchs_side_of_each_work_runs(bench, monkeypatch):
    """On the CPU, where torch computes the same."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(bench, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(bench, "to_torch", lambda x: torch.from_numpy(np.array(x)))
    compared = 0
    for work in small(bench):
        if "torch" in work.variants:
            made = work.make(0)
            call = work.variants["torch"](made)
            call(), call()  # the second as the timed ones, after what the first has left
            compared += 1
    assert compared >= 15


def test_rows_of_tf32_are_in_tf32_and_no_others(bench, cupy):  # noqa: F811
    for dtype, compute in (("tf32", 77), ("float32", 68)):
        cupy.cublaslt.products.clear()
        for work in bench.products(4, 3, 5, dtype):
            assert work.dtype == dtype
            bench.row_of(work, {"copy": 1e12, "float32": 1e13, "tf32": 1e14})
        assert {product["compute"] for product in cupy.cublaslt.products} == {compute}


# ---- what goes wrong


def test_rows_count_where_a_dtype_is_missing(bench, monkeypatch, capsys):
    def speed(dtype, tf32=False):
        if dtype == "bfloat16":
            raise ImportError("no ml_dtypes")
        return 1e13

    monkeypatch.setattr(bench, "copy_speed", lambda: 1e12)
    monkeypatch.setattr(bench, "product_speed", speed)
    monkeypatch.setattr(bench, "works", lambda: iter([bench.activation("gelu_grad", 64, "float32")]))
    assert bench.table(0, time.monotonic() + 60) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    told = {row["dtype"]: row for row in rows if row.get("work") == "product"}
    assert "no ml_dtypes" in told["bfloat16"]["error"] and "error" not in told["tf32"]
    assert rows[-1]["work"] == "gelu_grad" and "deepcore graph" in rows[-1]
    assert bench.pool_of_graphs().freed == 1  # between rows, as CuPy's own pool


CHILD = """
import json, os, sys, time
ways, first = sys.argv[1].split(","), int(sys.argv[2])
print("a library says hello")
for number, way in enumerate(ways[first:], first):
    print(json.dumps({"begin": way, "number": number}), flush=True)
    if way == "dies":
        print("bad news", file=sys.stderr, flush=True)
        os._exit(3)
    if way == "hangs":
        time.sleep(60)
    print(json.dumps({"work": way, "number": number}), flush=True)
    if way == "loses":
        sys.exit("no GPU any more")
"""


def children(bench, ways, seconds=60.0):
    command = (sys.executable, "-c", CHILD, ways)
    return list(bench.rows_of_children(time.monotonic() + seconds, command))


def test_a_row_that_kills_its_process_costs_itself_alone(bench):
    rows = children(bench, "one,dies,two,loses,three")
    assert [row["work"] for row in rows] == ["one", "dies", "two", "loses", "start", "three"]
    assert rows[1]["error"] == "ended with 3" and "bad news" in rows[1]["said"]
    assert "no GPU any more" in rows[4]["said"]


def test_a_row_that_is_silent_is_given_up(bench, monkeypatch):
    monkeypatch.setattr(bench, "SILENCE", 2.0)
    rows = children(bench, "one,hangs,two")
    assert [row["work"] for row in rows] == ["one", "hangs", "two"]
    assert rows[1]["error"] == "silent for too long"


def test_processes_that_do_not_even_start_are_two(bench):
    rows = list(
        bench.rows_of_children(time.monotonic() + 60, (sys.executable, "-c", "raise SystemExit('alas')"))
    )
    assert [row["said"].strip() for row in rows] == ["alas", "alas"]


@pytest.fixture
def deaf_to_interrupts():
    """As a program is that a shell has started with &; it passes that on to those that it starts."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("deaf_to_interrupts")
def test_tests_that_take_too_long_say_what_they_have_found(bench, tmp_path):
    path = tmp_path / "test_slow.py"
    path.write_text("import time\ndef test_bad(): assert 1 == 2\ndef test_slow(): time.sleep(60)\n")
    bench.find_spec = lambda name: None  # in one process
    told = bench.tests("slow", [str(path), "-o", "addopts=", f"--rootdir={tmp_path}"], 8.0)
    assert told["status"] == "out of time" and "1 failed" in told["last"]
    assert any("test_slow.py" in line for line in told["failures"])


def test_each_question_is_asked_whatever_the_others_raise(bench, capsys):
    assert bench.questions() == 0  # the stand-in has no properties of a GPU
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "machine failed" in first and second["answer"] == "yes"


def test_a_crash_at_the_first_question_is_told(bench):
    child = """import os; print('{"gpu": "H100"}', flush=True); os.abort()"""
    told = bench.answers(20.0, (sys.executable, "-c", child))
    assert told["gpu"] == "H100" and told["error"].startswith("ended with -6")
    told = bench.answers(2.0, (sys.executable, "-c", "import time; time.sleep(60)"))
    assert told == {"error": "silent for too long"}


def test_a_stage_that_fails_does_not_end_the_run(bench, monkeypatch, tmp_path, capsys):
    """Whatever the machine lacks, there is a table, and a word on each goal."""
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path / "out.jsonl"), "--seconds", "5"])
    monkeypatch.setattr(bench, "answers", broken)
    monkeypatch.setattr(bench, "compiled_kernels", broken)
    monkeypatch.setattr(bench, "tests", broken)
    row = {"work": "cross_entropy", "shape": [8192, 32000], "dtype": "bfloat16", "% of limit": 91.0}
    rows = [row | {"deepcore": 10.0, "torch.compile": 14.0}]
    monkeypatch.setattr(bench, "rows_of_children", lambda end: iter(rows))
    assert bench.main() == 0
    said = capsys.readouterr().out
    assert "cross_entropy 8192x32000 bfloat16: 85 % of the limit" in said and "91.0 (reached)" in said
    assert "1.5 times faster than torch.compile" in said and "1.4 (missed)" in said and "not measured" in said
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sum("error" in line for line in written) >= 3 and rows[0] in written


def broken(*arguments):
    raise RuntimeError("broken")
