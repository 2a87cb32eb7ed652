"""Weights and buffers by path, in dicts and in files: whole, exact, and put where they belong."""

import copy
import json
import os
import random

import numpy as np
import pytest

import deepcore as dc
from deepcore.activations import ReLU
from deepcore.backends.select import dtype_name, to_numpy
from deepcore.core.containers import Residual, Sequential
from deepcore.core.function import Function
from deepcore.core.layer import Layer
from deepcore.core.net import Composition
from deepcore.core.random import Generator, drawing_from
from deepcore.errors import BackendUnavailable, CheckpointError, StateError, UnsupportedError
from deepcore.io import net_file, safetensors, state
from deepcore.io.architecture import describe, register, registry
from deepcore.io.net_file import load, save
from deepcore.io.state import load_state_dict, state_dict
from deepcore.layers.conv import Conv2D
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm2D
from deepcore.losses import CrossEntropyLoss

BACKENDS = ["numpy", "array_api_strict"]


@pytest.fixture(autouse=True)
def seeded():
    with drawing_from(Generator(0)):
        yield


@register
class Counter(Function):
    """A user's Function with a buffer of integers."""

    def __init__(self):
        self.buffer["n"] = dc.asarray([3, 4])

    def forward(self, X):
        return X


def small_net(**keywords) -> Composition:
    return Composition([Linear(2, 3, **keywords), ReLU(), Linear(3, 2, **keywords)], loss=CrossEntropyLoss())


def full_net() -> Composition:
    """Every kind of thing that a file must keep."""
    shared, tied = Linear(3, 3), Linear(3, 3)
    tied.weight["W"] = shared.weight["W"]
    tied.trainable = False
    net = Composition(
        [Linear(2, 3), shared, Sequential(ReLU(), Residual(shared)), tied, Counter(), Linear(3, 2)],
        loss=CrossEntropyLoss(weight=[1.0, 2.0]),
    )
    net.layers[2].training = False
    return net


def host(net) -> dict[str, np.ndarray]:
    return {path: np.array(to_numpy(x)) for path, x in state_dict(net).items()}


def same(a, b) -> bool:
    return list(a) == list(b) and all(
        x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
        for x, y in zip(a.values(), b.values(), strict=True)
    )


# ---- state_dict


