"""fit, evaluate and predict: the loop, what it reports, what it accepts, and what an interrupt leaves."""

import copy
import gc
import os
import random
import signal
import sys
import threading
import time
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    ArgumentError,
    BatchNorm2D,
    Callback,
    Concat,
    Conv2D,
    CrossEntropyLoss,
    DataError,
    Dropout,
    Flatten,
    LabelError,
    Linear,
    MeanSquareLoss,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    StateError,
    Tanh,
)
from deepcore.optim import SGD, Adam, AdamW
from tests.places import EACH_LIBRARY, USABLE


def normal(*shape, seed=0, dtype="float32"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def data(n=20, d=3, classes=3, seed=0, dtype="float32"):
    """Samples, and the class that their first numbers vote for."""
    X = normal(n, d, seed=seed, dtype=dtype)
    return X, X[:, :classes].argmax(axis=1)


def small_net(seed=0, loss=None, dtype=None, p=0.0):
    dc.seed(seed)
    layers = [Linear(3, 8, dtype=dtype), ReLU(), Dropout(p), Linear(8, 3, dtype=dtype)]
    return Net(layers, loss or CrossEntropyLoss())


def image_net(seed=0, p=0.25):
    """One of everything that has a state: weights, running statistics, random numbers."""
    dc.seed(seed)
    layers = [Conv2D(1, 2), BatchNorm2D(2), ReLU(), Dropout(p), Flatten(), Linear(8, 4), Tanh(), Linear(4, 2)]
    return Net(layers, CrossEntropyLoss())


def images(n=16, seed=0):
    return normal(n, 1, 4, 4, seed=seed), np.random.default_rng(seed).integers(0, 2, n)


def same(a, b):
    """Whether two nets hold the same numbers, bit for bit."""
    ours, theirs = a.parameters() | a.buffers(), b.parameters() | b.buffers()
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[path], theirs[path]) for path in ours)


def kept(net):
    """The very arrays of a net: nothing may have replaced them."""
    before = net.parameters() | net.buffers()
    values = copy.deepcopy(before)

    def unchanged():
        after = net.parameters() | net.buffers()
        return all(
            after[path] is before[path] and np.array_equal(after[path], values[path]) for path in before
        )

    return unchanged


# ---- the loop


def test_fit_is_the_loop_one_would_write():
    X, y = data(20, dtype="float64")
    ours, by_hand = (small_net(dtype="float64") for _ in range(2))
    ours.fit(X, y, epochs=3, batch_size=8, optimizer=Adam(0.01), shuffle=False)
    optimizer = Adam(0.01)
    for _ in range(3):
        for start in (0, 8, 16):
            out = by_hand(X[start : start + 8])
            by_hand.loss(out, y[start : start + 8])
            by_hand.backward()
            optimizer.step(by_hand)
    assert same(ours, by_hand)


def test_the_default_optimizer_is_plain_descent():
    X, y = data()
    ours, by_hand = small_net(), small_net()
    ours.fit(X, y, batch_size=20, shuffle=False)
    by_hand.loss(by_hand(X), y)
    by_hand.backward()
    by_hand.update_weights(0.01)
    assert same(ours, by_hand)


def test_it_learns():
    X, y = data(300)
    net = small_net()
    history = net.fit(X, y, epochs=20, optimizer=Adam(0.02), seed=0)
    assert history.history["accuracy"][-1] > 0.95
    assert history.history["loss"][-1] < 0.3 < history.history["loss"][0]
    assert net.evaluate(X, y)["accuracy"] > 0.95


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_sample_comes_once_an_epoch(shuffle):
    seen = []

    class Look(dc.Function):
        def forward(self, X):
            seen.append(X[:, 0].tolist())
            return X

        def backward(self, dY):
            return dY

    X = np.arange(10.0, dtype="float32")[:, None] @ np.ones((1, 3), "float32")
    Net([Look(), Linear(3, 2)], MSELoss()).fit(
        X, np.zeros((10, 2)), epochs=3, batch_size=4, shuffle=shuffle, seed=1
    )
    assert [len(batch) for batch in seen] == [4, 4, 2] * 3
    epochs = [[*seen[k], *seen[k + 1], *seen[k + 2]] for k in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    if shuffle:
        assert epochs[0] != epochs[1] != epochs[2]
        assert list(range(10)) not in epochs
    else:
        assert epochs == [list(range(10))] * 3


def test_samples_and_targets_stay_together():
    X = normal(50, 3)
    target = X @ np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "float32")
    dc.seed(0)
    net = Net([Linear(3, 2)], MSELoss())
    net.fit(X, target, epochs=200, batch_size=7, optimizer=SGD(0.1))
    np.testing.assert_allclose(net.predict(X), target, atol=1e-3)


def test_zero_epochs_do_nothing():
    net = small_net()
    unchanged = kept(net)
    assert net.fit(*data(), epochs=0).history == {}
    assert unchanged()


# ---- history, validation, metrics


def test_history_has_a_number_an_epoch_under_each_name():
    X, y = data()
    net = small_net()
    history = net.fit(X, y, epochs=3, validation_data=(X, y))
    assert isinstance(history, dc.History)
    assert net.history is history
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    for values in history.history.values():
        assert len(values) == 3
        assert all(type(value) is float for value in values)
    assert "3 epochs" in repr(history)
    assert net.fit(X, y) is not history


def test_the_numbers_of_an_epoch_are_means_over_its_samples():
    """Also if the last batch is smaller; with a rate of 0 they are those of evaluate."""
    X, y = data(21)
    net = small_net()
    history = net.fit(X, y, batch_size=8, optimizer=SGD(0.0)).history
    right = net.evaluate(X, y)
    assert history["loss"][0] == pytest.approx(right["loss"], rel=1e-6)
    assert history["accuracy"][0] == right["accuracy"]
    out = net.predict(X)
    assert right["accuracy"] == pytest.approx((out.argmax(axis=1) == y).mean(), abs=1e-7)
    assert right["loss"] == pytest.approx(float(net.loss(out, y)), rel=1e-6)


def test_validation_is_evaluation_after_the_epoch():
    X, y = images()
    V, v = images(10, seed=5)
    seen = []

    class Evaluate(Callback):
        def on_epoch_end(self, run):
            seen.append(run.net.evaluate(V, v))
            assert run.numbers["val_loss"] == seen[-1]["loss"]
            assert run.numbers["val_accuracy"] == seen[-1]["accuracy"]

    with_it, without = image_net(), image_net()
    history = with_it.fit(X, y, epochs=3, validation_data=(V, v), callbacks=[Evaluate()], seed=1).history
    assert history["val_loss"] == [numbers["loss"] for numbers in seen]
    without.fit(X, y, epochs=3, seed=1)
    assert same(with_it, without)  # looking changes nothing: no statistics, no random numbers


