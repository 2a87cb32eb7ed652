"""The Transformer's block."""

import math

import numpy as np

from deepcore import TransformerBlock
from tests.case import Case, normal
from tests.cases.attention import attend, mask


def layer_norm(w, X, path):
    D = X - X.mean(axis=-1, keepdims=True)
    return w[f"{path}gamma"] * D / np.sqrt((D * D).mean(axis=-1, keepdims=True) + 1e-5) + w[f"{path}beta"]


_erf = np.vectorize(math.erf, otypes=[float])


def block(w, X, M=None, causal=False, heads=2):
    H = layer_norm(w, X, "norm_1.")
    A = X + attend(w, H, mask=M, heads=heads, causal=causal, path="attention.")
    Z = layer_norm(w, A, "norm_2.") @ w["expand.W"] + w["expand.b"]
    Z = Z * (1 + _erf(Z / np.sqrt(2))) / 2
    return A + Z @ w["contract.W"] + w["contract.b"]


CASES = [
    Case("TransformerBlock", lambda: TransformerBlock(4, 2), [normal(3, 4)], block),
    Case("TransformerBlock causal", lambda: TransformerBlock(4, 2, 3, causal=True), [normal(3, 4)],
         lambda w, X: block(w, X, causal=True)),
    Case("TransformerBlock masked", lambda: TransformerBlock(4, 4, hidden=5), [normal(3, 4), mask(3, 3)],
         lambda w, X, M: block(w, X, M, heads=4)),
    Case("TransformerBlock evaluation", lambda: TransformerBlock(4, 2, dropout=0.5), [normal(2, 4)], block,
         evaluation=True),
]  # fmt: skip
