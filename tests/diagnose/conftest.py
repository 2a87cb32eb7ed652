"""Backends of a third party, installed for one test as a package would be: by their entry points."""

import sys

import pytest

from deepcore.backends import registry

HEAD = """\
import os
import numpy as np
from deepcore.backends.base import Backend

class Twin(Backend):
    name, package, namespace, kernels = "twin", "twin_library", "numpy", "twin_library"

    @classmethod
    def owns(cls, kind):
        return False

    def to_numpy(self, x):
        return np.asarray(x)

    def device(self, x):
        return "cpu"

    def devices(self):
        return ["cpu", "Twin 9000 (8 GiB)"]
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    """third_party(name="the body of a class that is like Twin", ...): each is a backend from now on."""

    def install(kernels=None, **bodies):
        library = tmp_path / "twin_library"
        library.mkdir()
        (library / "__init__.py").write_text("__version__ = '9.0'\n")
        for family, code in (kernels or {}).items():
            (library / f"{family}.py").write_text(code)
        classes = [f"class {name}(Twin):\n    name = {name!r}\n    {body}\n" for name, body in bodies.items()]
        (tmp_path / "twin_backends.py").write_text(HEAD + "\n".join(classes))
        metadata = tmp_path / "twin-9.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: twin\nVersion: 9.0\n")
        lines = [f"{name} = twin_backends:{name}" for name in bodies]
        (metadata / "entry_points.txt").write_text("\n".join(["[deepcore.backends]", *lines]))
        monkeypatch.syspath_prepend(tmp_path)
        registry._entry_points.cache_clear()

    yield install
    monkeypatch.undo()
    sys.modules.pop("twin_backends", None)
    registry._entry_points.cache_clear()
