"""Rows of a table."""

from deepcore import Embedding
from tests.case import Case, labels

CASES = [
    Case("Embedding", lambda: Embedding(5, 3), [labels(5, 4)], lambda w, X: w["W"][X]),
    Case("Embedding of numbers", lambda: Embedding(4, 2), [labels(4)], lambda w, X: w["W"][X]),
    Case("Embedding 3-D, uint8", lambda: Embedding(7, 1), [labels(7, 2, 3, dtype="uint8")],
         lambda w, X: w["W"][X]),
]  # fmt: skip
