"""What users read, word for word: arrays of two libraries meet, or a library cannot do what it is asked."""

import importlib.metadata
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import BackendUnavailable, CrossEntropyLoss, DTypeError, Linear, MixedBackendError, Net
from deepcore.backends import registry
from deepcore.backends.base import Backend
from tests.places import EACH_LIBRARY, JAX, STRICT, TORCH, USABLE
from tests.users import Product

ROOT = Path(__file__).resolve().parents[2]


def needs(place):
    return pytest.mark.skipif(place.why_not is not None, reason=f"{place.why_not}")


needs_torch, needs_jax, needs_strict = needs(TORCH), needs(JAX), needs(STRICT)
each = pytest.mark.parametrize(
    "name", [pytest.param(p.backend, marks=needs(p)) for p in (TORCH, JAX, STRICT)]
)

X, y = np.ones((3, 2), "float32"), np.array([0, 1, 1])


def net():
    return Net([Linear(2, 2)], loss=CrossEntropyLoss())


def said(error, call):
    """The text of the very error that a call raises."""
    with pytest.raises(error) as raised:
        call()
    assert type(raised.value) is error
    return str(raised.value)


# ---- mixed arrays


@each
def test_a_net_on_numpy_and_an_input_elsewhere(name):
    assert said(MixedBackendError, lambda: net()(dc.to_backend(X, name))) == (
        "Net([Linear(2, 2)], loss=CrossEntropyLoss()): its weights are 'numpy' arrays, "
        f"the input is a '{name}' array; move the input with deepcore.to_backend(X, 'numpy'), "
        f"or the net with net.to('{name}')"
    )


@each
def test_a_net_elsewhere_and_an_input_on_numpy(name):
    assert said(MixedBackendError, lambda: net().to(name).layers[0](X)) == (
        f"Linear(2, 2): its weights are '{name}' arrays, the input is a 'numpy' array; "
        f"move the input with deepcore.to_backend(X, '{name}'), or the net with net.to('numpy')"
    )


@each
def test_labels_of_another_library(name):
    there = net().to(name)
    out = there(dc.to_backend(X, name))
    assert said(MixedBackendError, lambda: there.loss(out, y)) == (
        f"CrossEntropyLoss(): X is a '{name}' array, the target a 'numpy' array; "
        f"move the target with deepcore.to_backend(y, '{name}')"
    )
    there.loss(out, dc.to_backend(y, name))  # the pass is still good
    there.backward()


@each
def test_two_inputs_of_two_libraries(name):
    assert said(MixedBackendError, lambda: Product()(X, dc.to_backend(X, name))) == (
        f"arrays of 'numpy' and '{name}' in one call; move one of them: "
        f"deepcore.to_backend(x, 'numpy'), or the net: net.to('{name}')"
    )


@each
def test_a_gradient_of_another_library(name):
    f = Linear(2, 2)
    f(X)
    assert said(MixedBackendError, lambda: f.backward(dc.to_backend(X, name))) == (
        f"arrays of 'numpy' and '{name}' in one call; move one of them: "
        f"deepcore.to_backend(x, 'numpy'), or the net: net.to('{name}')"
    )


@each
def test_ties_survive_a_move(name):
    tied = Net([Linear(3, 3), Linear(3, 3)])
    tied.layers[1].weight["W"] = tied.layers[0].weight["W"]
    tied.to(name)
    assert tied.layers[1].weight["W"] is tied.layers[0].weight["W"]
    tied.to("numpy")
    assert tied.layers[1].weight["W"] is tied.layers[0].weight["W"]
    assert set(tied.parameters()) == {"layers.0.W", "layers.0.b", "layers.1.b"}


# ---- float64 on JAX

NO_FLOAT64 = (
    "backend 'jax': wanted float64, which JAX has only with jax_enable_x64; use x.astype(\"float32\"), "
    'or call jax.config.update("jax_enable_x64", True) at the start of the program'
)


@needs_jax
def test_float64_on_jax_is_refused():
    def there(call):
        with dc.use_backend("jax"):
            return call()

    calls = [
        lambda: dc.to_backend(np.ones(2), "jax"),
        lambda: there(lambda: dc.asarray([1.0], dtype="float64")),
        lambda: there(lambda: dc.asarray(np.ones(2))),
        lambda: there(lambda: Linear(2, 2, dtype="float64")),
        lambda: Net([Linear(2, 2, dtype="float64")]).to("jax"),
    ]
    for call in calls:
        assert said(DTypeError, call) == NO_FLOAT64
    x = dc.to_backend(X, "jax")
    assert (
        said(DTypeError, lambda: dc.gradcheck(Linear(2, 2), x)) == f"gradcheck works in float64, {NO_FLOAT64}"
    )
    f = net().to("jax")
    assert said(DTypeError, lambda: dc.gradcheck(f, x)) == f"gradcheck works in float64, {NO_FLOAT64}"
    wide = said(DTypeError, lambda: there(lambda: dc.asarray(1j)))
    assert wide == NO_FLOAT64.replace("float64", "complex128").replace("float32", "complex64")


