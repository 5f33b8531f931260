"""Rebuilds the backbone of an encoder as one model of stock Keras layers, which loads without this package."""

import keras
from keras import tree

from keras_moco.errors import UserError
from keras_moco.layers import SplitBatchNormalization
from keras_moco.layers.nested import nested_layers
from keras_moco.networks.raw_values import Limits, from_raw_values
from keras_moco.networks.weights import copy_weights


class NotStockError(UserError):
    """A backbone has parts that are not Keras's own, so no other program could load a `.keras` file of it.

    Attributes:
        what: str, the first such part.
    """

    def __init__(self, what):
        super().__init__(
            "The backbone must be a functional or sequential model of stock Keras layers to be loaded anywhere. "
            f"Received: {what}. Replace it by layers of `keras.layers`, or use the SavedModel of `export_backbone`."
        )
        self.what = what


def standalone_backbone(encoder: keras.Model, value_range: Limits | None = None) -> keras.Model:
    """Rebuilds scaling, backbone and pooling of an encoder as one functional model of stock Keras layers.

    Args:
        encoder: `Encoder`, as for `export_backbone`.
        value_range: `(low, high)`, as for `export_backbone`. Defaults to `None`.

    Returns:
        A float32, trainable `keras.Model` named after the backbone, with copies of its weights, from images
        `(n, H, W, C)` in 0..255, or with raw values, to `(n, F)`.

    Raises:
        ValueError: `NotStockError`, if the backbone cannot be rebuilt from stock Keras layers.

    Example:

    >>> from keras_moco.networks import Encoder, linear_head, resnet
    >>> encoder = Encoder(resnet("resnet10", width=4), linear_head(32))
    >>> standalone_backbone(encoder).output_shape
    (None, 32)
    """
    if not hasattr(encoder.backbone, "inputs"):
        raise NotStockError(describe(encoder.backbone))
    try:
        model = _rebuild(encoder, (None, None, encoder.image_shape[-1]), value_range)
    except NotStockError:
        raise
    except (ValueError, TypeError):
        if encoder.image_shape[:2] == (None, None):
            raise
        # Flattening or position embeddings tie the backbone to one image size.
        model = _rebuild(encoder, encoder.image_shape, value_range)
    if foreign := foreign_part(model):
        raise NotStockError(foreign)
    return model


def features_model(encoder: keras.Model, value_range: Limits | None = None) -> keras.Model:
    """As `standalone_backbone`, but of the backbone's own layers and for its image size where it has to be.

    Args:
        encoder, value_range: as of `standalone_backbone`.

    Returns:
        A `keras.Model` with copies of the weights, from images `(n, H, W, C)` to `(n, F)`.

    Raises:
        ValueError: if a layer cannot be rebuilt.
    """
    try:
        return standalone_backbone(encoder, value_range)
    except NotStockError:
        copy = encoder.clone(encoder.name)
        copy_weights(encoder, copy)
    images = keras.Input(encoder.image_shape, name="images")
    pixels = from_raw_values(images, value_range) if value_range else images
    features = copy.pool(copy.backbone(copy.scaling(pixels)))
    return keras.Model(images, keras.ops.cast(features, encoder.full_precision), name=encoder.backbone.name)


def _rebuild(encoder, image_shape, value_range):
    # A plain functional model over the same layers, also where the backbone is sequential or a subclass.
    graph = keras.Model(encoder.backbone.inputs, encoder.backbone.outputs)
    taken = {layer.name for layer in graph.layers}
    images = keras.Input(image_shape, name="images")
    pixels = from_raw_values(images, value_range) if value_range else images
    scaling = encoder.scaling
    # As lists, which are plain numbers in the file; arrays are not.
    scale, offset = scaling.scale.tolist(), scaling.offset.tolist()
    scaled = keras.layers.Rescaling(scale, offset, name=_free(scaling.name, taken), dtype="float32")(pixels)
    pairs = []

    def clone(layer):
        pairs.append((layer, _stock_copy(layer)))
        return pairs[-1][1]

    def call(layer, *args, **kwargs):
        # Every layer that read the images reads the scaled images: one flat graph, whose feature maps are easy to
        # access.
        args, kwargs = tree.map_structure(lambda x: scaled if x is images else x, (args, kwargs))
        return layer(*args, **kwargs)

    copy = keras.models.clone_model(graph, [images], clone_function=clone, call_function=call, recursive=True)
    for layer, stock in pairs:
        if isinstance(layer, keras.Layer):
            stock.set_weights(layer.get_weights())
            if hasattr(stock, "finalize_state"):  # `Normalization` computes with constants made from its weights
                stock.finalize_state()
    pool = _stock_copy(encoder.pool, _free(encoder.pool.name, taken))
    model = keras.Model(images, pool(copy.outputs[0]), name=encoder.backbone.name)
    for each in nested_layers(model):
        if isinstance(each, keras.Model | keras.layers.InputLayer):
            each.dtype_policy = "float32"  # which these take from the global policy, and not from a configuration
    return model


def _free(name, taken):
    """A name that no layer of the backbone has: it may have a `pool` of its own, or be an export of ours."""
    return name if name not in taken else _free(f"encoder_{name}", taken)


def _stock_copy(layer, name=None):
    """The same layer with new weights, in float32."""
    split = isinstance(layer, SplitBatchNormalization)
    if not split and (foreign := foreign_part(layer)):
        raise NotStockError(foreign)
    config = layer.get_config() | ({} if name is None else {"name": name})
    if isinstance(layer, keras.Layer):
        # A layer that is frozen here need not be frozen for fine-tuning elsewhere.
        new = {"dtype": "float32", "trainable": True}
        config |= {name: value for name, value in new.items() if name in config}
    if isinstance(layer, keras.layers.BatchNormalization):
        config.pop("splits", None)
        config["synchronized"] = False  # a setting of its training
    return (keras.layers.BatchNormalization if split else type(layer)).from_config(config)


def describe(layer):
    """The name and class of a layer, for messages."""
    return f"layer {layer.name!r} of class {type(layer).__name__}"


def foreign_part(layer):
    """The first part of a layer or model that is not Keras's own, in words; empty if every part is."""
    # `_flatten_layers` also yields the layers within wrappers and cells, which no public method lists. The tests export
    # such a layer. Operations between layers have no such method.
    for each in nested_layers(layer) if isinstance(layer, keras.Layer) else [layer]:
        if not _is_stock(each):
            return describe(each)
    # Activations, initializers, regularizers.
    name = next(_foreign_names(layer.get_config()), None)
    return repr(name) if name else ""


def _is_stock(layer):
    """Whether every program with Keras can load this layer, regardless of the layers in it."""
    # `Lambda` is code, and `TFSMLayer` reads another folder.
    portable = not isinstance(layer, keras.layers.Lambda | keras.layers.TFSMLayer)
    return type(layer).__module__.startswith("keras.") and portable


def _foreign_names(config):
    """Names of the classes and functions in a configuration that are not Keras's own."""
    if isinstance(config, dict):
        name = config.get("class_name")
        is_keras = (config.get("module") or "").partition(".")[0] == "keras"
        if name == "__lambda__" or name and config.get("registered_name") and not is_keras:
            yield config["config"] if name == "function" else name
    if isinstance(config, dict | list | tuple):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _foreign_names(value)
