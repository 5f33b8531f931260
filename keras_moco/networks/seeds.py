"""Reproducible initial weights, without touching the random state of the caller, and the state of random layers."""

import contextlib
import random

from keras_moco.layers.nested import nested_layers


@contextlib.contextmanager
def initial_seed(seed):
    """Within the block, initializers and layers without a seed of their own take theirs from `seed`.

    Weights are those that `keras.utils.set_random_seed(seed)` would give: Keras draws the missing seeds from Python's
    `random`. After the block that is as before; NumPy's and TensorFlow's random state are not touched.
    """
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def seed_generators(model):
    """The `keras.random.SeedGenerator`s of the random layers of a model, such as `Dropout`: a list."""
    # Keras has no public name for those of every kind of layer. Tests of `Dropout` in an encoder fail without them.
    return [generator for layer in nested_layers(model) for generator in getattr(layer, "_seed_generators", ())]
