"""NetClassifier and NetRegressor: scikit-learn's own checks, and what they cannot know."""

import numpy as np
import pytest

import deepcore as dc
from deepcore import Dropout, Linear, Net, ReLU

pytest.importorskip("sklearn", reason="needs scikit-learn")
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import deepcore.sklearn
from deepcore.sklearn import NetClassifier, NetRegressor


@parametrize_with_checks([NetClassifier(), NetRegressor()])
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def moons(n=200, kind="int64"):
    random = np.random.default_rng(0)
    y = random.integers(0, 2, n)
    angle = np.pi * (random.random(n) + y)
    X = np.stack([np.cos(angle) + y - 0.5, np.sin(angle) + 0.5 * y - 0.25], axis=1)
    return X + 0.05 * random.standard_normal(X.shape), y.astype(kind)


def test_it_learns_beside_other_estimators():
    X, y = load_iris(return_X_y=True)
    model = make_pipeline(
        StandardScaler(), NetClassifier((20,), optimizer=dc.optim.Adam(0.01), random_state=0)
    )
    assert cross_val_score(model, X, y, cv=3).mean() > 0.93


def test_a_grid_search_over_hidden_sizes():
    X, y = moons()
    search = GridSearchCV(
        NetClassifier(epochs=60, optimizer=dc.optim.Adam(0.01), random_state=0), {"hidden": [(), (16,)]}, cv=2
    )
    search.fit(X, y)
    assert search.best_params_ == {"hidden": (16,)} and search.best_score_ > 0.95


def own_net(n_features, n_outputs):
    return Net([Linear(n_features, 16), ReLU(), Dropout(0.1), Linear(16, n_outputs)])


def test_a_net_of_ones_own():
    X, y = moons()
    model = NetClassifier(make_net=own_net, epochs=60, optimizer=dc.optim.Adam(0.01), random_state=0)
    assert clone(model).fit(X, y).score(X, y) > 0.95
    model.fit(X, y)
    assert model.net_.layers[2].p == 0.1
    assert isinstance(model.net_.loss_fn, dc.CrossEntropyLoss)
    model = NetRegressor(make_net=own_net, epochs=5).fit(X, y)
    assert isinstance(model.net_.loss_fn, dc.MSELoss)
    with pytest.raises(dc.DTypeError, match="NetClassifier: make_net must return a deepcore.Net, got 3"):
        NetClassifier(make_net=lambda n, k: 3).fit(X, y)


def test_one_random_state_gives_one_net_and_leaves_the_seed_alone():
    X, y = moons(50)
    dc.seed(3)
    a = NetClassifier(make_net=own_net, epochs=2, random_state=1).fit(X, y)
    after = Linear(2, 2).weight["W"]
    dc.seed(3)
    assert np.array_equal(after, Linear(2, 2).weight["W"])
    b = NetClassifier(make_net=own_net, epochs=2, random_state=1).fit(X, y)
    other = NetClassifier(make_net=own_net, epochs=2, random_state=2).fit(X, y)
    for path, W in a.net_.parameters().items():
        assert np.array_equal(W, b.net_.parameters()[path])
    assert not np.array_equal(a.net_.layers[0].weight["W"], other.net_.layers[0].weight["W"])


def test_the_optimizer_that_is_given_is_not_used_up():
    X, y = moons(50)
    optimizer = dc.optim.SGD(0.1, momentum=0.9)
    model = NetClassifier(optimizer=optimizer, epochs=1)
    model.fit(X, y).fit(X, y)
    optimizer_of_another_net = Net([Linear(2, 2)], dc.CrossEntropyLoss())
    optimizer_of_another_net.fit(X, y, optimizer=optimizer)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_of_X_decides(dtype):
    X, y = moons(50)
    model = NetClassifier(epochs=1).fit(X.astype(dtype), y)
    assert model.net_.layers[0].weight["W"].dtype == dtype
    assert model.predict_proba(X.astype(dtype)).dtype == dtype
    model = NetRegressor(epochs=1).fit(X.astype(dtype), y)
    assert model.predict(X.astype(dtype)).dtype == dtype


@pytest.mark.parametrize("nested", [False, True])
def test_probabilities_of_a_net_that_ends_with_a_softmax(nested):
    """They are its output, whose softmax would be something else."""
    X, y = moons(50)

    def make(i, o):
        layers = [dc.Linear(i, o, dtype="float64"), dc.Softmax()]
        return dc.Net([dc.Sequential(*layers)] if nested else layers)

    model = NetClassifier(make_net=make, epochs=1).fit(X, y)
    assert np.array_equal(model.predict_proba(X), model.net_.predict(X))


def test_what_hidden_must_be():
    for wrong in (10, "100", None):
        with pytest.raises(dc.ArgumentError, match=r"NetClassifier: hidden must be the sizes of the layers"):
            NetClassifier(hidden=wrong).fit(*moons(20))


def test_targets_of_another_library_must_be_finite():
    strict = pytest.importorskip("array_api_strict", reason="needs array-api-strict")
    X = strict.ones((4, 1), dtype=strict.float32)
    with pytest.raises(ValueError, match="NaN"):
        NetRegressor(epochs=1).fit(X, X[:, 0] * float("nan"))


