"""Projection heads, from features to an embedding."""

import keras
from keras import initializers, layers

from keras_moco.layers import SplitBatchNormalization


def _dense(units, fan_in, **kwargs):
    """A dense layer whose kernel and bias begin as in PyTorch's `Linear`: U(-1, 1) / sqrt(fan-in)."""
    bound = fan_in**-0.5
    uniform = initializers.RandomUniform(-bound, bound)
    return layers.Dense(units, kernel_initializer=uniform, bias_initializer=uniform.clone(), **kwargs)


def linear_head(features: int, embedding_dim: int = 128) -> keras.Sequential:
    """One dense layer from `features` to `embedding_dim` (MoCo v1; official `moco/builder.py`)."""
    return keras.Sequential([keras.Input((features,)), _dense(embedding_dim, features, name="fc")], name="head")


def mlp_head(features: int, embedding_dim: int = 128) -> keras.Sequential:
    """Dense, ReLU, dense; hidden width `features`, no BatchNorm (MoCo v2, sec. 3; official `moco/builder.py`)."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            _dense(features, features, activation="relu", name="fc1"),
            _dense(embedding_dim, features, name="fc2"),
        ],
        name="head",
    )


def simclr_head(features: int, embedding_dim: int = 128) -> keras.Sequential:
    """Three dense layers, each with BatchNorm, ReLU between them (SimCLR v1's code; official `tf2/model.py`).

    Hidden width `features`; initial weights N(0, 0.01); no biases except BatchNorm's, and none in the last one.
    """

    def dense(units, name):
        small = initializers.RandomNormal(stddev=0.01)
        return layers.Dense(units, use_bias=False, kernel_initializer=small, name=name)

    return keras.Sequential(
        [
            keras.Input((features,)),
            dense(features, "fc1"),
            SplitBatchNormalization(name="bn1"),
            layers.ReLU(name="relu1"),
            dense(features, "fc2"),
            SplitBatchNormalization(name="bn2"),
            layers.ReLU(name="relu2"),
            dense(embedding_dim, "fc3"),
            SplitBatchNormalization(center=False, name="bn3"),
        ],
        name="head",
    )


HEADS = {"linear": linear_head, "mlp": mlp_head, "simclr": simclr_head}
