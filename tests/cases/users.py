"""The user's own classes."""

import numpy as np

from deepcore import Linear, Net, Sequential, Tanh
from tests.case import Case, normal
from tests.cases.linear import affine
from tests.users import Difference, Product, Scale, Square

CASES = [
    Case("Square", Square, [normal(2, 3)], lambda w, X: X**2, elementwise=True, own=True),
    Case("Scale", Scale, [normal(2, 3)], lambda w, X: X * w["s"], own=True),
    Case("Net with the user's own", lambda: Net([Linear(3, 2), Square(), Scale(), Linear(2, 2)]), [normal(3)],
         lambda w, X: affine(w, affine(w, X, "layers.0.") ** 2 * w["layers.2.s"], "layers.3."), own=True),
    Case("Product", Product, [normal(3), normal(3)], lambda w, A, B: A * B, own=True),
    Case("Difference", lambda: Difference(Sequential(Linear(3, 2), Tanh())), [normal(3), normal(3)],
         lambda w, A, B: np.tanh(affine(w, A, "f.0.")) - np.tanh(affine(w, B, "f.0.")), own=True),
]  # fmt: skip
