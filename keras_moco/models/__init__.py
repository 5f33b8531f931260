"""Contrastive models and the encoder they train."""

from keras_moco.models.contrastive import Contrast, ContrastiveModel
from keras_moco.models.encoder import HEADS, IMAGENET_MEAN, IMAGENET_STD, Encoder, linear_head, mlp_head
from keras_moco.models.moco import MoCo

__all__ = [
    "HEADS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Contrast",
    "ContrastiveModel",
    "Encoder",
    "MoCo",
    "linear_head",
    "mlp_head",
]
