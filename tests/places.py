"""Where things are tested: one Place for each array library, device and kind of array.

A library that deepcore cannot use yet, or that is not installed, is skipped, with the reason (`test_places`
in test_battery.py); it joins by itself as soon as it can be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import deepcore as dc
from deepcore import Net
from deepcore.backends.registry import backend_names, get_backend
from deepcore.errors import BackendUnavailable


@dataclass(frozen=True)
class Place:
    """One library on one device, with arrays of one kind."""

    name: str
    backend: str
    device: str | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")  # which floating ones are tested here
    writeable: bool = True  # whether arrays here may be written to at all
    wide_integers: bool = True  # whether it has integers of 64 bits
    x64: bool = False  # whether JAX has numbers of 64 bits while a test runs (tests/conftest.py)

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

    def stored(self, dtype: str) -> str:
        """The dtype that arrays of `dtype` get here."""
        return dtype if self.wide_integers else {"int64": "int32", "uint64": "uint32"}.get(dtype, dtype)

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
        net = Net([f]).to(self.backend, self.device)
        for W in (*net.parameters().values(), *net.buffers().values()):
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
DEVICE1 = Place("strict-device1", "array_api_strict", "device1")  # where nothing is by accident
NO_FLOAT64 = Place("strict-no_float64", "array_api_strict", "no_float64", dtypes=("float32",))
TORCH = Place("torch", "torch", "cpu")
META = Place("torch-meta", "torch", "meta")  # shapes without numbers, where nothing is by accident either
JAX = Place("jax", "jax", dtypes=("float32",), wide_integers=False)  # deepcore never sets jax_enable_x64
JAX_X64 = Place("jax-x64", "jax", dtypes=("float64",), x64=True)
CUPY = Place("cupy", "cupy")

PLACES = [NUMPY, READ_ONLY, STRICT, DEVICE1, NO_FLOAT64, TORCH, JAX, CUPY]
EACH_LIBRARY = [NUMPY, DEVICE1, TORCH, JAX, CUPY]  # where a place more of the same library adds nothing
IN_FULL = [NUMPY, DEVICE1, CUPY]  # where all tests run on every case, not those of values and gradients alone
IN_FLOAT64 = [p for p in [*PLACES, JAX_X64] if "float64" in p.dtypes]
USABLE = [place for place in [*PLACES, META, JAX_X64] if place.why_not is None]
