"""A CuPy that isn't one: NumPy's arrays and functions, and kernels that the emulation runs.

So the modules of deepcore/backends/cupy run as they are, with the grids that they choose, where there is no
GPU. Every new array lies between margins that nobody may write to, and holds NaN at first.
"""

import contextlib
import importlib
import sys
import types
import weakref

import numpy as np

from deepcore.backends.cupy import kernels

from . import emulation
from .emulation import EmulationError, Guarded
from .fake_cublaslt import FakeCublasLt


class DeviceArray(np.ndarray):
    """An array with CuPy's `data.ptr`."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)


class _Kernel:
    def __init__(self, cupy, library, name):
        self.cupy, self.library, self.name = cupy, library, name

    def __call__(self, grid, block, arguments):
        for argument in arguments:
            assert isinstance(argument, DeviceArray | int | float), f"{self.name} takes no {type(argument)}"
        self.cupy.launches += 1
        self.cupy.launched.add(self.name)
        emulation.run(self.library, self.name, grid, block, arguments, seed=self.cupy.launches)
        for guard in self.cupy.guards:
            if not guard.intact:
                raise EmulationError(f"{self.name} writes beyond an array of {guard.array.shape}")


class PretendCupy(types.ModuleType):
    """The module. changes: what is changed in the source of every kernel, where it stands there."""

    def __init__(self, changes=()):
        super().__init__("cupy")
        self.changes = changes
        self.launches = 0
        self.launched = set()  # the names of the kernels
        self.guards = weakref.WeakSet()
        stream = types.SimpleNamespace(ptr=7)
        self.cuda = types.SimpleNamespace(Device=_Device, get_current_stream=lambda: stream)
        self.cublaslt = FakeCublasLt()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(np, name)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *arguments, **options: _on_device(value(*arguments, **options))

    def RawModule(self, code):
        changes = [(old, new) for old, new in self.changes if old in code]
        library = emulation.compiled(emulation.changed(code, changes))
        return types.SimpleNamespace(get_function=lambda name: _Kernel(self, library, name))

    def empty(self, shape, dtype=float):
        guard = Guarded(shape, dtype)
        array = guard.array.view(DeviceArray)
        array.guard = guard  # lives as long as the array
        self.guards.add(guard)
        return array

    def empty_like(self, X):
        return self.empty(X.shape, X.dtype)

    def matmul(self, A, B):
        """In the dtype of its arguments, which NumPy widens if it is bfloat16."""
        return _on_device(np.matmul(A, B).astype(A.dtype))

    def array(self, values):
        """A guarded copy."""
        values = np.asarray(values)
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array


class _Device:
    """A GPU of three multiprocessors, so that small arrays make several blocks walk over many rows."""

    attributes = types.MappingProxyType({"MultiProcessorCount": 3})

    def __init__(self, id=0):
        self.id = id


def _on_device(x):
    return x.view(DeviceArray) if isinstance(x, np.ndarray) else x


@contextlib.contextmanager
def pretended(changes=()):
    """While it lasts, `import cupy` finds a PretendCupy, and CuPy's kernels are those of deepcore for it."""
    cupy, before = PretendCupy(changes), dict(sys.modules)
    sys.modules["cupy"] = cupy
    for name in [name for name in sys.modules if name.startswith("deepcore.backends.cupy.")]:
        if name != kernels.__name__:
            del sys.modules[name]
    _forget_kernels()
    importlib.import_module("deepcore.backends.cupy.cublaslt").load = lambda: cupy.cublaslt
    try:
        yield cupy
    finally:
        for name in [name for name in sys.modules if name.startswith(("cupy", "deepcore.backends.cupy."))]:
            del sys.modules[name]
        sys.modules.update({name: module for name, module in before.items() if "cupy" in name})
        _forget_kernels()


def _forget_kernels():
    for cached in (kernels._kernel, kernels._module, kernels._multiprocessors):
        cached.cache_clear()


def kernel_of(op):
    """CuPy's own version of an op, or None."""
    family, _, name = op.partition(".")
    return getattr(importlib.import_module(f"deepcore.backends.cupy.{family}"), name, None)
