"""A disc inside a ring: the smallest net that parts them, trained by a loop that hides nothing.

Run it: python examples/mlp.py
"""

import argparse

import deepcore as dc
from deepcore import CrossEntropyLoss, Linear, Net, ReLU
from deepcore.data.ring import ring
from deepcore.plots import decision_boundary, draw_boundary

parser = argparse.ArgumentParser(description="A two-layer net learns a disc inside a ring.")
parser.add_argument("--epochs", type=int, default=1000)
parser.add_argument("--lr", type=float, default=0.5)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--limit", type=int, default=100, help="points of each class")
parser.add_argument("--picture", help="file to draw the boundary into; without it, the terminal")
options = parser.parse_args()

X, y = ring(options.limit, seed=options.seed)
dc.seed(options.seed)
net = Net(layers=[Linear(2, 4), ReLU(), Linear(4, 2)], loss=CrossEntropyLoss())

for epoch in range(options.epochs):
    out = net(X)  # (n, 2) -> (n, 2)
    loss = net.loss(out, y)
    net.backward()  # every layer now holds the gradients of its weights
    net.update_weights(options.lr)
    if epoch % max(1, options.epochs // 10) == 0:
        print(f"epoch {epoch:4}   loss {float(loss):.4f}   accuracy {(out.argmax(axis=1) == y).mean():.1%}")

print(f"accuracy {(net(X).argmax(axis=1) == y).mean():.1%} after {options.epochs} epochs")
if options.picture:
    decision_boundary(net, X, y, options.picture)
    print(f"decision boundary: {options.picture}")
else:
    print(draw_boundary(net, X, y))