def test_regression_has_no_accuracy():
    net = small_net(loss=MSELoss())
    assert list(net.fit(normal(8, 3), normal(8, 3, seed=1)).history) == ["loss"]
    assert list(net.evaluate(normal(8, 3), normal(8, 3, seed=1))) == ["loss"]


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (dc.SoftMarginLoss, [[1], [-1]]),
        (dc.HingeLoss, [[1, -1, 1], [-1, -1, 1]]),
        (dc.HingeEmbeddingLoss, [[1, -1], [-1, 1]]),
        (dc.MultiLabelSoftMarginLoss, [[1, 0, 1], [0, 1, 1]]),
    ],
)
def test_whole_numbers_that_are_no_class_labels_have_no_accuracy(loss, y):
    y = np.array(y)
    net = Net([Linear(3, y.shape[1])], loss())
    assert list(net.fit(normal(2, 3), y, validation_data=(normal(2, 3), y)).history) == ["loss", "val_loss"]
    assert list(net.evaluate(normal(2, 3), y)) == ["loss"]


def largest_error(out, y):
    return np.abs(out - y).max()


def test_metrics_of_ones_own():
    X, Y = normal(8, 3), normal(8, 3, seed=1)
    net = small_net(loss=MSELoss())
    history = net.fit(X, Y, metrics=[largest_error], validation_data=(X, Y)).history
    assert list(history) == ["loss", "largest_error", "val_loss", "val_largest_error"]
    assert net.evaluate(X, Y, metrics=[largest_error]).keys() == {"loss", "largest_error"}
    named = net.evaluate(X, Y, metrics={"worst": largest_error})
    assert named["worst"] == pytest.approx(np.abs(net.predict(X) - Y).max())
    assert list(small_net().fit(*data(), metrics=["accuracy"]).history) == ["loss", "accuracy"]
    assert list(small_net().fit(*data(), metrics=[]).history) == ["loss"]


def test_an_unknown_metric_is_refused_before_anything_is_trained():
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(ArgumentError, match="metrics: wanted a function or one of accuracy, got 'f1'"):
        net.fit(*data(), metrics=["f1"])
    assert unchanged()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": largest_error}, "no metric can be called 'loss'; name them in a dict"),
        ({"val_worst": largest_error}, "no metric can be called 'val_worst'"),
        ([lambda out, y: 1.0, lambda out, y: 2.0], "two of them are called '<lambda>'"),
        ({"worst": "f1"}, "wanted a function or one of accuracy, got 'f1'"),
        (3, "wanted functions .* or names, got 3"),
    ],
)
def test_metrics_that_would_hide_another_number_are_refused(metrics, message):
    net = small_net()
    unchanged = kept(net)
    for use in (lambda: net.fit(*data(), metrics=metrics), lambda: net.evaluate(*data(), metrics=metrics)):
        with pytest.raises(ArgumentError, match=f"metrics: {message}"):
            use()
    assert unchanged()


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize(
    ("value", "got"), [(np.ones(3), r"an array of shape \(3,\)"), ("high", "'high'"), (None, "None")]
)
def test_a_metric_that_returns_no_number_is_named(value, got, compile):
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(
        dc.DTypeError, match=f"metrics: worst must return one number for a batch, .* got {got}"
    ):
        net.fit(*data(), metrics={"worst": lambda out, y: value}, compile=compile)
    assert unchanged()


def test_arguments_that_are_no_numbers():
    net, (X, y) = small_net(), data()
    with pytest.raises(ArgumentError, match="fit: clip_norm must be a finite number above 0, got '1'"):
        net.fit(X, y, clip_norm="1")
    with pytest.raises(DataError, match=r"validation_data, y is missing: pass \(X, y\)"):
        net.fit(X, y, validation_data=(X, None))
    with pytest.raises(
        ArgumentError, match="EarlyStopping: min_delta must be a finite number, 0 or more, got '0'"
    ):
        dc.EarlyStopping(min_delta="0")


def test_a_loss_for_each_sample_is_reported_as_its_mean():
    net = small_net(loss=CrossEntropyLoss(reduction="none"))
    X, y = data()
    history = net.fit(X, y, optimizer=SGD(0.0)).history
    assert history["loss"][0] == pytest.approx(float(net.loss_fn(net(X), y).mean()), rel=1e-5)


def test_a_users_loss_may_return_a_python_number():
    class Distance(dc.Loss):
        def forward(self, X, Y):
            return float(np.sum((X - Y) ** 2))

        def local_grad(self, X, Y):
            return {"X": 2 * (X - Y)}

    net = small_net(loss=Distance())
    history = net.fit(normal(8, 3), normal(8, 3, seed=1), epochs=2).history
    assert history["loss"][1] < history["loss"][0]


# ---- reproducible


def fitted(seed=7, **settings):
    net = image_net()
    net.fit(*images(), epochs=3, batch_size=5, optimizer=AdamW(0.01), seed=seed, **settings)
    return net


def test_one_seed_gives_the_same_bits():
    """Shuffling and dropout both come from it, whatever was drawn before."""
    first = fitted()
    dc.seed(99)
    Dropout()(normal(5, 5))
    assert same(first, fitted())
    assert not same(first, fitted(seed=8))
    assert first.history.history == fitted().history.history


def test_without_a_seed_that_of_deepcore_counts():
    def unseeded(n):
        net = image_net()
        dc.seed(n)
        net.fit(*images(), epochs=2, batch_size=5)
        net.fit(*images(), epochs=1, batch_size=5)
        return net

    assert same(unseeded(3), unseeded(3))
    assert not same(unseeded(3), unseeded(4))


def test_two_fits_without_a_seed_shuffle_differently():
    losses = []

    class Look(Callback):
        def on_step_end(self, run):
            losses.append(float(run.loss))

    net = small_net(loss=MSELoss())
    for _ in range(2):
        net.fit(normal(8, 3), normal(8, 3), batch_size=1, optimizer=SGD(0.0), callbacks=[Look()])
    assert sorted(losses[:8]) == pytest.approx(sorted(losses[8:]))
    assert losses[:8] != losses[8:]


def test_fit_draws_nothing_from_the_generator_outside():
    dc.seed(3)
    first = Linear(4, 4).weight["W"]
    net = image_net()
    dc.seed(3)
    net.fit(*images(), seed=1)
    assert np.array_equal(Linear(4, 4).weight["W"], first)


