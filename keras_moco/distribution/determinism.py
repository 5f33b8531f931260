"""The same bits each time, where a device has faster ways that do not give them."""

import keras
import tensorflow as tf


def make_deterministic(seed):
    """Makes TensorFlow use only operations that give the same bits each time, in this process and from now on.

    A CPU gives them in any case; of a GPU's operations some add numbers in the order in which they come.

    Args:
        seed: int, for whatever asks for random numbers without a seed of its own.
    """
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
