"""What `fit` accepts, as batches of a known size, which queues and shuffled keys need."""

import itertools
import types

import keras
import numpy as np
import tensorflow as tf

from keras_moco import distribution
from keras_moco.checks.graph import require
from keras_moco.errors import UserError

BATCH_SIZE = 32  # Keras's


def check_compile(optimizer, **others):
    """Raises `ValueError` if `compile` is given no optimizer, or any of the `others` is not `None`."""
    given = [f"{name}={value!r}" for name, value in others.items() if value is not None]
    if given:
        raise UserError(
            "`compile` must be given no losses or metrics: the contrastive loss is the model's own, and nothing else "
            f"would be computed. Received: {', '.join(given)}. Omit them; layers add to the loss by `add_loss` and "
            "regularizers, and `keras_moco.callbacks.KnnMonitor` measures features."
        )
    if optimizer is None:
        raise UserError(
            "`compile` must be given an optimizer. Received: none. Give one, such as "
            "`keras_moco.SGD(0.03, weight_decay=1e-4)` (MoCo v1 for 256 images per step)."
        )


def check_only_views(validation_data, validation_split, **others):
    """Raises `ValueError` if `fit` is given validation data, or any of the `others` is not `None`."""
    if validation_data is not None or validation_split:
        raise UserError(
            "Validation data must not be given to `fit`: the contrastive loss of other images says little about "
            f"features. Received: {'validation_split' if validation_data is None else 'validation_data'}. "
            "Use the callback `keras_moco.callbacks.KnnMonitor`."
        )
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise UserError(
            "`fit` must be given views alone: labels and weights are not used. "
            f"Received: {', '.join(given)}. Omit them."
        )


def as_batches(data, batch_size=None, shuffle=True, steps_per_epoch=None):
    """Batches of views, and the number of images in each where their shape does not give it.

    Args:
        data: `tf.data.Dataset`, returned as it is; a dict of arrays `(n, H, W, C)`, alone or as `(dict,)`; a
            `keras.utils.PyDataset` or Python generator of batches of one size.
        batch_size: int, for arrays; `None`: 32, as in Keras. Images that do not fill a batch are skipped in an epoch.
        shuffle: bool, for arrays: whether each epoch has a new order.
        steps_per_epoch: int, which endless data needs.

    Returns:
        `(batches, size)`: what `keras.Model.fit` takes, and an int, or `None` where the shapes of `batches` give it.

    Raises:
        ValueError: if arrays differ in length, are too short for a batch, or hold no views, or if another argument does
            not fit the data.
    """
    if data is None:
        raise UserError("`fit` must be given batches of views. Received: none. Give a `tf.data.Dataset` of them.")
    if isinstance(data, tf.data.Dataset):
        _check_dataset(data, batch_size, steps_per_epoch)
        return data, None
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


def _check_dataset(data, batch_size, steps_per_epoch):
    if batch_size is not None:
        raise UserError(
            "`batch_size` must not be given with a data set, which has batches already. "
            f"Received: batch_size={batch_size}. Omit it, or batch the data set differently."
        )
    if steps_per_epoch is None and data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise UserError(
            "`steps_per_epoch` must be given with endless data, or its first epoch never ends. "
            "Received: steps_per_epoch=None. Give `keras_moco.data.steps_per_epoch(source, batch_size)`."
        )


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
    """The number of images in a batch, or `None` if it has no queries."""
    views = batch[0] if isinstance(batch, tuple | list) and batch else batch
    query = views.get("query") if isinstance(views, dict) else None
    return None if query is None else len(query)


def _again(first, rest):
    for batch in itertools.chain([first], rest):
        yield batch if isinstance(batch, tuple) else (batch,)  # as Keras wants them


# How to add an entry that a batch must have.
ORIGINS = {
    "query": "Map your data set with `keras_moco.augment.two_views`.",
    "key": "Map your data set with `keras_moco.augment.two_views`.",
    "index": "Add the number of each image in the data set, as `keras_moco.data.pretrain_dataset` does.",
}


def views_of(data, required, size):
    """The views of a replica's batch, a dict with all entries that a model requires, of one shape with a known size.

    Args:
        data: the batch, a dict of tensors, alone or as `(dict,)`.
        required: names of the entries that the model requires.
        size: int, number of images in the batch where the shape does not give it, or `None`.

    Raises:
        ValueError: if an entry is missing, the batch has labels or weights, or shapes differ or are unknown.
    """
    views, *others = data if isinstance(data, tuple | list) else (data,)
    if any(other is not None for other in others):
        raise UserError(
            f"Batches must be dictionaries with {' and '.join(map(repr, required))}, alone or as `(views,)`, without "
            f"labels and weights. Received: a {type(data).__name__} of {len(data)}. Map it, for example by "
            "`data.map(lambda views, label: views)`, or `data.map(lambda a, b: {'query': a, 'key': b})`."
        )
    missing = [name for name in required if not (isinstance(views, dict) and name in views)]
    if missing:
        raise UserError(
            f"Batches must be dictionaries with {' and '.join(map(repr, required))}. "
            f"Received: {sorted(views) if isinstance(views, dict) else type(views).__name__}. {ORIGINS[missing[0]]}"
        )
    views = _with_size(views, size) if size else views
    shapes = {name: views[name].shape for name in ("query", "key") if name in required}
    if len(set(map(tuple, shapes.values()))) > 1 or views["query"].shape[0] is None:
        raise UserError(
            "All views must have one shape with a known batch size, which the replicas divide. Received: "
            f"{', '.join(f'{name} {shape}' for name, shape in shapes.items())} on {distribution.num_replicas()} "
            "replica(s). Batch with `drop_remainder=True`."
        )
    return views


def _with_size(views, size):
    """The same views, with the number of images in this replica's batch, `size`, in their shapes."""

    def known(tensor):
        found = tf.shape(tensor)[0]
        right = require(
            tf.equal(found, size),
            f"Every batch must have as many images as the first one, here {size} on each replica.",
            found,
            "Omit the incomplete batch at the end of an epoch.",
        )
        with tf.control_dependencies([right] if right is not None else []):
            tensor = tf.identity(tensor)
        tensor.set_shape([size, *tensor.shape[1:]])  # `tf.ensure_shape` would fail first, in its own words
        return tensor

    return {name: known(tensor) if tensor.shape[0] is None else tensor for name, tensor in views.items()}


def check_images(found, wanted):
    """Raises `ValueError` unless images of a shape `(n, H, W, C)` are those that the encoder takes, `(H, W, C)`."""
    pairs = list(zip(found[1:], wanted, strict=True)) if len(found) == 4 else [(0, 1)]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            "Images must have the shape that the encoder takes, (n, H, W, C). "
            f"Received: {tuple(found)} for an encoder of {tuple(wanted)}. Resize them, or build the backbone for them."
        )
