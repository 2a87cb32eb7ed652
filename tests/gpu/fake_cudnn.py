"""A package cudnn that works on the host: graphs of a single node, plans of which some may not be used."""

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
        """The array there."""
        kind = NUMBERS[self.data_type.name]
        last = sum((size - 1) * step for size, step in zip(self.dim, self.stride, strict=True))
        memory = (ctypes.c_char * ((last + 1) * kind.itemsize)).from_address(address)
        steps = [step * kind.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(np.frombuffer(memory, kind), self.dim, steps)


class _Graph:
    def __init__(self, cudnn):
        self.cudnn, self.stages, self.refused, self.built = cudnn, [], set(), set()

    def tensor(self, name, dim, stride, data_type):
        assert type(dim) is type(stride) is list and 4 <= len(dim) == len(stride) <= 5, name
        return _Tensor(dim, stride, data_type)

    def _node(self, compute, operands, results=1):
        """compute: the operands in float64, in a list, and the shapes of the results -> the results"""
        self.compute, self.operands = compute, operands
        self.results = [_Tensor() for _ in range(results)]
        return self.results if results > 1 else self.results[0]

    def conv_fprop(self, image, weight, **how):
        def fprop(X, W, Y):
            return [OPS["conv.conv"].reference(X, W, None, *_geometry(X.shape[1] // W.shape[1], **how))]

        return self._node(fprop, [image, weight])

    def conv_dgrad(self, loss, filter, **how):
        def dgrad(dY, W, X):
            return [OPS["conv.conv_dX"].reference(dY, W, X, *_geometry(X[1] // W.shape[1], **how))]

        return self._node(dgrad, [loss, filter])

    def conv_wgrad(self, image, loss, **how):
        def wgrad(dY, X, W):
            return [OPS["conv.conv_dW"].reference(dY, X, W[2:], *_geometry(X.shape[1] // W[1], **how))]

        return self._node(wgrad, [loss, image])

    def sdpa(self, name, q, k, v, generate_stats, attn_scale, bias=None):
        assert generate_stats

        def forward(Q, K, V, mask, *_):
            S = attn_scale * Q @ K.mT + mask
            statistics = np.logaddexp.reduce(S, axis=-1, keepdims=True)
            return np.exp(S - statistics) @ V, statistics

        return self._node(forward, [q, k, v, bias], 2)

    def sdpa_backward(
        self, name, q, k, v, o, dO, stats, use_deterministic_algorithm, attn_scale, bias=None
    ):  # fmt: skip
        assert use_deterministic_algorithm

        def backward(Q, K, V, Y, statistics, dY, mask, *_):
            P = np.exp(attn_scale * Q @ K.mT + mask - statistics)
            dS = attn_scale * P * (dY @ V.mT - (dY * Y).sum(-1, keepdims=True))
            return dS @ K, dS.mT @ Q, P.mT @ dY

        return self._node(backward, [q, k, v, o, stats, dO, bias], 3)

    def validate(self):
        assert all(r.output and None not in (r.dim, r.stride, r.data_type) for r in self.results)
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
        given = [x for x in self.operands if x is not None]
        assert number in self.built and set(addresses) == {*given, *self.results}

        def work():
            self.cudnn.clock.clock += self.cudnn.times[number]
            operands = [0.0 if x is None else x.at(addresses[x]).astype("f8") for x in self.operands]
            made = self.compute(*operands, *(tuple(r.dim) for r in self.results))
            for r, numbers in zip(self.results, made, strict=True):
                r.at(addresses[r])[...] = numbers
            ctypes.memset(workspace, 0, WORKSPACE)

        self.cudnn.start(work)
        self.cudnn.ran.append((number, handle.stream))


def _geometry(groups, pre_padding, post_padding, stride, dilation):
    return stride, list(zip(pre_padding, post_padding, strict=True)), dilation, groups
