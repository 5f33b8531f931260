"""All that a model, its optimizer and its random layers have stored, or nothing of it."""

import warnings

import keras

from keras_moco.networks.seeds import seed_generators


def random_states(model):
    """The states of the seed generators of random layers, such as `Dropout`: a list of lists of int.

    Keras does not save them with the weights. With them, random layers of a resumed model continue their sequence.
    """
    return [keras.ops.convert_to_numpy(each.state).tolist() for each in seed_generators(model)]


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
            model.load_weights(file)
        for generator, state in zip(seed_generators(model), random, strict=False):
            generator.state.assign(state)
    except Exception:
        for variable, value in zip(variables, before, strict=True):  # what was loaded until then
            variable.assign(value)
        raise
