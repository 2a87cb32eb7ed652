"""Nets as estimators of scikit-learn: in pipelines, grid searches and cross-validation, beside all others.

Needs scikit-learn. The net itself is `net_` once fitted: all that deepcore can do with a net is there.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.metrics import accuracy_score, r2_score
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('deepcore.sklearn needs scikit-learn 1.6: pip install "deepcore[sklearn]"') from error

from deepcore.activations import ReLU
from deepcore.backends.registry import array_namespace, backend_of, is_array
from deepcore.backends.select import dtype_name, is_floating, put, to_numpy, use_backend
from deepcore.core.function import Function
from deepcore.core.random import Generator, drawing_from
from deepcore.errors import ArgumentError, DTypeError, ShapeError
from deepcore.layers.linear import Linear
from deepcore.losses import CrossEntropyLoss, MSELoss
from deepcore.net import Net
from deepcore.optim import Adam
from deepcore.train.predict import probabilities


class _Estimator(BaseEstimator):
    """What the two have in common. Abstract: use NetClassifier or NetRegressor."""

    _loss: type

    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        *,
        make_net: Callable[[int, int], Net] | None = None,
        epochs: int = 100,
        batch_size: int = 32,
        optimizer: Any = None,
        random_state: Any = None,
    ):
        self.hidden = hidden
        self.make_net = make_net
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.random_state = random_state

    def _fit(self, X: Any, y: Any, n_outputs: int, sample_weight: Any) -> None:
        """Make the net where X is, and train it."""
        sample_weight = _weights(sample_weight, X)
        seed = int(check_random_state(self.random_state).randint(2**31))
        with drawing_from(Generator(seed)), use_backend("numpy"):
            if self.make_net is None:
                net = self._default_net(X.shape[1], n_outputs, dtype_name(X))
            else:
                net = self.make_net(X.shape[1], n_outputs)
        if not isinstance(net, Net):
            raise DTypeError(f"{type(self).__name__}: make_net must return a deepcore.Net, got {net!r:.100}")
        if net.loss_fn is None:
            net.loss_fn = self._loss()
        backend = backend_of(X)
        net.to(backend.name, backend.device(X))
        optimizer = Adam() if self.optimizer is None else copy.deepcopy(self.optimizer)
        self.history_ = net.fit(
            X,
            put(y, backend, device=backend.device(X)),
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=optimizer,
            metrics=(),
            sample_weight=sample_weight,
            seed=seed,
            progress=False,
        )
        self.net_ = net

    def _default_net(self, n_features: int, n_outputs: int, dtype: str) -> Net:
        """Linear and ReLU in turn, the last Linear without."""
        if isinstance(self.hidden, str) or not hasattr(self.hidden, "__iter__"):
            who = type(self).__name__
            raise ArgumentError(
                f"{who}: hidden must be the sizes of the layers, such as (100,), got {self.hidden!r}"
            )
        sizes = [n_features, *self.hidden, n_outputs]
        layers: list[Function] = []
        for i, o in itertools.pairwise(sizes):
            layers += [Linear(i, o, dtype=dtype), ReLU()]
        return Net(layers[:-1], self._loss())

    def _features(self, X: Any) -> Any:
        """X, as an array that the net takes, if it has the features that it was fitted with."""
        check_is_fitted(self)
        if _elsewhere(X):
            return _checked(self, X, reset=False)
        return validate_data(self, X, dtype=_FLOATS, reset=False)


_FLOATS = (np.float64, np.float32)  # what X may be; all else becomes the first


def _elsewhere(X: Any) -> bool:
    """Whether X is an array of a library other than NumPy, which scikit-learn need not see."""
    return is_array(X) and backend_of(X) != "numpy"


def _checked(estimator: Any, X: Any, reset: bool) -> Any:
    """X, if it is a finite matrix of floats with as many features as there were; it stays where it is."""
    who, xp = type(estimator).__name__, array_namespace(X)
    if not is_floating(X):
        raise DTypeError(f"{who}: X must be floating-point numbers, got {dtype_name(X)}")
    if X.ndim != 2 or (not reset and X.shape[1] != estimator.n_features_in_):
        wanted = "n_features" if reset else estimator.n_features_in_
        raise ShapeError(f"{who}: X must have shape (n_samples, {wanted}), got {tuple(X.shape)}")
    if not bool(xp.all(xp.isfinite(X))):
        raise ValueError(f"{who}: X holds NaN or infinity; replace them first")
    if reset:
        estimator.n_features_in_ = X.shape[1]
    return X


def _host(x: Any) -> Any:
    """A known library's array as NumPy's, which its metrics want and CuPy gives only when asked to."""
    return to_numpy(x) if is_array(x) else x


def _weights(sample_weight: Any, X: Any) -> Any:
    """(n,) on the host, 1 on average, so that a factor common to all changes nothing; None for none."""
    if sample_weight is None:
        return None
    w = _check_sample_weight(
        _host(sample_weight), np.empty((X.shape[0], 0)), dtype=np.float64, ensure_non_negative=True
    )
    if not w.sum() > 0:
        raise ValueError("sample_weight: all are 0, so that there is nothing to learn from")
    return w / w.mean()


class NetClassifier(ClassifierMixin, _Estimator):
    """A net that sorts samples into classes, with cross-entropy as its loss.

    hidden: sizes of the hidden layers, with ReLU behind each.
    make_net: n_features, n_classes -> Net, in place of those; without a loss it gets CrossEntropyLoss.
    epochs, batch_size: of the training, as in Net.fit.   optimizer: Adam() unless given; each fit has a copy.
    random_state: decides the initial weights, the order of the samples, and dropout.

    The default net has the dtype of X: float32 is faster. An array of another library, such as CuPy, is
    trained on where it is, and so are the predictions; labels are then best whole numbers. pandas and polars
    frames are taken as scikit-learn takes them.

    After fit: net_, history_, classes_, n_features_in_.

    >>> import numpy as np
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["low", "low", "high", "high"])
    >>> NetClassifier(hidden=(), epochs=300, optimizer=Adam(0.1), random_state=0).fit(X, y).predict(X)
    array(['low', 'low', 'high', 'high'], dtype='<U4')
    """

    _loss = CrossEntropyLoss

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NetClassifier:
        """Train a new net on samples X (n, features) with classes y (n,) of any kind; returns self.

        sample_weight: (n,), a factor for the loss of each sample, 0 or more; what counts is their ratios.
        """
        if _elsewhere(X):
            X, y = _checked(self, X, reset=True), to_numpy(y).reshape(-1)
        else:
            X, y = validate_data(self, X, y, dtype=_FLOATS)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._fit(X, labels, len(self.classes_), sample_weight)
        return self

    def predict_proba(self, X: Any) -> Any:
        """The probability of each class, in the order of classes_: (n, classes).

        It is the softmax of the net's output, or that output itself if a net of make_net ends with a Softmax.
        """
        X = self._features(X)
        return probabilities(self.net_, self.net_.predict(X))

    def predict(self, X: Any) -> Any:
        """The class of each sample: (n,)."""
        X = self._features(X)
        P = self.net_.predict(X)
        xp = array_namespace(P)
        labels = xp.argmax(P, axis=1)
        if _elsewhere(P) and self.classes_.dtype.kind in "biu":
            return xp.take(put(self.classes_, backend_of(P), device=backend_of(P).device(P)), labels)
        return self.classes_[to_numpy(labels)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The fraction of samples whose class is right, or of their weights."""
        return accuracy_score(_host(y), _host(self.predict(X)), sample_weight=_host(sample_weight))


