"""A data set as a folder of images, one folder inside it for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepcore.errors import DataError, MissingDataError, UnsupportedError
from deepcore.shapes import to_tuple

Size = int | tuple[int, int] | None
CHANNELS = {"L": 1, "RGB": 3}
_GREY = ("1", "L", "LA", "La")  # Pillow's modes with one channel of 8 bits or fewer
_DEEP = ("I", "F")  # the beginnings of its modes with more than 8


def read_folder(folder: Path, size: Size = None) -> tuple:
    """X, y, class_names: the fields of a DataSet. Folders and files come in the order of their names.

    X: (n, c, h, w) uint8, c = 1 if all images are grey, else 3
    size: (height, width), or one number for both, to resize to; None: they must be of one size.

    Raises DataError naming the file or folder that cannot be used, UnsupportedError without Pillow.
    """
    files, y, class_names = find_images(folder)
    return read_images(files, size), y, class_names


def find_images(folder: Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """The files of a folder of class folders, the label of each, and the names of the classes."""
    if not folder.is_dir():
        raise MissingDataError(f"there is no folder {str(folder)!r}")
    class_folders = sorted(x for x in _visible(folder) if x.is_dir())
    if len(class_folders) < 2:
        raise DataError(
            f"{folder}: wanted a folder of images for each of two classes or more, found {len(class_folders)}"
        )
    files: list[Path] = []
    y: list[int] = []
    for label, class_folder in enumerate(class_folders):
        inside = _visible(class_folder)
        if not inside:
            raise DataError(f"{class_folder}: is empty; put the images of this class into it, or remove it")
        files += inside
        y += [label] * len(inside)
    return files, np.array(y, dtype="int64"), tuple(x.name for x in class_folders)


def _visible(folder: Path) -> list[Path]:
    return sorted(x for x in folder.iterdir() if not x.name.startswith("."))


def read_images(files: Sequence[Path], size: Size = None) -> np.ndarray:
    """(n, c, h, w) uint8. Looks at the head of every file before it decodes one."""
    return decode(files, *common_form(files, size))


def common_form(files: Sequence[Path], size: Size = None) -> tuple[str, tuple[int, int]]:
    """Pillow's mode, "L" if all images are grey, else "RGB"; and their (height, width), or the given one."""
    heads = [_head(file) for file in files]
    mode = "L" if all(grey for grey, _ in heads) else "RGB"
    h, w = heads[0][1] if size is None else to_tuple(size, 2, "images", "size", least=1)
    if size is None:
        for file, (_, (height, width)) in zip(files, heads, strict=True):
            if (height, width) != (h, w):
                raise DataError(
                    f"{file}: is {height} x {width} pixels (height x width), "
                    f"the images before it are {h} x {w}; make them all one size, or resize them "
                    f"as they are read: size={min(h, w)}, on the command line --size {min(h, w)}"
                )
    return mode, (h, w)


def decode(files: Sequence[Path], mode: str, size: tuple[int, int]) -> np.ndarray:
    """(n, c, h, w) uint8"""
    X = np.empty((len(files), CHANNELS[mode], *size), dtype="uint8")
    for row, file in zip(X, files, strict=True):
        row[...] = _read_image(file, mode, size)
    return X


def _head(file: Path) -> tuple[bool, tuple[int, int]]:
    """Whether the image is grey, and (height, width)."""
    with _open(file) as image:
        if image.mode.startswith(_DEEP):
            raise DataError(f"{file}: has more than 8 bits a channel (mode {image.mode}); convert it to 8")
        return image.mode in _GREY, (image.height, image.width)


def _read_image(file: Path, mode: str, size: tuple[int, int]) -> np.ndarray:
    """(c, h, w) uint8"""
    with _open(file) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise _unreadable(file, error) from error
        # a palette may hold transparent colours, which RGB has no room for
        pixels = (image.convert("RGBA") if image.mode == "P" else image).convert(mode)
    if (pixels.height, pixels.width) != size:
        pixels = pixels.resize(size[::-1])
    X = np.asarray(pixels)
    return X[None] if X.ndim == 2 else np.moveaxis(X, 2, 0)  # (h, w, c) -> (c, h, w)


def _open(file: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise UnsupportedError(
            "images are read by Pillow, which is not installed; pip install 'deepcore[images]'"
        ) from error
    try:
        return Image.open(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    reason = "its format is not known" if "cannot identify" in str(error) else error
    return DataError(f"{file}: cannot be read as an image ({reason}); mend it, or take it out of the folder")
