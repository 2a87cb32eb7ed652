"""kill -9, and a file-size limit, in the middle of save_checkpoint: is the old or the new one always whole?

The test beside it does this with small files; this is the whole of it, in about two minutes:

    python -m tests.io.kill_saves --megabytes 200 --kills 30 --limits 5
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

import deepcore as dc

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import json, os, sys
from tests.io.kill_saves import save
def say(*words):
    os.write(1, " ".join(map(str, words)).encode() + b"\\n")  # one write; print may take four
path, megabytes, first, limit = json.loads(sys.argv[1])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
for version in range(first, first + 1000):
    say("begin", version)
    try:
        save(path, megabytes, version)
    except OSError as error:
        say("OSError", error.errno)
        break
    say("end", version)
"""


class Outcome(NamedTuple):
    """What a child that was killed or limited has left."""

    saved: int  # the last version of which it said that it was saved
    found: int  # the version that loads, all of it
    stray: list[str]  # files beside it
    stray_later: list[str]  # and after the next save


def save(path, megabytes, version):
    """A checkpoint of that size, all of whose numbers are the version: weights and AdamW's two arrays."""
    n = round((megabytes * 1e6 / 4 / 3) ** 0.5)
    net = dc.Net([dc.Linear(n, n, init=dc.init.constant(version), bias=False)], dc.MSELoss())
    optimizer = dc.optim.AdamW()
    W = net.layers[0].weight["W"]
    optimizer.restore(net, {"layers.0.W": {"step": version, "M": W, "V": W}}, version)
    dc.save_checkpoint(path, net, optimizer, dc.schedules.cosine(0.1, 10), version=version)


def version_of(path):
    """The version of a checkpoint, if every part of it is of that one."""
    checkpoint = dc.load_checkpoint(path)
    state = checkpoint.optimizer.state["layers.0.W"]
    version = checkpoint.more["version"]
    assert state["step"] == checkpoint.optimizer.steps == version
    for x in (checkpoint.net.layers[0].weight["W"], state["M"], state["V"]):
        assert np.all(x == version)
    return version


def start(path, megabytes, first, limit=0):
    """A process that saves one version after the other, and says so."""
    options = json.dumps([str(path), megabytes, first, limit])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, options], env=environment, stdout=subprocess.PIPE, text=True
    )


def killed(path, megabytes, first, moment):
    """Kill it `moment` seconds after it has begun to save the version first + 1."""
    with start(path, megabytes, first) as process:
        while process.stdout.readline() != f"begin {first + 1}\n":
            pass
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        words = process.stdout.read().split()
    saved = [int(v) for word, v in zip(words[::2], words[1::2], strict=True) if word == "end"]
    return _outcome(path, megabytes, max([first, *saved]))


def limited(path, megabytes, first, limit):
    """Let its files grow to `limit` bytes at most, which is less than it needs."""
    with start(path, megabytes, first, limit) as process:
        words = process.stdout.read().split()
    assert words[:3] == ["begin", str(first), "OSError"], words
    return _outcome(path, megabytes, first - 1)


def _outcome(path, megabytes, saved):
    found, stray = version_of(path), _others(path)
    save(path, megabytes, saved + 2)
    assert version_of(path) == saved + 2
    return Outcome(saved, found, stray, _others(path))


def _others(path):
    return sorted(name for name in os.listdir(path.parent) if name != path.name)


def main(megabytes, kills, limits, seed=0):
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.ckpt"
        save(path, megabytes, 1)
        started = time.perf_counter()
        save(path, megabytes, 1)
        seconds = time.perf_counter() - started
        size = path.stat().st_size
        print(f"{size / 1e6:.0f} MB, saved in {seconds:.2f} s")
        version, half, new = 1, 0, 0
        for kill in range(kills):
            moment = moments.uniform(0, 1.1 * seconds)
            outcome = killed(path, megabytes, version, moment)
            assert outcome.found in (outcome.saved, outcome.saved + 1), outcome
            assert outcome.stray_later == [], outcome
            half, new = half + bool(outcome.stray), new + (outcome.found > version)
            version = outcome.saved + 2
            print(f"kill {kill + 1} after {moment:.2f} s: {outcome}", flush=True)
        for limit in range(limits):
            most = int(moments.uniform(0.05, 0.95) * size)
            outcome = limited(path, megabytes, version + 1, most)
            assert outcome.found == version and outcome.stray == outcome.stray_later == [], outcome
            version = outcome.saved + 2
            print(f"limit {limit + 1} of {most / 1e6:.0f} MB: {outcome}", flush=True)
    print(
        f"all whole: {kills} kills ({half} in the middle of a file, {new} after a new one), {limits} limits"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in (("--megabytes", 200), ("--kills", 30), ("--limits", 5), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    main(**vars(parser.parse_args()))
