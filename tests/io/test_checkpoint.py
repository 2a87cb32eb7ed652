"""A checkpoint whose writing is cut short, by kill -9 or by a full disk. (The whole of it: kill_saves.py.)"""

import os
import random
import time

import pytest

from tests.io import kill_saves

pytestmark = pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
MEGABYTES = 6


def test_kill_9_leaves_the_old_checkpoint_or_the_new_one(tmp_path):
    path = tmp_path / "run.ckpt"
    kill_saves.save(path, MEGABYTES, 1)
    started = time.perf_counter()
    kill_saves.save(path, MEGABYTES, 1)
    seconds = time.perf_counter() - started
    version, moments = 1, random.Random(0)
    for _ in range(10):
        outcome = kill_saves.killed(path, MEGABYTES, version, moments.uniform(0.3, 0.9) * seconds)
        assert outcome.found in (outcome.saved, outcome.saved + 1)
        assert outcome.stray_later == []
        version = outcome.saved + 2


def test_a_limit_of_the_files_size_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    kill_saves.save(path, MEGABYTES, 1)
    outcome = kill_saves.limited(path, MEGABYTES, 2, path.stat().st_size // 2)
    assert outcome.found == 1 and outcome.stray == outcome.stray_later == []
