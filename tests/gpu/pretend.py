"""A CuPy that isn't one: NumPy's arrays and functions, and kernels that the emulation runs.

So the modules of deepcore/backends/cupy run as they are, with the grids that they choose, where there is no
GPU. Every new array lies between margins that nobody may write to, and holds NaN at first.
"""

import contextlib
import ctypes
import functools
import importlib
import sys
import types
import weakref

import numpy as np

from deepcore.backends.cupy import kernels

from . import emulation
from .emulation import EmulationError, Guarded
from .fake_cublaslt import FakeCublasLt


class HostRead(RuntimeError):
    """A number was asked for while operations were only being captured."""


class Tape(list):
    """What was done while a stream was being captured: functions of nothing. A graph, as CuPy has it."""

    running = None

    def __init__(self):
        super().__init__()
        self.memory = []  # that the capture took: the graph's pool gives it to nobody else

    def launch(self):
        for do in self:
            do()


def _do(work):
    """Do it now, and in each launch of the graph that is being captured."""
    work()
    if Tape.running is not None:
        Tape.running.append(work)


def _noted(function):
    """A method of arrays whose work is noted: its result is computed anew into the same memory."""

    def method(self, *arguments, **options):
        result = function(self, *arguments, **options)
        if result is not self:  # as astype's is, with copy=False
            _note(lambda: function(self, *arguments, **options), result)
        return result

    return method


def _note(again, result):
    if Tape.running is not None and isinstance(result, np.ndarray):
        Tape.running.append(lambda: np.copyto(result.view(np.ndarray), again()))


def _refuse_cublas():
    if Tape.running is not None:
        raise RuntimeError("the stream of a cuBLAS handle can't be set in a capture")


def _joined(function):
    """Of more than eight arrays CuPy sends their addresses to the GPU, which can't be captured."""

    def joined(arrays, *rest, **options):
        assert Tape.running is None or len(arrays) <= 8, "H2D transfers are disallowed"
        return function(arrays, *rest, **options)

    return joined


def _knows_no_bfloat16(function):
    """CuPy's where has no loop for it, and takes that of float32."""

    def wide(x):
        return np.asarray(x, "f4") if isinstance(x, np.ndarray) and x.dtype.name == "bfloat16" else x

    def widened(*arguments):
        return function(*map(wide, arguments))

    return widened


def _read(function):
    def method(self, *arguments):
        if Tape.running is not None:
            raise HostRead("a number was read on the host")
        return function(self, *arguments)

    return method


class Memory:
    """Where an array lies, as CuPy's MemoryPointer has it."""

    def __init__(self, array):
        self.array, self.ptr = array, array.ctypes.data

    def copy_from_device_async(self, source, size):
        assert size == self.array.nbytes == source.array.nbytes
        _do(lambda: ctypes.memmove(self.array.ctypes.data, source.array.ctypes.data, size))

    def copy_from_host_async(self, pointer, size):
        assert Tape.running is None, "the current stream is capturing, so H2D transfers are disallowed"
        assert size == self.array.nbytes
        ctypes.memmove(self.array.ctypes.data, pointer, size)


class DeviceArray(np.ndarray):
    """An array with CuPy's `data.ptr`, whose operations are noted while a stream is being captured."""

    @property
    def data(self):
        return Memory(self)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if ufunc is np.matmul:
            _refuse_cublas()
        inputs = [x.view(np.ndarray) if isinstance(x, DeviceArray) else x for x in inputs]
        if out is not None:
            into = tuple(x.view(np.ndarray) for x in out)
            _do(lambda: getattr(ufunc, method)(*inputs, out=into, **options))
            return out[0]
        result = getattr(ufunc, method)(*inputs, **options)
        result = np.asarray(result).view(type(self))
        _note(lambda: getattr(ufunc, method)(*inputs, **options), result)
        return result

    def __getitem__(self, index):
        """A view, even of a single number."""
        index = index if isinstance(index, tuple) else (index,)
        result = np.ndarray.__getitem__(
            self, index if any(i is Ellipsis for i in index) else (*index, Ellipsis)
        )
        if not np.may_share_memory(result, self):
            _note(lambda: np.ndarray.__getitem__(self, index), result)
        return result

    def __setitem__(self, index, value):
        _do(lambda: np.ndarray.__setitem__(self, index, value))

    copy = _noted(np.ndarray.copy)
    astype = _noted(np.ndarray.astype)
    __bool__ = _read(np.ndarray.__bool__)
    __float__ = _read(np.ndarray.__float__)
    __int__ = _read(np.ndarray.__int__)


