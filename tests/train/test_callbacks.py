"""Callbacks: early stopping, the best checkpoint, and the logs of numbers."""

import copy
import csv
import json
import pickle
import sys
import types
from typing import ClassVar

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    ArgumentError,
    BatchNorm2D,
    BestCheckpoint,
    Callback,
    Conv2D,
    CrossEntropyLoss,
    CSVLogger,
    DataError,
    EarlyStopping,
    Flatten,
    JSONLLogger,
    LearningRateLog,
    Linear,
    MissingDataError,
    Net,
    ReLU,
    TensorBoard,
)
from deepcore.core.random import Generator, drawing_from
from deepcore.train.callbacks import Run


@pytest.fixture(autouse=True)
def seeded():
    with drawing_from(Generator(0)):
        yield


class Scripted(Callback):
    """Replaces a number of each epoch by a given one, for the callbacks after it, and keeps the weights."""

    def __init__(self, name, numbers):
        self.name, self.numbers, self.states = name, numbers, []

    def on_epoch_end(self, run):
        run.numbers[self.name] = self.numbers[run.epoch - 1]
        self.states.append(run.net.state_dict())


def net():
    return Net([Linear(2, 8), ReLU(), Linear(8, 2)], CrossEntropyLoss())


def data():
    return np.random.default_rng(0).normal(size=(8, 2)), np.arange(8) % 2


def fit(*callbacks, epochs=6, net=net, **settings):
    X = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
    made = net() if callable(net) and not isinstance(net, Net) else net
    return made, made.fit(X, np.arange(8) % 2, epochs=epochs, callbacks=callbacks, seed=0, **settings)


def epochs_of(course):
    return len(course.history["loss"])


def assert_same(a, b):
    assert a.keys() == b.keys()
    for path, x in a.items():
        np.testing.assert_array_equal(x, b[path])


# ---- early stopping


def test_it_stops_after_patience_and_restores_the_best():
    script = Scripted("val_loss", [3.0, 2.0, 2.5, 2.0, 1.0, 0.5])
    stopping = EarlyStopping(patience=2)
    trained, course = fit(script, stopping)
    assert epochs_of(course) == 4 and stopping.stopped
    assert (stopping.best, stopping.best_epoch) == (2.0, 2)
    assert_same(trained.state_dict(), script.states[1])


def test_without_restoring_the_last_weights_stay():
    script = Scripted("val_loss", [3.0, 2.0, 2.5, 2.0, 1.0, 0.5])
    trained, _ = fit(script, EarlyStopping(patience=2, restore_best=False))
    assert_same(trained.state_dict(), script.states[3])
    assert not np.array_equal(script.states[3]["layers.0.W"], script.states[1]["layers.0.W"])


def test_the_best_is_restored_where_nothing_stops_too():
    script = Scripted("val_loss", [3.0, 2.0, 2.5, 2.6, 2.7, 2.8])
    trained, course = fit(script, stopping := EarlyStopping(patience=10))
    assert epochs_of(course) == 6 and not stopping.stopped
    assert_same(trained.state_dict(), script.states[1])


def test_buffers_are_restored():
    layers = [Conv2D(1, 2, 1), BatchNorm2D(2), Flatten(), Linear(2, 2)]
    images = Net(layers, CrossEntropyLoss())
    script = Scripted("loss", [1.0, 2.0, 3.0])
    X = np.random.default_rng(0).normal(size=(8, 1, 1, 1)).astype("float32")
    images.fit(X, np.arange(8) % 2, epochs=3, callbacks=[script, EarlyStopping("loss")])
    assert "layers.1.running_mean" in script.states[0]
    assert_same(images.state_dict(), script.states[0])


