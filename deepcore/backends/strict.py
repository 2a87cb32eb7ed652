"""array-api-strict: NumPy with everything forbidden that the standard doesn't promise.

Its devices never mix, so it stands in for a GPU where there is none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.base import Backend


class StrictBackend(Backend):
    """Arrays for tests, on CPU_DEVICE, device1, device2 or no_float64."""

    name = "array_api_strict"
    aliases = ("strict",)
    package = "array_api_strict"
    namespace = "array_api_strict"

    @classmethod
    def owns(cls, kind: type) -> bool:
        return kind.__module__.partition(".")[0] == "array_api_strict"

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        device = self.xp.Device(device) if isinstance(device, str) else device
        return super().asarray(x, dtype, device)

    def devices(self) -> list[str]:
        return [text.split("'")[1] for text in super().devices()]  # "array_api_strict.Device('device1')"

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x.to_device(self.xp.Device("CPU_DEVICE")))
