"""The same work by torch and JAX themselves: torch.nn.functional with autograd, jax.jit of jax.nn.

They live here because in the package only deepcore/backends may name a library. Each call does what
deepcore's op does: the forward pass of Linear as in training (torch records it), the three gradients of
Linear from dY, the loss and its gradient of cross-entropy. JAX's are compiled before they are timed.
"""

import importlib.util
from dataclasses import dataclass

import numpy as np

from deepcore.diagnose.kernels import case_of
from deepcore.diagnose.timing import Library, race


@dataclass(frozen=True)
class Peer:
    """A library of its own: its name, and a function that gives (Library, {op: arguments -> call})."""

    name: str
    load: object

    def why_not(self):
        missing = importlib.util.find_spec(self.name) is None
        return f"not installed; pip install {self.name}" if missing else None


def measure_peer(name, op, size, effort):
    """A case on a peer, in this process: call it by `apart`."""
    library, calls = PEERS[name].load()
    return race(case_of(op, size), library, lambda *arguments: {"peer": calls[op](*arguments)}, effort)


def load_torch():
    import torch
    from torch.nn import functional as F

    def wait(*_):
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def weights(W, b=None):
        """As torch.nn.Linear holds them: (o, i) and (o), with gradients."""
        leaves = [W.T.contiguous()] + ([] if b is None else [b[0].clone()])
        return [leaf.requires_grad_() for leaf in leaves]

    def linear(X, W, b):
        W, b = weights(W, b)
        return lambda: F.linear(X, W, b)

    def linear_backward(dY, X, W, bias):
        leaves = [X.requires_grad_(), *weights(W, torch.zeros_like(dY[:1]))]
        Y = F.linear(*leaves)

        def call():
            dX, dW, db = torch.autograd.grad(Y, leaves, dY, retain_graph=True)
            return dX, dW.T, db[None]

        return call

    def cross_entropy(X, y, weight, ignore_index):
        X.requires_grad_()

        def call():
            L = F.cross_entropy(X, y)
            return L, torch.autograd.grad(L, X)[0]

        return call

    library = Library(
        put=lambda x: torch.from_numpy(x).to("cuda" if torch.cuda.is_available() else "cpu"),
        to_numpy=lambda x: x.detach().cpu().numpy(),
        copy=torch.clone,
        wait=wait,
        device=lambda x: str(x.device),
    )
    return library, {
        "linear.linear": linear,
        "linear.linear_backward": linear_backward,
        "loss.cross_entropy": cross_entropy,
    }


def load_jax():
    import jax
    from jax import numpy as jnp

    def affine(X, W, b):
        return X @ W + b

    def linear_backward(dY, X, W, bias):
        gradients = jax.jit(lambda dY, *inputs: jax.vjp(affine, *inputs)[1](dY))
        b = jnp.zeros_like(dY[:1])
        return lambda: gradients(dY, X, W, b)

    def loss(X, y):
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(X), y[:, None], axis=1))

    def cross_entropy(X, y, weight, ignore_index):
        loss_and_gradient = jax.jit(jax.value_and_grad(loss))
        return lambda: loss_and_gradient(X, y)

    def linear(*arguments):
        forward = jax.jit(affine)
        return lambda: forward(*arguments)

    library = Library(
        put=lambda x: jnp.asarray(x.astype("int32") if x.dtype == np.int64 else x),
        to_numpy=np.asarray,
        copy=lambda x: jnp.array(x, copy=True),
        wait=lambda *results: jax.block_until_ready(results),
        device=lambda x: "cpu" if x.device.platform == "cpu" else str(x.device),
    )
    return library, {
        "linear.linear": linear,
        "linear.linear_backward": linear_backward,
        "loss.cross_entropy": cross_entropy,
    }


PEERS = {"torch": Peer("torch", load_torch), "jax": Peer("jax", load_jax)}
