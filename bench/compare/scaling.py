"""Time and memory against batch, width, depth and classes: python -m bench.compare.scaling [--rounds N]

Each series runs in a process of its own, one size after the other. Writes bench/results/scaling.json and
scaling.md. What is linear has a last column that stays; what is quadratic would double it at each doubling.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import deepcore as dc
from bench.compare.worker import THREADS, Worker
from bench.report import table
from deepcore.diagnose.bench import duration
from deepcore.diagnose.info import cpu_model
from deepcore.diagnose.timing import Effort, time_in_turn

_HEAD = """# Scaling

Made by `python -m bench.compare.scaling`: eager training steps on NumPy alone, medians. Memory is the
most that NumPy and Python held at once during a step, beside the net."""
RESULTS = Path(__file__).parents[1] / "results" / "scaling.json"


@dataclass(frozen=True)
class Series:
    """A net's eager training step, made larger in one direction.

    net: the layers, and the batch, of a size   work: what time and memory should be proportional to
    """

    title: str
    sizes: tuple[int, ...]
    net: Callable[[int], tuple[list[Any], np.ndarray, np.ndarray]]
    work: Callable[[int], int]
    unit: str


def _batch(n: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, features), np.float32), rng.integers(0, classes, n)


def _mlp(n: int, width: int, depth: int = 1) -> tuple[list[Any], np.ndarray, np.ndarray]:
    hidden = [layer for _ in range(depth) for layer in (dc.Linear(width, width), dc.ReLU())]
    return [*hidden, dc.Linear(width, 10)], *_batch(n, width, 10)


def _classifier(classes: int) -> tuple[list[Any], np.ndarray, np.ndarray]:
    return [dc.Linear(16, classes)], *_batch(64, 16, classes)


SERIES = [
    Series(
        "batch: MLP 64-64-10",
        (1, 8, 64, 512, 4096, 32768, 131072),
        lambda n: _mlp(n, 64),
        lambda n: n,
        "sample",
    ),
    Series(
        "width w: MLP w-w-10, batch 64",
        (8, 32, 128, 512, 2048),
        lambda w: _mlp(64, w),
        lambda w: w * w,
        "weight",
    ),
    Series(
        "depth: layers Linear(8, 8) and ReLU, batch 8",
        (1, 3, 10, 30, 100, 300, 1000),
        lambda depth: _mlp(8, 8, depth),
        lambda depth: depth,
        "pair of layers",
    ),
    Series(
        "classes: Linear(16, classes) and cross-entropy, batch 64",
        (10, 100, 1000, 10_000, 50_000, 200_000),
        _classifier,
        lambda classes: classes,
        "class",
    ),
]


def measure(title: str, seconds: float) -> Iterator[list[dict[str, float]]]:
    """One round of a series: for each size the median time of a step, and the most memory that one takes."""
    series = next(one for one in SERIES if one.title == title)
    while True:
        found = []
        for size in series.sizes:
            dc.seed(0)
            layers, X, y = series.net(size)
            net = dc.Net(layers, dc.CrossEntropyLoss())

            def step(net: dc.Net = net, X: np.ndarray = X, y: np.ndarray = y) -> None:
                net.loss(net(X), y)
                net.backward()
                net.update_weights(0.01)

            times = time_in_turn({"step": step}, lambda *_: None, Effort(2e-3, seconds, (1, 10_000), 0))
            tracemalloc.start()
            step()
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            found.append({"seconds": statistics.median(times["step"]), "bytes": most})
        seconds = yield found


def run(series: Series, rounds: int, seconds: float) -> list[dict[str, float]]:
    """For each size the median over the rounds, with the time and the memory of a unit of work."""
    worker = Worker(measure, series.title, seconds, environment={"DEEPCORE_NUMBA": "0"})
    try:
        every = [worker.answer(), *(worker.ask(seconds) for _ in range(rounds - 1))]
    finally:
        worker.stop()
    lines = []
    for size, of_size in zip(series.sizes, zip(*every, strict=True), strict=True):
        work = series.work(size)
        line = {name: statistics.median(one[name] for one in of_size) for name in ("seconds", "bytes")}
        lines.append({"size": size, **line, **{f"{name} per unit": x / work for name, x in line.items()}})
    return lines


def growth(lines: list[dict[str, float]], what: str) -> float:
    """The exponent p of what ~ work^p between the last two sizes, where constant costs have faded."""
    a, b = lines[-2:]
    work = [one[what] / one[f"{what} per unit"] for one in (a, b)]
    return float(np.log(b[what] / a[what]) / np.log(work[1] / work[0]))


def markdown(report: dict[str, Any]) -> str:
    """A table for each series."""
    sections = [
        _HEAD,
        f"{report['cpu']}, {THREADS} threads; {report['date']}.",
    ]
    units = {series.title: series.unit for series in SERIES}
    for title, lines in report["series"].items():
        rows = [
            [
                f"{one['size']:,}",
                duration(one["seconds"]),
                duration(one["seconds per unit"]),
                f"{one['bytes'] / 1e6:.3f} MB",
                f"{one['bytes per unit']:.0f} B",
            ]
            for one in lines
        ]
        unit = units[title]
        powers = f"time ~ work^{growth(lines, 'seconds'):.2f}, memory ~ work^{growth(lines, 'bytes'):.2f}"
        header = ["", "a step", f"per {unit}", "memory", f"per {unit}"]
        sections += [
            f"## {title[0].upper()}{title[1:]}",
            table(header, rows),
            f"Between the last two: {powers}.",
        ]
    return "\n\n".join(sections) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure all series, and write the results as it goes."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare.scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="at each size, in each round")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    report: dict[str, Any] = {"cpu": cpu_model(), "date": time.strftime("%F"), "series": {}}
    for series in SERIES:
        report["series"][series.title] = run(series, options.rounds, options.seconds)
        options.results.write_text(json.dumps(report, indent=1) + "\n")
        options.results.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
