"""The rows of NUMERICS about losses, on each library, with torch's and JAX's own figures printed beside them.

`pytest -s tests/accuracy/test_losses.py` shows the figures: the largest relative errors of float32.
"""

import numpy as np
import pytest

import deepcore as dc
from tests.case import params
from tests.places import EACH_LIBRARY

places = pytest.mark.parametrize("_, place", params(["any"], EACH_LIBRARY))
SMALLEST = float(np.finfo("float32").tiny)


def error(got, right):
    """The largest relative error; what is below float32's normal numbers may be 0."""
    got, right = np.asarray(got, "float64"), np.asarray(right, "float64")
    return float((np.abs(got - right) / np.maximum(np.abs(right), SMALLEST)).max())


def show(what, who, **errors):
    print(f"\n{what:44} {who:14} " + "  ".join(f"{name} {e:.1e}" for name, e in errors.items()), end="")


def of_deepcore(place, loss, *inputs):
    """Each sample's loss, and the gradient of their sum, as NumPy arrays."""
    L = loss(*map(place.array, inputs))
    return place.back(L), place.back(loss.backward())


def of_torch(name, X, y, **settings):
    torch = pytest.importorskip("torch", reason="needs torch, a peer")
    X = torch.tensor(X, requires_grad=True)
    L = getattr(torch.nn.functional, name)(X, torch.tensor(y), reduction="none", **settings)
    L.sum().backward()
    return L.detach().numpy(), X.grad.numpy()


def of_jax(formula, X):
    """A formula of jnp's, as JAX users write it, and its gradient."""
    jax = pytest.importorskip("jax", reason="needs jax, a peer")
    L = formula(jax, jax.numpy.asarray(X))
    return np.asarray(L), np.asarray(jax.grad(lambda X: formula(jax, X).sum())(jax.numpy.asarray(X)))


def exact(X, T):
    """Losses -sum T log softmax(X) and their gradient in extended precision, without cancellation."""
    X, T = X.astype("longdouble"), T.astype("longdouble")
    rows, top = np.arange(len(X)), X.argmax(axis=1)
    D = X - X.max(axis=1, keepdims=True)
    E = np.exp(D)
    E[rows, top] = 0
    log_P = D - np.log1p(E.sum(axis=1, keepdims=True))
    P, not_P = np.exp(log_P), -np.expm1(log_P)
    return -(T * log_P).sum(axis=1), P * (T.sum(axis=1, keepdims=True) - T) - not_P * T


def targets(y, c, smoothing):
    return (1 - smoothing) * np.eye(c)[y] + smoothing / c


def jax_cross_entropy(y, c, smoothing):
    return lambda jax, X: -(targets(y, c, smoothing).astype("f4") * jax.nn.log_softmax(X)).sum(axis=1)


LARGE = (1e4 * np.random.default_rng(0).standard_normal((256, 50))).astype("float32")
LABELS = np.arange(256) % 50


@places
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_cross_entropy_of_logits_to_ten_thousand(_, place, smoothing):
    right, _ = exact(LARGE, targets(LABELS, 50, smoothing))
    loss = dc.CrossEntropyLoss(label_smoothing=smoothing, reduction="none")
    L, _ = of_deepcore(place, loss, LARGE, LABELS)
    found = error(L, right)
    show(f"cross-entropy, logits 1e4 N, smoothing {smoothing}", place.name, loss=found)
    assert found <= 2.5e-7


@places
@pytest.mark.parametrize("d", [10, 15, 20, 40, 80])
def test_a_confident_cross_entropy(_, place, d):
    X, y = np.array([[d, 0, 0], [0, d, 0]], "float32"), np.array([0, 1])
    right, gradient = exact(X, targets(y, 3, 0))
    L, dX = of_deepcore(place, dc.CrossEntropyLoss(reduction="none"), X, y)
    found = error(L, right), error(dX, gradient)
    show(f"cross-entropy of [{d}, 0, 0]", place.name, loss=found[0], gradient=found[1])
    assert max(found) <= 5e-7


