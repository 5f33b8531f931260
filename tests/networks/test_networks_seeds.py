"""Initial weights depend on their seed alone, and making them leaves the random state of the caller as it was."""

import random

import keras
import numpy as np
import tensorflow as tf

from keras_moco.networks import Encoder, resnet, simclr_head
from keras_moco.networks.seeds import initial_seed


def weights():
    encoder = Encoder(resnet("resnet10", width=4, input_shape=(8, 8, 3)), simclr_head(32, 8))
    dropout = keras.layers.Dropout(0.5)
    return [*(np.array(weight) for weight in encoder.weights), np.array(dropout.seed_generator.state)]


def random_numbers():
    """What Python, NumPy, TensorFlow and Keras draw next."""
    return (
        random.random(),
        np.random.random(),
        float(tf.random.uniform(())),
        float(keras.random.uniform(())),
    )


def test_weights_are_those_of_a_global_seed():
    keras.utils.set_random_seed(5)
    expected = weights()
    keras.utils.set_random_seed(6)
    with initial_seed(5):
        found = weights()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with initial_seed(7):
        assert any((one != other).any() for one, other in zip(weights(), expected, strict=True))


def test_random_state_of_the_caller_is_unchanged():
    keras.utils.set_random_seed(1)
    expected = random_numbers()
    keras.utils.set_random_seed(1)
    with initial_seed(5):
        weights()
    assert random_numbers() == expected
