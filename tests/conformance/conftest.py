"""How many cases of each suite passed, at the end of the run; with an option, as a page too.

A test says by the fixture `counted` which suite, family and subject it belongs to.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

OPTION = "--conformance-page"
PLACES = ("passed", "nearer", "failed", "not there yet", "not mapped")
Tables = dict[str, dict[tuple[str, str], "Row"]]  # suite -> (family, subject) -> Row


class Row(NamedTuple):
    """The cases of one subject, such as a module of torch's."""

    counts: Counter[str]
    reasons: Counter[str]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, metavar="FILE", help="write the summary of tests/conformance to this file")


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """counted(suite, family, subject) enters this test into the summary, as so many cases."""
    return lambda suite, family, subject, cases=1: record_property(
        "conformance", (suite, family, subject, cases)
    )


@pytest.fixture
def nearer(record_property: Callable[[str, object], None]) -> Callable[[], None]:
    """nearer() says how this test passes: deepcore is nearer to the exact result than its judge."""
    return lambda: record_property("nearer", True)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    tables = tabulate(
        (report.user_properties, outcome, report.longrepr)
        for outcome in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(outcome, ())
        if report.when == "call"
    )
    if not tables:
        return
    terminalreporter.section("conformance")
    for suite, rows in tables.items():
        terminalreporter.write_line(f"{suite}: {in_words(total(rows.values()))}")
        for family in sorted({family for family, _ in rows}):
            part = total(row for (f, _), row in rows.items() if f == family)
            terminalreporter.write_line(f"    {family}: {in_words(part)}")
    page = config.getoption(OPTION, None)
    if page:
        Path(page).parent.mkdir(parents=True, exist_ok=True)
        Path(page).write_text(as_page(tables), encoding="utf-8")
        terminalreporter.write_line(f"written to {page}")


def tabulate(reports: Iterator[tuple[list[tuple[str, Any]], str, Any]]) -> Tables:
    """Every counted test under its suite and subject."""
    tables: Tables = defaultdict(lambda: defaultdict(lambda: Row(Counter(), Counter())))
    for properties, outcome, longrepr in reports:
        if ("nearer", True) in properties and outcome == "passed":
            outcome = "nearer"
        for suite, family, subject, cases in (where for name, where in properties if name == "conformance"):
            row = tables[suite][family, subject]
            if outcome == "skipped":
                reason = longrepr[2].removeprefix("Skipped: ")
                outcome = "not there yet" if reason.startswith("not there yet") else "not mapped"
                row.reasons[reason] += cases
            row.counts[outcome] += cases
    return tables


def total(rows: Any) -> Counter[str]:
    return sum((row.counts for row in rows), Counter())


def in_words(counts: Counter[str]) -> str:
    mapped = counts["passed"] + counts["nearer"] + counts["failed"]
    return ", ".join([f"{mapped} mapped", *(f"{counts[place]} {place}" for place in PLACES if counts[place])])


def as_page(tables: Tables) -> str:
    """The summary in Markdown: a table for each suite, and what isn't mapped with its reasons."""
    lines = [
        "# Conformance",
        "",
        "Suites of other projects, run against deepcore; `nox -s conformance` writes this page.",
        "A case is *mapped* if deepcore has something of its meaning: then all of it must agree, to the",
        "suite's tolerances. *Nearer* are those float32 cases where torch's own rounding is beyond them, and",
        "deepcore's error, measured against torch in float64, is the smaller one. Not compared: the gradient",
        "of a loss by its target, where deepcore's loss gives none, and optional outputs that no Function",
        "returns, such as the indices of a MaxPool or the mean that a LayerNormalization has used.",
    ]
    for suite, rows in tables.items():
        counts = total(rows.values())
        lines += [
            "",
            f"## {suite}",
            "",
            f"In all: {in_words(counts)}.",
            "",
            "| family | subject | " + " | ".join(PLACES) + " |",
            "|---|---|" + "---:|" * len(PLACES),
        ]
        reached = {key: row for key, row in rows.items() if set(row.counts) - {"not mapped"}}
        for (family, subject), row in sorted(reached.items()):
            cells = " | ".join(str(row.counts[place] or "") for place in PLACES)
            lines.append(f"| {family} | {subject} | {cells} |")
        for family in sorted({family for family, _ in reached}):
            part = total(row for (f, _), row in reached.items() if f == family)
            lines.append(
                f"| **{family}** | **all** | {' | '.join(f'**{part[place]}**' for place in PLACES)} |"
            )
        lines += ["", "### Not mapped", "", "| subject | cases | reason |", "|---|---:|---|"]
        for (_, subject), row in sorted(rows.items(), key=lambda item: item[0][1]):
            lines += [f"| {subject} | {n} | {reason} |" for reason, n in sorted(row.reasons.items())]
    return "\n".join(lines) + "\n"
