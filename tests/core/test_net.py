"""Net as composition: losses, outside gradients, several inputs and outputs, nesting, modes, arguments."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import (
    BatchNorm2D,
    Concat,
    CrossEntropyLoss,
    Dropout,
    DTypeError,
    Linear,
    MeanSquareLoss,
    MSELoss,
    Net,
    ReLU,
    Residual,
    Sequential,
    ShapeError,
    Sigmoid,
    Tanh,
)
from tests.users import Scale, Square


def normal(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def linear64(i, o, seed=0):
    dc.seed(seed)
    return Linear(i, o, dtype="float64")


class Bilinear(dc.Function):
    """Y = A B, each element alone: two inputs, and the default backward."""

    def forward(self, A, B):
        return A * B

    def local_grad(self, A, B):
        return {"A": B, "B": A}


class Split(dc.Function):
    """Two outputs: the halves of the last axis."""

    def forward(self, X):
        half = X.shape[-1] // 2
        return X[..., :half], X[..., half:]

    def backward(self, dA, dB):
        return dc.array_namespace(dA).concat([dA, dB], axis=-1)


# ---- the loop of the README


def test_the_whole_loop():
    dc.seed(0)
    net = Net(layers=[Linear(2, 4), ReLU(), Linear(4, 2)], loss=CrossEntropyLoss())
    X, y = normal(16, 2), np.arange(16) % 2
    losses = []
    for _ in range(5):
        out = net(X)
        loss = net.loss(out, y)
        grad = net.backward()
        net.update_weights(lr=0.1)
        losses.append(float(loss))
    assert out.shape == (16, 2) and loss.shape == () and grad.shape == X.shape
    assert out.dtype == loss.dtype == grad.dtype == np.float32
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_a_users_plain_classes_train_in_a_net(backend):
    pytest.importorskip(backend, reason=f"needs {backend}")
    with dc.use_backend(backend):
        dc.seed(1)
        net = Net([Linear(2, 4), Square(), Scale(), Linear(4, 2)], loss=CrossEntropyLoss())
        X = dc.asarray(normal(16, 2, dtype="float32"))
        y = dc.asarray(np.arange(16) % 2)
        losses = []
        for _ in range(30):
            losses.append(float(net.loss(net(X), y)))
            net.backward()
            net.update_weights(0.05)
        assert losses[-1] < losses[0]
        assert {dc.backend_of(W).name for W in net.parameters().values()} == {backend}
        assert net.layers[1].grad["X"].shape == (16, 4)
        assert dc.gradcheck(Scale(), X) and dc.gradcheck(Square(), X)


def test_a_users_class_need_not_call_super():
    class Shift(dc.Layer):
        def __init__(self, by):
            self.weight["c"] = np.full((1, 3), float(by))

        def forward(self, X):
            return X + self.weight["c"]

        def backward(self, dY):
            self.weight_update["c"] = dY.sum(axis=0, keepdims=True)
            return dY

    net = Net([Shift(2.0)])
    assert net(np.zeros((2, 3))).tolist() == [[2.0] * 3] * 2
    net.backward(np.ones((2, 3)))
    net.update_weights(0.5)
    assert net.parameters()["layers.0.c"].tolist() == [[1.0] * 3]


def test_layers_and_loss_fn_are_what_was_given():
    f, loss = Linear(2, 2), MSELoss()
    layers = [f, ReLU()]
    net = Net(layers, loss)
    assert net.layers == layers and net.layers is not layers
    assert net.loss_fn is loss
    assert Net(layers=(f,)).layers == [f]
    assert Net([]).layers == [] and Net([f]).loss_fn is None


def test_an_empty_net_is_the_identity():
    net = Net([], MeanSquareLoss())
    X, Y = normal(4, 3), normal(4, 3, seed=1)
    assert np.array_equal(net(X), X)
    net.loss(net(X), Y)
    np.testing.assert_allclose(net.backward(), 2 * (X - Y) / 4)


# ---- an outside gradient


def test_a_net_without_a_loss_takes_an_outside_gradient():
    with_loss = Net([linear64(3, 4, 1), Tanh(), linear64(4, 2, 2)], MSELoss())
    without = Net(with_loss.layers)
    X, Y = normal(5, 3), normal(5, 2, seed=1)
    out = with_loss(X)
    with_loss.loss(out, Y)
    dX = with_loss.backward()
    gradients = with_loss.gradients()
    for give in (lambda dY: without.backward(dY), lambda dY: without.backward(dY=dY)):
        out = without(X)
        np.testing.assert_allclose(give(2 * (out - Y) / out.size), dX, rtol=1e-13)
        for path, dW in without.gradients().items():
            np.testing.assert_allclose(dW, gradients[path], rtol=1e-13)


def test_a_net_with_a_loss_takes_an_outside_gradient_too():
    net = Net([linear64(3, 2)], MSELoss())
    X = normal(5, 3)
    out = net(X)
    W = net.layers[0].weight["W"]
    np.testing.assert_allclose(net.backward(out), out @ W.T)
    out = net(X)
    net.loss(out, 1 + out)
    np.testing.assert_allclose(net.backward(dY=out), out @ W.T)  # the loss was taken, and not asked


def test_a_loss_of_ones_own():
    """MSE by hand: the loss outside is a Function like any other."""
    net, loss = Net([linear64(3, 2)]), MSELoss()
    twin = Net(net.layers, MSELoss())
    X, Y = normal(5, 3), normal(5, 2, seed=1)
    loss(net(X), Y)
    dX = net.backward(loss.backward())
    twin.loss(twin(X), Y)
    np.testing.assert_array_equal(twin.backward(), dX)


def test_a_loss_for_each_sample_takes_the_weights_of_the_samples():
    net = Net([linear64(3, 2)], CrossEntropyLoss(reduction="none"))
    mean = Net(net.layers, CrossEntropyLoss())
    X, y = normal(4, 3), np.array([0, 1, 1, 0])
    assert net.loss(net(X), y).shape == (4,)
    dX = net.backward(net.loss_fn.backward(np.full(4, 0.25)))
    mean.loss(mean(X), y)
    np.testing.assert_allclose(dX, mean.backward(), rtol=1e-12)


def test_a_generator_learns_through_a_discriminator():
    """GAN: the gradient of D's input is the gradient of G's output. Checked against torch."""
    torch = pytest.importorskip("torch", reason="needs torch, the judge of these gradients")
    G = Net([linear64(2, 4, 1), Tanh(), linear64(4, 3, 2)])
    D = Net([linear64(3, 5, 3), ReLU(), linear64(5, 2, 4)], CrossEntropyLoss())
    tensors = [[torch.tensor(W, requires_grad=True) for W in net.parameters().values()] for net in (G, D)]

    def generate(Z):
        W, b, V, c = tensors[0]
        return torch.tanh(Z @ W + b) @ V + c

    def judge(X):
        W, b, V, c = tensors[1]
        return torch.relu(X @ W + b) @ V + c

    cross_entropy = torch.nn.functional.cross_entropy

    def descend(loss, weights):  # torch.optim would take seconds to import
        for W, dW in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            W.data -= 0.1 * dW

    real_label, fake_label = np.ones(6, int), np.zeros(6, int)
    for round_ in range(5):
        real, Z = 2 + normal(6, 3, seed=round_), normal(6, 2, seed=10 + round_)

        fake = G.predict(Z)
        D.loss(D(real), real_label)
        D.backward()
        D.loss(D(fake), fake_label)
        D.backward(accumulate=True)
        D.update_weights(0.1)
        D.loss(D(G(Z)), real_label)
        G.backward(D.backward())
        G.update_weights(0.1)

        T = torch.tensor(real), torch.tensor(Z)
        labels = torch.ones(6, dtype=torch.int64)
        loss = cross_entropy(judge(T[0]), labels) + cross_entropy(judge(generate(T[1]).detach()), 0 * labels)
        descend(loss, tensors[1])
        descend(cross_entropy(judge(generate(T[1])), labels), tensors[0])
    for net, weights in zip((G, D), tensors, strict=True):
        for W, right in zip(net.parameters().values(), weights, strict=True):
            np.testing.assert_allclose(W, right.detach().numpy(), rtol=0, atol=1e-10)


# ---- several inputs and outputs


def test_several_inputs():
    net = Net([Bilinear(), linear64(3, 2)], MSELoss())
    A, B = normal(5, 3), normal(5, 3, seed=1)
    out = net(A, B)
    W = net.layers[1].weight["W"]
    np.testing.assert_allclose(out, (A * B) @ W)
    dA, dB = net.backward(out)
    np.testing.assert_allclose(dA, out @ W.T * B)
    np.testing.assert_allclose(dB, out @ W.T * A)
    net.loss(net(A, B), 1 + out)
    assert [d.shape for d in net.backward()] == [(5, 3), (5, 3)]
    assert dc.gradcheck(net, A, B)


def test_every_floating_input_is_cast_to_the_dtype_of_the_weights():
    net = Net([Bilinear(), Linear(3, 2)])
    out = net(normal(5, 3), normal(5, 3, dtype="float32"))
    assert out.dtype == np.float32
    assert [d.dtype for d in net.backward(out)] == [np.float32, np.float32]


def test_several_outputs_take_as_many_gradients():
    f = Split()
    X = normal(5, 4)
    A, B = f(X)
    np.testing.assert_array_equal(f.backward(A, B), X)
    assert dc.gradcheck(f, X)


def test_a_net_with_several_outputs_takes_as_many_gradients():
    net = Net([linear64(3, 4), Split()])
    X = normal(5, 3)
    A, B = net(X)
    W = net.layers[0].weight["W"]
    np.testing.assert_allclose(net.backward(A, 2 * B), A @ W[:, :2].T + 2 * B @ W[:, 2:].T)
    assert dc.gradcheck(net, X)


def test_gradients_of_several_outputs_are_checked_and_cast_like_that_of_one():
    net = Net([Linear(3, 4), Split()])
    A, _ = net(normal(5, 3))
    with pytest.raises(ShapeError, match=r"\(5, 2\), got \(5, 3\)"):
        net.backward(A, np.ones((5, 3)))
    assert net.backward(np.ones((5, 2)), np.ones((5, 2))).dtype == np.float32  # NumPy's ones are float64


def test_as_many_gradients_as_outputs():
    net, one = Net([Linear(3, 4), Split()]), Net([Linear(3, 4)])
    A, B = net(normal(5, 3))
    out = one(normal(5, 3))
    for wrong in (lambda: net.backward(A), lambda: net.backward(A, B, B), lambda: one.backward(out, out)):
        with pytest.raises(dc.DeepcoreError, match="backward"):
            wrong()
    assert net.backward(A, B).shape == one.backward(out).shape == (5, 3)


@pytest.mark.parametrize(
    "container", [Sequential, lambda *layers: Net(list(layers))], ids=["Sequential", "Net"]
)
def test_tuples_pass_between_nested_nets(container):
    """One net ends in two outputs, the next begins with two inputs."""
    net = Net([container(linear64(3, 4), Split()), container(Bilinear(), linear64(2, 2))], MSELoss())
    X = normal(5, 3)
    out = net(X)
    assert out.shape == (5, 2)
    net.loss(out, 1 + out)
    assert net.backward().shape == (5, 3)
    assert dc.gradcheck(net, X)


def test_a_residual_around_a_tuple_is_not_promised_but_concat_of_splits_is_fine():
    net = Net([Concat(Sequential(Split(), Bilinear()), Square())])
    assert dc.gradcheck(net, normal(5, 4))


# ---- nesting


def test_nets_nest():
    a, b, c = linear64(3, 3, 1), linear64(3, 3, 2), linear64(3, 2, 3)
    flat = Net([a, Tanh(), b, Tanh(), c], CrossEntropyLoss())
    nested = Net([Net([Net([a, Tanh()]), b]), Sequential(Tanh(), Net([c]))], CrossEntropyLoss())
    X, y = normal(6, 3), np.arange(6) % 2
    results = []
    for net in (flat, nested):
        out = net(X)
        results.append([out, net.loss(out, y), net.backward(), *net.gradients().values()])
    for right, got in zip(*results, strict=True):
        np.testing.assert_array_equal(got, right)
    assert list(nested.parameters()) == [
        "layers.0.layers.0.layers.0.W",
        "layers.0.layers.0.layers.0.b",
        "layers.0.layers.1.W",
        "layers.0.layers.1.b",
        "layers.1.1.layers.0.W",
        "layers.1.1.layers.0.b",
    ]
    assert dc.gradcheck(nested, X)


def test_a_net_inside_a_net_may_have_a_loss_of_its_own():
    inner = Net([linear64(3, 3, 1)], MSELoss())
    outer = Net([inner, Tanh()], MSELoss())
    X, Y = normal(4, 3), normal(4, 3, seed=1)
    outer.loss(outer(X), Y)
    outer.backward()
    whole = inner.gradients()
    inner.loss(inner(X), Y)
    inner.backward()
    assert not np.array_equal(inner.gradients()["layers.0.W"], whole["layers.0.W"])


def test_one_loss_may_serve_two_nets():
    loss = MSELoss()
    nets = [Net([linear64(3, 2, seed)], loss) for seed in range(2)]
    X, Y = normal(4, 3), normal(4, 2, seed=1)
    outs = [net(X) for net in nets]
    for net, out in zip(nets, outs, strict=True):
        net.loss(out, Y)
    for net, out in zip(nets, outs, strict=True):
        np.testing.assert_allclose(net.backward(), 2 * (out - Y) / 8 @ net.layers[0].weight["W"].T)


def test_a_subclass_of_net_may_have_its_own_forward_and_backward():
    class Skip(Net):
        def forward(self, X):
            return super().forward(X) + X

        def backward(self, dY=None):
            dY = self.loss_fn.backward() if dY is None else dY
            return super().backward(dY) + dY

    net = Skip([linear64(3, 3), Tanh()], MSELoss())
    X, Y = normal(4, 3), normal(4, 3, seed=1)
    out = net(X)
    net.loss(out, Y)
    dX = net.backward()
    dY = 2 * (out - Y) / 12
    W = net.layers[0].weight["W"]
    np.testing.assert_allclose(dX, (dY * (1 - np.tanh(X @ W) ** 2)) @ W.T + dY)
    assert dc.gradcheck(net, X)


# ---- modes


def test_train_and_eval_reach_every_function():
    bn, dropout, late = BatchNorm2D(2), Dropout(0.5), Dropout(0.5)
    net = Net([Residual(Sequential(bn, Net([dropout])), shortcut=late), ReLU()], CrossEntropyLoss())
    everything = [net, *net.layers, bn, dropout, late, net.layers[0].f[1], net.loss_fn]
    assert all(f.training for f in everything)
    assert net.eval() is net
    assert not any(f.training for f in everything)
    assert net.train() is net
    assert all(f.training for f in everything)
    assert net.train(False) is net
    assert not any(f.training for f in everything)
    dropout.training = True
    assert dropout.training and not late.training


def test_a_users_function_sees_its_mode():
    class Noise(dc.Function):
        def forward(self, X):
            return X + 1 if self.training else X

        def backward(self, dY):
            return dY

    net = Net([Noise()])
    X = np.zeros((1, 1))
    assert net(X) == 1
    assert net.predict(X) == 0
    assert net.eval()(X) == 0
    assert net.train()(X) == 1
    with dc.inference():
        assert net(X) == 0


# ---- dtypes


def test_inputs_are_cast_once_to_the_dtype_of_the_weights():
    seen = []

    class Look(dc.Function):
        def forward(self, X):
            seen.append(X.dtype)
            return X

        def backward(self, dY):
            return dY

    net = Net([Look(), Linear(3, 3), Look()], MSELoss())
    out = net(normal(4, 3))  # float64 outside
    loss = net.loss(out, normal(4, 3))
    assert seen == [np.float32, np.float32]
    assert out.dtype == loss.dtype == net.backward().dtype == np.float32
    net.update_weights(0.1)
    assert {W.dtype for W in net.parameters().values()} == {np.dtype("float32")}
    assert Net([Linear(3, 3, dtype="float64")])(normal(4, 3, dtype="float32")).dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_function_without_weights_keeps_the_dtype(dtype):
    X = normal(4, 3, dtype=dtype)
    for f in (ReLU(), Tanh(), Sigmoid(), dc.Softmax(), dc.LeakyReLU(), Square(), Net([ReLU(), Tanh()])):
        Y = f(X)
        assert Y.dtype == dtype, f
        assert f.backward(Y).dtype == dtype, f


def test_mixed_dtypes_of_weights_raise():
    net = Net([Linear(3, 3), ReLU(), Linear(3, 3, dtype="float64")])
    with pytest.raises(
        DTypeError, match=r"layer 2, Linear\(3, 3\): its weights are float64, its input is float32"
    ):
        net(normal(4, 3))


@pytest.mark.parametrize("number", [np.float64, np.float32], ids=lambda f: f.__name__)
def test_settings_of_any_number_type_widen_nothing(number):
    """A setting out of a NumPy array, such as np.linspace gives, is a float64 that NumPy doesn't narrow."""
    X = normal(6, 2, 2, 2, dtype="float32")
    layers = [
        BatchNorm2D(2, epsilon=number(1e-5), momentum=number(0.1)),
        dc.LeakyReLU(number(0.1)),
        Dropout(number(0.5)),
    ]
    loss = CrossEntropyLoss(label_smoothing=number(0.1))
    for f in layers:
        Y = f(X)
        assert Y.dtype == np.float32, f
        assert f.backward(Y).dtype == np.float32, f
    assert layers[0].running_mean.dtype == layers[0].running_var.dtype == np.float32
    assert loss(X[:, :, 0, 0], np.arange(6) % 2).dtype == np.float32
    assert loss.backward().dtype == np.float32


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex64"])
def test_inputs_that_are_no_floats_are_refused_with_the_fix(dtype):
    net = Net([ReLU(), Linear(3, 2)])
    with pytest.raises(DTypeError, match=r'Linear\(3, 2\).*X\.astype\("float32"\) / 255'):
        net.layers[1](np.ones((4, 3), dtype))
    with pytest.raises(DTypeError):
        net(np.ones((4, 3), dtype))


