"""Shuffles encoded images that are read from large files in a fixed order."""

from typing import NamedTuple

import tensorflow as tf

from keras_moco.errors import UserError


class ShuffleBuffer(NamedTuple):
    """The number of images from which each next one is drawn at random.

    Files are always read in the same order, because an image's index is its place in that order; whoever wrote them
    has, as TFDS does, shuffled the examples over the files.

    Attributes:
        images: int, the number of images in the buffer.
        num_examples: int, the number of images of the source.
        num_bytes: int, approximate size of the buffer, images encoded.
    """

    images: int
    num_examples: int
    num_bytes: int

    @classmethod
    def of(cls, num_examples, num_bytes, mebibytes):
        """The largest buffer within a number of mebibytes; the same in every process, as it depends on files alone.

        Args:
            num_examples: int, the number of images of the source.
            num_bytes: int, size of their files.
            mebibytes: int, the most that the buffer may take; if all images fit, they are shuffled completely.

        Raises:
            ValueError: if it may take less than 1 MiB.
        """
        if mebibytes < 1:
            raise UserError(
                "`shuffle_buffer_mib` must be at least 1. "
                f"Received: shuffle_buffer_mib={mebibytes}. Choose how much memory it may take, in MiB."
            )
        room = mebibytes * 2**20
        if num_bytes <= room:
            return cls(num_examples, num_examples, num_bytes)
        images = max(1, room * num_examples // num_bytes)
        return cls(images, num_examples, images * num_bytes // num_examples)

    def describe(self):
        """A line about its size."""
        share = "all" if self.images == self.num_examples else f"{self.images:,} of"
        return f"shuffle buffer: {share} {self.num_examples:,} images, {max(1, round(self.num_bytes / 2**20)):,} MiB"


def shuffled_stream(dataset, buffer, seed, cache):
    """Shuffles a stream of examples.

    Args:
        dataset: `tf.data.Dataset` of examples, images encoded, in a fixed order.
        buffer: `ShuffleBuffer`.
        seed: scalar int64 tensor that decides the order, or `None` for the order of the files, without a buffer.
        cache: bool, whether the stream stays in memory after it was read once.

    Returns:
        `tf.data.Dataset`.
    """
    if cache:
        dataset = dataset.cache()
    if seed is None:
        return dataset

    def shuffle(seed):
        # The seed of this function's graph alone. TensorFlow combines it with ours; without it, it would ask a
        # symbolic tensor for its value.
        tf.random.set_seed(1)
        return dataset.shuffle(buffer.images, seed=seed, reshuffle_each_iteration=False)

    return tf.data.Dataset.from_tensors(seed).flat_map(shuffle)
