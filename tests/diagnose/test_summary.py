"""The summary: what it says, and that it changes nothing."""

import html.parser
import pickle

import numpy as np
import pytest

import deepcore as dc
from deepcore.activations import ReLU
from deepcore.core.containers import Concat, Residual, Sequential
from deepcore.core.function import Function
from deepcore.core.net import Composition
from deepcore.core.random import Generator, current_generator, drawing_from
from deepcore.diagnose.summary import summary
from deepcore.errors import DTypeError, ShapeError
from deepcore.layers.conv import Conv2D
from deepcore.layers.dropout import Dropout
from deepcore.layers.embedding import Embedding
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm2D
from deepcore.layers.pool import MaxPool2D
from deepcore.layers.shape import Flatten
from deepcore.losses import CrossEntropyLoss
from tests.places import EACH_LIBRARY, USABLE


@pytest.fixture(autouse=True)
def seeded():
    with drawing_from(Generator(0)):
        yield


def images() -> Composition:
    return Composition(
        [
            Conv2D(1, 4, 3, padding=1),
            BatchNorm2D(4),
            ReLU(),
            MaxPool2D(2),
            Flatten(),
            Dropout(),
            Linear(4 * 14 * 14, 10),
        ],
        loss=CrossEntropyLoss(),
    )


def nested() -> Composition:
    shared, tied = Linear(4, 4), Linear(4, 4)
    tied.weight["W"] = shared.weight["W"]
    net = Composition(
        [
            Linear(2, 4),
            Sequential(shared, Residual(Sequential(ReLU(), shared))),
            tied,
            Concat(ReLU(), Linear(4, 1), axis=-1),
        ]
    )
    net.layers[0].trainable = False
    return net


def rows(found) -> dict[str, tuple]:
    return {row.path: (row.layer, row.output, row.trainable, row.frozen) for row in found.rows}


# ---- what it says


def test_a_net_for_images():
    found = summary(images(), (1, 28, 28))
    assert {path: row[1:] for path, row in rows(found).items()} == {
        "layers.0": ("(n, 4, 28, 28)", 40, 0),
        "layers.1": ("(n, 4, 28, 28)", 8, 0),
        "layers.2": ("(n, 4, 28, 28)", 0, 0),
        "layers.3": ("(n, 4, 14, 14)", 0, 0),
        "layers.4": ("(n, 784)", 0, 0),
        "layers.5": ("(n, 784)", 0, 0),
        "layers.6": ("(n, 10)", 7850, 0),
        "loss_fn": ("-", 0, 0),
    }
    assert rows(found)["layers.6"][0] == "Linear(784, 10)"
    assert (found.trainable, found.frozen) == (7898, 0)
    assert (found.weight_bytes, found.buffer_bytes) == (4 * 7898, 4 * 8)
    assert found.title == "Composition, input (n, 1, 28, 28) float32"


def test_the_text_of_a_nested_net():
    assert str(summary(nested(), (2,))).splitlines() == [
        "Composition, input (n, 2) float32",
        "",
        "path                  layer         output  trainable  frozen",
        "-------------------------------------------------------------",
        "layers.0              Linear(2, 4)  (n, 4)          0      12",
        "layers.1              Sequential    (n, 4)",
        "  layers.1.0          Linear(4, 4)  (n, 4)         20       0",
        "  layers.1.1          Residual      (n, 4)",
        "    layers.1.1.f      Sequential    (n, 4)",
        "      layers.1.1.f.0  ReLU()        (n, 4)",
        "      layers.1.1.f.1  Linear(4, 4)  (n, 4)                     again layers.1.0",
        "layers.2              Linear(4, 4)  (n, 4)          4       0  W is layers.1.0.W",
        "layers.3              Concat        (n, 5)",
        "  layers.3.0          ReLU()        (n, 4)",
        "  layers.3.1          Linear(4, 1)  (n, 1)          5       0",
        "-------------------------------------------------------------",
        "total                                              29      12",
        "weights 0.00 MB, buffers 0.00 MB",
    ]