@needs_jax
def test_a_net_in_float64_stays_where_it_was():
    f = Net([Linear(2, 2), Linear(2, 2, dtype="float64")])
    before = f.parameters()
    with pytest.raises(DTypeError):
        f.to("jax")
    assert all(W is before[path] for path, W in f.parameters().items())


@needs_jax
def test_integers_on_jax_are_narrow_where_they_fit():
    assert (
        dc.to_backend(y, "jax").dtype == "int32"
        and dc.to_backend(y.astype("uint64"), "jax").dtype == "uint32"
    )
    for x in (2**31, -(2**31) - 1):
        assert said(DTypeError, lambda x=x: dc.to_backend(np.array([0, x]), "jax")) == (
            f"backend 'jax': {x} does not fit in int32, which stands in for int64 unless jax_enable_x64 is "
            'set; use smaller numbers, or call jax.config.update("jax_enable_x64", True) at the start of the '
            "program"
        )
    assert dc.to_backend(np.array([2**31 - 1, -(2**31)]), "jax").tolist() == [2**31 - 1, -(2**31)]


@needs_jax
def test_fit_takes_float64_and_int64_to_jax():
    f = net().to("jax")
    f.fit(X.astype("float64"), y, progress=False, validation_data=(X.astype("float64"), y))
    f.fit([(X.astype("float64"), y)], progress=False)
    assert f.evaluate(X.astype("float64"), y)["loss"] > 0
    assert f.predict(X.astype("float64")).dtype == "float32"
    regression = Net([Linear(2, 2)], loss=dc.MSELoss()).to("jax")
    regression.fit(X.astype("float64"), X.astype("float64"), progress=False)


# ---- devices, and libraries that are not there


