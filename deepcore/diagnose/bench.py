"""The kernels' times as a table: every backend, native beside reference, against the machine's limit."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from deepcore.backends.registry import backend_class, backend_names
from deepcore.diagnose.info import cpu_model, probe
from deepcore.diagnose.kernels import Case, choose
from deepcore.diagnose.process import apart
from deepcore.diagnose.timing import CAREFUL, QUICK, Effort, Measurement, Timing, measure

_PATIENCE = 900.0  # seconds for one case on one library, a slow reference on a large array among them
_WIDTH, _NAME = 80, 24  # columns of a line, and of a backend's name


def bench(
    backends: Sequence[str] = (), ops: Sequence[str] = (), quick: bool = False, to: TextIO | None = None
) -> bool:
    """Time the kernels, and print a block for each case as soon as it is measured; whether all went well.

    backends: their names; of none: all that deepcore knows   ops: as `choose` takes them
    quick: the smallest size of each op and few rounds: a look, no measurement

    Each case on each backend runs in a process of its own, one after the other: a thread pool that another
    library left spinning would spoil the figures. A backend that is not usable is a line with the reason; a
    kernel that is wrong is not timed, and makes the answer False, as does a library that fails, or if
    nothing could be timed.
    Raises ArgumentError for an op without a case, BackendUnavailable for a backend that there is not.
    """
    cases = choose(ops, smallest=quick)
    names = list(dict.fromkeys(backend_class(name).name for name in backends)) or backend_names()
    effort = QUICK if quick else CAREFUL

    def say(line: str = "") -> None:
        print(line, file=to or sys.stdout, flush=True)

    say(f"{cpu_model()}. Medians{', but few and small: a quick look' if quick else ''}.")
    say("%: of the limit, the time to copy as many bytes, or to do as many operations in")
    say("a large matrix product, whichever is longer.")
    usable = []
    for name in names:
        found = probe(name)
        if found.problem is None:
            usable.append(name)
        else:
            say(textwrap.fill(f"{name}: not usable: {found.problem}", _WIDTH, subsequent_indent="  "))
    well = bool(usable)
    for case in cases if usable else ():
        lines, good = _block(case, {name: _outcome(name, case, effort) for name in usable})
        say("\n" + "\n".join(lines))
        well = well and good
    return well


def _outcome(name: str, case: Case, effort: Effort) -> Measurement | str:
    """What was measured, or why not."""
    try:
        return apart(measure, name, case.op, case.size, effort, seconds=_PATIENCE)
    except (ChildProcessError, TimeoutError) as error:
        return str(error)


def _block(case: Case, outcomes: dict[str, Measurement | str]) -> tuple[list[str], bool]:
    """The lines of one case, and whether all is well."""
    measured = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, Measurement)}
    lines = [
        str(case),
        f"{'':{_NAME}s}{'native':>9s} {'':7s}{'reference':>9s} {'':7s}{'ratio':>7s}{'error':>8s}",
    ]
    good = len(measured) == len(outcomes)
    limits = limits_of(list(measured.values()))
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            lines.append(textwrap.fill(f"  {name}: failed: {outcome}", _WIDTH, subsequent_indent="    "))
            continue
        timings, limit = outcome.timings, limits[outcome.device]
        native, reference = timings.get("native"), timings["reference"]
        both = native is not None and not native.fault and not reference.fault
        ratio = f"{reference.median / native.median:.2f}x" if both and native else ""
        error = max(timing.error for timing in timings.values())
        cells = f"{_cell(native, limit)}{_cell(reference, limit)}{ratio:>7s}{error:8.0e}"
        lines.append(f"{'  ' + name:{_NAME}s}{cells}")
        faults = {kind: timing.fault for kind, timing in timings.items() if timing.fault}
        lines += [f"    {kind} {fault}" for kind, fault in faults.items()]
        good = good and not faults
    for device, limit in limits.items():
        lines.append(f"{f'  limit ({device})':{_NAME}s}{duration(limit):>9s}")
    return lines, good


def limits_of(measured: Sequence[Measurement]) -> dict[str, float]:
    """The limit on each device: as near as any library came to it."""
    of_device: dict[str, float] = {}
    for one in measured:
        of_device[one.device] = min(of_device.get(one.device, one.limit), one.limit)
    return of_device


def _cell(timing: Timing | None, limit: float) -> str:
    if timing is None or timing.fault:
        return f"{'-' if timing is None else 'wrong':>9s} {'':7s}"
    return f"{duration(timing.median):>9s} {100 * limit / timing.median:4.0f} % "


def duration(seconds: float) -> str:
    """Three digits in the unit that suits.

    >>> duration(0.00123)
    '1.23 ms'
    """
    unit, scale = next(
        (u for u in (("s", 1.0), ("ms", 1e3), ("us", 1e6)) if seconds * u[1] >= 1), ("ns", 1e9)
    )
    value = seconds * scale
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
