"""How bench/ times: what `python -m deepcore bench` does, as pytest-benchmark's tables and JSON.

    pytest bench/                                                    tables, one for each op and size
    pytest bench/ --quick                                            a look: smallest sizes, few rounds
    pytest bench/ --benchmark-json=bench/results/kernels.json        for bench/report.py

Each case runs on each library in a process of its own, where the result is checked and then all of that
library's implementations take turns; pytest-benchmark is handed the times (its clock is the sum of them).
The file of results says which machine and which versions, and nothing else about where it was made.
"""

import functools
import itertools
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import pytest

from bench.peers import PEERS, measure_peer
from deepcore.backends.registry import backend_names
from deepcore.diagnose.info import cpu_model, probe
from deepcore.diagnose.kernels import MAIN_OPS, choose
from deepcore.diagnose.process import apart
from deepcore.diagnose.timing import CAREFUL, QUICK, measure

PATIENCE = 900.0
OWN = [(name, kind) for name in backend_names() for kind in ("native", "reference")]
THEIRS = [(f"{name} itself", "peer") for name in PEERS]  # torch.nn.functional, jax.nn

collect_ignore_glob = ["compare/peers/of_*.py"]  # no doctests: each imports its library


class Clock:
    """What pytest-benchmark takes for time: it only moves by what was measured elsewhere."""

    now = 0.0

    def __call__(self):
        return self.now


CLOCK = Clock()


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="smallest sizes and few rounds: no measurement")


def pytest_generate_tests(metafunc):
    """A test of an op asks for `case` and `entrant`: each case meets everybody who can run it."""
    if "entrant" not in metafunc.fixturenames:
        return
    ops = metafunc.module.OPS
    cases = choose(ops, smallest=metafunc.config.getoption("quick"))
    entrants = OWN + (THEIRS if set(ops) <= set(MAIN_OPS) else [])
    pairs = [
        pytest.param(
            case,
            entrant,
            id=f"{case.op.partition('.')[2]} {case.size} {' '.join(entrant).removesuffix(' peer')}",
            marks=pytest.mark.benchmark(group=str(case), timer=CLOCK),
        )
        for case in cases
        for entrant in entrants
    ]
    metafunc.parametrize(("case", "entrant"), pairs)


@pytest.fixture
def timed(case, entrant, request):
    """The times of an implementation, in pytest-benchmark's books; skips if the library can't be used."""
    library, kind = entrant
    effort = QUICK if request.config.getoption("quick") else CAREFUL
    reason = why_not(library)
    if reason:
        pytest.skip(f"{library}: {reason}")
    try:
        measured = measurement(library, case.op, case.size, effort)
    except (ChildProcessError, TimeoutError) as error:
        pytest.fail(f"{library}: {error}", pytrace=False)
    timing = measured.timings.get(kind)
    if timing is None:
        pytest.skip(f"{library} has no {kind} kernel for some ops")  # in one line for all of them
    if timing.fault:
        pytest.fail(f"{case}, {library} {kind}: {timing.fault}", pytrace=False)
    benchmark = request.getfixturevalue("benchmark")  # not before: it resents a test that skips
    benchmark.extra_info |= {
        "op": case.op,
        "size": case.size,
        "library": library,
        "kind": kind,
        "device": measured.device,
        "error": timing.error,
        "limit": measured.limit,
    }
    seconds = itertools.cycle(timing.seconds)

    def call():
        CLOCK.now += next(seconds)

    benchmark.pedantic(call, rounds=len(timing.seconds))
    return timing


@functools.cache
def why_not(library):
    """The reason why a library can't be used here, or None."""
    if library.endswith(" itself"):
        return PEERS[library.removesuffix(" itself")].why_not()
    return probe(library).problem


@functools.cache
def _outcome(library, *case_and_effort):
    task, name = (measure_peer, library.removesuffix(" itself")) if " " in library else (measure, library)
    try:
        return apart(task, name, *case_and_effort, seconds=PATIENCE)
    except (ChildProcessError, TimeoutError) as error:
        return error


def measurement(library, *case_and_effort):
    """One run for all implementations of a library: its native kernel and its reference took turns in it."""
    outcome = _outcome(library, *case_and_effort)
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


# ---- the file of results


def pytest_benchmark_update_machine_info(machine_info):
    machine_info.clear()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine_info |= {"cpu": cpu_model(), "cores": cores, "python": platform.python_version()}
    for package in ("numpy", "array-api-strict", "torch", "jax", "cupy"):
        try:
            machine_info[package] = version(package)
        except PackageNotFoundError:
            continue


def pytest_benchmark_update_json(output_json):
    """Leaves what bench/report.py reads, and what tells how good the figures are."""
    kept = ("median", "iqr", "min", "rounds")
    output_json["benchmarks"] = [
        one["extra_info"] | {name: one["stats"][name] for name in kept} for one in output_json["benchmarks"]
    ]
    output_json["date"] = output_json.pop("datetime")[:10]
    output_json["machine"] = output_json.pop("machine_info")
    output_json.pop("commit_info")
