"""Convolutional networks without a head, as functional Keras models from images to feature maps."""

from keras_moco.backbones.resnet import RESNETS, STEMS, resnet

__all__ = ["RESNETS", "STEMS", "resnet"]
