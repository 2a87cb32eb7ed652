"""Weights from and for torch: every layer of the table against torch itself, and files that do not fit."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import deepcore as dc
from deepcore import Linear, Net, ReLU
from deepcore.io import pt

torch = pytest.importorskip("torch", reason="needs torch to write and read its own files")

FORMATS = ["pt", "safetensors"]


def save(model, path):
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="needs safetensors to write as torch does")
        from safetensors.torch import save_file

        save_file({name: x.contiguous() for name, x in model.state_dict().items()}, path)
    else:
        torch.save(model.state_dict(), path)


def randomise(module):
    """Nothing stays at 0 or 1, so that no two arrays can be mistaken for each other."""
    for x in module.state_dict().values():
        if x.is_floating_point():
            x.copy_(torch.rand_like(x) + 0.5)
    return module


class FirstOutput(torch.nn.Module):
    """A module of torch that returns more than deepcore's, with its first output alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, X):
        Y = self.inner(X, X, X) if isinstance(self.inner, torch.nn.MultiheadAttention) else self.inner(X)
        return Y[0] if isinstance(Y, tuple) else Y


def recurrent(kind, **settings):
    return lambda: FirstOutput(getattr(torch.nn, kind)(3, 4, batch_first=True, **settings))


# class here, its arguments, the module of torch, the shape of X
LAYERS = [
    ("Linear", (3, 2), {}, lambda: torch.nn.Linear(3, 2), (5, 3)),
    ("Linear", (3, 2), {"bias": False}, lambda: torch.nn.Linear(3, 2, bias=False), (5, 3)),
    ("Conv1D", (2, 4, 3), {}, lambda: torch.nn.Conv1d(2, 4, 3), (2, 2, 7)),
    ("Conv2D", (2, 4, 3), {"groups": 2}, lambda: torch.nn.Conv2d(2, 4, 3, groups=2), (2, 2, 7, 7)),
    ("Conv3D", (2, 4, 2), {}, lambda: torch.nn.Conv3d(2, 4, 2), (2, 2, 4, 4, 4)),
    ("ConvTranspose1D", (2, 4, 3), {}, lambda: torch.nn.ConvTranspose1d(2, 4, 3), (2, 2, 5)),
    ("ConvTranspose2D", (2, 4, 3), {"stride": 2}, lambda: torch.nn.ConvTranspose2d(2, 4, 3, 2), (2, 2, 5, 5)),
    ("ConvTranspose3D", (2, 4, 2), {}, lambda: torch.nn.ConvTranspose3d(2, 4, 2), (2, 2, 3, 3, 3)),
    ("BatchNorm1D", (3,), {}, lambda: torch.nn.BatchNorm1d(3), (4, 3)),
    ("BatchNorm2D", (3,), {}, lambda: torch.nn.BatchNorm2d(3), (4, 3, 2, 2)),
    ("BatchNorm3D", (3,), {}, lambda: torch.nn.BatchNorm3d(3), (4, 3, 2, 2, 2)),
    ("LayerNorm", (3,), {}, lambda: torch.nn.LayerNorm(3), (4, 3)),
    ("LayerNorm", ((2, 3),), {}, lambda: torch.nn.LayerNorm((2, 3)), (4, 2, 3)),
    ("RMSNorm", (3,), {}, lambda: torch.nn.RMSNorm(3, eps=1e-5), (4, 3)),
    ("GroupNorm", (2, 4), {}, lambda: torch.nn.GroupNorm(2, 4), (3, 4, 5)),
    ("InstanceNorm1D", (3,), {}, lambda: torch.nn.InstanceNorm1d(3, affine=True), (2, 3, 5)),
    ("PReLU", (), {}, lambda: torch.nn.PReLU(), (4, 3)),
    ("PReLU", (3,), {}, lambda: torch.nn.PReLU(3), (4, 3)),
    ("Embedding", (7, 3), {}, lambda: torch.nn.Embedding(7, 3), None),
    ("RNN", (3, 4), {}, recurrent("RNN"), (2, 5, 3)),
    ("LSTM", (3, 4), {"num_layers": 2}, recurrent("LSTM", num_layers=2), (2, 5, 3)),
    ("GRU", (3, 4), {"bidirectional": True}, recurrent("GRU", bidirectional=True), (2, 5, 3)),
    (
        "MultiHeadAttention",
        (4, 2),
        {},
        lambda: FirstOutput(torch.nn.MultiheadAttention(4, 2, batch_first=True)),
        (2, 5, 4),
    ),
]