class _Kernel:
    def __init__(self, cupy, library, name):
        self.cupy, self.functions, self.name = cupy, library, name

    def __call__(self, grid, block, arguments):
        for argument in arguments:
            # of NumPy's arrays CuPy takes those of one element, by value
            by_value = isinstance(argument, np.ndarray) and argument.dtype.fields and argument.size == 1
            fits = by_value or isinstance(argument, DeviceArray | int | float)
            assert fits, f"{self.name} takes no {type(argument)}"
        self.cupy.launches += 1
        self.cupy.launched.add(self.name)
        run = functools.partial(emulation.run, self.functions, self.name, grid, block, arguments)
        _do(functools.partial(run, seed=self.cupy.launches))
        for guard in self.cupy.guards:
            if not guard.intact:
                raise EmulationError(f"{self.name} writes beyond an array of {guard.array.shape}")


class PretendCupy(types.ModuleType):
    """The module. changes: what is changed in the source of every kernel, where it stands there."""

    def __init__(self, changes=()):
        super().__init__("cupy")
        self.changes = changes
        self.ndarray = type(
            "ndarray", (DeviceArray,), {"__module__": "cupy"}
        )  # one of its own: kernels are kept by type
        self.launches = 0
        self.launched = set()  # the names of the kernels
        self.guards = weakref.WeakSet()
        self.streams = [_Stream(self)]  # the current one last
        self.allocators = []  # of device memory, besides the usual one
        self.pool = _Pool()
        self.pinned = self.usual_pinned = types.SimpleNamespace(malloc=lambda size: None)
        self.cuda = types.SimpleNamespace(
            Device=_Device,
            runtime=types.SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=_CUDARuntimeError),
            Stream=lambda non_blocking=False: _Stream(self, non_blocking),
            Event=lambda: _Event(self),
            get_elapsed_time=lambda begun, ended: ended.time - begun.time,
            get_current_stream=lambda: self.streams[-1],
            MemoryPool=_Pool,
            MemoryPointer=lambda memory, offset: (memory, offset),
            using_allocator=self._using_allocator,
            set_pinned_memory_allocator=lambda malloc: setattr(
                self, "pinned", types.SimpleNamespace(malloc=malloc)
            ),
        )
        self.cublaslt = FakeCublasLt(_do)
        self.cudnn = None  # a FakeCudnn, where a test wants one

    @contextlib.contextmanager
    def _using_allocator(self, malloc):
        self.allocators.append(malloc)
        try:
            yield
        finally:
            self.allocators.pop()

    def get_default_memory_pool(self):
        return self.pool

    def get_default_pinned_memory_pool(self):
        return self.usual_pinned

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        function = getattr(np, name)
        if name in ("concat", "concatenate", "stack"):
            function = _joined(function)
        if name == "where":
            function = _knows_no_bfloat16(function)
        if isinstance(function, type) or not callable(function):
            return function

        def run(*arguments, device=None, **options):
            result = function(*arguments, **options)
            if not isinstance(result, np.ndarray | np.generic):
                return result
            result = np.asarray(result).view(self.ndarray)
            if not any(isinstance(x, np.ndarray) and np.may_share_memory(x, result) for x in arguments):
                _note(lambda: function(*arguments, **options), result)
            return result

        return run

    def __array_namespace_info__(self):
        """NumPy's, for every device."""
        info = np.__array_namespace_info__()
        return types.SimpleNamespace(
            default_dtypes=lambda device=None: info.default_dtypes(),
            dtypes=lambda device=None, kind=None: info.dtypes(kind=kind),
        )

    def RawModule(self, code):
        assert Tape.running is None, "a kernel must be loaded before it is captured"
        changes = [(old, new) for old, new in self.changes if old in code]
        library = emulation.compiled(emulation.changed(code, changes))
        return types.SimpleNamespace(get_function=lambda name: _Kernel(self, library, name))

    def empty(self, shape, dtype=float):
        guard = Guarded(shape, dtype)
        array = guard.array.view(self.ndarray)
        array.guard = guard  # lives as long as the array
        self.guards.add(guard)
        if Tape.running is not None:
            assert self.allocators, "memory that a graph uses is somebody else's too"
            Tape.running.memory.append(array)
        return array

    def empty_like(self, X):
        return self.empty(X.shape, X.dtype)

    def matmul(self, A, B):
        """In the dtype of its arguments, which NumPy widens if it is bfloat16."""
        _refuse_cublas()
        return np.matmul(A, B).astype(A.dtype).view(self.ndarray)

    def asarray(self, x, dtype=None, device=None):
        """From the host, by way of pinned memory, a single number as an argument; of the device as it is."""
        if isinstance(x, DeviceArray):
            return x if dtype is None else x.astype(dtype)
        x = np.asarray(x, dtype)
        if x.ndim:
            self.pinned.malloc(x.nbytes)
        return self.array(x)

    def array(self, values):
        """A guarded copy."""
        values = np.asarray(values)
        array = self.empty(values.shape, values.dtype)
        array[...] = values
        return array


