"""The file of results as a Markdown table and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.compare.peers import OURS, PEERS
from bench.compare.rows import ROWS, Row
from bench.report import table
from deepcore.diagnose.bench import duration

COLOURS = {  # Okabe and Ito's, which the colour-blind can tell apart
    "numpy": "#0072B2",
    "fast": "#009E73",
    "torch": "#D55E00",
    "torch.compile": "#E69F00",
    "jax": "#CC79A7",
    "sklearn": "#56B4E9",
    "plain": "#8C8C8C",
}
_BEST = ("torch", "jax")  # what "best" is the best of
_HEAD = """# deepcore beside others

Made by `python -m bench.compare`. A ratio is the peer's time by ours: torch's, or in the rows of large nets
and of Conv2D that of the faster of torch and jax.jit; behind it stands the goal. Medians of interleaved
rounds, each peer in a process of its own; in brackets the share of the limit, which is the time to copy as
many bytes as must be moved at least, or to do as many operations in a large matrix product, whichever is
longer, both measured among the rounds. (Winograd's convolution does fewer, and may pass it.) error: ours,
the largest, relative to the largest value of the result in float64; of a net's step, that of its gradients,
read off the weights."""
_FRESH = """## A fresh process

The first step of the MNIST CNN, without the import of the library itself: with empty caches on disk, and with
warm ones. Goals with [fast]: 10 s and 0.3 s."""


def limit_of(found: dict[str, Any]) -> float:
    return max(found["limit"].values())


def ratios(row: Row, found: dict[str, Any], ours: str) -> dict[str, float]:
    """By whom we are compared with: their time / ours. Empty if either has no figure, or a wrong one."""
    medians = {
        name: one["median"] for name, one in found["peers"].items() if "median" in one and not one["wrong"]
    }
    if ours not in medians:
        return {}
    found_ratios = {}
    for whom in row.goals:
        theirs = [medians[name] for name in (_BEST if whom == "best" else (whom,)) if name in medians]
        if theirs:
            found_ratios[whom] = min(theirs) / medians[ours]
    return found_ratios


def _verdict(row: Row, found: dict[str, Any], ours: str) -> str:
    """Such as "1.20 of torch (goal 0.85)", with a cross where the goal is missed."""
    words = []
    for whom, ratio in ratios(row, found, ours).items():
        goal = row.goals[whom][OURS.index(ours)]
        against = "" if len(row.goals) == 1 else f" {whom}"
        aim = "" if goal is None else f" ≥ {goal:g} {'✓' if ratio >= goal else '✗'}"
        words.append(f"{ratio:.2f}{against}{aim}")
    return ", ".join(words)


def _cell(found: dict[str, Any], name: str) -> str:
    one = found["peers"].get(name)
    if one is None:
        return ""
    if "median" not in one:
        return _reason(one)
    wrong = f" **wrong: {one['error']:.0e}**" if one["wrong"] else ""
    return f"{duration(one['median'])} ({100 * limit_of(found) / one['median']:.0f} %){wrong}"


def _reason(one: dict[str, Any]) -> str:
    """Why there is no figure."""
    return one["why"].removeprefix("NotThere: ")


def line(row: Row, found: dict[str, Any]) -> str:
    """A row for the terminal."""
    cells = [f"{name} {_cell(found, name)}" for name in PEERS if name in found["peers"]]
    verdicts = [f"{name}: {verdict}" for name in OURS if (verdict := _verdict(row, found, name))]
    return f"{row.title}: limit {duration(limit_of(found))}; {'; '.join([*cells, *verdicts])}"


def _machine(report: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {value}" for name, value in report["machine"].items() if name not in ("cpu", "threads")
    )
    return f"{report['machine']['cpu']}, {report['machine']['threads']} threads for each; {versions}."


def markdown(report: dict[str, Any]) -> str:
    """Two tables: all times with their share of the limit; fresh processes."""
    names = [name for name in PEERS if any(name in found["peers"] for found in report["rows"].values())]
    ours = [name for name in OURS if name in names]
    lines = []
    for row in ROWS:
        found = report["rows"].get(row.title)
        if found is not None:
            shown = f"{duration(limit_of(found))}, {max(found['limit'], key=found['limit'].get)}"
            verdicts = [_verdict(row, found, name) for name in ours]
            error = max(
                (one["error"] for name, one in found["peers"].items() if name in ours and "error" in one),
                default=0,
            )
            lines.append(
                [row.title, *verdicts, *(_cell(found, name) for name in names), shown, f"{error:.0e}"]
            )
    header = ["", *(f"ratio, {PEERS[name].title}" for name in ours), *(PEERS[name].title for name in names)]
    sections = [_HEAD, _machine(report), table([*header, "limit", "error"], lines)]
    if "startup" in report:
        sections.append(_startup(report["startup"]))
    return "\n\n".join(sections) + "\n"


def _startup(found: dict[str, Any]) -> str:
    rows = [
        [
            PEERS[name].title,
            *([_reason(one), ""] if "why" in one else [duration(one["cold"]), duration(one["warm"])]),
        ]
        for name, one in found["first"].items()
    ]
    sizes = found["install_megabytes"]
    parts = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items())
    table_of_calls = table(["first call", "cold", "warm"], rows)
    ratio = f"`import deepcore` in the time of `import numpy`: {found['import_ratio']:.2f} (goal ≤ 1.3)."
    size = f"On disk: {sum(sizes.values()):.0f} MB (goal ≤ 80): {parts}."
    return "\n\n".join([_FRESH, table_of_calls, f"{ratio} {size}"])


def picture(report: dict[str, Any], path: Path) -> None:
    """Each peer's time by the best peer's, a line a row, on a logarithmic axis: left is faster."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "deepcore"  # the same figures give the same file
    rows = [row for row in ROWS if _medians(report, row)]
    if not rows:
        return
    figure = Figure(figsize=(10, 0.33 * len(rows) + 1.6), layout="constrained")
    axes = figure.add_subplot()
    slowest = 20.0
    for place, row in enumerate(rows):
        medians = _medians(report, row)
        unit = min((medians[name] for name in _BEST if name in medians), default=min(medians.values()))
        axes.axhline(place, color="#dddddd", linewidth=0.8, zorder=0)
        limit = limit_of(report["rows"][row.title]) / unit
        axes.plot([limit], [place], "|", color="#222222", markersize=11, label="limit", zorder=1)
        slowest = max(slowest, *(seconds / unit for seconds in medians.values()))
        for name, seconds in medians.items():
            mark = "D" if name in OURS else "o"
            axes.plot(
                [seconds / unit], [place], mark, color=COLOURS[name], label=PEERS[name].title, markersize=6
            )
    axes.axvline(1, color="#222222", linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlim(0.04, 1.25 * slowest)
    ticks = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
    ticks = [tick for tick in ticks if tick <= slowest]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "time, relative to the faster of torch and jax.jit (left is faster)\n" + report["machine"]["cpu"],
        fontsize=8,
    )
    labels = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    order = ["limit", *(peer.title for peer in PEERS.values())]
    shown = [label for label in order if label in labels]
    figure.legend(
        [labels[label] for label in shown],
        shown,
        loc="outside upper center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _medians(report: dict[str, Any], row: Row) -> dict[str, float]:
    peers = report["rows"].get(row.title, {"peers": {}})["peers"]
    return {name: one["median"] for name, one in peers.items() if "median" in one and not one["wrong"]}