def test_the_peers_at_cross_entropy():
    """Not a bound: what torch and JAX show in this run, on this machine."""
    for smoothing in (0.0, 0.1):
        right, _ = exact(LARGE, targets(LABELS, 50, smoothing))
        what = f"cross-entropy, logits 1e4 N, smoothing {smoothing}"
        L, _ = of_torch("cross_entropy", LARGE, LABELS, label_smoothing=smoothing)
        show(what, "torch itself", loss=error(L, right))
        L, _ = of_jax(jax_cross_entropy(LABELS, 50, smoothing), LARGE)
        show(what, "jax itself", loss=error(L, right))
    for d in (10, 15, 20):
        X, y = np.array([[d, 0, 0], [0, d, 0]], "float32"), np.array([0, 1])
        right, gradient = exact(X, targets(y, 3, 0))
        for who, (L, dX) in (
            ("torch itself", of_torch("cross_entropy", X, y)),
            ("jax itself", of_jax(jax_cross_entropy(y, 3, 0.0), X)),
        ):
            found = error(L, right), error(dX, gradient)
            show(f"cross-entropy of [{d}, 0, 0]", who, loss=found[0], gradient=found[1])
            assert max(found) > 1e-5  # else this row would show nothing


# ---- losses of a logit: the rows "softplus, log-sigmoid" and "sigmoid" seen through them


WIDE = np.linspace(-85, 85, 4001).astype("float32")
BITS = (np.arange(4001) % 2).astype("float32")


def exact_bce(X, Y):
    """-log sigmoid(Z) and its gradient, Z = X where Y = 1 and -X where Y = 0."""
    Z = np.where(Y > 0, X, -X).astype("longdouble")
    E = np.exp(-np.abs(Z))
    return np.where(Z > 0, 0, -Z) + np.log1p(E), np.where(Y > 0, -1, 1) * np.where(Z > 0, E, 1) / (1 + E)


@places
def test_a_binary_cross_entropy_of_logits(_, place):
    right, gradient = exact_bce(WIDE, BITS)
    for loss, Y in (
        (dc.BCEWithLogitsLoss(reduction="none"), BITS),
        (dc.SoftMarginLoss("none"), 2 * BITS - 1),
    ):
        L, dX = of_deepcore(place, loss, WIDE, Y)
        found = error(L, right), error(dX, gradient)
        show(f"{type(loss).__name__}, logits -85 to 85", place.name, loss=found[0], gradient=found[1])
        assert found[0] <= 2.5e-7 and found[1] <= 3e-7


def test_the_peers_at_binary_cross_entropy():
    right, gradient = exact_bce(WIDE, BITS)
    signs = 1 - 2 * BITS
    for who, (L, dX) in (
        ("torch itself", of_torch("binary_cross_entropy_with_logits", WIDE, BITS)),
        ("jax itself", of_jax(lambda jax, X: jax.nn.softplus(signs * X), WIDE)),
    ):
        show("BCEWithLogits, logits -85 to 85", who, loss=error(L, right), gradient=error(dX, gradient))
        assert L.shape == right.shape


# ---- means over very many numbers


@places
@pytest.mark.parametrize("make", [dc.L1Loss, dc.HuberLoss, dc.SoftMarginLoss, dc.MSELoss])
def test_a_mean_over_a_million_numbers(_, place, make):
    X = np.random.default_rng(0).random((1_000_000, 1), dtype="float32")
    right = {
        dc.L1Loss: lambda x: 1 + x, dc.HuberLoss: lambda x: x + 0.5, dc.MSELoss: lambda x: (1 + x) ** 2,
        dc.SoftMarginLoss: lambda x: np.log1p(np.exp(x)),
    }[make](X.astype("float64")).mean()  # fmt: skip
    found = error(place.back(make()(place.array(X), place.array(-np.ones_like(X)))), right)
    show(f"{make.__name__}, mean of 1e6", place.name, loss=found)
    assert found <= 5e-7
