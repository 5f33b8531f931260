"""What is trained: ResNets, the encoder around a backbone, and projection heads."""

from keras_moco.networks import from_keras_applications, from_keras_hub
from keras_moco.networks.by_name import BACKBONES, Named, backbone
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
    "Named",
    "backbone",
    "copy_weights",
    "linear_head",
    "mlp_head",
    "resnet",
    "simclr_head",
]
