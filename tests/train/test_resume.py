"""Going on from a checkpoint: the same bits as if nothing had happened."""

import json
import subprocess
import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    BatchNorm2D,
    CheckpointError,
    Conv2D,
    CrossEntropyLoss,
    Dropout,
    Flatten,
    Linear,
    Net,
    ReLU,
    UnsupportedError,
    schedules,
)
from deepcore.io import safetensors
from deepcore.optim import SGD, Adam, AdamW
from tests.places import EACH_LIBRARY, USABLE


def data():
    random = np.random.default_rng(0)
    return random.standard_normal((40, 1, 6, 6)).astype("float32"), random.integers(0, 3, 40)


def make(seed=0):
    dc.seed(seed)
    layers = [Conv2D(1, 2, 3), BatchNorm2D(2), ReLU(), Dropout(0.3), Flatten(), Linear(32, 3)]
    return Net(layers, CrossEntropyLoss())


def settings():
    return {"batch_size": 8, "progress": False, "schedule": schedules.cosine(0.01, 40)}


def everything(net, optimizer):
    state = {path: dc.to_numpy(x) for path, x in net.state_dict().items()}
    for path, memory in optimizer.state.items():
        state |= {f"{path} {name}": np.asarray(dc.to_numpy(x)) for name, x in memory.items()}
    return state | {"steps": optimizer.steps, "rate": optimizer.lr}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


SECOND_HALF = """
import sys
import numpy as np
import deepcore as dc
from tests.train.test_resume import data, everything, make, settings
path, out = sys.argv[1:]
net, optimizer = make(seed=99), dc.optim.AdamW(1.0)
history = net.fit(*data(), epochs=8, optimizer=optimizer, resume=path, **settings())
np.savez(out, **everything(net, optimizer), loss=history.history["loss"])
"""


def test_twenty_steps_and_a_new_process_and_twenty_more_are_forty(tmp_path):
    whole, optimizer = make(), AdamW(0.01)
    history = whole.fit(*data(), epochs=8, optimizer=optimizer, seed=4, **settings())

    path, out = tmp_path / "run.ckpt", tmp_path / "end.npz"
    make().fit(*data(), epochs=4, optimizer=AdamW(0.01), seed=4, checkpoint=path, **settings())
    subprocess.run([sys.executable, "-c", SECOND_HALF, path, out], check=True)
    with np.load(out) as end:
        end = dict(end)
    np.testing.assert_array_equal(end.pop("loss"), history.history["loss"])
    assert_same(end, everything(whole, optimizer))


@pytest.mark.parametrize(
    "place", [p for p in EACH_LIBRARY if p in USABLE], ids=lambda place: getattr(place, "name", "")
)
def test_what_is_left_out_comes_from_the_checkpoint(place, tmp_path):
    whole, optimizer = place.put(make()), Adam(0.01, betas=(0.8, 0.99), overrides={"*.b": {"lr": 0.001}})
    whole.fit(*data(), epochs=3, optimizer=optimizer, seed=4, batch_size=8)
    path = tmp_path / "run.ckpt"
    half = Adam(0.01, betas=(0.8, 0.99), overrides={"*.b": {"lr": 0.001}})
    place.put(make()).fit(*data(), epochs=2, optimizer=half, seed=4, batch_size=8, checkpoint=path)
    net = place.put(make(seed=1))
    seen = []

    class Look(dc.Callback):
        def on_fit_end(self, run):
            seen.append(run.optimizer)

    history = net.fit(*data(), epochs=3, batch_size=8, resume=path, callbacks=[Look()])
    assert len(history.history["loss"]) == 3
    assert all(place.holds(W) for W in net.parameters().values())
    assert_same(everything(net, seen[0]), everything(whole, optimizer))
    assert seen[0].overrides == optimizer.overrides and seen[0].settings == optimizer.settings


def test_nothing_is_trained_when_all_is_done(tmp_path):
    net = make()
    net.fit(*data(), epochs=2, checkpoint=tmp_path / "c")
    before = everything(net, SGD())
    other = make(seed=5)
    history = other.fit(*data(), epochs=2, resume=tmp_path / "c")
    assert len(history.history["loss"]) == 2
    assert_same(before, everything(other, SGD()))


