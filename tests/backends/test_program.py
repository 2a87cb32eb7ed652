"""Programs on NumPy: the numbers of the calls made one by one, bit for bit, and what a program saves."""

import copy
import tracemalloc
from functools import partial

import numpy as np
import pytest

import deepcore as dc
from deepcore.backends.base import Diverged
from deepcore.backends.numpy import memory
from deepcore.backends.numpy.program import Compiled, Spares
from deepcore.core.random import Generator
from deepcore.core.record import modes
from tests.battery import CASES
from tests.case import gradients
from tests.test_battery import as_tuple, bits, tables


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


# ---- every class


def everything(case, f, inputs, dY):
    """Y, the inputs' gradients, the weights' gradients, and the buffers that were staged."""
    with modes(labels_checked=True, generator=Generator(5), commits=False) as thread:
        Y = f(*inputs)
        dX = as_tuple(f.backward() if case.scalar else f.backward(dY))
        staged = [x for buffers in thread.staged.values() for x in buffers.values()]
        thread.staged.clear()
    return [x for x in (*as_tuple(Y), *dX, *gradients(f).values(), *staged) if x is not None]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", [case for case in CASES if case.kind.traceable], ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of float16
def test_a_program_gives_the_bits_of_the_calls(case, dtype):
    f = case.build(dtype=dtype)
    arrays = list({id(x): x for x in tables(f).values()}.values())

    def function(*given):
        n = len(given) - len(arrays) - 1
        clone = copy.deepcopy(f, {id(x): new for x, new in zip(arrays, given[n + 1 :], strict=True)})
        return tuple(everything(case, clone, given[:n], given[n]))

    program = Compiled(function)
    for seed in range(3):
        inputs = [x.astype(dtype) if x.dtype.kind == "f" else x for x in case.draw(seed=seed)]
        dY = case.draw_dY(np.asarray(f.forward(*inputs)), seed).astype(dtype)
        got = program(*inputs, dY, *arrays)
        assert (program.program is not None) and "def program" in program.source
        wanted = everything(case, f, inputs, dY)
        assert [bits(x) for x in got] == [bits(x) for x in wanted]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "kind",
    [dc.ReLU, dc.Sigmoid, dc.Tanh, dc.ELU, dc.SELU, dc.SiLU, dc.Softplus, dc.GELU, partial(dc.GELU, "tanh")],
)
def test_activations_of_many_numbers_write_where_they_are_told(kind, order):
    f = kind()

    def function(X, dY):
        Y = f(2 * X)
        dX = f.backward(dY)
        return Y + dX, Y - dX  # so that neither leaves the program

    program = Compiled(function)
    for seed in range(3):
        X, dY = (np.array(normal(64, 80, seed=s), order=order) for s in (seed, seed + 10))
        wanted = function(X, dY)
        assert [bits(x) for x in program(X, dY)] == [bits(x) for x in wanted]


# ---- what is left out, and where results go


def test_calls_that_nobody_needs_are_left_out():
    net = dc.Net([dc.Conv2D(1, 2), dc.ReLU(), dc.Flatten(), dc.Linear(2 * 4, 3)], dc.CrossEntropyLoss())
    step = net.compile(dc.optim.SGD(0.1))
    step(normal(4, 1, 4, 4), np.arange(4) % 3)
    (program,) = step._programs.values()
    assert "conv_dW" in program.function.source and "conv_dX" not in program.function.source
    net = dc.Net([dc.Linear(4, 3)], dc.CrossEntropyLoss())
    step = net.compile(dc.optim.SGD(0.1))
    step(normal(4, 4), np.arange(4) % 3)
    (program,) = step._programs.values()
    assert "needed=(False, True, True)" in program.function.source


def test_a_step_takes_no_new_memory():
    dc.seed(0)
    net = dc.Net([dc.Linear(64, 512), dc.ReLU(), dc.Linear(512, 512), dc.ReLU(), dc.Linear(512, 2)],
                 dc.CrossEntropyLoss())  # fmt: skip
    X, y = normal(256, 64), np.arange(256) % 2

    def peak(step):
        for _ in range(4):
            step()
        tracemalloc.start()
        try:
            step()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def by_hand():
        memory._buffers.clear()  # else it takes what earlier steps have given back
        net.loss(net(X), y)
        net.backward()
        optimizer.step(net)

    optimizer = dc.optim.Adam(1e-3)
    compiled = net.compile(optimizer)
    large = 256 * 512 * 4  # bytes of one activation
    assert peak(lambda: compiled(X, y)) < large < 4 * large < peak(by_hand)


