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


def test_there_are_three_and_each_is_short():
    assert [path.name for path in EXAMPLES] == ["cnn_images.py", "cnn_mnist.py", "mlp.py"]
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 60


def test_mlp(run):
    out = run("mlp.py")
    assert percent(out[out.index("\naccuracy") :]) >= 95
    assert "regions and samples: class 0 '.' o" in out


def test_mlp_draws_a_picture(run, tmp_path):
    pytest.importorskip("matplotlib")
    out = run("mlp.py", "--epochs", 5, "--limit", 20, "--picture", "ring.png")
    assert out.endswith("decision boundary: ring.png\n")
    assert (tmp_path / "ring.png").exists()


def test_cnn_mnist(run):
    path = Path(os.environ.get("DEEPCORE_DATA", ROOT / "../shared/data")) / "mnist.npz"
    if not path.exists():
        pytest.skip("needs mnist.npz in $DEEPCORE_DATA, or in ../shared/data from the project's root")
    assert percent(run("cnn_mnist.py", path, "--limit", 2000, "--epochs", 2)) > 85


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
