"""The command: python -m bench.compare [--rows PATTERN] [--peers NAME ...] [--rounds N] [--seconds S]."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.compare import startup, table
from bench.compare.peers import PEERS
from bench.compare.rows import ROWS
from bench.compare.worker import THREADS, compare
from deepcore.diagnose.info import cpu_model

RESULTS = Path(__file__).parents[1] / "results" / "compare.json"
STARTUP = "fresh process: first call, import, size"
_PACKAGES = ("numpy", "numba", "torch", "jax", "scikit-learn")


def main(arguments: list[str] | None = None) -> None:
    """Time the rows that are asked for, keep the figures of the others, and write table and picture."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument(
        "--rows", default="", metavar="PATTERN", help="rows whose title matches; default: all"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=[*PEERS], default=[*PEERS], metavar="NAME", help=", ".join(PEERS)
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each peer (5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn (0.3)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the file of results; default: %(default)s"
    )
    options = parser.parse_args(arguments)
    names = []
    for name in options.peers:
        missing = PEERS[name].missing()
        if missing:
            print(f"{PEERS[name].title}: not installed: {', '.join(missing)}", file=sys.stderr)
        else:
            names.append(name)
    rows = [row for row in ROWS if re.search(options.rows, row.title)]
    with_startup = bool(re.search(options.rows, STARTUP))
    if not rows and not with_startup:
        titles = "; ".join([*(row.title for row in ROWS), STARTUP])
        parser.error(f"--rows {options.rows!r} matches none of: {titles}")

    report = _earlier(options.results)
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            found = compare(row, names, options.rounds, options.seconds, f"{folder}/wanted.npz")
            report["rows"][row.title] = found | {"date": time.strftime("%F")}
            _write(options.results, report)
            print(table.line(row, report["rows"][row.title]), flush=True)
    if with_startup:
        report["startup"] = {
            "first": startup.first_calls(names, options.rounds),
            "import_ratio": startup.import_ratio(options.rounds),
            "install_megabytes": startup.install_size(),
        }
        _write(options.results, report)
    options.results.with_suffix(".md").write_text(table.markdown(report))
    if find_spec("matplotlib"):
        table.picture(report, options.results.with_suffix(".svg"))
    else:
        print('no picture: matplotlib is not installed; pip install "deepcore[plot]"')


def _earlier(path: Path) -> dict[str, Any]:
    """The results so far, of rows that are still there, and this machine."""
    report = json.loads(path.read_text()) if path.exists() else {"rows": {}}
    machine = {"cpu": cpu_model(), "threads": THREADS, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            continue
    titles = [row.title for row in ROWS]
    return report | {
        "rows": {title: found for title, found in report["rows"].items() if title in titles},
        "machine": machine,
    }


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
