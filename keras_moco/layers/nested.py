"""All layers of a model."""


def nested_layers(layer):
    """A `keras.Layer` or `keras.Model` followed by all layers in it, however deep: a list."""
    # Keras has no public way: `keras.Model.layers` stops at the first level, and a `keras.Layer` does not list its own.
    return list(layer._flatten_layers())
