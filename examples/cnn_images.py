"""Your own images: a folder with a folder of images for each class, and a small convolutional net.

Run it: python examples/cnn_images.py path/to/folder
"""

import argparse

import deepcore as dc
from deepcore import BatchNorm2D, Conv2D, CrossEntropyLoss, Flatten, Linear, MaxPool2D, Net, ReLU
from deepcore.data.prepare import split
from deepcore.data.sets import load

parser = argparse.ArgumentParser(description="A small convolutional net learns a folder of images.")
parser.add_argument("folder")
parser.add_argument("--size", type=int, help="resize the images to SIZE x SIZE pixels")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--lr", type=float, default=0.05)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--limit", type=int, help="use so many images only")
options = parser.parse_args()

X, y, class_names = load(options.folder, size=options.size)
_, c, h, w = X.shape
print(f"{len(X)} images of {h} x {w} pixels in {len(class_names)} classes: {', '.join(class_names)}")

X_train, y_train, X_test, y_test = split(X.astype("float32") / 255, y, fraction=0.1, seed=options.seed)
X_train, y_train = X_train[: options.limit], y_train[: options.limit]

dc.seed(options.seed)
net = Net(
    layers=[
        *(Conv2D(c, 8, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(8)),  # (n, 8, h/2, w/2)
        *(Conv2D(8, 16, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(16)),  # (n, 16, h/4, w/4)
        *(Flatten(), Linear(16 * (h // 4) * (w // 4), len(class_names))),
    ],
    loss=CrossEntropyLoss(),
)
net.fit(
    X_train,
    y_train,
    epochs=options.epochs,
    optimizer=dc.optim.SGD(options.lr, momentum=0.9),
    validation_data=(X_test, y_test),
    seed=options.seed,
    progress=True,
)

guess = dc.to_numpy(net.predict(X_test)).argmax(axis=1)
print(f"{(guess == y_test).mean():.1%} of {len(y_test)} test images right")
for k, name in enumerate(class_names):
    right = (guess == y_test)[y_test == k]
    print(f"  {name}: {right.sum()} of {len(right)}")
