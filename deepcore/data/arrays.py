"""A data set in one .npz file, as numpy.savez writes it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from deepcore.errors import DataError

# Which arrays are wanted: samples and labels, and maybe samples and labels that are held back for testing.
_LAYOUTS = (("X", "y", "X_test", "y_test"), ("x_train", "y_train", "x_test", "y_test"))


def read_arrays(path: Path) -> tuple:
    """X, y, class_names, and X_test, y_test if the file has them: the fields of a DataSet.

    Raises DataError for what cannot be used as it is. No pickle is run.
    """
    found = _read(path)
    names = next(layout for layout in _LAYOUTS if layout[0] in found)
    X, labels = _samples(path, found, *names[:2])
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"{path}: needs two classes or more, but every label is {classes[0]}")
    class_names = tuple(map(str, classes))
    if names[2] not in found:
        return X, y.astype("int64"), class_names
    X_test, labels_test = _samples(path, found, *names[2:])
    if X_test.shape[1:] != X.shape[1:]:
        raise DataError(
            f"{path}: a sample of {names[0]} is {X.shape[1:]}, one of {names[2]} is {X_test.shape[1:]}"
        )
    return X, y.astype("int64"), class_names, X_test, _positions(path, classes, labels_test, *names[1::2])


def _read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one layout, by name."""
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is no .npz file; write one with numpy.savez(path, X=X, y=y)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for X, y, X_test, y_test in _LAYOUTS:
                if X in archive and y in archive:
                    tests = (X_test, y_test) if X_test in archive and y_test in archive else ()
                    return {name: archive[name] for name in (X, y, *tests)}
            there = ", ".join(archive.files) or "nothing"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    raise DataError(f"{path}: wanted arrays X and y, or x_train and y_train; it holds {there}")


def _samples(
    path: Path, found: dict[str, np.ndarray], X_name: str, y_name: str
) -> tuple[np.ndarray, np.ndarray]:
    """X as (n, d) or (n, c, h, w), and labels as (n,)."""
    X, y = found[X_name], found[y_name]
    if X.dtype.kind not in "biuf" or X.ndim not in (2, 3, 4) or 0 in X.shape:
        raise DataError(
            f"{path}: {X_name} must be real numbers of shape (n, d), (n, h, w) or (n, c, h, w), "
            f"and not empty; got {X.dtype} of shape {X.shape}"
        )
    if y.shape not in {(len(X),), (len(X), 1)} or y.dtype.kind not in "biuU":
        raise DataError(
            f"{path}: {y_name} must be a whole number or a word for each of the {len(X)} samples "
            f"of {X_name}, got {y.dtype} of shape {y.shape}"
        )
    if X.dtype.kind == "f" and not np.isfinite(X).all():
        bad = np.flatnonzero(~np.isfinite(X.reshape(len(X), -1)).all(axis=1))[0]
        raise DataError(f"{path}: row {bad} of {X_name} holds a nan or an infinity; drop or fill such rows")
    return channels_first(X), y.reshape(-1)


def channels_first(X: np.ndarray) -> np.ndarray:
    """Images as (n, c, h, w), from (n, h, w) and from (n, h, w, c); other shapes stay."""
    if X.ndim == 3:
        return X[:, None]  # (n, h, w) -> (n, 1, h, w)
    channels = (1, 3, 4)
    if X.ndim == 4 and X.shape[1] not in channels and X.shape[3] in channels:
        return np.moveaxis(X, 3, 1)  # (n, h, w, c) -> (n, c, h, w)
    return X


def _positions(
    path: Path, classes: np.ndarray, labels: np.ndarray, y_name: str, test_name: str
) -> np.ndarray:
    """The position of each label among the classes, which are sorted."""
    of_one_kind = (classes.dtype.kind == "U") == (labels.dtype.kind == "U")
    unknown = labels[~np.isin(labels, classes)] if of_one_kind else labels
    if len(unknown):
        raise DataError(f"{path}: {test_name} has the label {unknown[0]}, which {y_name} lacks")
    return np.searchsorted(classes, labels).astype("int64")
