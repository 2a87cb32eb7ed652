"""What can ail a net: by itself, and in one pass of samples through it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepcore.activations import Sigmoid, Softmax, Tanh
from deepcore.backends.registry import is_array
from deepcore.backends.select import is_floating, to_numpy
from deepcore.core.net import Composition
from deepcore.core.parameters import find_parameters, functions, walk
from deepcore.diagnose.findings import Finding
from deepcore.diagnose.watch import Call
from deepcore.layers.conv import Conv
from deepcore.layers.dropout import Dropout
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm
from deepcore.layers.shape import Flatten
from deepcore.losses import BCELoss, BCEWithLogitsLoss, NLLLoss

_ENOUGH = 8  # samples: with fewer, a unit that is off for each of them means nothing
_DEAD = 0.5  # share of a layer's units; fewer die in many a net that learns well
_SATURATED = 0.5  # share of the values of a sigmoid or tanh that are flat,
_FLAT = 0.01  # that is, whose derivative is below this
_STEEP = 1e3  # between the gradients of the last and the first layer


# ---- the net by itself


def settings(net: Composition) -> Iterator[Finding]:
    """A loss that is missing, and the mode."""
    if net.loss_fn is None:
        yield Finding(
            "note",
            "net",
            "the net has no loss",
            "fit, evaluate and backward() need one",
            "make it with Net(layers, loss=CrossEntropyLoss()), or go on with backward(dY)",
        )
    if not net.training:
        yield Finding(
            "note",
            "net",
            "the net is in evaluation mode",
            "in a loop of your own Dropout drops nothing and BatchNorm learns no statistics (fit switches)",
            "call net.train() before training",
        )


def weights(net: Composition) -> Iterator[Finding]:
    """Those that are no numbers."""
    for path, parameter in find_parameters(net).items():
        W = to_numpy(parameter.value)
        if W.dtype.kind == "f" and not np.isfinite(W).all():
            yield Finding(
                "error",
                path,
                f"{(~np.isfinite(W)).sum()} of {W.size} weights are NaN or infinite",
                "every output that they reach is too",
                "load or make the weights anew; if training did it, lower the learning rate or clip_norm",
            )


def symmetry(net: Composition) -> Iterator[Finding]:
    """Hidden layers all of whose units have the same weights."""
    hidden = [(path, f) for path, f, _ in walk(net) if isinstance(f, Linear | Conv)][:-1]
    for path, f in hidden:  # the targets tell the units of the last one apart
        W = np.moveaxis(to_numpy(f.weight["W"]), 1 if isinstance(f, Linear) else 0, 0)
        if len(W) > 1 and (W[:1] == W).all():
            yield Finding(
                "error",
                path,
                f"all {len(W)} units have the same weights",
                "they get the same gradients too, and stay copies of one unit for ever",
                'draw them at random: leave init= out, or init="he_normal"',
            )


# ---- one pass


def softmax_twice(root: Call) -> Iterator[Finding]:
    """An output that is a softmax already: each row sums to 1, or those of its exponential do."""
    output: Any = root.output
    out = to_numpy(output).astype("float64")
    if out.ndim < 2 or out.shape[1] < 2 or not out.size or not np.isfinite(out).all():
        return
    last = [call for call in root.leaves() if call.output is output]
    path = last[-1].path if last else "net"
    known = bool(last) and isinstance(last[-1].function, Softmax)
    several = out.size >= 4 * out.shape[1]  # a few rows may sum to 1 by chance
    if known or (several and (out >= 0).all() and np.allclose(out.sum(axis=1), 1, atol=1e-3)):
        yield Finding(
            "warning",
            path,
            "the net's output is a softmax, and CrossEntropyLoss applies another",
            "twice squashed, the loss can no longer tell a sure answer from a faint one: it learns slowly "
            "and stays high",
            "leave the softmax out: CrossEntropyLoss takes the logits",
        )
    elif several and (out <= 0).all() and np.allclose(np.exp(out).sum(axis=1), 1, atol=1e-3):
        yield Finding(
            "note",
            path,
            "the net's output is a log-softmax, and CrossEntropyLoss applies another",
            "the second changes nothing, and costs its time",
            "leave the log-softmax out, or take NLLLoss",
        )


def another_loss(root: Call, loss_fn: Any) -> Iterator[Finding]:
    """An output in another form than the loss takes: probabilities for logits, or the other way round."""
    output: Any = root.output
    last = [call for call in root.leaves() if call.output is output]
    f, path = (last[-1].function, last[-1].path) if last else (None, "net")
    if isinstance(loss_fn, BCEWithLogitsLoss) and isinstance(f, Sigmoid):
        yield Finding(
            "warning",
            path,
            "the net's output is a sigmoid, and BCEWithLogitsLoss applies another",
            "twice squashed, a probability stays between 0.5 and 0.73: it learns slowly and stays high",
            "leave the sigmoid out: BCEWithLogitsLoss takes the logits",
        )
    elif isinstance(loss_fn, NLLLoss) and isinstance(f, Softmax):
        yield Finding(
            "error",
            path,
            "the net's output is a softmax, and NLLLoss takes the logarithms of probabilities",
            "without the logarithm a sure mistake costs hardly more than a faint one",
            "put LogSoftmax() in its place, or take CrossEntropyLoss of the layer before",
        )
    elif isinstance(loss_fn, BCELoss) and not isinstance(loss_fn, BCEWithLogitsLoss):
        out = to_numpy(output)
        if np.isfinite(out).all() and not ((out >= 0) & (out <= 1)).all():
            yield Finding(
                "error",
                path,
                f"BCELoss takes probabilities, and the net gives {out.min():.4g} to {out.max():.4g}",
                "the logarithm of a negative number is NaN, and so is then every weight",
                "take BCEWithLogitsLoss, or end the net with Sigmoid()",
            )


def linear_in_a_row(root: Call) -> Iterator[Finding]:
    """Linear maps with no bend between them."""
    before: Call | None = None  # the linear map that the current array comes from
    array: Any = None
    for call in root.leaves():
        f = call.function
        joined = before is not None and len(call.inputs) == 1 and call.inputs[0] is array
        if _is_linear(f):
            if joined and before is not None:
                yield Finding(
                    "warning",
                    call.path,
                    f"{f._who()} follows {before.path}, {before.function._who()}, with nothing between",
                    "two linear maps in a row are one linear map: the second adds weights, but no power",
                    "put an activation between them, such as ReLU(), or leave one out",
                )
            before, array = call, call.output
        elif joined and isinstance(f, Flatten | Dropout):
            array = call.output
        else:
            before = None


def _is_linear(f: Any) -> bool:
    return isinstance(f, Linear) or (isinstance(f, Conv) and f.groups == 1)


def single_sample(net: Composition) -> Iterator[Finding]:
    """A batch of one for a BatchNorm in training, which the caller has seen."""
    if any(isinstance(f, BatchNorm) and f.training for f in functions(net)):
        yield Finding(
            "warning",
            "X",
            "a batch of 1 sample goes through a BatchNorm in training mode",
            "it is standardised by itself alone, which tells nothing of how it differs from others",
            "train on batches of 8 or more, and predict in evaluation mode: net.predict(X), or net.eval()",
        )


def not_finite(root: Call, loss: Call | None) -> Iterator[Finding]:
    """The first layer that makes NaN or inf, forward; if none does, backward."""
    calls = [*root.leaves(), *([loss] if loss is not None else [])]
    for call in calls:
        kind = _strange(call.outputs)
        if kind is None:
            continue
        weights = [name for name, W in call.function._weights.items() if _strange((W,))]
        if any(_strange((x,)) for x in call.inputs):
            why = "its input holds such numbers already" + (": they come from X" if call is calls[0] else "")
            remedy = "mend y" if call is loss else "mend X"
        elif weights:
            why, remedy = f"its weight {weights[0]} holds such numbers", "make or load the weights anew"
        else:
            why = f"its input is finite, at most {_largest(call.inputs):.3g} in size: the numbers arise here"
            remedy = "scale its input down, or keep divisors and arguments of logarithms away from 0"
        what = f"{call.function._who()} is the first whose output holds {kind}"
        yield Finding("error", call.path, what, why, remedy)
        return
    for call in reversed(calls):
        if _strange(call.dX) is not None and _strange(call.dY) is None:
            yield Finding(
                "error",
                call.path,
                f"{call.function._who()} is the first whose gradient dX holds {_strange(call.dX)}",
                "forward is finite, but its derivative is not: the next update makes the weights NaN",
                "look at its backward where a division by 0, or the root or logarithm of 0, could hide",
            )
            return


def _strange(arrays: tuple[Any, ...]) -> str | None:
    """What one of the arrays holds that is no number: "NaN", "inf", or None."""
    found = None
    for x in arrays:
        if is_array(x) and is_floating(x):
            host = to_numpy(x)
            if np.isnan(host).any():
                return "NaN"
            if np.isinf(host).any():
                found = "inf"
    return found


def _largest(arrays: tuple[Any, ...]) -> float:
    hosts = [to_numpy(x) for x in arrays if is_array(x)]
    return max((float(np.abs(host).max()) for host in hosts if host.size), default=0.0)


def dead(root: Call) -> Iterator[Finding]:
    """Units whose derivative is 0 for every sample, so that no gradient ever passes them."""
    for call in root.leaves():
        factor = _elementwise_factor(call)
        if factor is None or len(factor) < _ENOUGH or isinstance(call.function, Dropout):
            continue
        X = to_numpy(call.inputs[0])
        if (X[:1] == X).all():  # one sample, again and again
            continue
        dead = (_units(factor) == 0).all(axis=0)
        if dead.mean() > _DEAD:
            yield Finding(
                "error" if dead.all() else "warning",
                call.path,
                f"{dead.sum()} of {dead.size} units of {call.function._who()} are dead: "
                f"flat for each of {len(factor)} samples",
                "where the derivative is 0 no gradient passes, and a unit that is off for all stays off",
                "lower the learning rate, look for a large negative bias before it, or take LeakyReLU()",
            )


def saturated(root: Call) -> Iterator[Finding]:
    """Sigmoids and tanhs most of whose values are at the flat ends."""
    for call in root.leaves():
        if not isinstance(call.function, Sigmoid | Tanh):
            continue
        factor = _elementwise_factor(call)
        if factor is None or not factor.size:
            continue
        share = float((factor < _FLAT).mean())
        if share > _SATURATED:
            yield Finding(
                "warning",
                call.path,
                f"{share:.0%} of the values of {call.function._who()} are saturated",
                f"at its ends the derivative is below {_FLAT}, and hardly a gradient passes",
                "scale the inputs or the weights before it down, or put a BatchNorm before it",
            )


def _elementwise_factor(call: Call) -> np.ndarray | None:
    """The local gradient of an elementwise function of one array."""
    if not isinstance(call.local, dict) or call.function._weights or len(call.inputs) != 1:
        return None
    factor: Any = next(iter(call.local.values()), None)
    alike = (call.inputs[0], factor, call.output)
    if not all(map(is_array, alike)) or len({tuple(x.shape) for x in alike}) > 1 or factor.ndim < 2:
        return None
    return to_numpy(factor)


def _units(x: np.ndarray) -> np.ndarray:
    """(n, c) -> itself; (n, c, h, w) -> (n h w, c)"""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def steepness(root: Call) -> Iterator[Finding]:
    """How the gradient grows or fades on its way from the last layer with weights to the first."""
    weighted = [
        call for call in root.walk() if call.function._has_weights and call.dY and is_array(call.dY[0])
    ]
    if len(weighted) < 2:
        return
    first, last = weighted[0], weighted[-1]
    low, high = (float(np.linalg.norm(to_numpy(c.dY[0]).astype("float64"))) for c in (first, last))
    if high == 0 or not math.isfinite(low / high):
        return
    course = f"|dL/dY| is {high:.2g} at {last.path}, but {low:.2g} at {first.path}"
    if low < high / _STEEP:
        yield Finding(
            "warning",
            first.path,
            f"the gradient {'vanishes' if low else 'is 0'}: {course}",
            "the first layers hardly learn, whatever the rate",
            'take ReLU() for Sigmoid() and Tanh(), init="he_normal", BatchNorm or Residual connections',
        )
    elif low > high * _STEEP:
        yield Finding(
            "warning",
            first.path,
            f"the gradient explodes: {course}",
            "a step that suits the last layers throws the first ones far off",
            "make the initial weights smaller (leave init= out), add BatchNorm, or train with clip_norm=1",
        )
