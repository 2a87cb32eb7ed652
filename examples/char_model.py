"""A character model: what comes next in a text, learned by a GRU, or by a small Transformer.

Run it: python examples/char_model.py path/to/text.txt --model transformer
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

import deepcore as dc
from deepcore import GRU, CrossEntropyLoss, Embedding, Linear, Net

T = 64  # characters at a time
nearby = Path(__file__).resolve().parents[1] / "../shared/data"
file = Path(os.environ.get("DEEPCORE_DATA", nearby)) / "tinyshakespeare.txt"
parser = argparse.ArgumentParser(description="A recurrent net or a Transformer learns to write.")
parser.add_argument("path", nargs="?", type=Path, default=file)
parser.add_argument("--model", choices=["gru", "transformer"], default="gru")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--limit", type=int, help="learn from so many characters only")
options = parser.parse_args()
if not options.path.is_file():
    parser.error(f"there is no file {str(options.path)!r}; any long text will do")

text = list(options.path.read_text(encoding="utf-8")[: options.limit])
alphabet, ids = np.unique(text, return_inverse=True)
n, c = (len(ids) - 1) // T, len(alphabet)
X, y = ids[: n * T].reshape(n, T), ids[1 : n * T + 1].reshape(n, T)  # each character, and the next
train = n - max(1, n // 10)


class Positions(dc.Layer):  # Y = X + P: attention alone does not see where a character stands
    def __init__(self, dim):
        super().__init__()
        self.weight["P"] = dc.init.make(dc.init.normal(0.1), (1, T, dim), T, dim)

    def forward(self, X):
        return X + self.weight["P"]

    def backward(self, dY):
        self.weight_update["P"] = dY.sum(axis=0, keepdims=True)
        return dY


class ClassesSecond(dc.Function):  # (n, t, c) -> (n, c, t), where the loss looks for the classes
    def forward(self, X):
        return X.mT

    def backward(self, dY):
        return dY.mT


dc.seed(options.seed)
if options.model == "gru":
    layers = [Embedding(c, 64), GRU(64, 128)]
else:
    blocks = [dc.TransformerBlock(128, heads=4, causal=True) for _ in range(2)]
    layers = [Embedding(c, 128), Positions(128), *blocks, dc.LayerNorm(128)]
net = Net([*layers, Linear(128, c), ClassesSecond()], CrossEntropyLoss())

started = time.perf_counter()
optimizer = dc.optim.Adam(3e-3)
net.fit(X[:train], y[:train], epochs=options.epochs, optimizer=optimizer, seed=options.seed, progress=True)
score = net.evaluate(X[train:], y[train:], batch_size=64)
print(f"{score['loss']:.3f} nats per character, trained in {time.perf_counter() - started:.0f} s")

random, written = (
    np.random.default_rng(options.seed),
    list(X[train]),
)  # it goes on where the text is held back
for _ in range(300):
    logits = net.predict(np.array([written[-T:]]))[0, :, -1]
    p = np.exp(1.25 * (logits - logits.max()).astype("float64"))
    written.append(random.choice(c, p=p / p.sum()))
print("".join(alphabet[written]))
