"""Every loss against torch's, with each of its settings: values, and the gradient of every learned input."""

import numpy as np
import pytest

import deepcore as dc

torch = pytest.importorskip("torch", reason="needs torch, the peer compared with")

RANDOM = np.random.default_rng(0)
X, Y, Z = (RANDOM.standard_normal((6, 5)) for _ in range(3))
P, Q = RANDOM.uniform(0.02, 0.98, (2, 6, 5))
SOFT = P / P.sum(axis=1, keepdims=True)
SIGNS = RANDOM.choice([-1.0, 1.0], (6, 5))
BITS = RANDOM.choice([0.0, 1.0], (6, 5))
COUNTS = RANDOM.poisson(3.0, (6, 5)).astype(float)
LABELS = np.array([0, 4, 2, 2, 1, 3])
IMAGES, PLACES = RANDOM.standard_normal((2, 3, 4, 5)), RANDOM.integers(0, 3, (2, 4, 5))
EACH = np.array([0.5, 2.0, 1.0, 0.25, 3.0])
THREE = EACH[:3]
SAMPLES = RANDOM.uniform(0.5, 2.0, (6, 1))
VAR = RANDOM.uniform(0.1, 2.0, (6, 5))
POINT = (np.array(0.75), np.array(0.25))  # of no axes at all

ROWS = [  # name, settings, inputs
    ("L1Loss", {}, (X, Y)),
    ("L1Loss", {}, POINT),
    ("L1Loss", {}, (X, np.where(BITS > 0, X, Y))),  # some are equal
    ("SmoothL1Loss", {}, (X, Y)),
    ("SmoothL1Loss", {"beta": 0.3}, (X, Y)),
    ("SmoothL1Loss", {"beta": 0}, (X, Y)),
    ("SmoothL1Loss", {}, POINT),
    ("HuberLoss", {}, (X, Y)),
    ("HuberLoss", {"delta": 0.3}, (X, Y)),
    ("HuberLoss", {"delta": 2.5}, POINT),
    ("MSELoss", {}, (X, Y)),
    ("MSELoss", {}, POINT),
    ("BCELoss", {}, (P, Q)),
    ("BCELoss", {}, (BITS, BITS[::-1])),  # both ends: the clamp at -100
    ("BCELoss", {"weight": EACH}, (P, BITS)),
    ("BCELoss", {"weight": SAMPLES}, (P, BITS)),
    ("BCELoss", {"weight": np.array(2.0)}, POINT),
    ("BCEWithLogitsLoss", {}, (X, Q)),
    ("BCEWithLogitsLoss", {}, (100 * X, BITS)),
    ("BCEWithLogitsLoss", {"weight": EACH}, (X, BITS)),
    ("BCEWithLogitsLoss", {"pos_weight": EACH}, (X, Q)),
    ("BCEWithLogitsLoss", {"weight": SAMPLES, "pos_weight": EACH}, (X, Q)),
    ("BCEWithLogitsLoss", {"pos_weight": np.array(3.0)}, POINT),
    ("KLDivLoss", {}, (np.log(SOFT), SOFT[::-1])),
    ("KLDivLoss", {}, (np.log(SOFT), np.where(BITS > 0, SOFT, 0))),
    ("KLDivLoss", {"log_target": True}, (np.log(SOFT), np.log(SOFT[::-1]))),
    ("KLDivLoss", {"log_target": True}, POINT),
    ("PoissonNLLLoss", {}, (X, COUNTS)),
    ("PoissonNLLLoss", {"full": True}, (X, COUNTS)),
    ("PoissonNLLLoss", {"log_input": False}, (VAR, COUNTS)),
    ("PoissonNLLLoss", {"log_input": False, "eps": 0.5, "full": True}, (BITS, COUNTS)),
    ("GaussianNLLLoss", {}, (X, Y, VAR)),
    ("GaussianNLLLoss", {"full": True}, (X, Y, VAR[:, :1])),
    ("GaussianNLLLoss", {}, (X, Y, VAR[:1])),
    ("GaussianNLLLoss", {}, (X, Y, VAR[:, 0])),
    ("GaussianNLLLoss", {"eps": 1.0}, (X, Y, VAR)),
    ("GaussianNLLLoss", {}, (IMAGES, IMAGES[::-1], np.abs(IMAGES[:, :1]))),
    ("HingeEmbeddingLoss", {}, (X, SIGNS)),
    ("HingeEmbeddingLoss", {"margin": 0.3}, (X, SIGNS)),
    ("HingeEmbeddingLoss", {}, (np.array(0.5), np.array(-1.0))),
    ("SoftMarginLoss", {}, (X, SIGNS)),
    ("SoftMarginLoss", {}, (20 * X, SIGNS)),
    ("MultiMarginLoss", {}, (X, LABELS)),
    ("MultiMarginLoss", {"p": 2}, (X, LABELS)),
    ("MultiMarginLoss", {"margin": 0.3}, (X, LABELS)),
    ("MultiMarginLoss", {"p": 2, "margin": 2.0, "weight": EACH}, (X, LABELS)),
    ("MultiLabelSoftMarginLoss", {}, (X, BITS)),
    ("MultiLabelSoftMarginLoss", {"weight": EACH}, (X, BITS)),
    ("NLLLoss", {}, (np.log(SOFT), LABELS)),
    ("NLLLoss", {"weight": EACH}, (X, LABELS)),
    ("NLLLoss", {"ignore_index": 2}, (X, LABELS)),
    ("NLLLoss", {"ignore_index": -1, "weight": EACH}, (X, np.where(LABELS == 2, -1, LABELS))),
    ("NLLLoss", {"ignore_index": 1, "weight": THREE}, (IMAGES, PLACES)),
    ("CosineEmbeddingLoss", {}, (X, Y, SIGNS[:, 0])),
    ("CosineEmbeddingLoss", {"margin": 0.2}, (X, Y, SIGNS[:, 0])),
    ("TripletMarginLoss", {}, (X, Y, Z)),
    ("TripletMarginLoss", {"margin": 0.3, "p": 1.0}, (X, Y, Z)),
    ("TripletMarginLoss", {"margin": 3.0, "p": 3.0, "eps": 0.1}, (X, Y, Z)),
    ("TripletMarginLoss", {"swap": True, "margin": 2.0}, (X, Y, Z)),
    ("TripletMarginLoss", {}, (X[0], Y[0], Z[0])),
]
OURS = {"CosineEmbeddingLoss": "CosineSimilarityLoss"}
TARGETS = {"GaussianNLLLoss": (), "TripletMarginLoss": (), "CosineEmbeddingLoss": (2,)}  # which inputs are


