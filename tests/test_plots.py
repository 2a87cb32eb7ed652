import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore import Linear, Net
from deepcore.errors import ArgumentError, LabelError, ShapeError, UnsupportedError
from deepcore.plots import (
    activations,
    confusion_matrix,
    conv_filters,
    decision_boundary,
    draw_boundary,
    gradient_flow,
    history,
)


class Sides:
    """Says class 0 left of the middle, class 1 right of it."""

    def predict(self, X):
        X = np.asarray(X)
        return np.stack([-X[:, 0], X[:, 0]], axis=1)


X = np.array([[-1.0, 0.0], [1.0, 0.5], [0.8, -1.0]])
y = np.array([0, 1, 0])  # the last is on the wrong side


class TestDecisionBoundary:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_a_picture_is_written(self, tmp_path):
        decision_boundary(Sides(), X, y, tmp_path / "sides.png")
        assert (tmp_path / "sides.png").read_bytes().startswith(b"\x89PNG")

    def test_what_it_shows(self):
        figure = decision_boundary(Sides(), X, y, class_names=("left", "right"))
        (axes,) = figure.axes
        assert axes.get_title() == "2 of 3 samples right"
        assert [text.get_text() for text in figure.legends[0].texts] == ["left", "right", "wrong"]
        (tints,) = axes.images
        blue, white, orange = np.asarray(tints.get_array())[0, [0, 150, -1]]
        assert blue[2] > blue[0] and orange[0] > orange[2] and white.min() > 0.97

    def test_nothing_global_changes(self):
        decision_boundary(Sides(), X, y)
        pyplot = sys.modules.get("matplotlib.pyplot")
        assert pyplot is None or not pyplot.get_fignums()

    def test_many_classes_some_never_chosen(self):
        class Corners:
            def predict(self, X):
                Z = np.concatenate([X, -X, np.full((len(X), 5), -9.0)], axis=1)
                return Z.astype("float32")

        figure = decision_boundary(Corners(), X, np.array([2, 0, 8]))
        assert len(figure.legends[0].texts) == 9 + 1

    def test_a_single_point(self):
        decision_boundary(Sides(), X[:1], y[:1])

    def test_columns_on_other_scales(self):
        figure = decision_boundary(Sides(), X * [1, 1000], y)
        assert figure.axes[0].get_aspect() == "auto"

    def test_a_net_of_another_library(self):
        with dc.use_backend("array_api_strict"):
            net = dc.Net([dc.Linear(2, 2)])
        decision_boundary(net, X, y)

    def test_what_has_no_boundary(self):
        X, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
        with pytest.raises(ShapeError, match=r"the net must give \(n, c\), c >= 2 .* got \(4, 1\)"):
            decision_boundary(Net([Linear(2, 1)]), X, y)
        with pytest.raises(ShapeError, match=r"more than the largest label, 5, got \(4, 2\)"):
            decision_boundary(Net([Linear(2, 2)]), X, 5 * y)
        with pytest.raises(LabelError, match="whole numbers, 0 or more, got 0.5 in row 1"):
            decision_boundary(Net([Linear(2, 2)]), X, y / 2)
        with pytest.raises(ArgumentError, match="X holds NaN or inf"):
            decision_boundary(Net([Linear(2, 2)]), X + np.nan, y)
        with pytest.raises(ArgumentError, match="class_names: wanted one for each of 2 classes, got 1"):
            decision_boundary(Net([Linear(2, 2)]), X, y, class_names=["ring"])

    def test_an_unknown_ending(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"a.xyz: no picture can have the ending .xyz"):
            decision_boundary(Sides(), X, y, tmp_path / "a.xyz")


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[plot\]'"):
        decision_boundary(Sides(), X, y)


@pytest.mark.parametrize("draw", [decision_boundary, draw_boundary])
@pytest.mark.parametrize(
    ("X", "y"), [(X[:, :1], y), (X, y[:2]), (X[:, :, None], y), (X[:0], y[:0])], ids=lambda a: str(a.shape)
)
def test_only_the_plane_can_be_drawn(draw, X, y):
    with pytest.raises(ShapeError, match=r"X must be \(n, 2\) and y \(n,\), got"):
        draw(Sides(), X, y)


