"""Handwritten digits: a small convolutional net, one pass over MNIST's 60,000 images.

Run it: python examples/cnn_mnist.py path/to/mnist.npz
The file holds x_train, y_train, x_test and y_test, as Keras' copy does.
"""

import argparse
import os
import time
from pathlib import Path

import deepcore as dc
from deepcore import BatchNorm2D, Conv2D, CrossEntropyLoss, Flatten, Linear, MaxPool2D, Net, ReLU
from deepcore.data.sets import load

nearby = Path(__file__).resolve().parents[1] / "../shared/data"
parser = argparse.ArgumentParser(description="A small convolutional net learns MNIST.")
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

dc.seed(options.seed)
net = Net(
    layers=[
        *(Conv2D(1, 4, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(4)),  # (n, 4, 14, 14)
        *(Conv2D(4, 8, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(8)),  # (n, 8, 7, 7)
        *(Flatten(), Linear(8 * 7 * 7, 10)),
    ],
    loss=CrossEntropyLoss(),
)

started = time.perf_counter()
net.fit(
    X,
    y,
    epochs=options.epochs,
    batch_size=64,
    optimizer=dc.optim.SGD(lr=0.02, momentum=0.9),
    seed=options.seed,
    progress=True,
)
seconds = time.perf_counter() - started
print(f"test accuracy {net.evaluate(X_test, y_test)['accuracy']:.2%}, trained in {seconds:.1f} s")
