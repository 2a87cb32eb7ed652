"""Where the battery runs: each array library, each of its devices, and read-only arrays.

This is the one list of them. A library that deepcore cannot use yet, or that is not installed, is skipped
with the reason, and joins by itself as soon as it can be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends.registry import backend_names, get_backend
from deepcore.core.move import move
from deepcore.core.parameters import functions
from deepcore.errors import BackendUnavailable


@dataclass(frozen=True)
class Place:
    """One library on one device, with arrays of one kind."""

    name: str
    backend: str
    device: str | None = None
    float64: bool = True  # whether it has numbers of that width
    writeable: bool = True  # whether arrays here may be written to at all

    @property
    def why_not(self) -> str | None:
        """The reason why nothing can be run here now, or None."""
        if self.backend not in backend_names():
            usable = ", ".join(dc.available_backends())
            return f"deepcore has no {self.backend} backend yet; available_backends(): {usable}"
        try:
            get_backend(self.backend)
        except BackendUnavailable as error:
            return str(error)
        return None

    @property
    def dtypes(self) -> tuple[str, ...]:
        return ("float32", "float64") if self.float64 else ("float32",)

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """An array here. Without a dtype, floats become float32 and integers stay what they are.

        It shares no memory with `values`.
        """
        host = np.array(values)
        if dtype is None and host.dtype.kind == "f":
            dtype = "float32"
        host = host.astype(dtype or host.dtype, copy=False)
        return self._seal(dc.to_backend(host, self.backend, self.device))

    def back(self, x: Any) -> np.ndarray:
        """The same numbers as a NumPy array."""
        return dc.to_numpy(x)

    def put(self, f: dc.Function) -> dc.Function:
        """The function itself, with its weights and buffers here."""
        move(f, self.backend, self.device)
        for g in functions(f):
            for table in (g.weight or {}, g.buffer):
                for W in table.values():
                    self._seal(W)
        return f

    def holds(self, x: Any) -> bool:
        """Whether an array is one of this library and on this device."""
        backend = dc.backend_of(x)
        here = backend.device(self.array(np.zeros(1, "float32")))
        return backend.name == self.backend and backend.device(x) == here

    def _seal(self, x: Any) -> Any:
        if not self.writeable:
            x.flags.writeable = False
        return x


NUMPY = Place("numpy", "numpy")
READ_ONLY = Place("numpy-readonly", "numpy", writeable=False)
STRICT = Place("strict", "array_api_strict", "CPU_DEVICE")

ALL = [
    NUMPY,
    READ_ONLY,
    STRICT,
    Place("strict-device1", "array_api_strict", "device1"),
    Place("strict-no_float64", "array_api_strict", "no_float64", float64=False),
    Place("torch", "torch", "cpu"),
    Place("jax", "jax", float64=False),  # deepcore never sets jax_enable_x64
    Place("cupy", "cupy"),
]
USABLE = [place for place in ALL if place.why_not is None]


def params(rows: list[Any], places: list[Place] = ALL) -> list[Any]:
    """pytest.param(row, place) for each pair, and one that is skipped for each place that can't be used."""
    pairs = [
        pytest.param(row, place, id=f"{getattr(row, 'name', row)}-{place.name}")
        for place in places
        if place in USABLE
        for row in rows
    ]
    absent = [
        pytest.param(None, place, id=place.name, marks=pytest.mark.skip(reason=place.why_not))
        for place in places
        if place not in USABLE
    ]
    return pairs + absent
