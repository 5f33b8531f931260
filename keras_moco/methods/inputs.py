"""What `fit` takes, as batches of a known size: queues and shuffled keys need to know it."""

import itertools
import types

import keras
import numpy as np
import tensorflow as tf

from keras_moco.checks.graph import require
from keras_moco.errors import UserError

BATCH_SIZE = 32  # Keras's


def as_batches(data, batch_size=None, shuffle=True):
    """Batches of views, and how many images each has where TensorFlow would not know.

    Args:
        data: `tf.data.Dataset`, which stays as it is; a dict of arrays `(n, H, W, C)`, alone or as `(dict,)`; a
            `keras.utils.PyDataset` or Python generator of batches of one size.
        batch_size: int, for arrays; `None`: 32, as in Keras. Images left over in an epoch wait for the next one.
        shuffle: bool, for arrays: a new order in every epoch.

    Returns:
        `(batches, size)`: what `keras.Model.fit` takes, and an int, or `None` where `batches` tell their size.

    Raises:
        ValueError: if arrays are not of one length, too short for a batch, or no views at all.
    """
    if data is None:
        raise UserError("`fit` must be given batches of views. Received: none. Give a `tf.data.Dataset` of them.")
    arrays = data[0] if isinstance(data, tuple | list) and len(data) == 1 else data
    if isinstance(arrays, dict):
        return _batches_of_arrays(arrays, BATCH_SIZE if batch_size is None else batch_size, shuffle), None
    if isinstance(data, np.ndarray | tf.Tensor):
        raise UserError(
            "`x` must hold two views of each image, by the names 'query' and 'key'. "
            f"Received: one array of shape {data.shape}. Make views of it: `keras_moco.augment.two_views` in a map "
            "over batches, or `keras_moco.data.pretrain_dataset` of `keras_moco.data.array_source`."
        )
    if isinstance(data, keras.utils.PyDataset):
        return data, _size(data[0])
    if isinstance(data, types.GeneratorType):
        try:
            first = next(data)
        except StopIteration:
            raise UserError(
                "The generator must yield a batch. Received: none. Make a new one for every `fit`."
            ) from None
        return _again(first, data), _size(first)
    return data, None


def known_size(views, size):
    """The same views, with the size of the batch in their shapes.

    Args:
        views: dict of tensors.
        size: int, images of this replica's batch.
    """

    def known(tensor):
        found = tf.shape(tensor)[0]
        right = require(
            tf.equal(found, size),
            f"Every batch must have as many images as the first one, here {size} on each replica.",
            found,
            "Leave out the incomplete batch at the end of an epoch.",
        )
        with tf.control_dependencies([right] if right is not None else []):
            tensor = tf.identity(tensor)
        tensor.set_shape([size, *tensor.shape[1:]])  # `tf.ensure_shape` would say it first, in its own words
        return tensor

    return {name: known(tensor) if tensor.shape[0] is None else tensor for name, tensor in views.items()}


def _batches_of_arrays(arrays, batch_size, shuffle):
    with tf.device("CPU"):  # tf.data reads from the host
        tensors = {name: tf.convert_to_tensor(array) for name, array in arrays.items()}
    lengths = {name: tensor.shape[0] if tensor.shape.rank else None for name, tensor in tensors.items()}
    (count, *others) = set(lengths.values()) or {0}
    if others or not 1 <= batch_size <= (count or 0):
        raise UserError(
            "Arrays of views must have as many images each, and at least `batch_size` of them. "
            f"Received: {', '.join(f'{length} in {name!r}' for name, length in lengths.items()) or 'none'}, "
            f"batch_size={batch_size}. Correct the arrays, or give a smaller `batch_size`."
        )
    order = tf.data.Dataset.range(count)
    order = order.shuffle(count) if shuffle else order
    batches = order.batch(batch_size, drop_remainder=True).map(
        lambda rows: {name: tf.gather(tensor, rows) for name, tensor in tensors.items()}
    )
    options = tf.data.Options()
    options.autotune.enabled = False  # nothing to tune, and its thread may take a minute to end
    return batches.prefetch(2).with_options(options)


def _size(batch):
    """Images of a batch, if it tells."""
    views = batch[0] if isinstance(batch, tuple | list) and batch else batch
    query = views.get("query") if isinstance(views, dict) else None
    return None if query is None else len(query)


def _again(first, rest):
    for batch in itertools.chain([first], rest):
        yield batch if isinstance(batch, tuple) else (batch,)  # as Keras wants them
