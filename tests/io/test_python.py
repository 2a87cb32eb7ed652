"""`net.to_python`: every case of the battery, written to a file that needs NumPy alone."""

import ast
import inspect
import subprocess
import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore import Conv2D, Dropout, Flatten, Linear, MaxPool2D, Net, ReLU, Residual, Sequential, Softmax
from deepcore.io import formulas
from deepcore.io.python import _FORMULAS
from tests.battery import CASES
from tests.users import Square

# classes that have no plain formula of one input
WITHOUT = {"Bilinear"}  # to_python refuses it, in words


def load(path):
    """The names of a file, and nothing of ours among them."""
    text = path.read_text()
    imported = {
        alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imported <= {"numpy", "base64", "io", "math"} and "deepcore" not in text.partition("import")[2]
    names = {}
    exec(compile(text, path, "exec"), names)
    return names


def test_settings_may_be_infinite(tmp_path):
    bounds = [dc.HardTanh(-np.inf, 0.5), dc.Softplus(threshold=np.inf), dc.Pad1D(1, value=-np.inf)]
    X = np.array([[[-2.0, 0.25, 30.0]]], "float32")
    for f in bounds:
        net = Net([f])
        net.to_python(tmp_path / "model.py")
        np.testing.assert_allclose(load(tmp_path / "model.py")["predict"](X), net.predict(X), rtol=1e-6)


EXPORTED = [
    case
    for case in CASES
    if not (case.is_loss or case.own or len(case.inputs) > 1 or case.kind.__name__ in WITHOUT)
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", EXPORTED, ids=[case.name for case in EXPORTED])
def test_the_file_predicts_what_the_net_does(case, dtype, tmp_path):
    f = case.build(dtype=dtype)
    net = Net([f])
    net.to_python(tmp_path / "model.py")
    predict = load(tmp_path / "model.py")["predict"]
    for n in (3, 1):
        X = case.draw(n)[0]
        X = X.astype(dtype) if X.dtype.kind == "f" else X
        expected = net.predict(X)
        with np.errstate(all="raise", under="ignore"):
            Y = predict(X)
        assert Y.dtype == expected.dtype and Y.shape == expected.shape
        np.testing.assert_allclose(Y, expected, rtol=1e-6, atol=1e-6)


def test_a_class_without_a_formula_is_named(tmp_path):
    net = Net([Linear(2, 2), Residual(Sequential(ReLU(), Square()))])
    with pytest.raises(
        dc.UnsupportedError, match="layer 1, function 1, Square.*no formula for Square; replace"
    ):
        net.to_python(tmp_path / "model.py")
    assert not list(tmp_path.iterdir())


def test_two_inputs_are_refused(tmp_path):
    with pytest.raises(dc.UnsupportedError, match="Bilinear.*takes two inputs, and to_python writes predict"):
        Net([dc.Bilinear(2, 2, 2)]).to_python(tmp_path / "model.py")


def test_a_users_class_with_the_name_of_ours_has_no_formula(tmp_path):
    class ReLU(dc.Function):
        def forward(self, X):
            return X - 1

    with pytest.raises(dc.UnsupportedError, match="no formula for ReLU"):
        Net([ReLU()]).to_python(tmp_path / "model.py")


def cnn():
    dc.seed(0)
    block = Residual(Sequential(Conv2D(4, 4, 3, padding="same"), dc.BatchNorm2D(4), ReLU()))
    head = [Dropout(0.3), MaxPool2D(3, 2, 1), Flatten(), Linear(64, 3), Softmax()]
    return Net([Conv2D(1, 4, 3, padding=1), block, *head])


def test_the_file_runs_with_numpy_alone(tmp_path):
    """In a process that can import nothing of ours."""
    net = cnn()
    X = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype("float32")
    net.to_python(tmp_path / "model.py")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import sys, numpy as np\n"
        "assert not any('deepcore' in path for path in sys.path)\n"
        "sys.modules['deepcore'] = None\n"
        "import model\n"
        "np.save('Y.npy', model.predict(np.load('X.npy')))\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, env=environment, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "Y.npy"), net.predict(X), rtol=1e-6, atol=1e-6)


def test_the_file_reads_like_a_net(tmp_path):
    net = Net([Linear(2, 4), ReLU(), Linear(4, 2)])
    net.to_python(tmp_path / "model.py")
    text = (tmp_path / "model.py").read_text()
    assert (
        '    X = np.asarray(X, "float32")\n'
        '    X = linear(X, W["layers.0.W"], W["layers.0.b"])\n'
        "    X = relu(X)\n"
        '    X = linear(X, W["layers.2.W"], W["layers.2.b"])\n'
        "    return X\n"
    ) in text
    assert text.count("def ") == 3  # relu, linear and predict: no formula that the net hasn't got
    assert max(map(len, text.splitlines())) <= 110
    first = text
    net.to_python(tmp_path / "model.py")
    assert (tmp_path / "model.py").read_text() == first


def test_no_formula_is_there_for_nothing(tmp_path):
    cnn().to_python(tmp_path / "model.py")
    names = {name for name, x in load(tmp_path / "model.py").items() if inspect.isfunction(x)}
    wanted = {"conv", "windows", "batch_norm", "relu", "max_pool", "flatten", "linear", "softmax", "predict"}
    assert names == wanted


def test_lists_are_inputs_too_and_nothing_is_written_to(tmp_path):
    net = Net([ReLU(), Linear(2, 1, init="ones")])
    net.to_python(tmp_path / "model.py")
    predict = load(tmp_path / "model.py")["predict"]
    assert predict([[1, -2]]).tolist() == [[1]]
    X = np.array([[1, -2]], "float32")
    predict(X)
    assert X.tolist() == [[1, -2]]


def test_a_net_without_weights_has_none_in_the_file(tmp_path):
    Net([ReLU()]).to_python(tmp_path / "model.py")
    assert "base64" not in (tmp_path / "model.py").read_text()
    assert load(tmp_path / "model.py")["predict"]([-1.0, 2.0]).tolist() == [0, 2]


def test_shared_weights_stand_in_the_file_once(tmp_path):
    a, b = Linear(2, 2), Linear(2, 2)
    b.weight["W"] = a.weight["W"]
    Net([a, b]).to_python(tmp_path / "model.py")
    assert sorted(load(tmp_path / "model.py")["W"]) == ["layers.0.W", "layers.0.b", "layers.1.b"]


def test_the_net_may_be_on_another_library(tmp_path):
    pytest.importorskip("torch", reason="needs torch")
    net = Net([Linear(2, 2)])
    net.to("torch").to_python(tmp_path / "model.py")
    X = np.ones((1, 2), "float32")
    Y = load(tmp_path / "model.py")["predict"](X)
    np.testing.assert_allclose(Y, dc.to_numpy(net.predict(X)), rtol=1e-6)


def test_every_row_of_the_table_is_a_class_and_is_tested():
    """A row of a class that deepcore hasn't got yet is no fault: it waits for it."""
    ancestors = {cls.__name__ for case in EXPORTED for cls in case.kind.__mro__}
    inside = {
        cls.__name__ for case in CASES for g in Net([case.make()])._tree().nodes for cls in type(g).__mro__
    }
    for name in _FORMULAS:
        assert name in ancestors | inside or not hasattr(dc, name), name


def test_formulas_are_documented():
    for name, f in vars(formulas).items():
        assert not inspect.isfunction(f) or inspect.getdoc(f), name