@pytest.mark.parametrize(
    "X",
    [[[1.0, 2.0, 3.0]], None, 3.0, "abc", np.array([[object()] * 3])],
    ids=["list", "None", "number", "text", "objects"],
)
def test_inputs_that_are_no_arrays_of_numbers_are_refused(X):
    for f in (Net([Linear(3, 2)]), Linear(3, 2), Tanh()):
        with pytest.raises(DTypeError):
            f(X)


# ---- arguments


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [Linear(2, 2), ReLU],
            r"Net\(layers=\): number 1 must be a Function or a Layer, .* make an instance",
        ),
        ([None], r"number 0 must be a Function or a Layer, got None"),
        ([Linear(2, 2), np.tanh], "number 1 must be a Function"),
        ("abc", "must be a Function"),
    ],
)
def test_layers_that_are_none(layers, message):
    with pytest.raises(DTypeError, match=message):
        Net(layers=layers)


@pytest.mark.parametrize("layers", [ReLU(), Linear, 3, None], ids=["layer", "class", "number", "None"])
def test_layers_that_are_no_list(layers):
    with pytest.raises(dc.DeepcoreError, match="layers"):
        Net(layers=layers)


@pytest.mark.parametrize("loss", ["mse", ReLU(), lambda X, Y: 0, 3])
def test_a_loss_that_is_none(loss):
    with pytest.raises(DTypeError, match=r"Net\(loss=\): must be a Loss or None, got"):
        Net([Linear(2, 2)], loss=loss)


