"""All that a model, its optimizer and its random layers have stored, or nothing of it."""

import contextlib
import functools
import warnings

import keras

from keras_moco.layers.nested import nested_layers
from keras_moco.networks.seeds import seed_generators


def random_states(model):
    """The states of the seed generators of random layers, such as `Dropout`: a list of lists of int.

    Keras does not save them with the weights. With them, random layers of a resumed model continue their sequence.
    """
    return [keras.ops.convert_to_numpy(each.state).tolist() for each in seed_generators(model)]


@contextlib.contextmanager
def every_variable(model):
    """In this block layers of KerasHub save and load each of their variables, and change none by that.

    Some compute one from another instead: `DINOV2Backbone` does not load the position embeddings that it trains.
    """
    ways = {name: getattr(keras.Layer, name) for name in ("save_own_variables", "load_own_variables")}
    layers = [layer for layer in nested_layers(model) if type(layer).__module__.startswith("keras_hub.")]
    for layer in layers:
        for name, way in ways.items():
            object.__setattr__(layer, name, functools.partial(way, layer))
    try:
        yield
    finally:
        for layer in layers:
            for name in ways:
                object.__delattr__(layer, name)


def load_or_leave(model, file, random=()):
    """Loads weights and the state of the optimizer from an HDF5 file of Keras.

    Args:
        model: `keras.Model`; if it has an optimizer, that is built.
        file: path, or a binary file object whose name ends in `.weights.h5`.
        random: list, as of `random_states`, of the same model.

    Raises:
        Exception: whatever Keras and HDF5 raise where the file does not fit; then the model is as it was.
    """
    optimizer = getattr(model, "optimizer", None)
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    try:
        with warnings.catch_warnings():
            # Keras only warns, and continues with an optimizer that has forgotten everything.
            warnings.filterwarnings("error", message="Skipping variable loading for optimizer")
            with every_variable(model):
                model.load_weights(file)
        for generator, state in zip(seed_generators(model), random, strict=False):
            generator.state.assign(state)
    except Exception:
        for variable, value in zip(variables, before, strict=True):  # what was loaded until then
            variable.assign(value)
        raise
