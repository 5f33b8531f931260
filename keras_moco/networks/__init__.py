"""What is trained: ResNets, the encoder around a backbone, and projection heads."""

import functools

from keras_moco.networks.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from keras_moco.networks.heads import HEADS, linear_head, mlp_head, simclr_head
from keras_moco.networks.resnet import RESNETS, STEMS, resnet
from keras_moco.networks.weights import copy_weights

__all__ = [
    "BACKBONES",
    "HEADS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "RESNETS",
    "STEMS",
    "Encoder",
    "copy_weights",
    "linear_head",
    "mlp_head",
    "resnet",
    "simclr_head",
]

# The networks that a configuration can name: functions of `width`, `stem` and `input_shape`. A name that is added to
# `RESNETS` is one too.
BACKBONES = {name: functools.partial(resnet, name) for name in RESNETS}
