"""Work shared out among threads: NumPy lets go of the interpreter while it computes, but computes in one.

Only BLAS has threads of its own. While the parts of a kernel run side by side, each on a core, BLAS keeps to
the thread that it is called from: its threads would take the cores from the parts, and wait for one another.
As many threads as BLAS has, so that OPENBLAS_NUM_THREADS and the like count here too.

Four products of 512 x 512 take 6.9 ms in one thread and 3.6 in two; e^x of 2 million numbers 0.97 and 0.63.
Handing over costs some 25 us. And only one thread at a time runs Python: a part of many short calls waits for
the others' at each, some 50 us where it must be woken. So parts are worth it if their calls take that long.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import importlib
import operator
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_TIMEOUT, _TICKS = "OPENBLAS_THREAD_TIMEOUT", "20"  # 2^20 ticks of the processor's clock
_SPELLINGS = ("scipy_openblas_{}64_", "scipy_openblas_{}", "openblas_{}64_", "openblas_{}")


class _Blas(NamedTuple):
    """OpenBLAS's own functions."""

    get_num_threads: Callable[[], int]
    set_num_threads: Callable[[int], None]


def share(part: Callable[[int, int], Any], n: int, least: int = 1) -> list[Any]:
    """[part(0, a), part(a, b) ..., part(z, n)], at the same time, of equal sizes, none below `least`.

    A part must not share out its own work. It is called at least once. What it raises is raised here.
    """
    parts = n // max(1, least)
    if parts > 1:
        parts = min(parts, count())
    if parts <= 1:
        return [part(0, n)]
    ends = [n * k // parts for k in range(parts + 1)]
    with one_blas_thread():
        others = [_begun(part, *ends[k : k + 2]) for k in range(1, parts)]
        try:
            first = part(0, ends[1])
        finally:  # nobody writes into an array any more when this is left
            done = [other.exception() for other in others]
    for fault in filter(None, done):
        raise fault
    return [first, *(other.result() for other in others)]


def _begun(part: Callable[[int, int], Any], first: int, last: int) -> Any:
    """A future of part(first, last), in a context of its own, so that np.errstate is the same there.

    Where Python is ending, as in a function that atexit calls, no thread is to be had: it is done here.
    """
    run = contextvars.copy_context().run
    try:
        return _pool().submit(run, part, first, last)
    except RuntimeError:
        from concurrent.futures import Future

        done: Any = Future()
        done.set_result(run(part, first, last))
        return done


def total(part: Callable[[int, int], Any], n: int, least: int = 1) -> Any:
    """The sum of what `share` returns."""
    return functools.reduce(operator.add, share(part, n, least))


def count() -> int:
    """How many threads there are: those of BLAS, or 1 if it is not OpenBLAS."""
    blas = _blas()
    return _told.before or (1 if blas is None else blas.get_num_threads())


def wait_briefly() -> None:
    """Let BLAS's idle threads sleep after 0.5 ms. Not if the user says how long, or has started threads.

    Else they spin for 30 ms, on a core that a part could use: what follows a product takes twice as long.
    Less than 0.5 ms, and they would sleep between the products of a net, and waking them takes 50 us each.
    OpenBLAS reads the setting when it is loaded; here it reads it once more, and starts its threads anew.
    """
    if _TIMEOUT in os.environ or threading.active_count() > 1:  # who may be in the middle of a product
        return
    library = _library()
    read, stop = (getattr(library, name, None) for name in ("openblas_read_env", "blas_thread_shutdown_"))
    if read is None or stop is None:
        return
    os.environ[_TIMEOUT] = _TICKS
    try:
        read()
    finally:
        del os.environ[_TIMEOUT]
    stop()  # the next product that wants them starts them


@functools.cache
def _library() -> Any:
    """NumPy with all that it loads, or None."""
    try:
        return ctypes.PyDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError, TypeError):
        return None


@functools.cache
def _blas() -> _Blas | None:
    """NumPy's OpenBLAS, or None if NumPy has another BLAS."""
    for spelling in _SPELLINGS:  # NumPy's wheels and other builds
        with contextlib.suppress(AttributeError):
            return _Blas(*(getattr(_library(), spelling.format(name)) for name in _Blas._fields))
    return None


class _Told:
    """Whether BLAS has been told to keep to one thread, by how many calls, and what it had before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = self.before = 0


_told = _Told()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, BLAS multiplies in the thread that it is called from."""
    blas = _blas()
    if blas is None:
        yield
        return
    with _told.lock:
        _told.calls += 1
        if _told.calls == 1:
            _told.before = blas.get_num_threads()
            blas.set_num_threads(1)
    try:
        yield
    finally:
        with _told.lock:
            _told.calls -= 1
            if _told.calls == 0:
                blas.set_num_threads(_told.before)
                _told.before = 0


@functools.cache
def _pool() -> Any:
    from concurrent.futures import ThreadPoolExecutor  # 5 ms that small nets don't need

    return ThreadPoolExecutor(thread_name_prefix="deepcore")


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and may have been forked while the lock was held."""
    if _told.calls:
        blas = _blas()
        assert blas is not None
        blas.set_num_threads(_told.before)
    _told.__init__()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
