"""A cuBLASLt that works on the host: it does what its descriptors say, and refuses what NVIDIA's would."""

import ctypes

import numpy as np

try:
    from ml_dtypes import bfloat16
except ImportError:
    bfloat16 = None

NUMBERS = {0: np.dtype("f4"), 1: np.dtype("f8"), 2: np.dtype("f2"), 14: bfloat16 and np.dtype(bfloat16)}
NOT_SUPPORTED, INVALID = 15, 7
OPERATION_SIZES = {3: 4, 4: 4, 7: 4, 8: 8, 26: 4}  # bytes of each attribute, as the header says
LAYOUT_SIZES = {5: 4, 6: 8}
PREFERENCE_SIZES = {1: 8, 3: 4, 5: 4, 6: 4, 7: 4, 8: 4}


class FakeCublasLt:
    """The functions that deepcore calls. Wrong sizes give a status, faults in a product an AssertionError."""

    def __init__(self, start=lambda product: product()):
        self.start = start  # what to do with a product, which is a function of nothing
        self.supported = True
        self.things = {}  # handle -> what it stands for
        self.products = []  # what each call of cublasLtMatmul was told
        self.planned = 0
        self.times = [1.0]  # milliseconds of each algorithm that it offers; None: it refuses to work
        self.clock = 0.0  # what the algorithms took together

    def _new(self, out, thing):
        out._obj.value = len(self.things) + 1
        self.things[out._obj.value] = thing
        return 0

    def _of(self, handle):
        return self.things[handle.value]

    def _set(self, handle, attribute, value, size, sizes):
        if sizes.get(attribute) != size.value or ctypes.sizeof(value._obj) != size.value:
            return INVALID
        self._of(handle)[attribute] = value._obj.value
        return 0

    def cublasLtCreate(self, out):
        return self._new(out, "handle")

    def cublasLtMatmulDescCreate(self, out, compute, scale):
        return self._new(out, {"compute": compute, "scale": scale})

    def cublasLtMatmulDescSetAttribute(self, handle, attribute, value, size):
        return self._set(handle, attribute, value, size, OPERATION_SIZES)

    def cublasLtMatrixLayoutCreate(self, out, kind, rows, columns, step):
        layout = {"kind": kind, "rows": rows.value, "columns": columns.value, "step": step.value, 5: 1, 6: 0}
        assert layout["step"] >= layout["rows"]
        return self._new(out, layout)

    def cublasLtMatrixLayoutSetAttribute(self, handle, attribute, value, size):
        return self._set(handle, attribute, value, size, LAYOUT_SIZES)

    def cublasLtMatmulPreferenceCreate(self, out):
        return self._new(out, {})

    def cublasLtMatmulPreferenceSetAttribute(self, handle, attribute, value, size):
        return self._set(handle, attribute, value, size, PREFERENCE_SIZES)

    def cublasLtMatmulAlgoGetHeuristic(self, handle, operation, A, B, C, D, preference, most, found, count):
        assert self._of(handle) == "handle" and len(found._obj) == most and C is D
        self.planned += 1
        if not self.supported:
            return NOT_SUPPORTED
        wanted = self._of(preference)
        count._obj.value = min(len(self.times), most)
        for k in range(count._obj.value):  # what it takes for granted, its number, how it may add up parts
            found._obj[k].algo[:5] = [wanted[5], wanted[6], min(wanted[7], wanted[8]), k, wanted.get(3, 7)]
        return 0

    def cublasLtMatmul(
        self, handle, operation, one, A, a, B, b, zero, C, c, D, d, algorithm, space, size, stream
    ):
        told = self._of(operation)
        number = ctypes.c_double if told["scale"] == 1 else ctypes.c_float
        assert self._of(handle) == "handle" and type(one._obj) is type(zero._obj) is number
        assert (one._obj.value, zero._obj.value) == (1, 0) and C.value == D.value and c is d
        for pointer, alignment in zip((A, B, D), algorithm._obj.algo[:3], strict=True):
            assert pointer.value % alignment == 0, (
                "memory off the boundary that the algorithm takes for granted"
            )
        left, right, result = (self._matrix(*x) for x in ((A, a), (B, b), (D, d)))
        left, right = left.mT if told.get(3) else left, right.mT if told.get(4) else right
        bias = 0
        if told[7] & 4:
            kind = NUMBERS[told[26]]
            address = (ctypes.c_char * (result.shape[1] * kind.itemsize)).from_address(told[8])
            bias = np.frombuffer(address, kind)[:, None]
        wide = np.float64 if told["scale"] == 1 else np.float32
        least = 0 if told[7] & 2 else -np.inf

        def product():
            self.clock += self.times[algorithm._obj.algo[3]]
            Y = left.astype(wide) @ right.astype(wide) + np.asarray(bias, wide)
            result[...] = np.maximum(Y, least)

        number = algorithm._obj.algo[3]
        if self.times[number] is None:
            return NOT_SUPPORTED
        self.start(product)
        place = {"workspace": (space.value, size.value), "stream": stream.value}
        self.products.append({**told, **place, "algorithm": number, "reductions": algorithm._obj.algo[4]})
        return 0

    def _matrix(self, pointer, layout):
        """(batch, rows, columns), column by column."""
        of = self._of(layout)
        kind = NUMBERS[of["kind"]]
        last = (of[5] - 1) * of[6] + (of["columns"] - 1) * of["step"] + of["rows"]
        memory = np.frombuffer((ctypes.c_char * (last * kind.itemsize)).from_address(pointer.value), kind)
        steps = [step * kind.itemsize for step in (of[6], 1, of["step"])]
        return np.lib.stride_tricks.as_strided(memory, (of[5], of["rows"], of["columns"]), steps)

    def cublasLtMatmulDescDestroy(self, handle):
        return 0

    def cublasLtMatrixLayoutDestroy(self, handle):
        return 0

    def cublasLtMatmulPreferenceDestroy(self, handle):
        return 0
