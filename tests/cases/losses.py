"""Losses."""

import numpy as np

import deepcore as dc
from tests.case import Case, labels, normal, off_zero, probabilities, row, single


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


# ---- labels


def nll(X, y, weight=None, ignore=-100, reduction="mean"):
    """torch's meaning, one sample and place after the other."""
    weight = np.ones(X.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    rows, targets = np.moveaxis(X, 1, -1).reshape(-1, X.shape[1]), y.reshape(-1)
    kept = [(i, t) for i, t in enumerate(targets.tolist()) if t != ignore]
    losses = np.zeros(len(rows))
    for i, t in kept:
        losses[i] = -weight[t] * rows[i, t]
    if reduction == "none":
        return losses.reshape(X.shape[0], *X.shape[2:])
    return losses.sum() / (sum(weight[t] for _, t in kept) or 1.0 if reduction == "mean" else 1)


def multi_margin(X, y, p=1, margin=1.0, weight=None, reduction="mean"):
    n, c = X.shape
    losses = np.zeros(n)
    for i, t in enumerate(y.reshape(-1).tolist()):
        lead = [max(0.0, margin - X[i, t] + X[i, j]) ** p if not np.isnan(X[i, t] + X[i, j]) else np.nan
                for j in range(c) if j != t]  # fmt: skip
        losses[i] = sum(lead) / c * (1 if weight is None else weight[t])
    return reduced(losses, reduction)


def reduced(L, reduction):
    return {"none": lambda: L, "sum": L.sum, "mean": L.mean}[reduction]()


_NLL, _MM = dc.NLLLoss, dc.MultiMarginLoss

CASES += [
    Case("NLLLoss", _NLL, [normal(4), labels(4)], lambda w, X, y: nll(X, y), mixes=True),
    Case("NLLLoss (n, 1) uint8", _NLL, [normal(4), labels(4, 1, dtype="uint8")],
         lambda w, X, y: nll(X, y), mixes=True),
    Case("NLLLoss all settings", lambda: _NLL(_EACH, 2), [normal(4), labels(4)],
         lambda w, X, y: nll(X, y, _EACH, 2), mixes=True),
    Case("NLLLoss sum", lambda: _NLL(reduction="sum"), [normal(4), labels(4)],
         lambda w, X, y: nll(X, y, reduction="sum"), mixes=True),
    Case("NLLLoss none", lambda: _NLL(_EACH, 3, "none"), [normal(4), labels(4)],
         lambda w, X, y: nll(X, y, _EACH, 3, "none")),
    Case("NLLLoss over places", lambda: _NLL(_EACH), [normal(4, 2, 3), labels(4, 2, 3)],
         lambda w, X, y: nll(X, y, _EACH), mixes=True),
    Case("NLLLoss over places, none", lambda: _NLL(reduction="none"), [normal(4, 2), labels(4, 2)],
         lambda w, X, y: nll(X, y, reduction="none")),
    Case("MultiMarginLoss", _MM, [normal(4), labels(4)], lambda w, X, y: multi_margin(X, y), mixes=True),
    Case("MultiMarginLoss p=2", lambda: _MM(2, 0.5), [normal(4), labels(4, 1)],
         lambda w, X, y: multi_margin(X, y, 2, 0.5), mixes=True),
    Case("MultiMarginLoss weight", lambda: _MM(2, weight=_EACH), [normal(4), labels(4, dtype="int32")],
         lambda w, X, y: multi_margin(X, y, 2, 1.0, _EACH), mixes=True),
    Case("MultiMarginLoss sum", lambda: _MM(1, 2.0, _EACH, "sum"), [normal(4), labels(4)],
         lambda w, X, y: multi_margin(X, y, 1, 2.0, _EACH, "sum"), mixes=True),
    Case("MultiMarginLoss none", lambda: _MM(2, reduction="none"), [normal(4), labels(4)],
         lambda w, X, y: multi_margin(X, y, 2, reduction="none")),
]  # fmt: skip


# ---- pairs of numbers


def uniform(low, high, *shape):
    return lambda random, n: single(random.uniform(low, high, (n, *shape)))


def nearly_zero(*shape):
    return uniform(-0.05, 0.05, *shape)


def signs(*shape, dtype="float64"):
    return lambda random, n: random.choice([-1, 1], (n, *shape)).astype(dtype)


def zeros_and_ones(*shape, dtype="float64"):
    return lambda random, n: random.integers(0, 2, (n, *shape)).astype(dtype)


def huber(X, Y, delta):
    D = np.abs(X - Y)
    return np.where(delta > D, D**2 / 2, delta * (D - delta / 2))


def bce(X, Y):
    return -(Y * np.maximum(np.log(X), -100) + (1 - Y) * np.maximum(np.log(1 - X), -100))


def log_sigmoid(X):
    return np.minimum(X, 0) - np.log1p(np.exp(-np.abs(X)))


def bce_logits(X, Y, v=1.0):
    return -(v * Y * log_sigmoid(X) + (1 - Y) * log_sigmoid(-X))


def poisson(X, Y, log_input=True, full=False, eps=1e-8):
    L = np.exp(X) - Y * X if log_input else X - Y * np.log(X + eps)
    n = np.maximum(Y, 1)
    stirling = n * np.log(n) - n + np.log(2 * np.pi * n) / 2
    return L + np.where(Y > 1, stirling, 0) * full


def three(name, make, draw, formula, **how):
    """A case for each reduction: make(reduction=), and the formula of the losses that are reduced."""

    def case(reduction):
        def reference(w, *xs):
            return reduced(formula(*xs), reduction)

        title = name if reduction == "mean" else f"{name} {reduction}"
        return Case(title, lambda: make(reduction=reduction), draw, reference, **how,
                    mixes=reduction != "none")  # fmt: skip

    return [case(reduction) for reduction in ("mean", "sum", "none")]


def bind(cls, **settings):
    return lambda reduction: cls(reduction=reduction, **settings)


_WEIGHT, _POS = (0.5, 2.0, 1.0), (3.0, 0.25, 1.0)
_PAIR = [normal(3), normal(3)]

CASES += [
    *three("L1Loss", dc.L1Loss, [off_zero(2, 3), nearly_zero(2, 3)], lambda X, Y: np.abs(X - Y)),
    *three("HuberLoss", dc.HuberLoss, [normal(4), normal(4)], lambda X, Y: huber(X, Y, 1.0)),
    *three("HuberLoss delta=0.3", bind(dc.HuberLoss, delta=0.3), _PAIR, lambda X, Y: huber(X, Y, 0.3)),
    *three("SmoothL1Loss", dc.SmoothL1Loss, [normal(4), normal(4)], lambda X, Y: huber(X, Y, 1.0)),
    *three("SmoothL1Loss beta=2", bind(dc.SmoothL1Loss, beta=2), _PAIR, lambda X, Y: huber(X, Y, 2.0) / 2),
    *three("SmoothL1Loss beta=0", bind(dc.SmoothL1Loss, beta=0), _PAIR, lambda X, Y: np.abs(X - Y)),
    *three("BCELoss", dc.BCELoss, [uniform(0.3, 0.7, 3), uniform(0, 1, 3)], bce),
    *three("BCELoss weight", bind(dc.BCELoss, weight=_WEIGHT), [uniform(0.3, 0.7, 3), zeros_and_ones(3)],
           lambda X, Y: _WEIGHT * bce(X, Y)),
    *three("BCEWithLogitsLoss", dc.BCEWithLogitsLoss, [normal(3), uniform(0, 1, 3)], bce_logits),
    *three("BCEWithLogitsLoss weights", bind(dc.BCEWithLogitsLoss, weight=_WEIGHT, pos_weight=_POS),
           [normal(2, 3), zeros_and_ones(2, 3)], lambda X, Y: _WEIGHT * bce_logits(X, Y, _POS)),
    *three("MultiLabelSoftMarginLoss", dc.MultiLabelSoftMarginLoss, [normal(3), zeros_and_ones(3)],
           lambda X, Y: bce_logits(X, Y).mean(-1)),
    *three("MultiLabelSoftMarginLoss weight", bind(dc.MultiLabelSoftMarginLoss, weight=_WEIGHT),
           [normal(2, 3), zeros_and_ones(2, 3, dtype="int64")],
           lambda X, Y: (_WEIGHT * bce_logits(X, Y)).mean(-1)),
    *three("KLDivLoss", dc.KLDivLoss, [normal(3), probabilities(3)], lambda X, Y: Y * (np.log(Y) - X)),
    *three("KLDivLoss log_target", bind(dc.KLDivLoss, log_target=True), _PAIR,
           lambda X, Y: np.exp(Y) * (Y - X)),
    *three("PoissonNLLLoss", dc.PoissonNLLLoss, [normal(3), uniform(0, 5, 3)], poisson),
    *three("PoissonNLLLoss full", bind(dc.PoissonNLLLoss, full=True), [normal(3), uniform(0, 5, 3)],
           lambda X, Y: poisson(X, Y, full=True)),
    *three("PoissonNLLLoss of counts", bind(dc.PoissonNLLLoss, log_input=False, eps=0.1),
           [uniform(0.7, 3, 3), uniform(0, 5, 3)], lambda X, Y: poisson(X, Y, False, eps=0.1)),
    *three("HingeLoss", dc.HingeLoss, [normal(2, 3), signs(2, 3)], lambda X, Y: np.maximum(0, 1 - X * Y)),
    *three("HingeLoss of integers", dc.HingeLoss, [normal(3), signs(3, dtype="int8")],
           lambda X, Y: np.maximum(0, 1 - X * Y)),
    *three("HingeEmbeddingLoss", dc.HingeEmbeddingLoss, [normal(3), signs(3)],
           lambda X, Y: np.where(Y == 1, X, np.maximum(0, 1 - X))),
    *three("HingeEmbeddingLoss margin", bind(dc.HingeEmbeddingLoss, margin=0.25), [normal(), signs()],
           lambda X, Y: np.where(Y == 1, X, np.maximum(0, 0.25 - X))),
    *three("SoftMarginLoss", dc.SoftMarginLoss, [normal(2, 3), signs(2, 3)],
           lambda X, Y: -log_sigmoid(X * Y)),
]  # fmt: skip


# ---- several inputs that are learned


def gaussian(X, Y, V, full=False, eps=1e-6):
    V = V if V.ndim == X.ndim else V[..., None]
    v = np.where(V < 0, np.nan, np.maximum(V, eps))
    return (np.log(v) + (X - Y) ** 2 / v + full * np.log(2 * np.pi)) / 2


def cosine(A, B):
    length = np.sqrt((A**2).sum(-1)) * np.sqrt((B**2).sum(-1))
    return (A * B).sum(-1) / np.where(length == 0, 1, length)


def cosine_embedding(A, B, y, margin=0.0):
    return np.where(y > 0, 1 - cosine(A, B), np.maximum(0, cosine(A, B) - margin))


def triplet(A, P, N, margin=1.0, p=2.0, eps=1e-6, swap=False):
    def d(X, Y):
        return (np.abs(X - Y + eps) ** p).sum(-1) ** (1 / p)

    far = np.minimum(d(A, N), d(P, N)) if swap else d(A, N)
    return np.maximum(d(A, P) - far + margin, 0)


_THREE = [normal(4), normal(4), normal(4)]
_GAUSS, _TRIPLET = dc.GaussianNLLLoss, dc.TripletMarginLoss

CASES += [
    *three("GaussianNLLLoss", _GAUSS, [*_PAIR, uniform(0.7, 2, 3)], gaussian, learned=3),
    *three("GaussianNLLLoss (n, 1)", bind(_GAUSS, full=True), [*_PAIR, uniform(0.7, 2, 1)],
           lambda X, Y, V: gaussian(X, Y, V, True), learned=3),
    *three("GaussianNLLLoss (n,)", _GAUSS, [*_PAIR, uniform(0.7, 2)], gaussian, learned=3),
    *three("CosineSimilarityLoss", dc.CosineSimilarityLoss, [normal(4), normal(4)],
           lambda A, B: 1 - cosine(A, B)),
    *three("CosineSimilarityLoss of classes", bind(dc.CosineSimilarityLoss, margin=-0.5),
           [normal(4), normal(4), signs()], lambda A, B, y: cosine_embedding(A, B, y, -0.5), learned=2),
    *three("CosineSimilarityLoss of places", dc.CosineSimilarityLoss,
           [normal(2, 4), normal(2, 4), signs(2, dtype="int64")], cosine_embedding, learned=2),
    *three("TripletMarginLoss", _TRIPLET, _THREE, triplet, learned=3),
    *three("TripletMarginLoss p=1", bind(_TRIPLET, p=1, margin=2.0, eps=1e-3), _THREE,
           lambda A, P, N: triplet(A, P, N, 2.0, 1, 1e-3), learned=3),
    *three("TripletMarginLoss p=3, swap", bind(_TRIPLET, p=3, swap=True), [normal(2, 4)] * 3,
           lambda A, P, N: triplet(A, P, N, p=3, swap=True), learned=3),
]  # fmt: skip
