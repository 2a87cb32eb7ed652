"""The battery's outcomes as a table: each class, at each place."""

from collections import Counter

from tests.battery import CASES
from tests.places import JAX_X64, META, PLACES

_COLUMNS = [*PLACES, META, JAX_X64]
_HEAD = """# What runs where

How many tests of the battery (`tests/test_battery.py`) each class passed on each array library, as its last
full run had it. "-": the library wasn't there; a number in bold failed. Written by

    pytest tests/test_battery.py --places-table docs/backends.md

strict is array-api-strict, which refuses all that the standard doesn't promise: on its CPU, on a second
device (where an array made without a device shows), and on a device without float64. torch-meta holds shapes
without numbers. NumPy, the second device and CuPy get every test on every case; the others get every case's
values and gradients, and the first case of each class for the rest.

"""


def table_of_places(outcomes: Counter) -> str:
    """Markdown, from how often each (test id, outcome) came."""
    counts = Counter()
    ids = {
        f"{case.name}-{place.name}": (case.kind.__name__, place.name) for case in CASES for place in _COLUMNS
    }
    for (test, outcome), times in outcomes.items():
        if "test_battery.py" not in test or "[" not in test:
            continue
        parameters = test.partition("[")[2].rstrip("]")
        found = max(
            (i for i in ids if parameters == i or parameters.startswith(f"{i}-")), key=len, default=None
        )
        if found:
            counts[*ids[found], outcome] += times
    kinds = sorted({case.kind.__name__ for case in CASES if not case.own}) + sorted(
        {case.kind.__name__ for case in CASES if case.own}
    )
    kinds = list(dict.fromkeys(kinds))
    lines = [
        "| class | " + " | ".join(place.name for place in _COLUMNS) + " |",
        "|---" * (len(_COLUMNS) + 1) + "|",
    ]
    for kind in kinds:
        cells = [_cell(*(counts[kind, place.name, o] for o in ("passed", "failed"))) for place in _COLUMNS]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n"


def _cell(passed: int, failed: int) -> str:
    if failed:
        return f"**{failed} of {passed + failed}**"
    return str(passed or "-")
