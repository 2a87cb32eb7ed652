"""Samples without labels, to predict for: from arrays, tables of text, or images."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepcore.data.arrays import channels_first
from deepcore.data.images import read_images
from deepcore.data.sets import NAMES, load, missing
from deepcore.errors import ArgumentError, DataError


class Samples(NamedTuple):
    """X: (n, ...), as it is in the file; a memory map where that is possible.   names: of files, or None"""

    X: np.ndarray
    names: tuple[str, ...] | None = None


def read_samples(source: str | Path, size: int | tuple[int, int] | None = None) -> Samples:
    """The samples at a path, or of the data set of that name.

    FILE.npy   one array (n, ...)
    FILE.npz   its array X, or the only one that it has
    FILE.csv   a line of numbers for each sample, with commas, semicolons or tabs; a first line without any
               number is a heading
    FOLDER     of images, in it or in the folders inside it: (n, c, h, w) uint8
    "ring", "digits"

    Whole numbers with three axes or more are images; their channels come first, wherever they stood.
    size: (height, width), or one number for both, that the images of a folder are resized to.

    Raises MissingDataError for a path that is not there, DataError for what cannot be used as it is.

    >>> read_samples("ring").X.shape
    (200, 2)
    """
    path = Path(source)
    if size is not None and not (path.is_dir() and source not in NAMES):
        raise ArgumentError(f"size is for a folder of images, which {str(source)!r} is not")
    if source in NAMES:
        return Samples(load(source).X)
    if path.is_dir():
        return _folder(path, size)
    if not path.is_file():
        raise missing(path, (".npz", ".npy", ".csv"))
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: wanted a folder of images, or a file {', '.join(_READERS)}")
    X = reader(path)
    if X.dtype.kind not in "biuf" or X.ndim < 2 or 0 in X.shape:
        raise DataError(
            f"{path}: the samples must be real numbers of shape (n, ...), and not empty; "
            f"got {X.dtype} of shape {X.shape}"
        )
    return Samples(channels_first(X) if X.dtype.kind in "iu" else X)


def _folder(folder: Path, size: int | tuple[int, int] | None) -> Samples:
    """All images at or below a folder, in the order of their names."""
    found = sorted(x.relative_to(folder) for x in folder.rglob("*") if x.is_file())
    names = [x for x in found if not any(part.startswith(".") for part in x.parts)]
    if not names:
        raise DataError(f"{folder}: has no files; put images into it")
    X = read_images([folder / x for x in names], size)
    return Samples(X, tuple(x.as_posix() for x in names))


def _npy(path: Path) -> np.ndarray:
    try:
        found: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: is no .npy file; write one with numpy.save(path, X)")
    return found


def _npz(path: Path) -> np.ndarray:
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is no .npz file; write one with numpy.savez(path, X=X)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            name = "X" if "X" in archive else archive.files[0]
            if name != "X" and len(archive.files) > 1:
                raise DataError(
                    f"{path}: wanted an array X, or only one; it holds {', '.join(archive.files)}"
                )
            return archive[name]
    except IndexError:
        raise DataError(f"{path}: holds no array") from None
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _csv(path: Path) -> np.ndarray:
    """(n, columns) float64"""
    rows: list[list[float]] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # -sig: spreadsheets put a mark before all
            mark = next((mark for mark in ",;\t" if mark in file.readline()), ",")
            file.seek(0)
            lines = csv.reader(file, delimiter=mark)
            for words in lines:
                numbers = _numbers(words)
                if numbers is None and lines.line_num == 1 and not any(_numbers([word]) for word in words):
                    continue  # the heading; a sample that lacks a number is none
                if not words:
                    continue
                if numbers is None or (rows and len(numbers) != len(rows[0])):
                    wanted = f"{len(rows[0])} numbers" if rows else "numbers"
                    raise DataError(f"{path}, line {lines.line_num}: wanted {wanted}, got {words!r:.100}")
                rows.append(numbers)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    return np.array(rows, dtype="float64").reshape(len(rows), -1 if rows else 0)


def _numbers(words: list[str]) -> list[float] | None:
    try:
        return [float(word) for word in words]
    except ValueError:
        return None


_READERS = {".npy": _npy, ".npz": _npz, ".csv": _csv}
