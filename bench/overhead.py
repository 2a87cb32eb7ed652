"""What deepcore adds to NumPy: the time to import it, to call a layer, and to make one small step.

    python bench/overhead.py            prints a table and writes bench/results/overhead.json

Each peer runs in a process of its own, in turn, several rounds; figures are medians over the rounds of
each round's best. torch takes part if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 7
BATCH, REPEATS = 32, 1500  # samples a step; steps a measurement
RESULTS = Path(__file__).parent / "results" / "overhead.json"


def best(call, repeats=REPEATS, tries=5):
    """Microseconds a call, the best of a few measurements."""
    call()
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        times.append((time.perf_counter() - start) / repeats)
    return 1e6 * min(times)


def data():
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCH, 2)).astype("float32"), rng.integers(0, 2, BATCH)


def run_deepcore():
    import deepcore as dc

    X, y = data()
    dc.seed(0)
    net = dc.Net([dc.Linear(2, 4), dc.ReLU(), dc.Linear(4, 2)], dc.CrossEntropyLoss())
    layer = net.layers[0]

    def step():
        net.loss(net(X), y)
        net.backward()
        net.update_weights(0.1)

    return {"Linear(2, 4)(X)": best(lambda: layer(X)), "step 2-4-2": best(step)}


def run_numpy():
    import numpy as np

    X, y = data()
    rng, rows, lr = np.random.default_rng(0), np.arange(BATCH), np.float32(0.1)
    W1, W2 = (rng.standard_normal(shape).astype("float32") for shape in ((2, 4), (4, 2)))
    weights = [W1, np.zeros((1, 4), "float32"), W2, np.zeros((1, 2), "float32")]

    def step():
        W1, b1, W2, b2 = weights
        H = X @ W1 + b1
        A = np.maximum(H, 0)
        Z = A @ W2 + b2
        Z = Z - Z.max(axis=1, keepdims=True)
        E = np.exp(Z)
        S = E.sum(axis=1, keepdims=True)
        (np.log(S[:, 0]) - Z[rows, y]).mean()
        dZ = E / S
        dZ[rows, y] -= 1
        dZ /= BATCH
        dA = dZ @ W2.T
        dH = dA * (H > 0)
        gradients = X.T @ dH, dH.sum(axis=0, keepdims=True), A.T @ dZ, dZ.sum(axis=0, keepdims=True)
        dH @ W1.T
        weights[:] = [W - lr * dW for W, dW in zip(weights, gradients, strict=True)]

    return {"Linear(2, 4)(X)": best(lambda: X @ weights[0] + weights[1]), "step 2-4-2": best(step)}


def run_torch():
    import torch

    torch.set_num_threads(2)
    X, y = (torch.from_numpy(a) for a in data())
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    loss_fn, optimizer = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.1)

    def step():
        optimizer.zero_grad()
        loss_fn(net(X), y).backward()
        optimizer.step()

    return {"Linear(2, 4)(X)": best(lambda: net[0](X)), "step 2-4-2": best(step)}


PEERS = {"numpy": run_numpy, "deepcore": run_deepcore, "torch": run_torch}


def in_own_process(peer):
    done = subprocess.run([sys.executable, __file__, peer], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def import_seconds(module):
    """Wall time of a fresh interpreter that imports the module."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - start


def main():
    peers = [peer for peer in PEERS if peer == "deepcore" or importlib.util.find_spec(peer)]
    rounds = [{peer: in_own_process(peer) for peer in peers} for _ in range(ROUNDS)]
    works = list(rounds[0]["deepcore"])
    table = {
        work: {peer: statistics.median(r[peer][work] for r in rounds) for peer in peers} for work in works
    }
    modules = ("deepcore", "numpy")
    for module in modules:
        import_seconds(module)
    imports = [{module: import_seconds(module) for module in modules} for _ in range(15)]
    ratio = statistics.median(r["deepcore"] / r["numpy"] for r in imports)

    for work, times in table.items():
        figures = "   ".join(f"{peer} {us:.1f}" for peer, us in times.items())
        print(f"{work:18s} us: {figures}   deepcore / numpy {times['deepcore'] / times['numpy']:.2f}")
    print(f"import deepcore / import numpy, whole processes, median of {len(imports)} pairs: {ratio:.2f}")
    host = {"python": platform.python_version(), "machine": platform.machine(), "date": time.strftime("%F")}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"us": table, "import_ratio": ratio, "host": host}, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(PEERS[sys.argv[1]]()))
    else:
        main()
