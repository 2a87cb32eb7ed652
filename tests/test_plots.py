import sys

import numpy as np
import pytest

import deepcore as dc
from deepcore.errors import ArgumentError, ShapeError, UnsupportedError
from deepcore.plots import decision_boundary, draw_boundary, history


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

    def test_an_unknown_ending(self, tmp_path):
        with pytest.raises(ArgumentError, match=r"a.xyz: .*[Ff]ormat"):
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
