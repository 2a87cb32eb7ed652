"""The CuPy backend where there is no GPU: what is said, and what goes on. With a GPU: tests/gpu/."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import deepcore as dc
from deepcore import BackendUnavailable
from deepcore.backends import cupy as backend
from deepcore.backends import registry, select

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch):
    """Each test asks again whether CuPy works, and leaves nothing behind."""
    monkeypatch.delenv("DEEPCORE_BACKEND", raising=False)
    monkeypatch.delenv("DEEPCORE_FALLBACK", raising=False)
    monkeypatch.setattr(select, "_selected", None)
    monkeypatch.delitem(registry._live, "cupy", raising=False)
    backend._why_unusable.cache_clear()
    yield
    backend._why_unusable.cache_clear()


def fake_cupy(monkeypatch, count, arange=None):
    """Stand a module called cupy in, of which there is only what the question `is it usable?` asks for."""
    cupy = types.ModuleType("cupy")
    runtime = types.SimpleNamespace(getDeviceCount=count)
    monkeypatch.setattr(cupy, "cuda", types.SimpleNamespace(runtime=runtime), raising=False)
    monkeypatch.setattr(cupy, "float32", "float32", raising=False)
    monkeypatch.setattr(cupy, "arange", arange, raising=False)
    monkeypatch.setitem(sys.modules, "cupy", cupy)


def failing(error):
    def call(*_, **__):
        raise error

    return call


def refusal(name="cupy"):
    with pytest.raises(BackendUnavailable) as error:
        dc.set_backend(name)
    assert str(error.value).startswith("backend 'cupy' is not usable here: ")
    return str(error.value)


@pytest.mark.parametrize("name", ["cupy", "gpu", "cuda"])
def test_without_cupy_the_message_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    message = refusal(name)
    assert "CuPy is not installed" in message
    assert 'pip install "deepcore[cuda13]"' in message and "deepcore[cuda12]" in message


def test_without_a_driver(monkeypatch):
    error = RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    fake_cupy(monkeypatch, failing(error))
    assert "no NVIDIA driver that fits this CuPy (cudaErrorInsufficientDriver" in refusal()
    assert "install or update the driver" in refusal()


@pytest.mark.parametrize("count", [lambda: 0, failing(RuntimeError("cudaErrorNoDevice: none is detected"))])
def test_without_a_device(count, monkeypatch):
    fake_cupy(monkeypatch, count)
    assert "no GPU is visible" in refusal() and "CUDA_VISIBLE_DEVICES" in refusal()


def test_without_a_compiler(monkeypatch):
    fake_cupy(monkeypatch, lambda: 1, failing(RuntimeError("Failed to find CUDA headers")))
    message = refusal()
    assert "a small kernel does not compile or run (RuntimeError: Failed to find CUDA headers)" in message
    assert "[ctk]" in message and 'pip install "deepcore[cuda13]"' in message


def test_the_answer_is_kept(monkeypatch):
    calls = []
    fake_cupy(monkeypatch, lambda: calls.append(1) or 0)
    for _ in range(3):
        refusal()
        assert "cupy" not in dc.available_backends()
    assert len(calls) == 1


def test_auto_goes_on_with_numpy_and_says_nothing(monkeypatch, recwarn):
    fake_cupy(monkeypatch, lambda: 0)
    dc.set_backend("auto")
    assert dc.backend_of(dc.asarray([1.0])) == "numpy"
    assert not recwarn.list


def test_a_net_stays_where_it_is(monkeypatch):
    fake_cupy(monkeypatch, lambda: 0)
    net = dc.Net([dc.Linear(2, 2)])
    with pytest.raises(BackendUnavailable, match="no GPU is visible"):
        net.to("cupy", device=0)
    assert dc.backend_of(net.layers[0].weight["W"]) == "numpy"


def train(folder, *options, **environment):
    """`python -m deepcore train` on this machine as it is."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DEEPCORE")}
    return subprocess.run(
        [sys.executable, *options, "-m", "deepcore", "train"],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def no_gpu():
    reason = backend._why_unusable()
    if reason is None:
        pytest.skip("there is a GPU here, on which CuPy works")
    return reason


def test_the_variable_warns_and_training_goes_on_with_numpy(tmp_path):
    reason = no_gpu()
    done = train(tmp_path, DEEPCORE_BACKEND="cupy")
    assert done.returncode == 0
    assert "train accuracy" in done.stdout
    assert done.stderr.count("BackendFallbackWarning: DEEPCORE_BACKEND: backend 'cupy' is not usable") == 1
    assert reason in done.stderr and "Going on with numpy, on the CPU" in done.stderr


@pytest.mark.parametrize(
    "environment", [{"DEEPCORE_BACKEND": "auto"}, {"DEEPCORE_FALLBACK": "silent"}], ids=str
)
def test_training_says_nothing_where_it_was_told_so(environment, tmp_path):
    no_gpu()
    done = train(tmp_path, "-W", "error", **{"DEEPCORE_BACKEND": "cupy"} | environment)
    assert (done.returncode, "train accuracy" in done.stdout) == (0, True)
    assert "cupy" not in done.stderr


def test_the_variable_may_be_an_error(tmp_path):
    no_gpu()
    done = train(tmp_path, DEEPCORE_BACKEND="cupy", DEEPCORE_FALLBACK="error")
    assert done.returncode != 0
    assert "backend 'cupy' is not usable here" in done.stderr and "Traceback" not in done.stderr[-200:]


def test_looking_at_a_type_imports_no_cupy():
    code = "import sys, deepcore as dc; dc.asarray([1.0]); dc.asarray(range(3)); print('cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_of_the_real_cupy_without_a_driver():
    pytest.importorskip("cupy", reason='needs CuPy: pip install "deepcore[cuda13]"')
    no_gpu()
    assert any(part in refusal() for part in ("no NVIDIA driver", "no GPU is visible", "a small kernel"))
