"""Numbers that say how good an output is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from deepcore.backends.registry import array_namespace, is_array
from deepcore.backends.select import is_floating
from deepcore.errors import ArgumentError, DTypeError
from deepcore.ops import labels as index_labels

Metric = Callable[[Any, Any], Any]


def accuracy(out: Any, y: Any) -> Any:
    """The fraction of samples whose largest output is the right class, as a 0-d array.

    out: (n, c) or (n, c, d1, ...)   y: labels (n,), (n, 1) or (n, d1, ...), or probabilities like out
    Raises ArgumentError if there is only one output, as in regression.

    >>> import numpy as np
    >>> float(accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1])))
    0.5
    """
    xp = array_namespace(out)
    if out.ndim < 2 or (out.shape[1] < 2 and is_floating(y)):
        raise ArgumentError(
            f"accuracy: wanted class labels, or probabilities of two or more classes, for an output of shape "
            f"{tuple(out.shape)}; choose other metrics for a regression"
        )
    guess = xp.argmax(out, axis=1)
    # as_index: torch compares no unsigned integers with others
    y = xp.argmax(y, axis=1) if is_floating(y) else index_labels.as_index(y)
    right = guess == xp.reshape(y, guess.shape)
    return xp.mean(xp.astype(right, xp.float32))


def class_labels(out: Any, y: Any) -> bool:
    """Whether y can be the class of each sample, as a whole number.

    Numbers of their own for each output, such as -1 and +1 or many labels a sample, are none.
    """
    if is_floating(y) or isinstance(out, tuple) or out.ndim < 2 or out.shape[1] < 2:
        return False
    return tuple(y.shape[1:]) in (tuple(out.shape[2:]), (1, *out.shape[2:]))


_NAMED: dict[str, Metric] = {"accuracy": accuracy}
_TAKEN = ("loss", "lr", "epoch", "step")  # names of other numbers in a history, or in a log of it


def named_metrics(
    metrics: Iterable[str | Metric] | Mapping[str, str | Metric] | None,
) -> dict[str, Metric] | None:
    """Name -> metric. None stays: it means accuracy if the targets are class labels, else no metric.

    Raises ArgumentError for an unknown name, two metrics of one name, and a name that another number has.
    """
    if metrics is None:
        return None
    if callable(metrics) or isinstance(metrics, str):
        metrics = [metrics]
    if not isinstance(metrics, Iterable):
        raise ArgumentError(f"metrics: wanted functions (out, y) -> mean, or names, got {metrics!r}")
    named = (
        metrics.items() if isinstance(metrics, Mapping) else ((_name(metric), metric) for metric in metrics)
    )
    chosen: dict[str, Metric] = {}
    for name, metric in named:
        if not callable(metric) and metric not in _NAMED:
            raise ArgumentError(f"metrics: wanted a function or one of {', '.join(_NAMED)}, got {metric!r}")
        if name in chosen or name in _TAKEN or str(name).startswith("val_"):
            fault = "two of them are called" if name in chosen else "no metric can be called"
            raise ArgumentError(
                f"metrics: {fault} {name!r}; name them in a dict: metrics={{'worst': function}}"
            )
        chosen[str(name)] = metric if callable(metric) else _NAMED[metric]
    return chosen


def default_metrics(out: Any, y: Any) -> dict[str, Metric]:
    """Accuracy if y are class labels."""
    return dict(_NAMED) if class_labels(out, y) else {}


def one_number(name: str, value: Any) -> Any:
    """What a metric has returned. Raises DTypeError unless it is a single number."""
    if getattr(value, "ndim", 0) or not (is_array(value) or isinstance(value, int | float | np.generic)):
        got = f"an array of shape {tuple(value.shape)}" if is_array(value) else repr(value)
        raise DTypeError(f"metrics: {name} must return one number for a batch, its mean, got {got:.100}")
    return value


def _name(metric: Any) -> str:
    return metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
