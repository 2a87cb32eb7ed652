"""What each native kernel of CuPy is tried on: with a GPU by test_kernels.py, with none by test_pretended.py.

A new kernel joins by one line. Sizes are odd, so that rows begin off the 16-byte boundaries of memory, and as
large as the rows or columns of one block, of one chunk, and more.
"""

import importlib
import pkgutil

import numpy as np

import deepcore.ops as ops
from deepcore.ops.dispatch import OPS

for module in pkgutil.iter_modules(ops.__path__, "deepcore.ops."):
    importlib.import_module(module.name)

# a few units in the last place: of the dtype, times what the sums are deep
TOLERANCE = {"float64": 1e-13, "float32": 5e-6, "float16": 4e-3, "bfloat16": 3e-2}

IN_FLOAT32 = {  # ops whose results of 16 bits are not of 16 bits, from which result on
    "pool.window_sum": 0,
    "norm.batch_norm": 1,
    "norm.group_norm": 1,
    "norm.rms_norm": 1,
}


def dtype_of(op, number, dtype):
    """The dtype of an op's result with that number, where its arguments are of `dtype`."""
    return "float32" if dtype.endswith("16") and number >= IN_FLOAT32.get(op, 99) else dtype


def normal(*shape, seed=0, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal(shape)


def targets(n, C, ignore=True):
    y = np.random.default_rng(n * C).integers(0, C, n)
    if ignore:
        y[:: max(n // 3, 2)] = -100
    return y


BY_CUDNN = {"attention.attention", "attention.attention_backward"}  # kernels that test_cudnn.py tries


def cases(large: bool) -> list[tuple]:
    """(op, its arguments): arrays in float64 where they hold floats. large: sizes for a GPU too."""
    rows = [
        (1, 1),
        (7, 10),
        (3, 1003),
        *([(129, 10), (33, 1003), (8, 4101), (3, 50257), (2, 128256)] * large),
    ]
    layers = [(1, 1, 1), (7, 5, 3), *([(129, 784, 128), (512, 1025, 1000)] * large)]
    columns = [
        (1, 1),
        (7, 4),
        (300, 3),
        (31, 300),
        (5000, 3),
        *([(100003, 17), (31, 4096), (4096, 1000)] * large),
    ]
    images = [(2, 4, 3, 3), (1, 6, 5), (9, 2), (5, 12, 8), *([(32, 64, 28, 28), (4, 6, 7, 5, 3)] * large)]
    lines = [(1, 1), (5, 3), (9, 16), (30, 64), (3, 1003), *([(64, 8192), (4097, 768), (3, 50257)] * large)]
    return [
        *[
            (f"softmax.{name}", normal(*shape, scale=4.0), axis)
            for name in ("softmax", "log_softmax")
            for shape in rows
            for axis in (-1, 0)
            if axis == -1 or shape[0] > 1
        ],
        *[
            (f"softmax.{name}_backward", normal(*shape, seed=1), reference(f"softmax.{name}", normal(*shape)))
            for name in ("softmax", "log_softmax")
            for shape in rows
        ],
        *[
            ("loss.cross_entropy", normal(*shape, scale=4.0), targets(*shape), w, -100, smoothing, reduction)
            for shape in (rows if large else rows[1:2])
            for smoothing in (0.0, 0.1)
            for reduction in ("mean", "sum", "none")
            for w in (None, np.linspace(0.0, 2.0, shape[1]) if shape[1] > 1 else None)
        ],
        ("loss.cross_entropy", normal(9, 5), targets(9, 5, ignore=False), None, None),
        *[
            ("labels.all_fit", np.asarray(y, dtype), 5, ignored)
            for y in ([0, 4] * 700, [0] * 699 + [5], [3, -1], [3, -100], [7, 7])
            for dtype in ("int64", "int16")
            for ignored in (None, -100, 7)
        ],
        ("labels.all_fit", np.asarray([3, 2**64 - 100], "uint64"), 5, -100),
        *[
            ("linear.linear", normal(n, i), normal(i, o, seed=1), b)
            for n, i, o in layers
            for b in (normal(1, o), None)
        ],
        ("linear.linear", normal(5), normal(5, 3), normal(1, 3)),
        ("linear.linear", normal(2, 4, 5), normal(5, 3), normal(1, 3)),
        ("linear.matmul", normal(7, 5), normal(5, 3)),
        *[("recurrent.stacked", *(normal(2, 3, seed=seed) for seed in range(count))) for count in (1, 12)],
        ("linear.matmul", normal(2, 3, 4, 5).swapaxes(1, 2), normal(4, 2, 5, 2).swapaxes(0, 1)),
        *[("linear.linear_backward", normal(n, o), normal(n, i), normal(i, o, seed=1)) for n, i, o in layers],
        ("linear.linear_backward", normal(2, 4, 3), normal(2, 4, 5), normal(5, 3)),
        *[("reduce.column_sum", normal(*shape)) for shape in columns],
        *[("norm.batch_norm", 3 + normal(*shape), *per_channel(shape, 2), 1e-5) for shape in images],
        *[
            ("norm.batch_norm_backward", normal(*shape), normal(*shape, seed=1), mean, *per_channel(shape, 2))
            for shape in images
            for mean in [normal(2, *shape[1:2], *(1 for _ in shape[2:]), seed=2)]
        ],
        *[("norm.batch_norm_inference", normal(*shape), *per_channel(shape, 4), 1e-5) for shape in images],
        *[
            ("norm.batch_norm_inference_backward", normal(*shape), normal(*shape, seed=1), *of, 1e-5)
            for shape in images
            for of in [per_channel(shape, 3)]
        ],
        *[
            ("norm.group_norm", 3 + normal(*shape), *per_channel(shape, 2), groups, 1e-5)
            for shape in images + lines
            for groups in (1, 2)
            if shape[1] % groups == 0
        ],
        *[
            (
                "norm.group_norm_backward",
                normal(*shape),
                3 + normal(*shape, seed=1),
                [3, 0] + [0.1, 0.01] * normal(shape[0] * groups, 2, seed=3),
                0.5 + abs(normal(shape[0] * groups, 1, seed=2)),
                *per_channel(shape, 1),
            )
            for shape in images + lines
            for groups in (1, 2)
            if shape[1] % groups == 0
        ],
        *[("norm.rms_norm", 3 + normal(*shape), *per_channel(shape, 1), 1e-5) for shape in lines],
        *[
            (
                "norm.rms_norm_backward",
                normal(*shape),
                normal(*shape, seed=1),
                0.5 + abs(normal(shape[0], 1, seed=2)),
                *per_channel(shape, 1),
            )
            for shape in lines
        ],
        *[(f"activation.{name}", wide) for name in ACTIVATIONS for wide in (numbers, numbers[:3, :5])],
        *[(f"activation.{name}", numbers, alpha) for name in LEAKY for alpha in (0.1, 3.0)],
        *[(f"activation.{name}", numbers, *of) for name in SOFTPLUS for of in ((), (2.0, 5.0))],
        ("activation.relu_backward", normal(*numbers.shape), numbers),
        *[("update.sgd", W, DW, M, lr, 0.9, nesterov, 0.1) for nesterov in (False, True) for lr in RATES],
        ("update.sgd", W, DW, None, 0.1, 0.0, False, 0.0),
        *[("update.adam", W, DW, M, M * M, lr, 0.3, (0.9, 0.99), 1e-8, 0.1, lr) for lr in RATES],
        ("update.adam", W, DW, M, M * M, 0.1, 0.3, (0.9, 0.999), 1e-8, 0.0),
        *[("update.either", np.asarray(first), W, M, DW, 2 * M) for first in (True, False)],
        ("update.gradient_norm", W),
        ("update.gradient_norm", normal(9000), *(normal(n, seed=n) for n in range(1, 60))),
        *[
            (f"random.{name}", normal(1), n, (3, -5 & 0xFFFFFFFF), call, start, *least)
            for name, least in (("threefry", ()), ("at_least", (2**23,)))
            for n, start, call in [(1, 0, 0), (7, 3, 5), (600, 1, np.asarray(2, "int32"))]
        ],
        *[
            ("embedding.scatter_add", np.random.default_rng(d).integers(0, n, count), normal(*count, d), n)
            for count, d, n in [((7,), 3, 5), ((4, 9), 64, 11), ((70,), 300, 3)]
        ],
        *[("pool.max_pool", pixels, *how) for pixels, how in POOLS],
        *[("pool.max_pool_backward", *pooled(pixels, *how), pixels.shape, *how) for pixels, how in POOLS],
        *[("pool.window_sum", normal(2, 3, *sizes), windows) for sizes, windows in WINDOWS],
        *[
            ("conv.conv", X, W, b, *how)
            for X, W, how in CONVS
            for b in (None, normal(1, W.shape[0], *(1 for _ in W.shape[2:])))
        ],
        *[("conv.conv_dX", convolved(X, W, *how), W, X.shape, *how) for X, W, how in CONVS],
        *[("conv.conv_dW", convolved(X, W, *how), X, W.shape[2:], *how) for X, W, how in CONVS],
        *[("conv.channel_sum", normal(*shape)) for shape in images],
    ]


ACTIVATIONS = (
    *("relu", "relu_grad", "sigmoid", "sigmoid_grad", "tanh", "tanh_grad", "silu", "silu_grad", "mish"),
    *("mish_grad", "gelu", "gelu_grad", "gelu_tanh", "gelu_tanh_grad", "log_sigmoid", "softplus_tail"),
)
LEAKY = ("leaky_relu", "leaky_relu_grad")
SOFTPLUS = ("softplus", "softplus_grad")
numbers = normal(5, 221, scale=4.0)
W, DW, M = (normal(7, 45, seed=seed) for seed in range(3))
RATES = (0.1, np.asarray(0.1))  # a number of the host's, and one on the device
POOLS = [  # images; kernel, stride, padding
    (normal(2, 3, 7, 6), ((2, 2), (2, 2), ((0, 0), (0, 0)))),
    (np.round(normal(1, 2, 7, 9)), ((3, 2), (2, 1), ((1, 1), (0, 1)))),  # ties
    (normal(2, 1, 19), ((3,), (1,), ((1, 1),))),
    (normal(1, 2, 4, 5, 3), ((2, 2, 2), (1, 2, 1), ((0, 1), (0, 0), (1, 0)))),
    (normal(1, 1, 18, 17), ((17, 16), (1, 1), ((0, 0), (0, 0)))),  # 272 positions
]
WINDOWS = [  # sizes; windows of each axis: regular; of any length, with an empty one; the whole
    ((6, 5), (((0, 2), (2, 4), (4, 6)), ((0, 3), (1, 4), (2, 5)))),
    ((7,), (((0, 1), (0, 4), (3, 3), (2, 7)),)),
    ((2, 3, 4), (((0, 2),), ((0, 3),), ((0, 1), (1, 4)))),
]
CONVS = [  # images; filters; stride, padding, dilation, groups
    (normal(2, 4, 7, 6), normal(6, 2, 3, 2), ((2, 1), ((1, 0), (1, 2)), (1, 2), 2)),
    (normal(3, 2, 5, 5), normal(4, 2, 1, 1), ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)),
    (normal(2, 3, 11), normal(2, 3, 3), ((1,), ((1, 1),), (1,), 1)),
    (normal(1, 2, 4, 5, 3), normal(3, 2, 2, 2, 2), ((1, 2, 1), ((0, 1), (0, 0), (1, 0)), (1, 1, 1), 1)),
]


def pooled(X, *how):
    """A gradient for max_pool's result, and its index."""
    Y, index = reference("pool.max_pool", X, *how)
    return normal(*Y.shape), index


def convolved(X, W, *how):
    """A gradient for conv's result."""
    return normal(*reference("conv.conv", X, W, None, *how).shape)


def reference(op, *arguments):
    """What the op's reference makes of them."""
    return OPS[op].reference(*arguments)


def per_channel(shape, count):
    """Numbers for each channel, all positive: gamma, beta, ..."""
    size = (1, shape[1], *(1 for _ in shape[2:]))
    return [0.5 + abs(normal(*size, seed=seed)) for seed in range(5, 5 + count)]


def named(case):
    return f"{case[0]}-{'x'.join(map(str, getattr(case[1], 'shape', ())))}"


def results(x):
    """The arrays among an op's results."""
    return [r for r in (x if isinstance(x, tuple) else (x,)) if r is not None]
