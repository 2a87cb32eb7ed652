"""TransformerBlock beside torch's encoder layer."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import Dropout, Net, TransformerBlock
from deepcore.backends import registry
from tests.places import JAX

N, T, DIM, HEADS, HIDDEN = 3, 5, 8, 2, 12


def draw(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def theirs_of(f, dtype):
    """torch's layer with f's weights, and (path, their gradient in our layout) for each, after a backward."""
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    module = torch.nn.TransformerEncoderLayer(
        DIM, HEADS, HIDDEN, 0.0, "gelu", batch_first=True, norm_first=True, dtype=getattr(torch, dtype)
    )
    W = Net([f]).parameters()
    W = {path.removeprefix("layers.0."): x for path, x in W.items()}
    attention = module.self_attn
    parts = {
        "attention.W_o": attention.out_proj.weight,
        "attention.b_o": attention.out_proj.bias,
        "expand.W": module.linear1.weight,
        "expand.b": module.linear1.bias,
        "contract.W": module.linear2.weight,
        "contract.b": module.linear2.bias,
        "norm_1.gamma": module.norm1.weight,
        "norm_1.beta": module.norm1.bias,
        "norm_2.gamma": module.norm2.weight,
        "norm_2.beta": module.norm2.bias,
    }
    for path, p in parts.items():
        p.data = torch.tensor(W[path].T.reshape(p.shape).copy())
    attention.in_proj_weight.data = torch.tensor(np.concatenate([W[f"attention.W_{x}"].T for x in "qkv"]))
    attention.in_proj_bias.data = torch.tensor(np.concatenate([W[f"attention.b_{x}"][0] for x in "qkv"]))

    def gradients():
        for path, p in parts.items():
            yield path, p.grad.numpy().T.reshape(W[path].shape)
        for i, x in enumerate("qkv"):
            rows = slice(i * DIM, (i + 1) * DIM)
            yield f"attention.W_{x}", attention.in_proj_weight.grad[rows].numpy().T
            yield f"attention.b_{x}", attention.in_proj_bias.grad[None, rows].numpy()

    return module, gradients


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 5e-5)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_agrees_with_torch(masked, causal, dtype, tolerance):
    torch = pytest.importorskip("torch", reason="torch is the peer compared with")
    f = TransformerBlock(DIM, HEADS, HIDDEN, causal, dtype=dtype)
    for path, W in Net([f]).parameters().items():
        _, _, owner, name = path.split(".")
        getattr(f, owner).weight[name] = W + 0.3 * draw(*W.shape, seed=len(path), dtype=dtype)
    module, gradients = theirs_of(f, dtype)
    X, dY = draw(N, T, DIM, dtype=dtype), draw(N, T, DIM, seed=1, dtype=dtype)
    M = np.random.default_rng(3).random((T, T)) < 0.5
    M[:, 0] = True
    allowed = (M if masked else np.ones((T, T), bool)) & (np.tri(T, dtype=bool) if causal else True)
    Xt = torch.tensor(X, requires_grad=True)
    Yt = module(Xt, src_mask=torch.tensor(~allowed))
    Yt.backward(torch.tensor(dY))

    Y = f(X, M) if masked else f(X)
    dX = f.backward(dY)
    close = dict(rtol=tolerance, atol=tolerance)
    assert Y.dtype == dX.dtype == dtype
    np.testing.assert_allclose(Y, Yt.detach(), **close)
    np.testing.assert_allclose(dX, Xt.grad, **close)
    ours = Net([f]).gradients()
    theirs = dict(gradients())
    assert {path.removeprefix("layers.0.") for path in ours} == theirs.keys()
    for path, dW in theirs.items():
        np.testing.assert_allclose(ours[f"layers.0.{path}"], dW, err_msg=path, **close)


def test_hidden_is_four_times_dim_unless_given():
    assert TransformerBlock(DIM, HEADS).expand.weight["W"].shape == (DIM, 4 * DIM)
    assert repr(TransformerBlock(DIM, HEADS)) == "TransformerBlock(8, 2)"
    again = "TransformerBlock(8, 2, hidden=12, causal=True, dropout=0.5)"
    assert repr(TransformerBlock(DIM, HEADS, HIDDEN, True, 0.5)) == again


def test_dropout_is_drawn_in_training_alone():
    f = TransformerBlock(DIM, HEADS, dropout=0.5)
    X = draw(N, T, DIM, dtype="float32")
    assert not np.array_equal(f(X), f(X))
    assert dc.gradcheck(f, X[:1, :2])
    assert f.dropout_1.p == f.dropout_2.p == 0.5 and type(f.dropout_1) is Dropout
    with dc.inference():
        assert np.array_equal(f(X), f(X))
    with pytest.raises(dc.ArgumentError, match="Dropout: p, .* from 0 to 1"):
        TransformerBlock(DIM, HEADS, dropout=2)


def test_a_saved_stack_is_the_same(tmp_path):
    net = Net([TransformerBlock(DIM, HEADS, HIDDEN, True), TransformerBlock(DIM, HEADS)])
    net.save(tmp_path / "net.safetensors")
    X = draw(N, T, DIM, dtype="float32")
    assert np.array_equal(Net.load(tmp_path / "net.safetensors")(X), net(X))


@pytest.mark.parametrize("library", ["replay", "jax"])
def test_a_compiled_step_is_the_same(library, monkeypatch):
    monkeypatch.setitem(registry._HOMES, "replay", "tests.backends.replay:ReplayBackend")
    if library == "jax" and JAX.why_not:
        pytest.skip(JAX.why_not)
    nets = []
    for _ in range(2):
        dc.seed(0)
        nets.append(Net([TransformerBlock(DIM, HEADS, causal=True, dropout=0.1)], dc.MSELoss()))
    here, there = nets
    step = there.to(library).compile(dc.optim.SGD(0.1))
    for seed in (1, 2):
        X, y = draw(N, T, DIM, seed=seed, dtype="float32"), draw(N, T, DIM, dtype="float32")
        dc.seed(seed)
        here.loss(here(X), y)
        here.backward()
        here.update_weights(0.1)
        dc.seed(seed)
        step(dc.to_backend(X, library), dc.to_backend(y, library))
    for path, W in there.parameters().items():
        np.testing.assert_allclose(dc.to_numpy(W), here.parameters()[path], rtol=1e-4, atol=1e-5)
