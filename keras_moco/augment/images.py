"""The check that a batch of images is one, shared by all augmentations."""

from collections.abc import Mapping

import tensorflow as tf

from keras_moco.errors import UserError

RULE = "`images` must be one tensor of numbers, of the shape (n, height, width, channels)."


def image_batch(images):
    """A batch of images as a tensor.

    Args:
        images: array, tensor, or list of images of one size, `(n, H, W, C)`. H and W may be unknown within a graph.

    Returns:
        Tensor `(n, H, W, C)` of the same type.

    Raises:
        ValueError: if it is anything else, such as a whole batch of a data set, with labels.
    """
    if isinstance(images, Mapping):
        _refuse(f"a dictionary with {', '.join(map(repr, images))}", 'Take the images out of it: batch["image"]')
    if isinstance(images, tf.RaggedTensor | tf.SparseTensor):
        _refuse(f"a {type(images).__name__}", "Resize images to one size before they are batched")
    try:
        tensor = tf.convert_to_tensor(images)
    except (ValueError, TypeError) as error:
        _refuse(_described(images), _way_out_of_parts(images), error)
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        _refuse(f"a tensor of type {tensor.dtype.name}", "Decode images first, for example by `tf.io.decode_jpeg`")
    shape = tensor.shape
    if shape.rank != 4 or shape[-1] is None:
        _refuse(f"shape={shape}", _way_out_of_shape(shape))
    return tensor


def _refuse(received, way_out, cause=None):
    raise UserError(f"{RULE} Received: {received}. {way_out}.") from cause


def _described(images):
    if isinstance(images, tuple | list):
        shapes = [str(getattr(part, "shape", type(part).__name__)) for part in images]
        return f"a {type(images).__name__} of {', '.join(shapes[:4])}{', ...' if len(shapes) > 4 else ''}"
    return f"a {type(images).__name__} of type {getattr(images, 'dtype', 'unknown')}"


def _way_out_of_parts(images):
    if isinstance(images, tuple) and len(images) in (2, 3):
        return "Take the images out of it: batch[0]"
    return "Resize images to one size before they are put together"


def _way_out_of_shape(shape):
    if shape.rank == 3:
        return "Give one image as images[None], gray images as images[..., None]"
    if shape.rank in (None, 4):
        return "Say how many channels there are: images = tf.ensure_shape(images, (None, None, None, 3))"
    return "Reshape them"
