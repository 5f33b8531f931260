"""Reproducible initial weights, without touching the random state of the caller."""

import contextlib
import random


@contextlib.contextmanager
def initial_seed(seed):
    """Within the block, initializers and layers without a seed of their own take theirs from `seed`.

    Weights are those that `keras.utils.set_random_seed(seed)` would give: Keras draws the missing seeds from Python's
    `random`. After the block that is as before; NumPy's and TensorFlow's random state are not touched.

    Args:
        seed: int, the seed of the initial weights.

    Example:

    >>> import keras
    >>> def weight():
    ...     with initial_seed(3):
    ...         return float(keras.layers.Dense(1)(keras.ops.ones((1, 1)))[0, 0])
    >>> weight() == weight()
    True
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