@pytest.mark.parametrize(
    ("name", "device", "there"),
    [
        ("numpy", "cuda:0", "cpu"),
        pytest.param("torch", "gpu9", "cpu", marks=needs_torch),
        pytest.param("jax", "gpu9", "cpu:0", marks=needs_jax),
        pytest.param("jax", "cpu:9", "cpu:0", marks=needs_jax),
        pytest.param("jax", 99, "cpu:0", marks=needs_jax),
        pytest.param(
            "array_api_strict", "gpu", "CPU_DEVICE, device1, device2, no_float64", marks=needs_strict
        ),
    ],
)
def test_a_device_that_is_not_there(name, device, there):
    f = net()
    before = f.parameters()
    for call in (lambda: f.to(name, device=device), lambda: dc.to_backend(X, name, device)):
        text = said(BackendUnavailable, call)
        assert text.startswith(f"backend {name!r} has no device {device!r} here; choose one of: {there}")
    assert all(W is before[path] for path, W in f.parameters().items())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("torch", '"deepcore[torch]"'), ("jax", '"deepcore[jax]"'), ("array_api_strict", "array-api-strict")],
)
def test_a_library_that_is_not_installed(name, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(registry._live, name, raising=False)
    text = said(BackendUnavailable, lambda: dc.set_backend(name))
    assert text == (
        f"backend {name!r} is not usable here: import of {name} halted; None in sys.modules; "
        f"install it with: pip install {remedy}"
    )
    f = net()
    before = f.parameters()
    assert said(BackendUnavailable, lambda: f.to(name)) == text
    assert all(W is before[path] for path, W in f.parameters().items())
    assert dc.to_numpy([1.0]).tolist() == [1.0]  # other types are still known


def test_a_library_that_is_broken(monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "torch":
                raise OSError("libtorch.so: wrong architecture")

    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.delitem(registry._live, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert said(BackendUnavailable, lambda: dc.set_backend("torch")) == (
        "backend 'torch' is not usable here: OSError: libtorch.so: wrong architecture; "
        'install it with: pip install "deepcore[torch]"'
    )


# ---- a net on each library from the command line


@each
def test_the_variable_trains_there(name, tmp_path):
    random = np.random.default_rng(0)
    data = str(tmp_path / "data.npz")
    np.savez(data, X=random.normal(size=(60, 3)), y=random.integers(0, 2, 60))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DEEPCORE")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "deepcore", "train", "--data", data, "--epochs", "2"],
        cwd=ROOT,
        env=inherited | {"DEEPCORE_BACKEND": name, "DEEPCORE_FALLBACK": "error"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout


# ---- a library of a third party


@pytest.fixture
def third_party(monkeypatch):
    """A package that is installed with an entry point, with arrays of its own."""
    module = types.ModuleType("threearrays")

    class ThreeBackend(Backend):
        name, package, namespace = "three", "threearrays", "numpy"

        @classmethod
        def owns(cls, kind):
            return kind is Tensor

        def asarray(self, x, dtype=None, device=None):
            return Tensor(np.array(x.value if isinstance(x, Tensor) else x, dtype))

        def to_numpy(self, x):
            return x.value

    class Tensor:
        def __init__(self, value):
            self.value, self.shape, self.dtype, self.device = value, value.shape, value.dtype, "cpu"

    module.Tensor, module.ThreeBackend = Tensor, ThreeBackend
    entry = importlib.metadata.EntryPoint("three", "threearrays:ThreeBackend", "deepcore.backends")
    found = importlib.metadata.EntryPoints([entry])
    monkeypatch.setitem(sys.modules, "threearrays", module)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: found.select(**wanted))
    registry._entry_points.cache_clear()
    registry.is_array_type.cache_clear()
    yield module
    registry._live.pop("three", None)
    registry._BACKEND_OF_TYPE.pop(Tensor, None)
    registry._NAMESPACE_OF_TYPE.pop(Tensor, None)
    monkeypatch.undo()
    registry._entry_points.cache_clear()
    registry.is_array_type.cache_clear()


def test_a_backend_of_a_third_party(third_party):
    assert "three" in dc.available_backends()
    x = dc.to_backend(X, "three")
    assert type(x) is third_party.Tensor
    assert dc.backend_of(x) == "three" and dc.array_namespace(x) is np
    assert np.array_equal(dc.to_numpy(x), X)
    with dc.use_backend("three"):
        assert type(dc.asarray([1.0])) is third_party.Tensor
    assert "choose one of: numpy, " in said(BackendUnavailable, lambda: dc.set_backend("four"))
    assert said(BackendUnavailable, lambda: dc.set_backend("four")).endswith(", three")


def test_a_broken_entry_point_hurts_nobody_else(monkeypatch):
    class Broken:
        value = "nosuchmodule:X"

        def load(self):
            raise ModuleNotFoundError("No module named 'nosuchmodule'")

    monkeypatch.setattr(registry, "_entry_points", lambda: {"broken": Broken()})
    assert "broken" not in dc.available_backends()
    assert dc.to_numpy([1.0]).tolist() == [1.0]
    assert not registry.is_array(object())
    with pytest.raises(dc.BackendUnavailable, match="nosuchmodule:X, does not load .*repair or uninstall"):
        dc.set_backend("broken")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("place", [p for p in EACH_LIBRARY if p in USABLE], ids=lambda place: place.name)
def test_fit_takes_unsigned_labels(place, dtype):
    net = place.put(dc.Net([dc.Linear(2, 2)], dc.CrossEntropyLoss()))
    history = net.fit(np.ones((4, 2), "float32"), np.array([0, 1, 0, 1], dtype))
    assert 0 <= history.history["accuracy"][0] <= 1


@pytest.mark.skipif(bool(TORCH.why_not), reason=str(TORCH.why_not))
def test_a_state_whose_arrays_require_grad_is_copied_without_that():
    import torch

    linear = torch.nn.Linear(2, 2)
    net = TORCH.put(dc.Net([dc.Linear(2, 2)]))
    net.load_state_dict({"layers.0.W": linear.weight.T, "layers.0.b": linear.bias.reshape(1, 2)})
    assert not net.layers[0].weight["W"].requires_grad
    net(TORCH.array(np.ones((1, 2))))


# ---- arrays of NumPy's own that are no arrays


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_no_array():
    """Its * is the product of matrices."""
    with pytest.raises(DTypeError, match=r"wanted an array, got matrix; convert it with deepcore.asarray"):
        net()(np.asmatrix(X))
    assert type(dc.asarray(np.asmatrix(X))) is np.ndarray


def test_a_mask_is_not_lost_in_silence():
    masked = np.ma.masked_array(X, mask=[[True, False]] * 3)
    with pytest.raises(DTypeError, match="wanted an array, got MaskedArray"):
        net()(masked)
    with pytest.raises(DTypeError, match=r"its mask would be lost; .* x.filled\(0\)"):
        dc.asarray(masked)
    assert dc.asarray(np.ma.masked_array(X)).sum() == X.sum()


@needs_torch
def test_a_gradient_of_another_library_into_an_inner_layer():
    f = net()
    f(X)
    with pytest.raises(MixedBackendError, match="arrays of 'numpy' and 'torch' in one call"):
        f.layers[0].backward(dc.to_backend(X, "torch"))
    assert not f.layers[0].weight_update
