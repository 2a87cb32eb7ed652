"""Vectors of numbers, written by hand: what linear maps and convolutions on a CPU spend their time in.

Why by hand. A core of today multiplies and adds 16 float32 at once (8 without AVX-512), twice a cycle, but
only if the loop around it asks for nothing else: 24 running sums that never leave the registers, no index
arithmetic, no test. Compilers find such code for a textbook loop by luck; here it is written (see `writer`).

One kernel. `tile_product` computes tiles of C, rows x (vectors LANES) numbers, each kept in registers:

    C[r, :] = start[r, :] + sum over t < taps, k < K of  A[A_rows[r] + A_taps[t] + k A_step]
                                                       * B[B_places[v] + B_taps[t] + k B_step : + LANES]

for each vector v of the tile. Each step loads `vectors` vectors of B and one number for each row of A, and
does rows x vectors multiply-adds: with 6 x 4 that is 10 loads to 24, so that they hide behind the arithmetic.
Whatever else a step does counts too, above all where two threads share a core: UNROLLED steps are therefore
written out in a row, and tiles that stand one below the other computed in one call.

Rows, vectors and taps are found through *tables of offsets*, made in plain NumPy. One kernel serves for all:

    product of matrices     one tap; A_rows are the starts of A's rows
    its transpose           A_rows are 0, 1, 2 ..., and A_step is a row's length: A is read down its columns
    convolution             a row is a filter, a vector pixels side by side, a tap a place in their windows;
                            k runs over the channels, or, where these are few, each has taps of its own: K = 1
    gradient of filters     a row is a place in a window, a vector filters; k runs along a row of the image
    Winograd                one product of matrices for each of the 16 (or 36) numbers of a transformed tile

B is an image, or a matrix that is *packed*: the numbers that a tile needs, one after the other in memory (a
panel), the last panel filled up with zeros. Rows that fill up the last tile of A repeat a row of the table,
which is computed twice, and stored twice with the same numbers, or are rows of C that nobody reads. Only a
tile's last vector may stick out of C: it is stored in part.

Where a convolution has few filters, `dot_products` takes their gradients: its vectors run along the sum.

The other kernels bring numbers into that form: `transpose` turns square blocks within the registers (images
have their channels apart, panels want them side by side), `copy` moves part of a vector and no more.

The width is that of the processor that numba compiles for. Without AVX-512 there are 16 registers instead of
32, and tiles are 6 x 2. Without AVX2 and fused multiply-add NumPy's own tier runs, with BLAS.

Goto and van de Geijn 2008, doi:10.1145/1356052.1356053: packing, and tiles in registers. Georganas et al.
2018, arXiv:1808.05567: convolution without columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit

from deepcore.backends.numpy.fast.workspace import LINE
from deepcore.backends.numpy.fast.writer import (
    DOUBLES,
    FLOATS,
    INT,
    LANES,
    OFFSETS,
    ZERO,
    ZERO_IN_DOUBLE,
    Writer,
    standing_alone,
    written,
)

ROWS = 6  # of a tile
VECTORS = 4 if LANES == 16 else 2  # of a tile at most: 24 or 12 registers hold its sums
PANEL = VECTORS * LANES  # columns of a whole panel

UNROLLED = 4  # steps of a sum between two looks at its end

OF_TILE = (
    *(FLOATS, INT, OFFSETS, OFFSETS, INT),  # A
    *(FLOATS, INT, OFFSETS, OFFSETS, INT),  # B
    *(INT, INT, INT),
    *(FLOATS, INT, OFFSETS),  # C
    *(FLOATS, INT, INT),  # start
    INT,
)


def tile_product(rows: int, vectors: int, streams: bool = False, taps_only: bool = False) -> Any:
    """The kernel of the page above for tiles of one size, to be called in compiled code.

    tiles: how many are computed, one below the other
    A, a, A_rows, A_taps, A_step: its numbers stand at A[a + A_rows[i + r] + A_taps[t] + k A_step]
    B, b, B_places, B_taps, B_step: vector v starts at B[b + B_places[v] + B_taps[t] + k B_step]
    i, taps, K: the first row in the tables, and the lengths of the two sums
    C, c, C_rows: row r is stored at C[c + C_rows[i + r]]
    start, s, follow: start[s + follow C_rows[i + r]] is added. With follow = 0 these are the same numbers for
        all rows (zeros, or a bias); start = C, s = c, follow = 1 adds to what C holds. They are added at the
        end: a sum of many short sums keeps more digits than one long sum.
    streams: whether the rows of A are read from end to end, A_step being 1, and those behind them, an equal
        step further on, fetched for the next tile. That pays where A comes from far away, and is used once
    taps_only: whether K is 1, so that steps are written out along the taps; K and the steps aren't looked at,
        and the tables of taps have at least one number even if `taps` is 0
    lanes: columns in the last vector, 1 .. LANES; of C, and of start, nothing beyond is read or written
    """

    @written(INT, *OF_TILE)
    def product(
        w, tiles, A, a, A_rows, A_taps, A_step, B, b, B_places, B_taps, B_step,
        i, taps, K, C, c, C_rows, start, s, follow, lanes
    ):  # fmt: skip
        B_pointers = [w.at(B, w.add(b, w.number(w.at(B_places, v)))) for v in range(vectors)]

        def each_vector(pointer: Any, lanes: Any) -> list[tuple[Any, Any]]:
            """Where each vector of a row stands, and how many of its lanes count: None for all."""
            return [(w.at(pointer, v * LANES), lanes if v == vectors - 1 else None) for v in range(vectors)]

        def compute_tile(_: Any, i: Any) -> list[Any]:
            row_numbers = [w.add(i, r) for r in range(rows)]
            A_offsets = [w.add(a, w.number(w.at(A_rows, r))) for r in row_numbers]
            A_pointers = [w.at(A, offset) for offset in A_offsets]
            C_offsets = [w.number(w.at(C_rows, r)) for r in row_numbers]
            results = [w.at(C, w.add(c, offset)) for offset in C_offsets]
            for pointer in results:
                for line in range(0, vectors * LANES, LINE):
                    w.prefetch(w.at(pointer, line), to_write=True)

            length = w.add(A_offsets[1], w.times(A_offsets[0], -1))
            lengths, two = w.times(length, rows), w.times(length, 2)

            def fetch_two_rows(at_A: Any, row: Any) -> Any:
                """Of the next tile: by and by every line of each of its rows."""
                for beyond in (lengths, w.add(lengths, length)):
                    w.prefetch(w.at(A_pointers[0], w.add(beyond, w.add(row, at_A))))
                return w.zero_if_equal(w.add(row, two), lengths)

            def add_product(at_A: Any, at_B: Any, sums: Sequence[Any]) -> Sequence[Any]:
                B_vectors = [w.load(w.at(pointer, at_B)) for pointer in B_pointers]
                new = []
                for r in range(rows):
                    x = w.everywhere(w.number(w.at(A_pointers[r], at_A)))
                    new += [w.multiply_add(x, y, sums[r * vectors + v]) for v, y in enumerate(B_vectors)]
                return new

            def add_products(count: int) -> Callable[..., list[Any]]:
                def add(_: Any, at_A: Any, at_B: Any, row: Any, *given: Any) -> list[Any]:
                    sums: Sequence[Any] = given
                    if streams and count > 1:
                        row = fetch_two_rows(at_A, row)
                    for k in range(count):
                        sums = add_product(w.add(at_A, k) if streams else at_A, at_B, sums)
                        at_B = _opaque(w, w.add(at_B, B_step))
                        if not streams:
                            at_A = _opaque(w, w.add(at_A, A_step))
                    return [_opaque(w, w.add(at_A, count)) if streams else at_A, at_B, row, *sums]

                return add

            def add_tap(t: Any, *sums: Any) -> list[Any]:
                carried = [w.number(w.at(A_taps, t)), w.number(w.at(B_taps, t)), w.int(0), *sums]
                many, few = w.divided(K, UNROLLED)
                carried = w.loop(many, carried, add_products(UNROLLED))
                return w.loop(few, carried, add_products(1))[3:]

            def of_tap(t: Any) -> tuple[Any, Any]:
                return _opaque(w, w.number(w.at(A_taps, t))), _opaque(w, w.number(w.at(B_taps, t)))

            def add_taps(count: int) -> Callable[..., list[Any]]:
                # Offsets are loaded one tap ahead, and each by itself: LLVM would load those of four taps
                # together, and keep what it then has no registers for, offsets and vectors, in memory.
                def add(_: Any, t: Any, at_A: Any, at_B: Any, *given: Any) -> list[Any]:
                    sums: Sequence[Any] = given
                    for _k in range(count):
                        sums = add_product(at_A, at_B, sums)
                        t = w.zero_if_equal(_opaque(w, w.add(t, 1)), taps)
                        at_A, at_B = of_tap(t)
                    return [t, at_A, at_B, *sums]

                return add

            sums = [ZERO] * (rows * vectors)
            if taps_only:
                many, few = w.divided(taps, UNROLLED)
                carried = w.loop(many, [w.int(0), *of_tap(0), *sums], add_taps(UNROLLED))
                sums = w.loop(few, carried, add_taps(1))[3:]
            else:
                sums = w.loop(taps, sums, add_tap)
            first = [w.at(start, w.add(s, w.times(follow, offset))) for offset in C_offsets]

            def store(lanes: Any) -> None:
                # all is loaded before anything is stored: a repeated row must not find its own result
                starts = [w.load(*vector) for pointer in first for vector in each_vector(pointer, lanes)]
                totals = [w.plus(x, y) for x, y in zip(sums, starts, strict=True)]
                places = (place for pointer in results for place in each_vector(pointer, lanes))
                for total, place in zip(totals, places, strict=True):
                    w.store(total, *place)

            w.choose(w.at_least(lanes, LANES), lambda: store(None), lambda: store(lanes))
            return [w.add(i, rows)]

        w.loop(tiles, [i], compute_tile)

    return product


def _opaque(w: Writer, x: Any) -> Any:
    """x, of which LLVM knows nothing any more.

    Of a place that grows by equal steps it would make ten pointers, and move each of them at each step.
    """
    kind = ir.IntType(64)
    return w.builder.asm(ir.FunctionType(kind, [kind]), "", "=r,0", [x], side_effect=False)


_tiles_of_4, _tiles_of_6 = (tile_product(rows, VECTORS) for rows in (4, ROWS))
_taps_of_4, _taps_of_6 = (tile_product(rows, VECTORS, taps_only=True) for rows in (4, ROWS))
_tiles_1, _tiles_2, _tiles_3 = (tile_product(ROWS, vectors) for vectors in (1, 2, 3))  # where a panel ends


@standing_alone(INT, INT, *OF_TILE)
def panel_product(
    rows, vectors, A, a, A_rows, A_taps, A_step, B, b, B_places, B_taps, B_step,
    i, taps, K, C, c, C_rows, start, s, follow, lanes
):  # fmt: skip
    """`tile_product` of any number of rows and 1 .. VECTORS vectors.

    Tables of rows are as long as a multiple of ROWS. As many tiles as can be have 4 rows instead of ROWS.
    """
    of_A, of_B = (A, a, A_rows, A_taps, A_step), (B, b, B_places, B_taps, B_step)
    lengths, of_C = (taps, K), (C, c, C_rows, start, s, follow, lanes)
    tiles = (rows + ROWS - 1) // ROWS
    if vectors == VECTORS:
        fours = min(tiles, (ROWS * tiles - rows) // (ROWS - 4))  # at most 2
        sixes, below = tiles - fours, i + 4 * fours
        if K == 1:
            _taps_of_4(fours, *of_A, *of_B, i, *lengths, *of_C)
            _taps_of_6(sixes, *of_A, *of_B, below, *lengths, *of_C)
        else:
            _tiles_of_4(fours, *of_A, *of_B, i, *lengths, *of_C)
            _tiles_of_6(sixes, *of_A, *of_B, below, *lengths, *of_C)
    elif vectors == 1:
        _tiles_1(tiles, *of_A, *of_B, i, *lengths, *of_C)
    elif VECTORS == 4:  # a constant: what isn't needed isn't compiled
        if vectors == 2:
            _tiles_2(tiles, *of_A, *of_B, i, *lengths, *of_C)
        else:
            _tiles_3(tiles, *of_A, *of_B, i, *lengths, *of_C)


def dot_products(rows: int, columns: int) -> Any:
    """For sums that are long, of rows that are few: vectors run along the sum, and lanes are added later.

    C[C_rows[i + r] + C_columns[j + s] + lane] += sum over k < K of  A[a + A_rows[i + r] + k LANES + lane]
                                                                   * B[b + B_rows[j + s] + k LANES + lane]
    """
    of_factor = FLOATS, INT, OFFSETS, INT

    @written(*of_factor, *of_factor, INT, FLOATS, OFFSETS, OFFSETS)
    def dots(w, A, a, A_rows, i, B, b, B_rows, j, K, C, C_rows, C_columns):
        def starts(table: Any, first: Any, count: int) -> list[Any]:
            return [w.number(w.at(table, w.add(first, r))) for r in range(count)]

        A_pointers = [w.at(A, w.add(a, start)) for start in starts(A_rows, i, rows)]
        B_pointers = [w.at(B, w.add(b, start)) for start in starts(B_rows, j, columns)]
        below, beside = starts(C_rows, i, rows), starts(C_columns, j, columns)

        def add_products(_: Any, at: Any, *sums: Any) -> list[Any]:
            B_vectors = [w.load(w.at(pointer, at)) for pointer in B_pointers]
            new = []
            for r, pointer in enumerate(A_pointers):
                x = w.load(w.at(pointer, at))
                new += [w.multiply_add(x, y, sums[r * columns + s]) for s, y in enumerate(B_vectors)]
            return [w.add(at, LANES), *new]

        sums = w.loop(K, [w.int(0)] + [ZERO] * (rows * columns), add_products)[1:]
        places = [w.at(C, w.add(x, y)) for x in below for y in beside]
        totals = [w.plus(w.load(place), x) for place, x in zip(places, sums, strict=True)]
        for total, place in zip(totals, places, strict=True):  # all are loaded before: a row may be repeated
            w.store(total, place)

    return dots


DOT_ROWS, DOT_COLUMNS = 4, 6 if LANES == 16 else 3
_dots = dot_products(DOT_ROWS, DOT_COLUMNS)


@standing_alone(FLOATS, INT, OFFSETS, INT, FLOATS, INT, OFFSETS, INT, INT, FLOATS, OFFSETS, OFFSETS)
def add_dot_products(A, a, A_rows, i, B, b, B_rows, j, K, C, C_rows, C_columns):
    """`dot_products` of DOT_ROWS rows and DOT_COLUMNS columns."""
    _dots(A, a, A_rows, i, B, b, B_rows, j, K, C, C_rows, C_columns)


@njit(forceinline=True)
def side_by_side():
    """Where the vectors of a packed panel stand. Its first number, 0, is the table of a single tap."""
    places = np.zeros(VECTORS, np.int64)
    for v in range(VECTORS):
        places[v] = v * LANES
    return places


@written()
def keep_apart(w):
    """Written into a function, keeps LLVM from compiling it once more into each caller: half the time."""
    w.builder.function.attributes.add("noinline")


@njit(forceinline=True)
def vectors_of(columns):
    """How many vectors hold so many columns, and how many lanes of the last one."""
    vectors = -(-columns // LANES)
    return vectors, columns - (vectors - 1) * LANES


@written(FLOATS, INT, FLOATS, INT, INT)
def copy(w, S, s, D, d, count):
    """D[d + j] = S[s + j] for j < count, and 0 for the other j < LANES."""
    w.store(w.load(w.at(S, s), count), w.at(D, d))


def copy_rows(vectors: int) -> Any:
    """`copy` of as many vectors from each of some rows; `count` is of the last of them.

    D[d + k D_step + j] = S[s + k S_step + j] for k < rows
    """

    @written(FLOATS, INT, INT, FLOATS, INT, INT, INT, INT)
    def copied(w, S, s, S_step, D, d, D_step, rows, count):
        def copy_row(_: Any, here: Any, there: Any) -> list[Any]:
            for v in range(vectors):
                x = w.load(w.at(S, w.add(here, v * LANES)), count if v == vectors - 1 else None)
                w.store(x, w.at(D, w.add(there, v * LANES)))
            return [w.add(here, S_step), w.add(there, D_step)]

        w.loop(rows, [s, d], copy_row)

    return copied


@written(FLOATS, INT, INT, INT, DOUBLES, INT)
def add_rows(w, S, s, S_step, rows, sums, at):
    """sums[at + j] += sum over k < rows of S[s + k S_step + j] for j < LANES, in float64"""

    def add_row(_: Any, here: Any, total: Any) -> list[Any]:
        return [w.add(here, S_step), w.plus(total, w.in_double(w.load(w.at(S, here))))]

    _, total = w.loop(rows, [s, ZERO_IN_DOUBLE], add_row)
    w.add_in_double(total, w.at(sums, at))


@written(FLOATS, INT, INT, FLOATS, INT, INT)
def transpose(w, S, s, S_step, D, d, D_step):
    """D[d + j D_step + i] = S[s + i S_step + j] for i, j < LANES: a square block, turned in registers."""
    lines = [w.load(w.at(S, w.add(s, w.times(i, S_step)))) for i in range(LANES)]
    for j, line in enumerate(transposed(w, lines)):
        w.store(line, w.at(D, w.add(d, w.times(j, D_step))))


@written(FLOATS, INT, INT, FLOATS, INT, INT, INT, INT)
def transpose_part(w, S, s, S_step, D, d, D_step, rows, columns):
    """The same for i < rows, j < columns."""
    pointers = (w.at(S, w.add(s, w.times(i, S_step))) for i in range(LANES))
    lines = [w.load(pointer, w.zero_unless_below(columns, i, rows)) for i, pointer in enumerate(pointers)]
    for j, line in enumerate(transposed(w, lines)):
        w.store(line, w.at(D, w.add(d, w.times(j, D_step))), w.zero_unless_below(rows, j, columns))


def transposed(w: Writer, lines: list[Any]) -> list[Any]:
    """Exchange off-diagonal blocks of half the size, then of a quarter ..., in all LANES vectors at once."""
    lines, block = list(lines), LANES // 2
    while block:
        # where a lane lies in a right half, it comes from the line above; in a left half, from the one below
        upper = [LANES + lane - block if lane & block else lane for lane in range(LANES)]
        lower = [LANES + lane if lane & block else lane + block for lane in range(LANES)]
        for i in range(LANES):
            if not i & block:
                x, y = lines[i], lines[i + block]
                lines[i], lines[i + block] = w.pick(x, y, upper), w.pick(x, y, lower)
        block //= 2
    return lines


@standing_alone(FLOATS, INT, INT, INT, INT, FLOATS, INT, INT)
def turn(S, s, rows, columns, S_step, D, d, D_step):
    """D[d + j D_step + i] = S[s + i S_step + j] for i < rows, j < columns: a matrix becomes its transpose."""
    for i in range(0, rows, LANES):
        for j in range(0, columns, LANES):
            source, target = s + i * S_step + j, d + j * D_step + i
            if i + LANES <= rows and j + LANES <= columns:
                transpose(S, source, S_step, D, target, D_step)
            else:
                transpose_part(S, source, S_step, D, target, D_step, rows - i, columns - j)


def transform(matrix: np.ndarray) -> Any:
    """For LANES squares of numbers x at once: D = matrix x matrix^T.

    x_ij: the vectors at S[s + S_places[i n + j]], n the columns of the matrix
    The results stand at D[d], D_step apart, row by row.
    """
    rows, n = matrix.shape

    @written(FLOATS, INT, OFFSETS, FLOATS, INT, INT)
    def transformed(w, S, s, S_places, D, d, D_step):
        targets = [w.at(D, w.add(d, w.times(k, D_step))) for k in range(rows * rows)]
        for target in targets:
            w.prefetch(target, to_write=True)  # each in a line of its own, which may be far away
        columns = []
        for j in range(n):
            places = [w.number(w.at(S_places, i * n + j)) for i in range(n)]
            columns.append(multiplied(w, matrix, [w.load(w.at(S, w.add(s, place))) for place in places]))
        lines = (multiplied(w, matrix, [column[i] for column in columns]) for i in range(rows))
        for vector, target in zip(itertools.chain.from_iterable(lines), targets, strict=True):
            w.store(vector, target)

    return transformed


def multiplied(w: Writer, matrix: np.ndarray, vectors: Sequence[Any]) -> list[Any]:
    """The matrix times the vectors. Columns, or rows, that differ in signs alone share their sums:

    a x + a y and b x - b y are a (x + y) and b (x - y);   a x + b y and a x - b y are x' + b y and x' - b y.
    """
    columns, vectors = matrix.T.tolist(), list(vectors)
    for j, k in itertools.combinations(range(len(columns)), 2):
        same, opposite = _halves(columns[j], columns[k])
        if any(same) and any(opposite):
            columns[j], columns[k] = same, opposite
            vectors[j], vectors[k] = (w.combine([1, sign], [vectors[j], vectors[k]]) for sign in (1, -1))
    lines = list(zip(*columns, strict=True))
    results: list[Any] = [None] * len(lines)
    for i, k in itertools.combinations(range(len(lines)), 2):
        same, opposite = _halves(lines[i], lines[k])
        if any(same) and any(opposite):
            b = next(filter(None, opposite))
            x, y = _sum(w, same, vectors), _sum(w, [a / b for a in opposite], vectors)
            results[i], results[k] = w.combine([1, b], [x, y]), w.combine([1, -b], [x, y])
    return [
        _sum(w, line, vectors) if result is None else result
        for line, result in zip(lines, results, strict=True)
    ]


def _sum(w: Writer, coefficients: Sequence[float], vectors: Sequence[Any]) -> Any:
    """Of coefficient times vector: first those that cost no product, so that each product joins a sum."""
    terms = sorted(zip(coefficients, vectors, strict=True), key=lambda term: (abs(term[0]) != 1, -term[0]))
    return w.combine(*zip(*terms, strict=True))


def _halves(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """If the numbers of y are those of x but for signs: where they are the same, and where they aren't."""
    if [*map(abs, x)] != [*map(abs, y)]:
        return [], []
    return [a * (a == b) for a, b in zip(x, y, strict=True)], [
        a * (a != b) for a, b in zip(x, y, strict=True)
    ]


