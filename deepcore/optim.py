"""Optimizers: how gradients move the weights."""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from deepcore.backends.quiet import quietly
from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import put, to_numpy
from deepcore.core.function import Function
from deepcore.core.layer import check_rate
from deepcore.core.parameters import Changes, Parameter, find_parameters, new_weights
from deepcore.errors import ArgumentError, DTypeError, StateError
from deepcore.ops import update


class Optimizer:
    """Moves the weights of one net, after each backward. Abstract: use SGD, Adam, AdamW or another one.

    lr: the learning rate; may be set between steps.
    overrides: other settings for some weights, by a pattern of their paths, such as
    {"*.b": {"weight_decay": 0}, "layers.0.*": {"lr": 1e-4}}; of several that match, the last counts.
    state: path -> what the rule remembers of that weight, and its number of steps.

    A weight that got no gradient in the last pass stays as it is, its state too. A Layer that overrides
    `_update_weights` uses that rule, with this learning rate.

    What a step changes becomes current at once, or, if it fails or is interrupted, not at all. An array that
    somebody holds, or a view of it, keeps its numbers; one that only the net or this optimizer holds may be
    overwritten (SGD, Adam and AdamW on NumPy with numba; in `fit`, for elsewhere the record of a call holds
    them). So no other thread may use the net meanwhile.
    """

    def __init__(self, *, overrides: dict[str, dict[str, Any]] | None = None, **settings: Any):
        self.settings = _plain(settings)
        self.overrides = {
            pattern: _plain(changed) for pattern, changed in self._checked(overrides or {}).items()
        }
        self.state: dict[str, dict[str, Any]] = {}
        self.progress = {"steps": 0}
        self._net: weakref.ref[Function] | None = None
        self._check(self.settings)
        for pattern, changed in self.overrides.items():
            unknown = sorted(set(changed) - set(settings))
            if unknown:
                raise ArgumentError(
                    f"{type(self).__name__}: overrides[{pattern!r}] has no setting {unknown[0]!r}; "
                    f"choose from {', '.join(settings)}"
                )
            self._check(self.settings | changed)

    def _checked(self, overrides: Any) -> Any:
        """The overrides themselves. Raises DTypeError unless they are a dict of dicts."""
        wrong = [overrides] if not isinstance(overrides, Mapping) else overrides.values()
        if any(not isinstance(changed, Mapping) for changed in wrong):
            raise DTypeError(
                f"{type(self).__name__}: overrides must be a dict, pattern -> dict of settings, such as "
                f'{{"*.b": {{"lr": 0.1}}}}, got {overrides!r}'
            )
        return overrides

    def _check(self, settings: dict[str, Any]) -> None:
        """Raise ArgumentError for a setting out of its range."""
        check_rate(settings["lr"], type(self).__name__)
        _check_range(self, settings, "weight_decay", 0, math.inf)

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.settings["lr"]

    @lr.setter
    def lr(self, rate: float) -> None:
        self.settings["lr"] = check_rate(rate, type(self).__name__)

    @property
    def steps(self) -> int:
        """How many steps have been made."""
        return self.progress["steps"]

    def step(self, net: Function) -> None:
        """Move every trainable weight that the last backward gave a gradient, all at once.

        Raises StateError before backward, and for another net than that of the first step.
        """
        self.changes(net).commit()

    @quietly
    def changes(self, net: Function, scale: Any = None, numbers: Any = None) -> Changes:
        """What `step` would change, not yet committed.

        scale: a factor for all gradients.   numbers: path -> what `numbers` gives, as 0-d arrays: a compiled
        step passes them in, because a Python number would stay what it was when the step was compiled.
        """
        self.check_net(net)
        new_state: dict[str, Any] = {}

        def rule(parameter: Parameter, W: Any, dW: Any, **offer: Any) -> Any:
            path = parameter.path
            given = self.numbers(path) if numbers is None else numbers[path]
            if offer and path in self.state and not backend_of(W).unheld(self.state, path):
                offer = {}
            W, memory = self._rule(W, dW, self.memory(path, W), given, self.settings_of(path), **offer)
            new_state[path] = {"step": self.steps_of(path) + 1, **memory}
            return W

        changes = new_weights(net, rule, self.lr, scale, overwrites=_takes_later(type(self)._rule))
        changes.set(self.state, new_state)
        changes.set(self.progress, {"steps": self.steps + 1})
        self.bind(net)
        return changes

    def bind(self, net: Function) -> None:
        """From now on, refuse other nets."""
        self._net = weakref.ref(net)

    def restore(self, net: Function, state: Mapping[str, Mapping[str, Any]], steps: int) -> None:
        """Go on where another optimizer of this class stood: its state for each weight, and its steps.

        Raises StateError for another net than that of the first step, or a weight that the net doesn't have.
        """
        self.check_net(net)
        weights = find_parameters(net)
        for path, entries in state.items():
            names, known = set(entries) - {"step"}, set()
            if path in weights:
                known = set(self._remembers(self.settings_of(path), weights[path].value))
            if path not in weights or not names <= known:
                raise StateError(
                    f"{type(self).__name__}: the state of {path}, {sorted(names)}, has no place here"
                )
        restored = {
            path: {
                name: x if name == "step" else _beside(weights[path].value, x) for name, x in entries.items()
            }
            for path, entries in state.items()
        }
        changes = Changes()
        changes.set(vars(self), {"state": restored, "progress": {"steps": steps}})
        changes.commit()
        self.bind(net)

    def check_net(self, net: Function) -> None:
        """Raise StateError for another net than that of the first step.

        Before that step, ArgumentError for an override that matches no weight: most likely a slip.
        """
        if not isinstance(net, Function):
            raise DTypeError(
                f"{type(self).__name__}.step: wanted the net whose weights it moves, got {net!r}; "
                "call optimizer.step(net) after net.backward()"
            )
        if self._net is not None:
            if self._net() is not net:
                raise StateError(
                    f"{type(self).__name__} belongs to another net, whose state it holds; "
                    "make a new optimizer for this one"
                )
            return
        paths = find_parameters(net)
        for pattern in self.overrides:
            if not any(fnmatchcase(path, pattern) for path in paths):
                raise ArgumentError(
                    f"{type(self).__name__}: overrides[{pattern!r}] matches no weight; the paths are "
                    f"{', '.join(list(paths)[:6])}{', ...' if len(paths) > 6 else ''}"
                )

    def steps_of(self, path: str) -> int:
        """How often the weight at this path has moved."""
        return self.state[path]["step"] if path in self.state else 0

    def memory(self, path: str, W: Any) -> dict[str, Any]:
        """What the rule remembers of the weight W at this path, beside it; zeros at first.

        Raises StateError if it is of another shape.
        """
        state = self.state.get(path, {})
        memory = {}
        for name in self._remembers(self.settings_of(path), W):
            memory[name] = value = _beside(W, state[name]) if name in state else _zeros_like(W)
            if value.shape != W.shape:
                raise StateError(
                    f"{type(self).__name__}: its state for {path} is of another shape than the weight "
                    f"{tuple(W.shape)}; make a new optimizer after changing the net"
                )
        return memory

    def numbers(self, path: str) -> dict[str, float]:
        """What differs from step to step in the rule for the weight at this path, for the coming step."""
        return self._numbers(self.settings_of(path), self.steps_of(path) + 1)

    def settings_of(self, path: str) -> dict[str, Any]:
        """The settings for the weight at this path."""
        settings = self.settings
        for pattern, changed in self.overrides.items():
            if fnmatchcase(path, pattern):
                settings = settings | changed
        return settings

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        """The names of the arrays, of the shape of the weight W, that the rule keeps from step to step."""
        raise NotImplementedError

    def _numbers(self, settings: dict[str, Any], t: int) -> dict[str, float]:
        """By name, what the rule needs to know of step t = 1, 2, ... of a weight."""
        return {"lr": settings["lr"]}

    def _rule(
        self, W: Any, dW: Any, memory: dict[str, Any], numbers: dict[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """The new weight and memory. What depends on lr or on the step comes from `numbers`."""
        raise NotImplementedError

    def __copy__(self) -> Optimizer:
        """Bound to no net yet; of the same arrays."""
        clone = type(self).__new__(type(self))
        vars(clone).update(vars(self), _net=None)
        return clone

    def __getstate__(self) -> dict[str, Any]:
        """Its arrays become NumPy's, so that they open everywhere; the next step puts them beside the net."""
        state = {
            path: {name: to_numpy(x) if is_array(x) else x for name, x in entries.items()}
            for path, entries in self.state.items()
        }
        return vars(self) | {"_net": None, "state": state}

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return f"{type(self).__name__}({shown})"


class SGD(Optimizer):
    """Gradient descent: W <- W - lr V, with the velocity V <- momentum V + dW.

    nesterov: W <- W - lr (dW + momentum V). weight_decay: adds weight_decay W to dW.
    Sutskever et al. 2013.

    >>> SGD(lr=0.1, momentum=0.9).lr
    0.1
    """

    def __init__(
        self,
        lr: float = 0.01,
        momentum: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(
            lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay, overrides=overrides
        )

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_range(self, settings, "momentum", 0, math.inf)
        if settings["nesterov"] and not settings["momentum"]:
            raise ArgumentError("SGD: nesterov needs a momentum above 0")

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        return ("V",) if settings["momentum"] else ()

    def _rule(
        self,
        W: Any,
        dW: Any,
        memory: dict[str, Any],
        numbers: dict[str, Any],
        settings: dict[str, Any],
        later: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        W, V = update.sgd(W, dW, memory.get("V"), **(settings | numbers), later=later)
        return W, {} if V is None else {"V": V}


class Adam(Optimizer):
    """Each weight's step is scaled by the size that its gradients have had.

    M <- b1 M + (1 - b1) dW     V <- b2 V + (1 - b2) dW^2     (running means of dW and of its square)
    W <- W - lr M^ / (sqrt V^ + eps)     M^ = M / (1 - b1^t), V^ = V / (1 - b2^t)

    The hats undo the bias towards the zeros that M and V start from; t counts this weight's steps.
    weight_decay: adds weight_decay W to dW. Kingma and Ba 2015, arXiv:1412.6980.

    >>> Adam()
    Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0)
    """

    _decoupled = False

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, overrides=overrides)

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_range(self, settings, "eps", 0, math.inf)
        _check_betas(self, settings["betas"])

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        return ("M", "V")

    def _numbers(self, settings: dict[str, Any], t: int) -> dict[str, float]:
        numbers = _debiasing(settings, t)
        return numbers | _decay(settings) if self._decoupled else numbers

    def _rule(
        self,
        W: Any,
        dW: Any,
        memory: dict[str, Any],
        numbers: dict[str, Any],
        settings: dict[str, Any],
        later: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        rest = {"betas": settings["betas"], "eps": settings["eps"]}
        decay = 0 if self._decoupled else settings["weight_decay"]
        W, M, V = update.adam(W, dW, **memory, **numbers, **rest, weight_decay=decay, later=later)
        return W, {"M": M, "V": V}


class AdamW(Adam):
    """Adam with the decay apart from the gradient: W <- (1 - lr weight_decay) W, then Adam's step.

    Loshchilov and Hutter 2019, arXiv:1711.05101.

    >>> AdamW()
    AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01)
    """

    _decoupled = True

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(lr, betas, eps, weight_decay, overrides=overrides)


class RMSprop(Optimizer):
    """Each weight's step is scaled by the size that its gradients have had lately.

    V <- a V + (1 - a) dW^2     W <- W - lr B     B <- momentum B + dW / (sqrt V + eps)

    centered: sqrt(V - M^2) in place of sqrt V, with M <- a M + (1 - a) dW: the variance of the gradients.
    weight_decay: adds weight_decay W to dW. a = alpha, 0 <= alpha <= 1. Tieleman and Hinton 2012.

    >>> RMSprop()
    RMSprop(lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0, momentum=0, centered=False)
    """

    def __init__(
        self,
        lr: float = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            overrides=overrides,
        )

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_range(self, settings, "eps", 0, math.inf)
        _check_range(self, settings, "momentum", 0, math.inf)
        if not isinstance(settings["alpha"], int | float) or not 0 <= settings["alpha"] <= 1:
            raise ArgumentError(f"RMSprop: alpha must be a number 0 <= alpha <= 1, got {settings['alpha']}")

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        names = {"V": True, "M": settings["centered"], "B": settings["momentum"]}
        return tuple(name for name, wanted in names.items() if wanted)

    def _rule(
        self, W: Any, dW: Any, memory: dict[str, Any], numbers: dict[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        rest = {name: settings[name] for name in ("alpha", "eps", "weight_decay", "momentum")}
        W, V, M, B = update.rmsprop(W, dW, memory["V"], memory.get("M"), memory.get("B"), **numbers, **rest)
        new = {"V": V, "M": M, "B": B}
        return W, {name: new[name] for name in memory}


class Adagrad(Optimizer):
    """Each weight's step is scaled by the size that its gradients have had since the start.

    S <- S + dW^2     W <- W - lr / (1 + (t - 1) lr_decay) dW / (sqrt(S0 + S) + eps)

    S starts from 0; S0 = initial_accumulator_value; t counts this weight's steps.
    weight_decay: adds weight_decay W to dW. Duchi et al. 2011.

    >>> Adagrad()
    Adagrad(lr=0.01, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10)
    """

    def __init__(
        self,
        lr: float = 0.01,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            overrides=overrides,
        )

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        for name in ("lr_decay", "initial_accumulator_value", "eps"):
            _check_range(self, settings, name, 0, math.inf)

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        return ("S",)

    def _numbers(self, settings: dict[str, Any], t: int) -> dict[str, float]:
        return {"lr": settings["lr"] / (1 + (t - 1) * settings["lr_decay"])}

    def _rule(
        self, W: Any, dW: Any, memory: dict[str, Any], numbers: dict[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        start, rest = settings["initial_accumulator_value"], (settings["eps"], settings["weight_decay"])
        W, S = update.adagrad(W, dW, memory["S"], numbers["lr"], start, *rest)
        return W, {"S": S}


class Lion(Optimizer):
    """Every number of a weight moves by the same lr: only the sign of a mean of gradients counts.

    W <- (1 - lr weight_decay) W - lr sign(b1 M + (1 - b1) dW)     M <- b2 M + (1 - b2) dW

    lr: about a tenth of Adam's.   weight_decay: about ten times AdamW's. Chen et al. 2023, arXiv:2302.06675.

    >>> Lion()
    Lion(lr=0.0001, betas=(0.9, 0.99), weight_decay=0)
    """

    def __init__(
        self,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(lr=lr, betas=betas, weight_decay=weight_decay, overrides=overrides)

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_betas(self, settings["betas"])

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        return ("M",)

    def _numbers(self, settings: dict[str, Any], t: int) -> dict[str, float]:
        return {"lr": settings["lr"]} | _decay(settings)

    def _rule(
        self, W: Any, dW: Any, memory: dict[str, Any], numbers: dict[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        W, M = update.lion(W, dW, memory["M"], betas=settings["betas"], **numbers)
        return W, {"M": M}


class Muon(Optimizer):
    """A matrix moves along its momentum with all singular values made nearly equal; the rest as by AdamW.

    M <- momentum M + (1 - momentum) dW     U = momentum M + (1 - momentum) dW, or M without nesterov
    W <- (1 - lr weight_decay) W - lr s O     O = near the closest orthogonal matrix to U

    O comes of ns_steps of Newton and Schulz, X <- a X + (b X X^T + c (X X^T)^2) X, a b c = ns_coefficients,
    from X = U / max(|U|, eps): each singular value x of X becomes a x + b x^3 + c x^5 while its vectors stay.

    adjust_lr_fn: None or "original": s = sqrt(max(1, r / c)); "match_rms_adamw": s = 0.2 sqrt(max(r, c)),
    with which a rate that suits AdamW suits it too. r, c: rows and columns of the array as it stands, as in
    torch, whose Linear stores W^T.

    Only a matrix has singular values: a bias, a kernel of a convolution, whatever has not two axes longer
    than 1, gets AdamW's rule with the same lr and weight_decay and these betas. So does a weight with
    ns_steps=0, as an embedding or a last layer should have: overrides={"layers.0.W": {"ns_steps": 0}}.
    Jordan et al. 2024, kellerjordan.github.io/posts/muon.

    >>> Muon(lr=0.02).settings["momentum"]
    0.95
    """

    def __init__(
        self,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        overrides: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
            betas=betas,
            overrides=overrides,
        )

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        _check_range(self, settings, "momentum", 0, math.inf)
        _check_range(self, settings, "eps", 0, math.inf)
        _check_betas(self, settings["betas"])
        coefficients, steps, adjust = (settings[k] for k in ("ns_coefficients", "ns_steps", "adjust_lr_fn"))
        numbers = coefficients if isinstance(coefficients, tuple) else ()
        if len(numbers) != 3 or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise ArgumentError(f"Muon: ns_coefficients must be three finite numbers, got {coefficients}")
        if type(steps) is not int or not 0 <= steps < 100:
            raise ArgumentError(f"Muon: ns_steps must be a whole number, 0 to 99, got {steps}")
        if adjust not in (None, "original", "match_rms_adamw"):
            raise ArgumentError(
                f'Muon: adjust_lr_fn must be None, "original" or "match_rms_adamw", got {adjust!r}'
            )

    def _orthogonal(self, settings: dict[str, Any], W: Any) -> bool:
        return settings["ns_steps"] > 0 and W.ndim == 2 and min(W.shape) > 1

    def _remembers(self, settings: dict[str, Any], W: Any) -> tuple[str, ...]:
        return ("M",) if self._orthogonal(settings, W) else ("M", "V")

    def _numbers(self, settings: dict[str, Any], t: int) -> dict[str, float]:
        return {"lr": settings["lr"]} | _decay(settings) | _debiasing(settings, t)

    def _rule(
        self, W: Any, dW: Any, memory: dict[str, Any], numbers: dict[str, Any], settings: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        if not self._orthogonal(settings, W):
            rest = {name: numbers[name] for name in ("rate", "root", "keep")}
            W, M, V = update.adam(
                W, dW, **memory, **rest, betas=settings["betas"], eps=_ADAM_EPS, weight_decay=0
            )
            return W, {"M": M, "V": V}
        r, c = W.shape
        wide = settings["adjust_lr_fn"] == "match_rms_adamw"
        s = 0.2 * math.sqrt(max(r, c)) if wide else math.sqrt(max(1, r / c))
        rest = {k: settings[k] for k in ("momentum", "nesterov", "ns_coefficients", "eps", "ns_steps")}
        W, M = update.muon(W, dW, memory["M"], numbers["lr"], numbers["keep"], s, **rest)
        return W, {"M": M}


_ADAM_EPS = 1e-8


def _debiasing(settings: dict[str, Any], t: int) -> dict[str, float]:
    """What undoes, at step t of a weight, the bias of Adam's means towards the zeros that they start from."""
    b1, b2 = settings["betas"]
    return {"rate": settings["lr"] / (1 - b1**t), "root": math.sqrt(1 - b2**t)}


def _decay(settings: dict[str, Any]) -> dict[str, float]:
    """What a weight is multiplied with if its decay is apart from its gradient."""
    return {"keep": 1 - settings["lr"] * settings["weight_decay"]}


def _check_betas(optimizer: Optimizer, betas: Any) -> None:
    good = isinstance(betas, tuple) and len(betas) == 2
    if not good or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in betas):
        raise ArgumentError(
            f"{type(optimizer).__name__}: betas must be two numbers 0 <= beta < 1, got {betas}"
        )


def _check_range(optimizer: Optimizer, settings: dict[str, Any], name: str, low: float, high: float) -> None:
    if not isinstance(settings[name], int | float) or not low <= settings[name] < high:
        raise ArgumentError(
            f"{type(optimizer).__name__}: {name} must be a finite number, {low} or more, got {settings[name]}"
        )


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings as Python numbers: a NumPy float64 would widen the arrays that it meets."""
    return {
        name: tuple(map(_plain_number, value)) if isinstance(value, tuple | list) else _plain_number(value)
        for name, value in settings.items()
    }


def _plain_number(value: Any) -> Any:
    try:
        return value if type(value) in (bool, int) else float(value)
    except (TypeError, ValueError):
        return value  # for _check to refuse


@functools.lru_cache(maxsize=64)
def _takes_later(rule: Any) -> bool:
    """Whether a rule may put off what overwrites arrays, as its signature says."""
    return "later" in inspect.signature(rule).parameters


def _zeros_like(W: Any) -> Any:
    return array_namespace(W).zeros_like(W)


def _beside(W: Any, value: Any) -> Any:
    """An array of the optimizer's state where W lives: the net may have moved since the last step."""
    if type(value) is type(W):
        return value
    backend = backend_of(W)
    return put(value, backend, device=backend.device(W))