@pytest.mark.parametrize(
    ("monitor", "mode", "numbers", "epochs"),
    [
        ("val_accuracy", "auto", [0.5, 0.6, 0.6, 0.6, 0.9, 1.0], 4),
        ("accuracy", "auto", [0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 3),
        ("score", "max", [1, 2, 3, 4, 5, 6], 6),
        ("score", "min", [1, 2, 3, 4, 5, 6], 3),
        ("loss", "auto", [1.0, float("nan"), float("nan"), 0.1, 0.1, 0.1], 3),
        ("loss", "auto", [float("nan")] * 6, 2),
    ],
)
def test_what_is_better(monitor, mode, numbers, epochs):
    _, course = fit(Scripted(monitor, numbers), EarlyStopping(monitor, patience=2, mode=mode))
    assert epochs_of(course) == epochs


def test_min_delta():
    script = Scripted("loss", [1.0, 0.95, 0.9, 0.85, 0.8, 0.75])
    _, course = fit(script, stopping := EarlyStopping("loss", patience=2, min_delta=0.08))
    assert epochs_of(course) == 6 and stopping.best_epoch == 5
    _, course = fit(script, EarlyStopping("loss", patience=2, min_delta=0.2))
    assert epochs_of(course) == 3


def test_it_can_be_used_again():
    stopping = EarlyStopping("loss", patience=2)
    fit(Scripted("loss", [0.1] * 6), stopping)
    _, course = fit(Scripted("loss", [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]), stopping)
    assert epochs_of(course) == 6 and not stopping.stopped


def test_it_keeps_no_weights_after_training():
    stopping = EarlyStopping("loss")
    fit(stopping)
    assert stopping._state is None
    pickle.dumps(stopping)


def test_a_number_that_is_not_there():
    with pytest.raises(ArgumentError, match="no val_loss among loss, accuracy; pass validation_data to fit"):
        fit(EarlyStopping())
    with pytest.raises(ArgumentError, match="no f1_loss among loss, accuracy; choose one of these"):
        fit(EarlyStopping("f1_loss"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"monitor": "f1"}, 'is a good f1 small or large. Say mode="min" or mode="max"'),
        ({"mode": "low"}, "mode must be"),
        ({"patience": 0}, "patience must be a whole number of 1 or more, got 0"),
        ({"patience": 1.5}, "patience must be"),
        ({"patience": True}, "patience must be"),
        ({"min_delta": -1}, "min_delta must be a finite number, 0 or more, got -1"),
        ({"min_delta": float("nan")}, "min_delta must be"),
    ],
)
def test_arguments(settings, message):
    with pytest.raises(ArgumentError, match=message):
        EarlyStopping(**settings)


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_other_libraries(library):
    pytest.importorskip(library, reason=f"needs {library}")
    with dc.use_backend(library):
        made = net()
    script = Scripted("loss", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    trained, _ = fit(script, EarlyStopping("loss", patience=3), net=made)
    for path, W in trained.state_dict().items():
        assert dc.backend_of(W).name == library
        np.testing.assert_array_equal(dc.to_numpy(W), dc.to_numpy(script.states[0][path]))


# ---- the best checkpoint


def test_the_best_net_is_in_the_file(tmp_path):
    script = Scripted("val_loss", [3.0, 2.0, 2.5, float("nan"), 2.0, 7.0])
    best = BestCheckpoint(tmp_path / "best.safetensors")
    fit(script, best)
    assert (best.best, best.best_epoch) == (2.0, 2)
    assert_same(dc.load(tmp_path / "best.safetensors").state_dict(), script.states[1])
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]


def test_by_accuracy(tmp_path):
    script = Scripted("accuracy", [0.1, 0.4, 0.3, 0.2, 0.4, 0.0])
    fit(script, BestCheckpoint(str(tmp_path / "best"), monitor="accuracy"))
    assert_same(dc.load(tmp_path / "best").state_dict(), script.states[1])


@pytest.mark.parametrize("kind", [BestCheckpoint, CSVLogger, JSONLLogger])
def test_a_folder_that_is_not_there(kind, tmp_path):
    made = net()
    before = made.state_dict()
    with pytest.raises(MissingDataError, match=rf"{kind.__name__}: there is no folder '.*nowhere'; make it"):
        fit(kind(tmp_path / "nowhere" / "file"), net=made)
    assert_same(made.state_dict(), before)


@pytest.mark.parametrize("kind", [BestCheckpoint, CSVLogger, JSONLLogger])
def test_a_folder_in_place_of_a_file(kind, tmp_path):
    with pytest.raises(ArgumentError, match=rf"{kind.__name__}: .* is a folder; name a file"):
        fit(kind(tmp_path))


def test_the_best_net_must_be_one_that_can_be_saved(tmp_path):
    class Kept(dc.Function):
        def __init__(self, size):
            super().__init__()

        def forward(self, X):
            return X

        def local_grad(self, X):
            return {"X": X * 0 + 1}

    made = dc.Net([dc.Linear(2, 2), Kept(3)], dc.CrossEntropyLoss())
    before = made.state_dict()
    saved = BestCheckpoint(tmp_path / "best", "loss"), {"checkpoint": tmp_path / "run.ckpt"}
    for callbacks, settings in (([saved[0]], {}), ([], saved[1])):
        with pytest.raises(dc.UnsupportedError, match="Kept: its constructor takes size and doesn't keep it"):
            made.fit(*data(), callbacks=callbacks, **settings)
        assert_same(made.state_dict(), before)


# ---- logs


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_a_fit_that_fails_at_once_leaves_no_log(kind, tmp_path):
    X, y = data()
    with pytest.raises(dc.LabelError):
        net().fit(X, y + 9, callbacks=[kind(tmp_path / "log")])
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_a_resumed_training_takes_back_what_its_checkpoint_does_not_know(kind, tmp_path):
    """The epoch between the last line and the last checkpoint is made, and written, once more."""
    log, checkpoint = tmp_path / "log", tmp_path / "run.ckpt"
    (X, y), other = data(), net()
    whole = copy.deepcopy(other)
    with pytest.raises(ZeroDivisionError):
        other.fit(X, y, epochs=4, seed=0, checkpoint=checkpoint, callbacks=[kind(log), Fails(3)])
    net().fit(X, y, epochs=4, checkpoint=checkpoint, resume=checkpoint, callbacks=[kind(log)])
    whole.fit(X, y, epochs=4, seed=0, callbacks=[kind(tmp_path / "in one go")])
    assert log.read_text() == (tmp_path / "in one go").read_text()