def layer(name, arguments, settings):
    if not hasattr(dc, name):
        pytest.skip(f"deepcore has no {name} yet")
    return getattr(dc, name)(*arguments, **settings)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("name", "arguments", "settings", "theirs", "shape"), LAYERS)
def test_a_layer_with_weights_of_torch_gives_what_torch_gives(
    name, arguments, settings, theirs, shape, suffix, tmp_path
):
    net = Net([layer(name, arguments, settings)]).eval()
    model = randomise(torch.nn.Sequential(theirs()).eval())
    save(model, tmp_path / f"model.{suffix}")
    dc.io.load_torch(net, tmp_path / f"model.{suffix}")
    X = (
        np.random.default_rng(0).standard_normal(shape).astype("float32")
        if shape
        else np.array([[1, 6], [0, 3]])
    )
    with torch.no_grad():
        expected = model(torch.tensor(X)).numpy()
    np.testing.assert_allclose(net.predict(X), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(("name", "arguments", "settings", "theirs", "shape"), LAYERS)
def test_what_is_saved_is_the_state_dict_of_torch(name, arguments, settings, theirs, shape, suffix, tmp_path):
    net = Net([layer(name, arguments, settings)])
    model = torch.nn.Sequential(theirs())
    inner = model[0].inner if isinstance(model[0], FirstOutput) else model[0]
    path = tmp_path / f"net.{suffix}"
    dc.io.save_torch(net, path)
    if suffix == "pt":
        saved = torch.load(path, weights_only=True)
    else:
        saved = pytest.importorskip("safetensors.torch", reason="needs safetensors").load_file(path)
    torch.nn.Sequential(inner).load_state_dict(saved, strict=True)
    save(torch.nn.Sequential(inner), path)
    other = Net([layer(name, arguments, settings)])
    dc.io.load_torch(other, path)
    for key, x in net.state_dict().items():
        assert np.array_equal(x, other.state_dict()[key]), key


def mlp():
    return Net([Linear(3, 4), ReLU(), Linear(4, 4), ReLU(), Linear(4, 2)])


class Named(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.zeta = torch.nn.Linear(3, 4)
        self.middle = torch.nn.Linear(4, 4)
        self.alpha = torch.nn.Linear(4, 2)

    def forward(self, X):
        return self.alpha(self.middle(self.zeta(X).relu()).relu())


@pytest.mark.parametrize("suffix", FORMATS)
def test_modules_of_other_names_come_in_their_order(suffix, tmp_path):
    """In a .safetensors file, which is sorted, they are told apart by their shapes."""
    model, net = Named(), mlp()
    save(model, tmp_path / f"model.{suffix}")
    dc.io.load_torch(net, tmp_path / f"model.{suffix}")
    X = torch.randn(5, 3)
    np.testing.assert_allclose(net.predict(X.numpy()), model(X).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_modules_of_one_shape_and_other_names_are_refused_where_the_file_has_no_order(tmp_path):
    model = torch.nn.ModuleDict({"b": torch.nn.Linear(3, 3), "a": torch.nn.Linear(3, 3)})
    net = Net([Linear(3, 3), Linear(3, 3)])
    save(model, tmp_path / "model.safetensors")
    with pytest.raises(
        dc.CheckpointError, match="layers.0 could be any of a, b: .safetensors files keep no order"
    ):
        dc.io.load_torch(net, tmp_path / "model.safetensors")
    save(model, tmp_path / "model.pt")
    dc.io.load_torch(net, tmp_path / "model.pt")
    assert np.array_equal(net.layers[0].weight["W"].T, model["b"].weight.detach())


def test_ten_modules_of_one_shape_are_taken_by_number(tmp_path):
    """Sorted as text, 10 would come before 2."""
    model = torch.nn.ModuleDict({"body": torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(12)))})
    net = Net([Linear(2, 2) for _ in range(12)])
    save(model, tmp_path / "model.safetensors")
    dc.io.load_torch(net, tmp_path / "model.safetensors")
    for ours, theirs in zip(net.layers, model["body"], strict=True):
        assert np.array_equal(ours.weight["W"].T, theirs.weight.detach())


def test_nested_containers_agree_by_name(tmp_path):
    net = Net([dc.Sequential(Linear(2, 2), ReLU(), Linear(2, 2)), Linear(2, 2)])
    model = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2)),
        torch.nn.Linear(2, 2),
    )
    dc.io.save_torch(net, tmp_path / "net.pt")
    model.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    X = torch.randn(3, 2)
    np.testing.assert_allclose(net.predict(X.numpy()), model(X).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_all_faults_come_in_one_error_and_nothing_changes(tmp_path):
    net = mlp()
    before = net.state_dict()
    model = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(4, 4, bias=False), torch.nn.ReLU()
    ).append(torch.nn.Linear(4, 2).double())
    save(model, tmp_path / "model.pt")
    with pytest.raises(dc.CheckpointError) as error:
        dc.io.load_torch(net, tmp_path / "model.pt")
    text = str(error.value)
    assert "model.pt, load_torch: the file does not fit the net\n" in text
    assert "0.weight: layers.0.W wants (4, 3), got (5, 3)" in text
    assert "0.bias: layers.0.b wants (4,), got (5,)" in text
    assert "missing: 2.bias, for layers.2.b" in text
    for path, x in before.items():
        assert np.array_equal(net.state_dict()[path], x)