class TestDrawBoundary:
    def test_regions_and_samples(self):
        *page, where, marks = draw_boundary(Sides(), X, y, width=12, height=5).splitlines()
        assert page == [
            "......     x",
            "o.....      ",
            "......      ",
            "......      ",
            "......    # ",
        ]
        assert where == "x1 from -1.12 to 1.12, x2 from -1.09 to 0.59"
        assert marks == "regions and samples: class 0 '.' o, class 1 ' ' x; wrong #"

    def test_nothing_wrong(self):
        assert "wrong" not in draw_boundary(Sides(), X[:2], y[:2])

    def test_names(self):
        marks = draw_boundary(Sides(), X, y, class_names=("left", "right")).splitlines()[-1]
        assert marks == "regions and samples: left '.' o, right ' ' x; wrong #"

    def test_its_size(self):
        page = draw_boundary(Sides(), X, y).splitlines()[:-2]
        assert len(page) == 24 and {len(line) for line in page} == {60}

    def test_it_is_plain_text(self):
        assert draw_boundary(Sides(), X, y).isascii()

    def test_a_column_of_labels(self):
        assert draw_boundary(Sides(), X, y[:, None]) == draw_boundary(Sides(), X, y)

    def test_no_room(self):
        with pytest.raises(ArgumentError, match="width and height must be 2 or more, got 1 and 24"):
            draw_boundary(Sides(), X, y, width=1)


class TestHistory:
    @pytest.fixture
    def course(self):
        course = dc.History()
        for loss in (1.0, 0.5):
            course.add({"loss": loss, "accuracy": 1 - loss, "val_loss": 2 * loss})
        return course

    def test_a_panel_for_each_number(self, course, tmp_path):
        pytest.importorskip("matplotlib")
        figure = history(course, tmp_path / "course.svg")
        assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
        assert [len(axes.lines) for axes in figure.axes] == [2, 1]
        assert (tmp_path / "course.svg").read_text().lstrip().startswith("<?xml")

    def test_before_any_epoch(self):
        with pytest.raises(ArgumentError, match="nothing to draw; train for an epoch first"):
            history(dc.History())


def images(n=20):
    X = np.random.default_rng(0).random((n, 1, 8, 8)).astype("float32")
    return X, np.arange(n) % 3


def convolutional(channels=1, filters=4):
    return dc.Net(
        [dc.Conv2D(channels, filters), dc.ReLU(), dc.Sequential(dc.Flatten(), dc.Linear(36 * filters, 3))],
        dc.CrossEntropyLoss(),
    )


class TestConfusionMatrix:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_what_it_shows(self, tmp_path):
        figure = confusion_matrix(Sides(), X, y, tmp_path / "sides.png", ("left", "right"))
        (axes,) = figure.axes
        assert [text.get_text() for text in axes.texts] == ["1", "1", "0", "1"]
        np.testing.assert_allclose(axes.images[0].get_array(), [[0.5, 0.5], [0, 1]])
        assert axes.get_title() == "2 of 3 samples right"
        assert [label.get_text() for label in axes.get_yticklabels()] == ["left", "right"]
        assert (tmp_path / "sides.png").read_bytes().startswith(b"\x89PNG")

    def test_all_samples_count(self):
        (axes,) = confusion_matrix(Sides(), X[[0, 0, 0, 1]], y[[0, 0, 0, 1]]).axes
        assert [text.get_text() for text in axes.texts] == ["3", "0", "0", "1"]

    def test_labels_that_are_none(self):
        X, net = np.zeros((2, 2)), Net([Linear(2, 3)])
        for wrong, told in (
            ([0, -1], "-1 in row 1"),
            ([0.5, 1.0], "0.5 in row 0"),
            ([1.0, np.nan], "nan in row 1"),
        ):
            with pytest.raises(LabelError, match=f"whole numbers, 0 or more, got {told}"):
                confusion_matrix(net, X, np.array(wrong))
        with pytest.raises(ArgumentError, match="class_names: wanted one for each of 3 classes, got 1"):
            confusion_matrix(net, X, np.array([0, 1]), class_names=["a"])

    def test_labels_beyond_the_outputs_and_classes_without_samples(self):
        (axes,) = confusion_matrix(Sides(), X, np.array([0, 3, 3])).axes
        assert axes.images[0].get_array().shape == (4, 4)

    def test_many_classes_have_no_numbers(self):
        (axes,) = confusion_matrix(Sides(), X, np.array([0, 40, 0])).axes
        assert not axes.texts

    def test_another_library(self):
        with dc.use_backend("array_api_strict"):
            net = dc.Net([dc.Linear(2, 2)])
        confusion_matrix(net, X, y)

    @pytest.mark.parametrize("y", [y[:2], y[:0]])
    def test_shapes(self, y):
        with pytest.raises(ShapeError, match=r"wanted outputs \(n, c\) and labels \(n,\), got"):
            confusion_matrix(Sides(), X, y)