class NetRegressor(RegressorMixin, _Estimator):
    """A net that predicts numbers, with the mean square as its loss. Scale the targets to about 1.

    hidden: sizes of the hidden layers, with ReLU behind each.
    make_net: n_features, n_targets -> Net, in place of those; without a loss it gets MSELoss.
    epochs, batch_size: of the training, as in Net.fit.   optimizer: Adam() unless given; each fit has a copy.
    random_state: decides the initial weights, the order of the samples, and dropout.

    The default net has the dtype of X: float32 is faster. An array of another library, such as CuPy, is
    trained on where it is, and so are the predictions.

    After fit: net_, history_, n_features_in_.

    >>> import numpy as np
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> model = NetRegressor(hidden=(), epochs=300, optimizer=Adam(0.1), random_state=0)
    >>> model.fit(X, 2 * X[:, 0] + 1).predict(np.array([[0.5]])).round(1)
    array([2.])
    """

    _loss = MSELoss

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NetRegressor:
        """Train a new net on samples X (n, features) with targets y (n,) or (n, targets); returns self.

        sample_weight: (n,), a factor for the loss of each sample, 0 or more; what counts is their ratios.
        """
        if _elsewhere(X):
            X = _checked(self, X, reset=True)
            y = check_array(to_numpy(y), ensure_2d=False)
        else:
            X, y = validate_data(self, X, y, dtype=_FLOATS, multi_output=True, y_numeric=True)
        self._flat = y.ndim == 1
        Y = y.reshape(-1, 1) if self._flat else y
        self._fit(X, Y.astype(dtype_name(X)), Y.shape[1], sample_weight)
        return self

    def predict(self, X: Any) -> Any:
        """The targets of each sample, in the shape that they were learnt in: (n,) or (n, targets)."""
        X = self._features(X)
        Y = self.net_.predict(X)
        return array_namespace(Y).reshape(Y, (-1,)) if self._flat else Y

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R^2: 1 for predictions without an error, 0 for those of the mean alone."""
        return r2_score(_host(y), _host(self.predict(X)), sample_weight=_host(sample_weight))