def test_totals_agree_with_the_parameters():
    for net, shape in ((nested(), (2,)), (images(), (1, 28, 28))):
        found = summary(net, shape)
        assert found.trainable + found.frozen == sum(W.size for W in net.parameters().values())
        assert found.weight_bytes == sum(W.nbytes for W in net.parameters().values())
        assert found.buffer_bytes == sum(x.nbytes for x in net.buffers().values())


def test_large_numbers_and_memory():
    text = str(summary(Sequential(Linear(1000, 1000)), 1000))
    assert "1,001,000" in text
    assert text.endswith("weights 4.00 MB, buffers 0.00 MB")


def test_a_frozen_container_freezes_its_parts():
    net = nested()
    net.layers[1].trainable = False
    found = summary(net, (2,))
    assert rows(found)["layers.1.0"][2:] == (0, 20)
    assert rows(found)["layers.2"][2:] == (4, 0)  # its W is tied to a frozen one


@pytest.mark.parametrize("place", EACH_LIBRARY, ids=lambda place: place.name)
def test_a_net_that_looks_up_gets_integers(place):
    if place not in USABLE:
        pytest.skip(place.why_not)
    for net in (
        Composition([Embedding(5, 3), Flatten(), Linear(21, 2)]),
        Composition([Sequential(Embedding(5, 3), Flatten()), Linear(21, 2)], loss=CrossEntropyLoss()),
    ):
        found = summary(place.put(net), (7,))
        assert {row.output for row in found.rows} >= {"(n, 7, 3)", "(n, 2)"}
        assert place.stored("int64") in found.title
    with pytest.raises(DTypeError, match="X must hold integers, got float32"):
        summary(net, (7,), dtype="float32")


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_memory_and_input_follow_the_dtype(dtype):
    found = summary(Linear(3, 5, dtype=dtype), (3,))
    assert found.weight_bytes == 20 * np.dtype(dtype).itemsize
    assert found.title == f"Linear, input (n, 3) {dtype}"


def test_a_single_layer_is_its_own_row():
    assert [row.cells[:3] for row in summary(Linear(3, 2), 3).rows] == [("", "Linear(3, 2)", "(n, 2)")]
    assert [row.output for row in summary(ReLU(), ()).rows] == ["(n,)"]
    assert summary(Composition([]), (3,)).rows[0].layer == "Composition([])"


def test_repr_is_the_table():
    found = summary(nested(), (2,))
    assert repr(found) == str(found)


def test_a_function_that_stands_twice_shows_each_output():
    shared = MaxPool2D(2)
    found = summary(Composition([shared, Sequential(shared), shared]), (1, 16, 16))
    assert [row.output for row in found.rows] == [
        "(n, 1, 8, 8)",
        "(n, 1, 4, 4)",
        "(n, 1, 4, 4)",
        "(n, 1, 2, 2)",
    ]


class TwoInTwoOut(Function):
    def forward(self, A, B):
        return A + B, A[:, :1]


def test_several_inputs_and_outputs():
    found = summary(TwoInTwoOut(), [(4,), (4,)])
    assert found.rows[0].output == "(n, 4), (n, 1)"
    assert found.title == "TwoInTwoOut, input (n, 4), (n, 4) float32"


def test_a_long_repr_is_cut():
    class Wordy(Function):
        def __repr__(self):
            return "Wordy(\n" + "x" * 100 + ")"

        def forward(self, X):
            return X

    (row,) = summary(Wordy(), 3).rows
    assert row.layer.startswith("Wordy( xxx")
    assert row.layer.endswith("...")
    assert len(row.layer) == 48


def test_integer_inputs():
    class Lookup(Function):
        def forward(self, X):
            if "int" not in dc.to_numpy(X).dtype.name:
                raise DTypeError("wants integers")
            return X[:, :, None] * 1.0

    with pytest.raises(DTypeError, match="wants integers"):
        summary(Lookup(), (7,))
    found = summary(Lookup(), (7,), dtype="int64")
    assert found.rows[0].output == "(n, 7, 1)"
    assert found.title.endswith("int64")
    with pytest.raises(DTypeError, match="got int64"):
        summary(Linear(7, 1), (7,), dtype=np.int64)


