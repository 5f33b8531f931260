"""Encoded images that come in one fixed order from large files, and are shuffled on their way."""

from typing import NamedTuple

import tensorflow as tf

from keras_moco.errors import UserError


class ShuffleBuffer(NamedTuple):
    """Among how many images each next one is drawn.

    Files are always read in the same order, because an image's index is its place in that order; whoever wrote them
    has, as TFDS does, shuffled the examples over the files.

    Attributes:
        images: int, those in the buffer.
        num_examples: int, all of the source.
        num_bytes: int, about what the buffer takes, images encoded.
    """

    images: int
    num_examples: int
    num_bytes: int

    @classmethod
    def of(cls, num_examples, num_bytes, mebibytes):
        """The buffer for images of so many bytes in all; these decide, so that each process has the same one.

        Args:
            num_examples: int, images of the source.
            num_bytes: int, of the files that they lie in.
            mebibytes: int, what the buffer may take; where all images fit, they are shuffled completely.

        Raises:
            ValueError: if it may take less than 1 MiB.
        """
        if mebibytes < 1:
            raise UserError(
                "`shuffle_buffer_mib` must be at least 1. "
                f"Received: shuffle_buffer_mib={mebibytes}. Choose what of the memory it may take, in MiB."
            )
        room = mebibytes * 2**20
        if num_bytes <= room:
            return cls(num_examples, num_examples, num_bytes)
        images = max(1, room * num_examples // num_bytes)
        return cls(images, num_examples, images * num_bytes // num_examples)

    def describe(self):
        """Its size in a line for people."""
        share = "all" if self.images == self.num_examples else f"{self.images:,} of"
        return f"shuffle buffer: {share} {self.num_examples:,} images, {max(1, round(self.num_bytes / 2**20)):,} MiB"


def shuffled_stream(dataset, buffer, seed, cache):
    """Shuffles a stream of examples.

    Args:
        dataset: `tf.data.Dataset` of examples, images encoded, in a fixed order.
        buffer: `ShuffleBuffer`.
        seed: scalar int64 tensor that decides the order, or `None` for that of the files, which fills no buffer.
        cache: bool, whether the stream stays in memory once it is read.

    Returns:
        `tf.data.Dataset`.
    """
    if cache:
        dataset = dataset.cache()
    if seed is None:
        return dataset

    def shuffle(seed):
        # The seed of this function's graph, no other. TensorFlow joins it to ours, and where both were 0 it would ask
        # a symbolic tensor for its value.
        tf.random.set_seed(1)
        return dataset.shuffle(buffer.images, seed=seed, reshuffle_each_iteration=False)

    return tf.data.Dataset.from_tensors(seed).flat_map(shuffle)
