import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.cli import main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def without(monkeypatch):
    """without("PIL"): as if the package were not installed."""

    def without(*names):
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return without


@pytest.fixture
def train(capsys):
    """train("--epochs", 3) -> exit code, standard output, standard error."""

    def train(*arguments):
        code = main(["train", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return train


def python(*arguments):
    """A fresh interpreter, in the current folder, with this checkout's deepcore."""
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )


def as_a_module(*arguments):
    return python("-m", "deepcore", *arguments)


def accuracy(out, part="train"):
    return float(re.search(rf"{part} accuracy ([\d.]+) %", out)[1])


def columns(seed=0):
    """Three classes on a line, in columns of very different scales; the third never varies."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, 300)
    return np.stack([5000 + 40 * y, rng.uniform(0, 1e-3, 300), np.full(300, 7)], axis=1), y


class TestRing:
    def test_it_is_learned(self, train, here):
        pytest.importorskip("matplotlib")
        code, out, err = train()
        assert code == 0
        assert re.fullmatch(
            r"train accuracy [\d.]+ % \(200 samples\), [\d.]+ s\ndecision boundary: ring.png\n", out
        )
        assert accuracy(out) >= 95
        assert "epoch 100/100" in err
        assert (here / "ring.png").read_bytes().startswith(b"\x89PNG")

    def test_other_seeds_learn_it_too(self, train, without):
        without("matplotlib", "matplotlib.figure")
        learned = [accuracy(train("--seed", seed)[1]) >= 95 for seed in range(10, 20)]
        assert sum(learned) >= 9

    def test_in_the_terminal_without_matplotlib(self, train, without, here):
        without("matplotlib", "matplotlib.figure")
        code, out, _ = train()
        first, *page, _, marks, remedy = out.splitlines()
        assert code == 0 and first.startswith("train accuracy ")
        assert len(page) == 24 and {len(line) for line in page} == {60}
        assert "x" in page[12] and page[0] == "." * 60
        assert marks.startswith("regions and samples: ring '.' o, disc ' ' x")
        assert "pip install 'deepcore[plot]'" in remedy
        assert not list(here.iterdir())

    def test_a_picture_asked_for_needs_matplotlib(self, train, without):
        without("matplotlib", "matplotlib.figure")
        code, _, err = train("--picture", "my.png", "--epochs", 1)
        assert code == 2 and err.endswith("pip install 'deepcore[plot]'\n")

    def test_the_picture_goes_where_it_is_asked_for(self, train, here):
        pytest.importorskip("matplotlib")
        assert train("--epochs", 1, "--picture", "my.svg")[0] == 0
        assert [path.name for path in here.iterdir()] == ["my.svg"]

    def test_the_seed_decides(self, train, without):
        without("matplotlib", "matplotlib.figure")
        progress = [train("--epochs", 3, "--seed", seed)[2] for seed in (1, 1, 2)]
        assert progress[0] == progress[1] != progress[2]

    def test_options_reach_the_training(self, train, monkeypatch):
        asked = {}

        def fit(net, X, y, **options):
            asked.update(options)
            raise KeyboardInterrupt

        monkeypatch.setattr(dc.Net, "fit", fit)
        train("--epochs", 7, "--lr", "0.25", "--batch-size", 11, "--seed", 5)
        assert (asked["epochs"], asked["batch_size"], asked["seed"]) == (7, 11, 5)
        assert asked["optimizer"].lr == 0.25

    def test_an_interrupt(self, train, monkeypatch):
        def fit(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(dc.Net, "fit", fit)
        code, out, err = train()
        assert (code, out, err) == (130, "", "\ndeepcore train: interrupted\n")


class TestBackend:
    def test_another_library(self, train, monkeypatch):
        pytest.importorskip("matplotlib")
        kinds = []
        evaluate = dc.Net.evaluate

        def spied(net, *arguments, **options):
            kinds.append(dc.backend_of(net.layers[0].weight["W"]).name)
            return evaluate(net, *arguments, **options)

        monkeypatch.setattr(dc.Net, "evaluate", spied)
        code, out, _ = train("--backend", "array_api_strict", "--epochs", 2)
        assert code == 0 and out.endswith("decision boundary: ring.png\n")
        assert set(kinds) == {"array_api_strict"}
        assert isinstance(dc.asarray([1.0]), np.ndarray)  # the selection outside is as it was

    @pytest.mark.parametrize("kind", ["columns", "images"])
    def test_other_data_on_another_library(self, train, kind):
        X, y = columns()
        X = X if kind == "columns" else np.random.default_rng(0).random((300, 5, 4))
        np.savez("set.npz", X=X, y=y)
        code, out, err = train("--data", "set.npz", "--backend", "array_api_strict", "--epochs", 1)
        assert code == 0 and "test accuracy" in out, err

    def test_no_such_library(self, train):
        code, out, err = train("--backend", "fortran")
        assert (code, out) == (2, "")
        assert err.startswith("deepcore train: there is no backend 'fortran'; choose one of: numpy, ")


class TestDigits:
    def test_they_are_learned(self, train, here):
        pytest.importorskip("sklearn")
        code, out, _ = train("--data", "digits", "--epochs", 4)
        assert code == 0 and not list(here.iterdir())
        assert re.fullmatch(
            r"test accuracy [\d.]+ % \(270 samples\), train accuracy [\d.]+ % \(1527 samples\), [\d.]+ s\n",
            out,
        )
        assert accuracy(out, "test") >= 93

    def test_without_scikit_learn(self, train, without):
        without("sklearn", "sklearn.datasets")
        code, _, err = train("--data", "digits")
        assert code == 2
        assert err == (
            "deepcore train: the digits come with scikit-learn, which is not installed; "
            "pip install 'deepcore[sklearn]'\n"
        )


class TestArrays:
    def test_columns_of_any_scale(self, train):
        X, y = columns()
        np.savez("scales.npz", X=X, y=np.array(["low", "middle", "high"])[y])
        code, out, _ = train("--data", "scales.npz", "--epochs", 30)
        assert code == 0 and accuracy(out, "test") == 100

    def test_the_file_may_hold_its_own_test_part(self, train):
        (X, y), (X_test, y_test) = columns(0), columns(1)
        np.savez("set.npz", X=X, y=y, X_test=X_test[:40], y_test=y_test[:40])
        code, out, _ = train("--data", "set.npz", "--epochs", 1)
        assert code == 0 and "(40 samples), train accuracy" in out and "(300 samples)" in out

    def test_two_columns_are_drawn(self, train, here):
        pytest.importorskip("matplotlib")
        X, y = columns()
        np.savez("plane.npz", X=X[:, :2], y=y)
        code, out, _ = train("--data", "plane.npz", "--epochs", 30)
        assert code == 0 and out.endswith("decision boundary: plane.png\n")
        assert (here / "plane.png").exists()

    def test_whole_numbers_are_drawn_too(self, train, without):
        without("matplotlib", "matplotlib.figure")
        y = np.arange(60) % 2
        np.savez("set.npz", X=np.stack([7 * y, np.arange(60)], axis=1).astype("uint8"), y=y)
        code, out, _ = train("--data", "set.npz", "--epochs", 30)
        assert code == 0 and accuracy(out) == 100 and "regions and samples: 0 '.' o, 1 ' ' x" in out

    def test_images(self, train):
        rng = np.random.default_rng(0)
        y = rng.integers(0, 2, 200)
        X = rng.integers(0, 100, (200, 9, 6, 3), dtype="uint8")
        X[..., 0] += (150 * y[:, None, None]).astype("uint8")  # the second kind is redder
        np.savez("set.npz", x_train=X, y_train=y)
        code, out, _ = train("--data", "set.npz", "--epochs", 4)
        assert code == 0 and accuracy(out, "test") >= 95

    def test_images_that_are_too_small(self, train):
        np.savez("set.npz", X=np.zeros((4, 3, 8)), y=np.arange(4))
        code, _, err = train("--data", "set.npz")
        assert code == 2 and "images must have 4 x 4 pixels or more" in err and "got 3 x 8" in err


class TestSave:
    def test_the_saved_net_takes_the_data_as_they_are(self, train):
        X, y = columns()
        np.savez("set.npz", X=X, y=y)
        code, out, _ = train("--data", "set.npz", "--epochs", 30, "--save", "net.safetensors")
        assert code == 0 and out.endswith("\nnet: net.safetensors\n")
        net = dc.Net.load("net.safetensors")
        assert net.evaluate(X.astype("float32"), y)["accuracy"] == 1

    def test_no_such_folder(self, train):
        code, out, err = train("--save", "results/net.safetensors")
        assert (code, out) == (2, "")
        assert err == "deepcore train: --save: there is no folder 'results'; make it first\n"


class TestFolder:
    @pytest.fixture
    def folder(self, here):
        """Zeros and ones of scikit-learn's digits as PNG files."""
        pytest.importorskip("sklearn")
        Image = pytest.importorskip("PIL.Image")
        from sklearn.datasets import load_digits

        images, labels = load_digits(n_class=2, return_X_y=True)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = here / "pictures" / ("zero", "one")[label] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15).astype("uint8").reshape(8, 8)).save(path)
        return here / "pictures"

    def test_it_is_learned(self, train, folder):
        code, out, _ = train("--data", folder)
        assert code == 0 and accuracy(out, "test") >= 95

    def test_images_of_many_sizes(self, train, folder):
        Image = pytest.importorskip("PIL.Image")
        Image.new("L", (20, 10)).save(folder / "zero" / "odd.png")
        code, _, err = train("--data", folder)
        assert code == 2 and "odd.png: is 10 x 20 pixels" in err and "--size 8" in err
        code, out, _ = train("--data", folder, "--size", 12, "--epochs", 1)
        assert code == 0 and "test accuracy" in out

    def test_a_file_that_is_no_image(self, train, folder):
        (folder / "one" / "notes.txt").write_text("the ones")
        code, _, err = train("--data", folder)
        assert code == 2 and "notes.txt: cannot be read as an image" in err

    def test_without_pillow(self, train, folder, without):
        without("PIL")
        code, _, err = train("--data", folder)
        assert code == 2 and err.endswith("pip install 'deepcore[images]'\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--lr", "nan"], "--lr: must be a finite number above 0, got nan"),
        (["--lr", "inf"], "--lr: must be a finite number above 0, got inf"),
        (["--lr", "-1"], "--lr: must be a finite number above 0, got -1"),
        (["--lr", "fast"], "--lr: must be a finite number above 0, got fast"),
        (["--lr", "1e30"], "the loss is no longer finite: the learning rate 1e+30 is too high; lower --lr"),
        (["--epochs", "0"], "--epochs: must be a whole number of 1 or more, got 0"),
        (["--batch-size", "2.5"], "--batch-size: must be a whole number of 1 or more, got 2.5"),
        (["--seed", "-1"], "--seed: must be a whole number from 0 to 2**64 - 1, got -1"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--data", "absent.npz"], "there is no file or folder 'absent.npz'; the current folder has no .npz"),
        (["--data", "digit"], "there is no file or folder 'digit'; did you mean digits?"),
        (["--size", "8"], "size is for a folder of images, which 'ring' is not"),
        (["--picture", "absent/a.png"], "--picture: there is no folder 'absent'; make it first"),
    ],
)
def test_what_the_user_has_to_change(train, here, arguments, text):
    code, out, err = train(*arguments)
    assert (code, out) == (2, "")
    *_, line = err.splitlines()
    assert line.startswith("deepcore train: ") or line.startswith("deepcore: ")
    assert text in line
    assert "Traceback" not in err and not list(here.iterdir())


