"""Records: what a call leaves behind belongs to that call and its thread, and to nothing else."""

import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    BatchNorm2D,
    Concat,
    CrossEntropyLoss,
    Dropout,
    Linear,
    MeanSquareLoss,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    ShapeError,
    StateError,
    Tanh,
)
from tests.users import Scale, Square

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch, the judge of these gradients")


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def linear64(i, o, seed):
    """A Linear in float64 with a bias that is not zero."""
    layer = Linear(i, o, dtype="float64")
    layer.weight = {"W": normal(i, o, seed=seed), "b": normal(1, o, seed=seed + 100)}
    return layer


def small_net(seed=0, dtype=None):
    dc.seed(seed)
    return Net(layers=[Linear(2, 4, dtype=dtype), ReLU(), Linear(4, 2, dtype=dtype)], loss=CrossEntropyLoss())


def small_data(n=8, dtype="float32", seed=0):
    return normal(n, 2, seed=seed, dtype=dtype), np.random.default_rng(seed).integers(0, 2, n)


def one_pass(net, X, y):
    loss = net.loss(net(X), y)
    net.backward()
    return loss


# ---- a call inside another Function's forward belongs to the outer call


class Siamese(dc.Function):
    """A user's container that calls one child twice: Y = f(A) - f(B)."""

    def __init__(self, f):
        self.f = f

    def forward(self, A, B):
        return self.f(A) - self.f(B)

    def backward(self, dY):
        dB = self.f.backward(-dY)
        return self.f.backward(dY), dB


def assert_as_in_torch(torch, net, inputs, layers, reference):
    """Output, gradients of the inputs and of every layer's W and b are torch's, to 1e-10.

    reference: (torch inputs, {layer: (W, b)}) -> torch output.
    """
    Y = net(*inputs)
    dY = normal(*Y.shape, seed=99)
    dX = net.backward(dY)
    dX = dX if isinstance(dX, tuple) else (dX,)

    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    weights = {f: [torch.tensor(f.weight[k], requires_grad=True) for k in ("W", "b")] for f in layers}
    out = reference(tensors, lambda f, X: X @ weights[f][0] + weights[f][1])
    out.backward(torch.tensor(dY))

    np.testing.assert_allclose(Y, out.detach().numpy(), rtol=0, atol=1e-10)
    for ours, theirs in zip(dX, tensors, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=0, atol=1e-10)
    for f, theirs in weights.items():
        for name, weight in zip(("W", "b"), theirs, strict=True):
            np.testing.assert_allclose(f.weight_update[name], weight.grad.numpy(), rtol=0, atol=1e-10)


def test_a_layer_standing_three_times_in_a_net_gets_the_sum_of_its_gradients(torch):
    f = linear64(3, 3, seed=1)
    net = Net([f, Square(), f, Tanh(), f])
    assert_as_in_torch(
        torch, net, [normal(5, 3)], [f], lambda X, at: at(f, torch.tanh(at(f, at(f, X[0]) ** 2)))
    )


def test_a_users_container_that_calls_one_child_twice(torch):
    f, g = linear64(3, 3, seed=1), linear64(3, 3, seed=2)

    def twin(X, at):
        return at(f, torch.tanh(at(g, at(f, X)) ** 2))

    net = Siamese(Net([f, g, Square(), Tanh(), f]))
    A, B = normal(5, 3, seed=3), normal(5, 3, seed=4)
    assert_as_in_torch(torch, net, [A, B], [f, g], lambda X, at: twin(X[0], at) - twin(X[1], at))


def test_one_layer_inside_containers_inside_containers(torch):
    f, g, h = linear64(3, 3, seed=1), linear64(3, 3, seed=2), linear64(6, 3, seed=3)
    net = Net(
        [
            Residual(Sequential(f, Tanh(), Residual(f, shortcut=g)), shortcut=f),
            Concat(f, Sequential(g, Tanh(), f)),
            Net([h, dc.Add(f, g, Sequential())]),
        ]
    )

    def reference(X, at):
        inner = torch.tanh(at(f, X[0]))
        Y = at(f, inner) + at(g, inner) + at(f, X[0])
        Y = torch.cat([at(f, Y), at(f, torch.tanh(at(g, Y)))], dim=1)
        Y = at(h, Y)
        return at(f, Y) + at(g, Y) + Y

    assert_as_in_torch(torch, net, [normal(5, 3)], [f, g, h], reference)


def test_a_container_may_use_a_childs_gradient_inside_its_forward():
    """The call and its backward both belong to the outer call: Y = df/dX."""

    class Slope(dc.Function):
        def __init__(self, f):
            self.f = f

        def forward(self, X):
            return self.f.backward(np.ones_like(self.f(X)))

        def local_grad(self, X):
            return {"X": np.full_like(X, 2.0)}

    X = normal(3, 2)
    f = Slope(Square())
    np.testing.assert_array_equal(f(X), 2 * X)
    np.testing.assert_array_equal(f.backward(X), 2 * X)


def test_a_call_in_between_does_not_disturb_the_pass_of_a_net():
    """A child called by itself, directly or in inference, leaves the record of the net's call alone."""
    X, y = small_data()
    net, alone = small_net(), small_net()
    one_pass(alone, X, y)
    net.loss(net(X), y)
    net.layers[0](5 * X)
    net.layers[2].forward(normal(3, 4, dtype="float32"))
    net.predict(7 * X)
    net.backward()
    for path, dW in alone.gradients().items():
        np.testing.assert_array_equal(net.gradients()[path], dW)


