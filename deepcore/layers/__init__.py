"""Functions with weights, and those that move and shape arrays; one family a file."""

from deepcore.layers.bilinear import Bilinear
from deepcore.layers.conv import Conv2D
from deepcore.layers.dropout import Dropout, Dropout2D
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm2D
from deepcore.layers.pad import Pad1D, Pad2D, Pad3D
from deepcore.layers.pool import MaxPool2D
from deepcore.layers.resize import Upsample2D
from deepcore.layers.shape import Flatten, Permute, Reshape

__all__ = [
    "BatchNorm2D",
    "Bilinear",
    "Conv2D",
    "Dropout",
    "Dropout2D",
    "Flatten",
    "Linear",
    "MaxPool2D",
    "Pad1D",
    "Pad2D",
    "Pad3D",
    "Permute",
    "Reshape",
    "Upsample2D",
]