def test_several_targets():
    X, Y = make_regression(100, 5, n_targets=2, random_state=0)
    Y = Y / Y.std(axis=0)
    model = NetRegressor((), epochs=100, optimizer=dc.optim.Adam(0.02), random_state=0).fit(X, Y)
    assert model.predict(X).shape == (100, 2) and model.score(X, Y) > 0.98
    assert NetRegressor(epochs=1).fit(X, Y[:, 0]).predict(X).shape == (100,)


LIBRARIES = ["array_api_strict", "torch"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_arrays_of_another_library_stay_there(library):
    pytest.importorskip(library, reason=f"needs {library}")
    X, y = moons(kind="int32")
    there = dc.to_backend(X.astype("float32"), library)
    model = NetClassifier((16,), epochs=40, optimizer=dc.optim.Adam(0.01), random_state=0)
    model.fit(there, dc.to_backend(y * 10, library))
    P = model.predict_proba(there)
    assert dc.backend_of(P) == library == dc.backend_of(model.net_.layers[0].weight["W"])
    classes = model.predict(there)
    assert dc.backend_of(classes) == library
    assert (dc.to_numpy(classes) == 10 * y).mean() > 0.95
    model = NetRegressor((16,), epochs=1).fit(there, dc.to_backend(X, library))
    assert dc.backend_of(model.predict(there)) == library
    with pytest.raises(dc.ShapeError, match=r"X must have shape \(n_samples, 2\), got \(200, 1\)"):
        model.predict(there[:, :1])
    with pytest.raises(dc.DTypeError, match="X must be floating-point numbers, got int32"):
        model.fit(dc.to_backend(X.astype("int32"), library), there)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(there * float("nan"))


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("kind", "metric"),
    [(NetClassifier, "accuracy_score"), (NetRegressor, "r2_score")],
    ids=["class", "number"],
)
def test_scores_are_of_arrays_on_the_host(kind, metric, library, monkeypatch):
    """scikit-learn's metrics convert what they are given, which CuPy's arrays refuse."""
    pytest.importorskip(library, reason=f"needs {library}")
    X, y = moons(50)
    w = np.linspace(0, 1, 50)
    model = kind(epochs=5, random_state=0)
    right = model.fit(X, y).score(X, y, w)
    real, seen = getattr(deepcore.sklearn, metric), []

    def spied(*arrays, sample_weight):
        seen.extend(type(x) for x in (*arrays, sample_weight))
        return real(*arrays, sample_weight=sample_weight)

    monkeypatch.setattr(f"deepcore.sklearn.{metric}", spied)
    there = [dc.to_backend(x, library) for x in (X, y, w)]
    assert model.fit(*there[:2]).score(*there) == pytest.approx(right)
    assert seen == [np.ndarray] * 3


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_and_names_of_classes_and_columns(library):
    frames = pytest.importorskip(library, reason=f"needs {library}")
    X, y = moons(50)
    frame, words = frames.DataFrame({"a": X[:, 0], "b": X[:, 1]}), np.array(["no", "yes"])[y]
    model = NetClassifier(epochs=2, random_state=0)
    found = model.fit(frame, frames.Series(words), sample_weight=frames.Series(np.ones(50))).predict(frame)
    assert model.feature_names_in_.tolist() == ["a", "b"]
    same = clone(model).fit(X, words, sample_weight=np.ones(50))
    assert np.array_equal(found, same.predict(X)) and set(found) <= {"no", "yes"}
    Y = NetRegressor(epochs=2, random_state=0).fit(frame, frame).predict(frame)
    assert np.array_equal(Y, NetRegressor(epochs=2, random_state=0).fit(X, X).predict(X))


# ---- weights of samples


@pytest.mark.parametrize("library", ["numpy", *LIBRARIES])
@pytest.mark.parametrize("kind", [NetClassifier, NetRegressor])
def test_weights_decide_between_samples_that_disagree(kind, library):
    pytest.importorskip(library, reason=f"needs {library}")
    X = dc.to_backend(np.zeros((40, 1), "float32"), library)
    y = np.arange(40) % 2
    for heavy in (0, 1):
        w = np.where(y == heavy, 9.0, 1.0)
        model = kind((), epochs=60, optimizer=dc.optim.Adam(0.1), random_state=0)
        model.fit(X, dc.to_backend(y if kind is NetClassifier else y * 1.0, library), sample_weight=w)
        found = model.predict_proba(X)[0, 1] if kind is NetClassifier else model.predict(X)[0]
        assert abs(float(found) - (0.9 if heavy else 0.1)) < 0.05


def test_a_factor_common_to_all_weights_changes_nothing():
    X, y = moons(50)
    w = np.random.default_rng(0).uniform(0, 2, 50)
    a, b, c = (
        NetClassifier(epochs=2, random_state=0).fit(X, y, sample_weight=weights).predict_proba(X)
        for weights in (w, 1024 * w, None)
    )
    np.testing.assert_allclose(a, b, rtol=1e-12)
    assert not np.allclose(a, c)


@pytest.mark.parametrize(
    ("weights", "text"),
    [([1.0], "inconsistent|shape"), ([-1.0] * 50, "[Nn]egative"), ([0.0] * 50, "nothing to learn|non-zero"),
     ([np.nan] * 50, "NaN")],
)  # fmt: skip
@pytest.mark.parametrize("library", ["numpy", "array_api_strict"])
def test_weights_that_are_none(weights, text, library):
    X, y = moons(50)
    with pytest.raises(ValueError, match=text):
        NetClassifier(epochs=1).fit(dc.to_backend(X, library), y, sample_weight=weights)
