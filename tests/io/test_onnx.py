"""ONNX: every case of the battery through onnxruntime and back, and graphs as other programs write them."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import Conv2D, Linear, Net, ReLU, Residual, Sequential
from tests.battery import CASES
from tests.users import Square

onnx = pytest.importorskip("onnx", reason="needs onnx to write and read graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime to run graphs")
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto


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


@pytest.mark.parametrize("case", CHOSEN, ids=[case.name for case in CHOSEN])
def test_what_is_written_can_be_read(case, tmp_path):
    net = save(case, tmp_path / "net.onnx")
    again = dc.io.load_onnx(tmp_path / "net.onnx")
    assert isinstance(again, Net)
    for X in inputs(case):
        np.testing.assert_allclose(again.predict(X), net.predict(X), rtol=1e-5, atol=1e-6)


def test_a_class_without_an_operator_is_named(tmp_path):
    net = Net([Linear(2, 2), Residual(Sequential(ReLU(), Square()))])
    with pytest.raises(
        dc.UnsupportedError, match="layer 1, function 1, Square.*no operator for Square; replace"
    ):
        dc.io.save_onnx(net, tmp_path / "net.onnx", (2,))
    assert not list(tmp_path.iterdir())


def test_two_inputs_cannot_be_written(tmp_path):
    with pytest.raises(dc.UnsupportedError, match="Bilinear.*takes two inputs, and save_onnx writes graphs"):
        dc.io.save_onnx(Net([dc.Bilinear(2, 2, 2)]), tmp_path / "net.onnx", (2,))


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


# ---- graphs as other programs write them


def graph(nodes, shape, weights, opset=17, output=None, inputs=("X",)):
    """A model's bytes, with a dynamic batch."""
    value = helper.make_tensor_value_info
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "main",
            [value(name, TensorProto.FLOAT, ["batch", *shape]) for name in inputs],
            [value(output or nodes[-1].output[0], TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(x), name) for name, x in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )
    return model.SerializeToString()


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