class TestConvFilters:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    @pytest.mark.parametrize(
        ("channels", "filters", "panels", "title"),
        [
            (1, 4, 4, "4 filters of 1 channel"),
            (1, 20, 20, "20 filters of 1 channel"),
            (3, 5, 5, "5 filters of 3 channels"),
            (2, 1, 2, "1 filter of 2 channels"),
            (20, 20, 256, "20 filters of 20 channels, of which a part"),
        ],
    )
    def test_a_picture_for_each(self, channels, filters, panels, title, tmp_path):
        figure = conv_filters(convolutional(channels, filters), tmp_path / "filters.png")
        assert sum(len(axes.images) for axes in figure.axes) == panels
        assert figure.get_suptitle() == title
        assert (tmp_path / "filters.png").exists()

    def test_what_a_picture_shows(self):
        layer = dc.Conv2D(2, 3, 5)
        figure = conv_filters(layer)
        shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]
        np.testing.assert_allclose(shown[3], layer.weight["W"][1, 1], rtol=1e-6)
        assert {axes.images[0].norm.vmax for axes in figure.axes if axes.images} == {
            abs(layer.weight["W"]).max()
        }

    def test_a_net_without(self):
        for wrong in (dc.Net([dc.Linear(2, 2)]), np.ones(3)):
            with pytest.raises(ArgumentError, match="wanted a Conv2D, or a net with one, got"):
                conv_filters(wrong)


class TestGradientFlow:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_what_it_shows(self, tmp_path):
        net, (X, y) = convolutional(), images()
        left, right = gradient_flow(net, X, y, tmp_path / "flow.png").axes
        names = ["layers.0  Conv2D", "layers.1  ReLU", "layers.2.0  Flatten", "layers.2.1  Linear"]
        assert [label.get_text() for label in left.get_yticklabels()] == names
        assert [label.get_text() for label in right.get_yticklabels()] == ["layers.0.W", "layers.2.1.W"]
        net.loss(net(X), y)
        net.backward()
        W, dW = net.layers[2][1].weight["W"], net.layers[2][1].weight_update["W"]
        assert right.lines[0].get_xdata()[1] == pytest.approx(
            np.linalg.norm(dW) / np.linalg.norm(W), rel=1e-5
        )
        last = np.linalg.norm(net.loss_fn.grad["X"])
        assert left.lines[0].get_xdata()[3] == pytest.approx(last, rel=1e-5)

    def test_a_gradient_that_is_zero(self):
        net, (X, y) = convolutional(), images()
        net.layers[0].weight["b"][:] = -100
        left, _ = gradient_flow(net, X, y).axes
        assert [text.get_text() for text in left.texts] == [" 0"]
        assert len(left.lines[0].get_xdata()) == 3

    def test_errors(self):
        X, y = images()
        with pytest.raises(dc.StateError, match="gradient_flow: this net has no loss"):
            gradient_flow(dc.Net([dc.ReLU()]), X, y)
        with pytest.raises(ShapeError, match="layer 0"):
            gradient_flow(convolutional(2), X, y)


class TestActivations:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        pytest.importorskip("matplotlib")

    def test_what_it_shows(self, tmp_path):
        net, (X, _) = convolutional(), images()
        figure = activations(net, X, tmp_path / "activations.png")
        titles = [axes.get_title() for axes in figure.axes]
        assert titles == ["layers.0  Conv2D", "layers.1  ReLU", "layers.2.0  Flatten", "layers.2.1  Linear"]
        Y = net.layers[0](X)
        assert figure.axes[0].get_xlabel() == f"std {Y.astype('float64').std():.3g}, 0% zero"
        assert figure.axes[1].get_xlabel().endswith(f"{(Y <= 0).mean():.0%} zero")
        assert sum(figure.axes[0].patches[0].get_data().values) == pytest.approx(1)

    def test_nan_is_said(self):
        net, (X, _) = convolutional(), images()
        X[:10] = np.nan
        assert activations(net, X).axes[0].get_xlabel().endswith(", 50% NaN or inf")

    def test_errors(self):
        with pytest.raises(ArgumentError, match="no layer with a floating output"):
            activations(dc.Net([]), np.ones((2, 2)))
        with pytest.raises(ShapeError, match="layer 0"):
            activations(convolutional(2), images()[0])


@pytest.mark.parametrize("draw", [confusion_matrix, gradient_flow])
def test_the_others_without_matplotlib(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    net = dc.Net([dc.Linear(2, 2)], dc.CrossEntropyLoss())
    with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[plot\]'"):
        draw(net, X, y)
    with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[plot\]'"):
        activations(net, X)
    with pytest.raises(UnsupportedError, match=r"pip install 'deepcore\[plot\]'"):
        conv_filters(dc.Conv2D(1, 1))
