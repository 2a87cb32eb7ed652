"""Normalisation: one implementation for any number of spatial axes, one class for each."""

from __future__ import annotations

import math
from typing import Any

from deepcore import init as initialisers
from deepcore.backends.registry import array_namespace
from deepcore.core.layer import Layer
from deepcore.core.settings import to_number
from deepcore.errors import ArgumentError, ShapeError
from deepcore.ops import norm
from deepcore.shapes import channels_first, to_tuple


def _check_epsilon(epsilon: float, who: str) -> float:
    """As a Python number. ArgumentError unless 0 <= it < inf."""
    number = to_number(epsilon, who, "epsilon")
    if not 0 <= number < math.inf:
        raise ArgumentError(f"{who}: epsilon must be a finite number, 0 or more, got {epsilon}")
    return number


def _check_channels(shape: tuple[int, ...], channels: int, rank: int, who: Any) -> None:
    """Raise ShapeError unless it is (n, channels, *spatial), with `rank` spatial axes."""
    if len(shape) != rank + 2 or shape[1] != channels:
        axes = ", ".join(("n", str(channels), *"dhw"[3 - rank :]))
        remedy = channels_first(shape, channels, rank)
        raise ShapeError(f"{who}: X must have shape ({axes}), got {tuple(shape)}{remedy}")


class BatchNorm(Layer):
    """Standardise each channel over the batch and `rank` spatial axes. Abstract: use BatchNorm1D to 3D."""

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
        self.epsilon = _check_epsilon(epsilon, who)
        self.momentum = to_number(momentum, who, "momentum, the weight of the new batch,", least=0, most=1)
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        shape = (1, self.n_channels) + (1,) * self.rank
        for name, init, table in (
            ("gamma", "ones", self.weight),
            ("beta", "zeros", self.weight),
            ("running_mean", "zeros", self.buffer),
            ("running_var", "ones", self.buffer),
        ):
            table[name] = initialisers.make(init, shape, 1, 1, dtype, device, self)

    @property
    def running_mean(self) -> Any:
        """The mean of each channel, averaged over the batches seen in training."""
        return self.buffer["running_mean"]

    @property
    def running_var(self) -> Any:
        """The unbiased variance of each channel, averaged over the batches seen in training."""
        return self.buffer["running_var"]

    def _check_axes(self, shape: tuple[int, ...]) -> None:
        _check_channels(shape, self.n_channels, self.rank, self)

    def forward(self, X: Any) -> Any:
        self._check_axes(X.shape)
        gamma, beta = self.weight["gamma"], self.weight["beta"]
        if not self.training:
            mean, var = self._staged("running_mean"), self._staged("running_var")
            self.cache.update(X=X, mean=mean, var=var)
            return norm.batch_norm_inference(X, mean, var, gamma, beta, self.epsilon)
        m = self._count(X.shape)
        Y, mean, r, var = norm.batch_norm(X, gamma, beta, self.epsilon)
        self.cache.update(X=X, mean=mean, r=r)
        if m > 0:
            self._stage(
                running_mean=self._average("running_mean", mean[:1, ...] + mean[1:, ...]),
                running_var=self._average("running_var", var * (m / (m - 1))),
            )
        return Y

    def _count(self, shape: tuple[int, ...]) -> int:
        """How many values a channel has; ShapeError if that is 1, which has no variance."""
        m = math.prod(shape) // self.n_channels
        if m == 1:
            raise ShapeError(
                f"{self._who()}: training needs more than one value per channel, got X: {tuple(shape)}; "
                "use a larger batch (in fit, the last one may be smaller), or net.eval()"
            )
        return m

    def _average(self, name: str, new: Any) -> Any:
        old = self._staged(name)
        if new.dtype != old.dtype:  # in mixed precision
            new = array_namespace(new).astype(new, old.dtype)
        return (1 - self.momentum) * old + self.momentum * new

    def backward(self, dY: Any) -> Any:
        cache, gamma = self.cache, self.weight["gamma"]
        X, mean = cache["X"], cache["mean"]
        if "var" in cache:
            gradients = norm.batch_norm_inference_backward(dY, X, mean, cache["var"], gamma, self.epsilon)
        else:
            gradients = norm.batch_norm_backward(dY, X, mean, cache["r"], gamma)
        dX, dgamma, dbeta = gradients
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


