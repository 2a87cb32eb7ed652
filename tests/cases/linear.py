"""The affine map, and that of two inputs."""

import numpy as np

from deepcore import Bilinear, Linear
from tests.case import Case, normal, unbatched


def affine(w, X, path=""):
    return X @ w[f"{path}W"] + w[f"{path}b"]


def of_products(w, A, B):
    return np.einsum("...i,ijo,...j->...o", A, w["W"], B) + w.get("b", 0)


CASES = [
    Case("Linear", lambda: Linear(4, 3), [normal(4)], affine),
    Case("Linear to itself", lambda: Linear(4, 4), [normal(4)], affine),
    Case("Linear without bias", lambda: Linear(4, 3, bias=False), [normal(4)], lambda w, X: X @ w["W"]),
    Case("Linear 3-D", lambda: Linear(4, 3), [normal(2, 4)], affine),
    Case("Linear 4-D", lambda: Linear(4, 3), [normal(2, 3, 4)], affine),
    Case("Linear 1-D", lambda: Linear(4, 3), [unbatched(4)], lambda w, x: affine(w, x)[0], batched=False),
    Case("Linear of one number", lambda: Linear(1, 1), [normal(1)], affine),
    Case("Bilinear", lambda: Bilinear(3, 2, 4), [normal(3), normal(2)], of_products),
    Case("Bilinear without bias", lambda: Bilinear(2, 3, 2, bias=False), [normal(2), normal(3)], of_products),
    Case("Bilinear 3-D", lambda: Bilinear(3, 2, 2), [normal(2, 3), normal(2, 2)], of_products),
]  # fmt: skip
