"""Losses: how far the net's output is from the targets, as one number. One family a file."""

from deepcore.losses.classification import CrossEntropyLoss, MultiMarginLoss, NLLLoss
from deepcore.losses.distance import CosineSimilarityLoss, TripletMarginLoss
from deepcore.losses.margin import HingeEmbeddingLoss, HingeLoss, SoftMarginLoss
from deepcore.losses.probability import (
    BCELoss,
    BCEWithLogitsLoss,
    GaussianNLLLoss,
    KLDivLoss,
    MultiLabelSoftMarginLoss,
    PoissonNLLLoss,
)
from deepcore.losses.regression import HuberLoss, L1Loss, MeanSquareLoss, MSELoss, SmoothL1Loss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CosineSimilarityLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MeanSquareLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
]
