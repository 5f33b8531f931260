"""Images in memory: small data sets, and your own arrays."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_moco.checks.pixel_range import refusal
from keras_moco.data.identity import digest_of
from keras_moco.data.source import Source
from keras_moco.errors import UserError

BLOCK = 256  # images copied by one call
MOST_CLASSES = 10**6  # larger labels are identifiers, not classes, and some do not fit an int32


def permutation(size, seed):
    """A uniformly random order of `range(size)` that depends on the seed alone.

    Args:
        size: int, the number of elements.
        seed: scalar int64 tensor, or `None` for the identity.

    Returns:
        int64 tensor `(size,)`.
    """
    indices = tf.range(size, dtype=tf.int64)
    if seed is None:
        return indices
    return tf.random.experimental.stateless_shuffle(indices, seed=tf.stack([seed, tf.zeros_like(seed)]))


def array_source(
    images: np.ndarray,
    labels: np.ndarray | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
    split: str = "train",
) -> Source:
    """A source of images of one size in memory, such as those of `keras.datasets`.

    Args:
        images: array `(n, h, w, C)`, or `(n, h, w)` for gray images, of values in 0..255; any number of channels.
        labels: int array `(n,)` of classes from 0, or `None`.
        class_names: list of str, the names of the classes. Defaults to `None`: the numbers.
        name: str, name of the source in messages.
        split: str, split of the source in messages.

    Returns:
        A `Source`.

    Raises:
        ValueError: if the arrays do not match, or have other values.

    Example:

    >>> source = array_source(np.zeros((5, 8, 8, 3), "uint8"), labels=[0, 1, 1, 0, 2])
    >>> source.num_examples, source.class_names
    (5, ('0', '1', '2'))
    """
    images = _array(images)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or not len(images):
        raise UserError(
            "`images` must have the shape (n, height, width, channels), or (n, height, width) for gray ones. "
            f"Received: shape={images.shape}. Reshape them."
        )
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if not (low >= 0 and 1 < high <= 255):
            raise refusal(low, high)
        images = np.round(images).astype("uint8")
    if labels is None:
        labels, names = np.full(len(images), -1), None
    else:
        labels, names = _checked(np.asarray(labels).reshape(-1), class_names, len(images))
    with tf.device("CPU"):  # tf.data reads from the host
        arrays = tf.constant(images), tf.constant(labels, tf.int32)
    return Source(
        name=name,
        split=split,
        num_examples=len(images),
        image_shape=images.shape[1:],
        class_names=names,
        read=lambda seed: examples_from_arrays(*arrays, seed),
        arrays=lambda: arrays,
        identity=lambda: {
            "images": digest_of(arrays[0].numpy()),
            "labels": digest_of(arrays[1].numpy()),
            "names of the classes": digest_of(names or ()),
        },
    )


def _array(images):
    try:
        array = np.asarray(images)
    except ValueError:  # images of different sizes, or images with labels
        array = np.empty((), object)
    if array.dtype.kind not in "buif":
        raise UserError(
            "`images` must be one array of numbers, (n, height, width, channels). "
            f"Received: a {type(images).__name__}. Give the images alone, without labels, all of one size."
        )
    return array


def _checked(labels, class_names, count):
    """The labels and the names of their classes, after checks."""
    if len(labels) != count or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            "`labels` must be one class per image, a whole number from 0. "
            f"Received: {len(labels)} labels of type {labels.dtype}, the least {labels.min()}, for {count} images. "
            "Correct them."
        )
    classes = int(labels.max()) + 1
    if classes > MOST_CLASSES:
        raise UserError(
            f"`labels` must be less than {MOST_CLASSES}, as they number the classes. "
            f"Received: a label {labels.max()}. Number the classes from 0."
        )
    class_names = tuple(class_names or map(str, range(classes)))
    if len(class_names) < classes:
        raise UserError(
            "`class_names` must name every class. "
            f"Received: {len(class_names)} names for {classes} classes. "
            + ("Count labels from 0: labels - 1." if labels.min() == 1 else "Add the others, or give no names.")
        )
    return labels, class_names


def examples_from_arrays(images, labels, seed):
    """Reads images held in memory, one by one.

    Args:
        images: uint8 tensor `(n, h, w, c)`.
        labels: int32 tensor `(n,)`.
        seed: scalar int64 tensor that decides the order, or `None` for the order of the arrays.

    Returns:
        `tf.data.Dataset` as `Source.read` describes it.
    """

    def pick(indices):
        return {"image": tf.gather(images, indices), "label": tf.gather(labels, indices), "index": indices}

    # In blocks, because one function call per image would cost forty times as much as copying the image.
    order = tf.data.Dataset.from_tensor_slices(permutation(len(images), seed)).batch(BLOCK)
    return order.map(pick, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
