"""What a backend is: one array library, seen through the few things that the array API leaves open."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

from deepcore.errors import BackendUnavailable, DTypeError


class Diverged(Exception):
    """What a compiled function does is not what the function would do with these numbers."""


class Backend:
    """One array library.

    A subclass names its library and overrides what differs. `kernels` is the package whose modules
    hold native kernels, one module a family, or None if the library has none.
    """

    name: str = ""
    aliases: tuple[str, ...] = ()
    package: str = ""  # the module that defines the array type; looked up, never imported, to classify
    namespace: str = ""  # the module that speaks the array API standard
    install: str = ""  # what pip installs to have the library; its package unless given
    kernels: str | None = None
    on_host: bool = False  # whether to look at a number waits for nothing
    view_of: str = "base"  # the attribute of a view that names the array whose memory it shows

    def __init__(self) -> None:
        self.xp: Any = importlib.import_module(self.namespace)

    def __eq__(self, other: object) -> bool:
        """A backend equals its own name, so that `backend_of(x) == "numpy"` reads as it should."""
        return self is other or (isinstance(other, str) and other in (self.name, *self.aliases))

    def __hash__(self) -> int:
        return hash(self.name)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<backend {self.name}>"

    @classmethod
    def why_unusable(cls) -> str | None:
        """The reason and the remedy if this library cannot be used here, else None."""
        try:
            importlib.import_module(cls.package)
        except Exception as error:  # a library that is there but broken may raise anything
            reason = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
            return f"{reason}; install it with: pip install {cls.install or cls.package}"
        return None

    @classmethod
    def version(cls) -> str:
        """The version of the installed library. Importing it raises whatever a broken library raises."""
        return str(getattr(importlib.import_module(cls.package), "__version__", "unknown"))

    @classmethod
    def owns(cls, kind: type) -> bool:
        """Whether `kind` is an array type of this library. Called only when the library is imported."""
        raise NotImplementedError

    def asarray(self, x: Any, dtype: str | None = None, device: Any = None) -> Any:
        """An array of this library from Python numbers or a NumPy array."""
        return self.xp.asarray(x, dtype=None if dtype is None else self.dtype(dtype), device=device)

    def to_numpy(self, x: Any) -> Any:
        """The same numbers as a NumPy array, on the host."""
        raise NotImplementedError

    def dtype(self, name: str) -> Any:
        """This library's dtype called `name`, such as "float32". Raises DTypeError if it has none."""
        try:
            return getattr(self.xp, name)
        except AttributeError:
            raise DTypeError(f"backend {self.name!r}: there is no dtype {name!r}") from None

    def device(self, x: Any) -> Any:
        """Where `x` lives, in the form that `asarray(device=)` takes."""
        return x.device

    def no_device(self, device: Any, there: Sequence[str]) -> BackendUnavailable:
        """The error for a device that this library cannot use here, naming those that it can."""
        return BackendUnavailable(
            f"backend {self.name!r} has no device {device!r} here; choose one of: {', '.join(there)}"
        )

    def devices(self) -> list[str]:
        """Each device that arrays can live on, in words; a library of GPUs adds their model and memory."""
        devices = self.xp.__array_namespace_info__().devices()
        return [str(device) for device in devices if device is not None]  # JAX's None: wherever it likes

    def features(self) -> list[str]:
        """What else decides how fast and how exact it is here, in words: precision, libraries."""
        return []

    def memory_owner(self, x: Any) -> Any:
        """The object whose memory `x` lies in: `x` itself, unless it is known to be a view."""
        return x

    def share_memory(self, a: Any, b: Any) -> bool:
        """Whether `a` and `b` are different arrays over the same memory, as far as can be told."""
        return False

    def unheld(self, table: dict[str, Any], name: str, times: int = 1) -> bool:
        """Whether it is worth while to overwrite the array table[name], and nobody would know.

        That is, nothing holds it or its memory but this dict and times - 1 others; no variable of the
        caller's either. The same of each array of a dict table[name]. False where that can't be told, or
        where arrays never change.
        """
        return False

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """A function that does what `function` does, in one piece, or None if this library has no compiler.

        `function` takes arrays and returns a tuple of arrays, changes nothing else, and keeps no number from
        call to call. It may be run on stand-ins for arrays, at the first call; later calls bring arrays of
        the same shapes, dtypes and strides. One that finds out, on the host, that the numbers ask for another
        way than the first ones did raises Diverged, and nothing has changed. One with a true attribute
        `takes_host_arrays` takes arrays of NumPy's too, which nobody changes afterwards.
        """
        return None

    def together(self) -> AbstractContextManager[None]:
        """Inside, updates of weights may be put off to its end, and made there in one piece.

        What an op of `ops.update` returns there holds its numbers only when it has been left.
        """
        return nullcontext()

    def synchronize(self) -> None:
        """Wait until all work that was started is done."""

    def wait_for(self, *results: Any) -> None:
        """Wait until these hold their numbers: arrays, or whatever else an op returns.

        By `synchronize`, and by asking each array that is only a promise so far (JAX's say so themselves).
        """
        self.synchronize()
        for x in results:
            block = getattr(x, "block_until_ready", None)
            if block is not None:
                block()

    def tiers(self, family: str, name: str) -> list[Callable[..., Any]]:
        """This library's own versions of an op, in the order in which they are tried."""
        kernel = self.kernel(family, name)
        return [] if kernel is None else [kernel]

    def reference(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """An op's reference, as it is to be called with arrays of this library."""
        return function

    def kernel(self, family: str, name: str) -> Any:
        """The version of an op that stands in the module of its family, or None."""
        if self.kernels is None:
            return None
        module = import_optional(f"{self.kernels}.{family}")
        return getattr(module, name, None)


def import_optional(name: str) -> ModuleType | None:
    """The module called `name`, or None if there is no such module (a broken one still raises)."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None
