"""Normalisation."""

import numpy as np

import deepcore as dc
from tests.case import Case, normal


def standardise(X, gamma, beta, mean=None, var=None, epsilon=1e-5, axes=(0, 2, 3)):
    mean = X.mean(axis=axes, keepdims=True) if mean is None else mean
    var = ((X - mean) ** 2).mean(axis=axes, keepdims=True) if var is None else var
    return gamma * (X - mean) / np.sqrt(var + epsilon) + beta


def by_groups(X, gamma, beta, groups, epsilon=1e-5):
    """Each group of channels as images of its own, one group after the other."""
    c = X.shape[1] // groups
    gamma, beta = (w.reshape(1, X.shape[1], *(1,) * (X.ndim - 2)) for w in (gamma, beta))
    parts = [
        standardise(X[:, g : g + c], 1, 0, epsilon=epsilon, axes=tuple(range(1, X.ndim)))
        for g in range(0, X.shape[1], c)
    ]
    return gamma * np.concatenate(parts, axis=1) + beta


def rms_norm(X, gamma, axes=(-1,), epsilon=1e-5):
    return gamma * X / np.sqrt((X**2).mean(axis=axes, keepdims=True) + epsilon)


def batch_norm_with_statistics(channels: int) -> dc.BatchNorm2D:
    layer = dc.BatchNorm2D(channels)
    shape = layer.running_mean.shape
    layer.buffer["running_mean"] = dc.asarray(np.linspace(-0.5, 1, channels).reshape(shape), "float32")
    layer.buffer["running_var"] = dc.asarray(np.linspace(0.25, 2, channels).reshape(shape), "float32")
    return layer


CASES = [
    Case("BatchNorm2D", lambda: dc.BatchNorm2D(3), [normal(3, 2, 3)],
         lambda w, X: standardise(X, w["gamma"], w["beta"]), mixes=True),
    Case("BatchNorm2D epsilon", lambda: dc.BatchNorm2D(2, epsilon=0.5), [normal(2, 3, 2)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], epsilon=0.5), mixes=True),
    Case("BatchNorm2D evaluation", lambda: batch_norm_with_statistics(3), [normal(3, 2, 3)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], w["running_mean"], w["running_var"]),
         evaluation=True),
    Case("BatchNorm1D", lambda: dc.BatchNorm1D(3), [normal(3, 4)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], axes=(0, 2)), mixes=True),
    Case("BatchNorm1D evaluation, rows", lambda: dc.BatchNorm1D(3), [normal(3)],
         lambda w, X: standardise(X, *(w[name][:, :, 0] for name in
                                       ("gamma", "beta", "running_mean", "running_var"))), evaluation=True),
    Case("BatchNorm3D", lambda: dc.BatchNorm3D(2), [normal(2, 2, 1, 2)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], axes=(0, 2, 3, 4)), mixes=True),
    Case("LayerNorm", lambda: dc.LayerNorm(4), [normal(4)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], axes=(-1,))),
    Case("LayerNorm of two axes", lambda: dc.LayerNorm((3, 2), epsilon=0.5), [normal(2, 3, 2)],
         lambda w, X: standardise(X, w["gamma"], w["beta"], epsilon=0.5, axes=(-1, -2))),
    Case("RMSNorm", lambda: dc.RMSNorm(4), [normal(2, 4)], lambda w, X: rms_norm(X, w["gamma"])),
    Case("RMSNorm of two axes", lambda: dc.RMSNorm((3, 2), epsilon=0.5), [normal(3, 2)],
         lambda w, X: rms_norm(X, w["gamma"], (-1, -2), 0.5)),
    Case("GroupNorm", lambda: dc.GroupNorm(2, 4), [normal(4, 3)],
         lambda w, X: by_groups(X, w["gamma"], w["beta"], 2)),
    Case("GroupNorm of rows", lambda: dc.GroupNorm(2, 6, epsilon=0.5), [normal(6)],
         lambda w, X: by_groups(X, w["gamma"], w["beta"], 2, 0.5)),
    Case("InstanceNorm1D", lambda: dc.InstanceNorm1D(3), [normal(3, 4)],
         lambda w, X: by_groups(X, w["gamma"], w["beta"], 3)),
    Case("InstanceNorm2D", lambda: dc.InstanceNorm2D(2, epsilon=0.5), [normal(2, 2, 3)],
         lambda w, X: by_groups(X, w["gamma"], w["beta"], 2, 0.5)),
    Case("InstanceNorm3D", lambda: dc.InstanceNorm3D(2), [normal(2, 2, 2, 1)],
         lambda w, X: by_groups(X, w["gamma"], w["beta"], 2)),
]  # fmt: skip
