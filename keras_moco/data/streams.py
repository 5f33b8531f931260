"""Encoded images that come in one fixed order from large files, and are shuffled on their way."""

import tensorflow as tf

# A stream passes a shuffle buffer of encoded images: all of them up to FULL_SHUFFLE, else BUFFER of them (ImageNet's
# average 110 kB each, so 5.5 GB). Files are always read in the same order, because an image's index is its place in
# that order; whoever wrote them has, as TFDS does, shuffled the examples over the files.
FULL_SHUFFLE = 200_000
BUFFER = 50_000


def shuffled_stream(dataset, num_examples, seed, cache):
    """Shuffles a stream of examples.

    Args:
        dataset: `tf.data.Dataset` of examples, images encoded, in a fixed order.
        num_examples: int.
        seed: scalar int64 tensor that decides the order, or `None` for that of the files.
        cache: bool, whether the stream stays in memory once it is read.

    Returns:
        `tf.data.Dataset`.
    """
    if cache:
        dataset = dataset.cache()
    if seed is None:
        return dataset
    buffer = num_examples if num_examples <= FULL_SHUFFLE else BUFFER

    def shuffle(seed):
        # The seed of this function's graph, no other. TensorFlow joins it to ours, and where both were 0 it would ask
        # a symbolic tensor for its value.
        tf.random.set_seed(1)
        return dataset.shuffle(buffer, seed=seed, reshuffle_each_iteration=False)

    return tf.data.Dataset.from_tensors(seed).flat_map(shuffle)
