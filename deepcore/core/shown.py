"""How a Function is shown: by its constructor's arguments, which it keeps under their own names."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from deepcore.backends.registry import is_array
from deepcore.backends.select import dtype_name

_REQUIRED = inspect.Parameter.empty


class Shown:
    """Something whose repr is the call that makes it. Abstract: a Function is one."""

    def _config(self) -> dict[str, Any]:
        """The constructor's arguments, read from the attributes of the same names (as scikit-learn does)."""
        return {name: getattr(self, name) for name in _constructor(type(self)) if hasattr(self, name)}

    def __repr__(self) -> str:
        config = self._config()
        shown = []
        for name, default in _constructor(type(self)).items():
            if default is _REQUIRED:
                shown.append(repr(_brief(config[name])) if name in config else "...")
            elif name in config and not _equal(_brief(config[name]), default):
                shown.append(f"{name}={_brief(config[name])!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _who(self) -> str:
        """What error messages call this Function: its repr, unless that is long."""
        text = repr(self)
        return text if len(text) <= 60 else f"{type(self).__name__}(...)"


@functools.cache
def _constructor(cls: type) -> dict[str, Any]:
    """Name -> default of each argument of the constructor."""
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _brief(value: Any) -> Any:
    """A shorter value to show: 3 for (3, 3) or (3,), as it may be given, and an array's dtype and shape."""
    if is_array(value):
        return _Brief(f"<{dtype_name(value)} {tuple(value.shape)}>")
    if isinstance(value, tuple) and value and all(type(v) is int and v == value[0] for v in value):
        return value[0]
    return value


class _Brief(str):
    """A text that is its own repr."""

    __repr__ = str.__str__


def _equal(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and not is_array(a) and bool(a == b))
