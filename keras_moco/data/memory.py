"""Images held in memory: the small data sets."""

import tensorflow as tf

from keras_moco.data.sources import kept

BLOCK = 256  # images copied by one call


def permutation(size, seed):
    """A uniformly random order of `range(size)` that depends on the seed alone.

    Args:
        size: int.
        seed: scalar int64 tensor, or `None` for the identity.

    Returns:
        int64 tensor `(size,)`.
    """
    indices = tf.range(size, dtype=tf.int64)
    if seed is None:
        return indices
    return tf.random.experimental.stateless_shuffle(indices, seed=tf.stack([seed, tf.zeros_like(seed)]))


def examples_from_arrays(images, labels, seed, keep):
    """Reads images held in memory.

    Args:
        images: uint8 tensor `(n, h, w, c)`.
        labels: int32 tensor `(n,)`.
        seed: scalar int64 tensor that decides the order, or `None` for the order of the arrays.
        keep: function of a place in that order to whether it is read, or `None` for all.

    Returns:
        `tf.data.Dataset` as `Source.examples` describes it.
    """

    def pick(indices):
        return {"image": tf.gather(images, indices), "label": tf.gather(labels, indices), "index": indices}

    # Blocks, because one call of a function per image would cost forty times the copying of the image.
    order = kept(tf.data.Dataset.from_tensor_slices(permutation(len(images), seed)), keep).batch(BLOCK)
    return order.map(pick, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
