"""The block that Transformers are stacks of."""

from __future__ import annotations

from typing import Any

from deepcore.core.function import Function
from deepcore.layers.attention import MultiHeadAttention, check_mask
from deepcore.layers.dropout import Dropout
from deepcore.layers.linear import Linear
from deepcore.layers.norm import LayerNorm
from deepcore.ops import activation


class TransformerBlock(Function):
    """Each step looks at others, then thinks for itself; both are added to what it was.

    A = X + Attention(LayerNorm_1(X))     Y = A + GELU(LayerNorm_2(A) W_e + b_e) W_c + b_c

    X, A, Y: (n, t, dim)   W_e: (dim, hidden)   W_c: (hidden, dim); hidden is 4 dim unless given
    Normalising first ("pre-norm") leaves a way from Y to X through additions alone, along which the gradient
    keeps its size however many blocks there are. In training, each of the two that are added loses a fraction
    `dropout` of its numbers. f(X, mask), f(X, mask=mask), heads and causal are as in MultiHeadAttention.

    With Z = LayerNorm_2(A) W_e + b_e, from the end to the start, each f^T being f's backward:

    dZ = (dY W_c^T) GELU'(Z)
    dA = dY + LayerNorm_2^T(dZ W_e^T)     dX = dA + LayerNorm_1^T(Attention^T(dA))

    Raises ShapeError for X or a mask that don't fit, DTypeError for a mask that is not bool. Vaswani et al.
    2017, arXiv:1706.03762; pre-norm: Xiong et al. 2020, arXiv:2002.04745.

    >>> import numpy as np
    >>> block = TransformerBlock(8, 2, causal=True)
    >>> block(np.ones((3, 5, 8))).shape
    (3, 5, 8)
    """

    traceable = True

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        *,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        made: dict[str, Any] = {"dtype": dtype, "device": device}
        self.attention = MultiHeadAttention(dim, heads, causal, **made)
        self.hidden = 4 * self.attention.dim if hidden is None else hidden
        self.expand = Linear(dim, self.hidden, **made)
        self.contract = Linear(self.hidden, dim, **made)
        self.norm_1, self.norm_2 = LayerNorm(dim, **made), LayerNorm(dim, **made)
        self.dropout_1, self.dropout_2 = Dropout(dropout), Dropout(dropout)

    def _config(self) -> dict[str, Any]:
        inner = self.attention
        return {
            "dim": inner.dim,
            "heads": inner.heads,
            "hidden": None if self.hidden == 4 * inner.dim else self.hidden,
            "causal": inner.causal,
            "dropout": self.dropout_1.p,
        }

    def __call__(self, X: Any, mask: Any = None) -> Any:
        """Y, for X and maybe a mask, as the second argument or by its name."""
        if mask is None:
            return super().__call__(X)
        check_mask(self, mask)
        return super().__call__(X, mask)

    def forward(self, X: Any, mask: Any = None) -> Any:
        A = X + self.dropout_1(self.attention(self.norm_1(X), mask=mask))
        self.cache["Z"] = Z = self.expand(self.norm_2(A))
        return A + self.dropout_2(self.contract(activation.gelu(Z)))

    def backward(self, dY: Any) -> Any:
        dZ = self.contract.backward(self.dropout_2.backward(dY)) * activation.gelu_grad(self.cache["Z"])
        dA = dY + self.norm_2.backward(self.expand.backward(dZ))
        return dA + self.norm_1.backward(self.attention.backward(self.dropout_1.backward(dA)))
