"""deepcore against torch's own inputs for torch.nn (module_db): outputs, dX and every dW."""

from __future__ import annotations

import copy
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
pytest.importorskip(
    "expecttest", reason="needs expecttest, which torch.testing imports: deepcore[conformance]"
)

from torch.testing._internal.common_modules import module_db  # noqa: E402

Arrays = dict[str, np.ndarray]

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


def modes(info: Any) -> tuple[bool, ...]:
    """Training, and evaluation where that differs."""
    return (True, False) if info.train_and_eval_differ else (True,)


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
        for training in modes(info)
        for dtype in TOLERANCES
        for index, case in enumerate(samples(info, "float64", training))
    ]


@pytest.mark.parametrize(("info", "index", "dtype", "training"), each_case())
def test_module(counted, nearer, info, index, dtype, training):
    family, translate = FAMILIES[info.name]
    counted(SUITE, family, info.name)
    case = samples(info, dtype, training)[index]
    module = make_module(info, case, dtype, training)
    arguments = tensors((case.forward_input.args, case.forward_input.kwargs))
    twin = translate(module, [host(x) for x in arguments])
    set_weights(twin, module)
    dc.Net([twin.f]).train(training)
    doubled = copy.deepcopy(module).double()

    wanted, dYs = run_torch(module, case.forward_input, arguments, twin)
    got = run_deepcore(twin, arguments, dYs)
    differ = differing(got, wanted, twin, dtype)
    if differ and dtype == "float32":  # torch's float32 has errors too: ask its float64
        exact, _ = run_torch(doubled, case.forward_input, [as_double(x) for x in arguments], twin)
        if all(error(got[name], exact[name]) <= error(wanted[name], exact[name]) for name in differ):
            return nearer()
    for name in differ:
        np.testing.assert_allclose(got[name], wanted[name], err_msg=name, **TOLERANCES[dtype])


@pytest.mark.parametrize("info", [info for info in module_db if info.name in OUTSIDE], ids=lambda i: i.name)
def test_module_outside_of_deepcore(counted, info):
    cases = sum(len(samples(info, "float64", training)) for training in modes(info))
    counted(SUITE, "outside", info.name, cases * len(TOLERANCES))
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


def run_torch(module: Any, call: Any, arguments: list[Any], twin: Twin) -> tuple[Arrays, list[Any]]:
    """What a pass of torch's gives, by name and laid out as deepcore's; and the dYs that it started from."""
    leaves = [x.detach().requires_grad_(x.requires_grad) for x in arguments]
    args, kwargs = replaced((call.args, call.kwargs), list(leaves))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's about its own defaults
        Ys = tensors(module(*args, **kwargs))[: len(twin.outputs)]
    dYs = [torch.ones_like(Y) if is_scalar_loss(twin, Y) else noise(Y) for Y in Ys]
    torch.autograd.backward(Ys, dYs)
    found = {f"output {i}": view(host(Y)) for i, (view, Y) in enumerate(zip(twin.outputs, Ys, strict=True))}
    for i, (view, x) in enumerate(zip(views_of_inputs(twin, leaves), floating(leaves), strict=True)):
        if x.grad is not None:
            found[f"gradient of input {i}"] = view(host(x.grad))
    dW = {
        name: np.zeros(tuple(W.shape)) if W.grad is None else host(W.grad)
        for name, W in module.named_parameters()
    }
    found |= {f"gradient of {path}": view(dW) for path, view in twin.weights.items()}
    if module.training:
        after = {name: host(b) for name, b in module.named_buffers()}
        found |= {f"new {name}": view(after) for name, view in twin.buffers.items()}
    return found, dYs


def run_deepcore(twin: Twin, arguments: list[Any], dYs: list[Any]) -> Arrays:
    """The same of deepcore's: all that it gives."""
    views = views_of_inputs(twin, arguments)
    inputs = [view(host(x)) for view, x in zip(views, floating(arguments), strict=True)]
    Ys = as_tuple(twin.f(*inputs, *twin.extra))
    given = [view(host(dY)) for view, dY in zip(twin.outputs, dYs, strict=True)]
    if twin.stacked:
        Ys, given = (Ys[0], *Ys[1]), [given[0], np.stack(given[1:])]
    dXs = as_tuple(twin.f.backward(*([] if is_scalar_loss(twin, dYs[0]) else given)))
    found = {f"output {i}": np.asarray(Y) for i, Y in enumerate(Ys)}
    found |= {f"gradient of input {i}": dX for i, dX in enumerate(dXs)}
    for path, parameter in find_parameters(twin.f).items():
        layer, name = parameter.places[0]
        found[f"gradient of {path}"] = layer.weight_update[name]
    return found | {f"new {name}": b for name, b in twin.f.buffer.items()}


def differing(got: Arrays, wanted: Arrays, twin: Twin, dtype: str) -> list[str]:
    """The names under which the two differ. That a loss gives no gradient of its target is no difference."""
    names = []
    for name, right in wanted.items():
        if name not in got and isinstance(twin.f, dc.Loss) and name != "gradient of input 0":
            continue
        assert name in got, f"deepcore gives no {name}"
        assert got[name].dtype == dtype, f"{name} is {got[name].dtype}"
        assert got[name].shape == right.shape, f"{name} is {got[name].shape}, not {right.shape}"
        if not np.allclose(got[name], right, equal_nan=True, **TOLERANCES[dtype]):
            names.append(name)
    return names


def error(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(got.astype("float64") - exact), initial=0.0))


def is_scalar_loss(twin: Twin, Y: Any) -> bool:
    """A loss that is one number starts the chain: its backward takes no argument."""
    reduced = getattr(twin.f, "reduction", "none") != "none"
    return isinstance(twin.f, dc.Loss) and reduced and Y.ndim == 0


def floating(arguments: list[Any]) -> list[Any]:
    """All but masks: what f takes as its first inputs, labels and indices too."""
    return [x for x in arguments if x.dtype != torch.bool]


def views_of_inputs(twin: Twin, arguments: list[Any]) -> list[Any]:
    count = len(floating(arguments))
    return [*twin.inputs, *[as_it_is] * count][:count]


def host(x: Any) -> np.ndarray:
    return x.detach().numpy()


def set_weights(twin: Twin, module: Any) -> None:
    """Copy torch's weights and buffers."""
    tables = {name: host(W) for name, W in module.named_parameters()}
    running = {name: host(b) for name, b in module.named_buffers()}
    given = {path: view(tables) for path, view in twin.weights.items()} | twin.constants
    parameters = find_parameters(twin.f)
    assert set(given) <= set(parameters), f"{set(given) - set(parameters)} are no weights of {twin.f}"
    for path, W in given.items():
        for layer, name in parameters[path].places:
            assert layer.weight[name].shape == W.shape, f"{path} is {layer.weight[name].shape}, not {W.shape}"
            layer.weight[name] = W.copy()
    for name, view in twin.buffers.items():
        twin.f.buffer[name] = view(running).copy()


def noise(Y: Any) -> Any:
    """dY: numbers that float32 holds, the same in both dtypes."""
    generator = torch.Generator().manual_seed(Y.numel())
    return torch.randn(Y.shape, dtype=torch.float32, generator=generator).to(Y.dtype)


def as_double(x: Any) -> Any:
    return x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x


def as_tuple(x: Any) -> tuple[Any, ...]:
    return x if isinstance(x, tuple) else (x,)
