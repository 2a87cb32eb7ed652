"""The benchmarks: that each case is right, that a wrong kernel is not timed, and what the table says."""

import io
import math

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, BackendUnavailable
from deepcore.backends.registry import backend_names, get_backend
from deepcore.diagnose import timing
from deepcore.diagnose.bench import bench, duration
from deepcore.diagnose.kernels import CASES, MAIN_OPS, case_of, choose
from deepcore.diagnose.timing import QUICK, Effort, measure, relative_error, time_in_turn
from deepcore.ops.dispatch import OPS

HASTY = Effort(sample=0, seconds=0, rounds=(1, 1), square=8)


def native_ops(backend):
    return {op for op in OPS if get_backend(backend).tiers(*op.split("."))}


@pytest.fixture
def table():
    """table(backends=, ops=) -> whether all went well, the lines"""

    def run(**options):
        to = io.StringIO()
        well = bench(**options, quick=True, to=to)
        return well, to.getvalue().splitlines()

    return run


# ---- the cases


@pytest.mark.parametrize("backend", dc.available_backends())
def test_every_native_kernel_has_a_case(backend):
    assert native_ops(backend) <= {case.op for case in CASES}


def test_each_case_has_a_name_of_its_own():
    names = [(case.op, case.size) for case in CASES]
    assert len(set(names)) == len(names)
    assert all(case_of(*name) is case for name, case in zip(names, CASES, strict=True))


def test_sizes_of_the_main_ops():
    assert [case.size for case in choose(["linear_backward"])] == [
        *("32x64->64", "128x784->128", "256x1024->1024", "1024x4096->1024")
    ]
    assert [case.size for case in choose(["cross_entropy"])] == ["128x10", "4096x1000", "1024x32000"]


def test_choosing():
    assert {case.op for case in choose()} == set(MAIN_OPS)
    assert choose(["linear.linear", "linear"]) == choose(["linear"])
    assert [str(case) for case in choose(smallest=True)] == [
        *("linear.linear 32x64->64", "linear.linear_backward 32x64->64", "loss.cross_entropy 128x10")
    ]
    with pytest.raises(ArgumentError, match="no benchmark of an op 'relu6'; choose from: linear.linear, "):
        choose(["linear", "relu6"])