class BatchNorm1D(BatchNorm):
    """Standardise each channel over the batch, and over its places if there are any, then scale and shift it.

    X, Y, H: (n, c) or (n, c, w)   gamma, beta, mean, var, r: (1, c, 1), over n and w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta

    With dH = gamma dY: dX = r (dH - mean dH - H mean(H dH)), dgamma = sum(H dY), dbeta = sum dY.
    Running statistics, arguments and errors are those of BatchNorm2D; (n, c) counts as (n, c, 1).
    Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> import numpy as np
    >>> BatchNorm1D(2)(np.array([[1.0, 5.0], [3.0, 5.0]]))
    array([[-0.999995,  0.      ],
           [ 0.999995,  0.      ]], dtype=float32)
    """

    rank = 1
    traceable = True

    def _check_axes(self, shape: tuple[int, ...]) -> None:
        if len(shape) not in (2, 3) or shape[1] != self.n_channels:
            c = self.n_channels
            remedy = channels_first(shape, c, rank=1) if len(shape) == 3 else ""
            raise ShapeError(
                f"{self._who()}: X must have shape (n, {c}) or (n, {c}, w), got {tuple(shape)}{remedy}"
            )

    def forward(self, X: Any) -> Any:
        self._check_axes(X.shape)
        if self.training:
            self._count(X.shape)
        self.cache["shape"] = X.shape
        return _in_shape(super().forward(_with_places(X)), X.shape)

    def backward(self, dY: Any) -> Any:
        return _in_shape(super().backward(_with_places(dY)), self.cache["shape"])


def _with_places(X: Any) -> Any:
    """(n, c) -> (n, c, 1)"""
    return array_namespace(X).expand_dims(X, axis=2) if X.ndim == 2 else X


def _in_shape(X: Any, shape: tuple[int, ...]) -> Any:
    return array_namespace(X).reshape(X, shape) if X.ndim != len(shape) else X


class BatchNorm3D(BatchNorm):
    """Standardise each channel over the batch, then scale and shift it.

    X, Y, H: (n, c, d, h, w)   gamma, beta, mean, var, r: (1, c, 1, 1, 1), over n, d, h and w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta

    With dH = gamma dY: dX = r (dH - mean dH - H mean(H dH)), dgamma = sum(H dY), dbeta = sum dY.
    Running statistics, arguments and errors are those of BatchNorm2D.
    Ioffe and Szegedy 2015, arXiv:1502.03167.

    >>> import numpy as np
    >>> BatchNorm3D(3)(np.ones((5, 3, 2, 4, 4))).shape
    (5, 3, 2, 4, 4)
    """

    rank = 3


# ---- statistics of each sample by itself


class _SampleNorm(Layer):
    """Standardise each group of channels of each sample by itself, then scale and shift each channel."""

    groups: int
    epsilon: float

    def _init_weights(self, shape: tuple[int, ...], dtype: Any, device: Any) -> None:
        self.weight["gamma"] = initialisers.make("ones", shape, 1, 1, dtype, device, self)
        self.weight["beta"] = initialisers.make("zeros", shape, 1, 1, dtype, device, self)

    def _normalise(self, X: Any) -> Any:
        """X: (n, c, ...)"""
        gamma, beta = (_per_channel(self.weight[name], X) for name in ("gamma", "beta"))
        Y, mean, r = norm.group_norm(X, gamma, beta, self.groups, self.epsilon)
        self.cache.update(X=X, mean=mean, r=r)
        return Y

    def _normalise_backward(self, dY: Any) -> Any:
        cache, gamma = self.cache, self.weight["gamma"]
        dX, dgamma, dbeta = norm.group_norm_backward(
            dY, cache["X"], cache["mean"], cache["r"], _per_channel(gamma, dY)
        )
        xp = array_namespace(dY)
        self.weight_update["gamma"] = xp.reshape(dgamma, gamma.shape)
        self.weight_update["beta"] = xp.reshape(dbeta, gamma.shape)
        return dX


def _per_channel(w: Any, X: Any) -> Any:
    """One number for each channel of X, in the shape (1, c, 1, ...)."""
    return array_namespace(w).reshape(w, (1, X.shape[1]) + (1,) * (X.ndim - 2))


