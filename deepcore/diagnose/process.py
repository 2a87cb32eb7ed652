"""A call in a process of its own, so that what a library does there - spin, hang, die - stays there."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")  # a forked child would inherit libraries and their threads


def apart(task: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """task(*arguments), run in a fresh interpreter and in no more than `seconds`.

    Task, arguments and result must be picklable. Whatever goes wrong there, from an exception to a
    segmentation fault, is a ChildProcessError here, or a TimeoutError; the child never outlives the call.
    """
    ours, theirs = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_answer, args=(theirs, task, arguments), daemon=True)
    process.start()
    theirs.close()  # the child holds the only other end: if it dies, ours is at its end
    try:
        if not ours.poll(seconds):
            raise TimeoutError(f"no answer in {seconds:g} s")
        try:
            fault, result = ours.recv()
        except (EOFError, ConnectionError):
            process.join()
            raise ChildProcessError(f"its process died of {_cause(process.exitcode)}") from None
    finally:
        process.kill()
        process.join()
        ours.close()
    if fault is not None:
        raise ChildProcessError(fault)
    return result


def _answer(pipe: Connection, task: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, which ends this process
    try:
        answer = None, task(*arguments)
    except BaseException as error:  # a broken library raises what it likes, SystemExit too
        answer = f"{type(error).__name__}: {error}", None
    pipe.send(answer)


def _cause(exitcode: int | None) -> str:
    """What ended a process, in words."""
    if exitcode is None or exitcode >= 0:
        return f"exit status {exitcode}"
    try:
        return signal.Signals(-exitcode).name
    except ValueError:
        return f"signal {-exitcode}"
