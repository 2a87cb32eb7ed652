"""torch, on any of its devices: `xp` is array_api_compat.torch.

deepcore computes gradients itself, so that its arrays never require grad: what comes from elsewhere is
detached on its way in (`asarray`), and refused in direct calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deepcore.backends.base import Backend
from deepcore.backends.numpy import bfloat16
from deepcore.errors import ArgumentError, DTypeError


class TorchBackend(Backend):
    """Tensors on "cpu", "cuda:0", "mps" or, for shapes alone, "meta"."""

    name = "torch"
    package = "torch"
    namespace = "array_api_compat.torch"
    install = '"deepcore[torch]"'
    view_of = "_base"

    @classmethod
    def owns(cls, kind: type) -> bool:
        import torch

        return issubclass(kind, torch.Tensor)

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        """x itself if it is a tensor that fits; of a NumPy array always a copy."""
        import torch

        wanted = None if dtype is None else self.dtype(dtype)
        x = x.detach() if isinstance(x, torch.Tensor) else _from_host(np.asarray(x))
        x = x if wanted is None else x.to(wanted)
        if device is None:
            return x
        if isinstance(device, torch.dtype):  # which x.to would take, and cast
            raise ArgumentError(f'device must be a device, such as "cpu" or "cuda:0", got {device!r}')
        try:
            return x.to(device)
        except (
            RuntimeError,
            AssertionError,
        ) as error:  # out of memory too: only the device's own fault counts
            self._check_device(device, error)
            raise

    def _check_device(self, device: Any, cause: Exception) -> None:
        import torch

        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError):
            cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
            mps = ["mps"] if torch.backends.mps.is_available() else []
            raise self.no_device(device, ["cpu", *cuda, *mps]) from cause

    def to_numpy(self, x: Any) -> np.ndarray:
        """A copy. bfloat16 becomes float32, which holds the same numbers, where NumPy lacks it."""
        import torch

        x = x.detach()
        if x.dtype == torch.bfloat16:
            narrow = bfloat16()
            if narrow is None:
                return x.to("cpu", torch.float32).numpy()
            return x.to("cpu", copy=True).view(torch.int16).numpy().view(narrow)
        return x.to("cpu", copy=True).numpy()

    def memory_owner(self, x: Any) -> Any:
        return x if x._base is None else x._base  # the first of all, not the next

    def share_memory(self, a: Any, b: Any) -> bool:
        """Whether they lie in one storage, if in different parts of it."""
        return a is not b and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() != 0

    def synchronize(self) -> None:
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _from_host(host: np.ndarray) -> Any:
    """A tensor in memory of its own: torch takes no negative strides, and warns of read-only arrays."""
    import torch

    copy = np.array(host, dtype=host.dtype.newbyteorder("="), order="C")
    if copy.dtype.name == "bfloat16":
        return torch.from_numpy(copy.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(copy)
    except TypeError as error:
        raise DTypeError(f"backend 'torch': it has no arrays of {host.dtype}; cast them first") from error
