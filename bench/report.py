"""From the file of results to a table and a picture.

pytest bench/ --benchmark-json=bench/results/kernels.json
python bench/report.py                          writes kernels.md and kernels.svg beside kernels.json
python bench/report.py FILE.json [PICTURE.png]  another file of results; another kind of picture
"""

import json
import sys
from pathlib import Path

from deepcore.diagnose.bench import duration
from deepcore.diagnose.kernels import MAIN_OPS

RESULTS = Path(__file__).parent / "results" / "kernels.json"
TITLES = {
    "linear.linear": "Linear, forward: batch x in -> out",
    "linear.linear_backward": "Linear, backward: dX, dW, db",
    "loss.cross_entropy": "Cross-entropy with its gradient: batch x classes",
}
# Okabe and Ito's colours, which the colour-blind can tell apart
COLOURS = {
    "numpy": "#0072B2",
    "cupy": "#009E73",
    "torch": "#D55E00",
    "jax": "#CC79A7",
    "array_api_strict": "#8C8C8C",
    "torch itself": "#E69F00",
    "jax itself": "#56B4E9",
}


def limits(results):
    """(op, size, device) -> seconds: as near as any library on that device came to the limit."""
    found = {}
    for one in results:
        key = one["op"], one["size"], one["device"]
        found[key] = min(found.get(key, one["limit"]), one["limit"])
    return found


def entrant(one):
    """Who ran: "numpy", "numpy reference", "torch itself"."""
    return f"{one['library']} reference" if one["kind"] == "reference" else one["library"]


def table(header, rows):
    """A Markdown table; numbers stand on the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(results):
    """What is in each row, and the time and the share of the limit in each cell."""
    limit = limits(results)
    for one in results:
        share = limit[one["op"], one["size"], one["device"]] / one["median"]
        yield (one["op"], one["size"]), entrant(one), f"{duration(one['median'])} ({100 * share:.0f} %)"


def markdown(report):
    """Two tables: the main ops on all libraries; every other native kernel beside its reference."""
    results, machine = report["benchmarks"], report["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in ("cpu", "cores"))
    sections = [
        "# Kernels\n\nMade by `python bench/report.py`; the README says how. Medians; in brackets the "
        "share of the limit, which is\nthe time to copy as many bytes, or to do as many operations in a "
        "large matrix product, whichever is longer.\n",
        f"{machine['cpu']}, {machine['cores']} core(s); {versions}; {report['date']}.\n",
    ]
    for title, main in (("Linear and cross-entropy", True), ("Every other native kernel", False)):
        chosen = [one for one in results if (one["op"] in MAIN_OPS) is main]
        if not chosen:
            continue
        filled = {}
        for row, column, cell in cells(chosen):
            filled.setdefault(row, {})[column] = cell
        columns = list(dict.fromkeys(entrant(one) for one in chosen))
        limit = {}
        for (op, size, device), seconds in limits(chosen).items():
            limit.setdefault((op, size), []).append(f"{duration(seconds)} ({device})")
        rows = [
            [f"{op} {size}", *(one.get(column, "") for column in columns), ", ".join(limit[op, size])]
            for (op, size), one in filled.items()
        ]
        sections.append(f"## {title}\n\n{table(['', *columns, 'limit'], rows)}\n")
    return "\n".join(sections)


def picture(report, path):
    """The share of the limit that each library reaches at each size, a panel for each main op."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "deepcore"  # the same figures give the same file
    results = [one for one in report["benchmarks"] if one["op"] in MAIN_OPS]
    limit = limits(results)
    entrants = list(dict.fromkeys(entrant(one) for one in results))
    ops = [op for op in MAIN_OPS if any(one["op"] == op for one in results)]
    figure = Figure(figsize=(10, 3.1 * len(ops) + 0.6), layout="constrained")
    width = 0.86 / len(entrants)
    for panel, op in enumerate(ops):
        axes = figure.add_subplot(len(ops), 1, panel + 1)
        of_op = [one for one in results if one["op"] == op]
        sizes = list(dict.fromkeys(one["size"] for one in of_op))
        tallest = 100.0
        for one in of_op:
            who = entrant(one)
            x = sizes.index(one["size"]) + (entrants.index(who) - (len(entrants) - 1) / 2) * width
            share = 100 * limit[op, one["size"], one["device"]] / one["median"]
            tallest = max(tallest, share)
            reference = one["kind"] == "reference"
            axes.bar(
                *(x, share, 0.94 * width),
                color=COLOURS.get(one["library"], "#444444"),
                alpha=0.45 if reference else 1,
                hatch="///" if reference else None,
                edgecolor="white",
                label=who if one["size"] == sizes[0] else None,
            )
            axes.annotate(
                duration(one["median"]),
                (x, share),
                (0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90,
                fontsize=7.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},  # over the line of the limit
            )
        axes.axhline(100, color="#222222", linewidth=1, linestyle="--")
        axes.set_xticks(range(len(sizes)), sizes)
        axes.tick_params(axis="x", length=0)
        axes.set_ylim(0, 1.32 * tallest)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_ylabel("% of the limit")
        axes.set_title(TITLES[op], loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    labels = {}
    for axes in figure.axes:
        labels |= {label: bar for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        labels.values(),
        labels,
        loc="outside upper center",
        ncols=min(len(labels), 5),
        frameon=False,
        fontsize=9,
    )
    machine = report["machine"]
    figure.supxlabel(
        f"higher is better; over the bars: the time   ({machine['cpu']}, {machine['cores']} core(s))",
        fontsize=8,
    )
    figure.savefig(path, dpi=150, metadata={"Date": None} if str(path).endswith(".svg") else None)


def main(results=RESULTS, path=None):
    results = Path(results)
    report = json.loads(results.read_text())
    results.with_suffix(".md").write_text(markdown(report))
    picture(report, path or results.with_suffix(".svg"))


if __name__ == "__main__":
    main(*sys.argv[1:])
