"""MultiHeadAttention beside torch's: values, every gradient, masks; and what it says of bad input."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import GRU, MultiHeadAttention, Net, Sequential
from deepcore.backends import registry
from deepcore.ops import attention as ops
from tests.places import EACH_LIBRARY, JAX, USABLE

TOLERANCE = {"float64": 1e-11, "float32": 2e-5}
places = pytest.mark.parametrize("place", [p for p in EACH_LIBRARY if p in USABLE], ids=lambda p: p.name)
N, Q, K, DIM, HEADS = 3, 5, 4, 8, 2


def draw(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def draw_mask(*shape):
    """Half of it True, and at least one key for each query: torch gives NaN for none."""
    M = np.random.default_rng(9).random(shape) < 0.5
    M[..., 0] = True
    return M


def make(causal=False, dtype="float64"):
    """A layer with biases that are not 0."""
    f = MultiHeadAttention(DIM, HEADS, causal, dtype=dtype)
    for seed, name in enumerate(("b_q", "b_k", "b_v", "b_o")):
        f.weight[name] = draw(1, DIM, seed=seed, dtype=dtype)
    return f


def twin(f, dtype):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    module = torch.nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=getattr(torch, dtype))
    W = f.weight
    module.in_proj_weight.data = torch.tensor(np.concatenate([W[f"W_{name}"].T for name in "qkv"]))
    module.in_proj_bias.data = torch.tensor(np.concatenate([W[f"b_{name}"][0] for name in "qkv"]))
    module.out_proj.weight.data = torch.tensor(W["W_o"].T.copy())
    module.out_proj.bias.data = torch.tensor(W["b_o"][0])
    return module


MASKS = {
    "none": None,
    "of pairs": draw_mask(Q, K),
    "of samples": draw_mask(N, Q, K),
    "of heads": draw_mask(N, HEADS, Q, K),
    "of keys": draw_mask(N, 1, K),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_agrees_with_torch(count, mask, causal, dtype):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    f = make(causal, dtype)
    module = twin(f, dtype)
    k = Q if count == 1 else K
    inputs = [draw(N, Q if i == 0 else k, DIM, seed=10 + i, dtype=dtype) for i in range(count)]
    M = MASKS[mask]
    if M is not None and count == 1:
        M = draw_mask(*M.shape[:-1], k)
    tensors = [torch.tensor(x, requires_grad=True) for x in inputs]
    allowed = np.ones((N, HEADS, Q, k), bool)
    if M is not None:
        allowed &= M[:, None] if M.ndim == 3 else M
    if causal:
        allowed &= np.tri(Q, k, dtype=bool)
    Yt, Pt = module(
        *(tensors + tensors[-1:] * 2)[:3],
        attn_mask=torch.tensor(~allowed.reshape(N * HEADS, Q, k)),
        average_attn_weights=False,
    )
    dY = draw(N, Q, DIM, seed=20, dtype=dtype)
    Yt.backward(torch.tensor(dY))

    Y = f(*inputs) if M is None else f(*inputs, M)
    pairs = [(Y, Yt.detach()), (f.cache["P"], Pt.detach())]
    dXs = f.backward(dY)
    pairs += zip(dXs if count > 1 else (dXs,), (x.grad for x in tensors), strict=True)
    dW, db = f.weight_update, module.in_proj_bias.grad.reshape(3, DIM)
    for i, name in enumerate("qkv"):
        pairs.append((dW[f"W_{name}"], module.in_proj_weight.grad[i * DIM : (i + 1) * DIM].T))
        pairs.append((dW[f"b_{name}"][0], db[i]))
    pairs += [(dW["W_o"], module.out_proj.weight.grad.T), (dW["b_o"][0], module.out_proj.bias.grad)]
    for ours, theirs in pairs:
        assert ours.dtype == dtype and ours.shape == tuple(theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_the_weights_are_those_of_the_contract():
    f = MultiHeadAttention(12, 3)
    shapes = {name: W.shape for name, W in f.weight.items()}
    assert shapes == {f"{part}_{x}": {"W": (12, 12), "b": (1, 12)}[part] for x in "qkvo" for part in "Wb"}
    for x in "qkvo":
        W = f.weight[f"W_{x}"]
        assert not f.weight[f"b_{x}"].any() and 0.4 < abs(W).max() <= 0.5  # sqrt(6 / 24)
    assert repr(MultiHeadAttention(12, 3, causal=True)) == "MultiHeadAttention(12, 3, causal=True)"


# ---- masks


@places
def test_a_query_that_may_attend_to_nothing_takes_nothing(place):
    f = place.put(make(dtype="float32"))
    M = draw_mask(N, Q, Q)
    M[1, 2] = False
    Y = f(place.array(draw(N, Q, DIM)), place.array(M))
    dX = f.backward(place.array(draw(N, Q, DIM, seed=1)))
    np.testing.assert_allclose(place.back(Y)[1, 2], place.back(f.weight["b_o"])[0], rtol=1e-6)
    assert np.isfinite(place.back(dX)).all() and np.isfinite(place.back(Y)).all()
    assert all(np.isfinite(place.back(dW)).all() for dW in f.weight_update.values())


def test_what_is_masked_cannot_be_seen():
    f = make(causal=True)
    X = draw(N, Q, DIM)
    other = X.copy()
    other[:, 3] += 1
    assert np.array_equal(f(X)[:, :3], f(other)[:, :3])
    assert not np.isclose(f(X)[:, 3:], f(other)[:, 3:]).all()
    M = np.ones((N, 1, Q), bool)
    M[:, :, 3] = False
    others = [0, 1, 2, 4]
    full = make()
    assert np.array_equal(full(X, M)[:, others], full(other, M)[:, others])


def test_ways_to_give_a_mask():
    f, X, M = make(), draw(N, Q, DIM), draw_mask(Q, Q)
    Y = f(X, M)
    for again in (f(X, mask=M), f(X, X, X, M), f(X, X, mask=M), f(X, np.broadcast_to(M, (N, HEADS, Q, Q)))):
        np.testing.assert_allclose(again, Y, rtol=1e-12)
    assert np.array_equal(f(X, None), f(X)) and np.array_equal(f(X, mask=None), f(X))
    assert not np.allclose(f(X), Y)
    f(X, M)
    assert f.backward(X).shape == X.shape  # the mask has no gradient


def test_huge_scores_overflow_nothing():
    f = MultiHeadAttention(4, 1, dtype="float32")
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        Y = f(1e4 * draw(2, 3, 4, dtype="float32"))
        dX = f.backward(np.ones_like(Y))
    assert np.isfinite(Y).all() and np.isfinite(dX).all()


# ---- inside nets


def test_it_differentiates_inside_containers():
    f = Sequential(GRU(3, DIM), MultiHeadAttention(DIM, HEADS, causal=True), GRU(DIM, 2))
    assert dc.gradcheck(f, draw(2, 4, 3))
    assert dc.gradcheck(Sequential(MultiHeadAttention(DIM, HEADS)), draw(2, 3, DIM), draw_mask(3, 3))


def test_a_saved_one_is_the_same(tmp_path):
    net = Net([make(True, "float32")])
    net.save(tmp_path / "net.safetensors")
    X = draw(N, Q, DIM, dtype="float32")
    assert np.array_equal(Net.load(tmp_path / "net.safetensors")(X), net(X))


@pytest.mark.parametrize("library", ["replay", "jax"])
def test_a_compiled_step_is_the_same(library, monkeypatch):
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")
    if library == "jax" and JAX.why_not:
        pytest.skip(JAX.why_not)
    here, there = (Net([make(True, "float32")], dc.MSELoss()) for _ in range(2))
    for path, W in here.parameters().items():
        there.layers[0].weight[path.removeprefix("layers.0.")] = W.copy()
    step = there.to(library).compile(dc.optim.SGD(0.1))
    for seed in (1, 2):
        X, y = draw(N, Q, DIM, seed=seed, dtype="float32"), draw(N, Q, DIM, dtype="float32")
        here.loss(here(X), y)
        here.backward()
        here.update_weights(0.1)
        step(dc.to_backend(X, library), dc.to_backend(y, library))
    for path, W in there.parameters().items():
        np.testing.assert_allclose(dc.to_numpy(W), here.parameters()[path], rtol=1e-5, atol=1e-6)


# ---- the op


@places
def test_the_mask_of_causal_attention(place):
    assert np.array_equal(
        place.back(ops.causal_mask(place.array(draw(2, 3, 4)), 5)), np.tri(3, 5, dtype=bool)
    )


# ---- what is refused


@pytest.mark.parametrize("dim, heads", [(8, 3), (4, 8)])
def test_heads_must_divide_dim(dim, heads):
    with pytest.raises(dc.ArgumentError, match=f"heads must divide dim, got dim={dim} and heads={heads}"):
        MultiHeadAttention(dim, heads)


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([(N, Q, 7)], r"X must have shape \(n, t, 8\), got \(3, 5, 7\)"),
        ([(8,)], r"X must have shape \(n, t, 8\), got \(8,\)"),
        ([(N, Q, 8), (2, Q, 8)], r"wanted X, or queries \(n, q, 8\) .*, got \(3, 5, 8\), \(2, 5, 8\)"),
        ([(N, Q, 8), (N, 4, 8), (N, 3, 8)], r"keys and values \(n, k, 8\), got .*\(3, 4, 8\), \(3, 3, 8\)"),
        ([(N, Q, 8)] * 4, "wanted X, or queries"),
    ],
)
def test_inputs_that_do_not_fit(shapes, message):
    with pytest.raises(dc.ShapeError, match=rf"MultiHeadAttention\(8, 2\): .*{message}"):
        MultiHeadAttention(8, 2)(*[np.zeros(shape, "float32") for shape in shapes])


@pytest.mark.parametrize("shape", [(N, Q), (Q, 4), (N + 1, Q, Q), (N, 3, Q, Q), (1, N, HEADS, Q, Q)])
def test_a_mask_that_does_not_fit(shape):
    message = r"a mask must be \(q, k\) = \(5, 5\), \(n, q, k\), or \(n, heads, q, k\) = \(3, 2, 5, 5\), got"
    with pytest.raises(dc.ShapeError, match=message):
        make()(draw(N, Q, DIM), np.ones(shape, bool))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize("make", [make, lambda: dc.TransformerBlock(DIM, HEADS)], ids=["alone", "block"])
def test_a_mask_by_name_is_a_mask(make, dtype):
    """Not keys, even if it has their shape: of floats it would have been taken for them."""
    f, X = make(), draw(N, DIM, DIM)
    for M in (draw_mask(DIM, DIM).astype(dtype), np.ones(X.shape, dtype)):
        with pytest.raises(
            dc.DTypeError, match=rf"mask must be an array of bool, .* got {dtype}; use mask > 0"
        ):
            f(X, mask=M)
    with pytest.raises(dc.DTypeError, match="mask must be an array of bool, .* got list; .*asarray"):
        f(X, mask=[[True]])
    M = draw_mask(DIM, DIM)
    assert np.array_equal(f(X, mask=M), f(X, M))
    assert np.array_equal(f(X, mask=None), f(X))
    assert f.backward(X).shape == X.shape


def test_a_mask_of_numbers():
    with pytest.raises(dc.DTypeError, match=r"and a mask bool, got int64; use mask.astype\(bool\)"):
        make()(draw(N, Q, DIM), np.ones((Q, Q), int))
    with pytest.raises(dc.DTypeError, match="floating-point numbers, got bool"):
        make()(np.ones((N, Q, DIM), bool))
