"""What every backend tells of itself, and how it is waited for."""

import sys
import types

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends.base import Backend
from deepcore.backends.registry import backend_class, get_backend


@pytest.mark.parametrize("name", dc.available_backends())
def test_version_and_devices(name):
    backend = get_backend(name)
    assert backend.version() == sys.modules[backend.package].__version__
    devices = backend.devices()
    assert devices and all(isinstance(device, str) and "(" not in device.split()[0] for device in devices)


def test_the_devices_of_the_referee():
    pytest.importorskip("array_api_strict")
    assert {"CPU_DEVICE", "device1", "device2"} <= set(get_backend("strict").devices())


def test_a_class_goes_by_its_alias_too():
    assert backend_class("cpu") is backend_class("numpy")


def test_a_library_that_does_not_tell_its_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "nameless", types.ModuleType("nameless"))
    assert type("Nameless", (Backend,), {"package": "nameless"}).version() == "unknown"


def test_waiting_is_for_all_work_and_for_each_promise(monkeypatch):
    waited = []

    class Promise:
        def block_until_ready(self):
            waited.append(self)

    backend = get_backend("numpy")
    monkeypatch.setattr(type(backend), "synchronize", lambda self: waited.append("all"))
    first, second = Promise(), Promise()
    backend.wait_for(first, np.zeros(2), None, 3.0, second)
    assert waited == ["all", first, second]
