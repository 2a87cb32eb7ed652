"""A training step of the two models of examples/char_model.py, beside the same models in torch.

    python bench/char_models.py [TEXT]        prints a table and writes bench/results/char_models.json

Batches of 32 x 64 characters, Adam, two threads; all start from the same weights and see the same batches.
Each peer runs in a process of its own, in turn; figures are medians over the rounds. The losses of the
first steps are compared before anything is timed.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.compare.worker import THREADS, Worker

T, BATCH, RATE = 64, 32, 3e-3
ROUNDS, SECONDS, COMPARED = 7, 1.5, 10  # turns of each peer; of each turn; steps whose losses are compared
TEXT = Path(os.environ.get("DEEPCORE_DATA", "../shared/data")) / "tinyshakespeare.txt"
RESULTS = Path(__file__).parent / "results" / "char_models.json"
MODELS = ("gru", "transformer")


def batches(path: str) -> tuple[int, Iterator[tuple[np.ndarray, np.ndarray]]]:
    """The number of characters in the alphabet, and endless batches: characters, and those that follow."""
    alphabet, ids = np.unique(list(Path(path).read_text(encoding="utf-8")), return_inverse=True)
    starts = np.random.default_rng(0).integers(0, len(ids) - T, (64, BATCH))
    windows = np.lib.stride_tricks.sliding_window_view(ids.astype(np.int64), T + 1)[starts]
    return len(alphabet), itertools.cycle([(w[:, :-1].copy(), w[:, 1:].copy()) for w in windows])


def layers_of_deepcore(model: str, c: int) -> list[Any]:
    import deepcore as dc

    class Positions(dc.Layer):
        def __init__(self):
            super().__init__()
            self.weight["P"] = dc.init.make(dc.init.normal(0.1), (1, T, 128), T, 128)

        def forward(self, X):
            return X + self.weight["P"]

        def backward(self, dY):
            self.weight_update["P"] = dY.sum(axis=0, keepdims=True)
            return dY

    class ClassesSecond(dc.Function):
        traceable = True

        def forward(self, X):
            return X.mT

        def backward(self, dY):
            return dY.mT

    Positions.traceable = True
    dc.seed(0)
    if model == "gru":
        body = [dc.Embedding(c, 64), dc.GRU(64, 128)]
    else:
        blocks = [dc.TransformerBlock(128, heads=4, causal=True) for _ in range(2)]
        body = [dc.Embedding(c, 128), Positions(), *blocks, dc.LayerNorm(128)]
    return [*body, dc.Linear(128, c), ClassesSecond()]


def step_of_deepcore(model: str, c: int, weights: str) -> Callable[..., Any]:
    import deepcore as dc

    net = dc.Net(layers_of_deepcore(model, c), dc.CrossEntropyLoss())
    if not os.path.exists(weights):
        dc.io.save_torch(net, weights)
    return net.compile(dc.optim.Adam(RATE))


def step_of_torch(model: str, c: int, weights: str) -> Callable[..., Any]:
    import torch
    from torch import nn

    torch.set_num_threads(THREADS)

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.P = nn.Parameter(torch.zeros(1, T, 128))

        def forward(self, X):
            return X + self.P

    class Block(nn.TransformerEncoderLayer):
        def __init__(self):
            super().__init__(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True)

        def forward(self, X):
            return super().forward(X, nn.Transformer.generate_square_subsequent_mask(T), is_causal=True)

    class Recurrent(nn.GRU):
        def forward(self, X):
            return super().forward(X)[0]

    if model == "gru":
        body: list[nn.Module] = [nn.Embedding(c, 64), Recurrent(64, 128, batch_first=True)]
    else:
        body = [nn.Embedding(c, 128), Positions(), Block(), Block(), nn.LayerNorm(128)]
    net = nn.Sequential(*body, nn.Linear(128, c))
    same = torch.load(weights).values()  # in the same order, under other names
    net.load_state_dict(dict(zip(net.state_dict(), same, strict=True)))
    optimizer, loss_fn = torch.optim.Adam(net.parameters(), RATE), nn.CrossEntropyLoss()

    def step(X, y):
        optimizer.zero_grad()
        loss = loss_fn(net(torch.from_numpy(X)).mT, torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


PEERS: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
    "deepcore, NumPy alone": (step_of_deepcore, {"DEEPCORE_NUMBA": "0"}),
    "deepcore[fast]": (step_of_deepcore, {}),
    "torch": (step_of_torch, {}),
}


def train(peer: str, model: str, text: str, weights: str) -> Iterator[Any]:
    """A worker's task: the losses of the first steps, then the seconds of a step for each number asked."""
    c, data = batches(text)
    step = PEERS[peer][0](model, c, weights)
    seconds = yield [float(step(*next(data))) for _ in range(COMPARED)]
    while True:
        times, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            X, y = next(data)
            start = time.perf_counter()
            float(step(X, y))
            times.append(time.perf_counter() - start)
        seconds = yield statistics.median(times)


def compare(model: str, text: str) -> dict[str, Any]:
    """Milliseconds a step of each peer, and how far its first losses are from torch's."""
    with tempfile.TemporaryDirectory() as folder:
        workers, losses = {}, {}
        try:
            for peer, (_, environment) in PEERS.items():
                arguments = peer, model, text, f"{folder}/{model}.pt"
                workers[peer] = Worker(train, *arguments, environment=environment)
                losses[peer] = workers[peer].answer()
            rounds: dict[str, list[float]] = {peer: [] for peer in workers}
            for _ in range(ROUNDS):
                for peer, worker in workers.items():
                    time.sleep(0.2)  # until the threads of the last peer sleep
                    rounds[peer].append(worker.ask(SECONDS))
        finally:
            for worker in workers.values():
                worker.stop()
    return {
        peer: {
            "ms": 1e3 * statistics.median(rounds[peer]),
            "difference": max(abs(a - b) for a, b in zip(losses[peer], losses["torch"], strict=True)),
        }
        for peer in PEERS
    }


def main() -> None:
    text = sys.argv[1] if len(sys.argv) > 1 else str(TEXT)
    host = {"machine": platform.machine(), "threads": THREADS, "date": time.strftime("%F")}
    report: dict[str, Any] = {"host": host}
    for model in MODELS:
        report[model] = compare(model, text)
        for peer, found in report[model].items():
            ratio = report[model]["torch"]["ms"] / found["ms"]
            print(
                f"{model:12s} {peer:22s} {found['ms']:7.1f} ms a step   torch's time / ours {ratio:.2f}   "
                f"first {COMPARED} losses differ from torch's by {found['difference']:.1e}",
                flush=True,
            )
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
