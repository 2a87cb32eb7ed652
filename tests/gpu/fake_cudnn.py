"""A package cudnn that works on the host: one convolution a graph, plans of which some are not to be used."""

import ctypes
import enum
import types

import numpy as np

from deepcore.ops.dispatch import OPS

from .fake_cublaslt import bfloat16

NUMBERS = {"HALF": np.dtype("f2"), "BFLOAT16": bfloat16 and np.dtype(bfloat16), "FLOAT": np.dtype("f4")}
WORKSPACE = 48  # bytes that each plan writes to


class FakeCudnn(types.SimpleNamespace):
    """plans: what each is noted for   times: what each takes, None if it can't be built

    start: what to do with a work, a function of nothing   clock: has `clock`, which a work's time is added to
    """

    def __init__(self, start, clock, plans=((),), times=None):
        names = {note for notes in plans for note in notes} | {"TENSOR_CORE", "NONDETERMINISTIC"}
        super().__init__(
            data_type=enum.Enum("data_type", list(NUMBERS)),
            heur_mode=enum.Enum("heur_mode", ["A", "FALLBACK"]),
            numerical_note=enum.Enum("numerical_note", sorted(names)),
            start=start,
            clock=clock,
            plans=plans,
            times=times or [1.0] * len(plans),
            graphs=[],
            handles=[],
            ran=[],  # of each work that was started: the number of its plan, and the stream
        )

    def backend_version_string(self):
        return "9.0.0"

    def create_handle(self):
        self.handles.append(types.SimpleNamespace(stream=0))
        return self.handles[-1]

    def set_stream(self, handle, stream):
        handle.stream = stream

    def pygraph(self, io_data_type, intermediate_data_type, compute_data_type, handle):
        assert handle in self.handles and compute_data_type is intermediate_data_type is self.data_type.FLOAT
        self.graphs.append(_Graph(self))
        return self.graphs[-1]


class _Tensor:
    def __init__(self, dim=None, stride=None, data_type=None):
        self.dim, self.stride, self.data_type, self.output = dim, stride, data_type, False

    def set_output(self, output):
        self.output = output

    def set_data_type(self, data_type):
        self.data_type = data_type

    def set_dim(self, dim):
        self.dim = dim

    def set_stride(self, stride):
        self.stride = stride

    def at(self, address):
        """The array there, where its strides are those of a row-major one."""
        kind = NUMBERS[self.data_type.name]
        memory = (ctypes.c_char * (int(np.prod(self.dim)) * kind.itemsize)).from_address(address)
        array = np.frombuffer(memory, kind).reshape(self.dim)
        wanted = [step // kind.itemsize for step in array.strides]
        assert self.stride == wanted or 1 in self.dim
        return array


class _Graph:
    def __init__(self, cudnn):
        self.cudnn, self.stages, self.refused, self.built = cudnn, [], set(), set()

    def tensor(self, name, dim, stride, data_type):
        assert type(dim) is type(stride) is list and 4 <= len(dim) == len(stride) <= 5
        return _Tensor(dim, stride, data_type)

    def _node(self, kind, first, second, pre_padding, post_padding, stride, dilation):
        self.kind, self.operands, self.result = kind, (first, second), _Tensor()
        self.how = stride, list(zip(pre_padding, post_padding, strict=True)), dilation
        return self.result

    def conv_fprop(self, image, weight, **how):
        return self._node("fprop", image, weight, **how)

    def conv_dgrad(self, loss, filter, **how):
        return self._node("dgrad", loss, filter, **how)

    def conv_wgrad(self, image, loss, **how):
        return self._node("wgrad", loss, image, **how)

    def validate(self):
        assert self.result.output and None not in (self.result.dim, self.result.stride, self.result.data_type)
        self.stages.append("validate")

    def build_operation_graph(self):
        self.stages.append("build")

    def create_execution_plans(self, modes):
        self.stages.append("plans")

    def deselect_numeric_notes(self, notes):
        """Before there are plans NVIDIA's marks nothing."""
        assert self.stages == ["validate", "build", "plans"]
        self.refused |= {note.name for note in notes}

    def get_execution_plan_count(self):
        return len(self.cudnn.plans)

    def build_plan_at_index(self, number):
        if self.refused & set(self.cudnn.plans[number]) or self.cudnn.times[number] is None:
            raise RuntimeError("cudnnGraphNotSupportedError")
        self.built.add(number)

    def get_workspace_size_plan_at_index(self, number):
        assert number in self.built
        return WORKSPACE

    def execute_plan_at_index(self, addresses, workspace, number, handle):
        assert number in self.built and set(addresses) == {*self.operands, self.result}
        first, second = (x.at(addresses[x]).astype("f8") for x in self.operands)
        result, (stride, padding, dilation) = self.result.at(addresses[self.result]), self.how
        channels, of_filter = {
            "fprop": lambda: (first.shape[1], second.shape[1]),
            "dgrad": lambda: (result.shape[1], second.shape[1]),
            "wgrad": lambda: (second.shape[1], result.shape[1]),
        }[self.kind]()
        how = stride, padding, dilation, channels // of_filter

        def work():
            self.cudnn.clock.clock += self.cudnn.times[number]
            a, b = (x.at(addresses[x]).astype("f8") for x in self.operands)
            if self.kind == "fprop":
                Y = OPS["conv.conv"].reference(a, b, None, *how)
            elif self.kind == "dgrad":
                Y = OPS["conv.conv_dX"].reference(a, b, result.shape, *how)
            else:
                Y = OPS["conv.conv_dW"].reference(a, b, result.shape[2:], *how)
            result[...] = Y
            ctypes.memset(workspace, 0, WORKSPACE)

        self.cudnn.start(work)
        self.cudnn.ran.append((number, handle.stream))
