"""One code, the same numbers: a net trains alike on every library, from the same bits."""

import functools

import numpy as np
import pytest

import deepcore as dc
from deepcore import BatchNorm2D, Conv2D, Dropout, Flatten, Linear, MaxPool2D, Net, ReLU
from deepcore.core.random import Generator, drawing_from
from tests.places import EACH_LIBRARY, JAX, NUMPY, USABLE
from tests.users import Scale, Square

STEPS, BATCH = 20, 16
LIBRARIES = [place for place in EACH_LIBRARY if place in USABLE]
each_library = pytest.mark.parametrize("place", LIBRARIES, ids=lambda place: place.name)


@functools.cache
def images():
    """Four kinds of small images, as a data set gives them: float64, and labels of 64 bits."""
    random = np.random.default_rng(0)
    y = random.integers(0, 4, STEPS * BATCH)
    X = random.normal(0, 0.5, (len(y), 1, 12, 12))
    for i, kind in enumerate(y):  # a bright corner
        X[i, 0, 6 * (kind // 2) :, 6 * (kind % 2) :] += 1
    return X, y


def cnn():
    """That of examples/cnn_mnist.py, with dropout."""
    return Net(
        layers=[
            *(Conv2D(1, 4, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(4)),
            *(Conv2D(4, 8, 3, padding=1), MaxPool2D(2), ReLU(), BatchNorm2D(8)),
            *(Flatten(), Dropout(0.25), Linear(8 * 3 * 3, 4)),
        ],
        loss=dc.CrossEntropyLoss(),
    )


def with_the_users_own():
    return Net([Flatten(), Linear(144, 8), Square(), Scale(), Linear(8, 4)], loss=dc.CrossEntropyLoss())


class Watch(dc.Callback):
    """Notes the loss of every step, and where the weights are."""

    def __init__(self):
        self.losses, self.places = [], set()

    def on_step_end(self, run):
        self.losses.append(float(dc.to_numpy(run.loss)))
        self.places |= {dc.backend_of(W).name for W in run.net.parameters().values()}


class Inputs(dc.Function):
    """Notes the bits of what passes."""

    def __init__(self):
        self.seen = []

    def forward(self, X):
        self.seen.append(dc.to_numpy(X).tobytes())
        return X

    def backward(self, dY):
        return dY


@functools.cache
def train(make, place):
    """Weights before training, batches, losses of the steps, scores and outputs afterwards."""
    dc.seed(3)
    with dc.use_backend(place.backend):
        net = make()
    net.layers.insert(0, Inputs())
    net.to(place.backend, place.device)
    weights = {path: dc.to_numpy(W).tobytes() for path, W in net.parameters().items()}
    watch = Watch()
    X, y = images()
    optimizer = dc.optim.SGD(lr=0.02, momentum=0.9)
    net.fit(X, y, batch_size=BATCH, optimizer=optimizer, seed=5, callbacks=[watch], progress=False)
    assert watch.places == {place.backend}
    batches = list(net.layers[0].seen)
    out = net.predict(X[:50])
    assert place.holds(out)
    return weights, batches, watch.losses, net.evaluate(X, y), dc.to_numpy(out)


@each_library
@pytest.mark.parametrize("make", [cnn, with_the_users_own])
def test_the_first_losses_agree(make, place):
    weights, batches, losses, scores, out = train(make, place)
    right = train(make, NUMPY)
    assert weights == right[0]  # bit for bit
    assert batches == right[1] and len(set(batches)) == STEPS
    assert len(losses) == STEPS and np.mean(losses[-5:]) < np.mean(losses[:5])
    np.testing.assert_allclose(losses, right[2], atol=1e-4, rtol=0)
    assert scores["accuracy"] == pytest.approx(right[3]["accuracy"], abs=2 / len(images()[1]))
    assert scores["loss"] == pytest.approx(right[3]["loss"], abs=1e-3)
    np.testing.assert_allclose(out, right[4], atol=1e-2)


@pytest.mark.skipif(JAX not in USABLE, reason=str(JAX.why_not))
def test_the_first_losses_agree_when_the_steps_are_compiled():
    dc.seed(3)
    net, watch = cnn().to("jax"), Watch()
    optimizer = dc.optim.SGD(lr=0.02, momentum=0.9)
    net.fit(*images(), batch_size=BATCH, optimizer=optimizer, seed=5, callbacks=[watch], compile=True)
    assert len(watch.losses) == STEPS
    np.testing.assert_allclose(watch.losses, train(cnn, NUMPY)[2], atol=1e-4, rtol=0)


@each_library
def test_the_masks_of_dropout_are_the_same_bits(place):
    f, masks = Dropout(0.25), []
    for at in (place, NUMPY):
        with drawing_from(Generator(5)):
            f(at.array(np.ones((16, 72))))
            masks.append(dc.to_numpy(f(at.array(np.ones((16, 72))))).tobytes())
    assert masks[0] == masks[1]


@each_library
def test_arrays_that_are_there_already_train_alike(place, tmp_path):
    """Shuffling and batching happen where the arrays are; what comes out is the same."""
    X, y = images()
    states = []
    for at in (place, NUMPY):
        dc.seed(1)
        net = at.put(cnn())
        net.fit(
            at.array(X),
            at.array(y),
            optimizer=dc.optim.Adam(1e-3),
            seed=2,
            clip_norm=1.0,
            accumulate=2,
            validation_data=(at.array(X[:40]), at.array(y[:40])),
            progress=False,
        )
        net.save(tmp_path / "net.safetensors")
        with dc.use_backend(at.backend):
            loaded = Net.load(tmp_path / "net.safetensors")
        state = net.state_dict()
        assert all(at.holds(W) for W in state.values())
        for path, W in loaded.state_dict().items():
            assert dc.backend_of(W).name == at.backend
            np.testing.assert_array_equal(dc.to_numpy(W), dc.to_numpy(state[path]))
        states.append({path: dc.to_numpy(W) for path, W in state.items()})
    for path, W in states[0].items():
        np.testing.assert_allclose(W, states[1][path], atol=2e-4)
