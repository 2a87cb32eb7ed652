"""A stream beside the caller's: one that can be captured, where the default one can't."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import cupy

_of_thread = threading.local()


@contextlib.contextmanager
def aside() -> Iterator[Any]:
    """Work on this thread's own stream, after the caller's works so far and before those that follow."""
    caller, stream = cupy.cuda.get_current_stream(), _stream()
    stream.wait_event(caller.record())
    try:
        with stream:
            yield stream
    finally:
        caller.wait_event(stream.record())


def _stream() -> Any:
    """This thread's, on the current device."""
    streams = vars(_of_thread).setdefault("streams", {})
    device = cupy.cuda.Device().id
    if device not in streams:
        streams[device] = cupy.cuda.Stream(non_blocking=True)
    return streams[device]
