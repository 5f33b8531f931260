"""Random numbers of images: a pure function of seed, epoch and the image's place in the epoch's order."""

import tensorflow as tf

PHILOX = 1  # tf.random.Algorithm.PHILOX: the same numbers on every device, from a counter


def draws_at(seed, epoch, place, count, width):
    """Uniform draws of `count` images in a row.

    An epoch has one endless stream of numbers, of which every image owns a stretch, so a batch's draws are one call
    however the epoch is cut into batches, and anyone can begin anywhere. The order itself hangs on seed and epoch
    alone, and so then does which stretch an image gets.

    Args:
        seed: int.
        epoch: scalar int64 tensor, at least 0.
        place: scalar int64 tensor, of the first image in the epoch's order.
        count: int.
        width: int, draws of each view.

    Returns:
        float32 `(count, 2, width)`, in [0, 1): draws of two views.

    Example:

    >>> whole = draws_at(seed=3, epoch=tf.constant(0, tf.int64), place=tf.constant(0, tf.int64), count=8, width=5)
    >>> part = draws_at(seed=3, epoch=tf.constant(0, tf.int64), place=tf.constant(6, tf.int64), count=2, width=5)
    >>> bool(tf.reduce_all(whole[6:] == part))
    True
    """
    blocks = -(-2 * width // 4)  # Philox gives four numbers for one count
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
    counter += tf.stack([tf.cast(place * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    numbers = tf.raw_ops.StatelessRandomUniformV2(shape=[count, 4 * blocks], key=key, counter=counter, alg=PHILOX)
    return tf.reshape(numbers[:, : 2 * width], [count, 2, width])


def order_seed(seed, epoch):
    """The seed of an epoch's order, a scalar int64 tensor; of other numbers than its draws."""
    return tf.random.stateless_uniform([], [seed, -1 - epoch], minval=None, maxval=None, dtype=tf.int64)
