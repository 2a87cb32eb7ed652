"""deepcore against torch's own inputs for torch.nn (module_db): outputs, dX and every dW."""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np
import pytest

import deepcore as dc
from deepcore.core.parameters import find_parameters
from tests.conformance.listed import NotMapped
from tests.conformance.torch_modules import MODULES, OUTSIDE, Translator, Twin, as_it_is

torch = pytest.importorskip("torch", reason="needs torch: these are its modules' own inputs")
pytest.importorskip("expecttest", reason="needs expecttest, which torch.testing._internal imports")

from torch.testing._internal.common_modules import module_db  # noqa: E402

PINNED = "2.13"
SUITE = "torch.nn: module_db"
TOLERANCES = {"float64": {"rtol": 1e-7, "atol": 1e-9}, "float32": {"rtol": 1.3e-6, "atol": 1e-5}}
FAMILIES: dict[str, tuple[str, Translator]] = {
    name: (family, translate) for family, table in MODULES.items() for name, translate in table.items()
}


def samples(info: Any, dtype: str, training: bool) -> list[Any]:
    """torch's inputs for one of its modules; the same at every call."""
    torch.manual_seed(zlib.crc32(info.name.encode()))
    return info.module_inputs_func(
        info, device="cpu", dtype=getattr(torch, dtype), requires_grad=True, training=training
    )


def each_case() -> list[Any]:
    """One parameter for each mapped module, sample input, mode and dtype."""
    return [
        pytest.param(
            info,
            index,
            dtype,
            training,
            id=f"{info.name}-{index}-{dtype}{'' if training else '-eval'}{'-' * bool(case.desc)}{case.desc}",
        )
        for info in module_db
        if info.name in FAMILIES
        for training in ((True, False) if info.train_and_eval_differ else (True,))
        for dtype in TOLERANCES
        for index, case in enumerate(samples(info, "float64", training))
    ]


@pytest.mark.parametrize(("info", "index", "dtype", "training"), each_case())
def test_module(counted, info, index, dtype, training):
    family, translate = FAMILIES[info.name]
    counted(SUITE, family, info.name)
    case = samples(info, dtype, training)[index]
    module = make_module(info, case, dtype, training)
    arguments = tensors((case.forward_input.args, case.forward_input.kwargs))
    twin = translate(module, [x.detach().numpy() for x in arguments])
    compare(module, case.forward_input, arguments, twin, dtype)


@pytest.mark.parametrize("info", [info for info in module_db if info.name in OUTSIDE], ids=lambda i: i.name)
def test_module_outside_of_deepcore(counted, info):
    counted(SUITE, "outside", info.name)
    raise NotMapped(OUTSIDE[info.name])


@pytest.mark.skipif(
    not torch.__version__.startswith(PINNED),
    reason=f"the table is of torch {PINNED}, not {torch.__version__}",
)
def test_every_module_has_its_place():
    names = [info.name for info in module_db]
    assert sorted(names) == sorted([*FAMILIES, *OUTSIDE])


# ---- the comparison


def make_module(info: Any, case: Any, dtype: str, training: bool) -> Any:
    """torch's module, with no weight or buffer left at a number that would hide a fault."""
    module = info.module_cls(*case.constructor_input.args, **case.constructor_input.kwargs)
    module = module.to(getattr(torch, dtype)).train(training)
    with torch.no_grad():
        for W in module.parameters():
            W += 0.2 * torch.randn_like(W)
        for name, b in module.named_buffers():
            if name.startswith("running"):
                b.uniform_(0.5, 1.5)
    return module


def tensors(arguments: Any) -> list[Any]:
    """The tensors in nested tuples, lists and dicts, in order."""
    if isinstance(arguments, torch.Tensor):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = arguments.values()
    return [x for part in arguments for x in tensors(part)] if not _single(arguments) else []


def _single(argument: Any) -> bool:
    return argument is None or isinstance(argument, bool | int | float | str)


