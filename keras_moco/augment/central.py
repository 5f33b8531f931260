"""The deterministic view for evaluation."""

import tensorflow as tf

from keras_moco.augment.images import image_batch
from keras_moco.checks.pixel_range import check_pixels


def central_view(images: tf.types.experimental.TensorLike, image_size: int) -> tf.Tensor:
    """Resizes the shorter side and takes the central square, without randomness.

    From 64 pixels upwards it is the ImageNet protocol (official `main_lincls.py`: shorter side to 256,
    central crop of 224) in proportion: shorter side to `round(image_size * 256 / 224)`. Smaller views keep
    the whole shorter side, as the CIFAR protocol does, so a square image is only resized. Resizing is
    antialiased bilinear.

    Args:
        images: `(n, H, W, C)`, any numeric dtype, values 0..255. H and W may be unknown in a graph.
        image_size: int. Side of the square views, pixels.

    Returns:
        float32 `(n, image_size, image_size, C)`, values 0..255.

    Raises:
        ValueError: if the images have another shape; and if values are others, which within a graph fails the step.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import central_view
    >>> central_view(np.zeros((2, 375, 500, 3), "uint8"), 224).shape
    TensorShape([2, 224, 224, 3])
    """
    return unchecked_central_view(check_pixels(image_batch(images)), image_size)


def unchecked_central_view(images, image_size):
    """`central_view` of images `(n, H, W, C)` that are known to have values in 0..255, however dark they are."""
    images = tf.cast(images, "float32")
    shorter = round(image_size * 256 / 224) if image_size >= 64 else image_size
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    # The longer side is floored, in whole numbers, as in torchvision's `Resize`.
    new_height = tf.maximum(shorter * height // width, shorter)
    new_width = tf.maximum(shorter * width // height, shorter)
    images = tf.image.resize(images, [new_height, new_width], antialias=True)
    top = _half(new_height - image_size)
    left = _half(new_width - image_size)
    images = images[:, top : top + image_size, left : left + image_size]
    return tf.ensure_shape(images, [None, image_size, image_size, images.shape[-1]])


def _half(margin):
    """Half of a whole margin, rounded half to even as torchvision's `CenterCrop` does."""
    return tf.cast(tf.round(tf.cast(margin, "float32") / 2), "int32")
