"""What info tells, and that no broken library keeps it from telling the rest."""

import platform
import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore.diagnose import info as module
from deepcore.diagnose.info import info, look_at, probe


def sections(text):
    """title -> {name: what stands right of it, in one line}"""
    found = {}
    for block in text.split("\n\n"):
        title, *lines = block.splitlines()
        entries, name = found.setdefault(title, {}), ""
        for line in lines:
            if line.startswith("   "):
                entries[name] += f" {line.strip()}"
            else:
                name, _, right = line.strip().partition("  ")
                entries[name] = right.strip()
    return found


def test_what_stands_where(monkeypatch):
    monkeypatch.setenv("DEEPCORE_FALLBACK", "silent")
    monkeypatch.delenv("DEEPCORE_BACKEND", raising=False)
    text = info()
    found = sections(text)
    assert found["versions"]["Python"].startswith(platform.python_version())
    assert found["versions"]["deepcore"] == dc.__version__
    assert found["versions"]["NumPy"] == np.__version__
    assert "core" in found["machine"]["CPU"]
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    assert found["machine"]["BLAS of NumPy"].startswith(f"{blas['name']} {blas['version']}")
    assert found["environment"]["DEEPCORE_FALLBACK"] == "silent"
    assert found["environment"]["DEEPCORE_BACKEND"] == "not set"
    assert found["backends"]["numpy"].split() == [np.__version__, "cpu"]
    assert found["backends"]["new arrays"] == "numpy"
    assert max(map(len, text.splitlines())) <= 80
    text.encode("ascii")  # any pipe takes it


def test_every_backend_has_its_line_whatever_becomes_of_its_library(third_party):
    third_party(
        good="pass",
        absent="package = 'no_such_library'",
        idle="why_unusable = classmethod(lambda cls: 'no GPU is counted; plug one in')",
        broken="why_unusable = classmethod(lambda cls: 1 / 0)",
        deadly="why_unusable = classmethod(lambda cls: os._exit(11))",
    )
    found = sections(info())["backends"]
    assert found["numpy"].endswith("cpu")
    assert found["good"].split(maxsplit=1) == ["9.0", "cpu, Twin 9000 (8 GiB)"]
    assert found["absent"].startswith("not usable: No module named 'no_such_library'; install it with: pip")
    assert found["idle"] == "9.0 not usable: no GPU is counted; plug one in"
    assert found["broken"].startswith("not usable: ZeroDivisionError: division by zero; it may be broken: ")
    assert found["deadly"].startswith("not usable: its process died of exit status 11; it may be broken")


def test_a_library_is_looked_at_in_another_process(third_party):
    third_party(good="pass")
    assert probe("good").devices and "twin_backends" not in sys.modules


def test_a_library_that_hangs(third_party, monkeypatch):
    third_party(slow="why_unusable = classmethod(lambda cls: __import__('time').sleep(600))")
    monkeypatch.setattr(module, "_PATIENCE", 0.5)
    assert probe("slow").problem.startswith("no answer in 0.5 s")


@pytest.mark.filterwarnings("default")
def test_warnings_of_a_library_are_not_told(third_party, recwarn):
    third_party(loud="devices = lambda self: __import__('warnings').warn('old!') or ['cpu']")
    assert look_at("loud").devices == ["cpu"]
    assert not recwarn.list


@pytest.mark.parametrize(
    ("fallback", "told"),
    [
        ("warn", "numpy (DEEPCORE_BACKEND: there is no backend 'abacus'"),
        ("error", "none: there is no backend"),
    ],
)
def test_a_selection_that_cannot_be_met(monkeypatch, fallback, told):
    monkeypatch.setenv("DEEPCORE_BACKEND", "abacus")
    monkeypatch.setenv("DEEPCORE_FALLBACK", fallback)
    assert sections(info())["backends"]["new arrays"].startswith(told)


def test_without_threadpoolctl(monkeypatch):
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    assert "(pip install threadpoolctl)" in sections(info())["machine"]["BLAS of NumPy"]


def test_a_package_that_is_broken(monkeypatch):
    monkeypatch.setitem(sys.modules, "array_api_extra", None)
    assert sections(info())["versions"]["array-api-extra"].startswith("broken (ModuleNotFoundError")


def test_a_machine_that_tells_little(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(module.os, "sysconf", int)
    found = sections(info())["machine"]
    assert found["CPU"].startswith(platform.machine()) and found["memory"] == "unknown"
