"""Each layer in inference, as one function of NumPy alone: `to_python` writes the text of these functions.

So a function here names nothing but np, math and other functions of this file.
"""

import math

import numpy as np

# ---- layers with weights


def linear(X, W, b=None):
    """X: (..., i)   W: (i, o)   b: (1, o)   Y: (..., o)"""
    Y = X @ W
    return Y if b is None else Y + b[0]


def windows(X, kernel, stride, padding, dilation, value):
    """(n, c, *sizes) -> (n, c, *out, *kernel), with `value` around X."""
    X = np.pad(X, ((0, 0), (0, 0), *padding), constant_values=value)
    axes = tuple(range(2, X.ndim))
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    X = np.lib.stride_tricks.sliding_window_view(X, span, axes)
    return X[(..., *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))]


def conv(X, W, b, stride, padding, dilation, groups):
    """X: (n, c, *sizes)   W: (f, c/groups, *kernel)   b: (1, f, 1, ...)   Y: (n, f, *out)"""
    rank = W.ndim - 2
    windows_of_X = windows(X, W.shape[2:], stride, padding, dilation, 0)
    Ys = []
    for X_g, W_g in zip(np.split(windows_of_X, groups, axis=1), np.split(W, groups), strict=True):
        summed = (1, *range(X_g.ndim - rank, X_g.ndim))  # the channel and the kernel
        Y = np.tensordot(X_g, W_g, (summed, range(1, rank + 2)))  # (n, *out, f/groups)
        Ys.append(np.moveaxis(Y, -1, 1))
    Y = np.concatenate(Ys, axis=1)
    return Y if b is None else Y + b


def conv_transpose(X, W, b, stride, padding, output_padding, dilation, groups):
    """X: (n, c, *sizes)   W: (c, f/groups, *kernel)   b: (1, f, 1, ...)   Y: (n, f, *out)"""
    kernel, rank = W.shape[2:], W.ndim - 2
    full = [
        s * (n - 1) + d * (k - 1) + 1
        for n, k, s, d in zip(X.shape[2:], kernel, stride, dilation, strict=True)
    ]
    Ys = []
    for X_g, W_g in zip(np.split(X, groups, axis=1), np.split(W, groups), strict=True):
        room = [n + o for n, o in zip(full, output_padding, strict=True)]
        Y = np.zeros((X.shape[0], W.shape[1], *room), X.dtype)
        for place in np.ndindex(*kernel):
            painted = np.moveaxis(np.tensordot(X_g, W_g[(..., *place)], (1, 0)), -1, 1)
            steps = zip(place, X.shape[2:], stride, dilation, strict=True)
            Y[(..., *(slice(i * d, i * d + s * (n - 1) + 1, s) for i, n, s, d in steps))] += painted
        kept = (slice(p, Y.shape[2 + axis] - p) for axis, p in enumerate(padding[:rank]))
        Ys.append(Y[(..., *kept)])
    Y = np.concatenate(Ys, axis=1)
    return Y if b is None else Y + b


def embedding(X, W):
    """X: (...) whole numbers   W: (num, dim)   Y: (..., dim)"""
    return W[X]


def recurrent(X, layers, step):
    """X: (n, t, i) -> (n, t, directions h). A layer has W_ih, W_hh, b_ih, b_hh for each of its directions."""
    for directions in layers:
        outputs = []
        for W_ih, W_hh, b_ih, b_hh in directions:
            order = -1 if outputs else 1  # the second direction is backwards
            H = C = np.zeros((X.shape[0], W_hh.shape[0]), X.dtype)
            Y = []
            for X_t in np.moveaxis(X[:, ::order], 1, 0):
                H, C = step(X_t @ W_ih + b_ih, H @ W_hh + b_hh, H, C)
                Y.append(H)
            outputs.append(np.stack(Y, axis=1)[:, ::order])
        X = np.concatenate(outputs, axis=2)
    return X


def rnn_step(A, B, H, C):
    """A: of the input   B: of the state H"""
    return np.tanh(A + B), C


def lstm_step(A, B, H, C):
    """A: of the input   B: of the state H   C: the cell"""
    i, f, g, o = np.split(A + B, 4, axis=1)
    C = sigmoid(f) * C + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(C), C


def gru_step(A, B, H, C):
    """A: of the input   B: of the state H"""
    (A_r, A_z, A_n), (B_r, B_z, B_n) = np.split(A, 3, axis=1), np.split(B, 3, axis=1)
    z = sigmoid(A_z + B_z)
    return (1 - z) * np.tanh(A_n + sigmoid(A_r + B_r) * B_n) + z * H, C