def deinterleave(step: int) -> Any:
    """A row of numbers, taken apart: D[d + b D_step + j] = S[s + step j + b] for b < step, j < limit.

    Numbers before `skip` and from `count` on read as 0.
    """

    @written(FLOATS, INT, INT, INT, FLOATS, INT, INT, INT)
    def split(w, S, s, skip, count, D, d, D_step, limit):
        places = range(0, step * LANES, LANES)
        vectors = [w.load(w.at(S, w.add(s, k)), w.add(count, -k), w.add(skip, -k)) for k in places]
        for b, vector in enumerate(_every(w, step, vectors)):
            w.store(vector, w.at(D, w.add(d, w.times(b, D_step))), limit)

    return split


def deinterleave_overlapping(step: int, overlap: int) -> Any:
    """D[d + b D_step + j] = S[s + step j + b] for b < step + overlap, j < LANES.

    Phase step + b is phase b, one place before: what it has at j = LANES - 1 the next call writes.
    """

    @written(FLOATS, INT, FLOATS, INT, INT)
    def split(w, S, s, D, d, D_step):
        vectors = [w.load(w.at(S, w.add(s, k))) for k in range(0, step * LANES, LANES)]
        phases = _every(w, step, vectors)
        for b, vector in enumerate(phases):
            w.store(vector, w.at(D, w.add(d, w.times(b, D_step))))
        for b, vector in enumerate(phases[:overlap], step):
            w.store(vector, w.at(D, w.add(w.add(d, w.times(b, D_step)), -1)))

    return split


