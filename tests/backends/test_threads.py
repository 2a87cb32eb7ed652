"""Parts of a kernel in several threads: all of the work once, in order, and BLAS as it was."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from deepcore.backends.numpy import threads

many = pytest.mark.skipif(threads._blas() is None, reason="NumPy's BLAS is not OpenBLAS: one thread")


@pytest.fixture
def three(monkeypatch):
    monkeypatch.setattr(threads, "count", lambda: 3)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 11])
@pytest.mark.parametrize("least", [1, 2, 4])
def test_all_of_the_work_is_done_once_and_in_order(three, n, least):
    parts = threads.share(lambda first, last: (first, last), n, least)
    assert parts[0][0] == 0 and parts[-1][1] == n
    assert all(before[1] == after[0] for before, after in itertools.pairwise(parts))
    assert len(parts) == max(1, min(3, n // least))
    assert threads.total(lambda first, last: last - first, n, least) == n
    assert len(parts) == 1 or min(last - first for first, last in parts) >= least


@many
def test_blas_keeps_to_one_thread_in_the_parts_and_is_then_as_it_was(three):
    blas = threads._blas()
    before = blas.get_num_threads()
    blas.set_num_threads(2)
    try:
        assert threads.share(lambda *_: blas.get_num_threads(), 3) == [1, 1, 1]
        assert blas.get_num_threads() == 2
    finally:
        blas.set_num_threads(before)


@many
@pytest.mark.parametrize("bad", [0, 2])
def test_what_a_part_raises_is_raised_when_all_have_ended(three, bad):
    ended = []

    def part(first, last):
        if first == bad:
            raise ValueError("of a part")
        ended.append(first)

    blas = threads._blas()
    before = blas.get_num_threads()
    with pytest.raises(ValueError, match="of a part"):
        threads.share(part, 3)
    assert len(ended) == 2 and blas.get_num_threads() == before


@many
def test_parts_are_as_quiet_as_the_caller(three):
    large = np.full(1000, 1e38, np.float32)
    with np.errstate(over="ignore"):
        threads.share(lambda *_: large * large, 3)  # a warning would be an error


@many
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_threads_of_its_own():
    code = """if True:
        import os
        from deepcore.backends.numpy import threads
        threads.count = lambda: 2
        print(threads.share(lambda first, last: last, 2), flush=True)
        child = os.fork()
        if child == 0:
            print(threads.share(lambda first, last: last, 2), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
    """
    run = subprocess.run([sys.executable, "-Wignore", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.split("\n")[:2] == ["[1, 2]", "[1, 2]"], run.stderr


def test_at_the_end_of_python_one_thread_does_it_all():
    """Its threads are gone by the time that atexit calls, where a net may still be asked, or saved."""
    code = """if True:
        import atexit
        from deepcore.backends.numpy import threads
        threads.count = lambda: 3
        threads.share(lambda first, last: last, 3)
        atexit.register(lambda: print(threads.share(lambda first, last: last, 3)))
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.stdout.strip() == "[1, 2, 3]", run.stderr


def test_blas_waits_as_the_user_says(monkeypatch):
    monkeypatch.setattr(threads, "_library", lambda: pytest.fail("must leave BLAS alone"))
    monkeypatch.setattr(threads.threading, "active_count", lambda: 1)
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    threads.wait_briefly()


def test_the_setting_for_blas_does_not_stay_in_the_environment():
    code = "import os, deepcore; print('OPENBLAS_THREAD_TIMEOUT' in os.environ)"
    environment = {name: x for name, x in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert run.stdout.strip() == "False", run.stderr
