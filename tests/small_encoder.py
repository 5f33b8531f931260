"""An encoder that trains in milliseconds, the same in every process of a test."""

import keras
from keras import layers

from keras_moco.layers import SplitBatchNormalization
from keras_moco.networks import Encoder, linear_head

SHAPE = (4, 4, 3)


def small_encoder(batch_norm=False):
    """Two convolutions, the first with BatchNorm or without, and 8 numbers per image."""
    norm = [SplitBatchNormalization()] if batch_norm else []
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Conv2D(6, 3), *norm, layers.ReLU(), layers.Conv2D(5, 2, activation="relu")]
    )
    return Encoder(backbone, linear_head(5, 8), mean=0.5, std=0.25)