def interleave(step: int) -> Any:
    """D[d + step j + b] = S[s + b S_step + j] + bias[g], the first `count` of these numbers."""

    @written(FLOATS, INT, INT, FLOATS, INT, FLOATS, INT, INT)
    def join(w, S, s, S_step, bias, g, D, d, count):
        vectors = [w.load(w.at(S, w.add(s, w.times(b, S_step)))) for b in range(step)]
        addend = w.everywhere(w.number(w.at(bias, g)))
        for k, vector in enumerate(_mixed(w, vectors)):
            w.store(w.plus(vector, addend), w.at(D, w.add(d, k * LANES)), w.add(count, -k * LANES))

    return join


def _every(w: Writer, step: int, vectors: list[Any]) -> list[Any]:
    """Of numbers in a row, those 0, step, 2 step ..., then those 1, step + 1 ...; step is a power of two."""
    if step == 1:
        return vectors
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even = [w.pick(x, y, range(0, 2 * LANES, 2)) for x, y in pairs]
    odd = [w.pick(x, y, range(1, 2 * LANES, 2)) for x, y in pairs]
    halves = _every(w, step // 2, even), _every(w, step // 2, odd)
    return [vector for pair in zip(*halves, strict=True) for vector in pair]


def _mixed(w: Writer, vectors: list[Any]) -> list[Any]:
    """The opposite of _every."""
    if len(vectors) == 1:
        return vectors
    evens, odds = _mixed(w, vectors[::2]), _mixed(w, vectors[1::2])
    low = [half + k for k in range(LANES // 2) for half in (0, LANES)]
    high = [lane + LANES // 2 for lane in low]
    return [w.pick(x, y, lanes) for x, y in zip(evens, odds, strict=True) for lanes in (low, high)]


deinterleave_2, deinterleave_4 = deinterleave(2), deinterleave(4)
interleave_1, interleave_2, interleave_4 = interleave(1), interleave(2), interleave(4)
