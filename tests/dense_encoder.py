"""The encoder that `tests.reference` differentiates by hand, in Keras, with rates that differ at every step."""

import keras
import numpy as np
from keras import layers, ops

from keras_moco.layers import SplitBatchNormalization
from keras_moco.models import Encoder
from tests import reference

SHAPE = (4, 4, 3)
HIDDEN, EMBEDDING = 24, 12
MEAN, STD = 0.5, 0.25
STEPS = 20
# Another rate at every step, and a fall to a tenth: an SGD that keeps the rate in the velocity differs.
RATES = 0.05 * np.where(np.arange(STEPS) < STEPS // 2, 1.0, 0.1) * (1 + 0.3 * np.sin(np.arange(STEPS)))


class Listed(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of each step from a list, so that no schedule's formula stands between the two sides."""

    def __call__(self, step):
        return ops.take(ops.convert_to_tensor(RATES, "float32"), ops.cast(step, "int32"))

    def get_config(self):
        return {}


def make_start(batch_norm):
    """Its first weights, as `tests.reference` takes them."""
    return reference.initial_parameters(np.prod(SHAPE), HIDDEN, EMBEDDING, seed=5, batch_norm=batch_norm)


def make_encoder(start):
    """The Keras encoder with these weights."""
    norm = [SplitBatchNormalization()] if "gamma" in start else []
    backbone = keras.Sequential(
        [keras.Input(SHAPE), layers.Flatten(), layers.Dense(HIDDEN), *norm, layers.ReLU()], name="backbone"
    )
    head = keras.Sequential([keras.Input((HIDDEN,)), layers.Dense(EMBEDDING)], name="head")
    encoder = Encoder(backbone, head, mean=MEAN, std=STD)
    for variable, value in zip(encoder.trainable_variables, start.values(), strict=True):
        variable.assign(value)
    return encoder


def make_views(steps, batch, seed=11):
    """Two noisy views of random images for every step: a dict of float32 `(steps, batch, *SHAPE)`."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(20, 235, (steps, batch, *SHAPE))
    return {view: np.float32(images + rng.normal(0, 20, images.shape)) for view in ("query", "key")}


def scaled(images):
    """What the encoder's scaling makes of images, in float64."""
    return (np.float64(images) / 255 - MEAN) / STD
