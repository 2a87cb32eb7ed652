"""ONNX: every case of the battery through onnxruntime and back, and graphs as other programs write them."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import Linear, Net, ReLU, Residual, Sequential
from tests.battery import CASES
from tests.users import Square

onnx = pytest.importorskip("onnx", reason="needs onnx to write and read graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime to run graphs")

# classes that ONNX can't say, and cases whose settings it can't
WITHOUT = {"Bilinear"}
INEXPRESSIBLE = "ONNX has windows of one size only|functions of one output"

CHOSEN = [
    case
    for case in CASES
    if not (case.is_loss or case.own or len(case.inputs) > 1 or case.kind.__name__ in WITHOUT)
    and case.draw(1)[0].ndim > 1
    and case.batched
]


def run(model, X):
    """What onnxruntime computes, of a path or of a model's bytes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    model = str(model) if not isinstance(model, bytes) else model
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: X})[0]


def save(case, path):
    """The case as a net in a file; skips what ONNX can't say."""
    net = Net([case.build()]).eval()
    try:
        dc.io.save_onnx(net, path, case.draw(1)[0].shape[1:])
    except dc.UnsupportedError as error:
        if any(part in str(error) for part in INEXPRESSIBLE.split("|")):
            pytest.skip(f"ONNX can't say it: {error}")
        raise
    return net


def inputs(case):
    for n in (3, 1, 5):
        X = case.draw(n)[0]
        yield X.astype("float32") if X.dtype.kind == "f" else X.astype("int64")


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_onnxruntime_computes_what_the_net_does(case, tmp_path):
    net = save(case, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert all(opset.version <= 21 for opset in model.opset_import)
    for X in inputs(case):
        np.testing.assert_allclose(run(tmp_path / "net.onnx", X), net.predict(X), rtol=1e-5, atol=1e-5)


def test_a_class_without_an_operator_is_named(tmp_path):
    net = Net([Linear(2, 2), Residual(Sequential(ReLU(), Square()))])
    with pytest.raises(
        dc.UnsupportedError, match="layer 1, function 1, Square.*no operator for Square; replace"
    ):
        dc.io.save_onnx(net, tmp_path / "net.onnx", (2,))
    assert not list(tmp_path.iterdir())


def test_a_shape_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(dc.ShapeError, match="X must end in 2, got"):
        dc.io.save_onnx(Net([Linear(2, 2)]), tmp_path / "net.onnx", (3,))
    assert not list(tmp_path.iterdir())


def test_saving_changes_nothing(tmp_path):
    net = Net([Linear(2, 2), dc.Dropout(0.5)], dc.MSELoss())
    out = net(np.ones((1, 2), "float32"))
    loss = net.loss(out, np.zeros((1, 2), "float32"))
    dc.io.save_onnx(net, tmp_path / "net.onnx", 2)
    net.backward()
    assert loss >= 0 and net.training
