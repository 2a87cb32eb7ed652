"""What every test here has around it, and the table of what was tested where."""

import contextlib
import functools
import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from tests.table import table_of_places

collect_ignore = ["narrow.py", "wide.py"]  # what these import changes for all that numba compiles later


@pytest.fixture(autouse=True)
def _numbers_of_64_bits(request):
    """A test at a place where JAX has numbers of 64 bits runs with them, in its own thread alone."""
    callspec = getattr(request.node, "callspec", None)
    place = callspec.params.get("place") if callspec else None
    if getattr(place, "x64", False) and importlib.util.find_spec("jax"):  # else the test skips by itself
        import jax

        context = jax.enable_x64(True)
    else:
        context = contextlib.nullcontext()
    with context:
        yield


@pytest.fixture
def overwriting(monkeypatch):
    """Updates overwrite small arrays too, where nobody else holds them. Skips without compiled kernels."""
    from deepcore.backends.numpy import fast, memory

    if not fast.usable():
        pytest.skip('needs numba: pip install "deepcore[fast]"')
    from deepcore.backends.numpy.fast import update

    monkeypatch.setattr(memory, "_LARGE", 0)
    monkeypatch.setattr(update, "alike", functools.partial(update.alike, least=0))


def pytest_collection_modifyitems(items):
    """On JAX case by case, not test by test: what a process has compiled for a case, it uses again."""

    def of_case(item):
        callspec = getattr(item, "callspec", None)
        place, case = (callspec.params.get(name) for name in ("place", "case")) if callspec else (None, None)
        return f"{case.kind.__name__} {case.name}" if case and getattr(place, "backend", "") == "jax" else ""

    items.sort(key=of_case)


def pytest_addoption(parser):
    parser.addoption(
        "--places-table",
        type=Path,
        metavar="FILE",
        help="write the table of the battery, class by place, as docs/backends.md has it",
    )


def pytest_configure(config):
    path = config.getoption("--places-table")
    if path and not hasattr(config, "workerinput"):  # under xdist, the process that hears all reports
        config.pluginmanager.register(_Table(path))


class _Table:
    """Counts the battery's tests as their reports come in."""

    def __init__(self, path):
        self.path = path
        self.outcomes = Counter()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.failed:
            self.outcomes[report.nodeid, report.outcome] += 1

    def pytest_sessionfinish(self):
        self.path.write_text(table_of_places(self.outcomes), "utf-8")
