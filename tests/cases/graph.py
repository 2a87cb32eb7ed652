"""Functions wired by name, and those of several inputs that stand in such graphs."""

import numpy as np

from deepcore import Linear, Tanh
from deepcore.layers.graph import Graph, Join, Product, Sum
from tests.case import Case, normal
from tests.cases.linear import affine


def branches() -> Graph:
    return Graph(
        [
            (Linear(3, 2), ("X",), "A"),
            (Tanh(), ("A",), "B"),
            (Product(), ("A", "B"), "C"),
            (Sum(), ("C", "A", "B"), "D"),
            (Join(), ("D", "X"), "Y"),
        ],
        "Y",
    )


def branches_formula(w, X):
    A = affine(w, X, "steps.0.0.")
    return np.concatenate([A * np.tanh(A) + A + np.tanh(A), X], axis=1)


CASES = [
    Case("Graph", branches, [normal(3)], branches_formula),
    Case("Graph of one step", lambda: Graph([(Tanh(), ("X",), "Y")], "Y"), [normal(3)],
         lambda w, X: np.tanh(X)),
    Case("Sum", Sum, [normal(3), normal(3), normal(3)], lambda w, A, B, C: A + B + C),
    Case("Product of arrays", Product, [normal(3), normal(3)], lambda w, A, B: A * B),
    Case("Join", Join, [normal(3), normal(2)], lambda w, A, B: np.concatenate([A, B], axis=1)),
    Case("Join last axis", lambda: Join(-1), [normal(2, 3), normal(2, 1)],
         lambda w, A, B: np.concatenate([A, B], axis=-1)),
]  # fmt: skip
