"""Handwritten digits: a residual convolutional net, one pass over MNIST's 60,000 images.

Run it: python examples/resnet_mnist.py path/to/mnist.npz
The file holds x_train, y_train, x_test and y_test, as Keras' copy does.
"""

import argparse
import os
import time
from pathlib import Path

import deepcore as dc
from deepcore import (  # fmt: skip
    BatchNorm2D,
    Conv2D,
    CrossEntropyLoss,
    Flatten,
    Linear,
    MaxPool2D,
    Net,
    ReLU,
    Residual,
    Sequential,
)
from deepcore.data.sets import load

nearby = Path(__file__).resolve().parents[1] / "../shared/data"
parser = argparse.ArgumentParser(description="A small residual net learns MNIST.")
parser.add_argument("path", nargs="?", default=Path(os.environ.get("DEEPCORE_DATA", nearby)) / "mnist.npz")
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--limit", type=int, help="train and test on so many images only")
options = parser.parse_args()

try:
    data, some = load(options.path), slice(options.limit)
except dc.DataError as error:
    parser.error(str(error))
X, y = data.X[some].astype("float32") / 255, data.y[some]  # (n, 1, 28, 28), 0 to 1
X_test, y_test = data.X_test[some].astype("float32") / 255, data.y_test[some]


def block(c, f, stride):
    """Two convolutions, and beside them the input itself, or where the shape changes, a 1 x 1 of it."""
    plain = stride == 1 and c == f
    return [
        Residual(
            Sequential(
                *(Conv2D(c, f, 3, stride, 1, bias=False), BatchNorm2D(f), ReLU()),
                *(Conv2D(f, f, 3, 1, 1, bias=False), BatchNorm2D(f)),
            ),
            None if plain else Conv2D(c, f, 1, stride, bias=False),
        ),
        ReLU(),
    ]


dc.seed(options.seed)
net = Net(
    layers=[
        *(Conv2D(1, 8, 3, padding=1, bias=False), BatchNorm2D(8), ReLU(), MaxPool2D(2)),  # (n, 8, 14, 14)
        *block(8, 8, 1),
        *block(8, 16, 2),  # (n, 16, 7, 7)
        *block(16, 32, 2),  # (n, 32, 4, 4)
        *(Flatten(), Linear(32 * 4 * 4, 10)),
    ],
    loss=CrossEntropyLoss(),
)

started = time.perf_counter()
optimizer = dc.optim.SGD(0.02, momentum=0.9)
net.fit(X, y, epochs=options.epochs, batch_size=64, optimizer=optimizer, seed=options.seed, progress=True)
seconds = time.perf_counter() - started
accuracy = net.evaluate(X_test, y_test)["accuracy"]
weights = sum(W.size for W in net.parameters().values())
print(f"test accuracy {accuracy:.2%} with {weights:,} weights, trained in {seconds:.1f} s")