def test_two_fits_in_two_threads_are_each_reproducible():
    """Two nets, dropout in both, a BatchNorm in both: no lock, no mixing."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        alone = [fitted(seed) for seed in (1, 2)]
        nets = [image_net(), image_net()]
        gate = threading.Barrier(2)

        def train(net, seed):
            gate.wait(10)
            net.fit(*images(), epochs=3, batch_size=5, optimizer=AdamW(0.01), seed=seed)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(train, nets, (1, 2)))
    finally:
        sys.setswitchinterval(interval)
    assert same(alone[0], nets[0]) and same(alone[1], nets[1])


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "7"])
def test_a_seed_that_is_none(seed):
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(ArgumentError, match="seed must be a whole number"):
        net.fit(*data(), seed=seed)
    assert unchanged()


# ---- callbacks


class Log(Callback):
    def __init__(self, log, name=""):
        self.log = log
        self.name = name

    def _note(self, moment, run):
        self.log.append(f"{self.name}{moment} {run.epoch}.{run.step}")

    def on_fit_start(self, run):
        self._note("fit start", run)

    def on_epoch_start(self, run):
        self._note("epoch start", run)

    def on_step_end(self, run):
        self._note("step", run)

    def on_epoch_end(self, run):
        self._note("epoch end", run)

    def on_fit_end(self, run):
        self._note("fit end", run)


def test_callbacks_come_in_order():
    log = []
    small_net().fit(*data(20), epochs=2, batch_size=10, callbacks=[Log(log)])
    assert log == [
        "fit start 0.0",
        "epoch start 0.0",
        "step 0.1",
        "step 0.2",
        "epoch end 1.2",
        "epoch start 1.2",
        "step 1.3",
        "step 1.4",
        "epoch end 2.4",
        "fit end 2.4",
    ]


def test_each_moment_reaches_the_callbacks_in_their_order():
    log = []
    small_net().fit(*data(5), batch_size=10, callbacks=(Log(log, "a "), Log(log, "b ")))
    assert [line[0] for line in log] == ["a", "b"] * 5


def test_what_a_callback_sees():
    net, optimizer = small_net(), SGD(0.1)
    seen = []

    class Look(Callback):
        needs_gradients = True

        def on_fit_start(self, run):
            assert run.net is net and run.optimizer is optimizer
            assert run.history is net.history
            assert run.loss is None

        def on_step_end(self, run):
            assert run.loss.shape == ()
            assert run.net.gradients().keys() == net.parameters().keys()
            seen.append(float(run.loss))

        def on_epoch_end(self, run):
            assert run.numbers["loss"] == run.history.history["loss"][-1]
            assert run.numbers["loss"] == pytest.approx(np.mean(seen[-2:]), rel=1e-6)

    net.fit(*data(20), epochs=2, batch_size=10, optimizer=optimizer, callbacks=[Look()])
    assert len(seen) == 4


@pytest.mark.parametrize("moment", ["on_step_end", "on_epoch_end", "on_epoch_start", "on_fit_start"])
def test_a_callback_may_stop_training(moment):
    def stop(self, run):
        run.stop = True

    log = []
    Stop = type("Stop", (Callback,), {moment: stop})
    small_net().fit(*data(20), epochs=5, batch_size=10, callbacks=[Stop(), Log(log)])
    steps = [line for line in log if line.startswith("step")]
    assert len(steps) <= {"on_step_end": 1, "on_epoch_end": 2}.get(moment, 1)
    assert log[-1].startswith("fit end")


def test_a_callback_may_predict_and_evaluate():
    X, y = images()

    class Look(Callback):
        def on_step_end(self, run):
            assert run.net.training
            run.net.predict(X)
            run.net.evaluate(X, y)
            assert run.net.training

    assert same(fitted(callbacks=[Look()]), fitted())


def test_an_error_in_a_callback_leaves_the_thread_as_it_was():
    class Bad(Callback):
        def on_step_end(self, run):
            raise ValueError("no")

    net = image_net()
    with pytest.raises(ValueError, match="no"):
        net.fit(*images(), callbacks=[Bad()])
    assert_works_by_hand(net)


def assert_works_by_hand(net):
    """Records are kept, statistics committed, `training` is True: no mode of fit has stayed behind."""
    X, y = images(6, seed=9)
    before = net.buffers()
    assert net.training
    net.loss(net(X), y)
    dX = net.backward()
    assert dX.shape == X.shape
    assert net.layers[0].cache["X"] is X
    assert net.buffers()["layers.1.running_mean"] is not before["layers.1.running_mean"]
    dc.seed(1)
    first = Dropout(0.5)(X)
    dc.seed(1)
    assert np.array_equal(Dropout(0.5)(X), first)


# ---- progress


def test_progress_is_silent_unless_asked_for_or_on_a_terminal(capsys):
    small_net().fit(*data())
    small_net().fit(*data(), progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_progress_goes_to_stderr(capsys):
    X, y = data()
    small_net().fit(X, y, epochs=3, progress=True, validation_data=(X, y))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("epoch 3/3  loss ")
    assert all(name in lines[2] for name in ("accuracy", "val_loss", "val_accuracy"))
    assert "\r" not in captured.err and "\033" not in captured.err  # a log is no terminal


class Terminal:
    text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def on_a_terminal(monkeypatch):
    """stderr is a terminal of 80 columns that is watched. (No fixture: pytest changes stderr after those.)"""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("CI", raising=False)
    return terminal


def test_progress_on_a_terminal(monkeypatch):
    """A bar that is drawn over, with no more lines than one."""
    terminal = on_a_terminal(monkeypatch)
    small_net().fit(*data(), epochs=4)
    assert "epoch 4/4" in terminal.text and "[====" in terminal.text
    assert terminal.text.count("\n") == 1 and terminal.text.endswith("\n")
    before = terminal.text
    small_net().fit(*data(), progress=False)
    assert terminal.text == before


def test_progress_on_a_narrow_terminal(monkeypatch):
    """What is drawn over must not wrap."""
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr("deepcore.train.progress._INTERVAL", 0)
    monkeypatch.setenv("COLUMNS", "30")
    small_net().fit(*data(), epochs=3)
    *drawn, last = [line.removeprefix("\033[K") for line in terminal.text.split("\r")]
    assert max(map(len, drawn)) == 29 < len(last) and last.endswith(" s\n")


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("CI", "true"), ("CI", "1")])
def test_a_terminal_that_nobody_watches_is_a_log(variable, monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv(*variable)
    small_net().fit(*data(), epochs=3)
    assert "\r" not in terminal.text and "\033" not in terminal.text
    assert [line[:9] for line in terminal.text.splitlines()] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


def test_ci_that_says_no(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setenv("CI", "false")
    small_net().fit(*data())
    assert "\r" in terminal.text


def test_progress_in_a_notebook(monkeypatch, capsys):
    """Drawn over by carriage returns alone: escape codes are not for notebooks."""
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr("deepcore.train.progress._INTERVAL", 0)
    small_net().fit(*data(), epochs=2)
    text = capsys.readouterr().err
    assert "\033" not in text and text.count("\n") == 1
    drawn = text.removesuffix("\n").split("\r")[1:]
    assert "epoch 1/2" in drawn[0] and "epoch 2/2" in drawn[-1]
    visible = [line.rstrip() for line in drawn]
    assert all(len(line) >= len(before) for before, line in zip(visible, drawn[1:], strict=False))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    small_net().fit(*data())  # IPython is imported, but this is no notebook
    assert capsys.readouterr().err == ""


def test_progress_of_many_epochs_is_no_flood(capsys):
    small_net().fit(*data(), epochs=200, progress=True)
    assert 5 <= len(capsys.readouterr().err.splitlines()) <= 30


# ---- what it takes


def pairs(X, y, size=8):
    return [(X[k : k + size], y[k : k + size]) for k in range(0, len(X), size)]


def test_iterables_of_batches():
    X, y = data()
    batches = pairs(X, y)

    class Stream:
        def __iter__(self):
            return iter(batches)

    class Loader(Stream):
        def __len__(self):
            return len(batches)

    right = small_net()
    right.fit(X, y, epochs=3, batch_size=8, shuffle=False)
    for stream in (batches, tuple(batches), Stream(), Loader(), [list(pair) for pair in batches]):
        net = small_net()
        history = net.fit(stream, epochs=3)
        assert same(net, right)
        assert history.history == right.history.history


def test_a_generator_serves_one_epoch():
    X, y = data()
    right, net = small_net(), small_net()
    right.fit(X, y, batch_size=8, shuffle=False)
    net.fit(pair for pair in pairs(X, y))
    assert same(net, right)
    with pytest.raises(DataError, match="a generator can be run through once, so pass a list"):
        small_net().fit((pair for pair in pairs(X, y)), epochs=2)
    with pytest.raises(DataError, match="gave no batch"):
        small_net().fit([])


def test_an_iterable_is_read_as_it_is_needed():
    """No batch is asked for before the one before it is trained on."""
    X, y = data(24)
    log = []

    def stream():
        for k, pair in enumerate(pairs(X, y)):
            log.append(f"batch {k}")
            yield pair

    class Look(Callback):
        def on_step_end(self, run):
            log.append(f"step {run.step}")

    small_net().fit(stream(), callbacks=[Look()])
    assert log == ["batch 0", "step 1", "batch 1", "step 2", "batch 2", "step 3"]


@pytest.mark.parametrize("batches", [[1, 2], ["ab"], [(1, 2, 3)], [np.ones((2, 3))], 7, None], ids=repr)
def test_what_is_no_iterable_of_pairs(batches):
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(DataError):
        net.fit(batches)
    assert unchanged()


def test_missing_targets_are_named():
    with pytest.raises(DataError, match="y is missing: pass X and y, or an iterable of pairs"):
        small_net().fit(normal(4, 3))


def test_memory_maps(tmp_path):
    X, y = data()
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", y.astype("uint8"))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r"), np.load(tmp_path / "y.npy", mmap_mode="r")
    assert isinstance(mapped[0], np.memmap)
    ours, right = small_net(), small_net()
    history = ours.fit(*mapped, epochs=2, batch_size=8, seed=1, validation_data=mapped)
    assert history.history == right.fit(X, y, epochs=2, batch_size=8, seed=1, validation_data=(X, y)).history
    assert same(ours, right)
    assert ours.evaluate(*mapped) == right.evaluate(X, y)
    assert np.array_equal(ours.predict(mapped[0]), right.predict(X))
    assert np.array_equal(ours.predict(mapped[0], batch_size=8), right.predict(X, batch_size=8))
    assert type(ours.parameters()["layers.0.W"]) is np.ndarray


class Frame:
    """A table as pandas has it: columns, an index, and __array__."""

    def __init__(self, values):
        self.values = values
        self.columns = ["a", "b", "c"]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.columns)

    def __getitem__(self, key):
        raise KeyError(key)


def test_frames():
    X, y = data()
    X64 = X.astype("float64")
    ours, right = small_net(), small_net()
    frames = Frame(X64), Frame(y)
    history = ours.fit(*frames, epochs=2, seed=1, validation_data=frames).history
    assert history == right.fit(X64, y, epochs=2, seed=1, validation_data=(X64, y)).history.copy()
    assert same(ours, right)
    assert ours.evaluate(*frames) == right.evaluate(X64, y)
    assert np.array_equal(ours.predict(frames[0]), right.predict(X64))
    with pytest.raises(DataError):
        ours.fit(frames[0])
    with pytest.raises(dc.DTypeError, match="wanted numbers, got .* of dtype"):
        ours.fit(Frame(np.array([["a", "b", "c"]])), Frame(np.array([0])))


class MixedFrame:
    """A table whose columns are of several types: all of it as one array is one of objects."""

    def __init__(self, **columns):
        self.table, self.columns = columns, list(columns)

    def __array__(self, dtype=None, copy=None):
        return np.stack([x.astype(object) for x in self.table.values()], axis=1)

    def __getitem__(self, name):
        return self.table[name]


def test_frames_of_several_types():
    X, y = data()
    columns = {"a": X[:, 0], "b": X[:, 1] > 0, "c": np.arange(len(X))}
    ours, right = small_net(), small_net()
    ours.fit(MixedFrame(**columns), y, seed=1)
    right.fit(np.stack([x.astype("float64") for x in columns.values()], axis=1), y, seed=1)
    assert same(ours, right)
    for bad in (np.array([None] * len(X)), np.array(["1.5"] * len(X))):
        with pytest.raises(
            dc.DTypeError, match="X: column 'b' holds more than numbers.*fill what is missing"
        ):
            ours.fit(MixedFrame(**columns | {"b": bad}), y)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_of_the_libraries_themselves(library):
    frames = pytest.importorskip(library, reason=f"needs {library}")
    X, y = data()
    table = {"a": X[:, 0].astype("float64"), "b": X[:, 1] > 0, "c": np.arange(len(X))}
    whole = np.stack([x.astype("float64") for x in table.values()], axis=1)
    frame, labels = frames.DataFrame(table), frames.Series(y)
    ours, right = small_net(), small_net()
    history = ours.fit(frame, labels, seed=1, sample_weight=labels, validation_data=(frame, labels)).history
    assert history == right.fit(whole, y, seed=1, sample_weight=y, validation_data=(whole, y)).history
    assert np.array_equal(ours.predict(frame), right.predict(whole))
    assert ours.evaluate(frame, labels) == right.evaluate(whole, y)


def test_lists_of_numbers():
    X, y = data(6)
    ours, right = small_net(), small_net()
    ours.fit(X.tolist(), y.tolist(), seed=1)
    right.fit(X, y, seed=1)
    assert same(ours, right)
    assert np.array_equal(ours.predict(X.tolist()), right.predict(X))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
@pytest.mark.parametrize("column", [False, True])
def test_labels_in_any_integer_type_as_a_row_or_a_column(dtype, column):
    X, y = data()
    ours, right = small_net(), small_net()
    labels = y.astype(dtype)[:, None] if column else y.astype(dtype)
    history = ours.fit(X, labels, seed=1, validation_data=(X, labels)).history
    assert history == right.fit(X, y, seed=1, validation_data=(X, y)).history
    assert same(ours, right)


def test_probabilities_as_targets():
    X, y = data()
    net, right = small_net(), small_net()
    net.fit(X, np.eye(3)[y], seed=1)
    right.fit(X, y, seed=1)
    for path, W in net.parameters().items():
        np.testing.assert_allclose(W, right.parameters()[path], atol=1e-6)


def test_read_only_and_strided_data_are_as_good_and_stay_as_they_are():
    X, y = data()
    right = small_net()
    right.fit(X, y, seed=1, epochs=2)
    frozen, labels = X.copy(), y.copy()
    frozen.flags.writeable = labels.flags.writeable = False
    wide = np.repeat(X, 2, axis=1)[:, ::2]
    for data_, targets in ((frozen, labels), (np.asfortranarray(X), y), (wide, y), (X[::-1][::-1], y)):
        before = data_.copy()
        net = small_net()
        net.fit(data_, targets, seed=1, epochs=2)
        assert same(net, right)
        assert np.array_equal(data_, before)


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_batches_are_moved_to_the_net(backend):
    pytest.importorskip(backend, reason=f"needs {backend}")
    X, y = images()
    right, net = image_net(), image_net()
    history = right.fit(X, y, epochs=2, batch_size=5, seed=1, validation_data=(X, y)).history
    if backend != "numpy":
        net.to(backend, device="device1")
    ours = net.fit(X, y, epochs=2, batch_size=5, seed=1, validation_data=(X, y)).history
    for name in history:
        assert ours[name] == pytest.approx(history[name], rel=1e-4)
    numbers = net.evaluate(X, y)
    assert all(type(value) is float for value in numbers.values())
    for size in (None, 5):
        out = net.predict(X, batch_size=size)
        assert dc.backend_of(out).name == backend
        np.testing.assert_allclose(dc.to_numpy(out), right.predict(X), rtol=1e-3, atol=1e-4)
    assert {dc.backend_of(W).name for W in net.parameters().values()} == {backend}
    net.fit(pairs(X, y), epochs=2)
    net.fit(dc.to_backend(X, backend), dc.to_backend(y, backend))


# ---- settings


def test_accumulate_equals_a_big_batch():
    X, y = data(24, dtype="float64")
    big, small = small_net(dtype="float64"), small_net(dtype="float64")
    first = big.fit(X, y, epochs=3, batch_size=12, shuffle=False, optimizer=Adam(0.01)).history
    log = []
    second = small.fit(
        X,
        y,
        epochs=3,
        batch_size=4,
        accumulate=3,
        shuffle=False,
        optimizer=Adam(0.01),
        callbacks=[Log(log)],
    ).history
    for path, W in big.parameters().items():
        np.testing.assert_allclose(small.parameters()[path], W, rtol=0, atol=1e-10)
    for name in first:
        assert second[name] == pytest.approx(first[name], rel=1e-10)
    assert sum(line.startswith("step") for line in log) == 6


def test_accumulate_equals_a_big_batch_if_the_last_batch_is_smaller():
    """10 samples as 4 + 4 + 2: each counts as much as the others."""
    X, y = data(10, dtype="float64")
    big, small = small_net(dtype="float64"), small_net(dtype="float64")
    big.fit(X, y, batch_size=10, shuffle=False)
    small.fit(X, y, batch_size=4, accumulate=3, shuffle=False)
    for path, W in big.parameters().items():
        np.testing.assert_allclose(small.parameters()[path], W, rtol=0, atol=1e-12)


def test_accumulate_with_clipping_clips_the_average():
    X, y = data(12, dtype="float64")
    big, small = small_net(dtype="float64"), small_net(dtype="float64")
    big.fit(X, y, batch_size=12, shuffle=False, clip_norm=0.01)
    small.fit(X, y, batch_size=4, accumulate=3, shuffle=False, clip_norm=0.01)
    for path, W in big.parameters().items():
        np.testing.assert_allclose(small.parameters()[path], W, rtol=0, atol=1e-10)


def test_clip_norm_bounds_the_length_of_all_gradients_together():
    X, y = data()
    for limit in (0.01, 1e6):
        net = small_net(dtype="float64")
        before = net.parameters()
        net.loss(net(X), y)
        net.backward()
        length = np.sqrt(sum((dW**2).sum() for dW in net.gradients().values()))
        net.fit(X, y, batch_size=20, optimizer=SGD(1.0), clip_norm=limit)
        step = np.sqrt(sum(((W - before[path]) ** 2).sum() for path, W in net.parameters().items()))
        assert step == pytest.approx(min(limit, length), rel=1e-3)


def test_schedule_gives_each_step_its_rate():
    X, y = data(20)
    asked, used = [], []

    def schedule(step):
        asked.append(step)
        return 0.1 / (1 + step)

    class Look(Callback):
        def on_step_end(self, run):
            used.append(run.optimizer.lr)

    ours, by_hand = small_net(), small_net()
    ours.fit(X, y, epochs=2, batch_size=10, shuffle=False, schedule=schedule, callbacks=[Look()])
    assert asked == [0, 1, 2, 3]
    assert used == [0.1 / (1 + step) for step in asked]
    for step in range(4):
        rows = slice(10 * (step % 2), 10 * (step % 2) + 10)
        by_hand.loss(by_hand(X[rows]), y[rows])
        by_hand.backward()
        by_hand.update_weights(0.1 / (1 + step))
    assert same(ours, by_hand)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": lambda step: 0.1 * np.exp(-step)},
        {"schedule": lambda step: np.linspace(0.1, 0, 10)[step]},
        {"clip_norm": np.float64(0.1)},
        {"optimizer": SGD(np.float64(0.1))},
    ],
    ids=["np.exp", "np.linspace", "clip_norm", "optimizer"],
)
def test_numbers_out_of_numpy_widen_no_weight(settings):
    net = image_net()
    net.fit(*images(), **settings)
    arrays = net.parameters() | net.buffers()
    assert {path for path, W in arrays.items() if W.dtype != np.float32} == set()


def test_a_rate_that_is_none_changes_nothing():
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(ArgumentError, match="lr must be a finite number"):
        net.fit(*data(), schedule=lambda step: float("nan"))
    assert unchanged()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": -1}, "fit: epochs must be a whole number of 0 or more, got -1"),
        ({"epochs": 1.5}, "fit: epochs must be a whole number"),
        ({"epochs": True}, "fit: epochs must be a whole number"),
        ({"batch_size": 0}, "batch_size must be a whole number of 1 or more, got 0"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"accumulate": 0}, "fit: accumulate must be a whole number of 1 or more, got 0"),
        ({"clip_norm": 0}, "fit: clip_norm must be a finite number above 0, got 0"),
        ({"clip_norm": float("nan")}, "fit: clip_norm must be"),
        ({"clip_norm": -1.0}, "fit: clip_norm must be"),
    ],
)
def test_settings_out_of_range_change_nothing(settings, message):
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(ArgumentError, match=message):
        net.fit(*data(), **settings)
    assert unchanged()


def test_a_net_without_a_loss_cannot_be_fitted():
    net = Net([Linear(3, 3)])
    with pytest.raises(StateError, match="fit: this net has no loss; make it with"):
        net.fit(*data())
    with pytest.raises(StateError, match="evaluate: this net has no loss"):
        net.evaluate(*data())
    assert net.predict(data()[0]).shape == (20, 3)


# ---- bad data is named before anything is trained


def bad_labels():
    _, y = data()
    high, low = y.copy(), y.copy()
    high[-1], low[13] = 3, -1
    return [
        pytest.param(high, "got 3 in row 19", id="too high, in the last row"),
        pytest.param(low, "got -1 in row 13", id="negative"),
        pytest.param(y.astype("float32"), "float32", id="floats"),
        pytest.param(y == 0, "bool", id="bools"),
        pytest.param(high.astype("uint8")[:, None], "got 3 in row 19", id="a column"),
    ]


@pytest.mark.parametrize(("y", "message"), bad_labels())
@pytest.mark.parametrize("shuffle", [True, False])
def test_bad_labels_are_found_before_anything_is_trained(y, message, shuffle):
    X, _ = data()
    net, log = small_net(), []
    optimizer = Adam()
    unchanged = kept(net)
    with pytest.raises(LabelError, match=message):
        net.fit(X, y, batch_size=4, shuffle=shuffle, optimizer=optimizer, callbacks=[Log(log)])
    assert unchanged()
    assert optimizer.steps == 0 and not optimizer.state
    assert not [line for line in log if line.startswith("step")]
    with pytest.raises(LabelError, match=message):
        net.evaluate(X, y)


def test_bad_labels_of_the_validation_are_found_before_anything_is_trained():
    """Not after an epoch, which may have taken hours."""
    X, y = data()
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(LabelError, match="got 7 in row 0"):
        net.fit(X, y, validation_data=(X, np.full(20, 7)))
    assert unchanged()


def test_bad_labels_in_an_iterable_leave_the_steps_before():
    X, y = data(24)
    batches = pairs(X, y)
    right, net = small_net(), small_net()
    right.fit(batches[:2])
    batches[2] = batches[2][0], batches[2][1] + 5
    with pytest.raises(LabelError):
        net.fit(batches)
    assert same(net, right)


def test_targets_of_a_regression_must_have_the_outputs_shape():
    X, Y = normal(8, 3), normal(8, 3, seed=1)
    dc.seed(0)
    net = Net([Linear(3, 1)], MSELoss())
    unchanged = kept(net)
    with pytest.raises(dc.ShapeError, match=r"reshape the targets, for example with y\.reshape\(-1, 1\)"):
        net.fit(X, Y[:, 0])
    with pytest.raises(dc.ShapeError):
        net.fit(X, Y)
    with pytest.raises(dc.DTypeError, match=r'y\.astype\("float32"\)'):
        net.fit(X, np.ones((8, 1), int))
    assert unchanged()


def test_data_that_does_not_fit():
    net = small_net()
    unchanged = kept(net)
    X, y = data()
    with pytest.raises(DataError, match="X has 20 samples, y has 19"):
        net.fit(X, y[:-1])
    with pytest.raises(DataError, match="no samples"):
        net.fit(X[:0], y[:0])
    with pytest.raises(DataError, match="single number"):
        net.fit(np.float32(1), y)
    with pytest.raises(dc.ShapeError, match=r"layer 0, Linear\(3, 8\): X must end in 3"):
        net.fit(normal(20, 4), y)
    with pytest.raises(dc.DTypeError, match="255"):
        net.fit((100 * X).astype("uint8"), y)
    assert unchanged()


# ---- an interrupt


def state_of(net, optimizer):
    """All that a step changes, as bytes."""
    arrays = net.parameters() | net.buffers()
    arrays |= {f"{path} {k}": v for path, s in optimizer.state.items() for k, v in s.items()}
    return optimizer.steps, {name: np.asarray(value).tobytes() for name, value in arrays.items()}


class Watch(Callback):
    """Notes the state after each step, and stops after `last` of them."""

    def __init__(self, last, states=None):
        self.last = last
        self.states = states

    def on_step_end(self, run):
        if self.states is not None:
            self.states.append(state_of(run.net, run.optimizer))
        run.stop = run.step >= self.last


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs SIGALRM")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # lost in a collector
@pytest.mark.parametrize(
    ("interrupts", "settings"),
    [
        (300, {}),
        (100, {"accumulate": 2, "clip_norm": 0.5}),
        (200, {"compile": True}),
        (200, {"compile": False, "overwriting": True}),
    ],
    ids=["plain", "accumulate", "compiled", "overwriting"],
)
def test_interrupts_leave_one_whole_step(interrupts, settings, request):
    """At any moment: weights, Adam's state, running statistics and the number of steps agree."""
    X, y = images()
    settings = dict(settings)
    if settings.pop("overwriting", False):
        request.getfixturevalue("overwriting")
    settings |= {"epochs": 10**6, "batch_size": 4, "seed": 7}
    last, window = 200, 80 if settings.get("compile") else 16  # steps; to compile takes as long as many
    start, states = image_net(), [state_of(image_net(), Adam())]
    copy.deepcopy(start).fit(X, y, optimizer=Adam(), callbacks=[Watch(2)], **settings)  # kernels are compiled
    started = time.perf_counter()
    copy.deepcopy(start).fit(X, y, optimizer=Adam(), callbacks=[Watch(last, states)], **settings)
    step_seconds = (time.perf_counter() - started) / last

    def interrupt(*_):
        raise KeyboardInterrupt

    moments = random.Random(0)
    previous = signal.signal(signal.SIGALRM, interrupt)
    done, torn, steps = 0, 0, set()
    try:
        while done < interrupts:
            net, optimizer = copy.deepcopy(start), Adam()
            try:
                # again every 2 s: a handler that runs inside a finaliser is ignored. (Much sooner, and on a
                # busy machine the second comes before the first has been dealt with.)
                signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.1, window) * step_seconds, 2.0)
                net.fit(X, y, optimizer=optimizer, callbacks=[Watch(last)], **settings)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_REAL, 0)
                done += 1
            torn += state_of(net, optimizer) != states[optimizer.steps]
            steps.add(optimizer.steps)
            assert_works_by_hand(net)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert torn == 0
    assert len(steps) > 5


