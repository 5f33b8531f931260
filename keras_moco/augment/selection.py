"""Runs an operation on the images that drew it, and leaves the others untouched."""

import tensorflow as tf

from keras_moco.errors import UserError


def apply_where(selected, function, images, *parameters):
    """Replaces the selected images by `function(images, *parameters)` of them.

    The others keep exactly their values, and cost nothing but a copy.

    Args:
        selected: bool `(n,)`.
        function: maps `(m, H, W, C)` images, and `(m, ...)` of each parameter, to images of the same shape.
        images: `(n, H, W, C)`.
        *parameters: each `(n, ...)`.

    Returns:
        `(n, H, W, C)`.
    """
    rows = tf.where(selected)
    chosen = function(*(tf.gather_nd(tensor, rows) for tensor in (images, *parameters)))
    return tf.tensor_scatter_nd_update(images, rows, chosen)


def check_rate(rate):
    """Returns `rate` as a float; it must be a probability."""
    if not 0 <= rate <= 1:
        raise UserError(
            "`rate` must be the probability, from 0 to 1, that an image is changed. "
            f"Received: rate={rate}. Choose a number in that range."
        )
    return float(rate)
