"""A folder of images that are read as they are needed: for more than memory holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deepcore.data.images import CHANNELS, Size, common_form, decode, find_images
from deepcore.data.prepare import scale_images
from deepcore.data.rows import Rows


class ImageFolder(Rows):
    """The images of a folder, with one folder inside it for each class, in place of an array.

    X = ImageFolder("pictures", size=64)
    net.fit(X, X.y)                             # reads the next batches while it trains

    shape: (n, c, h, w), c = 1 if all images are grey, else 3   y: (n,) int64, positions in class_names
    class_names: of the folders, in their order   files: n paths
    size: (height, width), or one number for both, to resize to; None: they must be of one size.

    A batch is float32, 0 to 1. All heads are looked at first, so that what cannot be used is found before
    training; a file that turns out to be damaged is an error where its batch comes.
    Raises DataError naming the file or folder that cannot be used, UnsupportedError without Pillow.
    """

    def __init__(self, folder: str | os.PathLike[str], size: Size = None):
        self.files, self.y, self.class_names = find_images(Path(folder))
        self._mode, self._size = common_form(self.files, size)
        self.shape = (len(self.files), CHANNELS[self._mode], *self._size)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows), c, h, w) float32, 0 to 1"""
        return scale_images(decode([self.files[row] for row in rows], self._mode, self._size))
