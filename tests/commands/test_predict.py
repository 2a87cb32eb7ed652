"""`predict`: samples of every kind, and what a net says of them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import CrossEntropyLoss, Embedding, Flatten, Linear, Net, Softmax
from deepcore.io.net_file import save

ROOT = Path(__file__).resolve().parents[2]


def rows(out):
    return [line.split(",") for line in out.splitlines()]


@pytest.fixture
def net():
    dc.seed(0)
    net = Net([Linear(3, 4)], CrossEntropyLoss())
    net.save("net")
    return net


@pytest.fixture
def X():
    X = np.random.default_rng(0).normal(size=(9, 3)).astype("float32")
    np.save("X.npy", X)
    return X


def test_labels_probabilities_and_raw_outputs(net, X, command):
    out = net.predict(X)
    P = np.exp(out) / np.exp(out).sum(axis=1, keepdims=True)
    code, lines, err = command("predict", "net", "X.npy")
    assert (code, err) == (0, "")
    assert lines == command("predict", "net", "X.npy", "--as", "labels")[1]
    np.testing.assert_array_equal(np.array(rows(lines), int)[:, 0], out.argmax(axis=1))
    raw = np.array(rows(command("predict", "net", "X.npy", "--as", "raw")[1]), "float32")
    np.testing.assert_array_equal(raw, out)  # nine digits are enough for float32
    P_lines = rows(command("predict", "net", "X.npy", "--as", "probabilities")[1])
    np.testing.assert_allclose(np.array(P_lines, float), P, rtol=1e-6)


def test_a_net_without_labels_gives_raw_outputs(X, command):
    net = Net([Linear(3, 2)], dc.MSELoss())
    net.save("net")
    np.testing.assert_array_equal(np.array(rows(command("predict", "net", "X.npy")[1]), "f4"), net.predict(X))


def test_a_softmax_is_not_taken_twice(X, command):
    net = Net([Linear(3, 4), Softmax()])
    net.save("net")
    lines = rows(command("predict", "net", "X.npy", "--as", "probabilities")[1])
    np.testing.assert_array_equal(np.array(lines, "f4"), net.predict(X))


@pytest.mark.parametrize("name", ["out.npy", "out.csv", "out.txt"])
def test_to_a_file(name, net, X, command, here):
    code, out, _ = command("predict", "net", "X.npy", "--as", "raw", "--out", name, "--batch-size", 4)
    assert (code, out) == (0, f"predictions: {name} (9 samples)\n")
    found = np.load(name) if name == "out.npy" else np.loadtxt(name, delimiter=",", dtype="float32")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, net.predict(X), rtol=1e-6)
    assert sorted(path.name for path in here.iterdir()) == sorted(["X.npy", "net", name])


def test_names_of_classes_come_with_the_net(X, net, command):
    save(net, "net", ["a", "b", "c,d", "e"])
    names = np.array(["a", "b", '"c,d"', "e"])[net.predict(X).argmax(axis=1)]
    assert command("predict", "net", "X.npy")[1].splitlines() == list(names)
    assert command("predict", "net", "X.npy", "--out", "out.npy")[0] == 0
    assert list(np.load("out.npy")) == [name.strip('"') for name in names]
    save(net, "net", ["a"])
    code, _, err = command("predict", "net", "X.npy")
    assert code == 2 and "the file names 1 classes, the net has more" in err


def test_names_that_the_terminal_lacks(X, net):
    save(net, "net", ["Bär", "b", "c", "d"])
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [sys.executable, "-m", "deepcore", "predict", "net", "X.npy"]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0 and not done.stderr
    names = np.array(["B\\xe4r", "b", "c", "d"])[net.predict(X).argmax(axis=1)]
    assert done.stdout.decode("ascii").split() == list(names)


def test_a_reader_that_has_seen_enough(net):
    """As `deepcore predict ... | head -1`."""
    np.save("many.npy", np.zeros((20000, 3), "float32"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-m", "deepcore", "predict", "net", "many.npy"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize("first", ["0.5,?,1", "0.5,,1", "0.5,NA,1"])
def test_a_first_sample_that_lacks_a_number_is_no_heading(first, net, command):
    Path("X.csv").write_text(f"{first}\n1,2,3\n")
    code, out, err = command("predict", "net", "X.csv")
    assert (code, out) == (2, "") and "X.csv, line 1: wanted numbers, got ['0.5', " in err


def test_train_saves_the_names(command, monkeypatch):
    monkeypatch.setattr("deepcore.commands.train.decision_boundary", lambda *_: None)
    assert command("train", "--save", "ring.net")[0] == 0
    lines = command("predict", "ring.net", "ring")[1].splitlines()
    assert len(lines) == 200 and set(lines) == {"ring", "disc"}
    assert sum(name == "ring" for name in lines[:100]) > 95


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X.csv", "1,2,3\n4,5,6\n"),
        ("X.csv", "\ufeffa,b,c\r\n1,2,3\r\n\r\n4,5,6\r\n"),
        ("X.CSV", "1;2;3\n4;5;6"),
        ("X.csv", '"a"\t"b"\tc\n1.0\t2e0\t"3"\n4\t5\t6\n'),
    ],
)
def test_tables(name, text, net, command, here):
    (here / name).write_bytes(text.encode())
    raw = np.array(rows(command("predict", "net", name, "--as", "raw")[1]), "float32")
    np.testing.assert_array_equal(raw, net.predict(np.array([[1, 2, 3], [4, 5, 6]], "float32")))


@pytest.mark.parametrize("arrays", [{"X": [[1.0, 2, 3]], "y": [0]}, {"rows": [[1, 2, 3]]}])
def test_archives(arrays, net, command):
    np.savez("set.npz", **{name: np.array(x) for name, x in arrays.items()})
    raw = np.array(rows(command("predict", "net", "set.npz", "--as", "raw")[1]), "float32")
    np.testing.assert_array_equal(raw, net.predict(np.array([[1, 2, 3]], "float32")))


@pytest.mark.parametrize("shape", [(5, 8, 6), (5, 1, 8, 6), (5, 8, 6, 1)])
def test_images_are_scaled_as_train_does(shape, command):
    net = Net([dc.Conv2D(1, 2, 3), Flatten(), Linear(48, 3)], CrossEntropyLoss())
    net.save("net")
    X = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    np.save("X.npy", X)
    wanted = net.predict(X.reshape(5, 1, 8, 6).astype("float32") / np.float32(255))
    found = np.array(rows(command("predict", "net", "X.npy", "--as", "raw")[1]), "f4")
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.save("X.npy", X / 255)
    found = np.array(rows(command("predict", "net", "X.npy", "--as", "raw")[1]), "f4")
    if shape != (5, 8, 6, 1):  # channels of floating images must be first
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_words_by_number(command):
    net = Net([Embedding(9, 2), Flatten(), Linear(6, 2)], CrossEntropyLoss())
    net.save("net")
    X = np.array([[1, 2, 3], [8, 0, 5]])
    np.save("X.npy", X)
    found = np.array(rows(command("predict", "net", "X.npy", "--as", "raw")[1]), "f4")
    np.testing.assert_array_equal(found, net.predict(X))


def test_a_folder_of_images(command, here):
    Image = pytest.importorskip("PIL.Image")
    net = Net([dc.Conv2D(1, 2, 3), Flatten(), Linear(32, 2)], CrossEntropyLoss())
    save(net, "net", ["cat", "dog"])
    X = np.random.default_rng(0).integers(0, 256, (3, 6, 6), "uint8")
    for name, image in zip(("b/1.png", "a.png", "b/0.png"), X, strict=True):
        (here / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(here / "images" / name)
    (here / "images" / ".hidden").write_text("")
    labels = net.predict(X[[1, 2, 0], None] / np.float32(255)).argmax(axis=1)
    wanted = [
        [name, ("cat", "dog")[k]] for name, k in zip(("a.png", "b/0.png", "b/1.png"), labels, strict=True)
    ]
    assert rows(command("predict", "net", "images")[1]) == wanted
    assert len(command("predict", "net", "images", "--as", "raw", "--size", 6)[1].splitlines()) == 3


def test_nets_of_other_files(net, X, command):
    pytest.importorskip("onnx")
    wanted = command("predict", "net", "X.npy", "--as", "raw")[1]
    dc.io.save_onnx(net, "net.onnx", (3,))
    dc.save_checkpoint("checkpoint", net, dc.optim.SGD())
    for path in ("net.onnx", "checkpoint"):
        assert command("predict", path, "X.npy", "--as", "raw")[1] == wanted


def test_on_another_library(net, X, command):
    wanted = command("predict", "net", "X.npy")[1]
    assert command("predict", "net", "X.npy", "--backend", "array_api_strict")[1] == wanted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nothing", "X.npy"], "No such file or directory: 'nothing'"),
        (["X.npy", "X.npy"], "X.npy"),
        (["layer", "X.npy"], "'layer' holds a Linear, not a whole Net"),
        (["weights", "X.npy"], "weights: it holds weights but no net; deepcore convert weights NEW.saf"),
        (["weights.pt", "X.npy"], "weights.pt: it holds weights but no net"),
        (["net", "Y.npy"], "there is no file or folder 'Y.npy'; did you mean X.npy"),
        (["net", "net"], "net: wanted a folder of images, or a file .npy, .npz, .csv"),
        (["net", "bad.npy"], "bad.npy: cannot be read"),
        (["net", "zip.npy"], "zip.npy: is no .npy file"),
        (["net", "bad.npz"], "bad.npz: is no .npz file"),
        (["net", "many.npz"], "many.npz: wanted an array X, or only one; it holds a, b"),
        (["net", "words.npy"], "words.npy: the samples must be real numbers of shape (n, ...)"),
        (["net", "flat.npy"], "got float64 of shape (3,)"),
        (["net", "word.csv"], "word.csv, line 3: wanted 3 numbers, got ['4', 'x', '6']"),
        (["net", "short.csv"], "short.csv, line 2: wanted 3 numbers, got ['4', '5']"),
        (["net", "empty.csv"], "empty.csv: the samples must be real numbers"),
        (["net", "bytes.csv"], "bytes.csv: cannot be read as a table"),
        (["net", "empty"], "empty: has no files"),
        (["net", "X.npy", "--size", 4], "size is for a folder of images, which 'X.npy' is not"),
        (["net", "X.npy", "--as", "words"], "--as: invalid choice: 'words'"),
        (["net", "X.npy", "--out", "no/out.npy"], "--out: there is no folder 'no'"),
        (["one", "X.npy", "--as", "labels"], "labels need an output for each of two classes or more"),
        (["net", "wide.npy"], "X must end in 3, got (2, 5)"),
    ],
)
def test_what_the_user_has_to_change(arguments, text, net, X, command, here):
    save(Linear(2, 2), "layer")
    Net([Linear(3, 1)], dc.MSELoss()).save("one")
    dc.io.safetensors.write("weights", net.state_dict())
    dc.io.save_torch(net, "weights.pt")
    (here / "bad.npy").write_bytes(b"nothing")
    (here / "bad.npz").write_bytes(b"nothing")
    np.savez("many.npz", a=X, b=X)
    (here / "many.npz").rename("zip.npy")
    np.savez("many.npz", a=X, b=X)
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("flat.npy", np.ones(3))
    np.save("wide.npy", np.ones((2, 5)))
    (here / "word.csv").write_text("a,b,c\n1,2,3\n4,x,6\n")
    (here / "short.csv").write_text("1,2,3\n4,5\n")
    (here / "empty.csv").write_text("")
    (here / "bytes.csv").write_bytes(b"\xff\xfe\x00\x00")
    (here / "empty").mkdir()
    before = sorted(path.name for path in here.iterdir())
    code, out, err = command("predict", *arguments)
    assert (code, out) == (2, "") and text in err, err
    assert sorted(path.name for path in here.iterdir()) == before


def test_a_failure_leaves_an_older_file(net, X, command, here):
    np.save("wide.npy", np.ones((2, 5)))
    (here / "out.csv").write_text("old")
    assert command("predict", "net", "wide.npy", "--out", "out.csv")[0] == 2
    assert (here / "out.csv").read_text() == "old"
