"""Numba's threads, and how they live beside those of BLAS and of other processes.

A thread that has finished its part waits by spinning: GNU OpenMP's 300,000 turns, up to 20 ms. To wake one
that sleeps takes 40 to 60 us, as much as many a kernel; to call one that spins takes 4. But where the one
that it waits for has no core, because another process works or a thread of BLAS spins there, each kernel
takes a scheduler's slice or more: 0.1 ms becomes 16. Here they sleep after some 130 us, which is longer
than the Python between two layers, and little trouble for products by BLAS, whose threads want the cores too.
OpenBLAS's own sleep soon as well, by backends.numpy.threads.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

import numba

_SPINS = "10000"
_SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # if the user has set one, it counts


class _Pool:
    """Whether numba's threads may be used now, and by whom."""

    def __init__(self) -> None:
        self.forked = False
        self.layer: str | None = None  # what they are made with, known when they have run
        self.turn = threading.Lock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.after_fork)

    def after_fork(self) -> None:
        """A forked child has no threads of its parent's, and GNU OpenMP ends a process that asks for them."""
        self.forked = True

    def count(self) -> int:
        """How many threads may be used now."""
        return 1 if self.forked else self.parts()

    def parts(self) -> int:
        """How many threads there are, in a forked child too: sums in as many parts have the same bits."""
        _launch()
        return numba.get_num_threads()

    def ready(self) -> None:
        """Code that shares out work can be loaded, though it may not be run by threads."""
        _launch()

    def run(self, kernel: Any, arguments: tuple[Any, ...]) -> Any:
        """OpenMP and TBB serve several callers at once; numba's own pool, without them, only one."""
        if self.layer in ("omp", "tbb"):
            return kernel(*arguments)
        with self.turn:
            result = kernel(*arguments)
            self.layer = numba.threading_layer()
        return result


@functools.cache
def _launch() -> None:
    """Start the threads, with a short wait. GNU OpenMP reads its settings once, when numba first loads it."""
    ours = not any(name in os.environ for name in _SETTINGS)
    if ours:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    try:
        numba.get_num_threads()
    finally:
        if ours:
            del os.environ["GOMP_SPINCOUNT"]


pool = _Pool()
