"""bench/gpu.py without a GPU: each of its works, small, on the stand-in for CuPy. No time counts here."""

import importlib.util
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
    yield from bench.products(4, 3, 5, "float32")
    yield from bench.batch_norms((2, 3, 4, 4), "float32")
    yield bench.of_op("reduce.column_sum", (9, 4), "float32", [(9, 4)], 36)
    yield bench.activation("gelu_grad", 64, "float32")
    yield bench.mask(64)
    yield bench.embedding(8, 4, 7)
    yield from bench.softmax(2, 9, "float32")
    yield from bench.pooling((2, 3, 4, 4), "float32")
    yield bench.convolution((2, 3, 4, 4), 5, "float32")
    yield bench.step(4, (6, 5, 3))


def test_each_work_runs(bench):
    speeds = {"copy": 1e12, "float32": 1e13, "bfloat16": 1e14}
    rows = [bench.row_of(work, speeds) for work in small(bench)]
    for row in rows:
        assert "failed" not in row, row
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
