"""Some images of a source, small enough to be kept, with their features."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_moco.data import evaluation_dataset
from keras_moco.data.subset import sample

SIDE = 96  # pixels of a picture that is kept, at most


class Looked(NamedTuple):
    """`n` images and what an encoder says of them.

    Attributes:
        features: float32 array `(n, F)`.
        labels: int32 array `(n,)`, -1 where there is none.
        index: int64 array `(n,)`, in the source.
        images: uint8 array `(n, s, s, C)`, with `s` no more than 96.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray  # type: ignore[assignment]  # a tuple has a method of that name
    images: np.ndarray

    def at(self, rows):
        """Those at some places."""
        return Looked(self.features[rows], self.labels[rows], self.index[rows], self.images[rows])


def look(source, extractor, image_size, count, seed=0):
    """Reads some images and embeds them, all in one pass.

    Args:
        source: `Source`.
        extractor: `FeatureExtractor`.
        image_size: int, pixels, that it takes.
        count: int, how many images at most.
        seed: int, decides which, as in `keras_moco.data.subset.sample`.

    Returns:
        `Looked`.
    """
    images = []

    def batches():
        for batch in evaluation_dataset(sample(source, count, seed), image_size).as_numpy_iterator():
            images.append(shrunk(batch["image"], SIDE))
            yield batch

    found = extractor.extract(batches())
    return Looked(found.features, found.labels, found.index, np.concatenate(images))


def shrunk(images, side):
    """Images `(n, s, s, C)` with values 0..255 as uint8, no more than `side` pixels wide."""
    if images.shape[1] > side:
        images = tf.image.resize(images, (side, side), antialias=True).numpy()
    return np.rint(images).astype("uint8")