class Interrupt(Callback):
    def __init__(self, at):
        self.at = at

    def on_step_end(self, run):
        if run.step == self.at:
            raise KeyboardInterrupt


def test_an_interrupt_keeps_the_history_and_goes_on():
    net, right = image_net(), image_net()
    X, y = images()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=9, batch_size=4, seed=1, callbacks=[Interrupt(at=4 * 2 + 3)])
    assert {name: len(values) for name, values in net.history.history.items()} == {"loss": 2, "accuracy": 2}
    right.fit(X, y, epochs=2, batch_size=4, seed=1)
    assert net.history.history == right.history.history
    assert_works_by_hand(net)


def test_training_may_go_on_after_an_interrupt():
    net, optimizer = small_net(), Adam()
    X, y = data()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=9, batch_size=5, optimizer=optimizer, callbacks=[Interrupt(at=3)])
    assert optimizer.steps == 3
    net.fit(X, y, batch_size=5, optimizer=optimizer)
    assert optimizer.steps == 7


def test_statistics_commit_with_the_weights():
    """In fit BatchNorm's new statistics wait for the update: until then an interrupt leaves the old ones."""
    seen = []

    class Look(dc.Function):
        def forward(self, X):
            return X

        def backward(self, dY):
            seen.append(bn.running_mean)
            return dY

    dc.seed(0)
    bn = BatchNorm2D(1)
    net = Net([Look(), bn, Flatten(), Linear(16, 2)], CrossEntropyLoss())
    before = bn.running_mean
    X, y = images()
    net.fit(X, y, batch_size=8, shuffle=False)
    assert len(seen) == 2
    assert seen[0] is before
    np.testing.assert_allclose(seen[1], 0.1 * X[:8].mean(), rtol=1e-4)
    np.testing.assert_allclose(bn.running_mean, 0.09 * X[:8].mean() + 0.1 * X[8:].mean(), rtol=1e-4)