class Fails(dc.Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, run):
        if run.epoch == self.epoch:
            raise ZeroDivisionError


def test_names_with_commas_are_quoted(tmp_path):
    metrics = {"off, at most": lambda out, y: 1.0}
    for _ in range(2):
        net().fit(*data(), metrics=metrics, callbacks=[CSVLogger(tmp_path / "log")])
    with (tmp_path / "log").open(newline="") as file:
        assert [row["off, at most"] for row in csv.DictReader(file)] == ["1.0", "1.0"]


def test_csv(tmp_path):
    path = tmp_path / "course.csv"
    _, course = fit(CSVLogger(path), epochs=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["epoch", "step", "loss", "accuracy"]
    for name in ("loss", "accuracy"):
        assert [float(row[name]) for row in rows] == course.history[name]  # to the last digit


def test_csv_goes_on_in_its_file(tmp_path):
    path = tmp_path / "course.csv"
    fit(CSVLogger(path), epochs=2)
    fit(CSVLogger(path), epochs=1)
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("epoch,") and lines[3].startswith("1,")
    with pytest.raises(DataError, match="has the columns epoch,step,loss,accuracy, this training has .*,lr"):
        fit(LearningRateLog(), CSVLogger(path))


def test_jsonl(tmp_path):
    path = tmp_path / "course.jsonl"
    script = Scripted("loss", [1.5, float("nan"), float("inf")])
    fit(script, JSONLLogger(path), epochs=3)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["epoch"], row["step"], row["loss"]) for row in rows] == [
        (1, 1, 1.5),
        (2, 2, None),
        (3, 3, None),
    ]
    fit(JSONLLogger(path), epochs=1)
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", [CSVLogger, JSONLLogger])
def test_each_line_is_there_when_its_epoch_is_over(kind, tmp_path):
    path = tmp_path / "course"

    class Crash(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(kind(path), Crash())
    assert len(path.read_text().splitlines()) == 2 + (kind is CSVLogger)


def test_the_learning_rate():
    _, course = fit(LearningRateLog(), epochs=3, schedule=lambda step: 0.5**step, batch_size=4)
    assert course.history["lr"] == [0.5, 0.125, 0.5**5]  # of each epoch's second and last step
    optimizer = dc.optim.Adam(0.25)
    assert fit(LearningRateLog(), epochs=2, optimizer=optimizer)[1].history["lr"] == [0.25, 0.25]


def test_a_resumed_training_counts_patience_from_where_it_starts():
    run = Run(net(), None, 20, None)
    run.epoch = 10
    stopping = EarlyStopping("loss", patience=2)
    stopping.on_fit_start(run)
    stops = []
    for _ in range(2):
        run.end_epoch({"loss": float("nan")})
        stopping.on_epoch_end(run)
        stops.append(run.stop)
    assert stops == [False, True]


# ---- TensorBoard


class Events:
    """What tensorboardX's writer was asked to do."""

    opened: ClassVar[list] = []

    def __init__(self, folder, purge_step):
        self.folder, self.purge_step, self.numbers, self.closed, self.seen = folder, purge_step, [], False, 0
        self.opened.append(self)

    def add_scalar(self, name, number, step):
        self.numbers.append((name, number, step))

    def flush(self):
        self.seen = len(self.numbers)

    def close(self):
        self.closed = True


@pytest.fixture
def events(monkeypatch):
    monkeypatch.setattr(Events, "opened", [])
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Events))
    return Events.opened


def test_tensorboard_gets_each_epochs_numbers(events):
    _, course = fit(TensorBoard("runs/a"), epochs=2)
    (writer,) = events
    assert (writer.folder, writer.purge_step, writer.closed) == ("runs/a", None, True)
    wanted = [(name, course.history[name][i], i + 1) for i in range(2) for name in ("loss", "accuracy")]
    assert writer.numbers == wanted and writer.seen == 4


def test_tensorboard_after_an_error_and_resumed(events, tmp_path):
    class Crash(Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                raise KeyboardInterrupt

    board = TensorBoard(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(board, Crash(), checkpoint=tmp_path / "c")
    assert events[0].seen == 4  # the second epoch is there, though its checkpoint is not
    copy.deepcopy(board)
    fit(board, resume=tmp_path / "c", epochs=3)
    assert events[0].closed and events[1].closed
    assert events[1].purge_step == 2 and [step for *_, step in events[1].numbers] == [2, 2, 3, 3]


def test_tensorboard_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(dc.UnsupportedError, match=r"pip install 'deepcore\[tensorboard\]'"):
        fit(TensorBoard("runs"))


def test_the_files_are_tensorboards(tmp_path):
    tensorboardX = pytest.importorskip("tensorboardX")
    fit(TensorBoard(tmp_path), epochs=3)
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), []
    while data:  # TFRecord: length, its checksum, the event, its checksum
        n = int.from_bytes(data[:8], "little")
        event = tensorboardX.proto.event_pb2.Event.FromString(data[12 : 12 + n])
        found += [(event.step, value.tag) for value in event.summary.value]
        data = data[16 + n :]
    assert found == [(i, name) for i in (1, 2, 3) for name in ("loss", "accuracy")]
