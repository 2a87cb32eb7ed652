"""The affine map, compiled: products of matrices on the kernel of `simd`, with all else done on the way.

The bias joins the sums in the registers, and db is added up while dY is packed: neither takes a pass of
its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from deepcore.backends.numpy.fast.compiled import InParts, flat, step
from deepcore.backends.numpy.fast.simd import (
    PANEL,
    ROWS,
    VECTORS,
    add_rows,
    copy_rows,
    panel_product,
    side_by_side,
    turn,
    vectors_of,
)
from deepcore.backends.numpy.fast.threads import pool
from deepcore.backends.numpy.fast.workspace import is_float32, room, steps
from deepcore.backends.numpy.fast.writer import (
    FLOATS,
    INT,
    LANES,
    OFFSETS,
    USABLE,
    on_stack,
    standing_alone,
)
from deepcore.backends.numpy.memory import empty

# multiply-adds for which this beats BLAS: that starts faster, and by 8 lanes does more a few percent faster
_WORTH_IT = range(1 << 20, 1 << (62 if LANES == 16 else 31))
_DEPTH = 32 * LANES  # rows of B in a panel at most: the second-level cache holds it; of 8 lanes, the first
_GROUP = 8  # panels packed at a time, so that rows of A in the cache serve them all: up to 1 MiB, or 128 KiB
_STRIP = 8 * ROWS  # rows of A that meet all panels of a group; of a transposed A so many columns are copied
_TOGETHER = ROWS if LANES == 16 else _STRIP  # rows of A that meet a panel before the next panel does

_copy_panel, _copy_whole_strip, _copy_columns = map(copy_rows, (VECTORS, _STRIP // LANES, 1))
_ZEROS = np.zeros(PANEL, np.float32)
_column_sums = on_stack(types.float64, _GROUP * PANEL)


def linear(X: np.ndarray, W: np.ndarray, b: np.ndarray | None = None, out: np.ndarray | None = None) -> Any:
    """Y = X W + b"""
    if X.size * W.shape[1] not in _WORTH_IT:
        return NotImplemented
    i, o = W.shape
    n = X.size // i if i else 0
    fit = X.shape[-1] == i and (b is None or b.size == o)
    if not (fit and _suits(n, X, W, b)):
        return NotImplemented
    Y = empty((*X.shape[:-1], o), np.float32) if out is None else out
    start = _ZEROS if b is None else flat(b)
    rows = steps(n, i, ROWS), steps(n, o, ROWS)
    rooms = _rooms()
    _linear.run(len(rooms[0]), n, i, o, flat(X), flat(W), start, b is not None, Y.reshape(-1), *rows, *rooms)
    return Y


def linear_backward(
    dY: np.ndarray,
    X: np.ndarray,
    W: np.ndarray,
    bias: bool = True,
    needed: tuple[bool, bool, bool] = (True, True, True),
    out: tuple[Any, Any, Any] = (None, None, None),
) -> Any:
    """dX = dY W^T, dW = X^T dY, db = sum dY"""
    if X.size * W.shape[1] not in _WORTH_IT:
        return NotImplemented
    i, o = W.shape
    n = X.size // i if i else 0
    fit = X.shape[-1] == i and dY.shape == (*X.shape[:-1], o)
    if not (fit and _suits(n, dY, X, W)):
        return NotImplemented
    shapes = X.shape if needed[0] else (0,), W.shape, (1, o)
    dX, dW, db = (
        empty(shape, np.float32) if there is None else there for shape, there in zip(shapes, out, strict=True)
    )
    panels, strips = _rooms()
    _linear_backward.run(
        *(len(panels), n, i, o, flat(dY), flat(X), flat(W)),
        *(dX.reshape(-1), dW.reshape(-1), db.reshape(-1), bias, _ZEROS),
        *(steps(n, o, ROWS), steps(n, i, ROWS), steps(i, 1, ROWS), steps(i, o, ROWS)),
        *(panels, strips),
    )
    return dX if needed[0] else None, dW, db if bias else None


def _suits(n: int, *arrays: np.ndarray | None) -> bool:
    """Matrices of float32. A few rows are better left to BLAS: packing W takes as long as using it."""
    return USABLE and n >= 2 * ROWS and is_float32(*arrays)


def _rooms() -> tuple[np.ndarray, ...]:
    """For each thread: panels of B, a strip of A."""
    return room(pool.parts(), _GROUP * PANEL * _DEPTH, _STRIP * _DEPTH)


@InParts
def _linear(thread, threads, n, i, o, X, W, start, has_bias, Y, X_rows, Y_rows, panels, strips):
    part = _part(thread, threads, n, o)
    A, B, C = (X, X_rows, i, False), (W, o, False), (Y, Y_rows)
    product(*part, i, *A, *B, *C, start, has_bias, start, False, panels[thread], strips[thread])


@InParts
def _linear_backward(
    thread, threads, n, i, o, dY, X, W, dX, dW, db, has_bias, zeros,
    dY_rows, dX_rows, X_columns, dW_rows, panels, strips
):  # fmt: skip
    P, strip = panels[thread], strips[thread]
    if len(dX):
        part = _part(thread, threads, n, i)
        A, B, C = (dY, dY_rows, o, False), (W, o, True), (dX, dX_rows)
        product(*part, o, *A, *B, *C, zeros, False, db, False, P, strip)
    part = _part(thread, threads, i, o, wide=o >= i)
    A, B, C = (X, X_columns, i, True), (dY, o, False), (dW, dW_rows)
    product(*part, n, *A, *B, *C, zeros, False, db, has_bias, P, strip)


@step
def _part(thread, threads, M, N, wide=True):
    """The rows and columns of C that a thread computes: some columns if C is wide, else some rows.

    All of A is then copied, or of B packed, by each thread.
    """
    if wide and threads * PANEL <= N:
        vectors = -(-N // LANES)
        first, last = vectors * thread // threads, vectors * (thread + 1) // threads
        return 0, M, LANES * first, min(N, LANES * last)
    tiles = -(-M // ROWS)
    first, last = tiles * thread // threads, tiles * (thread + 1) // threads
    return ROWS * first, min(M, ROWS * last), 0, N


@step
def pack(B, length, turned, k0, rows, n, columns, panels, P):
    """Rows k0 .. k0 + rows and columns n .. n + columns of B as a panel at P, filled up with zeros."""
    vectors, lanes = vectors_of(columns)
    width = vectors * LANES
    if turned:
        turn(B, n * length + k0, columns, rows, length, panels, P, width)
        for k in range(rows):
            for j in range(columns, width):
                panels[P + k * width + j] = 0
        return
    source = k0 * length + n
    if vectors == VECTORS:
        _copy_panel(B, source, length, panels, P, width, rows, lanes)
        return
    for v in range(0, width, LANES):
        _copy_columns(B, source + v, length, panels, P + v, width, rows, columns - v)


@step
def _copy_strip(A, length, k0, rows, first, last, strip):
    """strip[k, j] = A[k0 + k, first + j], and 0 from column `last` on."""
    source = k0 * length + first
    if last - first == _STRIP:
        _copy_whole_strip(A, source, length, strip, 0, _STRIP, rows, LANES)
        return
    for j in range(0, last - first, LANES):
        _copy_columns(A, source + j, length, strip, j, _STRIP, rows, last - first - j)


_BOOL = types.boolean
_OF_A, _OF_B, _OF_C = (FLOATS, OFFSETS, INT, _BOOL), (FLOATS, INT, _BOOL), (FLOATS, OFFSETS)


@standing_alone(
    *(INT, INT, INT, INT, INT, *_OF_A, *_OF_B, *_OF_C, FLOATS, _BOOL, FLOATS, _BOOL, FLOATS, FLOATS)
)
def product(
    m0, m1, n0, n1, K, A, A_rows, A_length, A_turned, B, B_length, B_turned, C, C_rows,
    start, has_start, column_sums, wants_sums, panels, strip
):  # fmt: skip
    """A part of C = A B (+ start in each row); column_sums = those of B, by the thread that has row 0.

    m0, m1, n0, n1: first and last row, first and last column   K: columns of A and rows of B
    A: numbers, where its rows (or, turned, its columns) start, their length, whether it is turned
    B: numbers, the length of its rows, whether it is turned   C: numbers, where its rows start
    """
    blocks = -(-K // _DEPTH)
    depth = -(-K // (blocks * LANES)) * LANES  # even blocks: at least LANES of them, at most _DEPTH
    sums, places = _column_sums(), side_by_side()
    wants_sums = wants_sums and m0 == 0
    for group in range(n0, n1, _GROUP * PANEL):
        group_end = min(n1, group + _GROUP * PANEL)
        for j in range(_GROUP * PANEL):
            sums[j] = 0
        for k0 in range(0, K, depth):
            rows = min(depth, K - k0)
            for n in range(group, group_end, PANEL):
                columns = min(PANEL, group_end - n)
                P = (n - group) * depth
                pack(B, B_length, B_turned, k0, rows, n, columns, panels, P)
                if wants_sums:
                    vectors, _ = vectors_of(columns)
                    for v in range(0, vectors * LANES, LANES):
                        add_rows(panels, P + v, vectors * LANES, rows, sums, n - group + v)
            for strip_start in range(m0, m1, _STRIP):
                strip_end = min(m1, strip_start + _STRIP)
                if A_turned:
                    _copy_strip(A, A_length, k0, rows, strip_start, strip_end, strip)
                    source, place, step = strip, -strip_start, _STRIP
                else:
                    source, place, step = A, k0, 1
                count = strip_end - strip_start
                m = 0
                while m < count:
                    # the last time all that is left: tiles of 4 rows make up for some that aren't whole
                    together = _TOGETHER if count - m > _TOGETHER + ROWS else count - m
                    for n in range(group, group_end, PANEL):
                        vectors, lanes = vectors_of(min(PANEL, group_end - n))
                        if k0:  # add to what is there
                            first, s, follow = C, n, 1
                        else:
                            first, s, follow = start, n * has_start, 0
                        panel_product(
                            *(together, vectors, source, place, A_rows, places, step),
                            *(panels, (n - group) * depth, places, places, vectors * LANES),
                            *(strip_start + m, 1, rows, C, n, C_rows, first, s, follow, lanes),
                        )
                    m += together
        if wants_sums:
            for j in range(group_end - group):
                column_sums[group + j] = sums[j]
