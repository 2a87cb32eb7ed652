import sys

import numpy as np
import pytest

from deepcore.data.ring import ring
from deepcore.data.sets import load
from deepcore.errors import ArgumentError, DataError, MissingDataError, UnsupportedError


def test_the_ring():
    X, y, class_names = load("ring", seed=5)
    assert np.array_equal(X, ring(seed=5)[0]) and np.array_equal(y, ring(seed=5)[1])
    assert class_names == ("ring", "disc")


def test_digits():
    pytest.importorskip("sklearn")
    X, y, class_names = load("digits")
    assert X.shape == (1797, 1, 8, 8) and X.dtype == np.uint8
    assert X.min() == 0 and X.max() == 255 and len(np.unique(X)) == 17
    assert y.dtype == np.int64 and class_names == tuple("0123456789")


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[sklearn\]'"):
        load("digits")


class TestMissing:
    def test_a_slip_of_the_pen(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mnist.npz").touch()
        with pytest.raises(
            MissingDataError, match=r"no file or folder 'mnits.npz'; did you mean mnist.npz\?"
        ):
            load("mnits.npz")
        with pytest.raises(MissingDataError, match=r"did you mean digits\?"):
            load("digit")

    def test_what_is_there(self, tmp_path):
        for name in ("flowers", ".hidden"):
            (tmp_path / name).mkdir()
        for name in ("wine.npz", "notes.txt"):
            (tmp_path / name).touch()
        with pytest.raises(MissingDataError) as raised:
            load(tmp_path / "qqqq")
        assert "has flowers, wine.npz; sets with a name are ring and digits" in str(raised.value)

    def test_nothing_there(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(MissingDataError, match=r"the current folder has no .npz file and no folder"):
            load("qqqq")

    def test_no_such_folder(self, tmp_path):
        with pytest.raises(MissingDataError, match="nor is there a folder .*absent'"):
            load(tmp_path / "absent" / "a.npz")

    def test_it_is_also_a_file_not_found_error(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "qqqq")


@pytest.mark.parametrize("source", ["ring", "digits", "a.npz"])
def test_only_folders_have_a_size(source):
    with pytest.raises(ArgumentError, match=f"size is for a folder of images, which '{source}' is not"):
        load(source, size=8)


class TestArrays:
    @pytest.fixture
    def save(self, tmp_path):
        def save(**arrays):
            np.savez(tmp_path / "set.npz", **arrays)
            return tmp_path / "set.npz"

        return save

    def test_columns(self, save):
        X, y, class_names = load(save(X=np.eye(3), y=np.array([2, 0, 2], dtype="uint8")))
        assert np.array_equal(X, np.eye(3))
        assert y.tolist() == [1, 0, 1] and y.dtype == np.int64 and class_names == ("0", "2")

    def test_words_as_labels(self, save):
        _, y, class_names = load(save(X=np.eye(3), y=np.array(["dog", "cat", "dog"])))
        assert y.tolist() == [1, 0, 1] and class_names == ("cat", "dog")

    def test_labels_in_a_column(self, save):
        _, y, _ = load(save(X=np.eye(3), y=np.array([[0], [1], [0]])))
        assert y.tolist() == [0, 1, 0]

    def test_train_and_test(self, save):
        x_train, x_test = np.zeros((4, 28, 28), "uint8"), np.ones((2, 28, 28), "uint8")
        data = load(save(x_train=x_train, y_train=np.arange(4), x_test=x_test, y_test=np.array([3, 1])))
        assert data.X.shape == (4, 1, 28, 28) and data.X_test.shape == (2, 1, 28, 28)
        assert data.y_test.tolist() == [3, 1] and data.y_test.dtype == np.int64

    def test_test_labels_are_numbered_like_the_others(self, save):
        data = load(save(X=np.eye(2), y=np.array(["b", "a"]), X_test=np.eye(2), y_test=np.array(["b", "b"])))
        assert data.y_test.tolist() == [1, 1]

    @pytest.mark.parametrize(
        ("shape", "loaded"),
        [
            ((5, 8, 9), (5, 1, 8, 9)),
            ((5, 8, 9, 3), (5, 3, 8, 9)),  # channels last, as images are stored
            ((5, 3, 8, 9), (5, 3, 8, 9)),
            ((5, 6, 8, 9), (5, 6, 8, 9)),
        ],
    )
    def test_images(self, save, shape, loaded):
        assert load(save(X=np.zeros(shape), y=np.arange(5))).X.shape == loaded

    def test_other_arrays_are_left_alone(self, save):
        path = save(X=np.eye(2), y=np.arange(2), notes=np.array([{"a": 1}], dtype=object))
        assert load(path).X.shape == (2, 2)

    @pytest.mark.parametrize(
        ("arrays", "text"),
        [
            (
                {"data": np.eye(2), "target": np.arange(2)},
                "wanted arrays X and y, or .*; it holds data, target",
            ),
            ({"X": np.eye(2), "y_train": np.arange(2)}, "it holds X, y_train"),
            ({}, "it holds nothing"),
            ({"X": np.eye(2), "y": np.arange(3)}, "for each of the 2 samples of X, got int64 of shape"),
            (
                {"X": np.eye(2), "y": np.array([0.0, 1.0])},
                "y must be a whole number or a word .* got float64",
            ),
            ({"X": np.eye(2), "y": np.eye(2, dtype=int)}, r"y must be .* got int64 of shape \(2, 2\)"),
            ({"X": np.zeros((0, 2)), "y": np.zeros(0, int)}, r"not empty; got float64 of shape \(0, 2\)"),
            ({"X": np.zeros(3), "y": np.arange(3)}, r"of shape \(n, d\).* got float64 of shape \(3,\)"),
            ({"X": np.array([["a"], ["b"]]), "y": np.arange(2)}, "X must be real numbers"),
            ({"X": np.eye(2) + 1j, "y": np.arange(2)}, "X must be real numbers .* got complex128"),
            ({"X": np.array([[0.0], [np.nan]]), "y": np.arange(2)}, "row 1 of X holds a nan or an infinity"),
            ({"X": np.eye(2), "y": np.array([7, 7])}, "needs two classes or more, but every label is 7"),
            ({"X": np.array([{}, {}]), "y": np.arange(2)}, "cannot be read: .*allow_pickle"),
            (
                {"X": np.eye(2), "y": np.arange(2), "X_test": np.eye(3), "y_test": np.arange(3)},
                r"a sample of X is \(2,\), one of X_test is \(3,\)",
            ),
            (
                {"X": np.eye(2), "y": np.arange(2), "X_test": np.eye(2), "y_test": np.array([1, 2])},
                "y_test has the label 2, which y lacks",
            ),
            (
                {"X": np.eye(2), "y": np.arange(2), "X_test": np.eye(2), "y_test": np.array(["0", "1"])},
                "y_test has the label 0, which y lacks",
            ),
        ],
    )
    def test_what_cannot_be_used(self, save, arrays, text):
        path = save(**arrays)
        with pytest.raises(DataError, match=text) as raised:
            load(path)
        assert str(raised.value).startswith(str(path))

    def test_a_file_of_another_kind(self, tmp_path):
        path = tmp_path / "table.csv"
        path.write_text("1,2,3")
        with pytest.raises(DataError, match=r"table.csv: is no .npz file; write one with numpy.savez"):
            load(path)

    def test_a_damaged_file(self, save):
        path = save(X=np.random.default_rng(0).random((500, 2)), y=np.arange(500))
        whole = path.read_bytes()
        path.write_bytes(whole[:300] + bytes(40) + whole[340:])
        with pytest.raises(DataError, match="cannot be read: "):
            load(path)


class TestFolder:
    @pytest.fixture
    def paint(self, tmp_path):
        Image = pytest.importorskip("PIL.Image")

        def paint(name, pixels, mode=None):
            path = tmp_path / "pictures" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(np.asarray(pixels))
            (image.convert(mode) if mode else image).save(path)
            return tmp_path / "pictures"

        return paint

    @pytest.fixture
    def grey(self):
        return np.arange(12, dtype="uint8").reshape(3, 4)

    def test_grey(self, paint, grey):
        paint("b/1.png", grey + 1)
        paint("b/0.png", grey)
        folder = paint("a/9.png", grey + 9)
        (folder / ".cache").mkdir()
        (folder / "a" / ".DS_Store").touch()
        (folder / "readme.txt").touch()
        X, y, class_names = load(folder)
        assert X.dtype == np.uint8
        assert np.array_equal(X, np.stack([grey + 9, grey, grey + 1])[:, None])
        assert y.tolist() == [0, 1, 1] and class_names == ("a", "b")

    def test_colour(self, paint):
        colour = np.arange(36, dtype="uint8").reshape(3, 4, 3)
        paint("a/0.png", colour)
        X = load(paint("b/0.png", colour)).X
        assert np.array_equal(X[0], np.moveaxis(colour, 2, 0))  # (h, w, c) -> (c, h, w)

    def test_grey_beside_colour_becomes_colour(self, paint, grey):
        paint("a/0.png", grey)
        X = load(paint("b/0.png", np.zeros((3, 4, 3), "uint8"))).X
        assert X.shape == (2, 3, 3, 4) and np.array_equal(X[0], np.stack([grey] * 3))

    @pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
    def test_kinds_of_images(self, paint, grey, mode, channels):
        paint("a/0.png", grey, mode)
        assert load(paint("b/0.png", grey, mode)).X.shape == (2, channels, 3, 4)

    def test_more_than_8_bits(self, paint, grey):
        paint("a/0.png", grey.astype("uint16"))
        folder = paint("b/0.png", grey)
        with pytest.raises(DataError, match=r"0.png: has more than 8 bits a channel \(mode I;16\)"):
            load(folder)

    def test_sizes_that_differ(self, paint, grey):
        paint("a/0.png", grey)
        paint("a/1.png", grey)
        folder = paint("b/0.png", grey.T)
        with pytest.raises(
            DataError, match=r"0.png: is 4 x 3 pixels .* before it are 3 x 4; .* --size 3"
        ) as raised:
            load(folder)
        assert str(raised.value).startswith(str(folder / "b" / "0.png"))
        assert load(folder, size=5).X.shape == (3, 1, 5, 5)
        assert load(folder, size=(6, 2)).X.shape == (3, 1, 6, 2)

    def test_no_image(self, paint, grey):
        folder = paint("a/0.png", grey)
        paint("b/0.png", grey)
        (folder / "b" / "list.txt").write_text("no image")
        with pytest.raises(
            DataError, match=r"list.txt: cannot be read as an image \(its format is not known\)"
        ):
            load(folder)

    def test_a_damaged_image(self, paint):
        folder = paint("a/0.png", np.random.default_rng(0).integers(0, 256, (64, 64), dtype="uint8"))
        paint("b/0.png", np.zeros((64, 64), "uint8"))
        file = folder / "a" / "0.png"
        file.write_bytes(file.read_bytes()[:500])
        with pytest.raises(DataError, match=r"0.png: cannot be read as an image \(.*truncated.*mend it"):
            load(folder)

    def test_an_empty_class(self, paint, grey):
        folder = paint("a/0.png", grey)
        (folder / "b").mkdir()
        with pytest.raises(DataError, match="b: is empty; put the images"):
            load(folder)

    def test_too_few_classes(self, paint, grey):
        folder = paint("a/0.png", grey)
        with pytest.raises(DataError, match="two classes or more, found 1"):
            load(folder)

    def test_without_pillow(self, paint, grey, monkeypatch):
        paint("a/0.png", grey)
        folder = paint("b/0.png", grey)
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[images\]'"):
            load(folder)