def test_a_hand_written_loop_goes_on_bit_for_bit(tmp_path):
    X, y = data()

    def steps(net, optimizer, schedule, numbers):
        for i in numbers:
            optimizer.lr = schedule(i)
            net.loss(net(X[i * 4 : i * 4 + 4]), y[i * 4 : i * 4 + 4])
            net.backward()
            optimizer.step(net)

    schedule = schedules.cosine(0.01, 10)
    net, optimizer = make(), Adam()
    steps(net, optimizer, schedule, range(10))
    half, its = make(), Adam()
    steps(half, its, schedule, range(5))
    dc.save_checkpoint(tmp_path / "c", half, its, schedule, step=5, note="half", mean=np.arange(3.0))

    dc.seed(77)
    found = dc.load_checkpoint(tmp_path / "c")
    assert found.schedule == schedule and found.progress["steps"] == 5
    assert found.more["step"] == 5 and found.more["note"] == "half"
    np.testing.assert_array_equal(found.more["mean"], np.arange(3.0))
    dc.seed(found.random)
    steps(found.net, found.optimizer, found.schedule, range(found.more["step"], 10))
    assert_same(everything(found.net, found.optimizer), everything(net, optimizer))


def test_what_does_not_fit_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "run.ckpt"
    make().fit(*data(), epochs=1, seed=4, optimizer=Adam(), checkpoint=path, batch_size=8)
    net, optimizer = make(seed=1), Adam()
    before = everything(net, optimizer)
    X, y = data()
    frozen = make()
    frozen.layers[0].trainable = False
    dc.save_checkpoint(tmp_path / "by hand", make(), Adam())
    make().fit(X, y, schedule=lambda step: 0.1, checkpoint=tmp_path / "function")
    make().save(tmp_path / "net")
    for wrong, options, message in (
        (net, {"optimizer": SGD()}, "the checkpoint is of Adam, the optimizer is SGD"),
        (net, {"batch_size": 4}, "the first fit had batch_size=8, this one has 4"),
        (net, {"shuffle": False}, "shuffle=True"),
        (net, {"clip_norm": 1.0}, "clip_norm=None, this one has 1.0; its steps would be others"),
        (net, {"precision": "bf16"}, "precision=float32, this one has bf16"),
        (
            net,
            {"sample_weight": np.ones(len(X))},
            "had none as sample_weight, this one has some; pass the same",
        ),
        (net, {"class_weight": {0: 2}}, "had none as class_weight, this one has some; pass the same"),
        (net, {"seed": 5}, "seed=5, but the first fit had 4"),
        (Net([Flatten(), Linear(36, 3)], CrossEntropyLoss()), {}, "of another net"),
        (frozen, {}, "of another net"),
        (net, {"resume": tmp_path / "by hand"}, r"fit\(checkpoint=\) did not write it"),
        (net, {"resume": tmp_path / "function", "batch_size": 32}, "was a plain function"),
        (net, {"resume": tmp_path / "net"}, "it is no checkpoint"),
    ):
        options = {"optimizer": optimizer, "resume": path, "batch_size": 8, "epochs": 2} | options
        with pytest.raises(dc.DeepcoreError, match=message):
            wrong.fit(X, y, **options)
    assert_same(before, everything(net, optimizer))
    with pytest.raises(FileNotFoundError):
        net.fit(X, y, resume=tmp_path / "nowhere")


def test_weights_and_a_clipped_norm_are_kept_in_mind(tmp_path):
    path, (X, y) = tmp_path / "run.ckpt", data()
    w = np.linspace(0.5, 1.5, len(X))
    options = {"sample_weight": w, "class_weight": {0: 2, 1: 1}, "clip_norm": 0.5, "seed": 4}
    whole, optimizer = make(), SGD()
    whole.fit(X, y, epochs=2, optimizer=optimizer, **options)
    make().fit(X, y, checkpoint=path, **options)
    other = np.roll(w, 1)
    for wrong, message in (
        ({"clip_norm": None}, "clip_norm=0.5, this one has None"),
        ({"sample_weight": other}, "had some as sample_weight, this one has others"),
        ({"class_weight": {0: 3}}, "had some as class_weight, this one has others"),
        ({"class_weight": None}, "had some as class_weight, this one has none"),
    ):
        with pytest.raises(dc.CheckpointError, match=message):
            make().fit(X, y, epochs=2, resume=path, **options | wrong)
    for classes in ([2.0, 1, 1], {False: 2}, {0.0: 2, 2: 1}):
        net, optimizer_2 = make(), SGD()
        same = {"sample_weight": list(w), "class_weight": classes}  # in other words
        net.fit(X, y, epochs=2, optimizer=optimizer_2, resume=path, **options | same)
        assert_same(everything(net, optimizer_2), everything(whole, optimizer))


