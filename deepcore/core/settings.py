"""The numbers that Functions are set by."""

from __future__ import annotations

import math
import operator
from typing import Any

from deepcore.errors import ArgumentError


def to_number(
    value: Any, who: str, name: str, least: float = -math.inf, most: float = math.inf, zero: bool = True
) -> float:
    """A setting as a Python number, because a NumPy float64 would widen the arrays it meets.

    Raises ArgumentError for what is no number, for NaN, and unless least <= value <= most.
    """
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most or (number == 0 and not zero):
        wanted = "a number other than 0" if not zero else "a number"
        if most < math.inf:
            wanted += f" from {least} to {most}"
        elif least > -math.inf:
            wanted += f", {least} or more"
        raise ArgumentError(f"{who}: {name} must be {wanted}, got {value!r}")
    return number


def to_finite(value: Any, who: str, name: str, zero: bool = True) -> float:
    """A setting of 0 or more, or above 0, as a Python number. Raises ArgumentError, for inf and NaN too."""
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf or (number == 0 and not zero):
        wanted = "a finite number, 0 or more" if zero else "a finite number above 0"
        raise ArgumentError(f"{who}: {name} must be {wanted}, got {value!r}")
    return number


def to_whole(value: Any, who: str, name: str) -> int:
    """A setting as a Python int. Raises ArgumentError for what is no whole number."""
    try:
        return operator.index(value)
    except TypeError:
        raise ArgumentError(f"{who}: {name} must be a whole number, got {value!r}") from None
