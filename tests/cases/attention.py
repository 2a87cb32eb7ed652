"""Attention, one head after the other."""

import numpy as np

from deepcore import MultiHeadAttention
from tests.case import Case, labels, normal, unbatched


def attend(w, Q, K=None, V=None, mask=None, heads=2, causal=False, path=""):
    K = Q if K is None else K
    V = K if V is None else V
    q, k, v = (
        X @ w[f"{path}W_{name}"] + w[f"{path}b_{name}"] for name, X in zip("qkv", (Q, K, V), strict=True)
    )
    allowed = np.ones((*Q.shape[:-2], heads, Q.shape[-2], K.shape[-2]), bool)
    if mask is not None:
        allowed &= mask[..., None, :, :] if mask.ndim == Q.ndim else mask
    if causal:
        allowed &= np.tri(*allowed.shape[-2:], dtype=bool)
    d = Q.shape[-1] // heads
    H = np.zeros_like(q)
    for head in range(heads):
        own = slice(head * d, (head + 1) * d)
        S = q[..., own] @ np.swapaxes(k[..., own], -1, -2) / np.sqrt(d)
        E = np.where(allowed[..., head, :, :], np.exp(S), 0)
        total = E.sum(axis=-1, keepdims=True)
        H[..., own] = E / np.where(total == 0, 1, total) @ v[..., own]
    return H @ w[f"{path}W_o"] + w[f"{path}b_o"]


def mask(*shape):
    """(n, *shape) bool, half of it True."""
    return labels(2, *shape, dtype="bool")


MHA = MultiHeadAttention
CASES = [
    Case("MultiHeadAttention", lambda: MHA(4, 2), [normal(3, 4)], attend),
    Case("MultiHeadAttention of one head", lambda: MHA(3, 1), [normal(2, 3)],
         lambda w, X: attend(w, X, heads=1)),
    Case("MultiHeadAttention of one step", lambda: MHA(4, 4), [normal(1, 4)],
         lambda w, X: attend(w, X, heads=4)),
    Case("MultiHeadAttention causal", lambda: MHA(4, 2, causal=True), [normal(4, 4)],
         lambda w, X: attend(w, X, causal=True)),
    Case("MultiHeadAttention without samples", lambda: MHA(4, 2), [unbatched(3, 4)], attend, batched=False),
    Case("MultiHeadAttention of sets of sequences", lambda: MHA(4, 2), [normal(2, 3, 4)], attend),
    Case("MultiHeadAttention masked", lambda: MHA(4, 2), [normal(3, 4), mask(3, 3)],
         lambda w, X, M: attend(w, X, mask=M)),
    Case("MultiHeadAttention masked in each head, causal", lambda: MHA(4, 2, True),
         [normal(3, 4), mask(2, 3, 3)], lambda w, X, M: attend(w, X, mask=M, causal=True)),
    Case("MultiHeadAttention to keys with values", lambda: MHA(4, 2), [normal(3, 4), normal(2, 4)], attend),
    Case("MultiHeadAttention of 3", lambda: MHA(4, 2), [normal(2, 4), normal(3, 4), normal(3, 4)], attend),
    Case("MultiHeadAttention of 3, masked, causal", lambda: MHA(4, 2, True),
         [normal(3, 4), normal(2, 4), normal(2, 4), mask(3, 2)],
         lambda w, Q, K, V, M: attend(w, Q, K, V, M, causal=True)),
]  # fmt: skip
