"""One peer in a process of its own: it does the work once, compares, and then times it whenever it is asked.

All peers have two threads and wait while another one is timed. Between two turns there is a pause, in which
the thread pools that the last peer left spinning fall asleep.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bench.compare.peers import OURS, PEERS
from bench.compare.rows import ROWS, Row
from deepcore.diagnose.timing import Effort, relative_error, time_in_turn

THREADS = 2
_PAUSE = 0.2  # seconds; OpenBLAS's threads spin for 0.1
_PATIENCE = 300.0  # seconds until a peer must have done the work once: torch.compile runs a C++ compiler
_SQUARE = 1536  # rows of the product that measures the machine
_SPAWN = multiprocessing.get_context("spawn")
_LIMITS = {
    name: str(THREADS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}


class Failure(Exception):
    """What a worker raised, or that it died."""


class Worker:
    """A task in a process of its own, which answers each message with one.

    The first answer comes unasked, when the task is ready. Raises Failure for whatever went wrong there.
    """

    def __init__(self, task: Any, *arguments: Any, environment: dict[str, str] | None = None):
        self.pipe, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_serve, args=(theirs, task, arguments), daemon=True)
        with _environment(_LIMITS | (environment or {})):
            self.process.start()
        theirs.close()

    def answer(self, patience: float = _PATIENCE) -> Any:
        if not self.pipe.poll(patience):
            raise Failure(f"no answer in {patience:g} s")
        try:
            fault, result = self.pipe.recv()
        except (EOFError, ConnectionError):
            raise Failure("its process died") from None
        if fault is not None:
            raise Failure(fault)
        return result

    def ask(self, message: Any) -> Any:
        self.pipe.send(message)
        return self.answer()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Variables for a child: libraries read them while they are imported."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serve(pipe: Connection, task: Any, arguments: tuple[Any, ...]) -> None:
    """Send what the task, a generator, yields, and send it what comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    if hasattr(os, "sched_setaffinity"):  # for those that ask the machine how many threads to have
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    try:
        running = task(*arguments)
        pipe.send((None, next(running)))
        while True:
            pipe.send((None, running.send(pipe.recv())))
    except EOFError:
        return
    except BaseException as error:  # a broken library raises what it likes
        pipe.send((f"{type(error).__name__}: {error}".splitlines()[0], None))


# ---- tasks


def entrant(name: str, title: str, path: str) -> Iterator[Any]:
    """A peer at a row: first its error, then for each number of seconds the times of its calls.

    path: of an .npz file of the results in float64
    """
    row = next(row for row in ROWS if row.title == title)
    method = getattr(PEERS[name].load(), row.kind, None)
    if method is None:
        yield None
        return
    call, read = method(**row.draw(), **(row.settings if name in OURS else {}))
    got = [np.asarray(x) for x in read(call())]
    with np.load(path) as wanted:
        error = relative_error(got, list(wanted.values()))
    del got
    seconds = yield error
    while True:
        times = time_in_turn({"call": call}, lambda *_: None, _effort(seconds))
        seconds = yield times["call"]


def machine(title: str) -> Iterator[Any]:
    """The limits of a row: seconds to copy its bytes, and for its operations in a large matrix product."""
    row = next(row for row in ROWS if row.title == title)
    halves = np.array_split(np.ones(max(int(row.nbytes) // 8, THREADS), np.float32), THREADS)
    copies = [np.ones_like(half) for half in halves]
    A = np.random.default_rng(0).standard_normal((_SQUARE, _SQUARE), np.float32)
    B, C = A.copy(), np.empty_like(A)
    X, Y = np.concatenate(halves), np.concatenate(copies)

    with ThreadPoolExecutor(THREADS) as pool:
        calls = {
            "copy": lambda: np.copyto(Y, X),
            "copy in threads": lambda: list(pool.map(np.copyto, copies, halves)),
            "product": lambda: np.matmul(A, B, out=C),
        }
        seconds = yield None
        while True:
            times = time_in_turn(calls, lambda *_: None, _effort(seconds / len(calls)))
            best = {name: statistics.median(figures) for name, figures in times.items()}
            seconds = yield {
                "copy": min(best["copy"], best["copy in threads"]),
                "product": best["product"] * row.flops / (2 * _SQUARE**3),
            }


def _effort(seconds: float) -> Effort:
    return Effort(sample=2e-3, seconds=seconds, rounds=(1, 10_000), square=0)


# ---- a row


def compare(row: Row, names: list[str], rounds: int, seconds: float, path: str) -> dict[str, Any]:
    """All peers at one row, in turn. Each peer: {"median", "error"} or {"why": why there is no figure}."""
    np.savez(path, *row.result(row.draw()))
    results: dict[str, Any] = {}
    workers: dict[str, Worker] = {}
    limit = Worker(machine, row.title)
    try:
        limit.answer()
        for name in names:
            worker = Worker(entrant, name, row.title, path, environment=PEERS[name].environment)
            try:
                error = worker.answer()
            except Failure as failure:
                results[name] = {"why": str(failure)}
                worker.stop()
                continue
            if error is None:
                worker.stop()
                continue
            workers[name] = worker
            results[name] = {"error": error, "wrong": not error <= row.tolerance}
        limits, times = _take_turns(limit, workers, rounds, seconds)
    finally:
        limit.stop()
        for worker in workers.values():
            worker.stop()
    for name, medians in times.items():
        results[name] |= {"median": statistics.median(medians), "rounds": medians}
    best = {kind: min(one[kind] for one in limits) for kind in ("copy", "product")}
    return {"peers": results, "limit": best}


def _take_turns(
    limit: Worker, workers: dict[str, Worker], rounds: int, seconds: float
) -> tuple[list[dict[str, float]], dict[str, list[float]]]:
    limits: list[dict[str, float]] = []
    times: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        time.sleep(_PAUSE)
        limits.append(limit.ask(seconds))
        for name, worker in workers.items():
            time.sleep(_PAUSE)
            times[name].append(statistics.median(worker.ask(seconds)))
    return limits, times
