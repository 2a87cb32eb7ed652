"""Checkpoints whose writing is cut short, and damaged ones."""

import os
import random
import time

import pytest

import deepcore as dc
from deepcore.io import safetensors
from tests.io import kill_saves, mutate_files

unix = pytest.mark.skipif(os.name == "nt", reason="kills with a signal")
MEGABYTES = 6

# ---- kill -9, and a full disk (the whole of it: kill_saves.py)


@unix
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


@unix
def test_a_limit_of_the_files_size_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    kill_saves.save(path, MEGABYTES, 1)
    outcome = kill_saves.limited(path, MEGABYTES, 2, path.stat().st_size // 2)
    assert outcome.found == 1 and outcome.stray == outcome.stray_later == []


# ---- damaged and forged (the whole of it: mutate_files.py)


@pytest.mark.parametrize("forged", [False, True], ids=["bytes", "content"])
def test_changed_checkpoints_are_one_kind_of_error_or_make_sense(forged, tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors.os, "fsync", lambda descriptor: None)  # 20 ms each
    readers = mutate_files.write_all(tmp_path)
    bad, rng, refused = tmp_path / "bad", random.Random(0), 0
    for i in range(400):
        if forged:
            bad = mutate_files.changed(tmp_path / "fit", rng)
        else:
            bad.write_bytes(mutate_files.mutated((tmp_path / "fit").read_bytes(), rng))
        try:
            readers[("fit", "fit as a checkpoint")[i % 2]](bad)
        except (dc.CheckpointError, dc.UnsupportedError):
            refused += 1
    assert refused > 200