def test_paths_are_those_of_parameters_then_buffers():
    net = full_net()
    assert list(state_dict(net)) == [*net.parameters(), *net.buffers()]
    assert list(state_dict(net))[-2:] == ["layers.4.n", "loss_fn.weight"]
    assert "layers.3.W" not in state_dict(net)  # tied to layers.1.W
    assert list(state_dict(Linear(2, 2))) == ["W", "b"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_dict_copies(backend):
    with dc.use_backend(backend):
        net = full_net()
    before = host(net)
    taken = state_dict(net)
    for path, x in taken.items():
        assert dc.backend_of(x).name == backend
        x[...] = 0
        assert taken[path] is x
    assert same(host(net), before)


def test_a_weight_and_a_buffer_of_one_name_are_refused():
    layer = Linear(2, 2)
    layer.buffer["W"] = np.ones(3)
    for call in (state_dict, lambda f: load_state_dict(f, {}), lambda f: save(f, "never made")):
        with pytest.raises(StateError, match="W is both a weight and a buffer"):
            call(layer)
    assert not os.path.exists("never made")


# ---- load_state_dict


@pytest.mark.parametrize("source", [*BACKENDS, "device1"])
@pytest.mark.parametrize("target", [*BACKENDS, "device1"])
def test_arrays_of_any_library_are_put_where_the_net_is(source, target):
    def make(place):
        with dc.use_backend("array_api_strict" if place == "device1" else place):
            return small_net(device="device1") if place == "device1" else small_net()

    giver, net = make(source), make(target)
    devices = {path: (dc.backend_of(W), dc.backend_of(W).device(W)) for path, W in net.parameters().items()}
    load_state_dict(net, state_dict(giver))
    assert same(host(net), host(giver))
    assert {p: (dc.backend_of(W), dc.backend_of(W).device(W)) for p, W in net.parameters().items()} == devices


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_arrays_given_are_copied(backend):
    with dc.use_backend(backend):
        net = small_net()
    given = state_dict(net)
    load_state_dict(net, given)
    before = host(net)
    for x in given.values():
        x[...] = 7
    assert same(host(net), before)


def test_any_layout_is_taken_and_none_is_kept():
    net = small_net()
    W = np.arange(6.0, dtype="float32").reshape(2, 3)
    for x in (
        np.asfortranarray(W),
        W.astype(">f4"),
        np.repeat(W, 2, axis=0)[::2],
        W[::-1][::-1],
        W.T.copy().T,
    ):
        x.flags.writeable = False
        load_state_dict(net, {"layers.0.W": x}, strict=False)
        got = net.layers[0].weight["W"]
        assert np.array_equal(got, W)
        assert got.dtype == np.dtype("float32")
        assert got.dtype.isnative
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert got.base is None


def test_one_error_lists_all_faults_and_nothing_changes():
    net = small_net()
    before = dict(net.parameters())
    given = state_dict(net)
    del given["layers.0.b"], given["layers.2.W"]
    given["layers.0.W"] = given["layers.0.W"].T
    given["layers.2.b"] = given["layers.2.b"].astype("float64")
    given["more"] = given["even.more"] = np.ones(1)
    with pytest.raises(CheckpointError) as caught:
        load_state_dict(net, given)
    assert str(caught.value).splitlines() == [
        "load_state_dict: the state does not fit the net",
        "  missing: layers.0.b",
        "  missing: layers.2.W",
        "  extra: more",
        "  extra: even.more",
        "  layers.0.W: wanted shape (2, 3), got (3, 2)",
        '  layers.2.b: wanted float32, got float64; cast it to float32, or make the net with dtype="float64"',
    ]
    assert all(net.parameters()[path] is W for path, W in before.items())


def test_without_strict_missing_and_extra_pass_and_the_rest_raises():
    net = small_net()
    before = host(net)
    load_state_dict(net, {"layers.0.b": np.ones((1, 3), "float32"), "more": np.ones(1)}, strict=False)
    assert same(host(net), before | {"layers.0.b": np.ones((1, 3), "float32")})
    for x in (
        np.ones((3, 1), "float32"),
        np.ones((1, 3)),
        np.full((1, 3), np.nan, "float32"),
        [1.0, 2.0, 3.0],
    ):
        with pytest.raises(CheckpointError, match=r"layers\.0\.b"):
            load_state_dict(net, {"layers.0.b": x, "layers.2.b": np.zeros((1, 2), "float32")}, strict=False)
    assert same(host(net), before | {"layers.0.b": np.ones((1, 3), "float32")})


@pytest.mark.parametrize("wanted", ["float32", "float64"])
@pytest.mark.parametrize("got", ["float16", "float32", "float64", "int32", "bool"])
def test_nothing_is_cast(wanted, got):
    net = Linear(1, 1, bias=False, dtype=wanted)
    given = {"W": np.ones((1, 1), got)}
    if wanted == got:
        load_state_dict(net, given)
    else:
        with pytest.raises(
            CheckpointError, match=rf'W: wanted {wanted}, got {got}; cast it .* dtype="{got}"'
        ):
            load_state_dict(net, given)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_must_be_asked_for(backend):
    with dc.use_backend(backend):
        net = small_net()
    given = host(net)
    given["layers.2.W"][1, 1] = np.nan
    given["layers.0.W"][0, 0] = np.inf  # passes
    with pytest.raises(CheckpointError, match=r"\n  layers\.2\.W: holds NaN; allow_nan=True accepts it$"):
        load_state_dict(net, given)
    load_state_dict(net, given, allow_nan=True)
    assert same(host(net), given)


def test_nan_can_be_asked_for_wherever_it_is_refused(tmp_path):
    net = dc.Net([Linear(2, 1, init=dc.init.constant(np.nan))])
    state = net.state_dict()
    net.save(tmp_path / "net")
    dc.io.save_torch(net, tmp_path / "net.pt")
    for use in (
        lambda **asked: dc.Net([Linear(2, 1)]).load_state_dict(state, **asked),
        lambda **asked: dc.Net.load(tmp_path / "net", **asked),
        lambda **asked: dc.io.load_torch(dc.Net([Linear(2, 1)]), tmp_path / "net.pt", **asked),
    ):
        with pytest.raises(CheckpointError, match="holds NaN; allow_nan=True accepts it"):
            use()
        use(allow_nan=True)


def test_files_of_another_kind_say_what_reads_them(tmp_path):
    net = dc.Net([Linear(2, 1)], dc.MSELoss())
    net.save(tmp_path / "net")
    dc.save_checkpoint(tmp_path / "run", net, dc.optim.SGD())
    dc.io.save_torch(net, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"run, it is a checkpoint; take .*deepcore.load_checkpoint"):
        dc.load(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"net.pt, it is a zip archive, .*deepcore.io.load_torch reads"):
        dc.load(tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match=r"net: deepcore wrote it, .*take deepcore.load\(path\)"):
        dc.io.load_torch(net, tmp_path / "net")


def test_what_is_no_optimizer_is_named(tmp_path):
    net = dc.Net([Linear(2, 1)], dc.MSELoss())
    for wrong in (None, net):
        with pytest.raises(dc.DTypeError, match="save_checkpoint: wanted .*path, net, optimizer.*net.save"):
            dc.save_checkpoint(tmp_path / "run", net, wrong)


def test_what_is_no_array_is_named():
    with pytest.raises(CheckpointError, match="W: wanted an array, got list"):
        load_state_dict(Linear(1, 1, bias=False), {"W": [[1.0]]})


def test_ties_and_functions_that_stand_twice_are_kept():
    net = full_net()
    given = {path: x + 1 for path, x in host(net).items()}
    load_state_dict(net, given)
    assert net.layers[1].weight["W"] is net.layers[3].weight["W"]
    assert same(host(net), given)


def test_all_or_nothing_when_a_device_fails(monkeypatch):
    net = small_net()
    before = dict(net.parameters())
    put = state.put

    def full_device(x, *rest, **options):
        if x.shape == (3, 2):
            raise MemoryError("out of memory")
        return put(x, *rest, **options)

    monkeypatch.setattr(state, "put", full_device)
    with pytest.raises(MemoryError):
        load_state_dict(net, {path: W + 1 for path, W in before.items()})
    assert all(net.parameters()[path] is W for path, W in before.items())


def test_gradients_after_loading():
    """A pass from before the load can't be read as if it had been made with the new weights."""
    layer = Linear(2, 2)
    layer(np.ones((1, 2)))
    load_state_dict(layer, state_dict(layer))
    with pytest.raises(StateError, match="weights were updated"):
        _ = layer.grad


# ---- files


@pytest.mark.parametrize("written_on", BACKENDS)
@pytest.mark.parametrize("read_on", BACKENDS)
def test_save_and_load(tmp_path, written_on, read_on):
    with dc.use_backend(written_on):
        net = full_net()
    save(net, tmp_path / "net.safetensors")
    with dc.use_backend(read_on):
        back = load(str(tmp_path / "net.safetensors"))
    assert type(back) is Composition
    assert describe(back) == describe(net)
    assert same(host(back), host(net))
    assert {dc.backend_of(x).name for x in state_dict(back).values()} == {read_on}
    assert back.layers[1] is back.layers[2][1].f
    assert back.layers[1].weight["W"] is back.layers[3].weight["W"]
    assert not back.layers[3].trainable
    assert not back.layers[2].training
    assert os.listdir(tmp_path) == ["net.safetensors"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_net_computes_and_learns_as_the_saved_one(tmp_path, backend):
    with dc.use_backend(backend):
        net = small_net()
        save(net, tmp_path / "a")
        back = load(tmp_path / "a")
        X = dc.asarray(np.random.default_rng(0).normal(size=(4, 2)).astype("float32"))
        y = dc.asarray(np.array([0, 1, 1, 0]))
        for f in (net, back):
            f.loss(f(X), y)
            f.backward()
            f.update_weights(0.1)
    assert same(host(net), host(back))


def test_normalisation_keeps_its_running_statistics(tmp_path):
    net = Composition([Conv2D(1, 2), BatchNorm2D(2)])
    net(np.random.default_rng(0).normal(size=(3, 1, 5, 5)).astype("float32"))
    assert "layers.1.running_mean" in state_dict(net)
    assert state_dict(net)["layers.1.running_mean"].any()
    save(net, tmp_path / "a")
    assert same(host(load(tmp_path / "a")), host(net))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("default", ["float32", "float64"])
def test_dtypes_are_as_stored_whatever_the_default_is(tmp_path, dtype, default):
    save(small_net(dtype=dtype), tmp_path / "a")
    dc.set_default_dtype(default)
    try:
        back = load(tmp_path / "a")
    finally:
        dc.set_default_dtype("float32")
    assert {dtype_name(W) for W in back.parameters().values()} == {dtype}
    assert all(W.base is None for W in back.parameters().values())  # memory of its own, not part of a file


def test_strided_and_transposed_weights_are_saved_right(tmp_path):
    net = small_net()
    W = np.arange(24.0, dtype="float32").reshape(6, 4)
    net.layers[0].weight["W"] = np.asfortranarray(W[:2, :3])
    net.layers[2].weight["W"] = W[3:, ::-2]
    save(net, tmp_path / "a")
    back = load(tmp_path / "a")
    assert np.array_equal(back.layers[0].weight["W"], W[:2, :3])
    assert np.array_equal(back.layers[2].weight["W"], W[3:, ::-2])


def test_single_functions_can_be_saved_too(tmp_path):
    layer = Linear(2, 3)
    save(layer, tmp_path / "a")
    assert same(host(load(tmp_path / "a")), host(layer))
    save(ReLU(), tmp_path / "b")
    assert isinstance(load(tmp_path / "b"), ReLU)


@pytest.mark.skipif("Net" not in registry(), reason="deepcore.net does not register Net yet")
def test_the_net_that_users_see(tmp_path):
    save(dc.Net([Linear(2, 3)]), tmp_path / "a")
    assert type(load(tmp_path / "a")) is dc.Net


def test_loading_uses_up_no_random_numbers(tmp_path):
    save(full_net(), tmp_path / "a")
    with drawing_from(Generator(5)) as generator:
        load(tmp_path / "a")
        assert generator.calls == {}


def test_saving_changes_nothing(tmp_path):
    net = full_net()
    net(np.ones((1, 2)))
    before, record, places = host(net), net._last.record, copy.copy(net.layers[0].weight)
    save(net, tmp_path / "a")
    assert same(host(net), before)
    assert net._last.record is record
    assert all(net.layers[0].weight[name] is W for name, W in places.items())


def test_nan_in_a_file_must_be_asked_for(tmp_path):
    net = small_net()
    net.layers[0].weight["W"] = np.full((2, 3), np.nan, "float32")
    save(net, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a, the arrays .*\n  layers\.0\.W: holds NaN; allow_nan=True"):
        load(tmp_path / "a")
    assert same(host(load(tmp_path / "a", allow_nan=True)), host(net))


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path):
    class NotKept(Layer):
        def __init__(self, width):
            pass

    save(small_net(), tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    with pytest.raises(UnsupportedError, match=r"write self\.width = width"):
        save(Composition([NotKept(3)]), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_class_that_is_not_registered_is_named_with_the_remedy(tmp_path):
    class Unknown(Function):
        pass

    save(Composition([Unknown()]), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a, there is no class 'Unknown'.*@deepcore\.register"):
        load(tmp_path / "a")
    register(Unknown)
    assert type(load(tmp_path / "a").layers[0]) is Unknown


def test_an_unusable_backend_is_not_the_files_fault(tmp_path, monkeypatch):
    save(small_net(), tmp_path / "a")

    def unusable():
        raise BackendUnavailable("no")

    monkeypatch.setattr(net_file, "selected_backend", unusable)
    with pytest.raises(BackendUnavailable):
        load(tmp_path / "a")


# ---- files that hold no net, or another one


def content(net, **changes) -> str:
    return json.dumps({"format": 1, "architecture": describe(net)} | changes)


def write(path, arrays, text) -> None:
    safetensors.write(path, arrays, {} if text is None else {"deepcore": text})


NO_NETS = {
    "arrays alone": (None, r"arrays but no net; make the net, then: net\.load_state_dict"),
    "empty text": ("", "architecture is no valid JSON"),
    "no JSON": ("{", "architecture is no valid JSON"),
    "nested JSON": ("[" * 100_000, "architecture is no valid JSON"),
    "a key twice": ('{"format": 1, "format": 1}', "'format' stands there twice"),
    "NaN": ('{"format": NaN}', "NaN is no JSON number"),
    "a list": ("[]", "makes no sense"),
    "null": ("null", "makes no sense"),
    "no format": ('{"architecture": {}}', "makes no sense"),
    "a newer format": (content(small_net(), format=2), r"newer deepcore wrote it \(format 2\); upgrade"),
    "format 0": (content(small_net(), format=0), "makes no sense"),
    "no architecture": ('{"format": 1}', "makes no sense"),
    "architecture null": (content(small_net(), architecture=None), "unknown parts"),
    "a larger net": (
        content(Composition([*small_net().layers, Linear(1, 1)])),
        r"do not fit .*\n  missing: layers\.3\.W\n  missing: layers\.3\.b$",
    ),
    "a smaller net": (
        content(Composition(small_net().layers[:2])),
        r"do not fit .*\n  extra: layers\.2\.W\n  extra: layers\.2\.b$",
    ),
    "another net": (
        content(Composition([Linear(3, 2), ReLU(), Linear(2, 3)])),
        r"layers\.0\.W: wanted shape \(3, 2\), got \(2, 3\)\n  layers\.0\.b: wanted shape .*\n  layers\.2\.W",
    ),
    "a huge net": (
        content(small_net()).replace('"in_dim": 2', '"in_dim": 2000000'),
        "a layer wants 6,000,000",
    ),
}


@pytest.mark.parametrize("name", NO_NETS)
def test_files_that_hold_no_net(tmp_path, name):
    text, message = NO_NETS[name]
    write(tmp_path / "bad.file", host(small_net()), text)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path / "bad.file")
    assert str(caught.value).startswith(f"{tmp_path / 'bad.file'}, ")


@pytest.mark.parametrize("dtype", ["int32", "bool", "uint8"])
def test_weights_that_are_no_floats(tmp_path, dtype):
    arrays = host(small_net()) | {"layers.0.W": np.ones((2, 3), dtype)}
    write(tmp_path / "a", arrays, content(small_net()))
    with pytest.raises(CheckpointError, match=rf"layers\.0\.W: wanted float32, got {dtype}"):
        load(tmp_path / "a")


def test_a_missing_file():
    with pytest.raises(FileNotFoundError):
        load("there is no such file")


def test_random_changes_of_the_architecture_give_a_net_or_one_kind_of_error(tmp_path, monkeypatch):
    """The checksums are right: only a program could write such files."""
    monkeypatch.setattr(safetensors.os, "fsync", lambda descriptor: None)  # 20 ms each
    net = full_net()
    arrays = host(net)
    described = json.loads(json.dumps(describe(net)))
    values = [
        None,
        True,
        0,
        1,
        -1,
        3,
        2**40,
        1.5,
        "",
        "Linear",
        "layers.0.W",
        [],
        {},
        [[]],
        {"repeat": 0},
        {"x": 1},
    ]
    refused = 0
    for seed in range(500):
        rng = random.Random(seed)
        changed = copy.deepcopy(described)
        for _ in range(rng.randint(1, 2)):
            change(changed, rng, values)
        write(tmp_path / "a", arrays, json.dumps({"format": 1, "architecture": changed}))
        try:
            assert isinstance(load(tmp_path / "a"), Function)
        except CheckpointError:
            refused += 1
    assert refused > 250


def change(tree, rng, values) -> None:
    """Replace, remove or add one value somewhere in a tree of dicts and lists."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(tree[key], dict | list) and tree[key] and rng.random() < 0.8:
            tree = tree[key]
            continue
        if rng.random() < 0.2:
            del tree[key]
        elif isinstance(tree, dict) and rng.random() < 0.2:
            tree[rng.choice(["x", "class", "repeat", "frozen"])] = rng.choice(values)
        else:
            tree[key] = rng.choice(values)
        return