W, b = draw(4, 3), draw(4, seed=1)
KERNEL, BIAS = draw(5, 2, 3, 3), draw(5, seed=2)
VECTORS = {"g": draw(2) + 3, "s": draw(2, seed=3), "m": draw(2, seed=4), "v": draw(2, seed=5) ** 2 + 1}
FOREIGN = {  # nodes, shape of a sample, weights, what the layers are
    "Gemm of torch": (
        [node("Gemm", "X W b", "Y", transB=1, alpha=1.0, beta=1.0)],
        (3,),
        {"W": W, "b": b},
        "Linear(3, 4)",
    ),
    "Gemm scaled": (
        [node("Gemm", "X W b", "Y", alpha=0.5, beta=2.0)],
        (4,),
        {"W": W, "b": b[:3]},
        "Linear(4, 3)",
    ),
    "Gemm without bias": ([node("Gemm", "X W", "Y", transB=1)], (3,), {"W": W}, "Linear(3, 4, bias=False)"),
    "MatMul and Add": (
        [node("MatMul", "X W", "H"), node("Add", "b H", "Y")],
        (5, 4),
        {"W": W, "b": b[:3]},
        "Linear(4, 3)",
    ),
    "MatMul of a transposed constant": (
        [node("Transpose", "W", "V", perm=[1, 0]), node("MatMul", "X V", "Y")],
        (5, 3),
        {"W": W},
        "Linear(3, 4, bias=False)",
    ),
    "Conv": (
        [
            node(
                "Conv",
                "X K B",
                "Y",
                kernel_shape=[3, 3],
                pads=[1, 2, 1, 2],
                strides=[2, 1],
                group=1,
                dilations=[1, 1],
            )
        ],
        (2, 6, 5),
        {"K": KERNEL, "B": BIAS},
        "Conv2D(2, 5, stride=(2, 1), padding=(1, 2))",
    ),
    "Conv without attributes": (
        [node("Conv", "X K", "Y")],
        (2, 6, 5),
        {"K": KERNEL},
        "Conv2D(2, 5, bias=False)",
    ),
    "Conv of groups": (
        [node("Conv", "X K", "Y", group=2, auto_pad="SAME_UPPER")],
        (4, 6, 5),
        {"K": draw(4, 2, 2, 3)},
        "Conv2D(4, 4, kernel_size=(2, 3), padding='same', groups=2, bias=False)",
    ),
    "BatchNormalization": (
        [node("BatchNormalization", "X g s m v", "Y", epsilon=1e-3, momentum=0.8)],
        (2, 3, 3),
        VECTORS,
        "BatchNorm2D(2, epsilon=0.001, momentum=0.2)",
    ),
    "MaxPool": (
        [node("MaxPool", "X", "Y", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0], ceil_mode=0)],
        (2, 6, 6),
        {},
        "MaxPool2D(kernel_size=(3, 2), stride=2, padding=(1, 0))",
    ),
    "MaxPool of stride 1": (
        [node("MaxPool", "X", "Y", kernel_shape=[2, 2])],
        (2, 6, 6),
        {},
        "MaxPool2D(stride=1)",
    ),
    "activations": (
        [
            node("Relu", "X", "A"),
            node("LeakyRelu", "A", "B"),
            node("Sigmoid", "B", "C"),
            node("Tanh", "C", "D"),
            node("Identity", "D", "E"),
            node("Dropout", "E", "F"),
            node("Softmax", "F", "Y", axis=1),
        ],
        (4,),
        {},
        "ReLU() LeakyReLU() Sigmoid() Tanh() Softmax(axis=1)",
    ),
    "Clip at 0": (
        [
            node("Constant", "", "zero", value=numpy_helper.from_array(np.float32(0))),
            node("Clip", "X zero", "Y"),
        ],
        (4,),
        {},
        "ReLU()",
    ),
    "Flatten": ([node("Flatten", "X", "Y")], (4, 2, 3), {}, "Flatten()"),
    "Reshape 0": ([node("Reshape", "X shape", "Y")], (4, 2), {"shape": np.array([0, -1])}, "Flatten()"),
    "Reshape -1": ([node("Reshape", "X shape", "Y")], (4, 2), {"shape": np.array([-1, 8])}, "Flatten()"),
    "view of torch": (
        [
            node("Shape", "X", "sizes"),
            node("Gather", "sizes zero", "n", axis=0),
            node("Unsqueeze", "n axes", "m"),
            node("Concat", "m rest", "shape", axis=0),
            node("Reshape", "X shape", "Y"),
        ],
        (4, 2),
        {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])},
        "Flatten()",
    ),
    "Clip by vectors of one": (
        [node("Clip", "X low high", "Y")],
        (3,),
        {"low": np.array([-0.5], "float32"), "high": np.array([0.5], "float32")},
        "HardTanh(min_val=-0.5, max_val=0.5)",
    ),
    "what nothing needs": ([node("Erf", "X", "unused"), node("Relu", "X", "Y")], (3,), {}, "ReLU()"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_graph_of_another_program(name):
    nodes, shape, weights, layers = FOREIGN[name]
    model = graph(nodes, shape, weights)
    net = dc.io.load_onnx(model)
    assert " ".join(map(repr, net.layers)) == layers
    for n in (3, 1):
        X = draw(n, *shape, seed=7)
        np.testing.assert_allclose(net.predict(X), run(model, X), rtol=1e-5, atol=1e-6)


def test_branches_become_a_graph_that_trains(tmp_path):
    """A residual block, a gate, and a concatenation, read, trained, saved and written anew."""
    square = draw(3, 3)
    nodes = [
        node("MatMul", "X W", "A"),
        node("Relu", "A", "B"),
        node("Add", "B X", "C"),
        node("Sigmoid", "C", "D"),
        node("Mul", "C D", "E"),
        node("Concat", "E X", "Y", axis=1),
    ]
    model = graph(nodes, (3,), {"W": square})
    net = dc.io.load_onnx(model)
    X = draw(4, 3)
    np.testing.assert_allclose(net.predict(X), run(model, X), rtol=1e-5, atol=1e-6)
    dc.io.save_onnx(net, tmp_path / "net.onnx", (3,))
    np.testing.assert_allclose(run(tmp_path / "net.onnx", X), run(model, X), rtol=1e-5, atol=1e-6)
    net.save(tmp_path / "net.safetensors")
    assert np.array_equal(Net.load(tmp_path / "net.safetensors").predict(X), net.predict(X))
    net.loss_fn = dc.MSELoss()
    first = net.evaluate(X, draw(4, 6))["loss"]
    net.fit(X, draw(4, 6), epochs=20, optimizer=dc.optim.SGD(0.5))
    assert net.evaluate(X, draw(4, 6))["loss"] < first


CHANNELS = (2, 6, 5)
REFUSED = {
    "Erf": ([node("Erf", "X", "Y")], (3,), {}, "node 0, Erf, the operator Erf can't be mapped"),
    "transA": ([node("Gemm", "X W", "Y", transA=1)], (3,), {"W": W}, "transA=1 can't be mapped"),
    "two factors": ([node("MatMul", "X X", "Y")], (3,), {}, "its second factor is computed"),
    "Add of a constant": ([node("Add", "X b", "Y")], (4,), {"b": b}, "the sum with a constant"),
    "Mul by a constant": ([node("Mul", "X b", "Y")], (4,), {"b": b}, "the product with a constant"),
    "ceil_mode": ([node("MaxPool", "X", "Y", kernel_shape=[2, 2], ceil_mode=1)], CHANNELS, {}, "ceil_mode=1"),
    "dilated": (
        [node("MaxPool", "X", "Y", kernel_shape=[2, 2], dilations=[2, 2])],
        CHANNELS,
        {},
        "dilations=",
    ),
    "odd pads": ([node("Conv", "X K", "Y", pads=[0, 0, 1, 1])], CHANNELS, {"K": KERNEL}, "other before than"),
    "SAME_LOWER": ([node("Conv", "X K", "Y", auto_pad="SAME_LOWER")], CHANNELS, {"K": KERNEL}, "auto_pad="),
    "training": (
        [helper.make_node("BatchNormalization", ["X", "g", "s", "m", "v"], ["Y", "M", "V"], training_mode=1)],
        (2, 3, 3),
        VECTORS,
        "training_mode=1",
    ),
    "Flatten 2": ([node("Flatten", "X", "Y", axis=2)], (3, 4), {}, "axis=2 can't be mapped"),
    "moved batch": ([node("Transpose", "X", "Y", perm=[1, 0])], (3,), {}, "moves the batch"),
    "merged batch": ([node("Reshape", "X s", "Y")], (3, 4), {"s": np.array([-1, 4])}, "moves the batch"),
    "constant": ([node("Identity", "b", "Y")], (3,), {"b": b}, "does not depend on its input"),
    "the default slope": (
        [node("HardSigmoid", "X", "Y")],
        (3,),
        {},
        "alpha=0.2 and beta=0.5 can't be mapped",
    ),
    "a bias for each row": (
        [node("MatMul", "X S", "H"), node("Add", "H b", "Y")],
        (4, 4),
        {"S": draw(4, 4), "b": draw(4, 1)},
        r"node 1, Add, a bias of shape \(4, 1\) can't be mapped",
    ),
    "a bias for each sample": (
        [node("Gemm", "X S b", "Y")],
        (4,),
        {"S": draw(4, 4), "b": draw(4, 1)},
        r"a bias of shape \(4, 1\)",
    ),
    "a bias with more axes": (
        [node("MatMul", "X S", "H"), node("Add", "H b", "Y")],
        (4,),
        {"S": draw(4, 4), "b": draw(1, 1, 4)},
        "more axes than its input has",
    ),
    "a gate for each channel": (
        [node("GlobalAveragePool", "X", "S"), node("Mul", "X S", "Y")],
        CHANNELS,
        {},
        "node 1, Mul, inputs of several shapes",
    ),
    "a sum of several shapes": (
        [node("GlobalAveragePool", "X", "S"), node("Add", "X S", "Y")],
        CHANNELS,
        {},
        "node 1, Add, inputs of several shapes",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_mapped_is_named(name):
    nodes, shape, weights, message = REFUSED[name]
    with pytest.raises(dc.UnsupportedError, match=message):
        dc.io.load_onnx(graph(nodes, shape, weights))


def test_several_inputs_are_refused():
    nodes = [node("Add", "X Z", "Y")]
    with pytest.raises(dc.UnsupportedError, match="one input and one output, got X, Z and Y"):
        dc.io.load_onnx(graph(nodes, (3,), {}, inputs=("X", "Z")))


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 21])
def test_old_and_new_opsets(opset):
    nodes = [node("Gemm", "X W b", "H", transB=1), node("Softmax", "H", "Y", axis=1)]
    model = graph(nodes, (3,), {"W": W, "b": b}, opset=opset)
    X = draw(5, 3)
    np.testing.assert_allclose(dc.io.load_onnx(model).predict(X), run(model, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x07" * 50, bytes(100)])
def test_damaged_files_are_refused(data, tmp_path):
    (tmp_path / "a.onnx").write_bytes(data)
    with pytest.raises(dc.CheckpointError, match="a.onnx, "):
        dc.io.load_onnx(tmp_path / "a.onnx")
    with pytest.raises(dc.CheckpointError, match="load_onnx, "):
        dc.io.load_onnx(data)


def test_a_file_that_is_cut_is_refused(tmp_path):
    dc.io.save_onnx(Net([Linear(20, 20), ReLU()]), tmp_path / "a.onnx", 20)
    whole = (tmp_path / "a.onnx").read_bytes()
    for stop in range(0, len(whole), 40):
        with pytest.raises((dc.CheckpointError, dc.UnsupportedError)):
            dc.io.load_onnx(whole[:stop])


def test_any_byte_may_be_wrong(tmp_path):
    """Mutations end in an error of ours, or in a net."""
    layers = [Conv2D(1, 2, 3), dc.BatchNorm2D(2), Residual(ReLU()), dc.Flatten(), Linear(8, 2), dc.Softmax()]
    dc.io.save_onnx(Net(layers), tmp_path / "a.onnx", (1, 4, 4))
    whole = (tmp_path / "a.onnx").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        data = bytearray(whole)
        data[random.integers(len(data))] = random.integers(256)
        try:
            assert isinstance(dc.io.load_onnx(bytes(data)), Net)
        except dc.DeepcoreError:
            refused += 1
    assert refused > 300


def test_the_net_is_on_the_selected_backend():
    pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    model = graph([node("Gemm", "X W b", "Y", transB=1)], (3,), {"W": W, "b": b})
    with dc.use_backend("array_api_strict"):
        net = dc.io.load_onnx(model)
    assert dc.backend_of(net.layers[0].weight["W"]) == "array_api_strict"


def test_a_torch_cnn_goes_all_the_way(tmp_path):
    """torch -> .pt -> deepcore -> ONNX -> onnxruntime, and back again."""
    torch = pytest.importorskip("torch", reason="needs torch")
    nn = torch.nn
    theirs = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3),
    )  # fmt: skip
    X = draw(16, 1, 8, 8)
    theirs(torch.tensor(X))  # running statistics that are neither 0 nor 1
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "cnn.pt")
    net = Net(
        [
            Conv2D(1, 4, 3, padding=1), dc.BatchNorm2D(4), ReLU(), dc.MaxPool2D(2),
            Conv2D(4, 8, 3), dc.Tanh(), dc.Flatten(), Linear(32, 3),
        ]
    )  # fmt: skip
    dc.io.load_torch(net, tmp_path / "cnn.pt")
    dc.io.save_onnx(net, tmp_path / "cnn.onnx", (1, 8, 8))
    expected = theirs(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(run(tmp_path / "cnn.onnx", X), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        dc.io.load_onnx(tmp_path / "cnn.onnx").predict(X), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.skipif(not hasattr(dc, "Upsample2D"), reason="deepcore has no Upsample2D yet")
def test_an_attribute_that_nobody_looks_at_is_refused():
    weights = {"none": np.zeros(0, "float32"), "s": np.array([1, 1, 2, 2], "float32")}
    settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    dc.io.load_onnx(graph([node("Resize", "X none s", "Y", **settings)], (2, 3, 3), weights, opset=18))
    nodes = [node("Resize", "X none s", "Y", antialias=1, **settings)]
    with pytest.raises(dc.UnsupportedError, match="node 0, Resize, the attribute antialias can't be mapped"):
        dc.io.load_onnx(graph(nodes, (2, 3, 3), weights, opset=18))
