"""The peers: who they are, what they need, and where the way that each does the work is written.

A peer is a class with a method for each kind of row. It takes the row's arguments as NumPy arrays, and
returns the call that is timed, and a function that reads the call's result as NumPy arrays. What a peer
has no method for is a gap in the table.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any


class NotThere(Exception):
    """What this peer cannot do (yet); the table shows the reason."""


@dataclass(frozen=True)
class Peer:
    title: str
    module: str  # beside this file
    options: dict[str, Any] = field(default_factory=dict)  # of its class
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def load(self) -> Any:
        module = importlib.import_module(f"{__name__}.{self.module}")
        return module.Peer(**self.options)


PEERS = {
    "numpy": Peer("deepcore, NumPy alone", "of_deepcore", environment={"DEEPCORE_NUMBA": "0"}),
    "fast": Peer("deepcore[fast]", "of_deepcore", environment={"DEEPCORE_NUMBA": "1"}, needs=("numba",)),
    "torch": Peer("torch", "of_torch", {"compiled": False}, needs=("torch",)),
    "torch.compile": Peer("torch.compile", "of_torch", {"compiled": True}, needs=("torch",)),
    "jax": Peer("jax.jit", "of_jax", needs=("jax",)),
    "sklearn": Peer("scikit-learn", "of_sklearn", needs=("sklearn",)),
    "plain": Peer("plain NumPy", "of_plain_numpy"),
}
OURS = ("numpy", "fast")
