"""Functions with weights, and those that move and shape arrays; one family a file."""

from deepcore.layers.attention import MultiHeadAttention
from deepcore.layers.conv import Conv2D
from deepcore.layers.dropout import Dropout
from deepcore.layers.embedding import Embedding
from deepcore.layers.linear import Linear
from deepcore.layers.norm import BatchNorm2D
from deepcore.layers.pool import MaxPool2D
from deepcore.layers.recurrent import GRU, LSTM, RNN
from deepcore.layers.shape import Flatten
from deepcore.layers.transformer import TransformerBlock

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm2D",
    "Conv2D",
    "Dropout",
    "Embedding",
    "Flatten",
    "Linear",
    "MaxPool2D",
    "MultiHeadAttention",
    "TransformerBlock",
]
