"""Broadcasting along long rows without copies."""

from __future__ import annotations

import numpy as np

_LONG = 512  # elements; shorter rows cost more to go through one by one than what is broadcast to copy


def row_by_row(length: int) -> None:
    """From here to the end of the quiet call that this is in, let NumPy go through long rows one by one.

    Else it copies what is broadcast to them into a buffer of 8192 numbers, again and again: 0.3 ns a number
    for an operation that takes 0.1. Only for what `quiet.ignoring` decorates: elsewhere the setting stays.
    """
    if length >= _LONG:
        np.setbufsize(_LONG)
