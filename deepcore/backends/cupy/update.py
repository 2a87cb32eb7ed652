"""How weights move, on CuPy: one launch for many weights and all that an optimizer remembers of them.

Inside `together()` an update is only noted; at the end those with the same settings are launched at once, so
that a captured step has one update, not one for each weight. Outside of it each is launched by itself.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import cupy
import numpy as np

from deepcore.backends.cupy.kernels import NULL, aligned, flat_launch, kernel, serves

MOST = 48  # arrays of a launch, as in update.cu; even, so that the table needs no padding
_NAMES = ("W", "dW", "M", "V", "new_W", "new_M", "new_V")
_TABLE = np.dtype(
    [
        ("of", [(name, np.uint64) for name in _NAMES] + [("n", np.int64)], MOST),
        ("first_block", np.int32, MOST + 1),
        ("count", np.int32),
    ]
)
_VECTORS = 8  # of each thread, where gradients are only read
_ONE_BLOCK = ((1,), (512,))

Arrays = dict[str, Any]  # what a kernel calls them -> those of one weight
Key = tuple[Any, ...]  # the kernel, the dtype, and the settings, where arrays stand by their addresses


class _Noted(threading.local):
    """Updates that wait for the end of `together()`, if it runs in this thread."""

    updates: dict[Key, tuple[str, list[Arrays], tuple[Any, ...]]] | None = None  # as _launch takes them


_noted = _Noted()


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Inside, updates only name the arrays of their results, which hold their numbers at the end."""
    before, _noted.updates = _noted.updates, {}
    try:
        yield
        for update in _noted.updates.values():
            _launch(*update)
    finally:
        _noted.updates = before


def sgd(
    W: Any,
    dW: Any,
    V: Any,
    lr: Any,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    later: Any = None,
) -> tuple[Any, Any]:
    """W' = W - lr V'   V' = momentum V + dW   (nesterov: W' = W - lr (dW + momentum V'))"""
    if not _serve(W, dW, V if momentum else W):
        return NotImplemented
    arrays = {"W": aligned(W), "dW": aligned(dW), "new_W": _new(W)}
    if momentum:
        arrays |= {"M": aligned(V), "new_M": _new(W)}
    _update("sgd", arrays, (*_number(lr, W), float(momentum), int(nesterov), float(weight_decay)))
    return arrays["new_W"], arrays.get("new_M")


def adam(
    W: Any,
    dW: Any,
    M: Any,
    V: Any,
    rate: Any,
    root: Any,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    keep: Any = None,
    later: Any = None,
) -> tuple[Any, Any, Any]:
    """W' = keep W - rate M' / (sqrt V' / root + eps)"""
    if not _serve(W, dW, M, V):
        return NotImplemented
    new = [_new(W) for _ in range(3)]
    arrays: Arrays = dict(zip(_NAMES, (*map(aligned, (W, dW, M, V)), *new), strict=True))
    numbers = (*_number(rate, W), *_number(root, W), *_number(1.0 if keep is None else keep, W))
    _update("adam", arrays, (*numbers, *map(float, (*betas, eps, weight_decay))))
    return tuple(new)  # type: ignore[return-value]


def gradient_norm(dW: Any, *more: Any) -> Any:
    """The length of all gradients as one vector: squares and sums in float64, in the same order each time."""
    gradients = [aligned(g) for g in (dW, *more)]
    if any(not serves(g) or g.dtype != dW.dtype for g in gradients):
        return NotImplemented
    tables = [
        _table([{"dW": g} for g in part], _VECTORS)
        for part in (gradients[i : i + MOST] for i in range(0, len(gradients), MOST))
    ]
    partial = cupy.empty(sum(blocks for _, blocks in tables), cupy.float64)
    start = 0
    for table, blocks in tables:
        _, block = flat_launch(1, dW.itemsize)
        kernel("update", "square_sums", dW.dtype)((blocks,), block, (table, partial[start : start + blocks]))
        start += blocks
    norm = cupy.empty((), dW.dtype)
    kernel("update", "norm_of_sums", dW.dtype)(*_ONE_BLOCK, (partial, norm, partial.size))
    return norm


def either(first: Any, *arrays: Any) -> Any:
    """The first half of the arrays, or the second: one launch for those of one dtype."""
    half = len(arrays) // 2
    pairs = list(zip(arrays[:half], arrays[half:], strict=True))
    if not all(_serve(a, b) for a, b in pairs):
        return NotImplemented
    chosen = [_new(a) for a, _ in pairs]
    _choose(
        first,
        [{"W": aligned(a), "dW": aligned(b), "new_W": c} for (a, b), c in zip(pairs, chosen, strict=True)],
    )
    return tuple(chosen)


def copy_all(pairs: Sequence[tuple[Any, Any]]) -> None:
    """into[...] = x for each pair (into, x), in few launches."""
    plain = []
    for into, x in pairs:
        if _serve(into, x) and all(a.flags.c_contiguous and a.data.ptr % 16 == 0 for a in (into, x)):
            plain.append({"W": x, "dW": x, "new_W": into})
        else:
            into[...] = x
    _choose(NULL, plain)


def _choose(first: Any, of_arrays: Sequence[Arrays]) -> None:
    for name in dict.fromkeys(arrays["W"].dtype.name for arrays in of_arrays):
        of_dtype = [arrays for arrays in of_arrays if arrays["W"].dtype.name == name]
        _launch("either", of_dtype, (first,))


def _update(name: str, arrays: Arrays, settings: tuple[Any, ...]) -> None:
    """Start an update now, or note it."""
    if _noted.updates is None:
        _launch(name, [arrays], settings)
        return
    places = (x.data.ptr if isinstance(x, cupy.ndarray) else x for x in settings)
    key = name, arrays["W"].dtype.name, *sorted(arrays), *places
    _noted.updates.setdefault(key, (name, [], settings))[1].append(arrays)


def _launch(name: str, of_weights: Sequence[Arrays], settings: tuple[Any, ...]) -> None:
    dtype = of_weights[0]["W"].dtype
    for i in range(0, len(of_weights), MOST):
        table, blocks = _table(of_weights[i : i + MOST], 1)
        _, block = flat_launch(1, dtype.itemsize)
        kernel("update", name, dtype)((blocks,), block, (table, *settings))


def _table(of_weights: Sequence[Arrays], vectors: int) -> tuple[np.ndarray, int]:
    """What a kernel is told of its arrays, and its blocks, where each thread has so many vectors."""
    table = np.zeros((), _TABLE)
    blocks = []
    for k, arrays in enumerate(of_weights):
        for name, x in arrays.items():
            table["of"][name][k] = x.data.ptr
        table["of"]["n"][k] = arrays["dW"].size
        (grid,), _ = flat_launch(-(-arrays["dW"].size // vectors), arrays["dW"].itemsize)
        blocks.append(grid)
    table["first_block"][1 : len(blocks) + 1] = list(itertools.accumulate(blocks))
    table["count"] = len(blocks)
    return table, sum(blocks)


def _new(W: Any) -> Any:
    return cupy.empty(W.shape, W.dtype)


def _number(x: Any, W: Any) -> tuple[Any, float]:
    """A number that changes from step to step, as a kernel takes it: where it lies, or itself."""
    if isinstance(x, cupy.ndarray):
        return x.astype(cupy.promote_types(W.dtype, cupy.float32), copy=False), 0.0
    return NULL, float(x)


def _serve(W: Any, *others: Any) -> bool:
    return serves(W) and all(A.dtype == W.dtype and A.shape == W.shape for A in others)