def test_memory_is_used_again():
    def f(X):
        for _ in range(20):
            X = np.float32(0.5) * X + X  # needs two at a time
        return (X,)

    program, X = Compiled(f), normal(9)
    program(X)
    assert program.source.count("b1)") and "b2" not in program.source
    for got, wanted in zip(program(X), f(X), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_views_and_writing_in_place():
    def f(X, W):
        xp = dc.array_namespace(X)
        Y = X @ W
        top = Y[:2, ...]
        unused = xp.exp(Y)
        unused[0, ...] = 1
        Y[1:3, ...] = xp.zeros_like(top) - 1
        Z = xp.zeros_like(X)
        Z[0, ...] = X[1, ...]
        return 2 * top, Y + 0, Z, xp.reshape(Y, (-1,))

    program = Compiled(f)
    draws = [(normal(4, 5, seed=seed), normal(5, 5, seed=seed + 9)) for seed in range(4)]
    results = [program(*draw) for draw in draws]  # each of which keeps its numbers
    for draw, result in zip(draws, results, strict=True):
        for got, wanted in zip(result, f(*draw), strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert program.source.count("setitem") == 2


def test_an_input_is_never_written_to():
    def f(X):
        X[0] = 1
        return (X,)

    with pytest.raises(dc.UnsupportedError, match="writing to an input"):
        Compiled(f)(normal(3))


class FirstToZero(dc.Function):
    """Writes to what may be a view of X, or a copy, as X's strides decide."""

    traceable = True

    def forward(self, X):
        Y = dc.array_namespace(X).reshape(X, (-1, 6))
        if not np.may_share_memory(*(getattr(x, "value", x) for x in (X, Y))):
            Y[:, 0] = 0
        return Y

    def backward(self, dY):
        return dY


def test_a_program_serves_the_strides_that_it_was_made_for():
    step = dc.Net([FirstToZero(), dc.Linear(6, 3)], dc.CrossEntropyLoss()).compile(dc.optim.SGD(0.1))
    X, y = normal(2, 3, 4), np.arange(4) % 3
    for given in (np.moveaxis(X, 0, 1), np.ascontiguousarray(np.moveaxis(X, 0, 1))):
        before = given.copy()
        step(given, y)
        step(given, y)
        np.testing.assert_array_equal(given, before)
    assert len(step._programs) == 2


def test_arrays_that_somebody_holds_are_left_alone():
    spares = Spares([np.empty(3)])
    (a,) = spares()
    (b,) = spares()
    assert b is not a
    view = b[1:]
    del a, b
    assert spares()[0] is not view.base
    kept = [id(spares()[0]) for _ in range(5)]
    assert len(set(kept)) == 1


@pytest.mark.parametrize("hold", [lambda W: W, lambda W: W[:1], memoryview], ids=["it", "view", "memory"])
def test_old_weights_keep_their_numbers(hold):
    net = dc.Net([dc.Linear(3, 4), dc.Tanh(), dc.Linear(4, 2)], dc.CrossEntropyLoss())
    optimizer = dc.optim.SGD(0.5, momentum=0.9)
    step = net.compile(optimizer)
    X, y = normal(8, 3), np.arange(8) % 2
    held = []
    for _ in range(8):
        step(X, y)
        arrays = [*net.parameters().values(), optimizer.state["layers.0.W"]["V"]]
        held += [(hold(W), np.array(hold(W))) for W in arrays]
        del arrays
    for now, then in held:
        np.testing.assert_array_equal(now, then)
    assert len({then.tobytes() for _, then in held}) == len(held)


# ---- numbers that somebody looks at


def test_a_program_that_no_longer_holds_says_so():
    from deepcore.ops import labels

    def f(y):
        return (y + 1 if labels.all_within(y, 3) else y - 1,)

    program = Compiled(f)
    for y in ([0, 2], [1, 1]):
        assert program(np.array(y))[0].tolist() == [i + 1 for i in y]
    with pytest.raises(Diverged):
        program(np.array([0, 5]))


class Reading(dc.Function):
    traceable = True

    def __init__(self, read):
        self.read = read

    def forward(self, X):
        xp = dc.array_namespace(X)
        return X if self.read(X, xp) else -X

    def backward(self, dY):
        return dY


READS = {
    "bool": lambda X, xp: xp.sum(X) > 0,
    "float": lambda X, xp: float(xp.sum(X)),
    "int": lambda X, xp: int(xp.sum(X)),
    "index": lambda X, xp: [1, 2][xp.argmax(X)] if X.size == 2 else range(99)[xp.argmax(X)],
    "mask": lambda X, xp: X[X > 0].shape[0] > 2,
    "shape": lambda X, xp: len(xp.nonzero(X)),
    "numpy": lambda X, xp: np.sum(np.asarray(X)) > 0,
    "method": lambda X, xp: X.sum() > 0,
}


@pytest.mark.parametrize("read", READS)
def test_a_look_at_a_number_makes_steps_call_by_call(read, caplog):
    X, y = normal(8, 3), np.arange(8) % 2
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net = dc.Net([Reading(READS[read]), dc.Linear(3, 2)], dc.CrossEntropyLoss())
        with caplog.at_level("DEBUG", logger="deepcore"):
            caplog.clear()
            if compiled:
                step = net.compile(dc.optim.SGD(0.1))
                losses = [float(step(sign * X, y)) for sign in (1, -1, 1)]
                assert not step._programs
                assert [r.levelname for r in caplog.records] == ["DEBUG"]
                assert "call by call" in caplog.text
            else:
                losses = []
                for sign in (1, -1, 1):
                    losses.append(float(net.loss(net(sign * X), y)))
                    net.backward()
                    net.update_weights(0.1)
        results.append(losses)
    assert results[0] == results[1]
    before = net.state_dict()
    with pytest.raises(dc.UnsupportedError, match="a step can't be compiled"):
        net.fit(X, y, compile=True)
    np.testing.assert_equal(net.state_dict(), before)
    net.fit(X, y, epochs=50)


def test_labels_and_indices_are_checked_at_once():
    for place in ("X", "y"):
        for ways in ("compile", "fit"):
            dc.seed(0)
            net = dc.Net([dc.Embedding(5, 4), dc.Linear(4, 3)], dc.CrossEntropyLoss())
            X, y = np.arange(6) % 5, np.arange(6) % 3
            optimizer = dc.optim.Adam()
            step = net.compile(optimizer)
            if ways == "fit":
                net.fit(X, y, batch_size=2, epochs=30, optimizer=optimizer)
            step(X, y)
            before, steps = net.state_dict(), optimizer.steps
            bad = {"X": X.copy(), "y": y.copy()}
            bad[place][4] = 7
            with pytest.raises(dc.LabelError, match="got 7"):
                step(**bad) if ways == "compile" else net.fit(**bad, epochs=30, optimizer=optimizer)
            if ways == "compile":
                np.testing.assert_equal(net.state_dict(), before)
                assert optimizer.steps == steps
            assert np.isfinite(float(step(X, y)))


def test_labels_to_ignore():
    X, y = normal(12, 3), np.array([0, 1, -100] * 4)
    results = []
    for compiled in (False, True):
        dc.seed(0)
        net = dc.Net([dc.Linear(3, 2)], dc.CrossEntropyLoss())
        history = net.fit(X, y, batch_size=5, epochs=4, seed=0, compile=compiled)
        step, optimizer = net.compile(dc.optim.SGD(0.1)), dc.optim.SGD(0.1)
        for labels in (abs(y) % 2, y, abs(y) % 2):
            if compiled:
                step(X, labels)
            else:
                net.loss(net(X), labels)
                net.backward()
                optimizer.step(net)
        results.append((history.history, net.state_dict()))
    np.testing.assert_equal(results[0], results[1])


def test_a_rejected_array_changes_nothing():
    net = dc.Net([dc.Linear(3, 2)], dc.CrossEntropyLoss())
    step = net.compile(dc.optim.SGD(0.1))
    X, y = normal(4, 3), np.arange(4) % 2
    for _ in range(2):
        for wrong in (X[:, :2], y), (X, y[:3]), (X.tolist(), y), (X.astype(int), y):
            with pytest.raises((dc.ShapeError, dc.DTypeError)):
                step(*wrong)
        before = net.state_dict()
        assert np.isfinite(float(step(X, y)))
        assert float(step(X.astype("float64"), y)) < 99
        assert not np.array_equal(before["layers.0.W"], net.state_dict()["layers.0.W"])


def test_a_program_hears_of_errors_what_its_caller_wants():
    """It is made where divisions by zero raise, and called where they are ignored, and raise again."""
    compiled = Compiled(lambda X: (1 / X, 3e38 * X))
    with np.errstate(divide="raise"):
        compiled(np.ones(3, np.float32))
    X = np.asarray([0, 1, 2], np.float32)
    with np.errstate(divide="ignore"):
        quotient, product = compiled(X)  # an overflow is never mentioned
    assert np.isinf(quotient[0]) and np.isinf(product[2])
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError):
        compiled(X)