def test_cache_and_grad_are_those_of_the_last_call():
    f = Square()
    net = Sequential(f, f)
    X = normal(3, 2)
    Y = net(X)
    np.testing.assert_array_equal(f.grad["X"], 2 * X * X)  # the second call saw X^2
    net.backward(np.ones_like(Y))
    np.testing.assert_array_equal(f.grad["X"], 2 * X * X)


def test_cache_is_that_of_the_last_call_after_backward_too():
    f = linear64(3, 3, seed=1)
    net = Sequential(f, Tanh(), f)
    Y = net(normal(5, 3))
    before = f.cache["X"]
    net.backward(Y)
    assert f.cache["X"] is before


def test_a_subclass_may_call_super():
    class Loud(Linear):
        def forward(self, X):
            Y = super().forward(X)
            self.cache["Y"] = Y
            return Y

        def backward(self, dY):
            return super().backward(dY) * 1

    dc.seed(0)
    loud = Loud(2, 3)
    dc.seed(0)
    plain = Linear(2, 3)
    X = normal(4, 2, dtype="float32")
    assert np.array_equal(loud(X), plain(X))
    assert loud.cache["Y"].shape == (4, 3)
    dY = np.ones((4, 3), "float32")
    assert np.array_equal(loud.backward(dY), plain.backward(dY))
    assert np.array_equal(loud.weight_update["W"], plain.weight_update["W"])


def test_forward_may_come_from_any_base_class():
    class Doubling:
        def forward(self, X):
            return 2 * X

        def backward(self, dY):
            return 2 * dY

    class Double(Doubling, dc.Function):
        pass

    f = Double()
    assert f(np.array([1.0])) == 2
    assert f.backward(np.array([1.0])) == 2


def test_a_function_without_a_forward_says_so():
    class Nothing(dc.Function):
        pass

    with pytest.raises(dc.UnsupportedError, match="no forward"):
        Nothing()(np.array([1.0]))


def test_a_users_helper_called_forward_with_an_underscore():
    class Helped(dc.Function):
        def forward(self, X):
            return self._forward(X)

        def _forward(self, X):
            return 2 * X

    assert Helped()(np.array([1.0])) == 2


def test_f_of_X_runs_forward_even_if_that_was_replaced():
    f = ReLU()
    f.forward = lambda X: 5 * X
    assert f(np.array([1.0])) == 5


def test_gradients_may_be_passed_by_name_in_any_order():
    class Split(dc.Function):
        def forward(self, X):
            return 2 * X, 3 * X

        def backward(self, dA, dB):
            return 2 * dA + 3 * dB

    f = Split()
    f(np.array([1.0]))
    assert f.backward(dB=np.array([10.0]), dA=np.array([1.0])) == 32


# ---- the plain Net of the original post: no Function, and it drives the layers itself


class PlainNet:
    def __init__(self, layers, loss):
        self.layers = layers
        self.loss_fn = loss

    def __call__(self, X):
        return self.forward(X)

    def forward(self, X):
        for layer in self.layers:
            X = layer(X)
        return X

    def loss(self, X, Y):
        return self.loss_fn(X, Y)

    def backward(self):
        d = self.loss_fn.backward()
        for layer in reversed(self.layers):
            d = layer.backward(d)
        return d

    def update_weights(self, lr):
        for layer in self.layers:
            if isinstance(layer, dc.Layer):
                layer._update_weights(lr)


