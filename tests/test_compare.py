"""bench/compare: its smallest row runs with the peers that are installed; formulas, marks, table, picture."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from bench.compare import scaling, table
from bench.compare.peers import PEERS
from bench.compare.rows import ROWS, Row
from bench.compare.worker import Failure, Worker, compare

ROOT = Path(__file__).resolve().parents[1]
KINDS = {row.kind: row for row in reversed(ROWS)}  # the first row of each
PAIRS = [(name, kind) for name in ("numpy", "torch", "jax") for kind in KINDS]
PAIRS += [("plain", kind) for kind in ("cross_entropy", "linear", "mlp", "layer_norm")] + [("sklearn", "mlp")]


def small(row: Row) -> dict:
    """The arguments of a row, only the first two of each batch."""
    cut = {"X", "y", "dY"} if row.kind not in ("adamw",) else set()
    return {name: x[:2] if name in cut else x for name, x in row.draw().items()}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_peer_does_what_the_formula_says(name, kind):
    if PEERS[name].missing():
        pytest.skip(f"needs {', '.join(PEERS[name].needs)}")
    method = getattr(PEERS[name].load(), kind)
    row = KINDS[kind] if (name, kind) != ("sklearn", "mlp") else mlp_with_classes(10)
    arguments = small(row)
    wanted = row.result(arguments)
    call, read = method(**{key: copied(x) for key, x in arguments.items()})
    got = [np.asarray(x) for x in read(call())]
    assert len(got) == len(wanted)
    for a, e in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, e, rtol=0, atol=row.tolerance * abs(e).max())


def mlp_with_classes(classes):
    return next(row for row in ROWS if row.kind == "mlp" and f"-{classes}," in row.title)


def copied(x):
    return (
        [part.copy() for part in x] if isinstance(x, list) else x.copy() if isinstance(x, np.ndarray) else x
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The command on its smallest row."""
    results = tmp_path_factory.mktemp("compare") / "compare.json"
    peers = [name for name in PEERS if name != "torch.compile" and not PEERS[name].missing()]
    options = ["--rows", "128x10$", "--rounds", "1", "--seconds", "0.01", "--results", str(results)]
    command = [sys.executable, "-m", "bench.compare", *options, "--peers", *peers]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    return json.loads(results.read_text()), results, peers


def test_the_command_times_every_peer_and_finds_it_right(ran):
    report, _, peers = ran
    ((title, found),) = report["rows"].items()
    assert title == "cross-entropy fwd+grad 128x10"
    assert set(found["peers"]) == set(peers) - {"sklearn"}
    for one in found["peers"].values():
        assert one["median"] > 0 and not one["wrong"] and one["error"] < 1e-6
    assert found["limit"]["copy"] > 0 and found["limit"]["product"] == 0


def test_table_and_picture_show_it(ran):
    _, results, _ = ran
    page = results.with_suffix(".md").read_text()
    assert "| cross-entropy fwd+grad 128x10 |" in page and "deepcore, NumPy alone" in page
    assert "128x10" in results.with_suffix(".svg").read_text()


def test_a_peer_that_is_wrong_is_marked_and_gives_no_ratio(tmp_path):
    row = dataclasses.replace(
        ROWS[0], wanted=lambda **arguments: [2 * x for x in ROWS[0].wanted(**arguments)]
    )
    found = compare(row, ["numpy", "plain"], 1, 0.01, str(tmp_path / "wanted.npz"))
    assert found["peers"]["numpy"]["wrong"] and found["peers"]["plain"]["wrong"]
    assert table.ratios(row, found, "numpy") == {}
    assert "**wrong: 5e-01**" in table.line(row, found)


def test_ratios_are_those_of_the_goals():
    medians = {"numpy": 2.0, "torch": 4.0, "jax": 1.0, "plain": 0.1}
    found = {"peers": {name: {"median": m, "wrong": False, "error": 0.0} for name, m in medians.items()}}
    assert table.ratios(dataclasses.replace(ROWS[0], goals={"best": (1, 1)}), found, "numpy") == {"best": 0.5}
    assert table.ratios(dataclasses.replace(ROWS[0], goals={"torch": (1, 1)}), found, "numpy") == {
        "torch": 2.0
    }
    assert table.ratios(ROWS[0], found, "fast") == {}


def dies():
    raise SystemExit("no such library")
    yield


def test_what_goes_wrong_in_a_worker_is_told():
    worker = Worker(dies)
    try:
        with pytest.raises(Failure, match="SystemExit: no such library"):
            worker.answer()
    finally:
        worker.stop()


def test_growth_is_the_exponent():
    lines = [{"seconds": n**2, "seconds per unit": n} for n in (10, 20)]
    assert scaling.growth(lines, "seconds") == pytest.approx(2)


@pytest.mark.parametrize("series", scaling.SERIES, ids=lambda series: series.title.split()[0].strip(":"))
def test_every_series_is_a_net_that_trains(series):
    layers, X, y = series.net(series.sizes[0])
    net = dc.Net(layers, dc.CrossEntropyLoss())
    before = float(net.loss(net(X), y))
    net.backward()
    net.update_weights(0.01)
    assert float(net.loss(net(X), y)) < before
