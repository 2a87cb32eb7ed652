"""`convert`: every kind of file into every other, as far as there is a way."""

import subprocess
import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore import CrossEntropyLoss, Flatten, Linear, Net, ReLU
from deepcore.io.net_file import read_class_names, save


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture
def net():
    dc.seed(0)
    net = Net([Linear(3, 4), ReLU(), Linear(4, 2)], CrossEntropyLoss())
    save(net, "net.safetensors", ["a", "b"])
    dc.seed(1)
    Net([Linear(3, 4), ReLU(), Linear(4, 2)], CrossEntropyLoss()).save("other.safetensors")
    return net


X = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def test_to_onnx_and_back(net, command):
    pytest.importorskip("onnx")
    code, out, _ = command("convert", "net.safetensors", "net.onnx")
    assert (code, out) == (0, "net.onnx: an ONNX graph\n")
    assert command("convert", "net.onnx", "again.safetensors")[0] == 0
    again = dc.load("again.safetensors")
    assert same(net.state_dict(), again.state_dict())
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


@pytest.mark.parametrize("end", [".pt", ".pth"])
def test_to_torch_and_back(end, net, command):
    torch = pytest.importorskip("torch")
    assert command("convert", "net.safetensors", f"w{end}")[0] == 0
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    theirs.load_state_dict(torch.load(f"w{end}", weights_only=True))
    np.testing.assert_allclose(theirs(torch.tensor(X)).detach().numpy(), net.predict(X), rtol=1e-5, atol=1e-6)
    code, _, _ = command("convert", f"w{end}", "again.safetensors", "--net", "other.safetensors")
    assert code == 0 and same(dc.load("again.safetensors").state_dict(), net.state_dict())


def test_torch_to_onnx_and_python_by_a_net(net, command):
    pytest.importorskip("onnx")
    dc.io.save_torch(net, "w.pt")
    dc.io.save_torch(net, "w.safetensors")
    dc.io.safetensors.write("own.safetensors", net.state_dict())
    for source in ("w.pt", "w.safetensors", "own.safetensors"):
        for target in ("t.onnx", "t.py", "t.safetensors"):
            assert command("convert", source, target, "--net", "other.safetensors")[0] == 0
        np.testing.assert_array_equal(dc.io.load_onnx("t.onnx").predict(X), net.predict(X))
        assert same(dc.load("t.safetensors").state_dict(), net.state_dict())


def test_to_python(net, command):
    assert command("convert", "net.safetensors", "model.py")[0] == 0
    code = f"import model; print(model.predict({X.tolist()}).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(eval(done.stdout), net.predict(X), rtol=1e-6, atol=1e-6)


def test_onnx_to_torch_and_python(net, command):
    pytest.importorskip("onnx")
    dc.io.save_onnx(net, "net.onnx", (3,))
    for target in ("w.pt", "model.py"):
        assert command("convert", "net.onnx", target)[0] == 0
    again = dc.load("other.safetensors")
    dc.io.load_torch(again, "w.pt")
    assert same(again.state_dict(), net.state_dict())


def test_a_checkpoint_becomes_a_net(net, command):
    dc.save_checkpoint("run.ckpt", net, dc.optim.SGD())
    assert command("convert", "run.ckpt", "of_run.safetensors")[0] == 0
    assert same(dc.load("of_run.safetensors").state_dict(), net.state_dict())


def test_names_of_classes_stay(net, command):
    assert command("convert", "net.safetensors", "copy.safetensors")[0] == 0
    assert read_class_names("copy.safetensors") == ("a", "b")


def test_the_shape_of_a_sample(command):
    pytest.importorskip("onnx")
    Net([Flatten(), Linear(12, 2)]).save("net.safetensors")
    code, _, err = command("convert", "net.safetensors", "net.onnx")
    assert code == 2 and "--input-shape is missing: the shape of one sample, such as 1,28,28" in err
    for shape in ("3,4", "3x4"):
        assert command("convert", "net.safetensors", "net.onnx", "--input-shape", shape)[0] == 0
    assert command("convert", "net.safetensors", "net.onnx", "--input-shape", "3,5")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["net.safetensors", "net.tflite"], "TARGET must end in .safetensors, .onnx, .py, .pt, .pth, got"),
        (["model.py", "net.onnx"], "a Python file is for reading and running, not for loading"),
        (["w.pt", "x.pt"], "'w.pt' is such a file already; copy it"),
        (["net.safetensors", "./net.safetensors"], "TARGET is SOURCE, 'net.safetensors'; name another file"),
        (["w.pt", "x.safetensors"], "w.pt: holds weights alone; say with --net FILE which net they are for"),
        (
            ["net.safetensors", "x.pt", "--net", "other.safetensors"],
            "holds a net of its own; leave --net out",
        ),
        (
            ["net.safetensors", "x.pt", "--input-shape", "3"],
            "--input-shape is for a TARGET that ends in .onnx",
        ),
        (["net.safetensors", "x.onnx", "--input-shape", "3,a"], "must be a whole number of 1 or more, got a"),
        (["net.safetensors", "no/x.pt"], "TARGET: there is no folder 'no'; make it first"),
        (["nothing.safetensors", "x.pt"], "No such file or directory: 'nothing.safetensors'"),
        (["w.pt", "x.safetensors", "--net", "w.pt"], "w.pt: it holds weights but no net"),
        (["w.pt", "x.safetensors", "--net", "small.safetensors"], "the file does not fit the net"),
        (["two.safetensors", "x.py"], "Bilinear"),
        (["damaged.safetensors", "x.pt"], "damaged.safetensors"),
    ],
)
def test_what_the_user_has_to_change(arguments, text, net, command, here):
    dc.io.save_torch(net, "w.pt")
    net.to_python("model.py")
    Net([Linear(2, 2)]).save("small.safetensors")
    Net([dc.Bilinear(2, 2, 2)]).save("two.safetensors")
    (here / "damaged.safetensors").write_bytes(b"nothing at all")
    before = sorted(path.name for path in here.iterdir())
    code, out, err = command("convert", *arguments)
    assert (code, out) == (2, "") and text in err, err
    assert sorted(path.name for path in here.iterdir()) == before