class _CUDARuntimeError(RuntimeError):
    """Which CuPy's pools take for a want of memory."""


class _Pool:
    """A memory pool that hands out nothing. freed: how often it was told to give up what is free in it"""

    def __init__(self, allocator=None):
        self.allocator, self.malloc, self.freed = allocator, object(), 0

    def free_all_blocks(self):
        self.freed += 1


class _Stream:
    """Everything is done at once; while it is being captured, noted too."""

    def __init__(self, cupy, non_blocking=False):
        self.cupy, self.non_blocking = cupy, non_blocking
        self.ptr = 7 + len(cupy.streams) if hasattr(cupy, "streams") else 7
        self.waited_for = []

    def record(self):
        return self

    def synchronize(self):
        pass

    def wait_event(self, event):
        self.waited_for.append(event)

    def __enter__(self):
        self.cupy.streams.append(self)
        return self

    def __exit__(self, *_):
        self.cupy.streams.pop()

    def begin_capture(self):
        assert self.non_blocking and self.cupy.streams[-1] is self
        assert Tape.running is None
        Tape.running = Tape()

    def is_capturing(self):
        return Tape.running is not None and self.non_blocking

    def end_capture(self):
        tape, Tape.running = Tape.running, None
        return tape


class _Event:
    """Its time is that of the fake cuBLASLt's clock."""

    def __init__(self, cupy):
        self.cupy = cupy

    def record(self):
        self.time = self.cupy.cublaslt.clock

    def synchronize(self):
        assert Tape.running is None


class _Device:
    """A GPU of three multiprocessors, so that small arrays make several blocks walk over many rows."""

    attributes = types.MappingProxyType({"MultiProcessorCount": 3})

    def __init__(self, id=0):
        self.id = id

    def synchronize(self):
        pass


@contextlib.contextmanager
def pretended(changes=()):
    """While it lasts, `import cupy` finds a PretendCupy, and CuPy's kernels are those of deepcore for it."""
    cupy, before = PretendCupy(changes), dict(sys.modules)
    sys.modules["cupy"] = cupy
    _forget_modules()
    _forget_kernels()
    importlib.import_module("deepcore.backends.cupy.cublaslt").load = lambda: cupy.cublaslt
    importlib.import_module("deepcore.backends.cupy.cudnn").load = lambda: cupy.cudnn
    try:
        yield cupy
    finally:
        del sys.modules["cupy"]
        _forget_modules()
        sys.modules.update({name: module for name, module in before.items() if "cupy" in name})
        _forget_kernels()


def _forget_modules():
    """Those that imported cupy; as attributes of their package too, where `from package import` looks."""
    package = "deepcore.backends.cupy"
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        if name != kernels.__name__:
            del sys.modules[name]
            vars(sys.modules[package]).pop(name.rpartition(".")[2], None)


def _forget_kernels():
    for cached in (kernels._kernel, kernels._module, kernels._multiprocessors):
        cached.cache_clear()


def kernel_of(op):
    """CuPy's own version of an op, or None."""
    family, _, name = op.partition(".")
    return getattr(importlib.import_module(f"deepcore.backends.cupy.{family}"), name, None)
