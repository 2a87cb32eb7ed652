"""Batches and samples that a thread reads ahead."""

import contextlib
import gc
import threading
import time
import weakref

import numpy as np
import pytest

import deepcore as dc
from deepcore import ArgumentError, Callback, CrossEntropyLoss, DataError, Dropout, Flatten, Linear, Net
from deepcore.data import ImageFolder, Prefetch, Rows
from deepcore.data.sets import load


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "deepcore-prefetch"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not threads()


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    assert condition()


def small_net():
    dc.seed(0)
    return Net([Flatten(), Linear(6, 8), Dropout(0.3), Linear(8, 3)], CrossEntropyLoss())


def data(n=40):
    random = np.random.default_rng(0)
    return random.standard_normal((n, 2, 3)).astype("float32"), random.integers(0, 3, n)


def same(a, b):
    return all(np.array_equal(W, b.parameters()[path]) for path, W in a.parameters().items())


# ---- the thread


@pytest.mark.parametrize("ahead", [1, 2, 100])
def test_the_same_things_in_the_same_order(ahead):
    stream = Prefetch(range(50), ahead)
    assert list(stream) == list(range(50)) == list(stream) and len(stream) == 50
    assert list(Prefetch(x for x in ())) == []
    with pytest.raises(TypeError, match="len"):
        len(Prefetch(x for x in ()))


@pytest.mark.parametrize("ahead", [1, 3])
def test_so_many_are_made_ahead_and_no_more(ahead):
    made = []
    stream = iter(Prefetch((made.append(k) or k for k in range(20)), ahead))
    for k in range(5):
        assert next(stream) == k
        wait_for(lambda: len(made) == k + 1 + ahead)  # noqa: B023
        time.sleep(0.01)
        assert len(made) == k + 1 + ahead
    stream.close()


def test_an_error_comes_where_its_batch_would_have_come():
    def stream():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for batch in Prefetch(stream()):
            seen.append(batch)
    assert seen == [1, 2]


def test_errors_are_not_kept():
    def stream():
        yield Large()
        raise OSError

    class Large:
        pass

    gc.disable()
    try:
        with contextlib.suppress(OSError):
            for batch in Prefetch(stream()):
                kept = weakref.ref(batch)
        del batch
        assert kept() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("ahead", [0, -1, 1.5, True, "2"])
def test_ahead_is_a_number(ahead):
    with pytest.raises(ArgumentError, match="Prefetch: ahead must be a whole number of 1 or more, got"):
        Prefetch([], ahead)


def test_the_selected_backend_is_that_of_the_caller():
    pytest.importorskip("array_api_strict")

    def stream():
        yield dc.asarray([1.0])

    with dc.use_backend("array_api_strict"):
        (x,) = Prefetch(stream())
    assert dc.backend_of(x) == "array_api_strict"


# ---- fit


def pairs(X, y):
    return [(X[i : i + 8], y[i : i + 8]) for i in range(0, len(X), 8)]


def test_fit_learns_the_same():
    X, y = data()
    ours, right = small_net(), small_net()
    history = ours.fit(Prefetch(pairs(X, y)), epochs=3, seed=1).history
    assert history == right.fit(pairs(X, y), epochs=3, seed=1).history
    assert same(ours, right)
    generator = (pair for pair in pairs(X, y))
    with pytest.raises(DataError, match="a generator can be run through once"):
        ours.fit(Prefetch(generator), epochs=2)
    assert len(ours.fit(Prefetch(generator)).history["loss"]) == 1


class Stop(Callback):
    def __init__(self, error):
        self.error = error

    def on_step_end(self, run):
        if run.step == 2:
            run.stop = True
            if self.error:
                raise self.error


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError()], ids=repr)
def test_no_thread_is_left_when_fit_ends_early(error):
    X, y = data()
    caught = None
    try:
        small_net().fit(Prefetch(pairs(X, y)), callbacks=[Stop(error)])
    except (KeyboardInterrupt, ValueError) as raised:
        caught = raised  # and with it the frames
    assert caught is error and not threads()


