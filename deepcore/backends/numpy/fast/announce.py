"""A line on stderr when numba compiles kernels, which takes seconds, instead of loading them from disk."""

from __future__ import annotations

import sys
from typing import Any

from numba.core import event

_PACKAGE = __name__.rpartition(".")[0]


class _Announcement(event.Listener):
    """Names each module of this package once."""

    def __init__(self) -> None:
        self.said: set[str] = set()

    def on_start(self, event: Any) -> None:
        module = event.data["dispatcher"].py_func.__module__
        package, _, family = module.rpartition(".")
        if package == _PACKAGE and module not in self.said:
            self.said.add(module)
            print(f"deepcore: numba compiles {family} kernels for this processor, once", file=sys.stderr)

    def on_end(self, event: Any) -> None:
        pass


def announce_compilation() -> None:
    """From now on. Nothing is said where the compiled kernels are found on disk."""
    event.register("numba:compile", _Announcement())
