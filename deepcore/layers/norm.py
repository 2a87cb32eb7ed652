"""Normalisation: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.core.layer import Layer
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops import norm
from deepcore.shapes import to_tuple


class BatchNorm(Layer):
    """Standardise each channel over the batch and `rank` spatial axes. Abstract: use BatchNorm2D."""

    traceable = True
    rank: int

    def __init__(
        self,
        n_channels: int,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        *,
        dtype: Any = None,
        device: Any = None,
    ):
        super().__init__()
        who = type(self).__name__
        (self.n_channels,) = to_tuple(n_channels, 1, who, "n_channels", least=1)
        if not 0 <= momentum <= 1:
            raise ArgumentError(
                f"{who}: momentum, the weight of the new batch, must be 0 to 1, got {momentum}"
            )
        if not 0 <= epsilon < math.inf:
            raise ArgumentError(f"{who}: epsilon must be a finite number, 0 or more, got {epsilon}")
        self.epsilon = float(epsilon)  # a NumPy float64 would widen the arrays it meets
        self.momentum = float(momentum)
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        shape = (1, self.n_channels) + (1,) * self.rank
        for name, init, table in (
            ("gamma", "ones", self.weight),
            ("beta", "zeros", self.weight),
            ("running_mean", "zeros", self.buffer),
            ("running_var", "ones", self.buffer),
        ):
            table[name] = initialisers.make(init, shape, 1, 1, dtype, device)

    @property
    def running_mean(self) -> Any:
        """The mean of each channel, averaged over the batches seen in training."""
        return self.buffer["running_mean"]

    @property
    def running_var(self) -> Any:
        """The unbiased variance of each channel, averaged over the batches seen in training."""
        return self.buffer["running_var"]

    def forward(self, X: Any) -> Any:
        if X.ndim != self.rank + 2 or X.shape[1] != self.n_channels:
            axes = ", ".join(("n", str(self.n_channels), *"dhw"[3 - self.rank :]))
            raise ShapeError(f"{self._who()}: X must have shape ({axes}), got {tuple(X.shape)}")
        gamma, beta = self.weight["gamma"], self.weight["beta"]
        if not self.training:
            mean, var = self._staged("running_mean"), self._staged("running_var")
            self.cache.update(X=X, mean=mean, var=var)
            return norm.batch_norm_inference(X, mean, var, gamma, beta, self.epsilon)
        m = math.prod(X.shape) // self.n_channels
        if m == 1:
            raise ShapeError(
                f"{self._who()}: training needs more than one value per channel, got X: {tuple(X.shape)}; "
                "use a larger batch (in fit, the last one may be smaller), or net.eval()"
            )
        Y, H, r, mean, var = norm.batch_norm(X, gamma, beta, self.epsilon)
        self.cache.update(H=H, r=r)
        if m > 0:
            self._stage(
                running_mean=self._average("running_mean", mean),
                running_var=self._average("running_var", var * (m / (m - 1))),
            )
        return Y

    def _average(self, name: str, new: Any) -> Any:
        return (1 - self.momentum) * self._staged(name) + self.momentum * new

    def backward(self, dY: Any) -> Any:
        cache, gamma = self.cache, self.weight["gamma"]
        if "H" in cache:
            dX, dgamma, dbeta = norm.batch_norm_backward(dY, cache["H"], cache["r"], gamma)
        else:
            dX, dgamma, dbeta = norm.batch_norm_inference_backward(
                dY, cache["X"], cache["mean"], cache["var"], gamma, self.epsilon
            )
        self.weight_update["gamma"], self.weight_update["beta"] = dgamma, dbeta
        return dX


class BatchNorm2D(BatchNorm):
    """Standardise each channel over the batch, then scale and shift it.

    X, Y, H: (n, c, h, w)   gamma, beta: (1, c, 1, 1)   mean, var, r: (1, c, 1, 1), over n, h and w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta

    X stands in the mean and the variance too, hence three terms. With dH = gamma dY:

    dX = r (dH - mean dH - H mean(H dH))     dgamma = sum(H dY)     dbeta = sum dY

    In training it keeps running_mean and running_var (unbiased), running <- (1 - momentum) running +
    momentum new; in evaluation these stand in for the batch's, and dX = r gamma dY.
    Raises ShapeError for other channels, and in training if a channel has a single value.
    Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> import numpy as np
    >>> layer = BatchNorm2D(1)
    >>> layer(np.array([1.0, 3.0]).reshape(2, 1, 1, 1)).ravel()
    array([-0.999995,  0.999995], dtype=float32)
    """

    rank = 2
