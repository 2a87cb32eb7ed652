"""The functions that compiled kernels call, against mpmath. `pytest -rP` prints the figures."""

import mpmath
import numpy as np
import pytest

numba = pytest.importorskip("numba", reason='needs numba: pip install "deepcore[fast]"')

from deepcore.backends.numpy.fast import elementary  # noqa: E402

SMALL = 10 ** np.random.default_rng(0).uniform(-30, 0, 1000)
SPECIAL = [-np.inf, np.nan, 0.0, -1e30]


def everywhere(f, X):
    """f of each number, compiled."""

    @numba.njit
    def loop(X, Y):
        for i in range(X.size):
            Y[i] = f(X[i])

    Y = np.empty_like(X)
    loop(X, Y)
    return Y


def units(Y, f, X):
    """The largest error in units of the last place, over results that have all their digits."""
    info = np.finfo(X.dtype)
    with mpmath.workdps(50):
        right = [f(mpmath.mpf(float(x))) for x in X]
        steps = [mpmath.mpf(2) ** (mpmath.floor(mpmath.log(abs(r), 2)) - info.nmant) for r in right]
        errors = [
            abs(float(y) - r) / s for y, r, s in zip(Y, right, steps, strict=True) if abs(r) >= info.tiny
        ]
        return float(max(errors))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "f", "bound"),
    [
        ("exp_of_negative", mpmath.exp, 1.0),
        ("expm1_of_negative", mpmath.expm1, 1.5),
        ("log1p_of_fraction", mpmath.log1p, 1.1),
        ("log1p", mpmath.log1p, 1.0),
        ("tanh", mpmath.tanh, 3.0),
    ],
)
def test_error(name, f, bound, dtype):
    random, least = np.random.default_rng(1), -87 if dtype == "float32" else -708
    if name == "log1p_of_fraction":
        X = np.concatenate([random.uniform(0, 1, 2000), SMALL])
    elif name == "log1p":
        X = np.concatenate([random.uniform(0, 100, 2000), 10 ** random.uniform(0, 30, 1000), SMALL])
    elif name == "tanh":
        X = np.concatenate([random.uniform(-10, 10, 2000), SMALL])
    else:
        X = np.concatenate([random.uniform(least, 0, 2000), random.uniform(-2, 0, 1000), -SMALL])
    X = X.astype(dtype)
    error = units(everywhere(getattr(elementary, name), X), f, X)
    print(f"{name}, {dtype}: {error:.2f} units (bound {bound})")
    assert error <= bound


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ends_of_the_range(dtype):
    X = np.array(SPECIAL, dtype)
    np.testing.assert_equal(everywhere(elementary.exp_of_negative, X), np.array([0, np.nan, 1, 0], dtype))
    np.testing.assert_equal(everywhere(elementary.expm1_of_negative, X), np.array([-1, np.nan, 0, -1], dtype))
    np.testing.assert_equal(everywhere(elementary.tanh, X), np.array([-1, np.nan, 0, -1], dtype))


@pytest.mark.parametrize(
    ("name", "f", "bound"),
    [
        ("exp_of_minus_half_square", lambda a: mpmath.exp(-a * a / 2), 1.1),
        ("mills_ratio", lambda a: mpmath.exp(a * a / 2) * mpmath.erfc(a / mpmath.sqrt(2)) / 2, 5.0),
    ],
)
def test_error_of_what_the_normal_distribution_needs(name, f, bound):
    X = np.concatenate([np.random.default_rng(1).uniform(0, 14, 3000), SMALL]).astype("float32")
    error = units(everywhere(getattr(elementary, name), X), f, X)
    print(f"{name}: {error:.2f} units (bound {bound})")
    assert error <= bound
