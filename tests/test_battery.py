"""The battery: what each Function, Layer, Loss and container must do, on every array library."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import threading
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore.core.parameters import find_parameters
from deepcore.core.record import modes
from tests.battery import CASES
from tests.case import buffers, differences, gradients, params, single, weights
from tests.places import EACH_LIBRARY, IN_FLOAT64, JAX_X64, META, NUMPY, PLACES
from tests.users import Difference, Product, Scale, Square

SMOOTH = [case for case in CASES if case.gradient is None]
OF_ONE_INPUT = [case for case in CASES if len(case.inputs) == len(case.differentiable) == 1]
TOLERANCE = {  # of values and of gradients; those of the reference are differences, good to about 1e-9
    "float32": {"rtol": 1e-5, "atol": 4e-6},
    "float64": {"rtol": 1e-8, "atol": 1e-8},
}
WITH_DTYPES = [
    pytest.param(*p.values, dtype, id=f"{p.id}-{dtype}")
    for p in [*params(CASES, PLACES, every=True), *params(CASES, [JAX_X64])]
    for dtype in p.values[1].dtypes
]


def cases(*keep, omit=lambda case: False, among=CASES):
    """Parametrise by case."""
    chosen = [case for case in among if not omit(case)]
    return pytest.mark.parametrize("case", chosen, ids=[case.name for case in chosen])


cases_and_places = pytest.mark.parametrize("case, place", params(CASES))
places = pytest.mark.parametrize("_, place", params(["any"]))
cases_and_libraries = pytest.mark.parametrize("case, place", params(CASES, EACH_LIBRARY))


# ---- running a case


def put(place, arrays, dtype="float32"):
    """Arrays at a place, floating ones in a dtype."""
    return [place.array(x, dtype if np.asarray(x).dtype.kind == "f" else None) for x in arrays]


def as_tuple(x):
    return () if x is None else x if isinstance(x, tuple) else (x,)


def backward(case, f, place, Y, dtype="float32", seed=0):
    """The gradients of the inputs, for the case's dY; a loss that is one number needs none."""
    if case.scalar:
        return as_tuple(f.backward())
    dY = place.array(case.draw_dY(place.back(Y), seed), dtype)
    return as_tuple(f.backward(dY))


def tables(f):
    """Every weight and buffer by path."""
    return weights(f) | buffers(f)


def run(case, f, place, inputs, dtype="float32", seed=0):
    """Everything that a call and its backward give: Y, the inputs' gradients, the weights' gradients."""
    Y = f(*inputs)
    dX = backward(case, f, place, Y, dtype, seed)
    return [Y, *dX, *gradients(f).values()]


def bits(x):
    """The numbers as bytes in reading order, with dtype and shape: equal only if all is."""
    x = dc.to_numpy(x)
    return x.dtype.str, x.shape, np.ascontiguousarray(x).tobytes()


def close(got, wanted, dtype="float32", **tolerance):
    np.testing.assert_allclose(got, wanted, **(tolerance or TOLERANCE[dtype]))


# ---- the list itself


def test_every_function_that_deepcore_exports_has_a_case():
    abstract = {dc.Function, dc.Layer, dc.Loss}
    public = {
        exported
        for name in dc.__all__
        if inspect.isclass(exported := getattr(dc, name)) and issubclass(exported, dc.Function)
    }
    missing = public - abstract - {case.kind for case in CASES}
    assert not missing, f"give each a line in tests/cases/: {sorted(c.__name__ for c in missing)}"


def test_the_table_in_the_docs_names_every_class_and_no_failure():
    table = (Path(__file__).parents[1] / "docs" / "backends.md").read_text("utf-8")
    rows = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")}
    assert rows - {"class"} == {case.kind.__name__ for case in CASES}, "see the top of docs/backends.md"
    assert "**" not in table


def test_the_users_own_classes_have_a_case():
    assert {Square, Scale, Product, Difference} <= {case.kind for case in CASES}


