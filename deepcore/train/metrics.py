"""Numbers that say how good an output is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from deepcore.backends.registry import array_namespace
from deepcore.backends.select import is_floating
from deepcore.errors import ArgumentError
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


def named_metrics(
    metrics: Iterable[str | Metric] | Mapping[str, Metric] | None, labels: bool
) -> dict[str, Metric]:
    """Name -> metric. None: accuracy if the targets are class labels, else no metric.

    Raises ArgumentError for an unknown name.
    """
    if metrics is None:
        return dict(_NAMED) if labels else {}
    if callable(metrics):
        metrics = [metrics]
    if isinstance(metrics, Mapping):
        return {str(name): metric for name, metric in metrics.items()}
    chosen: dict[str, Metric] = {}
    for metric in [metrics] if isinstance(metrics, str) else metrics:
        if not isinstance(metric, str):
            chosen[getattr(metric, "__name__", repr(metric))] = metric
        elif metric in _NAMED:
            chosen[metric] = _NAMED[metric]
        else:
            raise ArgumentError(f"metrics: wanted a function or one of {', '.join(_NAMED)}, got {metric!r}")
    return chosen