def test_statistics_of_accumulated_batches_chain():
    X, y = images()
    nets = [image_net(p=0.0), image_net(p=0.0)]
    nets[0].fit(X, y, batch_size=4, accumulate=4, shuffle=False, optimizer=SGD(0.0))
    nets[1].fit(X, y, batch_size=4, shuffle=False, optimizer=SGD(0.0))
    assert same(*nets)


def test_an_error_in_the_middle_of_a_step_leaves_the_step_before():
    class Fuse(dc.Function):
        calls = 0

        def forward(self, X):
            return X

        def backward(self, dY):
            self.calls += 1
            if self.calls == 3:
                raise ValueError("blown")
            return dY

    X, y = images()
    net, right = image_net(), image_net()
    net.layers.insert(4, Fuse())
    optimizer, other = Adam(), Adam()
    with pytest.raises(ValueError, match="blown"):
        net.fit(X, y, batch_size=4, seed=1, optimizer=optimizer)
    right.layers.insert(4, ReLU())
    right.layers[4] = Sequential()
    right.fit(X, y, batch_size=4, seed=1, optimizer=other, callbacks=[Watch(2)])
    assert optimizer.steps == other.steps == 2
    assert same(net, right)
    assert_works_by_hand(right)


# ---- memory


class Trace(dc.Function):
    """Lets everything through, and keeps a weak reference to it."""

    def __init__(self, refs, later=()):
        self.refs = refs
        self.later = later

    def forward(self, X):
        Y = X + 0
        self.refs += [weakref.ref(X), weakref.ref(Y)]
        return Y

    def backward(self, dY):
        for refs in self.later:
            alive = [ref for ref in refs if ref() is not None]
            assert not alive, "a record that backward has passed is still there"
        self.refs.append(weakref.ref(dY))
        return dY + 0