def test_a_class_of_loss_is_no_loss():
    with pytest.raises(DTypeError, match="make an instance of it"):
        Net([Linear(2, 2)], loss=CrossEntropyLoss)


@pytest.mark.parametrize("container", [Sequential, Residual, Concat, dc.Add])
def test_containers_take_functions_only(container):
    with pytest.raises(
        DTypeError, match=f"{container.__name__}: number 0 must be a Function .* make an instance"
    ):
        container(ReLU)
    with pytest.raises(DTypeError, match="must be a Function"):
        container([ReLU()])


@pytest.mark.parametrize("container", [Concat, dc.Add])
def test_containers_that_need_a_branch(container):
    with pytest.raises(DTypeError, match="at least one branch"):
        container()


def test_errors_say_where():
    net = Net([Linear(2, 3), Residual(Sequential(ReLU(), Linear(4, 4)))])
    with pytest.raises(
        ShapeError, match=r"^layer 1, function 1, Linear\(4, 4\): X must end in 4, got \(5, 3\)"
    ):
        net(normal(5, 2))
    with pytest.raises(ShapeError, match="put Flatten\\(\\) before it"):
        net(normal(5, 2, 3))
    with pytest.raises(
        ShapeError, match=r"f\(X\) and the shortcut must have one shape, got \(5, 3\) and \(5, 2\)"
    ):
        Residual(Linear(2, 3))(normal(5, 2))
    with pytest.raises(ShapeError, match=r"one shape, got \(5, 3\) and \(5, 4\)"):
        dc.Add(Linear(2, 3), Linear(2, 4))(normal(5, 2))


