"""From a source to batches for evaluation: one central view of each image, in fixed order."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_moco.data.decode import pixels_of
from keras_moco.data.folder import describe_unreadable
from keras_moco.data.source import Source
from keras_moco.errors import UserError
from keras_moco.image_formats.decoding import Decoding
from keras_moco.image_formats.registry import RULE
from keras_moco.storage.paths import StrPath, instead_of_file


def evaluation_dataset(source: Source, image_size: int, batch_size: int = 256) -> tf.data.Dataset:
    """All images once, in fixed order, resized and centre-cropped without randomness.

    Unreadable images are skipped, and reported to `Source.bad`.

    Args:
        source: `Source`.
        image_size: int. Side of the square images of a batch, in pixels.
        batch_size: int. The last batch may be smaller. Defaults to `256`.

    Returns:
        Finite `tf.data.Dataset` of `{"image": float32 (b, s, s, c), "label": int32 (b,), "index": int64
        (b,)}` with values 0..255; a label is -1 when the image has none.

    Example:

    >>> from keras_moco.data import open_source
    >>> dataset = evaluation_dataset(open_source("digits", "test"), image_size=8)
    >>> len(dataset), next(iter(dataset))["image"].shape
    (2, TensorShape([256, 8, 8, 1]))
    """

    def resize(batch):
        return {**batch, "image": _view(batch["image"], image_size)}

    def resize_one(example):
        return {**example, "image": _view(example["image"][None], image_size)[0]}

    dataset = source.examples()
    if source.arrays:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(source.num_examples))
        dataset = dataset.batch(batch_size).map(resize, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    else:
        dataset = dataset.map(resize_one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).batch(batch_size)
    dataset = dataset.prefetch(tf.data.AUTOTUNE)
    dataset.has_pixels = True  # so that evaluations do not take dark images for scaled ones
    return dataset


def read_images(paths: Sequence[StrPath], image_size: int, channels: int | Decoding) -> np.ndarray:
    """Reads a few image files without augmentation.

    Args:
        paths: list of paths of image files, of any format of `keras_moco.image_formats`.
        image_size: int, side of the square images that are returned, in pixels.
        channels: int, or the `decoding` of a `Source`, so that they are read as its images are.

    Returns:
        float32 array `(n, image_size, image_size, channels)`, values 0..255.

    Raises:
        ValueError: if there are none, or one cannot be read.
    """
    if not len(paths):
        raise UserError("At least one image file must be given. Received: none. Name some.")
    decoding = Decoding(channels) if isinstance(channels, int) else channels
    images = []
    for path in map(os.path.expanduser, paths):
        if kind := instead_of_file(path):
            raise UserError(f"{RULE} Received: {path}, {kind}. Correct or leave it out.")
        try:
            image = tf.constant(pixels_of(pathlib.Path(path).read_bytes(), decoding))
        except Exception as error:  # libraries raise many kinds for damaged files
            raise UserError(
                f"{RULE} Received: {describe_unreadable(path, decoding)}. Correct or leave it out."
            ) from error
        images.append(_view(image[None], image_size)[0].numpy())
    return np.stack(images)


def _view(images, image_size):
    from keras_moco.augment.central import unchecked_central_view  # keras-cv takes seconds to import

    # Without the check of pixels: a decoded image has values in 0..255, however dark it is.
    return unchecked_central_view(images, image_size)