def test_no_two_cases_have_one_name():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("place", [*PLACES, JAX_X64], ids=lambda place: place.name)
def test_places(place):
    """Here it shows which libraries the battery could not run on, and why."""
    if place.why_not:
        pytest.skip(place.why_not)
    for dtype in (*place.dtypes, "int64", "uint8", "bool"):
        x = place.array(np.array([[0, 1, 2]]), dtype)
        assert place.holds(x)
        assert place.back(x).dtype == place.stored(dtype)
        assert place.back(x).tolist() == np.array([[0, 1, 2]], dtype).tolist()
        others = [p for p in PLACES if p.backend == place.backend and p.device != place.device]
        assert not any(other.holds(x) for other in others)


# ---- values and gradients


@pytest.mark.parametrize("case, place, dtype", WITH_DTYPES)
def test_values_and_gradients_are_the_references(case, place, dtype):
    f = case.build(place, dtype)
    inputs = put(place, case.draw(), dtype)
    Y = f(*inputs)
    close(place.back(Y), case.value(*case.draw()), dtype)
    dX, dW = case.expected_gradients
    got_dX = backward(case, f, place, Y, dtype)
    got_dW = gradients(f)
    assert len(got_dX) == len(dX)
    assert got_dW.keys() == dW.keys()
    for got, wanted in [*zip(got_dX, dX, strict=True), *((got_dW[path], dW[path]) for path in dW)]:
        close(place.back(got), wanted, dtype)

    # as they came in: this dtype, this library, this device
    for result in [Y, *got_dX, *got_dW.values()]:
        assert place.back(result).dtype == dtype
        assert place.holds(result)
    assert all(place.holds(W) and place.back(W).dtype == dtype for W in tables(f).values())


# not with JAX's x64: 160 s of compiling, for what its values and gradients show already
WITHOUT_X64 = [p for p in IN_FLOAT64 if p is not JAX_X64]


@pytest.mark.parametrize("case, place", params(SMOOTH, [p for p in WITHOUT_X64 if p.writeable]))
def test_gradcheck(case, place):
    f = case.build(place)
    before = {path: bits(W) for path, W in tables(f).items()}
    assert dc.gradcheck(f, *put(place, case.draw(2))) is True
    assert {path: bits(W) for path, W in tables(f).items()} == before


class WrongInput(Square):
    def local_grad(self, X):
        return {"X": 3 * X}


class WrongWeight(Scale):
    def backward(self, dY):
        dX = super().backward(dY)
        self.weight_update["s"] = 1.001 * self.weight_update["s"]
        return dX


class NoWeight(Scale):
    def backward(self, dY):
        return dY * self.weight["s"]


class WrongSecond(Product):
    def backward(self, dY):
        dA, dB = super().backward(dY)
        return dA, -dB


@pytest.mark.parametrize(
    "f, named",
    [(WrongInput(), "input 0"), (WrongWeight(), "s"), (NoWeight(), "s"), (WrongSecond(), "input 1")],
    ids=lambda x: type(x).__name__,
)
def test_gradcheck_finds_what_is_wrong(f, named):
    """Else nothing that it finds right would count."""
    X = single(np.random.default_rng(0).standard_normal((2, 3)))
    with pytest.raises(dc.GradientError, match=rf"{type(f).__name__}.* gradient of {named}\b"):
        dc.gradcheck(f, *([X, X + 1] if named == "input 1" else [X]))