def test_mixed_backends_are_refused_and_named():
    strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    net = Net([Linear(2, 2)], CrossEntropyLoss())
    X = normal(3, 2, dtype="float32")
    with pytest.raises(dc.MixedBackendError, match=r"'numpy'.*'array_api_strict'.*to_backend.*net\.to"):
        net(strict.asarray(X))
    out = net(X)
    with pytest.raises(dc.MixedBackendError, match="move the target with deepcore.to_backend"):
        net.loss(out, strict.asarray(np.array([0, 1, 0])))
    net.loss(out, np.array([0, 1, 0]))
    net.backward()
    with pytest.raises(dc.MixedBackendError):
        Bilinear()(X, strict.asarray(X))
    mixed = Net([Linear(2, 2), Linear(2, 2)])
    dc_strict = dc.to_backend(mixed.layers[1].weight["W"], "array_api_strict")
    mixed.layers[1].weight["W"] = dc_strict
    with pytest.raises(dc.MixedBackendError, match=r"layer 1, .*net\.to\('array_api_strict'\)|layer 1"):
        mixed(X)


def test_repr_is_the_code_that_makes_it():
    text = (
        "Net(layers=[Linear(2, 4), Residual(Sequential(ReLU(), Linear(4, 4, bias=False)))], loss=MSELoss())"
    )
    net = eval(text, vars(dc))
    assert repr(eval(repr(net), vars(dc))) == repr(net)
    assert "Linear(4, 4, bias=False)" in repr(net)


def test_a_function_that_refers_back_to_its_net():
    class Child(dc.Function):
        def forward(self, X):
            return X

    child = Child()
    net = Net([child, Linear(3, 2)])
    child.net = net
    with pytest.raises(dc.StateError, match="refer back to a Function that it is part of"):
        net(np.ones((2, 3), "float32"))
    del child.net
    assert net(np.ones((2, 3), "float32")).shape == (2, 2)


def test_a_function_that_refers_back_to_its_net_is_found_before_any_call():
    child = ReLU()
    net = Net([child, Linear(3, 2)])
    child.net = net
    for use in (net.parameters, net.train, net.state_dict):
        with pytest.raises(dc.StateError, match="Net at layers.0.net stands inside itself"):
            use()
