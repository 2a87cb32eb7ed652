"""Data sets by name or path: the ring, scikit-learn's digits, a file of arrays, a folder of images."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.data.arrays import read_arrays
from deepcore.data.images import read_folder
from deepcore.data.ring import ring
from deepcore.errors import ArgumentError, MissingDataError, UnsupportedError

NAMES = ("ring", "digits")


@dataclass(frozen=True)
class DataSet:
    """Samples and their classes. `X, y, class_names = load(...)` takes them apart.

    X: (n, d) features or (n, c, h, w) images   y: (n,) int64, positions in class_names
    X_test, y_test: samples that the set itself holds back for testing, or None
    """

    X: np.ndarray
    y: np.ndarray
    class_names: tuple[str, ...]
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.X, self.y, self.class_names))


def load(source: str | Path, *, size: int | tuple[int, int] | None = None, seed: int = 0) -> DataSet:
    """The data set of that name, or at that path.

    "ring"     a disc inside a ring, (200, 2) float64, drawn with `seed`
    "digits"   scikit-learn's 1,797 handwritten digits, (n, 1, 8, 8) uint8
    FILE.npz   arrays X and y, or x_train and y_train; maybe X_test and y_test, or x_test and y_test
    FOLDER     of a folder of images for each class: (n, 1, h, w) uint8 if all are grey, else (n, 3, h, w)

    size: (height, width), or one number for both, that the images of a folder are resized to.

    Raises MissingDataError for a path that is not there, DataError for what cannot be used as it is,
    UnsupportedError where scikit-learn or Pillow is needed and not installed.

    >>> X, y, class_names = load("ring")
    >>> X.shape, y.shape, class_names
    ((200, 2), (200,), ('ring', 'disc'))
    """
    path = Path(source)
    if size is not None and not (path.is_dir() and source not in NAMES):
        raise ArgumentError(f"size is for a folder of images, which {str(source)!r} is not")
    if source == "ring":
        return DataSet(*ring(seed=seed), ("ring", "disc"))
    if source == "digits":
        return _digits()
    if path.is_dir():
        return DataSet(*read_folder(path, size))
    if path.is_file():
        return DataSet(*read_arrays(path))
    raise missing(path)


def _digits() -> DataSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UnsupportedError(
            "the digits come with scikit-learn, which is not installed; pip install 'deepcore[sklearn]'"
        ) from error
    found: Any = load_digits()
    X = np.rint(found.images * (255 / 16)).astype("uint8")  # 17 levels of grey, 0 to 16
    return DataSet(X[:, None], found.target.astype("int64"), tuple(map(str, range(10))))


def missing(path: Path, endings: tuple[str, ...] = (".npz",)) -> MissingDataError:
    """The error for a path that is not there, which says what else could have been meant."""
    return MissingDataError(f"there is no file or folder {str(path)!r}; {_nearby(path, endings)}")


def _nearby(path: Path, endings: tuple[str, ...]) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"nor is there a folder {str(folder)!r}"
    there = sorted(x.name for x in folder.iterdir() if x.is_dir() or x.suffix in endings)
    there = [name for name in there if not name.startswith(".")]
    near = difflib.get_close_matches(path.name, [*NAMES, *there], n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    listed = ", ".join(there[:8]) + (", ..." if len(there) > 8 else "")
    place = "the current folder" if folder == Path() else repr(str(folder))
    listed = listed or f"no {endings[0]} file and no folder"
    return f"{place} has {listed}; sets with a name are {' and '.join(NAMES)}"
