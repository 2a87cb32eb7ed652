"""Which of several ways to do a piece of work takes the least time, found by trying them once.

A library has many kernels for one product, and guesses which will be the fastest. Trying finds a better one
now and then, but two processes may find different ones, whose sums differ in their last bits; and a training
that is resumed must go on as it would have. So it is done only where that is allowed: with precision
"relaxed" (fit, Net.compile), always with the variable DEEPCORE_AUTOTUNE=1, never with DEEPCORE_AUTOTUNE=0.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import cupy

from deepcore.backends import select
from deepcore.backends.cupy.streams import aside

_CALLS = 10  # of each way, in one graph: the host's own time of some microseconds a call doesn't count there
_ROUNDS = 3  # the least time of so many launches counts
_BETTER = 0.97  # a later way must take less than this part of the best so far: below is noise


def allowed() -> bool:
    """Whether a choice may depend on a measurement."""
    variable = os.environ.get("DEEPCORE_AUTOTUNE", "")
    return variable == "1" or (variable != "0" and select.precision.get() == "relaxed")


def possible() -> bool:
    """Whether work can be timed now: not while the current stream only notes what a graph will do."""
    return not cupy.cuda.get_current_stream().is_capturing()


def fastest(ways: int, start: Callable[[int, Any], None]) -> int:
    """The number of the way that takes the least time, from 0 on; 0, the library's guess, if none can be.

    start(k, stream) starts the k-th way on a stream; it must give the same result whenever it is started.
    Waits for the device.
    """
    times = {}
    with aside() as stream:
        for k in range(ways):
            try:
                times[k] = _milliseconds(functools.partial(start, k, stream), stream)
            except Exception as error:  # of the library or of CUDA: this way isn't taken, the others may be
                logging.getLogger("deepcore").debug("way %d of %d can't be timed: %s", k, ways, error)
    best = min(times, default=0)
    for k, time in times.items():
        if time < _BETTER * times[best]:
            best = k
    return best


def _milliseconds(work: Callable[[], None], stream: Any) -> float:
    """How long the device needs for the work on this stream, the current one, without the host's part."""
    begun, ended = cupy.cuda.Event(), cupy.cuda.Event()
    work()  # its code is loaded, which can't be captured
    stream.begin_capture()
    try:
        for _ in range(_CALLS):
            work()
    finally:
        graph = stream.end_capture()
    graph.launch()
    times = []
    for _ in range(_ROUNDS):
        begun.record()
        graph.launch()
        ended.record()
        ended.synchronize()
        times.append(cupy.cuda.get_elapsed_time(begun, ended))
    return min(times) / _CALLS