def replaced(arguments: Any, leaves: list[Any]) -> Any:
    """The same arguments with other tensors, taken from the front of `leaves`."""
    if isinstance(arguments, torch.Tensor):
        return leaves.pop(0)
    if isinstance(arguments, dict):
        return {name: replaced(x, leaves) for name, x in arguments.items()}
    return arguments if _single(arguments) else type(arguments)(replaced(x, leaves) for x in arguments)


def compare(module: Any, call: Any, arguments: list[Any], twin: Twin, dtype: str) -> None:
    close = lambda got, wanted, what: np.testing.assert_allclose(
        got, wanted, err_msg=what, **TOLERANCES[dtype]
    )
    tables = {name: W.detach().numpy().copy() for name, W in module.named_parameters()}
    running = {name: b.detach().numpy().copy() for name, b in module.named_buffers()}
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in arguments]
    args, kwargs = replaced((call.args, call.kwargs), list(leaves))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's about its own defaults
        Ys = tensors(module(*args, **kwargs))[: len(twin.outputs)]
    dYs = [torch.ones_like(Y) if isinstance(twin.f, dc.Loss) and Y.ndim == 0 else noise(Y) for Y in Ys]
    torch.autograd.backward(Ys, dYs)

    set_weights(twin, tables, running)
    dc.Net([twin.f]).train(module.training)
    floating = [x for x in leaves if x.dtype != torch.bool]
    views = [*twin.inputs, *[as_it_is] * len(floating)][: len(floating)]
    inputs = [view(x.detach().numpy()) for view, x in zip(views, floating, strict=True)]
    ours = as_tuple(twin.f(*inputs, *twin.extra))
    if twin.stacked:
        ours = (ours[0], *ours[1])
    assert len(ours) == len(twin.outputs)
    for i, (view, Y) in enumerate(zip(twin.outputs, Ys, strict=True)):
        assert dc.asarray(ours[i]).dtype == dtype, f"output {i} is {ours[i].dtype}"
        close(ours[i], view(Y.detach().numpy()), f"output {i}")

    scalar = isinstance(twin.f, dc.Loss) and Ys[0].ndim == 0 and np.ndim(ours[0]) == 0
    given = [] if scalar else [view(dY.numpy()) for view, dY in zip(twin.outputs, dYs, strict=True)]
    if twin.stacked:
        given = [given[0], np.stack(given[1:])]
    dXs = as_tuple(twin.f.backward(*given))
    for i, (view, x) in enumerate(zip(views, floating, strict=True)):
        if x.grad is not None and not (isinstance(twin.f, dc.Loss) and i >= len(dXs)):  # a target needs none
            close(dXs[i], view(x.grad.numpy()), f"gradient of input {i}")

    gradients = {
        name: np.zeros(W.shape) if W.grad is None else W.grad.numpy() for name, W in module.named_parameters()
    }
    parameters = find_parameters(twin.f)
    for path, wanted in twin.weights.items():
        layer, name = parameters[path].places[0]
        close(layer.weight_update[name], wanted(gradients), f"gradient of {path}")
    if module.training:
        after = {name: b.detach().numpy() for name, b in module.named_buffers()}
        for name, wanted in twin.buffers.items():
            close(twin.f.buffer[name], wanted(after), name)


def set_weights(twin: Twin, tables: dict[str, Any], running: dict[str, Any]) -> None:
    """Copy torch's weights and buffers."""
    given = {path: make(tables) for path, make in twin.weights.items()} | twin.constants
    parameters = find_parameters(twin.f)
    assert set(given) <= set(parameters), f"{set(given) - set(parameters)} are no weights of {twin.f}"
    for path, W in given.items():
        for layer, name in parameters[path].places:
            assert layer.weight[name].shape == W.shape, f"{path} is {layer.weight[name].shape}, not {W.shape}"
            layer.weight[name] = np.ascontiguousarray(W)
    for name, make in twin.buffers.items():
        twin.f.buffer[name] = make(running).copy()


def noise(Y: Any) -> Any:
    return torch.randn(Y.shape, dtype=Y.dtype)


def as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)
