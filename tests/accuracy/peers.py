"""What deepcore's figures stand beside: the largest relative error of torch and JAX on the same numbers."""

import importlib.util

import numpy as np

from tests.places import DEVICE1, JAX, NUMPY, TORCH, USABLE

PLACES = [place for place in (NUMPY, DEVICE1, TORCH, JAX) if place in USABLE]
TINY = np.finfo("float32").tiny


def error(Y, right):
    """The largest relative error, over outputs that float32 holds with all its digits."""
    normal = np.abs(right) >= TINY
    Y, right = np.asarray(Y, "float64")[normal], right[normal]
    return float(np.abs(Y / right - 1).max())


def torchs(f, X):
    """f(torch, torch.nn.functional, x) as a NumPy array, or None where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return f(torch.nn.functional, torch.tensor(X)).numpy()


def jaxs(f, X):
    """f(jax.nn, x) as a NumPy array, or None where JAX is not installed."""
    if importlib.util.find_spec("jax") is None:
        return None
    import jax

    return np.asarray(f(jax.nn, jax.numpy.asarray(X)))


def show(row, place, ours, bound, torch, jax):
    """One line of the table; pytest -rP shows it."""
    peers = ", ".join(f"{name} {e:.1e}" for name, e in (("torch", torch), ("jax", jax)) if e is not None)
    print(f"{row} on {place.name}: {ours:.1e} (bound {bound:.1e}); {peers}")
