import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """run(name, argument, ...) -> what the example printed."""

    def run(name, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def percent(text):
    return float(re.search(r"([\d.]+)%", text)[1])


def test_there_are_five_and_each_is_short():
    names = [path.name for path in EXAMPLES]
    assert names == ["char_model.py", "cnn_images.py", "cnn_mnist.py", "mlp.py", "resnet_mnist.py"]
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 80


def test_mlp(run):
    out = run("mlp.py")
    assert percent(out[out.index("\naccuracy") :]) >= 95
    assert "regions and samples: class 0 '.' o" in out


def test_mlp_draws_a_picture(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = run("mlp.py", "--epochs", 5, "--limit", 20, "--picture", "ring.png")
    assert out.endswith("decision boundary: ring.png\n")
    assert (tmp_path / "ring.png").exists()


def data(name):
    """The path of a file of data; skips where it isn't there."""
    path = Path(os.environ.get("DEEPCORE_DATA", ROOT / "../shared/data")) / name
    if not path.exists():
        pytest.skip(f"needs {name} in $DEEPCORE_DATA, or in ../shared/data from the project's root")
    return path


def test_cnn_mnist(run):
    assert percent(run("cnn_mnist.py", data("mnist.npz"), "--limit", 2000, "--epochs", 2)) > 85


def test_resnet_mnist(run):
    out = run("resnet_mnist.py", data("mnist.npz"), "--limit", 1500, "--epochs", 2)
    assert percent(out) > 75 and "with 24,514 weights" in out


def test_char_model_on_tinyshakespeare(run):
    out = run("char_model.py", data("tinyshakespeare.txt"), "--limit", 40_000, "--epochs", 2)
    assert nats(out) < 2.7  # letters alone, each as often as it occurs: 3.3


@pytest.mark.parametrize("model, lines, bound", [("gru", 1500, 0.1), ("transformer", 1000, 0.7)])
def test_char_model_learns_a_rule(run, tmp_path, model, lines, bound):
    (tmp_path / "count.txt").write_text("one two three four\n" * lines)
    out = run("char_model.py", tmp_path / "count.txt", "--epochs", 2, "--model", model)
    assert nats(out) < bound
    assert "one two three four\n" * 2 in out


def nats(text):
    return float(re.match(r"([\d.]+) nats per character", text)[1])


def test_cnn_images(run, tmp_path):
    pytest.importorskip("sklearn")
    Image = pytest.importorskip("PIL.Image")
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    for i in np.flatnonzero(labels < 4):
        path = tmp_path / "digits" / f"digit {labels[i]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((images[i] * 15).astype("uint8").reshape(8, 8)).save(path)
    out = run("cnn_images.py", tmp_path / "digits", "--epochs", 5)
    assert out.startswith("720 images of 8 x 8 pixels in 4 classes: digit 0, digit 1, digit 2, digit 3\n")
    assert percent(out) > 90
    assert re.search(r"digit 3: \d+ of \d+\n$", out)
    assert "16 x 16" not in out and "16 x 16" in run(
        "cnn_images.py", tmp_path / "digits", "--size", 16, "--epochs", 1, "--limit", 100
    )