def test_a_dtype_is_not_cast_and_nan_not_taken(tmp_path):
    net = Net([Linear(2, 1)])
    torch.save({"0.weight": torch.ones(1, 2).double(), "0.bias": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(dc.CheckpointError, match="layers.0.W: wanted float32, got float64; cast it"):
        dc.io.load_torch(net, tmp_path / "a.pt")
    torch.save({"0.weight": torch.full((1, 2), torch.nan), "0.bias": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(dc.CheckpointError, match="layers.0.W: holds NaN"):
        dc.io.load_torch(net, tmp_path / "a.pt")


def test_another_number_of_layers_is_listed(tmp_path):
    save(torch.nn.Sequential(torch.nn.Linear(3, 4)), tmp_path / "a.pt")
    with pytest.raises(dc.CheckpointError, match="has 3 layers with weights: .*; the file has 1: 0"):
        dc.io.load_torch(mlp(), tmp_path / "a.pt")
    save(torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(2))), tmp_path / "b.pt")
    with pytest.raises(dc.CheckpointError, match="extra: 1.weight"):
        dc.io.load_torch(Net([Linear(2, 2)]), tmp_path / "b.pt")


def test_shared_weights_stay_shared(tmp_path):
    a, b = Linear(2, 2), Linear(2, 2)
    b.weight["W"] = a.weight["W"]
    net = Net([a, b])
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    save(model, tmp_path / "a.pt")
    with pytest.raises(dc.CheckpointError, match="layers.0.W is shared by layers whose weights differ"):
        dc.io.load_torch(net, tmp_path / "a.pt")
    model[1].weight = model[0].weight
    save(model, tmp_path / "a.pt")
    dc.io.load_torch(net, tmp_path / "a.pt")
    assert a.weight["W"] is b.weight["W"]
    assert np.array_equal(a.weight["W"].T, model[0].weight.detach())


def test_the_weights_of_a_users_layer_have_their_own_names(tmp_path):
    class Scale(dc.Layer):
        def __init__(self):
            super().__init__()
            self.weight["s"] = dc.asarray([[2.0, 3.0]])

    net = Net([Scale(), Linear(2, 1)])
    dc.io.save_torch(net, tmp_path / "a.pt")
    saved = torch.load(tmp_path / "a.pt", weights_only=True)
    assert saved["0.s"].tolist() == [[2, 3]]
    other = Net([Scale(), Linear(2, 1)])
    other.layers[0].weight["s"] = dc.asarray([[0.0, 0.0]])
    dc.io.load_torch(other, tmp_path / "a.pt")
    assert other.layers[0].weight["s"].tolist() == [[2, 3]]


def test_weights_go_where_the_net_is(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    save(model, tmp_path / "a.pt")
    net = Net([Linear(2, 2)]).to("torch")
    dc.io.load_torch(net, tmp_path / "a.pt")
    assert torch.equal(net.layers[0].weight["W"].T, model[0].weight.detach())


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(dc.ArgumentError, match="must end in .pt, .pth, .safetensors, got .*net.bin"):
        dc.io.save_torch(mlp(), tmp_path / "net.bin")
    assert not list(tmp_path.iterdir())


# ---- the format


TENSORS = {
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "strided": torch.arange(10)[2:8:2],
    "bfloat16": torch.tensor([1.5, -3e38, torch.inf]).bfloat16(),
    "float16": torch.randn(5).half(),
    "float64": torch.randn(5).double(),
    "empty": torch.zeros(0, 3),
    "scalar": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "int16": torch.tensor([-5, 7], dtype=torch.int16),
    "expanded": torch.ones(1).expand(5),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "größe": torch.ones(1),
}


def on_host(x):
    x = x.detach()
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()


def test_tensors_of_every_kind(tmp_path):
    torch.save(TENSORS, tmp_path / "a.pt")
    arrays = pt.read(tmp_path / "a.pt")
    assert list(arrays) == list(TENSORS)
    for name, x in TENSORS.items():
        assert np.array_equal(arrays[name], on_host(x)), name
        assert arrays[name].dtype == on_host(x).dtype, name


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_what_is_written(mmap, tmp_path):
    arrays = {name: on_host(x) for name, x in TENSORS.items()}
    pt.write(tmp_path / "a.pt", arrays)
    saved = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
    assert list(saved) == list(arrays)
    for name, x in saved.items():
        assert np.array_equal(x.numpy(), arrays[name]) and x.numpy().dtype == arrays[name].dtype
        assert x.data_ptr() % 64 == 0 or not mmap or x.numel() == 0


def test_no_torch_is_imported_to_write_and_read(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "import deepcore as dc\n"
        "net = dc.Net([dc.Linear(2, 1)])\n"
        f"dc.io.save_torch(net, {os.fspath(tmp_path / 'a.pt')!r})\n"
        f"dc.io.load_torch(net, {os.fspath(tmp_path / 'a.pt')!r})\n"
        "assert 'torch' not in sys.modules and 'pickle' not in vars(dc.io.pt)\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def archive(path, program, members=(), **settings):
    with zipfile.ZipFile(path, "w", **settings) as file:
        file.writestr("archive/data.pkl", program)
        for name, data in members:
            file.writestr(f"archive/{name}", data)


BAD = {
    "a call": pickle.dumps({"a": Evil()}, 2),
    "a class": pickle.dumps({"a": dc.Linear}, 2),
    "a list": pickle.dumps([1, 2], 2),
    "a number": pickle.dumps(3, 2),
    "numbers by name": pickle.dumps({"a": 3}, 2),
    "no string": pickle.dumps({3: 4}, 2),
    "nothing": b"",
    "cut": pickle.dumps({"a": 3}, 2)[:-3],
    "an empty stack": b"\x80\x02.",
    "an unknown memo": b"\x80\x02h\x05.",
    "a name twice": b"\x80\x02}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u.",
    "an open mark": b"\x80\x02(.",
    "no mark": b"\x80\x02}K\x01t.",
    "itself": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
    "no instruction": b"\x80\x02\xff.",
    "eval": b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
    "a storage alone": (
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ."
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_pickle_that_is_no_state_dict_is_refused_and_nothing_is_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive(tmp_path / "a.pt", BAD[name], [("data/0", bytes(8))])
    with pytest.raises(dc.CheckpointError, match="a.pt, "):
        pt.read(tmp_path / "a.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_huge_place_in_memory_takes_none(tmp_path):
    """A true unpickler makes room for four thousand million values here."""
    archive(tmp_path / "a.pt", b"\x80\x02}r\xff\xff\xff\xff.")
    assert pt.read(tmp_path / "a.pt") == {}


def tensor(size=4, offset=0, shape=(4,), strides=(1,), key="0"):
    """The program of {"x": a tensor}."""
    storage = pt._PersistentId(("storage", pt._Global("torch FloatStorage"), key, "cpu", size))
    call = pt._Call(pt._Global(pt._REBUILD), (storage, offset, shape, strides, False, ()))
    return b"\x80\x02" + pt._pickled({"x": call}) + b"."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 5}, "has 16 bytes, which is not what 5 float32 numbers take"),
        ({"size": 2**60}, "has 16 bytes"),
        ({"shape": (5,)}, "reaches beyond its storage"),
        ({"offset": 1}, "reaches beyond its storage"),
        ({"strides": (2,)}, "reaches beyond its storage"),
        ({"offset": -1}, "a tensor of offset -1"),
        ({"strides": (-1,)}, r"strides \(-1,\)"),
        ({"shape": (2, 2)}, "a tensor of offset 0"),
        ({"shape": (2**40, 2**40), "strides": (0, 0)}, "no array can have"),
        ({"key": "../0"}, "lacks 'data/../0'"),
        ({"shape": (True,)}, "a tensor of"),
    ],
    ids=str,
)
def test_a_tensor_that_its_storage_cannot_show(settings, message, tmp_path):
    archive(tmp_path / "a.pt", tensor(), [("data/0", bytes(16))])
    assert pt.read(tmp_path / "a.pt")["x"].shape == (4,)
    archive(tmp_path / "a.pt", tensor(**settings), [("data/0", bytes(16))])
    with pytest.raises(dc.CheckpointError, match=message):
        pt.read(tmp_path / "a.pt")


def test_a_tensor_without_strides_takes_no_memory(tmp_path):
    """A petabyte of one number is a view; it then has not the shape of any weight."""
    archive(tmp_path / "a.pt", tensor(shape=(2**40,), strides=(0,)), [("data/0", bytes(16))])
    with pytest.raises(dc.CheckpointError, match="does not fit the net"):
        dc.io.load_torch(Net([Linear(2, 2)]), tmp_path / "a.pt")


def test_other_files_are_refused(tmp_path):
    model = torch.nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(model, tmp_path / "model.pt")
    archive(tmp_path / "deflated.pt", tensor(), [("data/0", bytes(16))], compression=zipfile.ZIP_DEFLATED)
    (tmp_path / "text.pt").write_text("no archive at all")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "deflated.pt").read_bytes()[:60])
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as file:
        file.writestr("a.txt", "")
    for name, message in {
        "old": "the format that torch wrote before version 1.6",
        "model": "it wants to run 'torch.nn.modules.linear.Linear'; wanted a state_dict",
        "deflated": "compressed",
        "text": "text.pt, ",
        "cut": "damaged",
        "zip": "no data.pkl",
    }.items():
        with pytest.raises(dc.CheckpointError, match=message):
            dc.io.load_torch(Net([Linear(2, 2)]), tmp_path / f"{name}.pt")
    with pytest.raises(FileNotFoundError):
        dc.io.load_torch(Net([Linear(2, 2)]), tmp_path / "none.pt")


def test_any_byte_may_be_wrong(tmp_path):
    """Mutations end in one kind of error, or in a file that says the same."""
    pt.write(tmp_path / "a.pt", {"0.weight": np.ones((3, 2), "float32"), "0.bias": np.ones(3, "float32")})
    whole = (tmp_path / "a.pt").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        (tmp_path / "b.pt").write_bytes(data)
        try:
            arrays = pt.read(tmp_path / "b.pt")
        except dc.CheckpointError:
            refused += 1
        else:
            assert all(x.dtype.kind in "fiub" for x in arrays.values())
    assert refused > 300


def test_numbers_of_the_other_byte_order_are_refused(tmp_path):
    archive(tmp_path / "a.pt", tensor(), [("data/0", bytes(16)), ("byteorder", b"big")])
    with pytest.raises(dc.CheckpointError, match="big-endian"):
        pt.read(tmp_path / "a.pt")


def test_a_damaged_number_is_noticed(tmp_path):
    pt.write(tmp_path / "a.pt", {"x": np.full(50, 1.25, "float32")})
    data = bytearray((tmp_path / "a.pt").read_bytes())
    place = data.index(struct.pack("<f", 1.25) * 3)
    data[place] ^= 1
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(dc.CheckpointError, match="damaged"):
        pt.read(tmp_path / "a.pt")


def test_importing_deepcore_imports_no_reader():

    code = (
        "import sys, deepcore\n"
        "heavy = {'zipfile', 'pickletools', 'deepcore.io.pt', 'deepcore.io.onnx_read'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
        "assert all(callable(getattr(deepcore.io, name)) for name in deepcore.io.__all__)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
