"""Schedules: the learning rate as a function of the step, for `fit(schedule=...)`.

A schedule is called with the number of steps made so far, 0 before the first. Those here are frozen
dataclasses, so that a checkpoint can hold them; any function step -> rate will do as well.

    fit(..., schedule=schedules.warmup_cosine(rate=3e-4, warmup=100, steps=2000))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from deepcore.core.layer import check_rate
from deepcore.errors import ArgumentError


class Schedule:
    """step -> rate. Abstract: a frozen dataclass whose fields are checked by their names.

    rate, final: learning rates, finite and not negative.   steps, warmup, step_size: whole numbers.
    """

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            object.__setattr__(self, name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        who = type(self).__name__
        if name in ("rate", "final"):
            try:
                return check_rate(value, who)
            except ArgumentError:
                raise ArgumentError(
                    f"{who}: {name} must be a finite number, 0 or more, got {value!r}"
                ) from None
        if name in ("steps", "step_size", "warmup"):
            least = 0 if name == "warmup" else 1
            if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < least:
                raise ArgumentError(f"{who}: {name} must be a whole number, {least} or more, got {value!r}")
            return int(value)
        if not _is_number(value) or not 0 < value < math.inf:
            raise ArgumentError(f"{who}: {name} must be a finite number above 0, got {value!r}")
        return float(value)

    def __call__(self, step: int) -> float:
        """The rate for the step after `step` of them."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    >>> constant(0.1)(1000)
    0.1
    """

    rate: float

    def __call__(self, step: int) -> float:
        return self.rate


@dataclass(frozen=True)
class StepDecay(Schedule):
    """rate gamma^k after k times step_size steps: torch's StepLR.

    >>> [step_decay(1.0, step_size=10, gamma=0.5)(step) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """

    rate: float
    step_size: int
    gamma: float = 0.1

    def __call__(self, step: int) -> float:
        return _scaled(self.rate, self.gamma, step // self.step_size)


@dataclass(frozen=True)
class Exponential(Schedule):
    """rate gamma^step: torch's ExponentialLR.

    >>> [exponential(1.0, gamma=0.5)(step) for step in (0, 1, 2)]
    [1.0, 0.5, 0.25]
    """

    rate: float
    gamma: float

    def __call__(self, step: int) -> float:
        return _scaled(self.rate, self.gamma, step)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From rate to final along half a cosine in `steps` steps, then final: torch's CosineAnnealingLR.

    final + (rate - final) (1 + cos(pi step / steps)) / 2. Loshchilov and Hutter 2017, arXiv:1608.03983.

    >>> [round(cosine(1.0, steps=10)(step), 6) for step in (0, 5, 10, 99)]
    [1.0, 0.5, 0.0, 0.0]
    """

    rate: float
    steps: int
    final: float = 0.0

    def __call__(self, step: int) -> float:
        return _along_cosine(self.rate, self.final, min(step / self.steps, 1))


@dataclass(frozen=True)
class WarmupCosine(Schedule):
    """From 0 to rate in a straight line in `warmup` steps, then to final along half a cosine at `steps`.

    Goyal et al. 2017, arXiv:1706.02677: at first the weights are far from any good place, and large steps
    do harm.

    >>> [round(warmup_cosine(1.0, warmup=4, steps=12)(step), 6) for step in (0, 2, 4, 8, 12, 99)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """

    rate: float
    warmup: int
    steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.steps:
            raise ArgumentError(
                f"WarmupCosine: warmup is part of steps and must be less, got {self.warmup} of {self.steps}"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return self.rate * step / self.warmup
        return _along_cosine(self.rate, self.final, min((step - self.warmup) / (self.steps - self.warmup), 1))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to rate and down again along half cosines, the last step the smallest: torch's OneCycleLR.

    It starts from rate / div_factor, is at its top when pct_start of the steps are made, and ends at
    rate / div_factor / final_div_factor. Smith and Topin 2018, arXiv:1708.07120.

    >>> [round(one_cycle(1.0, steps=11)(step), 6) for step in (0, 2, 10, 99)]
    [0.04, 0.960261, 4e-06, 4e-06]
    """

    rate: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pct_start > 1:
            raise ArgumentError(f"OneCycle: pct_start must be 0 < pct_start <= 1, got {self.pct_start}")

    def __call__(self, step: int) -> float:
        start = self.rate / self.div_factor
        top, last = self.pct_start * self.steps - 1, self.steps - 1  # steps count from 0
        if step <= top:
            return _along_cosine(start, self.rate, step / top if top else 1)
        done = (step - top) / (last - top) if last > top else 1
        return _along_cosine(self.rate, start / self.final_div_factor, min(done, 1))


constant = Constant
step_decay = StepDecay
exponential = Exponential
cosine = Cosine
warmup_cosine = WarmupCosine
one_cycle = OneCycle


def _scaled(rate: float, gamma: float, n: int) -> float:
    """rate gamma^n; infinity where it is too large for a number, which an optimizer refuses."""
    try:
        return rate * gamma**n
    except OverflowError:
        return math.inf if rate else 0.0


def _along_cosine(a: float, b: float, t: float) -> float:
    """From a at t = 0 to b at t = 1, flat at both ends."""
    return b + (a - b) * (1 + math.cos(math.pi * t)) / 2


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)