@pytest.mark.parametrize("case", choose(smallest=True), ids=str)
def test_the_second_formula_agrees_with_the_reference(case):
    arguments = [x.astype("float64") if getattr(x, "dtype", None) == "float32" else x for x in case.draw()]
    got, wanted = OPS[case.op].reference(*arguments), case.wanted(case.draw())
    for a, e in zip(*((r if isinstance(r, tuple) else (r,)) for r in (got, wanted)), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("case", [*choose(smallest=True), *CASES[11:]], ids=str)
def test_each_case_runs_and_is_right_on_numpy(case):
    measured = measure("numpy", case.op, case.size, HASTY)
    there = {"reference", "native"} if case.op in native_ops("numpy") else {"reference"}  # without numba
    assert set(measured.timings) == there and measured.device == "cpu"
    for one in measured.timings.values():
        assert one.fault is None and one.median > 0 and one.error <= 1e-5
    assert measured.limit > 0 and (measured.product > 0) == (case.flops > 0)


# ---- timing


def test_errors_are_relative_to_the_largest_value():
    assert relative_error([np.array([1.0, 101.0])], [np.array([2.0, 100.0])]) == 0.01
    assert relative_error([np.array(True)], [True]) == 0
    assert relative_error([np.zeros(3)], [np.zeros(3)]) == 0
    assert relative_error([np.zeros((3, 1))], [np.zeros(3)]) == math.inf
    assert relative_error([np.array([np.nan, 1])], [np.ones(2)]) == math.inf
    assert relative_error([np.zeros(3)], [np.zeros(3), np.zeros(3)]) == math.inf


def test_each_has_its_turn_and_each_result_is_waited_for():
    done, waited = [], []
    calls = {name: (lambda name=name: done.append(name) or name) for name in "ab"}
    figures = time_in_turn(calls, waited.append, Effort(sample=0, seconds=0, rounds=(3, 3), square=8))
    assert {name: len(times) for name, times in figures.items()} == {"a": 3, "b": 3}
    assert done == waited and "".join(done).endswith("ababab")


def test_a_short_call_is_repeated():
    done = []
    figures = time_in_turn(
        {"a": lambda: done.append(1)}, lambda x: None, Effort(sample=1e-3, seconds=0, rounds=(1, 1), square=8)
    )
    assert len(done) > 100 and len(figures["a"]) == 1


def test_a_copy_into_arrays_that_cannot_be_written_to_makes_new_ones(monkeypatch):
    def sealed(x):
        x = np.array(x)
        x.flags.writeable = False
        return x

    frozen = timing.Library(put=sealed, to_numpy=np.asarray, copy=sealed, wait=lambda *_: None, device=str)

    class Frozen(np.ndarray):
        def __setitem__(self, key, value):
            raise TypeError("immutable")

    copied = []
    library = timing.Library(
        put=np.asarray,
        to_numpy=np.asarray,
        copy=lambda x: copied.append(x) or x.copy().view(Frozen),
        wait=frozen.wait,
        device=str,
    )
    copy = timing._copier(400, library)
    assert copy().nbytes == 400 and len(copied) == 2


# ---- the table


def test_a_block_for_each_case_and_a_line_for_each_backend(table):
    well, lines = table(backends=["numpy"], ops=["linear", "sigmoid"])
    assert well
    assert [line for line in lines if line.startswith(("linear", "activation"))] == [
        *("linear.linear 32x64->64", "activation.sigmoid 256x1000")
    ]
    assert sum(line.startswith("  numpy  ") for line in lines) == 2
    assert sum(line.startswith("  limit (cpu)  ") for line in lines) == 2
    assert max(map(len, lines)) <= 80


def test_every_backend_that_there_is_has_a_line(table):
    well, lines = table(ops=["linear"])
    assert well
    for name in backend_names():
        start = f"  {name}" if name in dc.available_backends() else f"{name}: not usable: "
        assert any(line.startswith(start) for line in lines)


def test_a_wrong_kernel_is_not_timed_and_fails_the_command(table, third_party):
    third_party(kernels={"linear": "def linear(X, W, b): return X @ W"}, forgetful="pass")
    well, lines = table(backends=["forgetful", "numpy"], ops=["linear"])
    assert not well
    (line,) = (line for line in lines if line.startswith("  forgetful "))
    assert line.split()[1] == "wrong" and "us" in line
    assert any(line.startswith("    native wrong: its error is ") for line in lines)
    assert any(line.startswith("  numpy ") for line in lines), "the others are timed all the same"


def test_a_kernel_that_declines_is_no_native_kernel(table, third_party):
    third_party(kernels={"linear": "def linear(X, W, b): return NotImplemented"}, modest="pass")
    well, lines = table(backends=["modest"], ops=["linear"])
    assert well
    (line,) = (line for line in lines if line.startswith("  modest "))
    assert line.split()[1] == "-"


def test_a_kernel_that_dies_is_a_line_and_fails_the_command(table, third_party):
    third_party(kernels={"linear": "import os\ndef linear(X, W, b): os._exit(9)"}, deadly="pass")
    well, lines = table(backends=["deadly", "numpy"], ops=["linear"])
    assert not well
    assert "  deadly: failed: its process died of exit status 9" in lines
    assert any(line.startswith("  numpy ") for line in lines)


def test_a_backend_that_is_not_usable_is_a_line(table, third_party):
    third_party(idle="why_unusable = classmethod(lambda cls: 'no GPU is counted; plug one in')")
    line = "idle: not usable: no GPU is counted; plug one in"
    well, lines = table(backends=["idle", "numpy"], ops=["linear"])
    assert well and line in lines
    well, lines = table(backends=["idle"], ops=["linear"])
    assert not well and lines[-1] == line, "nothing was timed"


def test_an_unknown_backend_is_refused_before_anything_is_timed(table):
    with pytest.raises(BackendUnavailable, match="there is no backend 'abacus'"):
        table(backends=["numpy", "abacus"])


def test_durations():
    assert [duration(s) for s in (2.5, 0.0123, 1.23e-4, 4e-9)] == ["2.50 s", "12.3 ms", "123 us", "4.00 ns"]
    assert QUICK.rounds[0] > 1