def traced_net(refs, later=()):
    shared = Linear(3, 3)
    return Net(
        [
            shared,
            Trace(refs),
            Residual(Sequential(Trace(refs), shared, Tanh(), Trace(refs)), shortcut=Linear(3, 3)),
            Trace(refs),
            Concat(Trace(refs), Sequential(shared, Trace(refs))),
            Trace(refs),
            Linear(6, 3),
            Trace(refs),
        ],
        CrossEntropyLoss(),
    )


def test_no_activation_is_reachable_after_fit():
    refs = []
    net = traced_net(refs)
    gc.disable()  # nothing may hang in a cycle
    try:
        net.fit(*data(), epochs=2, validation_data=data(6))
        assert len(refs) > 50
        assert [ref for ref in refs if ref() is not None] == []
    finally:
        gc.enable()


def test_no_activation_is_reachable_after_predict_and_evaluate():
    refs = []
    net = traced_net(refs)
    X, y = data()
    net.predict(X)
    net.predict(X, batch_size=6)
    net.evaluate(X, y)
    assert len(refs) > 30
    assert [ref for ref in refs if ref() is not None] == []


def test_each_record_goes_as_backward_passes_it():
    """When the first layer's turn comes, the activations of the later layers are gone."""
    first, second, third = [], [], []
    net = Net(
        [
            Trace(first, later=[second, third]),
            Linear(3, 3),
            Tanh(),
            Trace(second, later=[third]),
            Sequential(Linear(3, 3), Tanh(), Trace(third)),
            Linear(3, 3),
        ],
        MeanSquareLoss(),
    )
    net.fit(normal(8, 3), normal(8, 3, seed=1), batch_size=4)
    assert len(first) == 6


