"""What plain `pytest` runs besides tests/: the doctests of deepcore/ and the Python blocks of README.md."""

from doctest import ELLIPSIS, NORMALIZE_WHITESPACE
from importlib.util import find_spec
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

# Native kernels import their library at the top: without it there is no module to read doctests from.
collect_ignore_glob = [
    glob
    for library, glob in {
        "cupy": "deepcore/backends/cupy/*",
        "jax": "deepcore/backends/jax/*",
        "numba": "deepcore/backends/numpy/fast/*",
        "torch": "deepcore/backends/torch/*",
    }.items()
    if find_spec(library) is None
]

PAGES = Sybil(
    parsers=[PythonCodeBlockParser(doctest_optionflags=ELLIPSIS | NORMALIZE_WHITESPACE), SkipParser()],
    filenames=["README.md"],
)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    """Collect the pages whose Python blocks are run."""
    return Page.from_parent(parent, path=file_path) if PAGES.should_parse(file_path) else None


class Page(pytest.File):
    """A page of Markdown."""

    def collect(self):
        yield Blocks.from_parent(self, name="python blocks")


class Blocks(pytest.Item):
    """All blocks of a page, in order: one item, because xdist may run two items in two processes."""

    def runtest(self):
        for example in PAGES.parse(self.path).examples():
            example.evaluate()

    def reportinfo(self):
        return self.path, None, self.path.name
