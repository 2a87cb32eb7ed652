"""Batches that a thread makes while the net trains on those before them."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterable, Iterator
from queue import SimpleQueue
from typing import Any

from deepcore.errors import ArgumentError


class Prefetch:
    """The batches of an iterable, made ahead of time by a thread of their own.

    batches: any iterable, such as a generator that reads files; it runs in the thread, in the context (the
    selected backend) that this was iterated over in.   ahead: how many batches may wait, 1 or more.

    It pays where making a batch waits for a disk or a network, or works in C code that lets other threads
    run, as Pillow and NumPy do. An error of the iterable is raised where its batch would have come. The
    thread ends when the iteration does. Memory maps and `Rows` are read ahead without being asked.
    Raises ArgumentError for an `ahead` below 1.

    >>> batches = Prefetch([1, 2, 3], ahead=1)
    >>> len(batches), list(batches), list(batches)
    (3, [1, 2, 3], [1, 2, 3])
    """

    def __init__(self, batches: Iterable[Any], ahead: int = 2):
        if isinstance(ahead, bool) or not hasattr(ahead, "__index__") or int(ahead) < 1:
            raise ArgumentError(f"Prefetch: ahead must be a whole number of 1 or more, got {ahead!r}")
        self.batches = batches
        self.ahead = int(ahead)

    def __len__(self) -> int:
        """As of the iterable; TypeError if that has no length."""
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        room = threading.Semaphore(self.ahead)
        stopped = threading.Event()
        made: SimpleQueue[tuple[str, Any]] = SimpleQueue()

        def work() -> None:
            try:
                batches = iter(self.batches)
                while room.acquire() and not stopped.is_set():
                    batch = next(batches, _END)
                    if batch is _END:
                        break
                    made.put(("batch", batch))
                made.put(("end", None))
            except BaseException as error:
                made.put(("error", error))

        thread = threading.Thread(
            target=contextvars.copy_context().run, args=(work,), name="deepcore-prefetch", daemon=True
        )
        thread.start()
        try:
            while True:
                kind, value = made.get()
                if kind == "error":
                    try:
                        raise value
                    finally:
                        del value  # or the error would hold this frame, and the frame the error
                if kind == "end":
                    return
                room.release()
                yield value
        finally:
            stopped.set()
            room.release()  # it may be waiting for room
            thread.join()


_END = object()