@pytest.mark.parametrize("device", [None, "device1"])
def test_it_runs_where_the_net_is(device):
    with dc.use_backend("array_api_strict"):
        net = Composition([Linear(2, 3, device=device), ReLU(), Linear(3, 1, device=device)])
    assert [row.output for row in summary(net, (2,)).rows] == ["(n, 3)", "(n, 3)", "(n, 1)"]
    with dc.use_backend("array_api_strict"):
        assert summary(ReLU(), (2,)).rows[0].output == "(n, 2)"


# ---- errors


def test_a_shape_that_does_not_fit_is_the_nets_own_error():
    with pytest.raises(ShapeError, match=r"^layer 0, Linear\(2, 4\): X must end in 2, got \(2, 3\)"):
        summary(nested(), (3,))


@pytest.mark.parametrize("shape", [(1.0,), "28", None, (-1,), [(1,), 3], (None, 3), object()])
def test_what_is_no_shape(shape):
    with pytest.raises(
        ShapeError, match=r"summary: input_shape must be whole numbers, without the batch, got"
    ):
        summary(nested(), shape)


# ---- it changes nothing


class Restless(Function):
    """Does all that a forward should not."""

    def __init__(self):
        self.buffer["n"] = np.zeros(1)
        self.calls = 0

    def forward(self, X):
        self.calls += 1
        self._stage(n=self._staged("n") + 1)
        current_generator().next_call("dropout")
        return X

    def backward(self, dY):
        return dY


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 27, 3)])
def test_it_changes_nothing(shape):
    net = images()
    net.layers.insert(0, Restless())
    X = np.ones((3, 1, 28, 28), "float32")
    out = net(X)
    net.loss(out, np.array([0, 1, 2]))
    before, record, arrays = pickle.dumps(net), net._last.record, {**net.parameters(), **net.buffers()}
    with drawing_from(Generator(9)) as generator:
        try:
            summary(net, shape)
        except ShapeError:
            assert shape != (1, 28, 28)
        assert generator.calls == {}
    assert pickle.dumps(net) == before
    assert net._last.record is record
    assert net.training
    assert all(arrays[path] is x for path, x in {**net.parameters(), **net.buffers()}.items())
    assert all(type(f).__call__ is Function.__call__ for f in net.layers)
    net.backward()  # the pass from before the summary can still be undone


def test_weights_are_not_copied(monkeypatch):
    net = images()
    found = []
    forward = Linear.forward

    def noting(self, X):
        found.append(self.weight["W"] is net.layers[6].weight["W"])
        return forward(self, X)

    monkeypatch.setattr(Linear, "forward", noting)
    summary(net, (1, 28, 28))
    assert found == [True]


def test_it_runs_in_inference_mode():
    modes = []

    class Noting(Function):
        def forward(self, X):
            modes.append((self.training, self._recording))
            return X

    summary(Composition([Noting()]), (3,))
    assert modes == [(False, False)]


class Cells(html.parser.HTMLParser):
    """The rows of a page's table; a page whose tags don't match is an error."""

    def __init__(self, page):
        super().__init__()
        self.open, self.rows = [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def test_the_page_says_what_the_text_says():
    class Odd(Function):
        def forward(self, X):
            return X

        def __repr__(self):
            return "Odd(<b> & co)"

    found = summary(Composition([Flatten(), Sequential(Linear(6, 4), Odd()), Linear(4, 2)]), (2, 3))
    page = found.html()
    assert found._repr_html_() == page
    head, *rows, total = Cells(page).rows
    assert head[:5] == ["path", "layer", "output", "trainable", "frozen"]
    assert rows == [[cell.strip() for cell in row.cells] for row in found.rows]
    assert total[:4] == ["total", "", "", "38"]
    assert any("Odd(<b> & co)" in row for row in rows) and "<b>" not in page
    assert 'style="padding-left: 2em"' in page and "weights 0.00 MB" in page
