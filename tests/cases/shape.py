"""Functions that change the shape alone."""

import deepcore as dc
from tests.case import Case, normal

CASES = [
    Case("Flatten", dc.Flatten, [normal(2, 3, 2)], lambda w, X: X.reshape(len(X), 12)),
    Case("Flatten rows", dc.Flatten, [normal(4)], lambda w, X: X),
    Case("Flatten numbers", dc.Flatten, [normal()], lambda w, X: X[:, None]),
]  # fmt: skip
