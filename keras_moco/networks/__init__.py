"""What is trained: ResNets, the encoder around a backbone, and projection heads."""

from keras_moco.networks.encoder import (
    HEADS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    linear_head,
    mlp_head,
    simclr_head,
)
from keras_moco.networks.resnet import RESNETS, STEMS, resnet

__all__ = [
    "HEADS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RESNETS",
    "STEMS",
    "Encoder",
    "linear_head",
    "mlp_head",
    "resnet",
    "simclr_head",
]
