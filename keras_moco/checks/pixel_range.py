"""Checks that images have values in 0..255, as everything here expects, and not in 0..1 or -1..1."""

import tensorflow as tf

from keras_moco.checks.graph import require
from keras_moco.errors import UserError

RULE = "`images` must have values in 0..255, as they are in files."
WAY_OUT = "Remove what scales them, or multiply images in 0..1 by 255."
ROWS = 4  # rows of each image that a graph checks first
MARGIN = 64  # a quarter of the range: how far noise, sharpening or cubic resizing may exceed it
STANDARDIZED = 16  # bound on images of mean 0 and standard deviation 1


def check_pixels(images):
    """Refuses images whose values cannot be pixels in 0..255.

    These are fractional values in 0..1, as after division by 255, and fractional values from below 0 to 16 at most, as
    of images in -1..1 or of mean 0 and standard deviation 1: read as 0..255 such images would be black. Values more
    than 64 outside of 0..255 are refused too, as after subtraction of the mean, or of 16 bits; noise, sharpening and
    cubic resizing do not reach that far. Whole numbers from 0 are never considered scaled, however dark the image, and
    uint8 is not checked.

    A graph checks four rows of each image, and all rows only before it refuses them. This costs less than one percent
    of two augmented views. XLA omits the check.

    Args:
        images: tensor or array `(n, H, W, C)`, any numeric dtype.

    Returns:
        The same images, as a tensor.

    Raises:
        ValueError: outside of a graph, immediately; in a graph the step fails, see `keras_moco.checks.graph`.

    Example:

    >>> check_pixels(tf.fill((1, 2, 2, 3), 127.5)).shape
    TensorShape([1, 2, 2, 3])
    >>> check_pixels(tf.fill((1, 2, 2, 3), 0.5))
    Traceback (most recent call last):
    keras_moco.errors.UserError: `images` must have values in 0..255, ...
    """
    images = tf.convert_to_tensor(images)
    if images.dtype in (tf.uint8, tf.bool):
        return images
    if tf.executing_eagerly():
        low, high, wrong = _examine(images)
    else:
        low, high = _range(_some_rows(images))
        # NaN passes, since it is no matter of scale: the loss will be reported as not finite.
        doubtful = (low < 0) | (high > 255) | (high <= 1)
        low, high, wrong = tf.cond(doubtful, lambda: _examine(images), lambda: (low, high, False))
    check = require(~wrong, RULE, ("values from", low, "to", high), WAY_OUT)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(images)


def refusal(low, high):
    """The error for images with values from `low` to `high`."""
    return UserError(f"{RULE} Received: values from {low:g} to {high:g}. {WAY_OUT}")


def _examine(images):
    """The lowest and the highest value, and whether the images are refused."""
    low, high = _range(images)
    outside = (low < -MARGIN) | (high > 255 + MARGIN)
    scaled = tf.constant(False)
    if images.dtype.is_floating:
        scaled = (high <= 1) | (low <= -0.5) & (high <= STANDARDIZED)
        scaled &= tf.reduce_any(images != tf.round(images))
    return low, high, outside | scaled


def _range(images):
    return tf.cast(tf.reduce_min(images), "float32"), tf.cast(tf.reduce_max(images), "float32")


def _some_rows(images):
    if images.shape.rank != 4:
        return images
    height = tf.shape(images)[1]
    return tf.gather(images, tf.range(0, height, tf.maximum(height // ROWS, 1)), axis=1)  # ten times as fast as a slice
