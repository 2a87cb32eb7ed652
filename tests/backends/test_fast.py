"""NumPy's compiled tier: when it is off, where it keeps its work, and what it does in odd places."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from deepcore.backends.numpy import fast

compiled_tier = pytest.mark.skipif(not fast.usable(), reason='needs numba: pip install "deepcore[fast]"')
STEP = """
import sys, numpy as np
from deepcore.ops import loss
X, y = np.random.default_rng(0).standard_normal((64, 1000), dtype="float32"), np.arange(64)
def right(): return abs(loss.cross_entropy(X, y)[0] - loss.cross_entropy.reference(X, y)[0]) < 1e-5
"""


def run(code, **variables):
    """What Python prints in a process of its own, on stdout and on stderr."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        [sys.executable, "-c", STEP + textwrap.dedent(code)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr.strip()


@compiled_tier
@pytest.mark.parametrize(("value", "there"), [("0", False), ("1", True)])
def test_the_variable_turns_it_off(value, there):
    assert run("print(right(), 'numba' in sys.modules)", DEEPCORE_NUMBA=value)[0] == f"True {there}"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('Numba needs another NumPy')", "Numba needs another NumPy"),
        ("__version__ = '0.61.2'", "it is version 0.61.2, and kernels need 0.62 or later"),
    ],
    ids=["broken", "old"],
)
def test_a_numba_that_cannot_be_used_is_a_warning_and_no_more(source, reason, tmp_path):
    (tmp_path / "numba.py").write_text(source)
    code = f"sys.path.insert(0, {str(tmp_path)!r})\nprint(right(), right())"
    out, warning = run(code, DEEPCORE_NUMBA="1", PYTHONWARNINGS="default")
    assert out == "True True"
    assert warning.count(reason) == 1
    assert "BackendFallbackWarning" in warning and "DEEPCORE_NUMBA=0" in warning


@compiled_tier
def test_it_says_once_that_it_compiles_and_reads_it_from_disk_the_next_time(tmp_path):
    """And then without the parts of numba that only compiling needs: a fifth of the time."""
    code = "print(right(), right(), 'numba.np.arrayobj' in sys.modules)"
    for announced in (1, 0):
        out, said = run(code, NUMBA_CACHE_DIR=str(tmp_path))
        assert out == f"True True {bool(announced)}"
        assert said.count("deepcore: compiling") == announced


@compiled_tier
def test_a_cache_that_cannot_be_written_or_read_breaks_nothing(tmp_path):
    assert run("print(right())", NUMBA_CACHE_DIR=str(tmp_path))[0] == "True"
    kept = [path for path in tmp_path.rglob("*") if path.suffix in (".nbi", ".nbc")]
    assert kept
    for path in kept:
        path.write_bytes(b"rubbish")
    assert run("print(right())", NUMBA_CACHE_DIR=str(tmp_path))[0] == "True"
    code = """
        from numba.core.caching import IndexDataCacheFile
        def full(*arguments): raise OSError("no space left on device")
        IndexDataCacheFile.save = full
        print(right())
    """
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path / "new"))[0] == "True"


@compiled_tier
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_after_a_parallel_region():
    """GNU OpenMP would end it: it works in one thread."""
    code = """
        import os
        print(right(), flush=True)
        child = os.fork()
        if child == 0: os._exit(0 if right() else 1)
        print(os.waitpid(child, 0)[1], right())
    """
    assert run(code, NUMBA_NUM_THREADS="2", OMP_NUM_THREADS="2")[0].split() == ["True", "0", "True"]


@compiled_tier
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_multiplies_and_convolves():
    code = """
        import os, numpy as np
        from deepcore import Conv2D, Linear
        X, images = (np.ones(shape, "float32") for shape in ((128, 128), (4, 16, 16, 16)))
        f, g = Linear(128, 128), Conv2D(16, 32, 3, padding=1)
        def passes():
            return [f(X), f.backward(X), g(images), g.backward(g(images))]
        first = passes()
        def right():
            return all(map(np.array_equal, first, passes()))
        child = os.fork()
        if child == 0: os._exit(0 if right() else 1)
        print(os.waitpid(child, 0)[1], right())
    """
    assert run(code, NUMBA_NUM_THREADS="2", OMP_NUM_THREADS="2")[0].split() == ["0", "True"]


@compiled_tier
@pytest.mark.parametrize("label", [-1, 1000, -(2**62)])
def test_a_label_out_of_range_is_never_used_as_an_address(label):
    from deepcore.backends.numpy.fast import loss

    y = np.zeros(64, np.int64)
    y[5] = label
    assert loss.cross_entropy(np.zeros((64, 1000), "float32"), y) is NotImplemented


@compiled_tier
def test_a_gradient_that_no_cache_would_hold():
    """It is stored in another way, and past the caches."""
    from deepcore.backends.numpy.fast import loss

    n, classes = 512, 1 << 15
    assert n * classes >= loss._BEYOND_CACHES
    y = np.arange(n) * 7
    L, dX = loss.cross_entropy(np.zeros((n, classes), "float32"), y)
    wanted = np.full((n, classes), 1 / classes / n)
    wanted[np.arange(n), y] -= 1 / n
    np.testing.assert_allclose(L, np.log(classes), rtol=1e-6)
    np.testing.assert_allclose(dX, wanted, rtol=1e-6)


@compiled_tier
def test_threads_wait_only_briefly_and_leave_the_environment_alone():
    """GNU OpenMP says what it read when it starts; nothing of it is left for child processes."""
    code = "import os; print(right(), 'GOMP_SPINCOUNT' in os.environ)"
    for variables, spins in (({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77")):
        settings = {
            "OMP_NUM_THREADS": "2",
            "NUMBA_NUM_THREADS": "2",
            "OMP_DISPLAY_ENV": "verbose",
            **variables,
        }
        out, said = run(code, **settings)
        assert out == f"True {bool(variables)}"
        if "GOMP_SPINCOUNT" in said:  # another OpenMP than GNU's has no such setting
            assert f"GOMP_SPINCOUNT = '{spins}'" in said