def test_after_fit_there_is_nothing_to_undo():
    net = small_net()
    net.fit(*data(), compile=False)
    with pytest.raises(StateError, match="no forward pass"):
        net.backward()
    assert net.gradients().keys() == net.parameters().keys()
    net.fit(*data())
    for ask in (net.backward, net.gradients):
        with pytest.raises(StateError):
            ask()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to see its memory")
def test_memory_does_not_grow_over_twenty_thousand_steps():
    net, optimizer = small_net(p=0.5), SGD(0.01, momentum=0.9)
    X, y = data(100)

    def resident():
        with open("/proc/self/statm") as status:
            return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def train(epochs):
        net.fit(X, y, epochs=epochs, batch_size=1, optimizer=optimizer)

    train(20)
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(3):  # the allocator may take a page or two once; a leak grows every time
        before = resident()
        train(200)
        grown = resident() - before
        if grown <= 2**20:
            break
    assert grown <= 2**20
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 2000  # one object a step would be 20,000


# ---- predict and evaluate


def test_predict_gives_raw_outputs_in_inference_mode():
    net = image_net()
    X, _ = images()
    right = net.eval()(X)
    net.train()
    unchanged = kept(net)
    assert np.array_equal(net.predict(X), right)
    for size in (1, 5, 16, 100, np.int64(7)):
        np.testing.assert_allclose(net.predict(X, batch_size=size), right, rtol=1e-5, atol=1e-6)
    assert net.predict(X[:0]).shape == net.predict(X[:0], batch_size=4).shape == (0, 2)
    assert net.training and unchanged()
    with pytest.raises(ArgumentError, match="batch_size must be"):
        net.predict(X, batch_size=0)


