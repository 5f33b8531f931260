"""Bit-identical results on devices that have faster, non-deterministic operations."""

import keras
import tensorflow as tf


def make_deterministic(seed):
    """Makes TensorFlow use only deterministic operations from now on in this process.

    Those of a CPU are deterministic anyway; some of a GPU add numbers in an arbitrary order.

    Args:
        seed: int, the seed of random operations without one of their own.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