@pytest.mark.parametrize("part", ["net", "optimizer", "schedule", "random", "progress"])
def test_a_checkpoint_that_lacks_a_part_does_not_load(part, tmp_path):
    path = tmp_path / "run.ckpt"
    make().fit(*data(), seed=4, optimizer=Adam(), checkpoint=path)
    arrays, metadata = safetensors.read(path)
    content = json.loads(metadata["deepcore.checkpoint"])
    del content[part]
    safetensors.write(path, arrays, {"deepcore.checkpoint": json.dumps(content)})
    for use in (lambda: make().fit(*data(), resume=path), lambda: dc.load_checkpoint(path)):
        with pytest.raises(CheckpointError, match=f"lacks {part}"):
            use()


def test_content_that_makes_no_sense_is_one_error(tmp_path):
    path = tmp_path / "run.ckpt"
    make().fit(*data(), seed=4, optimizer=Adam(), checkpoint=path)
    arrays, metadata = safetensors.read(path)
    good = json.loads(metadata["deepcore.checkpoint"])
    for part, value in (
        ("optimizer", {"class": "Adam"}),
        ("optimizer", {**good["optimizer"], "settings": {"lr": -1}}),
        ("random", {"seed": "-1", "calls": {}}),
        ("random", {"seed": "x", "calls": {}}),
        ("schedule", {"class": "Optimizer", "config": {}}),
        ("progress", 3),
        ("net", {"class": "Net"}),
    ):
        safetensors.write(path, arrays, {"deepcore.checkpoint": json.dumps(good | {part: value})})
        with pytest.raises(dc.DeepcoreError):
            make().fit(*data(), resume=path)
        if part != "progress":
            with pytest.raises(dc.DeepcoreError):
                dc.load_checkpoint(path)


class Mine(SGD):
    """An optimizer of the user's own."""


def test_an_optimizer_of_the_users_own_must_be_given(tmp_path):
    path = tmp_path / "c"
    make().fit(*data(), optimizer=Mine(0.1, momentum=0.9), checkpoint=path)
    with pytest.raises(UnsupportedError, match="Mine, is not deepcore's own"):
        dc.load_checkpoint(path)
    with pytest.raises(UnsupportedError, match=r"optimizer=\.\.\., resume=path"):
        make().fit(*data(), resume=path)
    optimizer = Mine(0.1, momentum=0.9)
    make().fit(*data(), epochs=2, optimizer=optimizer, resume=path)
    assert optimizer.steps == 4


def test_what_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UnsupportedError, match="pass finite numbers, strings"):
        dc.save_checkpoint(tmp_path / "c", make(), Adam(), more=object())
    assert not list(tmp_path.iterdir())


def test_a_diverged_history_is_kept(tmp_path):
    class Spoil(dc.Callback):
        def on_epoch_end(self, run):
            run.history.history["loss"][-1] = float("nan")

    make().fit(*data(), checkpoint=tmp_path / "c", callbacks=[Spoil()])
    history = make().fit(*data(), epochs=1, resume=tmp_path / "c")
    assert np.isnan(history.history["loss"][0])


# ---- callbacks


def noisy(n=40):
    """Labels of which little is to be learned, so that the validation gets worse soon."""
    random = np.random.default_rng(3)
    return random.standard_normal((n, 4)).astype("float32"), random.integers(0, 2, n)


def in_two_parts(tmp_path, callbacks, epochs, first, optimizer=lambda: SGD(0.5), again=None):
    """(net, history, callbacks) of a fit in one go, and of one that is resumed after `first` epochs."""

    def train(epochs, callbacks, **options):
        dc.seed(1)
        net = Net([Linear(4, 16), ReLU(), Linear(16, 2)], CrossEntropyLoss())
        history = net.fit(
            *noisy(), epochs=epochs, validation_data=noisy(12), callbacks=callbacks, seed=4, **options
        )
        return net, history.history, callbacks

    path = tmp_path / "run.ckpt"
    whole = train(epochs, callbacks(), optimizer=optimizer())
    train(first, callbacks(), optimizer=optimizer(), checkpoint=path)
    return whole, train(epochs, callbacks(), optimizer=again and again(), resume=path)


@pytest.mark.parametrize("first", [3, 8, 10])  # the best epoch is the seventh
@pytest.mark.parametrize("restore_best", [True, False])
def test_early_stopping_goes_on_counting(first, restore_best, tmp_path):
    def callbacks():
        return [dc.EarlyStopping(patience=4, restore_best=restore_best)]

    whole, resumed = in_two_parts(tmp_path, callbacks, epochs=60, first=first)
    (net, history, (stopping,)), (other, its, (again,)) = whole, resumed
    assert stopping.stopped and again.stopped and stopping.best_epoch == 7 and len(history["loss"]) == 11
    assert its == history
    assert (again.best, again.best_epoch) == (stopping.best, stopping.best_epoch)
    assert_same(everything(net, SGD()), everything(other, SGD()))


