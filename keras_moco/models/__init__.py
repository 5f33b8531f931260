"""Contrastive models and the encoder they train."""

from keras_moco.models.contrastive import Contrast, ContrastiveModel
from keras_moco.models.encoder import (
    HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    linear_head,
    mlp_head,
    simclr_head,
)
from keras_moco.models.end_to_end import EndToEnd
from keras_moco.models.memory_bank import MemoryBank
from keras_moco.models.moco import MoCo
from keras_moco.models.simclr import SimCLR

__all__ = [
    "HEADS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Contrast",
    "ContrastiveModel",
    "Encoder",
    "EndToEnd",
    "MemoryBank",
    "MoCo",
    "SimCLR",
    "linear_head",
    "mlp_head",
    "simclr_head",
]