def attention(X, W_q, b_q, W_k, b_k, W_v, b_v, W_o, b_o, heads, causal):
    """X, Y: (..., t, dim)"""
    *n, t, dim = X.shape
    Q, K, V = (
        linear(X, W, b).reshape(*n, t, heads, dim // heads).swapaxes(-3, -2)
        for W, b in ((W_q, b_q), (W_k, b_k), (W_v, b_v))
    )
    S = Q @ K.swapaxes(-2, -1) / math.sqrt(dim // heads)  # (..., heads, t, t)
    if causal:
        S = np.where(np.tri(t, dtype=bool), S, -np.inf)
    H = softmax(S, -1) @ V
    return linear(H.swapaxes(-3, -2).reshape(X.shape), W_o, b_o)


# ---- norms


def batch_norm(X, mean, var, gamma, beta, epsilon):
    """With the running mean and variance of each channel.   X, Y: (n, c, ...)   the rest: (1, c, 1, ...)"""
    shape = (1, -1) + (1,) * (X.ndim - 2)
    mean, var, gamma, beta = (v.reshape(shape) for v in (mean, var, gamma, beta))
    return gamma * (X - mean) / np.sqrt(var + epsilon) + beta


def layer_norm(X, gamma, beta, shape, epsilon):
    """Over the last axes, which have this shape."""
    axes = tuple(range(-len(shape), 0))
    H = X - X.mean(axes, keepdims=True)
    H = H / np.sqrt((H * H).mean(axes, keepdims=True) + epsilon)
    return gamma.reshape(shape) * H + beta.reshape(shape)


def rms_norm(X, gamma, shape, epsilon):
    """Over the last axes, which have this shape."""
    axes = tuple(range(-len(shape), 0))
    return gamma.reshape(shape) * X / np.sqrt((X * X).mean(axes, keepdims=True) + epsilon)


def group_norm(X, gamma, beta, groups, epsilon):
    """Over the channels of a group and all that follows.   X: (n, c, ...)"""
    H = X.reshape(X.shape[0], groups, -1)
    H = H - H.mean(axis=2, keepdims=True)
    H = H / np.sqrt((H * H).mean(axis=2, keepdims=True) + epsilon)
    shape = (1, -1) + (1,) * (X.ndim - 2)
    return gamma.reshape(shape) * H.reshape(X.shape) + beta.reshape(shape)


# ---- pooling


def max_pool(X, kernel, stride, padding):
    """(n, c, *sizes) -> (n, c, *out)"""
    return windows(X, kernel, stride, padding, (1,) * len(kernel), -np.inf).max(tuple(range(-len(kernel), 0)))


def avg_pool(X, kernel, stride, padding, count_padding):
    """(n, c, *sizes) -> (n, c, *out); the padding counts as zeros, or not at all."""
    no_dilation, axes = (1,) * len(kernel), tuple(range(-len(kernel), 0))
    Y = windows(X, kernel, stride, padding, no_dilation, 0).mean(axes)
    if count_padding:
        return Y
    return Y / windows(np.ones_like(X[:1, :1]), kernel, stride, padding, no_dilation, 0).mean(axes)


def adaptive_pool(X, size, reduce):
    """(n, c, *sizes) -> (n, c, *size): windows from floor(i n / m) to ceil((i + 1) n / m)."""
    for axis, m in enumerate(size, start=2):
        n = X.shape[axis]
        if m is not None:
            bounds = [(i * n // m, -((i + 1) * n // -m)) for i in range(m)]
            parts = [reduce(np.take(X, range(*b), axis), axis=axis, keepdims=True) for b in bounds]
            X = np.concatenate(parts, axis)
    return X


# ---- shape


def flatten(X):
    """(n, ...) -> (n, d)"""
    return X.reshape(X.shape[0], math.prod(X.shape[1:]))


def reshape(X, shape):
    """(n, ...) -> (n, *shape), where -1 is what is left over"""
    known = -math.prod(shape) if -1 in shape else math.prod(shape)
    return X.reshape(X.shape[0], *(math.prod(X.shape[1:]) // known if n == -1 else n for n in shape))


def permute(X, axes):
    """The axes of each sample in another order, counted from 1"""
    return X.transpose(0, *axes)


def pad(X, padding, mode, value):
    """The last axes get (before, after) numbers each."""
    widths = ((0, 0),) * (X.ndim - len(padding)) + tuple(padding)
    return np.pad(X, widths, mode, **({"constant_values": value} if mode == "constant" else {}))


def upsample(X, scale, mode):
    """(n, c, h, w) -> (n, c, s h, s w), by repeating pixels or by lines between their centres"""
    for axis, s in enumerate(scale, start=2):
        n = X.shape[axis]
        if mode == "nearest":
            X = X.repeat(s, axis)
        else:
            place = np.clip((np.arange(s * n) + 0.5) / s - 0.5, 0, n - 1)
            low = np.floor(place).astype(int)
            share = (place - low).astype(X.dtype).reshape((-1,) + (1,) * (3 - axis))
            high = np.minimum(low + 1, n - 1)
            X = (1 - share) * X.take(low, axis) + share * X.take(high, axis)
    return X


# ---- activations


def relu(X):
    """max(X, 0)"""
    return np.maximum(X, 0)


def leaky_relu(X, alpha):
    """X where X > 0, else alpha X"""
    return np.where(X > 0, X, alpha * X)


def prelu(X, alpha):
    """The same, with an alpha for each channel."""
    alpha = alpha.reshape((-1,) + (1,) * (X.ndim - 2)) if X.ndim > 1 else alpha.reshape(-1)
    return np.where(X > 0, X, alpha * X)


def sigmoid(X):
    """1 / (1 + e^-X), of numbers that can't overflow"""
    E = np.exp(-np.abs(X))
    return np.where(X >= 0, 1, E) / (1 + E)


def tanh(X):
    """tanh X"""
    return np.tanh(X)


def softplus(X, beta=1.0, threshold=np.inf):
    """log(1 + e^(beta X)) / beta, of numbers that can't overflow; X itself past the threshold"""
    B = beta * X
    return np.where(threshold < B, X, (np.maximum(B, 0) + np.log1p(np.exp(-np.abs(B)))) / beta)


def log_sigmoid(X):
    """log(sigmoid(X))"""
    return -softplus(-X)


def silu(X):
    """X sigmoid(X)"""
    return X * sigmoid(X)


def mish(X):
    """X tanh(softplus(X))"""
    return X * np.tanh(softplus(X))


def gelu(X, approximate):
    """X times the probability that a standard normal number is less than X"""
    if approximate == "tanh":
        return 0.5 * X * (1 + np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X * X * X)))
    erfc = np.vectorize(math.erfc, otypes=["float64"])  # NumPy has none
    return (0.5 * X * erfc(-X / math.sqrt(2))).astype(X.dtype)


def elu(X, alpha):
    """X where X > 0, else alpha (e^X - 1)"""
    return np.where(X > 0, X, alpha * np.expm1(np.minimum(X, 0)))


def selu(X):
    """The ELU that keeps mean 0 and variance 1"""
    return 1.0507009873554805 * elu(X, 1.6732632423543772)


def celu(X, alpha):
    """X where X > 0, else alpha (e^(X / alpha) - 1)"""
    return np.maximum(X, 0) + np.minimum(alpha * np.expm1(np.minimum(X / alpha, 0)), 0)


def clip(X, low, high):
    """Not less than low and not more than high"""
    return np.clip(X, low, high)


def hard_sigmoid(X):
    """(X + 3) / 6, between 0 and 1"""
    return np.clip(X / 6 + 0.5, 0, 1)


def hard_swish(X):
    """X hard_sigmoid(X)"""
    return X * hard_sigmoid(X)


def softsign(X):
    """X / (1 + |X|)"""
    return X / (1 + np.abs(X))


def tanh_shrink(X):
    """X - tanh X"""
    return X - np.tanh(X)


def soft_shrink(X, lambd):
    """Towards 0 by lambd"""
    return np.sign(X) * np.maximum(np.abs(X) - lambd, 0)


def hard_shrink(X, lambd):
    """X where |X| > lambd, else 0"""
    return np.where(np.abs(X) > lambd, X, 0)


def threshold(X, limit, value):
    """X where X > limit, else value"""
    return np.where(limit < X, X, value)


def glu(X, axis):
    """A sigmoid(B), where A and B are the halves of X"""
    A, B = np.split(X, 2, axis)
    return A * sigmoid(B)


def softmax(X, axis):
    """e^X / sum e^X, of numbers that can't overflow"""
    E = np.exp(X - X.max(axis, keepdims=True))
    return E / E.sum(axis, keepdims=True)


def softmin(X, axis):
    """softmax(-X)"""
    return softmax(-X, axis)


def log_softmax(X, axis):
    """log(softmax(X)), of numbers that can't overflow"""
    X = X - X.max(axis, keepdims=True)
    return X - np.log(np.exp(X).sum(axis, keepdims=True))