def test_a_training_that_was_stopped_early_stays_so_unless_there_is_more_patience(tmp_path):
    path, epochs = tmp_path / "c", []
    for patience in (2, 2, 5):
        net = Net([Linear(4, 16, init="torch"), ReLU(), Linear(16, 2)], CrossEntropyLoss())
        resume = path if path.exists() else None
        stopping = dc.EarlyStopping(patience=patience)
        data = {"validation_data": noisy(12), "optimizer": SGD(0.5), "seed": 4}
        course = net.fit(*noisy(), epochs=60, callbacks=[stopping], checkpoint=path, resume=resume, **data)
        epochs.append(len(course.history["loss"]))
        assert stopping.stopped
    assert epochs[0] == epochs[1] and epochs[2] > epochs[1]


@pytest.mark.parametrize("again", [None, lambda: SGD(0.5, overrides={"*.b": {"lr": 0.1}})])
def test_a_plateau_goes_on_with_its_rates(again, tmp_path):
    seen = []

    class Look(dc.Callback):
        def on_fit_end(self, run):
            seen.append((run.optimizer.lr, run.optimizer.overrides))

    def callbacks():
        return [dc.ReduceOnPlateau(patience=1, factor=0.5), Look()]

    (_, history, _), (_, its, _) = in_two_parts(
        tmp_path, callbacks, 20, 9, lambda: SGD(0.5, overrides={"*.b": {"lr": 0.1}}), again
    )
    assert its == history
    (end, half, resumed) = seen
    assert resumed == end and half[0] < 0.5 and end[0] < half[0]


def test_the_best_checkpoint_is_not_replaced_by_a_worse_one(tmp_path):
    best = tmp_path / "best.safetensors"
    whole, resumed = in_two_parts(tmp_path, lambda: [dc.BestCheckpoint(best)], epochs=12, first=9)
    (kept,), (again,) = whole[2], resumed[2]
    assert kept.best_epoch < 9
    assert (again.best, again.best_epoch) == (kept.best, kept.best_epoch)


class Counting(dc.Callback):
    """A callback of the user's own, with a state."""

    def __init__(self):
        self.seen, self.mean = 0, np.zeros(2)

    def on_epoch_end(self, run):
        self.seen, self.mean = self.seen + 1, self.mean + 1

    def state(self, run):
        return {"seen": self.seen, "mean": self.mean}

    def restore(self, state, run):
        self.seen, self.mean = state["seen"], state["mean"]


def test_states_find_their_callbacks_by_class_and_order(tmp_path):
    path = tmp_path / "c"
    first, second = Counting(), Counting()
    first.seen = 10
    make().fit(*data(), epochs=2, callbacks=[first, dc.EarlyStopping("loss"), second], checkpoint=path)
    a, b, c = Counting(), Counting(), Counting()
    make().fit(*data(), epochs=3, callbacks=[a, b, c], resume=path)
    assert (a.seen, b.seen, c.seen) == (13, 3, 1)
    np.testing.assert_array_equal(b.mean, [3, 3])
    assert dc.load_checkpoint(path).more == {}


def test_a_state_that_makes_no_sense_is_one_error(tmp_path):
    path = tmp_path / "c"
    make().fit(*data(), callbacks=[dc.EarlyStopping("loss")], checkpoint=path)
    arrays, metadata = safetensors.read(path)
    good = json.loads(metadata["deepcore.checkpoint"])
    for callbacks in (3, [3], [{}], [{"class": "EarlyStopping", "state": 3}], [{"class": "EarlyStopping"}]):
        bad = good | {"progress": good["progress"] | {"callbacks": callbacks}}
        safetensors.write(path, arrays, {"deepcore.checkpoint": json.dumps(bad)})
        net = make(5)
        before = everything(net, SGD())
        with pytest.raises(CheckpointError, match="makes no sense"):
            net.fit(*data(), epochs=2, resume=path, callbacks=[dc.EarlyStopping("loss")])
        assert_same(before, everything(net, SGD()))


def test_a_state_that_a_file_cannot_hold_is_refused(tmp_path):
    class Odd(dc.Callback):
        def state(self, run):
            return {"x": object()}

    with pytest.raises(UnsupportedError, match="pass finite numbers, strings"):
        make().fit(*data(), callbacks=[Odd()], checkpoint=tmp_path / "c")