def test_an_ending_that_no_picture_has(train):
    pytest.importorskip("matplotlib")
    code, _, err = train("--picture", "ring.xyz", "--epochs", 1)
    assert code == 2 and err == (  # before it has trained
        "deepcore train: ring.xyz: no picture can have the ending .xyz; take .png, .svg or .pdf\n"
    )


def test_a_picture_of_more_than_two_columns(train):
    np.savez("set.npz", X=np.eye(3), y=np.arange(3))
    code, _, err = train("--data", "set.npz", "--picture", "set.png")
    assert code == 2 and "only data of two columns can be drawn, got samples of shape (3,)" in err


class TestInfo:
    def test_it_tells_of_every_backend(self, capsys):
        assert main(["info"]) == 0
        out, err = capsys.readouterr()
        assert f"deepcore          {dc.__version__}\n" in out and err == ""
        for name in ("numpy", "array_api_strict"):
            assert f"\n  {name} " in out

    def test_in_a_pipe_as_a_module(self, here):
        done = as_a_module("info")
        assert done.returncode == 0 and done.stderr == ""
        assert max(map(len, done.stdout.splitlines())) <= 80


class TestBench:
    def test_what_is_asked_for_is_timed(self, here):
        done = as_a_module("bench", "--backend", "numpy", "--op", "linear", "sigmoid", "--quick")
        assert done.returncode == 0
        assert not [line for line in done.stderr.splitlines() if not line.startswith("deepcore: compiling")]
        blocks = done.stdout.split("\n\n")[1:]
        assert [block.split()[0] for block in blocks] == ["linear.linear", "activation.sigmoid"]
        assert not list(here.iterdir())

    def test_a_failure_is_told_by_the_exit_code(self, monkeypatch):
        asked = []
        monkeypatch.setattr("deepcore.cli.bench", lambda *arguments: asked.append(arguments))
        assert main(["bench", "--backend", "numpy", "--op", "conv.conv"]) == 1
        assert asked == [(["numpy"], ["conv.conv"], False)]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["--op", "relu6"], "there is no benchmark of an op 'relu6'; choose from: linear.linear, "),
            (["--backend", "abacus"], "there is no backend 'abacus'; choose one of: numpy, "),
        ],
    )
    def test_what_the_user_has_to_change(self, capsys, arguments, text):
        assert main(["bench", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("deepcore bench: ") and text in err

    def test_interrupted(self, capsys, monkeypatch):
        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("deepcore.cli.bench", interrupt)
        assert main(["bench"]) == 130
        assert capsys.readouterr().err == "\ndeepcore bench: interrupted\n"


def test_no_command(capsys):
    assert main([]) == 2
    assert "usage: deepcore" in capsys.readouterr().err


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"deepcore {dc.__version__}\n"


def test_help(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ["data", "backend", "epochs", "lr", "batch-size", "seed", "size", "save", "picture"]:
        assert f"--{option} " in out


def test_as_a_module_that_imports_nothing_heavy(here):
    code = (
        "import runpy, sys\n"
        "sys.argv = ['deepcore', '--help']\n"
        "try:\n    runpy.run_module('deepcore', run_name='__main__')\n"
        "except SystemExit as done:\n    assert not done.code\n"
        "print(sorted({'matplotlib', 'PIL', 'sklearn', 'array_api_strict'} & set(sys.modules)))\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "train a small net" in done.stdout and done.stdout.endswith("\n[]\n")


class TestExplainAndDoctor:
    @pytest.fixture
    def command(self, capsys):
        """command("doctor", "--data", ...) -> exit code, standard output, standard error."""

        def command(*arguments):
            code = main(list(map(str, arguments)))
            out, err = capsys.readouterr()
            return code, out, err

        return command

    def test_explain_the_ring(self, command):
        code, out, err = command("explain", "--samples", 5)
        assert (code, err) == (0, "")
        assert out.startswith("Net: X (5, 2) float32, y (5,) int64, on numpy, in training mode\nLoss L = ")
        assert "layers.0  Linear(2, 4)\n  Y = X W + b" in out and "The chain rule" in out

    def test_explain_a_page(self, command, here):
        code, out, _ = command("explain", "--html", "page.html")
        assert (code, out) == (0, "page: page.html\n")
        page = (here / "page.html").read_text(encoding="utf-8")
        assert page.startswith("<!doctype html>") and "<code>layers.0</code> Linear(2, 4)" in page
        code, _, err = command("explain", "--html", "nowhere/page.html")
        assert code == 2 and "there is no folder 'nowhere'" in err

    def test_the_ring_is_well(self, command):
        assert command("doctor") == (0, "The doctor found nothing: net and data look well.\n", "")

    def test_a_saved_net(self, command, train, here):
        assert train("--epochs", 1, "--save", "ring.net", "--picture", "ring.svg")[0] == 0
        code, out, _ = command("explain", "--load", "ring.net")
        assert code == 0 and "X (32, 2)" in out
        assert command("doctor", "--load", "ring.net")[0] == 0
        code, _, err = command("doctor", "--load", "nothing.net")
        assert code == 2 and "nothing.net" in err
        net = dc.load("ring.net").eval()
        net.layers.append(dc.Softmax())
        net.save("sick.net")
        code, out, _ = command("doctor", "--load", "sick.net")
        assert code == 1 and "the net's output is a softmax" in out

    def test_a_file_that_holds_no_net(self, command):
        from deepcore.io.net_file import save

        save(dc.Linear(2, 2), "layer.net")
        code, _, err = command("explain", "--load", "layer.net")
        assert code == 2 and "holds a Linear, not a whole Net" in err

    def test_other_data(self, command, here):
        X, y = columns()
        np.savez("columns.npz", X=X, y=y)
        code, out, _ = command("doctor", "--data", "columns.npz")
        assert code == 1 and out.startswith("note: X: column 2 of 3 never varies")
        np.savez("images.npz", X=np.random.default_rng(0).integers(0, 256, (60, 8, 8), "uint8"), y=y[:60])
        code, out, _ = command("doctor", "--data", "images.npz")
        assert (code, out) == (0, "The doctor found nothing: net and data look well.\n")

    def test_another_library(self, command):
        code, out, _ = command("explain", "--backend", "array_api_strict", "--samples", 3)
        assert code == 0 and "on array_api_strict" in out
        assert command("doctor", "--backend", "array_api_strict")[0] == 0

    def test_the_seed_decides(self, command):
        first, same, other = (command("explain", "--seed", seed)[1] for seed in (1, 1, 2))
        assert first == same != other
