"""bench/: it runs, its file of results holds no more than it should, and the report shows all of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark")

from bench import report
from bench.peers import PEERS, measure_peer
from deepcore.diagnose.kernels import MAIN_OPS, choose
from deepcore.diagnose.process import apart
from deepcore.diagnose.timing import Effort

ROOT = Path(__file__).resolve().parents[1]
FIELDS = {"op", "size", "library", "kind", "device", "error", "limit", "median", "iqr", "min", "rounds"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """pytest bench/, two cases, quickly: what it printed, and its file of results."""
    results = tmp_path_factory.mktemp("bench") / "kernels.json"
    options = ["--quick", "-k", "(linear or sigmoid) and not backward and not grad and not itself"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "bench",
            *options,
            f"--benchmark-json={results}",
            "-pno:cacheprovider",
        ],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, results


def test_a_table_for_each_case(ran):
    out, _ = ran
    for case in ("linear.linear 32x64->64", "activation.sigmoid 256x1000"):
        assert f"benchmark '{case}'" in out
    assert "[linear 32x64->64 numpy native]" in out and "[linear 32x64->64 numpy reference]" in out


def test_what_is_missing_is_told(ran):
    out, _ = ran
    assert "array_api_strict has no native kernel for some ops" in out


def test_the_file_of_results_tells_what_was_measured_and_no_more(ran):
    _, results = ran
    found = json.loads(results.read_text())
    numpy = {(one["op"], one["kind"]) for one in found["benchmarks"] if one["library"] == "numpy"}
    ops, kinds = ("linear.linear", "activation.sigmoid"), ("native", "reference")
    assert numpy == {(op, kind) for op in ops for kind in kinds}
    assert all(set(one) == FIELDS and one["median"] > 0 for one in found["benchmarks"])


@pytest.fixture(params=["made here", "committed"])
def results(request, ran):
    return ran[1] if request.param == "made here" else report.RESULTS


def test_nothing_tells_where_results_were_made(results):
    found = json.loads(results.read_text())
    assert set(found) <= {"benchmarks", "machine", "date", "version"}
    assert {"cpu", "cores", "python", "numpy"} <= set(found["machine"])
    assert set(found["machine"]) <= {
        "cpu",
        "cores",
        "python",
        "numpy",
        "array-api-strict",
        "torch",
        "jax",
        "cupy",
    }
    assert str(ROOT) not in results.read_text() and str(Path.home()) not in results.read_text()


def test_the_report_shows_every_result(results, tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    copy = tmp_path / "kernels.json"
    copy.write_text(results.read_text())
    report.main(copy)
    found, page = json.loads(copy.read_text()), (tmp_path / "kernels.md").read_text()
    for one in found["benchmarks"]:
        assert report.duration(one["median"]) in page and f"| {one['op']} {one['size']} |" in page
    picture = (tmp_path / "kernels.svg").read_text()
    assert picture.startswith("<?xml") and "<dc:date>" not in picture


def test_the_committed_report_is_that_of_the_committed_results():
    found = json.loads(report.RESULTS.read_text())
    assert report.RESULTS.with_suffix(".md").read_text() == report.markdown(found)
    assert report.RESULTS.with_suffix(".svg").exists()


@pytest.mark.parametrize("op", MAIN_OPS)
@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_does_the_same_work(peer, op):
    reason = PEERS[peer].why_not()
    if reason:
        pytest.skip(f"{peer}: {reason}")
    (case,) = choose([op], smallest=True)
    hasty = Effort(sample=0, seconds=0, rounds=(1, 1), square=8)
    timing = apart(measure_peer, peer, case.op, case.size, hasty, seconds=300).timings["peer"]
    assert timing.fault is None and timing.median > 0
