"""Models made elsewhere, with BatchNorm layers that can be split."""

import keras

from keras_moco.layers.split_batch_normalization import SplitBatchNormalization


def splittable(model):
    """Replaces Keras's BatchNorm layers by `SplitBatchNormalization(1)`, which computes the same and can be split.

    Args:
        model: `keras.Model`.

    Returns:
        `model` itself where it has no such layer, or is no functional or sequential model, which cannot be taken
        apart; else a functional copy with the same weights.

    Example:

    >>> images = keras.Input((8, 8, 3))
    >>> model = keras.Model(images, keras.layers.BatchNormalization(name="norm")(images))
    >>> type(splittable(model).get_layer("norm")).__name__
    'SplitBatchNormalization'
    """
    if not any(map(_is_plain, model._flatten_layers())) or not hasattr(model, "inputs"):
        return model
    pairs = []

    def copy(layer):
        config = layer.get_config()
        if _is_plain(layer):
            made = SplitBatchNormalization.from_config({**config, "axis": -1})
        else:
            made = type(layer).from_config(config)
        pairs.append((layer, made))
        return made

    # A plain functional model over the same layers, whether `model` is sequential or a subclass of its own.
    inputs, outputs = ([*tensors] if len(tensors) > 1 else tensors[0] for tensors in (model.inputs, model.outputs))
    graph = keras.Model(inputs, outputs, name=model.name)
    made = keras.models.clone_model(graph, clone_function=copy, recursive=True)
    for theirs, ours in pairs:
        if isinstance(theirs, keras.Layer):
            ours.set_weights(theirs.get_weights())
    return made


def _is_plain(layer):
    """Whether it is Keras's own BatchNorm over the last axis, as far as that can be split."""
    return (
        type(layer) is keras.layers.BatchNormalization
        and layer.axis in (-1, layer.input_spec.ndim - 1 if layer.built else -1)
        and not getattr(layer, "renorm", False)  # unknown to the older versions of Keras
    )