def test_predict_takes_the_posts_float64_data():
    X, y = data(dtype="float64")
    net = small_net()
    assert net.predict(X).dtype == np.float32
    net.fit(X, y)
    assert {str(W.dtype) for W in net.parameters().values()} == {"float32"}


def test_predict_of_a_net_with_several_outputs():
    class Both(dc.Function):
        def forward(self, X):
            return X, 2 * X

        def backward(self, dA, dB):
            return dA + 2 * dB

    net = Net([Linear(3, 2), Both()])
    X, _ = data()
    whole = net.predict(X)
    parts = net.predict(X, batch_size=8)
    assert [out.shape for out in whole] == [out.shape for out in parts] == [(20, 2), (20, 2)]


@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}], ids=["one", "four"])
@pytest.mark.parametrize("kind", [dc.RNN, dc.LSTM])
def test_predict_joins_states_along_their_axis_of_samples(kind, settings):
    net = Net([dc.Sequential(kind(3, 4, return_state=True, **settings))])
    X = normal(6, 2, 3)
    for whole, parts in zip(net.predict(X), net.predict(X, batch_size=2), strict=True):
        assert whole.shape == parts.shape
        np.testing.assert_allclose(whole, parts, rtol=1e-6)


def evaluations():
    X = np.random.default_rng(0).standard_normal((50, 3)).astype("float32")
    y = np.random.default_rng(1).integers(0, 4, 50)
    y[:20] = np.where(np.arange(20) % 3, 3, -100)  # weights and ignored labels are not spread evenly
    w = [0.1, 1.0, 2.0, 5.0]
    yield CrossEntropyLoss(), X, y
    yield CrossEntropyLoss(weight=w), X, y
    yield CrossEntropyLoss(weight=w, label_smoothing=0.1), X, y[:, None]
    yield CrossEntropyLoss(weight=w), X, np.eye(4, dtype="float32")[abs(y) % 4]
    yield dc.NLLLoss(weight=w, ignore_index=1), X, np.abs(y) % 4
    yield dc.MultiMarginLoss(weight=w), X, np.abs(y) % 4
    yield dc.MSELoss(), X, np.eye(4, dtype="float32")[abs(y) % 4]
    yield CrossEntropyLoss(ignore_index=0), X, np.zeros(50, int)


@pytest.mark.parametrize("place", EACH_LIBRARY, ids=lambda place: place.name)
@pytest.mark.parametrize(
    "loss, X, y", list(evaluations()), ids=lambda x: repr(x) if isinstance(x, dc.Loss) else ""
)
def test_the_size_of_batches_does_not_change_an_evaluation(loss, X, y, place):
    if place not in USABLE:
        pytest.skip(place.why_not)
    dc.seed(0)
    net = place.put(Net([Linear(3, 4)], loss=copy.deepcopy(loss)))
    whole = float(place.back(net.loss(net(place.array(X)), place.array(y))))
    for size in (50, 16, 7, 1):
        assert net.evaluate(X, y, batch_size=size)["loss"] == pytest.approx(whole, rel=1e-5)


def test_evaluate_is_in_inference_mode_and_changes_nothing():
    net = image_net()
    X, y = images()
    unchanged = kept(net)
    once = net.evaluate(X, y)
    assert net.evaluate(X, y) == once  # no dropout
    for size in (3, 16):
        numbers = net.evaluate(X, y, batch_size=size)
        assert numbers["loss"] == pytest.approx(once["loss"], rel=1e-5)
        assert numbers["accuracy"] == pytest.approx(once["accuracy"])
    assert unchanged() and net.training
    out = net.predict(X)
    assert once["loss"] == pytest.approx(float(net.loss_fn(out, y)), rel=1e-5)


def test_fit_trains_a_net_that_was_put_into_evaluation_mode_and_leaves_the_mode():
    """As loaded nets often are: else its BatchNorm would never learn the new data, in silence."""
    net = image_net().eval()
    before = net.buffers()
    net.fit(*images())
    assert not any(f.training for f in [net, *net.layers])
    assert not any(net.buffers()[path] is value for path, value in before.items())


def test_fit_leaves_a_layer_in_evaluation_mode_that_was_put_there_alone():
    net = image_net()
    for f in net.layers:
        f.training = False
    before = net.buffers()
    net.fit(*images())
    assert all(net.buffers()[path] is value for path, value in before.items())


def test_ignored_labels_count_for_no_metric():
    net = small_net(loss=CrossEntropyLoss())
    X = normal(64, 3)
    y = net.predict(X).argmax(axis=1)
    y[:60] = -100
    assert net.evaluate(X, y)["accuracy"] == 1
    assert net.fit(X, y, optimizer=SGD(0)).history["accuracy"] == [1]
    assert "accuracy" not in net.evaluate(X, np.full(64, -100))


def test_a_loss_that_is_a_sum_is_reported_as_the_sum_over_all_samples():
    net = small_net(loss=MSELoss(reduction="sum"))
    X, Y = normal(20, 3), normal(20, net.predict(normal(1, 3)).shape[1], seed=1)
    whole = float(net.loss(net(X), Y))
    assert net.evaluate(X, Y, batch_size=3)["loss"] == pytest.approx(whole)
    assert net.fit(X, Y, batch_size=8, optimizer=SGD(0)).history["loss"] == [pytest.approx(whole)]


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"optimizer": "adam"}, dc.DTypeError, "optimizer must be an Optimizer"),
        ({"optimizer": SGD}, dc.DTypeError, "optimizer must be an Optimizer"),
        ({"schedule": 0.1}, dc.DTypeError, "schedule must be a function"),
        ({"callbacks": dc.Callback()}, dc.DTypeError, "callbacks must be a list"),
        ({"validation_data": 0.2}, ArgumentError, "validation_data must be a pair"),
        (
            {"validation_data": (np.zeros((4, 9)), np.zeros(4, "int64"))},
            dc.ShapeError,
            "validation_data, layer 0",
        ),
        ({"optimizer": Adam(overrides={"layer0.*": {"lr": 0.0}})}, ArgumentError, "matches no weight"),
    ],
)
def test_settings_of_the_wrong_kind_change_nothing(settings, error, text):
    net = small_net()
    unchanged = kept(net)
    with pytest.raises(error, match=text):
        net.fit(*data(), **settings)
    assert unchanged()
