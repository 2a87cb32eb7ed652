"""deepcore: neural networks from four ideas - Function, Layer, Loss, Net - on every array library."""

from deepcore import init, io, optim
from deepcore.activations import LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from deepcore.backends.registry import array_namespace, backend_of
from deepcore.backends.select import (
    asarray,
    available_backends,
    default_dtype,
    set_backend,
    set_default_dtype,
    synchronize,
    to_backend,
    to_numpy,
    use_backend,
)
from deepcore.core.containers import Add, Concat, Residual, Sequential
from deepcore.core.function import Function
from deepcore.core.gradcheck import gradcheck
from deepcore.core.layer import Layer
from deepcore.core.loss import Loss
from deepcore.core.random import seed
from deepcore.core.record import inference
from deepcore.errors import (
    ArgumentError,
    BackendFallbackWarning,
    BackendUnavailable,
    CheckpointError,
    DataError,
    DeepcoreError,
    DTypeError,
    GradientError,
    LabelError,
    MissingDataError,
    MixedBackendError,
    NumericWarning,
    ShapeError,
    StateError,
    UnsupportedError,
)
from deepcore.io.architecture import register
from deepcore.io.state import load
from deepcore.layers import BatchNorm2D, Conv2D, Dropout, Flatten, Linear, MaxPool2D
from deepcore.losses import CrossEntropyLoss, MeanSquareLoss, MSELoss
from deepcore.net import Net
from deepcore.train.callbacks import Callback, History

__version__ = "0.1.0"

__all__ = [
    "Add",
    "ArgumentError",
    "BackendFallbackWarning",
    "BackendUnavailable",
    "BatchNorm2D",
    "Callback",
    "CheckpointError",
    "Concat",
    "Conv2D",
    "CrossEntropyLoss",
    "DTypeError",
    "DataError",
    "DeepcoreError",
    "Dropout",
    "Flatten",
    "Function",
    "GradientError",
    "History",
    "LabelError",
    "Layer",
    "LeakyReLU",
    "Linear",
    "Loss",
    "MSELoss",
    "MaxPool2D",
    "MeanSquareLoss",
    "MissingDataError",
    "MixedBackendError",
    "Net",
    "NumericWarning",
    "ReLU",
    "Residual",
    "Sequential",
    "ShapeError",
    "Sigmoid",
    "Softmax",
    "StateError",
    "Tanh",
    "UnsupportedError",
    "array_namespace",
    "asarray",
    "available_backends",
    "backend_of",
    "default_dtype",
    "gradcheck",
    "inference",
    "init",
    "io",
    "load",
    "optim",
    "register",
    "seed",
    "set_backend",
    "set_default_dtype",
    "synchronize",
    "to_backend",
    "to_numpy",
    "use_backend",
]