def test_the_posts_plain_net_learns_as_ours_does():
    def layers():
        dc.seed(3)
        return [Linear(2, 4), ReLU(), Scale(), Linear(4, 2)]

    X, y = small_data(32, dtype="float64")
    X = X.astype("float32")  # each of the post's calls is outermost, and a ReLU keeps what it gets
    plain, ours = PlainNet(layers(), CrossEntropyLoss()), Net(layers(), CrossEntropyLoss())
    for _ in range(20):
        for net in (plain, ours):
            out = net(X)
            loss = net.loss(out, y)
            grad = net.backward()
            net.update_weights(lr=0.1)
            net.seen = out, loss, grad
        for mine, theirs in zip(plain.seen, ours.seen, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for a, b in zip(plain.layers, ours.layers, strict=True):
        for name in a.weight or ():
            np.testing.assert_array_equal(a.weight[name], b.weight[name])


def test_the_posts_plain_net_takes_the_posts_float64_data():
    X, y = small_data(32, dtype="float64")
    dc.seed(0)
    net = PlainNet([Linear(2, 4), ReLU(), Linear(4, 2)], CrossEntropyLoss())
    net.loss(net(X), y)
    assert net.backward().dtype == np.float32
    net.update_weights(0.1)
    assert net.layers[0].weight["W"].dtype == np.float32


def test_a_layer_twice_in_the_posts_plain_net_is_refused_not_wrong():
    """Without an outer Function nobody can tell the two calls apart."""
    f = Linear(2, 2)
    net = PlainNet([f, Tanh(), f], CrossEntropyLoss())
    X, y = small_data()
    net.loss(net(X), y)
    with pytest.raises(StateError):
        net.backward()


# ---- an outermost call drops what the one before left


def resident():
    """Resident memory of this process, in bytes."""
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_outermost_call_drops_the_record_of_the_one_before():
    net = Net([Linear(2, 3), Tanh(), Residual(Sequential(Linear(3, 3), Tanh()))])
    seen = []
    for seed in range(5):
        X = normal(4, 2, seed=seed, dtype="float32")
        seen.append(weakref.ref(X))
        net(X)
        del X
    assert [ref() is None for ref in seen] == [True] * 4 + [False]


def test_dropping_needs_no_garbage_collector():
    """Records are no reference cycles: memory goes back at once."""
    gc.collect()
    gc.disable()
    try:
        net = small_net()
        X, y = small_data()
        one_pass(net, X, y)
        refs = []
        for _ in range(3):
            Y = X + 0
            refs.append(weakref.ref(Y))
            one_pass(net, Y, y)
            net.update_weights(0.1)
            del Y
        net(X)
        assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc to see its memory")
def test_twenty_thousand_steps_and_as_many_inferences_leak_nothing():
    net = small_net()
    X, y = small_data(32)

    def train(steps):
        for _ in range(steps):
            net.loss(net(X), y)
            net.backward()
            net.update_weights(0.01)

    def infer(calls):
        with dc.inference():
            for _ in range(calls):
                net(X)

    train(500)
    infer(500)
    gc.collect()
    blocks = sys.getallocatedblocks()
    for _ in range(3):  # the allocator may take a page or two once; a leak grows every time
        before = resident()
        train(20_000)
        infer(20_000)
        grown = resident() - before
        if grown <= 2**20:
            break
    assert grown <= 2**20
    gc.collect()
    assert sys.getallocatedblocks() - blocks < 2000  # one object a step would be 20,000


def test_a_function_that_is_gone_leaves_no_record_behind():
    net = small_net()
    X = normal(4, 2, dtype="float32")
    net(X)
    ref = weakref.ref(X)
    del X, net
    gc.collect()
    assert ref() is None


# ---- a direct forward records nothing


def test_a_direct_forward_gives_the_same_output_and_records_nothing():
    net = small_net()
    X, y = small_data()
    assert np.array_equal(net.forward(X), net(X))
    assert np.array_equal(net.layers[0].forward(X), net.layers[0](X))
    fresh = small_net()
    fresh.forward(X)
    for f in (fresh, fresh.layers[0], fresh.layers[1]):
        with pytest.raises(StateError, match="call f\\(X\\) first"):
            f.backward(np.ones((8, 2), "float32"))
    with pytest.raises(StateError, match="no recorded call"):
        _ = fresh.layers[0].cache
    with pytest.raises(StateError, match="no recorded call"):
        _ = fresh.layers[0].grad
    loss = CrossEntropyLoss()
    loss.forward(net.forward(X), y)
    with pytest.raises(StateError, match="no forward pass"):
        loss.backward()


def test_a_direct_forward_keeps_no_array_alive():
    net = small_net()
    X = normal(4, 2, dtype="float32")
    ref = weakref.ref(X)
    net.forward(X)
    del X
    assert ref() is None


def test_a_direct_forward_leaves_the_last_calls_record_alone():
    f = Linear(2, 3)
    X = normal(4, 2, dtype="float32")
    Y = f(X)
    f.forward(2 * X)
    assert f.cache["X"] is X
    f.backward(np.ones_like(Y))
    np.testing.assert_allclose(f.weight_update["W"], X.T @ np.ones_like(Y), rtol=1e-6)


@pytest.mark.parametrize("f", [Linear(2, 2), dc.Sigmoid(), BatchNorm2D(2)], ids=repr)
def test_a_direct_forward_refuses_integers_as_a_call_does(f):
    X = np.ones((3, 2, 1, 1) if isinstance(f, BatchNorm2D) else (3, 2), int)
    for call in (f, f.forward):
        with pytest.raises(dc.DTypeError, match="wanted floating-point numbers, got int64"):
            call(X)


def test_a_container_that_calls_a_childs_forward_directly_is_told():
    class Wrong(dc.Function):
        def __init__(self):
            self.f = Square()

        def forward(self, X):
            return self.f.forward(X)

        def backward(self, dY):
            return self.f.backward(dY)

    f = Wrong()
    Y = f(np.ones(3))
    with pytest.raises(StateError, match=r"must call f\(X\), not f\.forward\(X\)"):
        f.backward(Y)


# ---- inference, for this thread only


def test_inference_keeps_no_record_and_overrides_training():
    net = Net([Linear(2, 3), Dropout(0.5)])
    X = normal(4, 2, dtype="float32")
    ref = weakref.ref(X)
    with dc.inference():
        assert not net.training and not net.layers[1].training
        first = net(X)
        assert np.array_equal(first, net.layers[0](X))  # nothing dropped
        del X
        assert ref() is None
    assert net.training and net.layers[1].training
    with pytest.raises(StateError):
        net.backward(first)


def test_inference_leaves_the_modes_that_were_set():
    net = Net([Dropout(0.5)]).eval()
    with dc.inference():
        assert not net.training
    assert not net.training
    net.train()
    with dc.inference():
        net.eval()
        with dc.inference():
            net.train()
        assert not net.training  # still inside
    assert net.training  # as it was set inside


def test_inference_ends_with_an_error_too():
    f = Linear(2, 3)
    with pytest.raises(ShapeError), dc.inference():
        f(normal(4, 5, dtype="float32"))
    assert f.training
    f.backward(f(normal(4, 2, dtype="float32")))


def test_predict_between_forward_and_backward_changes_nothing():
    net, alone = small_net(), small_net()
    X, y = small_data()
    one_pass(alone, X, y)
    net.loss(net(X), y)
    net.predict(3 * X)
    net.evaluate(3 * X, y)
    net.backward()
    np.testing.assert_array_equal(net.layers[0].weight_update["W"], alone.layers[0].weight_update["W"])


def test_inference_holds_in_one_thread_only():
    net = Net([Linear(2, 3), Dropout(0.5)])
    X = normal(64, 2, dtype="float32")
    inside, done = threading.Event(), threading.Event()

    def infer():
        with dc.inference():
            inside.set()
            done.wait(10)

    other = threading.Thread(target=infer)
    other.start()
    try:
        assert inside.wait(10)
        assert net.training
        Y = net(X)
        assert (Y == 0).any()  # dropout works
        net.backward(Y)
    finally:
        done.set()
        other.join()


def test_inference_in_generators_that_take_turns():
    """The one that began first ends first; what is left is neither."""

    def job():  # in a thread of its own, lest a failure spoil the tests that follow
        net = small_net()
        X, y = small_data()

        def predictions(n):
            with dc.inference():
                for _ in range(n):
                    yield net(X)

        first, second = predictions(1), predictions(2)
        next(first), next(second)
        assert len([*first, *second]) == 1
        assert net.training
        one_pass(net, X, y)

    at_once(job)


def test_an_inference_that_ends_in_another_thread_changes_nothing_there():
    """A generator may be closed, or collected, by any thread, which may be predicting at that moment."""
    net = Net([Linear(2, 3), Dropout(0.5)])
    X, _ = small_data()
    streams = []

    def endless():
        with dc.inference():
            while True:
                yield net(X)

    def opens():
        streams.append(endless())
        next(streams[0])

    def closes():
        with dc.inference():
            streams[0].close()
            assert not net.training
        assert net.training

    at_once(opens)
    at_once(closes)


def test_evaluation_mode_keeps_records():
    X = normal(4, 3, 2, 2)
    net = Net([BatchNorm2D(3, dtype="float64"), Dropout(0.5)]).eval()
    Y = net(X)
    np.testing.assert_allclose(net.backward(np.ones_like(Y)), np.ones_like(X) / np.sqrt(1 + 1e-5))
    assert dc.gradcheck(net, X)


# ---- threads


@pytest.fixture
def busy():
    """The interpreter switches threads after nearly every byte code."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


def at_once(*jobs):
    """What the jobs return, each run in a thread of its own, all started together."""
    gate = threading.Barrier(len(jobs))

    def run(job):
        gate.wait(10)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def test_two_threads_may_predict_with_one_net(busy):
    """2 x 3,000 times, and nothing is wrong."""
    dc.seed(0)
    f = Linear(6, 6)
    net = Net([f, Tanh(), Residual(Sequential(f, Dropout(0.3), ReLU())), Scale(), Square(), dc.Softmax()])

    def job(rows):
        X = normal(rows, 6, seed=rows, dtype="float32")
        right = net.predict(X)
        return lambda: sum(not np.array_equal(net.predict(X), right) for _ in range(3000))

    assert at_once(job(3), job(5)) == [0, 0]
    assert net.training


def test_two_threads_may_predict_while_a_function_notes_something_on_itself(busy):
    """Plain code does that: `self.shape = X.shape` in forward. It must not break a walk through the net."""

    class Note(dc.Function):
        def forward(self, X):
            self.shape = X.shape
            return X

    X, _ = small_data()
    for _ in range(100):
        net = Net([Note() for _ in range(10)] + [Linear(2, 2)])
        at_once(lambda net=net: net.predict(X), lambda net=net: net.predict(X))


def test_one_thread_may_predict_while_another_trains_its_own_net(busy):
    """They share a weightless layer, a loss, and nothing else."""
    relu, loss = ReLU(), CrossEntropyLoss()
    X, y = small_data(16)

    def trained():
        dc.seed(1)
        return Net([Linear(2, 4), relu, Linear(4, 2)], loss)

    def train(net):
        for _ in range(300):
            one_pass(net, X, y)
            net.update_weights(0.1)
        return net.layers[0].weight["W"]

    other = Net([relu])
    alone = train(trained())
    net = trained()
    wrong, together = at_once(
        lambda: sum(not np.array_equal(other.predict(X), np.maximum(X, 0)) for _ in range(3000)),
        lambda: train(net),
    )
    assert wrong == 0
    assert np.array_equal(together, alone)


def test_two_threads_may_train_two_nets_that_share_no_weights(busy):
    """They do share every weightless Function, and a BatchNorm each must keep its statistics apart."""
    relu, square, loss = ReLU(), Square(), CrossEntropyLoss()
    flatten = dc.Flatten()

    def net(seed):
        dc.seed(seed)
        return Net([BatchNorm2D(2), flatten, Linear(2, 4), relu, square, Linear(4, 2)], loss)

    def train(net, rows):
        X, y = small_data(rows, seed=rows)
        X = X.reshape(rows, 2, 1, 1)
        for _ in range(200):
            one_pass(net, X, y)
            net.update_weights(0.05)
        return net.parameters() | net.buffers()

    alone = [train(net(1), 6), train(net(2), 9)]
    nets = net(1), net(2)
    together = at_once(lambda: train(nets[0], 6), lambda: train(nets[1], 9))
    for right, got in zip(alone, together, strict=True):
        assert right.keys() == got.keys()
        for path in right:
            assert np.array_equal(right[path], got[path]), path


def test_a_record_belongs_to_one_thread():
    net = small_net()
    X, y = small_data()
    out = net(X)
    net.loss(out, y)

    def elsewhere():
        with pytest.raises(StateError, match="in this thread"):
            net.backward()
        with pytest.raises(StateError, match="in this thread"):
            _ = net.layers[0].cache
        return float(net.loss(out, y))  # a loss may be taken anywhere

    (loss,) = at_once(elsewhere)
    assert loss == float(net.loss(out, y))
    net.backward()


def test_a_thread_that_has_ended_leaves_no_record():
    net = small_net()
    refs = []

    def work():
        X, y = small_data()
        refs.append(weakref.ref(X))
        one_pass(net, X, y)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert refs[0]() is None


# ---- errors of order, in words


def test_backward_before_forward():
    net = small_net()
    with pytest.raises(StateError, match=r"no forward pass in this thread to undo; call f\(X\) first"):
        net.backward()
    with pytest.raises(StateError, match=r"Linear\(2, 4\)\.backward: .* call f\(X\) first"):
        net.layers[0].backward(np.ones((8, 4), "float32"))
    with pytest.raises(StateError, match=r"call f\(X\) first"):
        CrossEntropyLoss().backward()


def test_backward_before_loss():
    net = small_net()
    X, y = small_data()
    net(X)
    with pytest.raises(StateError, match=r"call out = net\(X\), then net\.loss\(out, y\)"):
        net.backward()
    net.loss(net(X), y)
    net.backward()


def test_backward_of_a_net_without_a_loss():
    net = Net([Linear(2, 2)])
    out = net(small_data()[0])
    with pytest.raises(StateError, match=r"no loss; pass the gradient of its output: backward\(dY\)"):
        net.backward()
    with pytest.raises(StateError, match="this net has no loss; make it with"):
        net.loss(out, out)
    net.backward(out)


def test_backward_twice_for_one_pass():
    net = small_net()
    X, y = small_data()
    one_pass(net, X, y)
    gradients = net.gradients()
    with pytest.raises(StateError, match="already undone; one call .* allows one backward"):
        net.backward()
    with pytest.raises(StateError, match="already undone"):
        net.backward(np.ones((8, 2), "float32"))
    assert all(net.gradients()[path] is dW for path, dW in gradients.items())
    f = ReLU()
    f(X)
    f.backward(X)
    with pytest.raises(StateError, match="already undone"):
        f.backward(X)
    loss = CrossEntropyLoss()
    loss(X, y)
    loss.backward()
    with pytest.raises(StateError, match="already undone"):
        loss.backward()


def test_backward_inside_a_container_more_often_than_forward():
    class Greedy(dc.Function):
        def __init__(self):
            self.f = Square()

        def forward(self, X):
            return self.f(X)

        def backward(self, dY):
            return self.f.backward(dY) + self.f.backward(dY)

    f = Greedy()
    Y = f(np.ones(3))
    with pytest.raises(StateError, match="no call of it in this pass is left to undo"):
        f.backward(Y)


def test_update_before_backward():
    net = small_net()
    X, y = small_data()
    before = net.parameters()
    for prepare in (lambda: None, lambda: net(X), lambda: net.loss(net(X), y)):
        prepare()
        with pytest.raises(StateError, match=r"net\(X\), net\.loss\(out, y\) and net\.backward\(\) first"):
            net.update_weights(0.1)
        with pytest.raises(StateError, match=r"net\.backward\(\) first"):
            dc.optim.Adam().step(net)
    assert all(net.parameters()[path] is W for path, W in before.items())


def test_the_loss_of_another_array():
    net = small_net()
    X, y = small_data()
    out = net(X)
    net.loss(out, y)
    validation = net.loss(normal(3, 2, dtype="float32"), np.array([0, 1, 0]))  # allowed
    assert validation.shape == ()
    with pytest.raises(StateError, match=r"the last loss was not that of the output of the last net\(X\)"):
        net.backward()
    with pytest.raises(StateError, match="with that very array"):
        net.loss(out + 0, y)
        net.backward()
    net.loss(out, y)  # once more: fine
    net.backward()


def test_the_loss_of_an_earlier_output():
    net = small_net()
    X, y = small_data()
    earlier = net(X)
    net(2 * X)
    net.loss(earlier, y)
    with pytest.raises(StateError, match="the last loss was not that of the output"):
        net.backward()


def test_a_validation_loss_in_inference_does_not_count():
    net = small_net()
    X, y = small_data()
    net.loss(net(X), y)
    with dc.inference():
        net.loss(net(2 * X), y)
    net.backward()


def gradient_of_input(X, y):
    net = small_net()
    net.loss(net(X), y)
    return net.backward()


def test_the_loss_may_be_taken_twice_and_the_last_counts():
    net = small_net()
    X, y = small_data()
    out = net(X)
    net.loss(out, y)
    net.loss(out, 1 - y)
    np.testing.assert_array_equal(net.backward(), gradient_of_input(X, 1 - y))


def test_a_loss_taken_again_and_again_leaves_one_record():
    net = small_net()
    X, y = small_data()
    out = net(X)
    refs = []
    for _ in range(3):
        targets = y + 0
        refs.append(weakref.ref(targets))
        net.loss(out, targets)
        del targets
    assert [ref() is None for ref in refs] == [True, True, False]


def test_a_loss_that_failed_is_no_loss():
    net = small_net()
    X, y = small_data()
    out = net(X)
    net.loss(out, y)
    with pytest.raises(dc.LabelError):
        net.loss(out, y + 7)
    with pytest.raises(StateError, match="the last loss was not that"):
        net.backward()
    net.loss(out, y)
    np.testing.assert_array_equal(net.backward(), gradient_of_input(X, y))


def test_grad_after_the_weights_were_updated():
    net = small_net()
    X, y = small_data()
    one_pass(net, X, y)
    assert np.array_equal(net.layers[0].grad["X"], net.layers[0].weight["W"])
    net.loss(net(X), y)
    net.backward()
    net.update_weights(0.1)
    with pytest.raises(
        StateError, match=r"weights were updated after the last call.*before the update, or call"
    ):
        _ = net.layers[0].grad
    assert net.layers[1].grad["X"].shape == (8, 4)  # depends on no weight
    net(X)
    assert np.array_equal(net.layers[0].grad["X"], net.layers[0].weight["W"])


def test_grad_read_before_the_update_is_gone_after_it_too():
    """What one reads must not depend on whether one has looked before."""
    net = small_net()
    X, y = small_data()
    one_pass(net, X, y)
    _ = net.layers[0].grad
    net.update_weights(0.1)
    with pytest.raises(StateError, match="weights were updated"):
        _ = net.layers[0].grad


def test_grad_is_computed_when_first_read_and_once():
    class Counted(Square):
        calls = 0

        def local_grad(self, X):
            self.calls += 1
            return super().local_grad(X)

    f = Counted()
    f(np.ones(3))
    assert f.calls == 0
    assert f.grad is f.grad
    assert f.calls == 1


def test_a_gradient_of_the_wrong_shape():
    net = small_net()
    X, y = small_data()
    net.loss(net(X), y)
    with pytest.raises(ShapeError, match=r"dY must have the shape of the output, \(8, 2\), got \(8, 3\)"):
        net.backward(np.ones((8, 3), "float32"))
    net.backward()  # nothing was lost


class TwiceTheRows(dc.Function):
    """A fault of a user's: the gradient has another shape than X."""

    def forward(self, X):
        return 1 * X

    def backward(self, dY):
        return np.concat([dY, dY])


class HalfTheRows(TwiceTheRows):
    def backward(self, dY):
        return dY[::2]


class Bracketed(dc.Function):
    """The same fault, in a container."""

    def __init__(self):
        self.f = dc.Linear(64, 64)

    def forward(self, X):
        return np.sum(self.f(X), axis=0)

    def backward(self, dY):
        return self.f.backward(dY)


@pytest.mark.parametrize(
    ("functions", "shape"),
    [
        ([dc.ReLU(), TwiceTheRows()], (128, 64)),
        ([dc.Linear(64, 64), HalfTheRows()], (32, 64)),
        ([Bracketed()], (64,)),
    ],
    ids=["more", "fewer", "container"],
)
def test_a_gradient_of_the_wrong_shape_inside_a_net(functions, shape):
    """A compiled kernel would read, and even write, beyond the end of an array."""
    net = Net(functions)
    Y = net(np.ones((64, 64), "float32"))
    with pytest.raises(
        ShapeError, match=re.escape(f"must have the shape of the output, (64, 64), got {shape}")
    ):
        net.backward(Y)
    assert net.gradients() == {}


class Named(dc.Sequential):
    """Hands a gradient on by its name."""

    def backward(self, dY):
        return self.functions[0].backward(dY=dY[:48, :48].copy())


@pytest.mark.parametrize(("f", "n"), [(dc.ReLU(), 48), (Named(dc.ReLU()), 64)], ids=["outermost", "inside"])
def test_a_gradient_of_the_wrong_shape_by_name(f, n):
    Y = f(np.ones((64, 64), "float32"))
    with pytest.raises(
        ShapeError, match=re.escape("must have the shape of the output, (64, 64), got (48, 48)")
    ):
        f.backward(dY=Y[:n, :n].copy())


@pytest.mark.parametrize("dY", [1.0, [1.0, 1.0, 1.0]], ids=["number", "list"])
def test_a_gradient_that_is_no_array(dY):
    f = Square()
    f(np.ones(3))
    with pytest.raises(dc.DeepcoreError, match="backward"):
        f.backward(dY)


def test_a_gradient_in_another_dtype_widens_nothing():
    net = small_net()
    out = net(small_data()[0])
    assert net.backward(np.ones(out.shape)).dtype == np.float32  # NumPy's ones are float64
    net.update_weights(0.1)
    assert {str(W.dtype) for W in net.parameters().values()} == {"float32"}


# ---- forward never changes the net


def image_net():
    dc.seed(0)
    bn = BatchNorm2D(3)
    return bn, Net([bn, ReLU(), dc.Flatten(), Linear(12, 4), ReLU(), Linear(4, 2)], CrossEntropyLoss())


def test_an_error_in_a_later_layer_leaves_the_first_untouched():
    bn = BatchNorm2D(3)
    net = Net([bn, ReLU(), ReLU(), dc.Flatten(), ReLU(), Linear(5, 2)], CrossEntropyLoss())
    before = net.parameters() | net.buffers()
    with pytest.raises(ShapeError, match=r"layer 5, Linear\(5, 2\): X must end in 5, got \(4, 12\)"):
        net(normal(4, 3, 2, 2, dtype="float32"))
    after = net.parameters() | net.buffers()
    assert all(after[path] is before[path] for path in before)
    assert not bn.weight_update
    with pytest.raises(StateError, match="no forward pass"):
        net.backward(np.ones((4, 2), "float32"))


def test_after_a_failed_call_the_next_one_stages_anew():
    """Nothing that the failed call staged comes along with a later commit."""
    X = normal(4, 3, 2, 2, dtype="float32")
    bn, net = image_net()
    wrong = Net([bn, dc.Flatten(), Linear(5, 2)])
    with pytest.raises(ShapeError):
        wrong(100 + X)
    Linear(2, 2)(normal(4, 2, dtype="float32"))  # an outermost call of something else
    assert not bn.running_mean.any()
    net(X)
    np.testing.assert_allclose(bn.running_mean, 0.1 * X.mean(axis=(0, 2, 3), keepdims=True), rtol=1e-5)


def test_the_outermost_call_commits_when_it_has_succeeded():
    seen = []

    class Look(dc.Function):
        def forward(self, X):
            seen.append(bn.running_mean)
            return X

        def backward(self, dY):
            return dY

    bn = BatchNorm2D(3)
    before = bn.running_mean
    net = Net([Net([Sequential(bn, Look())]), Look()])
    X = normal(4, 3, 2, 2, dtype="float32")
    net(X)
    assert all(mean is before for mean in seen) and len(seen) == 2
    np.testing.assert_allclose(bn.running_mean, 0.1 * X.mean(axis=(0, 2, 3), keepdims=True), rtol=1e-5)
    committed = bn.running_mean
    net.backward(X)
    assert bn.running_mean is committed


def test_running_statistics_are_torchs(torch):
    ours, theirs = BatchNorm2D(3, dtype="float64"), torch.nn.BatchNorm2d(3, dtype=torch.float64)
    for seed in range(5):
        X = 3 + 2 * normal(4, 3, 5, 6, seed=seed)
        ours(X)
        theirs(torch.tensor(X))
    np.testing.assert_allclose(ours.running_mean.ravel(), theirs.running_mean.numpy(), atol=1e-10)
    np.testing.assert_allclose(ours.running_var.ravel(), theirs.running_var.numpy(), atol=1e-10)


def test_batch_norm_called_twice_in_one_pass_chains_its_statistics(torch):
    ours, theirs = BatchNorm2D(3, dtype="float64"), torch.nn.BatchNorm2d(3, dtype=torch.float64)
    net = Siamese(ours)
    A, B = 3 + normal(4, 3, 2, 2, seed=1), 2 * normal(5, 3, 2, 2, seed=2)[:4]
    net(A, B)
    T = [torch.tensor(x, requires_grad=True) for x in (A, B)]
    out = theirs(T[0]) - theirs(T[1])
    np.testing.assert_allclose(ours.running_mean.ravel(), theirs.running_mean.numpy(), atol=1e-10)
    np.testing.assert_allclose(ours.running_var.ravel(), theirs.running_var.numpy(), atol=1e-10)
    dY = normal(4, 3, 2, 2, seed=3)
    out.backward(torch.tensor(dY))
    for mine, other in zip(net.backward(dY), T, strict=True):
        np.testing.assert_allclose(mine, other.grad.numpy(), atol=1e-10)
    np.testing.assert_allclose(ours.weight_update["gamma"].ravel(), theirs.weight.grad.numpy(), atol=1e-10)
    np.testing.assert_allclose(ours.weight_update["beta"].ravel(), theirs.bias.grad.numpy(), atol=1e-10)


@pytest.mark.parametrize("how", ["inference", "predict", "evaluate", "forward", "eval"])
def test_running_statistics_stay(how):
    bn, net = image_net()
    X, y = normal(4, 3, 2, 2, dtype="float32"), np.array([0, 1, 1, 0])
    before = net.buffers()
    if how == "inference":
        with dc.inference():
            net(X)
    elif how == "predict":
        net.predict(X)
    elif how == "evaluate":
        net.evaluate(X, y)
    elif how == "forward":
        net.forward(X)
    else:
        net.eval()
        one_pass(net, X, y)
    ReLU()(X)  # and no later call commits them
    assert all(net.buffers()[path] is value for path, value in before.items())
    assert bn.running_mean is before["layers.0.running_mean"]


def everything(net):
    """The arrays of a net, by path, and its modes."""
    return net.parameters() | net.buffers(), net.training, [f.training for f in net.layers]


def test_gradcheck_changes_nothing():
    bn, net = image_net()
    X, y = normal(4, 3, 2, 2, dtype="float32"), np.array([0, 1, 1, 0])
    out = net(X)
    before = everything(net)
    dc.seed(5)
    first = Linear(3, 3).weight["W"], Dropout(0.5)(X)
    dc.seed(5)
    assert dc.gradcheck(net, X)
    assert dc.gradcheck(bn, X)
    assert dc.gradcheck(Net([Dropout(0.5)]), X)
    assert np.array_equal(Linear(3, 3).weight["W"], first[0])  # nor does it draw random numbers
    assert np.array_equal(Dropout(0.5)(X), first[1])
    after = everything(net)
    assert all(after[0][path] is value for path, value in before[0].items())
    assert after[1:] == before[1:]
    assert not net.gradients()
    net.loss(out, y)
    net.backward()  # its record is still there


def test_summary_changes_nothing():
    _, net = image_net()
    X, y = normal(4, 3, 2, 2, dtype="float32"), np.array([0, 1, 1, 0])
    out = net(X)
    before = everything(net)
    dc.seed(5)
    first = Linear(3, 3).weight["W"]
    dc.seed(5)
    net.summary((3, 2, 2))
    assert np.array_equal(Linear(3, 3).weight["W"], first)  # nor does it draw random numbers
    after = everything(net)
    assert all(after[0][path] is value for path, value in before[0].items())
    assert after[1:] == before[1:]
    net.loss(out, y)
    net.backward()


# ---- copies carry weights, buffers and settings, never records


def copies():
    return [
        pytest.param(copy.deepcopy, id="deepcopy"),
        *(
            pytest.param(lambda x, p=p: pickle.loads(pickle.dumps(x, protocol=p)), id=f"pickle {p}")
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
    ]


@pytest.mark.parametrize("copied", copies())
def test_a_copy_has_weights_buffers_and_settings(copied):
    bn, net = image_net()
    net.layers[3].trainable = False
    net.layers += [Scale(), Residual(Linear(2, 2))]
    bn.momentum = 0.25
    net(normal(4, 3, 2, 2, dtype="float32"))
    net.eval()
    twin = copied(net)
    assert repr(twin) == repr(net)
    ours, theirs = net.parameters() | net.buffers(), twin.parameters() | twin.buffers()
    assert ours.keys() == theirs.keys()
    for path in ours:
        assert type(theirs[path]) is np.ndarray
        assert theirs[path].dtype == ours[path].dtype
        assert np.array_equal(theirs[path], ours[path])
        assert not np.shares_memory(theirs[path], ours[path])
    assert twin.layers[0].momentum == 0.25
    assert not twin.layers[3].trainable and twin.layers[0].trainable
    assert not twin.training and not twin.layers[0].training
    X = normal(5, 3, 2, 2, dtype="float32")
    assert np.array_equal(twin.predict(X), net.predict(X))


@pytest.mark.parametrize("copied", copies())
def test_a_copy_has_no_record(copied):
    net = small_net()
    X, y = small_data()
    net.loss(net(X), y)
    twin = copied(net)
    with pytest.raises(StateError, match="no forward pass"):
        twin.backward()
    with pytest.raises(StateError, match="no recorded call"):
        _ = twin.layers[0].cache
    net.backward()  # the original has kept its own
    one_pass(twin, X, y)
    assert np.array_equal(twin.layers[0].weight_update["W"], net.layers[0].weight_update["W"])


def test_a_pickle_is_no_larger_after_a_large_batch():
    net = small_net()
    before = len(pickle.dumps(net))
    X, y = small_data(10_000)
    one_pass(net, X, y)
    assert len(pickle.dumps(net)) <= before + 100
    assert len(pickle.dumps(net.loss_fn)) < 1000


@pytest.mark.parametrize("copied", copies())
def test_a_tie_survives_a_copy(copied):
    a, b = Linear(3, 3), Linear(3, 3)
    b.weight["W"] = a.weight["W"]
    twin = copied(Net([a, Tanh(), b, a]))
    assert twin.layers[0] is twin.layers[3]
    assert twin.layers[0].weight["W"] is twin.layers[2].weight["W"]
    assert list(twin.parameters()) == ["layers.0.W", "layers.0.b", "layers.2.b"]


def test_a_copy_is_independent():
    net = small_net()
    X, y = small_data()
    twin = copy.deepcopy(net)
    W = net.layers[0].weight["W"]
    one_pass(twin, X, y)
    twin.update_weights(0.1)
    assert net.layers[0].weight["W"] is W
    assert not np.array_equal(W, twin.layers[0].weight["W"])
    twin.layers.append(ReLU())
    assert len(net.layers) == 3


def test_a_pickle_made_elsewhere_opens_with_numpy_alone(tmp_path):
    """array-api-strict stands in for a GPU: the file must open where that library is missing."""
    pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    bn, net = image_net()
    right = net.predict(normal(2, 3, 2, 2, dtype="float32"))
    net.to("array_api_strict", device="device1")
    path = tmp_path / "net.pickle"
    path.write_bytes(pickle.dumps(net))
    assert dc.backend_of(bn.weight["gamma"]).name == "array_api_strict"  # the net itself has not moved
    script = (
        "import pickle, sys, numpy as np\n"
        "sys.modules['array_api_strict'] = None\n"
        "net = pickle.load(open(sys.argv[1], 'rb'))\n"
        "X = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype('float32')\n"
        "print(net.predict(X).tobytes().hex())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == right.tobytes().hex()


def test_the_losses_buffers_travel_too():
    loss = CrossEntropyLoss(weight=[1.0, 2.0])
    twin = pickle.loads(pickle.dumps(Net([Linear(2, 2)], loss)))
    assert np.array_equal(twin.buffers()["loss_fn.weight"], [1, 2])


@pytest.mark.parametrize("loss", [MSELoss(), MeanSquareLoss()])
def test_a_loss_alone_keeps_its_record_between_its_two_calls(loss):
    X, Y = normal(4, 2), normal(4, 2, seed=1)
    loss(X, Y)
    loss.forward(2 * X, Y)
    with dc.inference():
        loss(3 * X, Y)
    n = X.size if isinstance(loss, MSELoss) and type(loss) is MSELoss else len(X)
    np.testing.assert_allclose(loss.backward(), 2 * (X - Y) / n)
