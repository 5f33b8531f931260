"""A second network of the same architecture, with variables of its own: how the key encoder begins."""

import keras

from keras_moco.errors import UserError
from keras_moco.networks.momentum import copy_weights
from keras_moco.networks.shuffle_bn import batch_norm_layers

# Added to the seeds of a copy's random layers, or `Dropout(seed=1)` would drop the same units of a query and its key.
_OTHER_SEED = 0x9E3779B9


def duplicate(encoder, name):
    """A second encoder: an exact copy at the start, whose random layers, such as `Dropout`, draw other numbers.

    Args:
        encoder: `Encoder`.
        name: str, of the copy.

    Returns:
        `Encoder` that shares no variable with the first.

    Raises:
        ValueError: if a layer cannot be made a second time.
    """
    copy = encoder.clone(name)
    shared = {id(variable) for variable in encoder.variables} & {id(variable) for variable in copy.variables}
    if shared:
        names = [variable.path for variable in encoder.variables if id(variable) in shared]
        raise UserError(
            "The key encoder must have variables of its own. "
            f"Received: a backbone or head whose `get_config` hands over {names[0]} itself. "
            "Return plain values from `get_config`, or build the backbone with `keras.Model(inputs, outputs)`."
        )
    copy_weights(encoder, copy)
    for generator in seed_generators(copy):
        seed, draws = keras.ops.convert_to_numpy(generator.state)
        generator.state.assign([(int(seed) + _OTHER_SEED) % 2**32, draws])
    return copy


def follow_frozen(target, source):
    """Freezes BatchNorm layers of `target` where those of `source` are frozen, and thaws the others.

    Its variables stay as they are, without a gradient.
    """
    for theirs, ours in zip(batch_norm_layers(source), batch_norm_layers(target), strict=True):
        ours.trainable = theirs.trainable
    for variable in target.variables:
        variable.trainable = False


def seed_generators(model):
    """The `keras.random.SeedGenerator`s of a model's random layers, such as `Dropout`: a list."""
    return [generator for layer in model._flatten_layers() for generator in getattr(layer, "_seed_generators", ())]


def clone(network):
    """A network of the same architecture with fresh variables.

    Models of Keras's functional API are made again layer by layer, also where a layer's class is not registered with
    Keras; layers without variables that Keras cannot make again, such as `Lambda`, are shared. Other models are made
    from their `get_config`.

    Args:
        network: built `keras.Model` or `keras.Layer`.

    Returns:
        The same kind of model. Its initial weights are of no account.

    Raises:
        ValueError: if it, or one of its layers, cannot be made again.
    """
    if isinstance(network, keras.Sequential):
        return keras.models.clone_model(network, clone_function=_clone_layer, recursive=True)
    if is_functional(network):
        inputs, outputs = (
            [*tensors] if len(tensors) > 1 else tensors[0] for tensors in (network.inputs, network.outputs)
        )
        graph = keras.Model(inputs, outputs, name=network.name)  # also of a class that is derived from it
        return keras.models.clone_model(graph, clone_function=_clone_layer, recursive=True)
    copy = _clone_layer(network)
    if copy.get_build_config() is None:  # a subclassed model may call itself built before it has a variable
        copy.build_from_config(network.get_build_config())
    return copy


def is_functional(network):
    """Whether a model is nothing but a graph of layers from its `inputs` to its `outputs`."""
    return hasattr(network, "inputs") and type(network).call.__module__.startswith("keras.")


def _clone_layer(layer):
    arguments = getattr(layer, "_auto_config", None)  # of `__init__`, where these are numbers, words and the like
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        if arguments is not None:
            return type(layer)(**arguments.config)
        if isinstance(layer, keras.Layer) and not layer.variables:
            return layer
        reason = " ".join(str(error).split()).partition(" Example:")[0]
        raise UserError(
            "Every layer with variables must be one that can be made again, for the key encoder. "
            f"Received: {layer.name!r} of class {type(layer).__name__}, where Keras says: {reason} "
            "Give its class `get_config`, which returns the arguments of `__init__`."
        ) from error
