"""Files with random bytes changed: one kind of error, nothing imported or written, in time and in memory.

The tests beside it do this for a part; this is the whole of it, in about two minutes:

    python -m tests.io.mutate_files --mutations 20000
"""

import argparse
import copy
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import deepcore as dc
from deepcore.io import pt, safetensors
from deepcore.io.net_file import CHECKPOINT as KEY

SECONDS = 1.0  # for one file, at most
MEGABYTES = 64  # that the process may grow by, over all of them


def make_net():
    layers = [
        dc.Conv2D(1, 2, 3),
        dc.BatchNorm2D(2),
        dc.ReLU(),
        dc.Flatten(),
        dc.Linear(8, 3),
        dc.Dropout(0.3),
    ]
    return dc.Net(layers, dc.CrossEntropyLoss(weight=np.ones(3, "float32")))


def data():
    return np.ones((8, 1, 4, 4), "float32"), np.arange(8) % 3


def write_all(folder):
    """Kind -> (path, reader) of a good file of each kind."""
    net = make_net()
    net.save(folder / "net")
    callbacks = [dc.EarlyStopping("loss"), dc.ReduceOnPlateau("loss")]
    net.fit(
        *data(), optimizer=dc.optim.AdamW(), schedule=None, callbacks=callbacks, checkpoint=folder / "fit"
    )
    dc.io.save_torch(net, folder / "torch.pt")
    safetensors.write(folder / "sums.safetensors", net.state_dict())
    arrays, _ = safetensors.read(folder / "sums.safetensors")
    header, body = {}, b""
    for name, x in arrays.items():  # as another program writes it: without checksums
        header[name] = {"dtype": "F32", "shape": x.shape, "data_offsets": [len(body), len(body) + x.nbytes]}
        body += x.tobytes()
    text = json.dumps(header).encode()
    (folder / "foreign.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    return {
        "net": dc.load,
        "fit": lambda path: make_net().fit(*data(), epochs=1, resume=path, callbacks=callbacks),
        "fit as a checkpoint": dc.load_checkpoint,
        "torch.pt": pt.read,
        "foreign.safetensors": safetensors.read,
    }


def mutated(whole, rng):
    """Some bytes changed, cut out, put in, or overwritten by what JSON is made of."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        stop = min(len(data), start + rng.randint(0, 8))
        kind = rng.randrange(4)
        if kind == 0 and start < len(data):
            data[start] = rng.randrange(256)
        elif kind == 1:
            del data[start:stop]
        elif kind == 2:
            data[start:start] = rng.randbytes(stop - start)
        elif kind == 3:
            data[start:stop] = rng.choice(b'0123456789[]{}",: ').to_bytes() * (stop - start)
    return bytes(data)


VALUES = [None, True, 0, -1, 3, 2**40, 1.5, "", "Linear", "inf", "layers.0.W", [], {}, [[]], {"x": 1}, "Adam"]


def changed(path, rng):
    """A checkpoint whose content was changed by somebody who made the checksums anew."""
    arrays, metadata = safetensors.read(path)
    content = json.loads(metadata[KEY])
    for _ in range(rng.randint(1, 2)):
        tree = content
        while True:
            keys = list(tree) if isinstance(tree, dict) else range(len(tree))
            key = rng.choice(keys)
            if not isinstance(tree[key], dict | list) or not tree[key] or rng.random() < 0.15:
                break
            tree = tree[key]
        if rng.random() < 0.2:
            del tree[key]
        else:
            tree[key] = copy.deepcopy(rng.choice(VALUES))
    if rng.random() < 0.2:
        arrays.pop(rng.choice(list(arrays)))
    safetensors.write(path.with_name("changed"), arrays, {KEY: json.dumps(content)})
    return path.with_name("changed")


class Watch:
    """Notes what is imported and written while a file is read."""

    def __init__(self):
        self.on, self.seen = False, []
        sys.addaudithook(self.look)

    def look(self, event, arguments):
        if not self.on:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            self.seen.append((event, arguments[0]))
        elif event in ("import", "exec", "os.remove", "os.rename", "subprocess.Popen", "os.system"):
            self.seen.append((event, str(arguments[0])[:80]))


def try_one(read, path, watch):
    """The class of the error, or "whole"; and the seconds that it took."""
    started, watch.on = time.process_time(), True
    try:
        read(path)
        outcome = "whole"
    except dc.DeepcoreError as error:
        outcome = type(error).__name__
    finally:
        watch.on = False
    return outcome, time.process_time() - started


def main(mutations, seed=0):
    rng, watch = random.Random(seed), Watch()
    safetensors.os.fsync = lambda descriptor: None  # 20 ms each
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        readers = write_all(folder)
        for kind, read in readers.items():
            read(folder / kind.partition(" ")[0])  # good as it is; and all is imported that reading needs
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slowest = 0.0
        for kind, read in readers.items():
            good, outcomes = folder / kind.partition(" ")[0], Counter()
            by_hand = kind.startswith("fit")
            for i in range(mutations // len(readers)):
                bad = folder / "bad.file"
                if by_hand and i % 2:
                    bad = changed(good, rng)
                else:
                    bad.write_bytes(mutated(good.read_bytes(), rng))
                outcome, seconds = try_one(read, bad, watch)
                outcomes[outcome] += 1
                slowest = max(slowest, seconds)
                assert seconds < SECONDS, (kind, i, seconds)
            print(f"{kind}: {dict(outcomes)}", flush=True)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
        assert grown < MEGABYTES, grown
        assert not watch.seen, watch.seen[:10]
    print(f"slowest {slowest:.3f} s, memory +{grown:.0f} MB at most, nothing imported or written")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    main(**vars(parser.parse_args()))
