"""What becomes of a case of another project's suite: compared with deepcore, or listed with a reason."""

from __future__ import annotations

import unittest
from typing import Any

import deepcore as dc


class NotMapped(unittest.SkipTest):
    """Why deepcore has nothing of this case's meaning. It shows as a skip, never as a pass."""


class NotThereYet(NotMapped):
    """DESIGN names the class that would take this case, and deepcore doesn't have it so far."""


def deepcore(name: str, room: Any = dc) -> Any:
    """The public class of this name; raises NotThereYet if there is none."""
    try:
        return getattr(room, name)
    except AttributeError:
        raise NotThereYet(f"not there yet: deepcore has no {name}") from None


def refuse(*settings: tuple[bool, str]) -> None:
    """Raise NotMapped with the reason of the first setting that a case has and deepcore hasn't."""
    for present, reason in settings:
        if present:
            raise NotMapped(reason)
