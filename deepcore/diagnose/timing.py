"""How long a kernel takes, and how long it would have to: medians, in turn, after a look at its result.

The limit of a kernel is the longer of two times: to copy as many bytes as its arguments and results have,
and to do as many operations as its matrix products at the rate of a large one. Both are measured in the
same run, with the same library, and are the best of their rounds. Cross-entropy, for example, must read X
and write dX: 2 N C s bytes.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepcore.backends.registry import get_backend
from deepcore.backends.select import put, to_numpy
from deepcore.diagnose.kernels import Case, case_of
from deepcore.ops.dispatch import OPS

_TOLERANCE = 1e-5  # of the largest value: float32 with room to add in any order, and no room for TF32
_SQUARE = 2048  # rows of the large matrix product


@dataclass(frozen=True)
class Effort:
    """How carefully to time."""

    sample: float  # seconds: a shorter call is repeated until it takes that long
    seconds: float  # in all, for all that run in turn
    rounds: tuple[int, int]  # at least and at most
    square: int


CAREFUL = Effort(sample=2e-3, seconds=3.0, rounds=(5, 100), square=_SQUARE)
QUICK = Effort(sample=1e-3, seconds=0.2, rounds=(3, 20), square=512)


@dataclass(frozen=True)
class Library:
    """What timing needs of an array library, be it a backend or a peer."""

    put: Callable[[Any], Any]  # from a NumPy array
    to_numpy: Callable[[Any], Any]
    copy: Callable[[Any], Any]
    wait: Callable[..., Any]  # until these results hold their numbers
    device: Callable[[Any], str]  # where an array is


@dataclass(frozen=True)
class Timing:
    """One implementation: seconds a call, one figure a round, or why it was not timed."""

    error: float  # the largest, relative to the largest value
    seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def fault(self) -> str | None:
        """Why it was not timed."""
        if self.seconds:
            return None
        return f"wrong: its error is {self.error:.1e} of the largest value, allowed is {_TOLERANCE:g}"


@dataclass(frozen=True)
class Measurement:
    """A case on one library.

    timings: "reference", and "native" if there is one   device: where it ran
    copy: seconds to copy as many bytes   product: seconds for as many operations in a large matrix product
    """

    timings: dict[str, Timing]
    device: str
    copy: float
    product: float

    @property
    def limit(self) -> float:
        return max(self.copy, self.product)


def measure(backend: str, op: str, size: str, effort: Effort) -> Measurement:
    """A case on a backend, in this process: call it by `apart`.

    "native" is left out where the library has no such kernel, or where it answers NotImplemented.
    """
    case, own = case_of(op, size), get_backend(backend)
    library = Library(
        put=lambda x: put(x, own),
        to_numpy=to_numpy,
        copy=lambda x: own.xp.asarray(x, copy=True),
        wait=own.wait_for,
        device=lambda x: _plain(own.device(x)),
    )

    def calls(*arguments: Any) -> dict[str, Callable[[], Any]]:
        native = [("native", kernel) for kernel in own.tiers(*op.split("."))]
        bound = [(name, lambda f=f: f(*arguments)) for name, f in [("reference", OPS[op].reference), *native]]
        served = [(name, call) for name, call in bound if call() is not NotImplemented]
        return dict(reversed(served))  # of several tiers, the one that is tried first

    return race(case, library, calls, effort)


def _plain(device: Any) -> str:
    """The word for a device; "cpu" for any that says so."""
    return "cpu" if "cpu" in str(device).lower() else str(device)


def race(
    case: Case, library: Library, calls: Callable[..., dict[str, Callable[[], Any]]], effort: Effort
) -> Measurement:
    """Check each implementation, then time those that are right in turn, with the limit among them.

    calls: from the arguments, as this library's arrays, to the implementations by name
    """
    drawn = case.draw()
    wanted = _parts(case.wanted(drawn))
    arguments = [library.put(x) if isinstance(x, np.ndarray) else x for x in drawn]
    contenders = calls(*arguments)
    errors, nbytes = {}, 0
    for name, call in contenders.items():
        got = [np.asarray(library.to_numpy(x)) for x in _parts(call())]
        errors[name] = relative_error(got, wanted)
        nbytes = sum(x.nbytes for x in (*drawn, *got) if isinstance(x, np.ndarray))
    right = {name: call for name, call in contenders.items() if errors[name] <= _TOLERANCE}

    seconds = time_in_turn(right | {"copy": _copier(nbytes // 2, library)}, library.wait, effort)
    product = 0.0
    if case.flops:
        A = library.put(np.random.default_rng(0).standard_normal((effort.square,) * 2, dtype=np.float32))
        product = min(time_in_turn({"A A": lambda: A @ A}, library.wait, effort)["A A"])
        product *= case.flops / (2 * effort.square**3)
    timings = {name: Timing(errors[name], tuple(seconds.get(name, ()))) for name in contenders}
    return Measurement(timings, library.device(arguments[0]), min(seconds["copy"]), product)


def time_in_turn(
    calls: dict[str, Callable[[], Any]], wait: Callable[..., Any], effort: Effort
) -> dict[str, list[float]]:
    """Seconds a call, each result waited for: one figure a round, and in a round each has its turn."""

    def sample(call: Callable[[], Any], times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            result = call()
            wait(*_parts(result))
        return (time.perf_counter() - start) / times

    loops = {}
    for name, call in calls.items():
        sample(call, 1)  # compiles, and touches the memory
        once = min(sample(call, 1) for _ in range(3))
        loops[name] = max(math.ceil(effort.sample / max(once, 1e-8)), 1)
    a_round = sum(sample(call, loops[name]) * loops[name] for name, call in calls.items())
    least, most = effort.rounds
    rounds = min(max(least, int(effort.seconds / a_round)), most)
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            figures[name].append(sample(call, loops[name]))
    return figures


def relative_error(got: list[Any], wanted: list[Any]) -> float:
    """The largest difference, relative to the largest value; infinite for NaN, another number or shape."""
    if len(got) != len(wanted):
        return math.inf
    worst = 0.0
    for a, e in zip(got, wanted, strict=True):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        if a.shape != e.shape:
            return math.inf
        if a.size:
            error = float(abs(a - e).max() / (abs(e).max() or 1))
            worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def _copier(nbytes: int, library: Library) -> Callable[[], Any]:
    """Copies that many bytes, into memory that is there already unless arrays can't be written to (JAX's)."""
    X = library.put(np.ones(max(nbytes // 4, 1), np.float32))
    Y = library.copy(X)

    def copy() -> Any:
        Y[...] = X
        return Y

    try:
        copy()
    except TypeError:
        return lambda: library.copy(X)
    return copy


def _parts(result: Any) -> list[Any]:
    """The arrays of a result: a tuple's, without None, or the result itself."""
    return [x for x in result if x is not None] if isinstance(result, tuple) else [result]
