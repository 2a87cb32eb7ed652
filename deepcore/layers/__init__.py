"""Functions with weights, and those that move and shape arrays; one family a file."""

from deepcore.layers.attention import MultiHeadAttention
from deepcore.layers.bilinear import Bilinear
from deepcore.layers.conv import Conv1D, Conv2D, Conv3D, ConvTranspose1D, ConvTranspose2D, ConvTranspose3D
from deepcore.layers.dropout import Dropout, Dropout2D
from deepcore.layers.embedding import Embedding
from deepcore.layers.linear import Linear
from deepcore.layers.norm import (
    BatchNorm1D,
    BatchNorm2D,
    BatchNorm3D,
    GroupNorm,
    InstanceNorm1D,
    InstanceNorm2D,
    InstanceNorm3D,
    LayerNorm,
    RMSNorm,
)
from deepcore.layers.pad import Pad1D, Pad2D, Pad3D
from deepcore.layers.pool import (
    AdaptiveAvgPool1D,
    AdaptiveAvgPool2D,
    AdaptiveAvgPool3D,
    AdaptiveMaxPool1D,
    AdaptiveMaxPool2D,
    AdaptiveMaxPool3D,
    AvgPool1D,
    AvgPool2D,
    AvgPool3D,
    GlobalAvgPool2D,
    GlobalMaxPool2D,
    MaxPool1D,
    MaxPool2D,
    MaxPool3D,
)
from deepcore.layers.recurrent import GRU, LSTM, RNN
from deepcore.layers.resize import Upsample2D
from deepcore.layers.shape import Flatten, Permute, Reshape
from deepcore.layers.transformer import TransformerBlock

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1D",
    "AdaptiveAvgPool2D",
    "AdaptiveAvgPool3D",
    "AdaptiveMaxPool1D",
    "AdaptiveMaxPool2D",
    "AdaptiveMaxPool3D",
    "AvgPool1D",
    "AvgPool2D",
    "AvgPool3D",
    "BatchNorm1D",
    "BatchNorm2D",
    "BatchNorm3D",
    "Bilinear",
    "Conv1D",
    "Conv2D",
    "Conv3D",
    "ConvTranspose1D",
    "ConvTranspose2D",
    "ConvTranspose3D",
    "Dropout",
    "Dropout2D",
    "Embedding",
    "Flatten",
    "GlobalAvgPool2D",
    "GlobalMaxPool2D",
    "GroupNorm",
    "InstanceNorm1D",
    "InstanceNorm2D",
    "InstanceNorm3D",
    "LayerNorm",
    "Linear",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    "MultiHeadAttention",
    "Pad1D",
    "Pad2D",
    "Pad3D",
    "Permute",
    "RMSNorm",
    "Reshape",
    "TransformerBlock",
    "Upsample2D",
]
