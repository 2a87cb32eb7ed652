"""`train --checkpoint` and `train --resume`."""

import numpy as np
import pytest

import deepcore as dc


@pytest.fixture(autouse=True)
def no_picture(monkeypatch):
    """Drawing takes a second, and is tested elsewhere."""
    monkeypatch.setattr("deepcore.commands.train.decision_boundary", lambda *_: None)


def columns(n=120):
    random = np.random.default_rng(0)
    y = random.integers(0, 3, n)
    return random.normal(size=(n, 4)) + y[:, None], y


@pytest.mark.parametrize("kind", ["ring", "columns", "images"])
def test_a_resumed_training_ends_as_one_in_one_go(kind, command):
    data = kind
    if kind != "ring":
        X, y = columns()
        np.savez(
            "set.npz", X=X if kind == "columns" else (abs(X[:, None, :] * X[:, :, None]) * 20) % 256, y=y
        )
        data = "set.npz"
    rest = ("--data", data, "--seed", 7, "--batch-size", 20)
    assert command("train", *rest, "--epochs", 6, "--save", "whole")[0] == 0
    assert command("train", *rest, "--epochs", 3, "--checkpoint", "run.ckpt")[0] == 0
    code, _, err = command("train", "--data", data, "--resume", "run.ckpt", "--epochs", 6, "--save", "parts")
    assert code == 0 and "epoch 6/6" in err and "epoch 3/6" not in err
    whole, parts = (dc.load(path).state_dict() for path in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name], err_msg=name)


def test_an_interrupted_training_says_how_to_go_on_and_does(command, monkeypatch):
    from deepcore.train import progress

    class Interrupting(progress.Progress):
        def on_epoch_end(self, run):
            super().on_epoch_end(run)
            if run.epoch == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("deepcore.train.loop.Progress", Interrupting)
        code, _, err = command("train", "--epochs", 5, "--checkpoint", "run.ckpt")
    assert code == 130
    assert err.endswith(
        "\nto go on: the same command with --resume run.ckpt\n\ndeepcore train: interrupted\n"
    )
    code, out, err = command("train", "--resume", "run.ckpt")
    assert code == 0 and "epoch 3/5" in err and "epoch 5/5" in err and out.startswith("train accuracy")
    code, out, err = command("train", "--resume", "run.ckpt")  # which was kept up to date
    assert (code, out) == (2, "")
    assert "--resume: 5 epochs are made already; --epochs N says how many there shall be in all" in err


def test_another_rate_may_be_asked_for(command):
    assert command("train", "--epochs", 1, "--checkpoint", "c")[0] == 0
    assert command("train", "--resume", "c", "--epochs", 2, "--lr", "0.001", "--checkpoint", "d")[0] == 0
    assert dc.load_checkpoint("c").optimizer.lr == 0.1
    assert dc.load_checkpoint("d").optimizer.settings["lr"] == 0.001
    assert dc.load_checkpoint("d").optimizer.steps == 2 * dc.load_checkpoint("c").optimizer.steps


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--seed", 3], "--seed: the training was begun with 0, got 3; leave it out"),
        (["--batch-size", 3], "--batch-size: the training was begun with 32, got 3; leave it out"),
        (["--data", "digits"], "the first fit had samples=200, this one has 1527"),
        (["--epochs", 1], "--resume: 1 epochs are made already"),
        (["--save", "c"], "--save: --checkpoint goes to 'c' too; name another file"),
        (["--resume", "nothing"], "No such file or directory: 'nothing'"),
        (["--resume", "net"], "it is no checkpoint"),
        (["--resume", "by_hand"], "fit(checkpoint=) did not write it"),
        (["--checkpoint", "nowhere/c"], "--checkpoint: there is no folder 'nowhere'; make it first"),
        (["--checkpoint", "."], "--checkpoint: '.' is a folder; name a file"),
    ],
)
def test_what_the_user_has_to_change(arguments, text, command, here):
    if "digits" in arguments:
        pytest.importorskip("sklearn")
    assert command("train", "--epochs", 1, "--checkpoint", "c", "--save", "net")[0] == 0
    dc.save_checkpoint("by_hand", dc.load("net"), dc.optim.SGD())
    before = (here / "c").read_bytes()
    code, out, err = command("train", "--resume", "c", "--epochs", 2, *arguments)
    assert (code, out) == (2, "") and text in err
    assert (here / "c").read_bytes() == before
