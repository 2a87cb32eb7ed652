"""The public names, their documentation, and the random numbers behind `dc.seed`."""

import ast
import inspect
import math
from pathlib import Path

import numpy as np
import pytest

import deepcore as dc
from deepcore import Conv2D, Dropout, Linear, Net, ReLU, init

PACKAGE = Path(dc.__file__).parent
NAMES = sorted(dc.__all__)


def test_all_is_sorted_and_has_no_name_twice():
    assert dc.__all__ == sorted(set(dc.__all__))


def test_all_equals_the_imports():
    """Neither more nor less than what __init__.py imports."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    imported = [
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("deepcore")
        for alias in node.names
    ]
    assert sorted(imported) == dc.__all__


def test_names_imported_when_asked_for_are_those_that_type_checkers_see():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    late = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f"{node.module}.{alias.name}" if node.module == "deepcore" else node.module
        for node in late.body
        for alias in node.names
    }
    assert seen == dc._HOMES
    assert set(seen) <= set(dir(dc))
    with pytest.raises(AttributeError, match="module 'deepcore' has no attribute 'nothing'"):
        dc.nothing  # noqa: B018


def test_init_holds_public_names_and_nothing_else():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    kinds = {type(node) for node in tree.body}
    assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom, ast.If, ast.Assign, ast.FunctionDef}
    assigned = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
    assert sorted(assigned) == ["_HOMES", "__all__", "__version__"]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert sorted(functions) == ["__dir__", "__getattr__"]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name):
    thing = getattr(dc, name)
    if inspect.isclass(thing):
        assert vars(thing).get("__doc__"), "a class needs a docstring of its own, not its base's"
    else:
        assert inspect.getdoc(thing)


CLASSES = [name for name in NAMES if inspect.isclass(getattr(dc, name)) and hasattr(dc, name)]


@pytest.mark.parametrize("name", CLASSES)
def test_every_public_method_is_documented(name):
    thing = getattr(dc, name)
    undocumented = [
        attribute
        for attribute, value in inspect.getmembers(thing)
        if not attribute.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
        and not inspect.getdoc(value)
    ]
    # forward and backward are explained by their class, where the formula stands
    assert set(undocumented) <= {"forward", "backward", "local_grad", "config"}


@pytest.mark.parametrize("module", ["init", "io", "optim", "schedules"])
def test_public_names_of_a_public_module_are_documented(module):
    module = getattr(dc, module)
    assert module.__doc__
    for name, thing in vars(module).items():
        own = getattr(thing, "__module__", None) == module.__name__
        if own and not name.startswith("_") and inspect.isroutine(thing) | inspect.isclass(thing):
            assert inspect.getdoc(thing), name


def test_errors_and_warnings_have_the_bases_of_the_design():
    bases = {
        "ShapeError": ValueError,
        "DTypeError": TypeError,
        "LabelError": ValueError,
        "StateError": RuntimeError,
        "BackendUnavailable": RuntimeError,
        "MixedBackendError": TypeError,
        "CheckpointError": ValueError,
        "UnsupportedError": NotImplementedError,
    }
    for name, base in bases.items():
        assert issubclass(getattr(dc, name), base), name
    for name in NAMES:
        if name.endswith("Error") or name == "BackendUnavailable":
            assert issubclass(getattr(dc, name), dc.DeepcoreError), name
    for name in ("BackendFallbackWarning", "NumericWarning"):
        assert issubclass(getattr(dc, name), Warning)
        assert not issubclass(getattr(dc, name), dc.DeepcoreError)


def test_version():
    parts = dc.__version__.split(".")
    assert len(parts) == 3 and all(part.isdigit() for part in parts)


# ---- the seed


def mixed_net(dtype=None):
    return Net([Conv2D(1, 3), ReLU(), dc.BatchNorm2D(3), dc.Flatten(), Linear(12, 5), Linear(5, 2)])


def test_one_seed_gives_bit_equal_nets():
    nets = []
    for n in (3, 3, 4):
        dc.seed(n)
        nets.append(mixed_net())
    first, second, other = (net.parameters() for net in nets)
    for path, W in first.items():
        assert np.array_equal(W, second[path])
        drawn = not path.endswith(("b", "beta", "gamma"))
        assert np.array_equal(W, other[path]) != drawn


def test_one_seed_gives_the_same_bits_on_every_backend():
    pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    dc.seed(3)
    right = mixed_net().parameters()
    with dc.use_backend("array_api_strict"):
        dc.seed(3)
        ours = mixed_net().parameters()
    for path, W in right.items():
        assert np.array_equal(dc.to_numpy(ours[path]), W)


def test_a_seed_means_the_same_net_in_every_release():
    dc.seed(0)
    W = Linear(2, 2, dtype="float64").weight["W"]
    dc.seed(0)
    assert np.array_equal(W.astype("float32"), Linear(2, 2).weight["W"])
    np.testing.assert_allclose(W.ravel(), [-0.658211352, -0.202457509, 0.433882924, -0.867832568], atol=1e-8)


def test_layers_of_one_net_differ():
    dc.seed(0)
    a, b = Linear(5, 5), Linear(5, 5)
    assert not np.array_equal(a.weight["W"], b.weight["W"])


def test_dropout_by_hand_follows_the_seed():
    X = np.ones((20, 20), "float32")
    f = Dropout(0.5)
    dc.seed(1)
    first, second = f(X), f(X)
    dc.seed(1)
    assert np.array_equal(f(X), first)
    assert np.array_equal(f(X), second)
    assert not np.array_equal(first, second)


def test_dropout_and_weights_draw_from_streams_of_their_own():
    dc.seed(1)
    right = Linear(4, 4).weight["W"]
    dc.seed(1)
    Dropout(0.5)(np.ones((3, 3), "float32"))
    assert np.array_equal(Linear(4, 4).weight["W"], right)


@pytest.mark.parametrize("n", [-1, 2**64, 1.5, "3", None, True])
def test_a_seed_that_is_none(n):
    dc.seed(5)
    with pytest.raises(dc.ArgumentError, match=r"seed must be a whole number, 0 <= seed < 2\*\*64, got"):
        dc.seed(n)
    W = Linear(3, 3).weight["W"]
    dc.seed(5)
    assert np.array_equal(Linear(3, 3).weight["W"], W)


@pytest.mark.parametrize("n", [0, 2**64 - 1, np.int64(7), np.uint8(7)])
def test_any_whole_number_may_be_a_seed(n):
    dc.seed(n)
    W = Linear(3, 3).weight["W"]
    dc.seed(int(n))
    assert np.array_equal(Linear(3, 3).weight["W"], W)


# ---- initial weights


def assert_normal(W, std):
    """Mean 0, the standard deviation wanted, and the tails of a normal distribution, within 5 sigma."""
    W, n = np.asarray(W, dtype="float64").ravel(), W.size
    assert abs(W.mean()) < 5 * std / math.sqrt(n)
    assert abs(W.std() / std - 1) < 5 / math.sqrt(2 * n)
    for k, fraction in ((1, 0.317311), (2, 0.045500), (3, 0.002700)):
        outside = (abs(W) > k * std).mean()
        assert abs(outside - fraction) < 5 * math.sqrt(fraction / n)


@pytest.mark.parametrize(
    ("make", "std"),
    [
        (lambda: Linear(400, 500), math.sqrt(1 / 400)),
        (lambda: Linear(50, 2000), math.sqrt(1 / 50)),
        (lambda: Conv2D(40, 300, 5), math.sqrt(2 / (40 * 25))),
        (lambda: Conv2D(40, 300, (3, 5), groups=4), math.sqrt(2 / (10 * 15))),
        (lambda: Linear(400, 500, init="he_normal"), math.sqrt(2 / 400)),
        (lambda: Linear(400, 500, init="glorot_normal"), math.sqrt(2 / 900)),
        (lambda: Linear(400, 500, init=init.normal(std=0.3)), 0.3),
    ],
    ids=["Linear", "Linear wide", "Conv2D", "Conv2D groups", "he", "glorot", "normal"],
)
def test_normal_weights(make, std):
    dc.seed(0)
    layer = make()
    assert_normal(layer.weight["W"], std)
    assert layer.weight["W"].dtype == np.float32
    assert not layer.weight["b"].any()


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("lecun_uniform", math.sqrt(3 / 400)),
        ("he_uniform", math.sqrt(6 / 400)),
        ("glorot_uniform", math.sqrt(6 / 900)),
        ("uniform", 0.05),
    ],
)
def test_uniform_weights(name, bound):
    dc.seed(0)
    W = Linear(400, 500, init=name).weight["W"].astype("float64")
    assert abs(W).max() <= bound * (1 + 1e-6)
    assert abs(W).max() > 0.999 * bound
    assert abs(W.mean()) < 5 * bound / math.sqrt(3 * W.size)
    assert abs(W.std() * math.sqrt(3) / bound - 1) < 0.01
    fractions, _ = np.histogram(W, bins=10, range=(-bound, bound))
    np.testing.assert_allclose(fractions / W.size, 0.1, atol=0.004)


@pytest.mark.parametrize(
    ("given", "value"),
    [("zeros", 0), ("ones", 1), (init.zeros, 0), (init.ones, 1), (init.constant(0.5), 0.5)],
    ids=str,
)
def test_constant_weights(given, value):
    W = Linear(3, 4, init=given).weight["W"]
    assert W.dtype == np.float32 and (value == W).all()


def test_an_initialiser_of_ones_own():
    def fans(shape, fan_in, fan_out):
        return np.full(shape, 100 * fan_in + fan_out)

    assert (Linear(3, 4, init=fans).weight["W"] == 304).all()
    assert (Conv2D(2, 4, 3, init=fans).weight["W"] == 100 * 18 + 36).all()
    with pytest.raises(dc.ShapeError, match=r"Linear: init must return an array of shape \(3, 4\)"):
        Linear(3, 4, init=lambda shape, i, o: np.zeros(shape[::-1]))
    with pytest.raises(
        dc.ArgumentError, match="Linear: init must be a function or one of zeros, .* got 'xavier'"
    ):
        Linear(3, 4, init="xavier")


def test_batch_norm_starts_as_the_identity():
    bn = dc.BatchNorm2D(3)
    assert (bn.weight["gamma"] == 1).all() and not bn.weight["beta"].any()
    assert (bn.running_var == 1).all() and not bn.running_mean.any()
    assert {W.shape for W in (*bn.weight.values(), *bn.buffer.values())} == {(1, 3, 1, 1)}