@cases_and_places
def test_nothing_is_written_to(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    dY = place.array(case.draw_dY(case.value(*case.draw())))
    given = [*inputs, dY, *(W for W in tables(f).values())]
    before = [bits(x) for x in given]
    Y = f(*inputs)
    after_forward = bits(Y)
    f.backward() if case.scalar else f.backward(dY)
    assert [bits(x) for x in given] == before
    assert bits(Y) == after_forward


@cases_and_places
def test_a_batch_of_one(case, place):
    f = case.build(place)
    host = case.draw(1)
    Y = f(*put(place, host))
    close(place.back(Y), case.value(*host))
    dX, dW = case.gradients(*host)
    for got, wanted in zip(backward(case, f, place, Y), dX, strict=True):
        close(place.back(got), wanted)
    for path, got in gradients(f).items():
        close(place.back(got), dW[path])


@pytest.mark.parametrize("case, place", params([case for case in CASES if case.batched]))
def test_an_empty_batch(case, place):
    f = case.build(place)
    before = {path: bits(W) for path, W in tables(f).items()}
    inputs = put(place, case.draw(0))
    if case.scalar and f.reduction == "mean":
        with pytest.raises(dc.ShapeError, match="mean over nothing"):
            f(*inputs)
    else:
        Y = f(*inputs)
        wanted = case.value(*case.draw(2)).shape
        assert Y.shape == ((0, *wanted[1:]) if wanted else ())
        assert place.back(Y).dtype == "float32" and place.holds(Y)
        assert not np.any(place.back(Y))
        dX = backward(case, f, place, Y)
        assert [g.shape for g in dX] == [inputs[i].shape for i in case.differentiable]
        dW = {path: place.back(g) for path, g in gradients(f).items()}
        assert {path: g.shape for path, g in dW.items()} == {p: W.shape for p, W in case.weights.items()}
        assert not any(np.any(g) for g in dW.values())
        assert all(place.back(g).dtype == "float32" for g in [*dX, *dW.values()])
    assert {path: bits(W) for path, W in tables(f).items()} == before


@cases_and_libraries
def test_new_weights_are_made_where_the_backend_says_and_are_the_same_everywhere(case, place):
    dc.seed(1)
    wanted = {path: bits(W) for path, W in tables(case.make()).items()}
    dc.seed(1)
    with dc.use_backend(place.backend):
        made = tables(case.make())
    assert {path: bits(W) for path, W in made.items()} == wanted
    assert all(dc.backend_of(W).name == place.backend for W in made.values())


@pytest.mark.parametrize("case, place", params(CASES, [META]))
def test_shapes_and_devices_without_numbers(case, place):
    """An array that is made without a device would be elsewhere, and a look at a number would fail."""
    f = case.build(place)
    host = case.draw()
    with modes(labels_checked=True):
        Y = f(*put(place, host))
        dY = () if case.scalar else (place.array(case.draw_dY(case.value(*host))),)
        dX = as_tuple(f.backward(*dY))
    wanted, expected = case.value(*host), case.expected_gradients
    assert tuple(Y.shape) == wanted.shape
    assert [tuple(g.shape) for g in dX] == [g.shape for g in expected[0]]
    assert {path: tuple(dW.shape) for path, dW in gradients(f).items()} == {
        path: dW.shape for path, dW in expected[1].items()
    }
    for x in [Y, *dX, *gradients(f).values(), *tables(f).values()]:
        assert place.holds(x) and str(x.dtype) == "torch.float32"


# ---- memory layouts, on NumPy: the standard has no strides


def strided(x):
    return np.repeat(x, 2, axis=-1)[..., ::2]


def backwards(x):
    every = (slice(None, None, -1),) * x.ndim
    return np.ascontiguousarray(x[every])[every]


def fortran(x):
    return np.asfortranarray(x)


def channels_last(x):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 1 else strided(x)


def repeated_samples(x):
    """Zero strides: every sample is the first one."""
    return np.broadcast_to(x[:1], x.shape)


def repeated_number(x):
    """Zero strides along all axes, as the gradient of a sum has."""
    return np.broadcast_to(x[(slice(1),) * x.ndim], x.shape)


LAYOUTS = [strided, backwards, fortran, channels_last, repeated_samples, repeated_number]


@cases(omit=lambda case: case.own)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_memory_layout_gives_the_bits_of_the_c_copy(case, layout):
    host = put(NUMPY, case.draw(40))
    if host[0].ndim == 0:
        return
    odd = [layout(x) for x in host]
    plain = [np.array(x, order="C") for x in odd]
    dY = layout(case.draw_dY(case.value(*plain)).astype("float32")) if not case.scalar else None
    before = [bits(x) for x in odd]

    results = []
    for inputs, gradient in ((odd, dY), (plain, None if dY is None else np.array(dY, order="C"))):
        f = case.build()
        Y = f(*inputs)
        dX = f.backward() if gradient is None else f.backward(gradient)
        named = {f"d{path}": dW for path, dW in gradients(f).items()}
        named |= {path: W for path, W in tables(f).items() if path not in case.weights}
        results.append({"Y": Y, **{f"dX{i}": g for i, g in enumerate(as_tuple(dX))}, **named})
    different = [name for name in results[0] if bits(results[0][name]) != bits(results[1][name])]
    assert not different
    assert [bits(x) for x in odd] == before


@cases()
@pytest.mark.parametrize("which", ["inputs", "weights", "both"])
def test_the_other_byte_order_has_the_same_numbers(case, which):
    """As files from other machines have it."""
    f, host = case.build(), case.draw()
    inputs = put(NUMPY, host)
    if which != "weights":
        inputs = [x.astype(x.dtype.newbyteorder()) for x in inputs]
    if which != "inputs":
        for parameter in find_parameters(f).values():
            W = parameter.value.astype(parameter.value.dtype.newbyteorder())
            for layer, name in parameter.places:
                layer.weight[name] = W
    Y = f(*inputs)
    close(Y, case.value(*host))
    dX, dW = case.expected_gradients
    for got, wanted in zip(backward(case, f, NUMPY, Y), dX, strict=True):
        close(got, wanted)
    for path, got in gradients(f).items():
        close(got, dW[path])


# ---- copies


@cases_and_libraries
def test_deepcopy(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    wanted = [bits(x) for x in run(case, f, place, inputs)]
    f(*inputs)  # leaves a record, and buffers
    clone = copy.deepcopy(f)
    _assert_has_no_record(clone)
    assert [bits(x) for x in tables(clone).values()] == [bits(x) for x in tables(f).values()]
    assert not {id(W) for W in tables(clone).values()} & {id(W) for W in tables(f).values()}
    assert all(place.holds(W) for W in tables(clone).values())
    assert [bits(x) for x in run(case, clone, place, inputs)] == wanted


@cases_and_libraries
def test_pickle_opens_on_numpy(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    wanted = [place.back(x) for x in run(case, f, place, inputs)]
    f(*inputs)
    data = pickle.dumps(f)
    if place.backend != "numpy":
        assert place.backend.encode() not in data
    clone = pickle.loads(data)
    _assert_has_no_record(clone)
    mine = tables(clone)
    assert all(type(W) is np.ndarray for W in mine.values())
    assert {path: bits(W) for path, W in mine.items()} == {path: bits(W) for path, W in tables(f).items()}
    assert all(place.holds(W) for W in tables(f).values())  # the net itself stays where it is
    assert repr(clone) == repr(f)
    got = run(case, clone, NUMPY, put(NUMPY, case.draw()))
    for x, y in zip(got, wanted, strict=True):
        if place.backend == "numpy":
            assert bits(x) == bits(y)
        else:
            close(x, y)


def _assert_has_no_record(f):
    for call in (lambda: f.backward(np.ones(1)), lambda: f.cache, lambda: f.grad):
        with pytest.raises(dc.StateError):
            call()
    assert not gradients(f)


# ---- one function, several calls


@cases(omit=lambda case: not case.keeps_shape)
def test_twice_in_one_net(case):
    shared = case.build(dtype="float64")
    first, second = case.build(dtype="float64"), case.build(dtype="float64")
    X = case.draw()[0]
    dY = case.draw_dY(X)
    net, apart = dc.Net([shared, shared]), dc.Net([first, second])
    net.train(not case.evaluation)
    apart.train(not case.evaluation)
    close(net(X), apart(X), rtol=1e-10)
    close(net.backward(dY), apart.backward(dY), rtol=1e-10, atol=1e-10)
    _assert_gradients_are_sums(shared, first, second)


@pytest.mark.parametrize("case, place", params(OF_ONE_INPUT, [p for p in WITHOUT_X64 if p in EACH_LIBRARY]))
def test_called_twice_by_a_container_of_the_users_own(case, place):
    shared = case.build(place, "float64")
    first, second = case.build(place, "float64"), case.build(place, "float64")
    A, B = (place.array(case.draw(seed=seed)[0], "float64") for seed in (1, 2))
    f = Difference(shared)
    Y = f(A, B)
    dY = place.array(case.draw_dY(place.back(Y)), "float64")
    close(place.back(Y), place.back(first(A)) - place.back(second(B)), rtol=1e-10, atol=1e-10)
    dA, dB = f.backward(dY)
    close(place.back(dA), place.back(first.backward(dY)), rtol=1e-10, atol=1e-10)
    close(place.back(dB), place.back(second.backward(-dY)), rtol=1e-10, atol=1e-10)
    _assert_gradients_are_sums(shared, first, second)


def _assert_gradients_are_sums(shared, first, second):
    a, b = gradients(first), gradients(second)
    total = gradients(shared)
    assert total.keys() == a.keys() == b.keys()
    for path, dW in total.items():
        close(dc.to_numpy(dW), dc.to_numpy(a[path]) + dc.to_numpy(b[path]), rtol=1e-10, atol=1e-10)


@pytest.fixture
def hasty():
    """Threads that take turns every 10 us."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@cases()
def test_two_threads_get_their_own_gradients(case, hasty):
    f = case.build()
    alone = case.build()
    jobs = []
    for seed in (1, 2):
        inputs = put(NUMPY, case.draw(seed=seed))
        dX = run(case, alone, NUMPY, inputs, seed=seed)[1 : 1 + len(case.differentiable)]
        jobs.append((seed, inputs, [bits(g) for g in dX]))
    assert jobs[0][2] != jobs[1][2] or case.name in CONSTANT_GRADIENT or not case.differentiable
    start = threading.Barrier(2)
    wrong = []

    def work(seed, inputs, wanted):
        start.wait()
        try:
            for _ in range(40):
                dX = backward(case, f, NUMPY, f(*inputs), seed=seed)
                if [bits(g) for g in dX] != wanted:
                    wrong.append(seed)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with pytest.raises(dc.StateError):
        f.backward(np.ones(1, "float32"))  # this thread has called nothing


CONSTANT_GRADIENT = {
    "Softmax of one class",  # 0
    "CrossEntropyLoss all ignored",  # 0
    "CrossEntropyLoss confident",  # the same row for all seeds
}


# ---- local gradients


@cases(omit=lambda case: not case.elementwise)
def test_local_grad_of_an_elementwise_function_is_its_derivative(case):
    f = case.build()
    X = case.draw()[0]
    f(X)
    local = f.local_grad(X)
    assert list(local) == ["X"]
    step = 1e-6
    close(local["X"], (case.value(X + step) - case.value(X - step)) / (2 * step), rtol=1e-7, atol=1e-8)
    assert bits(f.grad["X"]) == bits(local["X"])
    assert f.grad["X"] is f.grad["X"]  # computed once
    dY = case.draw_dY(X)
    close(f.backward(dY), dY * local["X"], rtol=1e-12)


@cases_and_libraries
def test_grad_is_the_local_grad_of_the_last_call(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    f(*put(place, case.draw(seed=5)))
    f(*inputs)
    try:
        wanted = f.local_grad(*inputs)
    except dc.UnsupportedError as error:
        assert "local gradient" in str(error)
        with pytest.raises(dc.UnsupportedError):
            _ = f.grad
        return
    got = f.grad
    assert got.keys() == wanted.keys()
    for name, local in wanted.items():
        assert bits(got[name]) == bits(local)
        assert place.holds(local) and place.back(local).dtype == "float32"


@cases(omit=lambda case: case.kind not in (dc.Linear, dc.Conv2D))
def test_local_grad_of_a_product_is_the_other_factor(case):
    f = case.build()
    X = put(NUMPY, case.draw())[0]
    local = f.local_grad(X)
    assert local.keys() == {"X", "W"}
    assert local["X"] is f.weight["W"] and local["W"] is X


@cases(omit=lambda case: case.kind is not dc.MaxPool2D)
def test_local_grad_of_max_pooling_is_its_mask(case):
    f = case.build()
    X = case.draw()[0]
    mask = f.local_grad(X)["X"]
    f(X)
    Y = case.value(X)
    assert bits(mask) == bits(f.backward(np.ones_like(Y)))
    if case.gradient is None:  # where there are no ties, the mask is the derivative of the sum
        close(mask, differences(lambda x: case.value(x).sum(), X), rtol=1e-8, atol=1e-8)


@cases(omit=lambda case: not case.is_loss)
def test_local_grad_of_a_loss_is_what_backward_gives(case):
    f = case.build()
    inputs = put(NUMPY, case.draw())
    f(*inputs)
    local = f.local_grad(*inputs)
    assert len(local) == case.learned and (case.learned > 1 or list(local) == ["X"])
    assert [bits(dX) for dX in local.values()] == [bits(dX) for dX in as_tuple(f.backward())]


@pytest.mark.parametrize("f", [dc.Softmax(), dc.BatchNorm2D(2)], ids=repr)
def test_no_local_grad_where_it_would_be_a_whole_jacobian(f):
    X = np.ones((3, 2, 2, 2), "float32")
    with pytest.raises(dc.UnsupportedError, match=f"{type(f).__name__}.* has no local gradient"):
        f.local_grad(X)


@places
def test_jacobian_of_softmax(_, place):
    X = single(np.random.default_rng(0).standard_normal((3, 4)))
    f = dc.Softmax()
    dtype = place.dtypes[-1]
    J = place.back(f.jacobian(place.array(X, dtype)))
    assert J.shape == (3, 4, 4) and J.dtype == dtype
    case = next(case for case in CASES if case.name == "Softmax")
    for i in range(4):
        wanted = differences(lambda x, i=i: case.value(x)[:, i].sum(), X)
        close(J[:, i, :], wanted, dtype)
    with pytest.raises(dc.ShapeError, match=r"X must be \(n, c\), got \(2, 3, 4\)"):
        f.jacobian(place.array(np.ones((2, 3, 4)), dtype))


# ---- not finite, and too large


@cases_and_libraries
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_propagate(case, place, number):
    f = case.build(place)
    host = case.draw()
    for i in case.differentiable:
        xs = [x.copy() for x in host]
        xs[i].reshape(-1)[xs[i].size // 2] = number
        wanted = case.value(*xs)
        with np.errstate(all="ignore"):
            got = place.back(f(*put(place, xs)))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
        close(got, wanted, equal_nan=True, **TOLERANCE["float32"])


@cases(omit=lambda case: case.mixes or not case.batched or case.own or not case.differentiable)
def test_a_nan_stays_in_its_own_sample(case):
    f = case.build()
    clean = put(NUMPY, case.draw())
    poisoned = [x.copy() for x in clean]
    poisoned[0][1] = np.nan
    with np.errstate(all="ignore"):
        Y = f(*clean)
        dX = backward(case, f, NUMPY, Y)
        Y_poisoned = f(*poisoned)
        dX_poisoned = backward(case, f, NUMPY, Y_poisoned)
    others = [0, 2]
    assert np.isnan(Y_poisoned[1]).any()
    assert bits(Y_poisoned[others]) == bits(Y[others])
    assert bits(dX_poisoned[0][others]) == bits(dX[0][others])


@cases(omit=lambda case: case.own)
@pytest.mark.parametrize("size", [1e38, 3e38])
def test_no_numpy_warning_about_overflow_of_finite_input(case, size):
    f = case.build()
    inputs = put(NUMPY, case.draw())
    for i in case.differentiable:
        x = inputs[i].astype("float64")
        inputs[i] = (x / np.abs(x).max() * size).astype("float32")
    assert all(np.isfinite(x).all() for x in inputs)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        Y = f(*inputs)
        if not case.scalar:
            f.backward(np.full_like(Y, size))
        else:
            f.backward()


# ---- records


@cases_and_libraries
def test_a_direct_forward_records_nothing(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    others = put(place, case.draw(seed=3))
    before = {path: bits(W) for path, W in tables(f).items()}
    alone = f.forward(*inputs)
    with pytest.raises(dc.StateError, match="no forward pass|call .*net"):
        f.backward(place.array(np.ones(1)))
    assert {path: bits(W) for path, W in tables(f).items()} == before  # nor running statistics

    Y = f(*inputs)
    assert bits(alone) == bits(Y)
    wanted = [bits(x) for x in run(case, f, place, inputs)]
    Y = f(*inputs)
    f.forward(*others)
    dX = backward(case, f, place, Y)
    assert [bits(x) for x in [Y, *dX, *gradients(f).values()]] == wanted


@cases_and_libraries
def test_backward_needs_a_call_and_is_had_once(case, place):
    f = case.build(place)
    dY = place.array(case.draw_dY(case.value(*case.draw())))
    with pytest.raises(dc.StateError, match="no forward pass|call .*net"):
        f.backward(dY)
    Y = f(*put(place, case.draw()))
    backward(case, f, place, Y)
    before = {path: bits(dW) for path, dW in gradients(f).items()}
    with pytest.raises(dc.StateError, match="already undone"):
        f.backward(dY)
    assert {path: bits(dW) for path, dW in gradients(f).items()} == before


@cases_and_libraries
def test_a_second_backward_forgets_the_first_and_accumulate_adds(case, place):
    f = case.build(place)
    inputs = put(place, case.draw())
    run(case, f, place, put(place, case.draw(seed=4)))
    Y = f(*inputs)
    backward(case, f, place, Y)
    once = {path: place.back(dW) for path, dW in gradients(f).items()}
    for path, dW in case.expected_gradients[1].items():
        close(once[path], dW)
    Y = f(*inputs)
    gradient = () if case.scalar else (place.array(case.draw_dY(place.back(Y))),)
    f.backward(*gradient, accumulate=True)
    for path, dW in gradients(f).items():
        close(place.back(dW), 2 * once[path])


@cases()
def test_inference_keeps_nothing(case):
    f = case.build()
    with dc.inference():
        f(*put(NUMPY, case.draw(2000)))  # fills what is filled once, such as tables of this shape
    inputs = put(NUMPY, case.draw(2000, seed=1))
    size = sum(x.nbytes for x in inputs)
    watched = [weakref.ref(x) for x in inputs]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with dc.inference():
            Y = f(*inputs)
        del Y
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < max(size // 8, 4096), f"{grown} bytes kept, of {size} bytes of input"
    del inputs
    assert not any(ref() is not None for ref in watched)
    with pytest.raises(dc.StateError):
        f.backward(np.ones(1, "float32"))
    with pytest.raises(dc.StateError):
        _ = f.cache


@cases()
def test_inference_gives_the_outputs_of_evaluation(case):
    f = case.build()
    inputs = put(NUMPY, case.draw())
    before = {path: bits(W) for path, W in tables(f).items()}
    with dc.inference():
        Y = f(*inputs)
    assert {path: bits(W) for path, W in tables(f).items()} == before
    for g in [f, *(g for _, g in f._children())]:
        g.training = False
    assert bits(f(*inputs)) == bits(Y)


# ---- a net with its loss


@pytest.mark.parametrize(
    "case, place", params([case for case in CASES if case.name in ("Net", "Net of nets")])
)
def test_a_net_with_its_loss(case, place):
    net = case.build(place)
    net.loss_fn = dc.CrossEntropyLoss()
    X, y = case.draw()[0], np.array([0, 1, 1])
    loss_case = next(case for case in CASES if case.name == "CrossEntropyLoss")

    def loss(tables, X):
        return float(loss_case.value(case.value(X, tables=tables), y))

    out = net(place.array(X))
    L = net.loss(out, place.array(y))
    assert L.ndim == 0 and place.holds(L)
    close(place.back(L), loss(case.weights, X))
    close(place.back(net.backward()), differences(lambda x: loss(case.weights, x), X))
    for path, dW in net.gradients().items():
        wanted = differences(lambda W, path=path: loss(case.weights | {path: W}, X), case.weights[path])
        close(place.back(dW), wanted)
    assert net.gradients().keys() == case.weights.keys()
    net.update_weights(lr=0.25)
    for path, W in net.parameters().items():
        assert place.holds(W)
        dW = place.back(net.gradients()[path])
        close(place.back(W), case.weights[path] - 0.25 * dW, rtol=1e-6, atol=1e-6)


# ---- dropout's mask


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@places
def test_dropout(_, place, p):
    f = dc.Dropout(p)
    X = single(np.random.default_rng(0).uniform(1, 2, (40, 50)))
    dc.seed(3)
    Y = place.back(f(place.array(X)))
    M = Y != 0
    close(Y, np.where(M, X / (1 - p), 0))
    assert abs(M.mean() - (1 - p)) < 4 * (p * (1 - p) / M.size) ** 0.5
    assert bits(f.grad["X"]) == bits((M / np.float32(1 - p)).astype("float32"))
    dY = single(np.random.default_rng(1).standard_normal((40, 50)))
    close(place.back(f.backward(place.array(dY))), np.where(M, dY / (1 - p), 0))

    # the same bits on every library; others at each call; drawn by number, not by shape
    dc.seed(3)
    assert np.array_equal(f(X.astype("float32")) != 0, M)
    assert not np.array_equal(f(X.astype("float32")) != 0, M)
    dc.seed(3)
    assert np.array_equal(place.back(f(place.array(X[:7]))) != 0, M[:7])

    f.training = False
    assert np.array_equal(place.back(f(place.array(X))), X)
    f.training = True
    with dc.inference():
        assert np.array_equal(place.back(f(place.array(X))), X)


def test_two_calls_of_dropout_keep_two_masks():
    f = Difference(dc.Dropout(0.5))
    A, B = np.ones((20, 30)), np.ones((20, 30))
    dc.seed(0)
    M, N = dc.Dropout(0.5)(A), dc.Dropout(0.5)(B)
    dc.seed(0)
    assert np.array_equal(f(A, B), M - N) and not np.array_equal(M, N)
    dA, dB = f.backward(np.ones_like(A))
    assert np.array_equal(dA, M) and np.array_equal(dB, -N)


def test_gradcheck_holds_the_mask_still():
    assert dc.gradcheck(dc.Sequential(dc.Linear(3, 4), dc.Dropout(0.5)), np.ones((2, 3)))


# ---- running statistics


@places
def test_running_statistics_of_batch_norm(_, place):
    f = place.put(dc.BatchNorm2D(3, momentum=0.25))
    random = np.random.default_rng(0)
    mean, var = np.zeros(3), np.ones(3)
    for _ in range(3):
        X = single(random.normal(2, 3, (4, 3, 2, 2)))
        f(place.array(X))
        mean = 0.75 * mean + 0.25 * X.mean(axis=(0, 2, 3))
        var = 0.75 * var + 0.25 * X.var(axis=(0, 2, 3), ddof=1)
    close(place.back(f.running_mean).ravel(), mean)
    close(place.back(f.running_var).ravel(), var)
    assert f.running_mean.shape == f.running_var.shape == (1, 3, 1, 1)
    before = bits(f.running_mean), bits(f.running_var)
    with dc.inference():
        f(place.array(X))
    f.training = False
    f(place.array(X))
    assert (bits(f.running_mean), bits(f.running_var)) == before


@places
def test_the_gradient_of_a_window_with_nan_goes_to_the_nan(_, place):
    X = np.array([[[[1.0, np.nan, 3.0, 4.0], [2.0, 5.0, np.nan, np.nan]]]])
    f = dc.MaxPool2D()
    Y = f(place.array(X))
    assert np.isnan(place.back(Y)).all()
    dX = place.back(f.backward(place.array([[[[10.0, 20.0]]]])))
    np.testing.assert_array_equal(dX, [[[[0, 10, 0, 0], [0, 0, 0, 20]]]])  # of two, to the last


@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
@pytest.mark.parametrize("dtype, place", params([f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)]))
def test_labels_of_every_integer_dtype(dtype, place, shape):
    X = place.array(np.random.default_rng(0).standard_normal((3, 4)))
    f = dc.CrossEntropyLoss()
    results = []
    for y in (place.array(np.array([3, 0, 2])), place.array(np.array([3, 0, 2], dtype).reshape(shape))):
        results.append([bits(f(X, y)), bits(f.backward())])
    assert results[0] == results[1]


def test_a_logit_of_minus_infinity_masks_its_class():
    X = np.array([[0.5, -np.inf, 1.0], [-np.inf, 2.0, 0.0]])
    y = np.array([0, 2])
    loss = dc.CrossEntropyLoss()
    kept = [[0.5, 1.0], [2.0, 0.0]]
    p = np.exp(kept) / np.exp(kept).sum(axis=1, keepdims=True)
    with np.errstate(all="raise"):
        close(loss(X, y), -(np.log(p[0, 0]) + np.log(p[1, 1])) / 2, rtol=1e-12)
        dX = loss.backward()
    wanted = [[p[0, 0] - 1, 0, p[0, 1]], [0, p[1, 0], p[1, 1] - 1]]
    close(dX, np.array(wanted) / 2, rtol=1e-12, atol=1e-15)
