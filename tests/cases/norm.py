"""Normalisation."""

import numpy as np

import deepcore as dc
from tests.case import Case, normal


def standardise(X, gamma, beta, mean=None, var=None, epsilon=1e-5):
    axes = (0, 2, 3)
    mean = X.mean(axis=axes, keepdims=True) if mean is None else mean
    var = ((X - mean) ** 2).mean(axis=axes, keepdims=True) if var is None else var
    return gamma * (X - mean) / np.sqrt(var + epsilon) + beta


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
]  # fmt: skip
