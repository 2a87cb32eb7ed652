"""A call in another process: its result, and each way in which it can go wrong."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from deepcore.diagnose.process import apart


def test_the_result_comes_back_from_another_process():
    assert apart(divmod, 7, 2, seconds=60) == (3, 1)
    assert apart(os.getpid, seconds=60) != os.getpid()


def test_an_exception_is_told():
    with pytest.raises(ChildProcessError, match="ZeroDivisionError: .*zero"):
        apart(divmod, 1, 0, seconds=60)


def test_a_task_that_exits_is_told():
    with pytest.raises(ChildProcessError, match="SystemExit: 3"):
        apart(sys.exit, 3, seconds=60)


def test_a_process_that_dies_is_told():
    with pytest.raises(ChildProcessError, match="its process died of exit status 5"):
        apart(os._exit, 5, seconds=60)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_process_that_is_killed_is_told():
    with pytest.raises(ChildProcessError, match="its process died of SIGKILL"):
        apart(signal.raise_signal, signal.SIGKILL, seconds=60)


def test_a_task_that_hangs_is_ended():
    with pytest.raises(TimeoutError, match="no answer in 0.5 s"):
        apart(time.sleep, 600, seconds=0.5)
    assert not multiprocessing.active_children()
