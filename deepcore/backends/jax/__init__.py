"""JAX: `xp` is jax.numpy, which speaks the standard itself.

Unless jax_enable_x64 is set, JAX has no numbers of 64 bits and takes half as many without a word. deepcore
never sets it: floats that would lose digits are refused, integers become int32 where they fit in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.errors import DTypeError

_NARROW = {"int64": "int32", "uint64": "uint32"}  # what stands in for an integer type without x64
_WIDE_FLOATS = {"float64": "float32", "complex128": "complex64"}


class JaxBackend(Backend):
    """Arrays on "cpu", "gpu", "cuda:0" or "tpu:3", and the tracers that stand for them inside jax.jit."""

    name = "jax"
    package = "jax"
    namespace = "jax.numpy"
    install = '"deepcore[jax]"'

    @classmethod
    def owns(cls, kind: type) -> bool:
        import jax

        return issubclass(kind, jax.Array | jax.core.Tracer)

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        """x itself if it is an array that fits; of a NumPy array always a copy."""
        import jax

        name = x.dtype.name if dtype is None else dtype
        if self.owns(type(x)):
            wanted = self.dtype(name)
            x = x if x.dtype == wanted else x.astype(wanted)
            return x if device is None else jax.device_put(x, self._device(device))
        x = np.asarray(x)
        wanted = self.dtype(name)
        if x.dtype != wanted:
            _check_fits(x, wanted)
        # device_put may use the very memory that it is given, so it gets memory of its own
        return jax.device_put(np.array(x, dtype=wanted, order="C"), self._device(device))

    def to_numpy(self, x: Any) -> np.ndarray:
        """A copy, because NumPy's view of an array of JAX's may not be written to."""
        return np.array(x)

    def dtype(self, name: str) -> Any:
        """The dtype called `name`; int32 and uint32 for what is twice as wide, unless JAX has that.

        Raises DTypeError for float64 and complex128 if JAX hasn't them: that would lose digits.
        """
        import jax

        if not jax.config.jax_enable_x64:
            if name in _WIDE_FLOATS:
                raise DTypeError(
                    f"backend 'jax': wanted {name}, which JAX has only with jax_enable_x64; "
                    f'use x.astype("{_WIDE_FLOATS[name]}"), '
                    'or call jax.config.update("jax_enable_x64", True) at the start of the program'
                )
            name = _NARROW.get(name, name)
        return jax.numpy.dtype(super().dtype(name))

    def device(self, x: Any) -> Any:
        return getattr(x, "device", None)  # a tracer is nowhere yet

    def _device(self, device: Any) -> Any:
        """The device itself, for a name such as "cpu" or "cuda:1", or a number."""
        import jax

        if not isinstance(device, str | int):
            return device
        try:
            if isinstance(device, int):
                return dict(enumerate(jax.devices()))[device]
            platform, _, number = device.partition(":")
            return dict(enumerate(jax.devices(platform)))[int(number or 0)]
        except (RuntimeError, KeyError, ValueError) as error:
            raise self.no_device(device, [f"{d.platform}:{d.id}" for d in jax.devices()]) from error

    def compile(self, function: Any) -> Any:
        import jax

        return jax.jit(function)

    def synchronize(self) -> None:
        import jax

        for x in jax.live_arrays():
            if not x.is_deleted():
                x.block_until_ready()


def _check_fits(host: np.ndarray, dtype: Any) -> None:
    """Raise DTypeError if integers don't fit in the narrower type that they are about to get."""
    if host.dtype.kind not in "iu" or not host.size or dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    for extreme in (host.min(), host.max()):
        if not limits.min <= int(extreme) <= limits.max:
            raise DTypeError(
                f"backend 'jax': {extreme} does not fit in {dtype}, which stands in for {host.dtype} unless "
                'jax_enable_x64 is set; use smaller numbers, or call jax.config.update("jax_enable_x64", '
                "True) at the start of the program"
            )
