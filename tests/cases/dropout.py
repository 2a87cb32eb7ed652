"""Dropout where it does nothing: what it draws is tested in tests/ops/test_random.py."""

import deepcore as dc
from tests.case import Case, normal

CASES = [
    Case("Dropout p=0", lambda: dc.Dropout(0), [normal(4)], lambda w, X: X, elementwise=True),
    Case("Dropout evaluation", dc.Dropout, [normal(4)], lambda w, X: X, evaluation=True, elementwise=True),
    Case("Dropout2D p=0", lambda: dc.Dropout2D(0), [normal(2, 2, 3)], lambda w, X: X, elementwise=True),
    Case("Dropout2D evaluation", dc.Dropout2D, [normal(2, 3, 2)], lambda w, X: X, evaluation=True,
         elementwise=True),
]  # fmt: skip