class LayerNorm(_SampleNorm):
    """Standardise the last axes of each sample, then scale and shift.

    X, Y, H: (..., *shape)   gamma, beta: shape   mean, var, r: (..., 1), over the axes of `shape`
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta
    shape: an int d, for (..., d), or a tuple. epsilon >= 0. gamma = 1, beta = 0 at first.

    X stands in the mean and the variance too, hence three terms. With dH = gamma dY:

    dX = r (dH - mean dH - H mean(H dH))     dgamma = sum(H dY)     dbeta = sum dY, over the other axes

    The mean is subtracted in two parts, what rounding it lost too: right to 5e-6 on numbers around 1e4, where
    one subtraction is off by 1e-3. Raises ShapeError if X does not end in shape. Ba et al. 2016,
    arXiv:1607.06450.

    >>> import numpy as np
    >>> LayerNorm(2)(np.array([[1.0, 3.0], [10.0, 30.0]])).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    traceable = True
    groups = 1  # all that a sample has is one

    def __init__(
        self, shape: int | tuple[int, ...], epsilon: float = 1e-5, *, dtype: Any = None, device: Any = None
    ):
        super().__init__()
        self.shape = _norm_shape(shape, "LayerNorm")
        self.epsilon = _check_epsilon(epsilon, "LayerNorm")
        self._init_weights(self.shape, dtype, device)

    def forward(self, X: Any) -> Any:
        _check_last_axes(X.shape, self.shape, self)
        return array_namespace(X).reshape(self._normalise(_in_rows(X, self.shape)), X.shape)

    def backward(self, dY: Any) -> Any:
        return array_namespace(dY).reshape(self._normalise_backward(_in_rows(dY, self.shape)), dY.shape)


class RMSNorm(Layer):
    """Divide the last axes of each sample by their root mean square, then scale.

    X, Y, H: (..., *shape)   gamma: shape   r: (..., 1), the mean over the axes of `shape`
    r = (mean X^2 + epsilon)^-1/2     H = X r     Y = gamma H
    shape: an int d, for (..., d), or a tuple. epsilon >= 0. gamma = 1 at first; there is no beta.

    As LayerNorm without a mean. dr/dX = -r^3 X / m, hence, with dH = gamma dY:

    dX = r (dH - H mean(H dH))     dgamma = sum(H dY), over the other axes

    Raises ShapeError if X does not end in shape. Zhang and Sennrich 2019, arXiv:1910.07467.

    >>> import numpy as np
    >>> RMSNorm(2, epsilon=0)(np.array([[1.0, 7.0], [-20.0, 20.0]]))
    array([[ 0.2,  1.4],
           [-1. ,  1. ]], dtype=float32)
    """

    traceable = True

    def __init__(
        self, shape: int | tuple[int, ...], epsilon: float = 1e-5, *, dtype: Any = None, device: Any = None
    ):
        super().__init__()
        self.shape = _norm_shape(shape, "RMSNorm")
        self.epsilon = _check_epsilon(epsilon, "RMSNorm")
        self._init_weights(dtype, device)

    def _init_weights(self, dtype: Any, device: Any) -> None:
        self.weight["gamma"] = initialisers.make("ones", self.shape, 1, 1, dtype, device, self)

    def forward(self, X: Any) -> Any:
        _check_last_axes(X.shape, self.shape, self)
        rows, gamma = _in_rows(X, self.shape), _in_rows(self.weight["gamma"], self.shape)
        Y, r = norm.rms_norm(rows, gamma, self.epsilon)
        self.cache.update(X=rows, r=r)
        return array_namespace(Y).reshape(Y, X.shape)

    def backward(self, dY: Any) -> Any:
        xp, gamma = array_namespace(dY), _in_rows(self.weight["gamma"], self.shape)
        dX, dgamma = norm.rms_norm_backward(_in_rows(dY, self.shape), self.cache["X"], self.cache["r"], gamma)
        self.weight_update["gamma"] = xp.reshape(dgamma, self.shape)
        return xp.reshape(dX, dY.shape)


def _norm_shape(shape: int | tuple[int, ...], who: str) -> tuple[int, ...]:
    n = len(shape) if isinstance(shape, tuple | list) else 1
    return to_tuple(shape, max(n, 1), who, "shape", least=1)


def _check_last_axes(X_shape: tuple[int, ...], shape: tuple[int, ...], who: Any) -> None:
    """Raise ShapeError unless X ends in shape."""
    if len(X_shape) < len(shape) or tuple(X_shape[len(X_shape) - len(shape) :]) != shape:
        wanted = ", ".join(map(str, shape))
        raise ShapeError(f"{who}: X must have shape (..., {wanted}), got {tuple(X_shape)}")


def _in_rows(X: Any, shape: tuple[int, ...]) -> Any:
    """(..., *shape) -> (n, m)"""
    m = math.prod(shape)
    return array_namespace(X).reshape(X, (math.prod(X.shape) // m, m))


class GroupNorm(_SampleNorm):
    """Standardise each group of channels, sample by sample, then scale and shift each channel.

    X, Y, H: (n, c, ...)   gamma, beta: (1, c, 1, ...), kept as (c,)   mean, var, r: (n, groups), over the
    c/groups channels of a group and all their places
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta
    groups: a divisor of channels. epsilon >= 0. gamma = 1, beta = 0 at first.

    X stands in the mean and the variance too, hence three terms. With dH = gamma dY:

    dX = r (dH - mean dH - H mean(H dH))     dgamma = sum(H dY)     dbeta = sum dY, over all but the channels

    Raises ShapeError if X has other channels. Wu and He 2018, arXiv:1803.08494.

    >>> import numpy as np
    >>> GroupNorm(1, 2)(np.array([[[1.0], [3.0]]])).round(3)
    array([[[-1.],
            [ 1.]]], dtype=float32)
    """

    traceable = True

    def __init__(
        self, groups: int, channels: int, epsilon: float = 1e-5, *, dtype: Any = None, device: Any = None
    ):
        super().__init__()
        (self.groups,) = to_tuple(groups, 1, "GroupNorm", "groups", least=1)
        (self.channels,) = to_tuple(channels, 1, "GroupNorm", "channels", least=1)
        if channels % groups:
            raise ArgumentError(f"GroupNorm: groups must divide channels, got {groups} for {channels}")
        self.epsilon = _check_epsilon(epsilon, "GroupNorm")
        self._init_weights((self.channels,), dtype, device)

    def forward(self, X: Any) -> Any:
        if X.ndim < 2 or X.shape[1] != self.channels:
            raise ShapeError(
                f"{self._who()}: X must have shape (n, {self.channels}, ...), got {tuple(X.shape)}"
                f"{channels_first(X.shape, self.channels, X.ndim - 2)}"
            )
        return self._normalise(X)

    def backward(self, dY: Any) -> Any:
        return self._normalise_backward(dY)


class InstanceNorm(_SampleNorm):
    """Standardise each channel of each sample. Abstract: use InstanceNorm1D, 2D or 3D."""

    traceable = True
    rank: int

    def __init__(self, n_channels: int, epsilon: float = 1e-5, *, dtype: Any = None, device: Any = None):
        super().__init__()
        who = type(self).__name__
        (self.n_channels,) = to_tuple(n_channels, 1, who, "n_channels", least=1)
        self.groups = self.n_channels
        self.epsilon = _check_epsilon(epsilon, who)
        self._init_weights((1, self.n_channels) + (1,) * self.rank, dtype, device)

    def forward(self, X: Any) -> Any:
        _check_channels(X.shape, self.n_channels, self.rank, self)
        if math.prod(X.shape[2:]) == 1:
            raise ShapeError(
                f"{self._who()}: needs more than one value per channel and sample, got X: {tuple(X.shape)}, "
                "which would all become beta"
            )
        return self._normalise(X)

    def backward(self, dY: Any) -> Any:
        return self._normalise_backward(dY)


class InstanceNorm1D(InstanceNorm):
    """Standardise each channel of each sample over its places, then scale and shift it.

    X, Y, H: (n, c, w)   gamma, beta: (1, c, 1)   mean, var, r: (n, c), over w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta

    With dH = gamma dY: dX = r (dH - mean dH - H mean(H dH)), dgamma = sum(H dY), dbeta = sum dY.
    Arguments and errors are those of InstanceNorm2D. Ulyanov et al. 2016, arXiv:1607.08022.

    >>> import numpy as np
    >>> InstanceNorm1D(1)(np.array([[[1.0, 3.0]], [[10.0, 30.0]]])).round(3)
    array([[[-1.,  1.]],
           [[-1.,  1.]]], dtype=float32)
    """

    rank = 1


class InstanceNorm2D(InstanceNorm):
    """Standardise each channel of each sample over its places, then scale and shift it.

    X, Y, H: (n, c, h, w)   gamma, beta: (1, c, 1, 1)   mean, var, r: (n, c), over h and w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta
    epsilon >= 0. gamma = 1, beta = 0 at first; freeze them with trainable = False to do without.

    X stands in the mean and the variance too, hence three terms. With dH = gamma dY:

    dX = r (dH - mean dH - H mean(H dH))     dgamma = sum(H dY)     dbeta = sum dY, over n, h and w

    It keeps no running statistics: training and evaluation are the same.
    Raises ShapeError for other channels, and if a channel has a single value.
    Ulyanov et al. 2016, arXiv:1607.08022.

    >>> import numpy as np
    >>> InstanceNorm2D(3)(np.ones((5, 3, 4, 4))).shape
    (5, 3, 4, 4)
    """

    rank = 2


class InstanceNorm3D(InstanceNorm):
    """Standardise each channel of each sample over its places, then scale and shift it.

    X, Y, H: (n, c, d, h, w)   gamma, beta: (1, c, 1, 1, 1)   mean, var, r: (n, c), over d, h and w
    r = (var X + epsilon)^-1/2     H = (X - mean X) r     Y = gamma H + beta

    With dH = gamma dY: dX = r (dH - mean dH - H mean(H dH)), dgamma = sum(H dY), dbeta = sum dY.
    Arguments and errors are those of InstanceNorm2D. Ulyanov et al. 2016, arXiv:1607.08022.

    >>> import numpy as np
    >>> InstanceNorm3D(3)(np.ones((5, 3, 2, 4, 4))).shape
    (5, 3, 2, 4, 4)
    """

    rank = 3
