"""What every test here has around it."""

import contextlib

import pytest


@pytest.fixture(autouse=True)
def _numbers_of_64_bits(request):
    """A test at a place where JAX has numbers of 64 bits runs with them, in its own thread alone."""
    callspec = getattr(request.node, "callspec", None)
    place = callspec.params.get("place") if callspec else None
    if getattr(place, "x64", False):
        import jax

        context = jax.enable_x64(True)
    else:
        context = contextlib.nullcontext()
    with context:
        yield
