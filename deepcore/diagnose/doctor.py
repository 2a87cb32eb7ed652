"""What ails a net, its data, or both: each finding with its reason and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcore.backends.registry import is_array
from deepcore.backends.select import to_numpy
from deepcore.core.net import Composition
from deepcore.data.batches import Arrays
from deepcore.data.rows import Rows
from deepcore.diagnose import data_checks, net_checks
from deepcore.diagnose.findings import SEVERITIES, Diagnosis, Finding, raised
from deepcore.diagnose.watch import Call, Pass, some_rows, watched_pass
from deepcore.errors import DTypeError
from deepcore.losses import CrossEntropyLoss

_SAMPLES = 256  # that go through the net


def doctor(net: Composition, X: Any, y: Any = None) -> Diagnosis:
    """Examine the net, the data, and one pass of the one through the other.

    All of X and y are looked at; at most 256 samples, evenly spaced, go through a copy of the net, forward
    and backward, and of data.Rows no others are read. The net stays as it is. What a layer raises becomes a
    finding: the doctor itself raises nothing for a sick net or sick data.

    >>> import numpy as np
    >>> from deepcore.activations import ReLU, Softmax
    >>> from deepcore.layers.linear import Linear
    >>> net = Composition([Linear(2, 4), ReLU(), Linear(4, 2), Softmax()], CrossEntropyLoss())
    >>> X, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50) % 2
    >>> diagnosis = doctor(net, X, y)
    >>> bool(diagnosis), [finding.path for finding in diagnosis]
    (False, ['layers.3'])
    >>> print(diagnosis)
    warning: layers.3: the net's output is a softmax, and CrossEntropyLoss applies
      another
      why:    twice squashed, the loss can no longer tell a sure answer from a
              faint one: it learns slowly and stays high
      remedy: leave the softmax out: CrossEntropyLoss takes the logits
    """
    with np.errstate(all="ignore"):
        findings = list(_examine(net, X, y))
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(findings))


def _examine(net: Composition, X: Any, y: Any) -> Iterator[Finding]:
    try:
        data = Arrays(X, y)
        some_X, some_y = some_rows(data.X, data.y, _SAMPLES)
    except Exception as error:  # ragged lists, texts, two lengths, an image that is damaged
        yield raised("X", error, "the samples can't be put beside their targets")
        return
    if not data.n:
        yield Finding("error", "X", "there are no samples", "there is nothing to learn from", "pass some")
        return
    try:
        yield from net_checks.settings(net)
        yield from net_checks.weights(net)
        yield from net_checks.symmetry(net)
    except Exception as error:  # a Function inside itself, two views of one weight
        yield raised("net", error, "so the net can't be trained")
        return
    host = to_numpy(some_X if isinstance(data.X, Rows) else data.X)
    yield from data_checks.samples(host)
    seen = watched_pass(net, some_X, some_y, local=True)
    if isinstance(seen.error, DTypeError) and host.dtype.kind in "biu":
        yield data_checks.integers(host, seen.error)
        some_X = to_numpy(some_X).astype("float32") / (255 if host.max() > 1 else 1)
        seen = watched_pass(net, some_X, some_y, local=True)  # so that nothing else stays hidden
    elif host.dtype.kind == "f":
        yield from data_checks.scale(host)
    yield from _after_the_pass(seen, data)


def _after_the_pass(seen: Pass, data: Arrays) -> Iterator[Finding]:
    net, root = seen.net, seen.root
    out: Any = None if root is None else root.output
    single = is_array(out) and out.ndim > 0
    targets: list[Finding] = []
    if net.loss_fn is not None and data.y is not None and single:
        targets = list(data_checks.targets(to_numpy(data.y), tuple(out.shape), net.loss_fn))
        yield from targets
    if seen.error is not None and not (targets and seen.failed is seen.loss):  # else that is told already
        yield _failure(seen.error, seen.failed)
    if root is None:
        return
    if single and isinstance(net.loss_fn, CrossEntropyLoss):
        yield from net_checks.softmax_twice(root)
    if single:
        yield from net_checks.another_loss(root, net.loss_fn)
    yield from net_checks.linear_in_a_row(root)
    if data.n == 1 and seen.error is None:
        yield from net_checks.single_sample(net)
    strange = list(net_checks.not_finite(root, seen.loss))
    yield from strange
    if not strange and out is not None:
        yield from net_checks.dead(root)
        yield from net_checks.saturated(root)
        if seen.error is None and seen.loss is not None:
            yield from net_checks.steepness(root)


def _failure(error: Exception, call: Call | None) -> Finding:
    path = "net" if call is None else call.path or "net"
    where = "forward" if call is None or call.output is None else "backward"
    return raised(path, error, f"its {where} raised {type(error).__name__}, and training stops there")