def reductions(name):
    return ["mean", "sum", "none", *(["batchmean"] if name == "KLDivLoss" else [])]


CASES = [
    pytest.param(name, settings, inputs, reduction, id=f"{name} {', '.join(settings)} {i} {reduction}")
    for i, (name, settings, inputs) in enumerate(ROWS)
    for reduction in reductions(name)
]


def as_torch(x):
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss")  # torch, of its KLDivLoss
@pytest.mark.parametrize(("name", "settings", "inputs", "reduction"), CASES)
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [("float64", 1e-10, 1e-11), ("float32", 2e-6, 4e-6)])
def test_values_and_gradients_are_torchs(name, settings, inputs, reduction, dtype, rtol, atol):
    targets = TARGETS.get(name, (1,))
    inputs = [x.astype(dtype) if x.dtype.kind == "f" else x for x in inputs]
    cast = {k: v.astype(dtype) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    theirs = getattr(torch.nn, name)(**{k: as_torch(v) for k, v in cast.items()}, reduction=reduction)
    given = [torch.tensor(x, requires_grad=i not in targets) for i, x in enumerate(inputs)]
    right = theirs(*given)
    dL = RANDOM.uniform(0.5, 1.5, tuple(right.shape)).astype(dtype)
    right.backward(torch.tensor(dL))

    ours = getattr(dc, OURS.get(name, name))(**cast, reduction=reduction)
    L = ours(*inputs)
    assert L.dtype == dtype and L.shape == tuple(right.shape)
    np.testing.assert_allclose(L, right.detach().numpy(), rtol=rtol, atol=atol)
    gradients = ours.backward(dL)
    gradients = gradients if isinstance(gradients, tuple) else (gradients,)
    learned = [x.grad.numpy() for i, x in enumerate(given) if i not in targets]
    assert len(gradients) == len(learned)
    scale = max(abs(x).max() for x in learned)  # BCELoss's are 1e12 where it is clamped
    rtol = 1e-8 if scale > 1e9 else rtol  # torch's 1e-12 is a float32
    for got, wanted in zip(gradients, learned, strict=True):
        assert got.dtype == dtype and got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol * max(scale, 1))


def test_nothing_but_hinge_and_mean_square_is_missing_from_the_rows():
    ours = {n for n in dc.__all__ if n.endswith("Loss")} - {"Loss", "CrossEntropyLoss", "MeanSquareLoss"}
    assert ours - {OURS.get(row[0], row[0]) for row in ROWS} == {"HingeLoss"}