# ---- samples that are read late


class Squares(Rows):
    """An array, read sample by sample."""

    def __init__(self, X):
        self.X, self.shape, self.read_in = X, X.shape, set()

    def read(self, rows):
        self.read_in.add(threading.current_thread().name)
        return self.X[rows]


def mapped(X, tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


@pytest.mark.parametrize("kind", ["rows", "memory map"])
def test_they_are_as_good_as_an_array(kind, tmp_path):
    X, y = data()
    late = Squares(X) if kind == "rows" else mapped(X, tmp_path)
    w = np.linspace(0, 2, len(X))
    ours, right = small_net(), small_net()
    options = {"epochs": 3, "batch_size": 7, "seed": 1, "sample_weight": w}
    history = ours.fit(late, y, validation_data=(late, y), **options).history
    assert history == right.fit(X, y, validation_data=(X, y), **options).history
    assert same(ours, right)
    assert ours.evaluate(late, y, batch_size=6) == right.evaluate(X, y, batch_size=6)
    for batch_size in (None, 6):
        assert np.array_equal(ours.predict(late, batch_size), right.predict(X, batch_size))
    assert bool(ours.doctor(late, y)) == bool(right.doctor(X, y))
    if kind == "rows":
        assert "deepcore-prefetch" in late.read_in


def test_a_memory_map_is_read_ahead(tmp_path, monkeypatch):
    seen = []
    batches = dc.data.batches.Arrays._batches

    def spied(*arguments):
        seen.append(threading.current_thread().name)
        yield from batches(*arguments)

    monkeypatch.setattr("deepcore.data.batches.Arrays._batches", spied)
    X, y = data()
    small_net().fit(mapped(X, tmp_path), y)
    small_net().fit(X, y)
    assert seen == ["deepcore-prefetch", "MainThread"]


def test_fit_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    X, y = data()
    whole, parts = small_net(), small_net()
    whole.fit(Squares(X), y, epochs=4, seed=1)
    small_net().fit(Squares(X), y, epochs=2, seed=1, checkpoint=tmp_path / "c")
    parts.fit(Squares(X), y, epochs=4, resume=tmp_path / "c")
    assert same(whole, parts)


# ---- folders of images


@pytest.fixture
def folder(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    X = np.random.default_rng(0).integers(0, 256, (10, 5, 6), "uint8")
    for i, image in enumerate(X):
        path = tmp_path / "pictures" / ("cat", "dog")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pictures"


def test_a_folder_is_as_good_as_the_array_of_its_images(folder):
    images = ImageFolder(folder)
    X, y, class_names = load(folder)
    assert images.shape == X.shape == (10, 1, 5, 6) and images.class_names == class_names == ("cat", "dog")
    np.testing.assert_array_equal(images.y, y)
    np.testing.assert_array_equal(images[:], X / np.float32(255))
    assert images[3:5].dtype == np.float32 and len(images) == 10
    assert ImageFolder(str(folder), size=(4, 3)).shape == (10, 1, 4, 3)
    dc.seed(0)
    nets = [Net([Flatten(), Linear(30, 2, init="zeros")], CrossEntropyLoss()) for _ in range(2)]
    nets[0].fit(images, images.y, epochs=2, batch_size=3, seed=1)
    nets[1].fit(X / np.float32(255), y, epochs=2, batch_size=3, seed=1)
    assert same(*nets)


def test_a_damaged_image_is_found_where_its_batch_comes(folder):
    file = folder / "dog" / "9.png"
    file.write_bytes(file.read_bytes()[:60])
    images = ImageFolder(folder)
    net = Net([Flatten(), Linear(30, 2)], CrossEntropyLoss())
    with pytest.raises(DataError, match="9.png: cannot be read as an image"):
        net.fit(images, images.y)
    with pytest.raises(DataError, match="wanted a folder of images for each of two classes or more"):
        ImageFolder(folder / "dog")


def test_data_is_public():
    assert {"ImageFolder", "Prefetch", "Rows"} == set(dc.data.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dc.data.nothing  # noqa: B018


def test_rows_can_be_explained_and_examined():
    """In place of an array, and like it."""
    X, y = np.random.default_rng(0).normal(size=(300, 3)).astype("float32"), np.arange(300) % 2
    made = dc.Net([dc.Linear(3, 2)], dc.CrossEntropyLoss())
    assert str(made.explain(Squares(X), y)) == str(made.explain(X, y))
    assert str(made.doctor(Squares(X[:99]), y[:99])) == str(made.doctor(X[:99], y[:99]))
    rows = Squares(X * 1e3)
    assert "the inputs are not scaled" in str(made.doctor(rows, y))
    assert np.array_equal(rows[-1], rows.X[-1]) and rows[2].shape == (3,)


class Broken(Rows):
    shape = (8, 3)

    def __init__(self, result):
        self.result = result

    def read(self, rows):
        return self.result


@pytest.mark.parametrize(
    ("result", "got"),
    [(np.ones((2, 3)), r"an array of shape \(2, 3\)"), ([[1.0]] * 8, "list"), (None, "NoneType")],
)
def test_what_read_must_return(result, got):
    made = dc.Net([dc.Linear(3, 2)], dc.CrossEntropyLoss())
    rows, y = Broken(result), np.zeros(8, int)
    with pytest.raises(
        DataError, match=f"Broken: read must return a NumPy array of 8 samples here, got {got}"
    ):
        made.fit(rows, y)
    (finding,) = made.doctor(rows, y)
    assert finding.path == "X" and "read must return a NumPy array" in finding.what


def test_rows_that_are_not_written_in_full():
    class Shapeless(Rows):
        pass

    class Unread(Rows):
        shape = (8, 3)

    made, y = dc.Net([dc.Linear(3, 2)], dc.CrossEntropyLoss()), np.zeros(8, int)
    with pytest.raises(dc.DataError, match="Shapeless: write its shape"):
        made.fit(Shapeless(), y)
    with pytest.raises(dc.UnsupportedError, match=r"Unread: write read\(rows\)"):
        made.fit(Unread(), y)
    with pytest.raises(dc.DTypeError, match="y: wanted an array, got Unread; Rows can be X alone"):
        made.fit(np.ones((8, 3)), Unread())


def test_ragged_lists_are_refused_in_words():
    made = dc.Net([dc.Linear(2, 2)], dc.CrossEntropyLoss())
    for use in (lambda X: made.predict(X), lambda X: made.fit(X, [0, 1])):
        with pytest.raises(
            dc.DataError, match="X: the samples differ in length or shape; pad the short ones"
        ):
            use([[1.0, 2.0], [1.0]])


def test_a_mask_is_not_lost():
    made, y = dc.Net([dc.Linear(2, 2)], dc.CrossEntropyLoss()), np.array([0, 1])
    X = np.ma.masked_array(np.ones((2, 2), "float32"), mask=[[0, 1], [0, 0]])
    for use in (lambda: made.predict(X), lambda: made.fit(X, y), lambda: made.evaluate(X, y)):
        with pytest.raises(dc.DTypeError, match="X: its mask would be lost; say what the masked numbers are"):
            use()


@pytest.mark.parametrize("size", [0, -3, 4.5, "8", (4, 4, 4)])
def test_sizes_that_no_image_has(size, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        image.new("L", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(dc.ShapeError, match="images: size must be"):
        ImageFolder(tmp_path, size=size)
    with pytest.raises(dc.MissingDataError, match="there is no folder '.*absent'"):
        ImageFolder(tmp_path / "absent")


def test_a_frame_that_is_yet_to_be_computed():
    class LazyFrame:
        def collect(self):
            raise AssertionError("that is for the user to call")

    with pytest.raises(dc.DTypeError, match=r"X: a LazyFrame has yet to be computed; pass X.collect\(\)"):
        Net([Linear(2, 2)], CrossEntropyLoss()).fit(LazyFrame(), np.array([0]))
