"""Models that take images with the values of their files, where these are not 0..255."""

import keras
import numpy as np

from keras_moco.image_formats.decoding import Limits

NAME = "value_range"  # of the layer by which such a model is recognised


def from_raw_values(values: keras.KerasTensor, limits: Limits) -> keras.KerasTensor:
    """Brings values into 0..255 by the law of `keras_moco.image_formats.Decoding`, in layers of Keras.

    Args:
        values: `(n, H, W, C)`.
        limits: `(low, high)`, the values that become 0 and 255, each a float or a tuple of one for each channel.

    Returns:
        `(n, H, W, C)`, float32.
    """
    low, high = (np.asarray(end, "float64") for end in limits)
    scale = 255 / (high - low)
    numbers = scale.tolist(), (0 - low * scale).tolist()
    scaled = keras.layers.Rescaling(*numbers, name=NAME, dtype="float32")(values)
    return keras.layers.ReLU(max_value=255.0, name=f"{NAME}_clipped", dtype="float32")(scaled)


def takes_raw_values(model: keras.Model, limits: Limits | None) -> keras.Model:
    """The same model for raw values; with `limits` of `None` the model as it is.

    Args:
        model: `keras.Model` from one batch of images in 0..255.
        limits: as for `from_raw_values`, or `None`.

    Returns:
        `keras.Model` with the same layers and weights.
    """
    if limits is None:
        return model
    images = keras.Input(model.input_shape[1:], name="images")
    return keras.Model(images, model(from_raw_values(images, limits)), name=model.name)


def limits_of(model: keras.Model) -> Limits | None:
    """The `limits` of a model that takes raw values; `None` if it takes 0..255."""
    layers = [layer for layer in getattr(model, "layers", []) if layer.name == NAME]
    if not layers:
        return None
    scale, offset = (np.asarray(numbers, "float64") for numbers in (layers[0].scale, layers[0].offset))
    low = -offset / scale
    high = low + 255 / scale
    return (tuple(low), tuple(high)) if low.ndim else (float(low), float(high))


def takes_0_to_255(model: keras.Model) -> keras.Model:
    """The same model, with the same layers and weights, for images that are in 0..255 already."""
    if limits_of(model) is None:
        return model
    return keras.Model(model.get_layer(f"{NAME}_clipped").output, model.output, name=model.name)
