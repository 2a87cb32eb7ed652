"""Arrays that go from one library to another: the same numbers, in memory of their own."""

import copy
import pickle
import threading

import numpy as np
import pytest

import deepcore as dc
from deepcore import DTypeError, Linear, Net
from deepcore.backends.registry import get_backend
from deepcore.backends.select import dtype_name
from tests.places import JAX_X64, PLACES, USABLE
from tests.users import Scale

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 on NumPy needs ml_dtypes")

HERE = [place for place in [*PLACES, JAX_X64] if place in USABLE and place.writeable]
HERE_AT_ONCE = [place for place in HERE if not place.x64]
there = pytest.mark.parametrize("place", HERE, ids=lambda place: place.name)


def on(*names):
    return pytest.mark.parametrize(
        "place", [place for place in HERE if place.backend in names], ids=lambda place: place.name
    )


X = np.arange(-6, 6).reshape(3, 4)
LAYOUTS = {
    "c order": lambda x: x,
    "fortran order": np.asfortranarray,
    "negative strides": lambda x: x[::-1, ::-1],
    "steps": lambda x: x[::2, ::3],
    "zero strides": lambda x: np.broadcast_to(x[1], (5, 4)),
    "read-only": lambda x: (lambda y: (y.setflags(write=False), y)[1])(x.copy()),
    "no axis": lambda x: x[1, 2, ...],
    "no rows": lambda x: x[:0],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}
DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16"]
DTYPES += ["bfloat16", "float32", "float64", "complex64"]


def has(place, dtype):
    """Whether there are arrays of a dtype at a place."""
    if place.backend == "array_api_strict" and dtype in ("float16", "bfloat16"):
        return False
    return dtype != "float64" or place.backend == "numpy" or dtype in place.dtypes


@there
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout, dtype, place):
    if not has(place, dtype):
        with pytest.raises((DTypeError, TypeError)):
            dc.to_backend(X.astype(dtype), place.backend, place.device)
        return
    if dtype == "bfloat16" and layout == "other byte order":
        return  # ml_dtypes has none
    x = LAYOUTS[layout](abs(X).astype(dtype) if dtype.startswith("u") else X.astype(dtype))
    before = x.tolist()
    y = dc.to_backend(x, place.backend, place.device)
    assert place.holds(y) and y.shape == x.shape
    assert dtype_name(y) == (place.stored(dtype))
    back = dc.to_numpy(y)
    assert type(back) is np.ndarray and dtype_name(back) == dtype_name(y)
    np.testing.assert_array_equal(back, x)
    if place.backend in ("torch", "jax"):  # memory of its own, both ways
        assert back.flags.writeable
        back[...] = 1
        if not layout.startswith(("read", "zero")):
            x[...] = 0
        assert dc.to_numpy(y).tolist() == before


@pytest.mark.parametrize("place", HERE_AT_ONCE, ids=lambda place: place.name)
@pytest.mark.parametrize("other", HERE_AT_ONCE, ids=lambda place: place.name)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int64", "bool"])
def test_between_any_two(dtype, other, place):
    if not (has(place, dtype) and has(other, dtype)):
        return
    y = dc.to_backend(X.astype(dtype), place.backend, place.device)
    z = dc.to_backend(y, other.backend, other.device)
    assert other.holds(z) and dtype_name(z) == other.stored(place.stored(dtype))
    np.testing.assert_array_equal(dc.to_numpy(z), X.astype(dtype))


@on("torch", "jax", "array_api_strict")
def test_what_is_there_stays_what_it_is(place):
    x = dc.to_backend(np.ones(3, "float32"), place.backend, place.device)
    assert dc.to_backend(x, place.backend) is x
    assert dc.to_backend(x, place.backend, dc.backend_of(x).device(x)) is x


def test_bfloat16_where_numpy_lacks_it(monkeypatch):
    torch = pytest.importorskip("torch", reason="needs torch")
    x = torch.tensor([1.0, 3.140625], dtype=torch.bfloat16)
    monkeypatch.setitem(__import__("sys").modules, "ml_dtypes", None)
    assert dc.to_numpy(x).dtype == "float32" and dc.to_numpy(x).tolist() == [1.0, 3.140625]
    with pytest.raises(DTypeError, match="pip install ml_dtypes"):
        dc.asarray([1.0], dtype="bfloat16")


def test_conjugate_and_negative_views_of_torch():
    torch = pytest.importorskip("torch", reason="needs torch")
    z = torch.tensor([1 + 2j]).conj()
    assert dc.to_numpy(z).tolist() == [1 - 2j] and dc.to_numpy(z.imag).tolist() == [-2]


# ---- arrays of torch that require grad


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch")


def test_moving_detaches(torch):
    x = torch.ones(2, requires_grad=True)
    for moved in (dc.to_backend(x, "torch"), dc.to_backend(torch.nn.Parameter(x), "torch", "cpu")):
        assert not moved.requires_grad and moved.tolist() == [1, 1]
    assert dc.to_numpy(x).tolist() == [1, 1]
    plain = torch.ones(2)
    assert dc.to_backend(plain, "torch") is plain


def test_a_parameter_is_an_array_of_torch(torch):
    assert dc.backend_of(torch.nn.Parameter(torch.ones(2))) == "torch"
    assert dc.backend_of(torch.ones(2)) is dc.backend_of(torch.nn.Parameter(torch.ones(2)))


