"""A second network of the same architecture, with variables of its own: the key encoder before the first step."""

import keras

from keras_moco.errors import UserError
from keras_moco.layers.nested import nested_layers
from keras_moco.networks.seeds import seed_generators
from keras_moco.networks.shuffle_bn import batch_norm_layers

# Added to the seeds of the random layers of a copy, or `Dropout(seed=1)` would drop the same units of query and key.
_OTHER_SEED = 0x9E3779B9


def duplicate(encoder, name):
    """A second encoder with weights of its own, at first the same, and other random numbers in layers like `Dropout`.

    Raises:
        ValueError: if a layer cannot be rebuilt.
    """
    copy = encoder.clone(name)
    shared = {id(variable) for variable in encoder.variables} & {id(variable) for variable in copy.variables}
    if shared:
        names = [variable.path for variable in encoder.variables if id(variable) in shared]
        raise UserError(
            "The key encoder must have variables of its own. "
            f"Received: a backbone or head whose `get_config` returns {names[0]} itself. "
            "Return plain values from `get_config`, or build the backbone with `keras.Model(inputs, outputs)`."
        )
    copy_weights(source=encoder, target=copy)
    for generator in seed_generators(copy):
        seed, draws = keras.ops.convert_to_numpy(generator.state)
        generator.state.assign([(int(seed) + _OTHER_SEED) % 2**32, draws])
    return copy


def follow_frozen(target, source):
    """Freezes the BatchNorm layers of `target` that are frozen in `source`, and unfreezes the others.

    All variables of `target` keep their values and take no gradient.
    """
    for theirs, ours in zip(batch_norm_layers(source), batch_norm_layers(target), strict=True):
        ours.trainable = theirs.trainable
    for variable in target.variables:
        variable.trainable = False


def copy_weights(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies every weight of `source`, BatchNorm statistics included, into `target` of the same architecture.

    Args:
        source: a built `keras.Layer` or `keras.Model`.
        target: a `keras.Layer` or `keras.Model` with the same weights in the same order.

    Raises:
        ValueError: if the weights differ in number or shape.
    """
    for theirs, ours in weight_pairs(source, target):
        ours.assign(theirs)
    for layer in nested_layers(target):
        if hasattr(layer, "finalize_state"):  # `Normalization` computes with constants made from its weights
            layer.finalize_state()


def weight_pairs(source, target):
    """Pairs of corresponding weights of two networks of the same architecture."""
    if [tuple(w.shape) for w in source.weights] != [tuple(w.shape) for w in target.weights]:
        raise UserError(
            "`source` and `target` must have the same weights in the same order. "
            f"Received: {len(source.weights)} weights in {source.name!r} and {len(target.weights)} in "
            f"{target.name!r}, or other shapes. Build both from one configuration."
        )
    return zip(source.weights, target.weights, strict=True)


def clone(network):
    """A network of the same architecture with fresh variables.

    Functional models are rebuilt layer by layer, even from layers whose class is not registered with Keras, or by
    their own `get_config` where a layer cannot be. Layers without variables that Keras cannot rebuild, such as
    `Lambda`, are shared. Other models are rebuilt from their `get_config`.

    Args:
        network: built `keras.Model` or `keras.Layer`.

    Raises:
        ValueError: if it, or one of its layers, cannot be rebuilt.
    """
    if isinstance(network, keras.Sequential):
        return keras.models.clone_model(network, clone_function=_clone_layer, recursive=True)
    if is_functional(network):
        inputs, outputs = (
            [*tensors] if len(tensors) > 1 else tensors[0] for tensors in (network.inputs, network.outputs)
        )
        graph = keras.Model(inputs, outputs, name=network.name)  # a subclass of `keras.Model` too
        try:
            return keras.models.clone_model(graph, clone_function=_clone_layer, recursive=True)
        except UserError:
            if not _has_own_config(network):
                raise
    copy = _clone_layer(network)
    if copy.get_build_config() is None:  # a subclassed model may call itself built before it has a variable
        copy.build_from_config(network.get_build_config())
    return copy


def is_functional(network):
    """Whether a model is only a graph of layers from its `inputs` to its `outputs`."""
    return hasattr(network, "inputs") and type(network).call.__module__.startswith("keras.")


def _has_own_config(network):
    """Whether a functional model is rebuilt by its class, as those of KerasHub, rather than from its graph."""
    return not type(network).get_config.__module__.startswith("keras.")


def _clone_layer(layer):
    # The arguments of `__init__`, where they can be serialized. Keras has no public name for them.
    arguments = getattr(layer, "_auto_config", None)
    try:
        return type(layer).from_config(layer.get_config())
    except (NotImplementedError, TypeError, ValueError) as error:
        if arguments is not None:
            return type(layer)(**arguments.config)
        if isinstance(layer, keras.Layer) and not layer.variables:
            return layer
        reason = " ".join(str(error).split()).partition(" Example:")[0]
        raise UserError(
            "Every layer with variables must be one that Keras can rebuild for the key encoder. "
            f"Received: {layer.name!r} of class {type(layer).__name__}, where Keras says: {reason} "
            "Give its class `get_config`, which returns the arguments of `__init__`."
        ) from error
