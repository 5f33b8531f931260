"""Whether images have values in 0..255, which everything here takes, and not in 0..1 or -1..1."""

import tensorflow as tf

from keras_moco.checks.graph import require
from keras_moco.errors import UserError

RULE = "`images` must have values in 0..255, as they are in files."
WAY_OUT = "Leave out what scales them, or multiply by 255 what is in 0..1."
ROWS = 4  # of each image, in which a graph looks for values that cannot be
MARGIN = 64  # a quarter of the range: what noise, sharpening or cubic resizing may leave beyond it
STANDARDIZED = 16  # what images of mean 0 and deviation 1 do not exceed


def check_pixels(images):
    """The same images, once it is known that their values can be pixels in 0..255.

    Refused are values in 0..1 with fractions, as of images that were divided by 255, and values on both sides of 0
    that are nowhere beyond 16, as of images in -1..1 or of mean 0 and deviation 1: of images in 0..255 all of them
    would be black. So are values more than 64 beyond 0..255, as of images without their mean, or of 16 bits; noise,
    sharpening and cubic resizing do not reach that far. Whole numbers from 0 are never taken for scaled, however dark,
    and uint8 is not looked at.

    Within a graph, four rows of each image are looked at, and all of them only before they would be refused, so that it
    costs less than a hundredth of two augmented views. XLA leaves the check out.

    Args:
        images: tensor or array `(n, H, W, C)`, any numeric dtype.

    Returns:
        The images, as a tensor.

    Raises:
        ValueError: outside of a graph, at once; within one the step fails, see `step_checks.plain_failures`.

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
        # NaN is no matter of scale, and passes: whoever trains on it hears of a loss that is not finite.
        doubtful = (low < 0) | (high > 255) | (high <= 1)
        low, high, wrong = tf.cond(doubtful, lambda: _examine(images), lambda: (low, high, False))
    check = require(~wrong, RULE, ("values from", low, "to", high), WAY_OUT)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(images)


def refusal(low, high):
    """The error that says between which values images were found."""
    return UserError(f"{RULE} Received: values from {low:g} to {high:g}. {WAY_OUT}")


def _examine(images):
    """The least and the greatest value of all, and whether they are none of pixels."""
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