def test_direct_calls_refuse_what_requires_grad(torch):
    net = Net([Linear(2, 1)], loss=dc.MSELoss()).to("torch")
    X, Y, dY = torch.ones(3, 2), torch.zeros(3, 1), torch.ones(3, 1)
    wanted = "requires grad; deepcore computes gradients itself, .*: pass x.detach()"
    with pytest.raises(DTypeError, match=rf"Linear\(2, 1\).*: an input or a weight {wanted}"):
        net.layers[0](X.clone().requires_grad_())
    with pytest.raises(dc.StateError, match="no forward pass"):
        net.layers[0].backward(dY)
    out = net(X)
    with pytest.raises(DTypeError, match=rf"MSELoss\(\): the target {wanted}"):
        net.loss(out, Y.clone().requires_grad_())
    with pytest.raises(DTypeError, match=rf"MSELoss\(\): X or the target {wanted}"):
        net.loss_fn(X, X.clone().requires_grad_())
    with pytest.raises(DTypeError, match=f"dY {wanted}"):
        net.backward(dY.clone().requires_grad_())
    assert not net.gradients()
    net.loss(out, Y)  # the pass is still good
    net.backward()
    net.update_weights(0.1)
    weight = net.layers[0].weight
    weight["W"] = torch.nn.Parameter(weight["W"])
    with pytest.raises(DTypeError, match=f"an input or a weight {wanted}"):
        net(X)
    with torch.no_grad():  # as its own predictions are made
        assert net(X).shape == (3, 1)
    weight["W"] = dc.to_backend(weight["W"], "torch")
    assert net(X).shape == (3, 1)


def test_fit_and_predict_detach_what_they_move(torch):
    net = Net([Linear(2, 1)], loss=dc.MSELoss()).to("torch")
    X = torch.ones(4, 2, requires_grad=True)
    net.fit(X, torch.zeros(4, 1, requires_grad=True), progress=False)
    assert not net.predict(X).requires_grad
    assert not any(W.requires_grad for W in net.parameters().values())


def test_weights_that_are_views_of_one_tensor(torch):
    net = Net([Linear(3, 3), Linear(3, 3)]).to("torch")
    W = net.layers[0].weight["W"]
    net.layers[1].weight["W"] = W.T
    with pytest.raises(dc.StateError, match=r"layers.0.W and layers.1.W are two views of one memory"):
        net.parameters()
    net.layers[1].weight["W"] = torch.ones(3, 3).T  # a view of something else
    assert len(net.parameters()) == 4
    backend = get_backend("torch")
    assert backend.memory_owner(W.T[1:]) is W and backend.share_memory(W, W.T)
    assert not backend.share_memory(W, W) and not backend.share_memory(W, W.clone())


# ---- copies, threads


@on("torch", "jax")
def test_pickles_hold_numpy_arrays(place):
    net = place.put(Net([Linear(2, 3), Scale(), dc.BatchNorm2D(2)]))
    data = pickle.dumps(net)
    assert place.backend.encode() not in data
    opened, copied = pickle.loads(data), copy.deepcopy(net)
    for path, W in (net.parameters() | net.buffers()).items():
        assert type((opened.parameters() | opened.buffers())[path]) is np.ndarray
        mine = (copied.parameters() | copied.buffers())[path]
        assert place.holds(mine) and mine is not W
        np.testing.assert_array_equal(dc.to_numpy(mine), dc.to_numpy(W))


@on("torch", "jax")
def test_pickles_of_optimizers_hold_numpy_arrays(place):
    net, optimizer = place.put(Net([Linear(2, 3)], dc.MSELoss())), dc.optim.Adam()
    X, Y = np.ones((4, 2), "float32"), np.ones((4, 3), "float32")
    net.fit(X, Y, optimizer=optimizer, seed=0)
    data = pickle.dumps(optimizer)
    assert place.backend.encode() not in data
    opened, twin = pickle.loads(data), copy.deepcopy(net)
    for x in (opened.state["layers.0.W"]["M"], opened.state["layers.0.b"]["V"]):
        assert type(x) is np.ndarray
    net.fit(X, Y, optimizer=optimizer, seed=0)
    twin.fit(X, Y, optimizer=opened, seed=0)
    for path, W in net.parameters().items():
        assert place.holds(twin.parameters()[path])
        np.testing.assert_array_equal(dc.to_numpy(W), dc.to_numpy(twin.parameters()[path]))


def test_a_dtype_is_no_device(torch):
    net = Net([Linear(2, 3)])
    with pytest.raises(dc.ArgumentError, match=r'device must be a device, such as "cpu".*got torch.float16'):
        net.to("torch", device=torch.float16)
    assert dc.backend_of(net.parameters()["layers.0.W"]) == "numpy"


def test_each_thread_has_a_backend_of_its_own():
    names = [name for name in ("numpy", "torch", "jax") if name in dc.available_backends()]
    start, seen = threading.Barrier(len(names)), {}

    def work(name):
        with dc.use_backend(name):
            start.wait(30)
            made = [Linear(2, 2).weight["W"] for _ in range(20)]
            seen[name] = {dc.backend_of(W).name for W in made}

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {name: {name} for name in names}


@on("torch", "jax")
def test_synchronize_waits(place):
    with dc.use_backend(place.backend):
        y = place.array(np.ones((50, 50))) @ place.array(np.ones((50, 50)))
        dc.synchronize()
    assert place.backend == "torch" or y.is_ready()
