"""The accuracy of activations in float32, against mpmath or float64. `pytest -rP` prints the figures."""

import mpmath
import numpy as np
import pytest
from scipy import special

import deepcore as dc
from deepcore.ops import activation
from tests.accuracy.peers import PLACES, TINY, error, jaxs, show, torchs
from tests.places import DEVICE1, NUMPY, TORCH


def line(low, high, n=200_001):
    X = np.linspace(low, high, n).astype("float32")
    return X[X != 0]


# row -> function, numbers, its value in float64, torch's, JAX's, bound
ROWS = {
    "sigmoid": (dc.Sigmoid(), line(-110, 110), special.expit,
                lambda F, x: x.sigmoid(), lambda nn, x: nn.sigmoid(x), 3e-7),
    "softplus": (dc.Softplus(), np.r_[line(-87, 87), line(-9, 9)], lambda X: np.logaddexp(0, X),
                 lambda F, x: F.softplus(x), lambda nn, x: nn.softplus(x), 2.5e-7),
    "log-sigmoid": (dc.LogSigmoid(), np.r_[line(-87, 87), line(-9, 9)], lambda X: -np.logaddexp(0, -X),
                    lambda F, x: F.logsigmoid(x), lambda nn, x: nn.log_sigmoid(x), 2.5e-7),
    "SiLU": (dc.SiLU(), line(-88, 88), lambda X: X * special.expit(X),
             lambda F, x: F.silu(x), lambda nn, x: nn.silu(x), 6e-7),
    "GELU": (dc.GELU(), line(-13, 13), lambda X: X * special.erfc(-X / np.sqrt(2)) / 2,
             lambda F, x: F.gelu(x), lambda nn, x: nn.gelu(x, approximate=False), 1e-6),
}  # fmt: skip
LOOSER = {  # row, place -> what its library's own functions allow, measured
    # exp and log1p of NumPy in float32 are off by 2e-7 each; its native kernel computes in float64
    ("softplus", DEVICE1): 3e-7,
    ("log-sigmoid", DEVICE1): 3e-7,
}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_the_error_is_within_its_bound(row, place):
    f, X, formula, torch, jax, bound = ROWS[row]
    bound = LOOSER.get((row, place), bound)
    right = formula(X.astype("float64"))
    ours = error(place.back(f(place.array(X))), right)
    peers = [None if Y is None else error(Y, right) for Y in (torchs(torch, X), jaxs(jax, X))]
    show(row, place, ours, bound, *peers)
    assert ours <= bound


def test_the_right_values_are_right():
    """SciPy's, which the errors are measured against, beside 40 digits of mpmath."""
    with mpmath.workdps(40):
        exact = {
            "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
            "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
            "log-sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
            "SiLU": lambda x: x / (1 + mpmath.exp(-x)),
            "GELU": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
        }
        for row, (_, X, formula, *_) in ROWS.items():
            few = X[:: len(X) // 100].astype("float64")
            wanted = [float(exact[row](mpmath.mpf(x))) for x in few]
            np.testing.assert_allclose(formula(few), wanted, rtol=1e-13, err_msg=row)


@pytest.mark.parametrize("reference", [False, True], ids=["native", "reference"])
def test_gelu_in_float64_keeps_all_its_digits(reference):
    X = line(-37, 37, 301).astype("float64")
    gelu = activation.gelu.reference if reference else activation.gelu
    with mpmath.workdps(40):
        right = [mpmath.mpf(x) * mpmath.erfc(-mpmath.mpf(x) / mpmath.sqrt(2)) / 2 for x in X]
        assert max(abs(float(mpmath.mpf(y) / r - 1)) for y, r in zip(gelu(X), right, strict=True)) <= 2e-15


@pytest.mark.parametrize("place", [p for p in PLACES if p in (NUMPY, DEVICE1, TORCH)], ids=lambda p: p.name)
@pytest.mark.parametrize("kind", [dc.SiLU, dc.Mish, dc.GELU], ids=lambda kind: kind.__name__)
def test_slopes_keep_their_digits_in_the_left_tail(kind, place):
    """Relative to the slope itself, but near its own zero, around -1, where no float32 input can say more."""
    X = np.concatenate([line(-12, -2), line(0, 12)])
    D = X.astype("float64")
    S = special.expit(D)
    T = np.tanh(np.log1p(np.exp(D)))
    density = np.exp(-D * D / 2) / np.sqrt(2 * np.pi)
    right = {
        dc.SiLU: S * (1 + D * special.expit(-D)),
        dc.Mish: T + D * S * (1 - T * T),
        dc.GELU: special.erfc(-D / np.sqrt(2)) / 2 + D * density,
    }[kind]
    assert (np.abs(right) >= TINY).all()
    got = place.back(kind().local_grad(place.array(X))["X"])
    assert error(got, right) <= 2e-6
