"""array-api-strict: NumPy with everything forbidden that the standard doesn't promise.

Its devices never mix, so it stands in for a GPU where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.errors import DTypeError

_DEVICES = ("CPU_DEVICE", "device1", "device2", "no_float64", "no_x64")


class StrictBackend(Backend):
    """Arrays for tests, on CPU_DEVICE, device1, device2 or no_float64."""

    name = "array_api_strict"
    aliases = ("strict",)
    package = "array_api_strict"
    namespace = "array_api_strict"
    install = "array-api-strict"

    @classmethod
    def owns(cls, kind: type) -> bool:
        return kind.__module__.partition(".")[0] == "array_api_strict"

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        if device is not None and not isinstance(device, self.xp.Device):
            try:
                device = self.xp.Device(device)
            except (ValueError, TypeError) as error:
                raise self.no_device(device, _DEVICES) from error
        try:
            return super().asarray(x, dtype, device)
        except ValueError as error:  # a device without float64
            raise DTypeError(f"backend {self.name!r}: {error}") from error

    def devices(self) -> list[str]:
        return [text.split("'")[1] for text in super().devices()]  # "array_api_strict.Device('device1')"

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x.to_device(self.xp.Device("CPU_DEVICE")))
