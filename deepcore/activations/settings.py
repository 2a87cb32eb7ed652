"""The numbers that activations are set by."""

from __future__ import annotations

import math
from typing import Any

from deepcore.errors import ArgumentError


def to_number(value: Any, who: str, name: str, least: float = -math.inf, zero: bool = True) -> float:
    """A setting as a Python number, because a NumPy float64 would widen the arrays it meets."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not number >= least or (number == 0 and not zero):
        wanted = "a number other than 0" if not zero else "a number"
        wanted += f", {least} or more" if least > -math.inf else ""
        raise ArgumentError(f"{who}: {name} must be {wanted}, got {value!r}")
    return number
