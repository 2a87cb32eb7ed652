"""JAX: everything in one jax.jit, forward and gradients together."""

from __future__ import annotations

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from bench.compare.rows import EPSILON, RATE, WEIGHT_DECAY


def _numpy(result):
    return [np.asarray(x) for x in result]


def _there_and_back(f, inputs, dY):
    """f(*inputs), then all their gradients."""
    inputs, dY = [jnp.asarray(x) for x in inputs], jnp.asarray(dY)

    @jax.jit
    def there_and_back(inputs, dY):
        Y, pull = jax.vjp(f, *inputs)
        return Y, *pull(dY)

    return lambda: jax.block_until_ready(there_and_back(inputs, dY)), _numpy


def _step(logits, X, y, weights):
    X, y = jnp.asarray(X), jnp.asarray(y.astype("int32"))
    state = [jnp.asarray(W) for W in weights]

    @jax.jit
    def step(state, X, y):
        L, gradients = jax.value_and_grad(lambda state: _cross_entropy(logits(state, X), y))(state)
        return L, [W - RATE * dW for W, dW in zip(state, gradients, strict=True)]

    def call():
        L, state[:] = step(state, X, y)
        return jax.block_until_ready((L, state))[0]

    return call, lambda L: _numpy([L, *((a - b) / RATE for a, b in zip(weights, state, strict=True))])


def _cross_entropy(X, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(X), y[:, None], axis=1))


def _conv(X, W, b, padding, stride):
    return lax.conv_general_dilated(X, W, (stride, stride), [(padding, padding)] * 2) + b


def _norm(X, gamma, beta, axes):
    mean, var = X.mean(axis=axes, keepdims=True), X.var(axis=axes, keepdims=True)
    return gamma * (X - mean) * lax.rsqrt(var + EPSILON) + beta, mean, var


class Peer:
    def cross_entropy(self, X, y):
        X, y = jnp.asarray(X), jnp.asarray(y.astype("int32"))
        f = jax.jit(jax.value_and_grad(_cross_entropy))
        return lambda: jax.block_until_ready(f(X, y)), _numpy

    def linear(self, X, W, b, dY):
        return _there_and_back(lambda X, W, b: X @ W + b, (X, W, b), dY)

    def mlp(self, X, y, weights):
        def logits(weights, X):
            for k in range(0, len(weights), 2):
                X = X @ weights[k] + weights[k + 1]
                X = jax.nn.relu(X) if k < len(weights) - 2 else X
            return X

        return _step(logits, X, y, weights)

    def cnn(self, X, y, weights):
        def logits(weights, H):
            for k in (0, 4):
                W, b, gamma, beta = weights[k : k + 4]
                H = _conv(H, W, b, 1, 1)
                H = lax.reduce_window(H, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
                H, _, _ = _norm(jax.nn.relu(H), gamma, beta, (0, 2, 3))
            return H.reshape(len(H), -1) @ weights[8] + weights[9]

        return _step(logits, X, y, weights)

    def conv(self, X, W, b, dY, padding, stride):
        return _there_and_back(lambda X, W, b: _conv(X, W, b, padding, stride), (X, W, b), dY)

    def layer_norm(self, X, gamma, beta, dY):
        return _there_and_back(lambda *inputs: _norm(*inputs, (1,))[0], (X, gamma, beta), dY)

    def batch_norm(self, X, gamma, beta, dY):
        return _there_and_back(lambda *inputs: _norm(*inputs, (0, 2, 3))[0], (X, gamma, beta), dY)

    def gelu(self, X, dY):
        return _there_and_back(lambda X: jax.nn.gelu(X, approximate=False), (X,), dY)

    def adamw(self, W, dW):
        dW, state = jnp.asarray(dW), [jnp.asarray(W), jnp.zeros(W.shape), jnp.zeros(W.shape), jnp.asarray(0)]

        @jax.jit
        def step(W, M, V, t, dW):
            t, M, V = t + 1, 0.9 * M + 0.1 * dW, 0.999 * V + 0.001 * dW * dW
            root = jnp.sqrt(V / (1 - 0.999**t)) + 1e-8
            return W * (1 - RATE * WEIGHT_DECAY) - RATE * M / (1 - 0.9**t) / root, M, V, t

        def call():
            state[:] = jax.block_until_ready(step(*state, dW))

        return call, lambda _: [(W - np.asarray(state[0])) / RATE]

    def embedding(self, X, W, dY):
        index = jnp.asarray(X.astype("int32"))
        return _there_and_back(lambda W: W[index], (W,), dY)

    def lstm(self, X, W_ih, W_hh, b_ih, b_hh, dY):
        def f(X, W_ih, W_hh, b_ih, b_hh):
            A = jnp.swapaxes(X @ W_ih + b_ih, 0, 1)  # (n, t, 4 h) -> (t, n, 4 h)

            def cell(state, a):
                H, C = state
                i, f, g, o = jnp.split(a + H @ W_hh + b_hh, 4, axis=1)
                C = jax.nn.sigmoid(f) * C + jax.nn.sigmoid(i) * jnp.tanh(g)
                H = jax.nn.sigmoid(o) * jnp.tanh(C)
                return (H, C), H

            start = jnp.zeros((X.shape[0], W_hh.shape[0]))
            return jnp.swapaxes(lax.scan(cell, (start, start), A)[1], 0, 1)

        return _there_and_back(f, (X, W_ih, W_hh, b_ih, b_hh), dY)
