"""Losses."""

import numpy as np

import deepcore as dc
from tests.case import Case, labels, normal, probabilities, row


def cross_entropy(X, y, ignore=-100, smoothing=0.0, weight=None, reduction="mean"):
    """torch's meaning, one sample and place after the other."""
    c = X.shape[1]
    weight = np.ones(c) if weight is None else np.asarray(weight, dtype=np.float64)
    rows = np.moveaxis(X, 1, -1).reshape(-1, c)
    soft = y.dtype.kind == "f"
    targets = np.moveaxis(y, 1, -1).reshape(-1, c) if soft else y.reshape(-1)
    losses, factors = np.zeros(len(rows)), np.zeros(len(rows))
    for i, (x, t) in enumerate(zip(rows, targets, strict=True)):
        if not soft and t == ignore:
            continue
        goal = t if soft else np.eye(c)[int(t)]
        goal = (1 - smoothing) * goal + smoothing / c
        nats = x.max() + np.log(np.exp(x - x.max()).sum()) - x  # -log p
        losses[i] = (np.where(goal > 0, nats, 0.0) * goal * weight).sum()
        factors[i] = 1.0 if soft else weight[int(t)]
    if reduction == "none":
        return losses.reshape(X.shape[0], *X.shape[2:])
    total = losses.sum()
    return total if reduction == "sum" else total / factors.sum() if factors.any() else 0.0 * total


_CE = dc.CrossEntropyLoss
_EACH = (0.5, 2.0, 1.0, 0.25)  # weights of four classes

CASES = [
    Case("CrossEntropyLoss", _CE, [normal(4), labels(4)], lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss (n, 1) uint64", _CE, [normal(4), labels(4, 1, dtype="uint64")],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss confident", _CE, [row(25, 0, 1), row(1, 0, 0)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss probabilities", _CE, [normal(4), probabilities(4)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss probabilities, all settings", lambda: _CE(-100, 0.3, _EACH, "none"),
         [normal(4), probabilities(4)], lambda w, X, y: cross_entropy(X, y, -100, 0.3, _EACH, "none")),
    Case("CrossEntropyLoss probabilities over places", _CE, [normal(4, 2), probabilities(4, 2)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss ignore_index", _CE, [normal(4), labels(4, ignore=-100)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss ignore_index 2", lambda: _CE(ignore_index=2), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, 2), mixes=True),
    Case("CrossEntropyLoss ignore_index 255, uint8", lambda: _CE(255),
         [normal(4), labels(4, dtype="uint8", ignore=255)],
         lambda w, X, y: cross_entropy(X, y, 255), mixes=True),
    Case("CrossEntropyLoss all ignored", lambda: _CE(ignore_index=0), [normal(4), labels(1)],
         lambda w, X, y: cross_entropy(X, y, 0), mixes=True),
    Case("CrossEntropyLoss smoothing", lambda: _CE(label_smoothing=0.2), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, smoothing=0.2), mixes=True),
    Case("CrossEntropyLoss smoothing 1", lambda: _CE(label_smoothing=1.0), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, smoothing=1.0), mixes=True),
    Case("CrossEntropyLoss weight", lambda: _CE(weight=_EACH), [normal(4), labels(4, dtype="int32")],
         lambda w, X, y: cross_entropy(X, y, weight=_EACH), mixes=True),
    Case("CrossEntropyLoss all settings", lambda: _CE(1, 0.1, _EACH), [normal(4), labels(4, 1)],
         lambda w, X, y: cross_entropy(X, y, 1, 0.1, _EACH), mixes=True),
    Case("CrossEntropyLoss sum", lambda: _CE(reduction="sum"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, reduction="sum"), mixes=True),
    Case("CrossEntropyLoss none", lambda: _CE(reduction="none"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, reduction="none")),
    Case("CrossEntropyLoss none, all settings", lambda: _CE(3, 0.1, _EACH, "none"), [normal(4), labels(4)],
         lambda w, X, y: cross_entropy(X, y, 3, 0.1, _EACH, "none")),
    Case("CrossEntropyLoss over places", _CE, [normal(4, 2, 3), labels(4, 2, 3)],
         lambda w, X, y: cross_entropy(X, y), mixes=True),
    Case("CrossEntropyLoss over places, (n, 1, ...)", _CE,
         [normal(4, 2, 3), labels(4, 1, 2, 3, dtype="uint8")], lambda w, X, y: cross_entropy(X, y),
         mixes=True),
    Case("CrossEntropyLoss over places, all settings", lambda: _CE(-1, 0.1, _EACH),
         [normal(4, 3), labels(4, 3, ignore=-1)], lambda w, X, y: cross_entropy(X, y, -1, 0.1, _EACH),
         mixes=True),
    Case("CrossEntropyLoss over places, none", lambda: _CE(reduction="none"),
         [normal(4, 2, 3), labels(4, 2, 3)], lambda w, X, y: cross_entropy(X, y, reduction="none")),
    Case("MeanSquareLoss", dc.MeanSquareLoss, [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum() / len(X), mixes=True),
    Case("MeanSquareLoss 1-D", dc.MeanSquareLoss, [normal(), normal()],
         lambda w, X, Y: ((X - Y) ** 2).mean(), mixes=True),
    Case("MeanSquareLoss images", dc.MeanSquareLoss, [normal(2, 3, 2), normal(2, 3, 2)],
         lambda w, X, Y: ((X - Y) ** 2).sum() / len(X), mixes=True),
    Case("MeanSquareLoss sum", lambda: dc.MeanSquareLoss("sum"), [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum(), mixes=True),
    Case("MeanSquareLoss none", lambda: dc.MeanSquareLoss("none"), [normal(2, 3), normal(2, 3)],
         lambda w, X, Y: ((X - Y) ** 2).sum(axis=(1, 2))),
    Case("MSELoss", dc.MSELoss, [normal(2, 3), normal(2, 3)],
         lambda w, X, Y: ((X - Y) ** 2).mean(), mixes=True),
    Case("MSELoss sum", lambda: dc.MSELoss("sum"), [normal(4), normal(4)],
         lambda w, X, Y: ((X - Y) ** 2).sum(), mixes=True),
    Case("MSELoss none", lambda: dc.MSELoss("none"), [normal(4), normal(4)], lambda w, X, Y: (X - Y) ** 2),
]  # fmt: skip
