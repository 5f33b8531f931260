"""From a source to batches: two augmented views for pre-training, one plain view for evaluation."""

import numpy as np
import tensorflow as tf

AUTOTUNE = tf.data.AUTOTUNE
ENTRIES = ("query", "key", "index")


def steps_per_epoch(source, batch_size):
    """Batches in an epoch of `pretrain_dataset`: `num_examples // batch_size`.

    Args:
        source: `Source`.
        batch_size: int. Number of images in a batch.

    Returns:
        int, at least 1.

    Raises:
        ValueError: `batch_size` is not positive, or larger than the data set.

    Example:

    >>> from keras_moco.data import open_source
    >>> steps_per_epoch(open_source("digits"), batch_size=256)
    5
    """
    if not 1 <= batch_size <= source.num_examples:
        raise ValueError(
            "`batch_size` must be at least 1 and at most the number of images, or no batch can be filled. "
            f"Received: batch_size={batch_size}, {source.name} ({source.split}) with {source.num_examples} "
            "images."
        )
    return source.num_examples // batch_size


def pretrain_dataset(
    source, augmentation, batch_size, seed=0, first_epoch=0, first_step=0, context=None, entries=ENTRIES
):
    """Batches of two independently augmented views, for ever.

    Every epoch reads all images in a new order and leaves out the last `num_examples % batch_size` of that
    order, so a batch never spans two epochs. The order depends on `(seed, epoch)` alone, and the random draws
    of an image on `(seed, epoch, index)` alone: nothing that happened before matters, so starting at
    `first_epoch` and `first_step` continues a stopped run exactly, and the batch size does not change the
    views.

    Args:
        source: `Source`.
        augmentation: a layer of `keras_moco.augment`; it must give images of one fixed size.
        batch_size: int. Images in a batch (the global batch, over all replicas).
        seed: int. Defaults to `0`.
        first_epoch: int. The epoch to begin with, counted from 0. Defaults to `0`.
        first_step: int. How many batches of that first epoch to pass over. Defaults to `0`.
        context: `tf.distribute.InputContext`, as `Strategy.distribute_datasets_from_function` hands out: one
            pipeline of several reads, decodes and augments only its worker's images of every batch, and gives them
            out in the shares of single replicas. Defaults to `None`: whole batches.
        entries: names of what batches hold, such as a model's `required`; what is left out is not computed. Defaults
            to all there are.

    Returns:
        Infinite `tf.data.Dataset` of `{"query": float32 (b, s, s, c), "key": float32 (b, s, s, c), "index":
        int64 (b,)}` with values 0..255 and static shapes. Use `steps_per_epoch` for the length of an epoch.

    Raises:
        ValueError: `batch_size` is larger than the data set, or not divisible by the replicas of `context`;
            `first_step` is larger than the epoch; or there is no such entry.

    Example:

    >>> from keras_moco.augment import moco_v1
    >>> from keras_moco.data import open_source
    >>> dataset = pretrain_dataset(open_source("digits"), moco_v1(8), batch_size=256)
    >>> next(iter(dataset))["query"].shape
    TensorShape([256, 8, 8, 1])
    """
    steps = steps_per_epoch(source, batch_size)
    if first_epoch < 0 or not 0 <= first_step <= steps:
        raise ValueError(
            f"`first_epoch` must be at least 0 and `first_step` from 0 to {steps}, the steps of an epoch. "
            f"Received: first_epoch={first_epoch}, first_step={first_step}."
        )
    if not set(entries) <= set(ENTRIES):
        raise ValueError(
            f"`entries` must be names out of {', '.join(ENTRIES)}. Received: {', '.join(entries)}. Choose among them."
        )
    from keras_moco.augment import two_views

    context = context or tf.distribute.InputContext()
    share = context.get_per_replica_batch_size(batch_size)
    workers, worker = context.num_input_pipelines, context.input_pipeline_id

    def is_own(place):
        """Whether a place in the epoch's order falls into this worker's part of its batch."""
        return place % batch_size * workers // batch_size == worker

    def epoch_examples(epoch):
        # Draws use the seeds (seed, 0), (seed, 1), ...; orders use (seed, -1), (seed, -2), ...
        order = tf.random.stateless_uniform([], [seed, -1 - epoch], minval=None, maxval=None, dtype=tf.int64)
        examples = source.examples(order, keep=is_own if workers > 1 else None).take(steps * batch_size // workers)
        examples = examples.skip(tf.cast(epoch == first_epoch, tf.int64) * (first_step * batch_size // workers))
        return examples.map(lambda example: {**example, "position": epoch * source.num_examples + example["index"]})

    def draw(example):
        draws = tf.random.stateless_uniform([2, augmentation.num_draws], [seed, example["position"]])
        return {"image": example["image"], "draws": draws, "index": example["index"]}

    def augment(batch):
        views = two_views(augmentation, batch["image"], batch["draws"])
        everything = {**views, "index": batch["index"]}
        return {name: everything[name] for name in entries}

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max)
    dataset = epochs.flat_map(epoch_examples).map(draw, num_parallel_calls=AUTOTUNE, deterministic=True)
    dataset = _batched(dataset, augment, source.image_shape, share, drop_remainder=True)
    # Said because several workers would otherwise prepare for a last batch of another size, and forget the size.
    return dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))


def evaluation_dataset(source, image_size, batch_size=256):
    """All images once, in fixed order, resized and centre-cropped without randomness.

    Args:
        source: `Source`.
        image_size: int. Side of the square images that come out.
        batch_size: int. The last batch is smaller where the division leaves a rest. Defaults to `256`.

    Returns:
        Finite `tf.data.Dataset` of `{"image": float32 (b, s, s, c), "label": int32 (b,), "index": int64
        (b,)}` with values 0..255; a label is -1 when the image has none.

    Example:

    >>> from keras_moco.data import open_source
    >>> dataset = evaluation_dataset(open_source("digits", "test"), image_size=8)
    >>> len(dataset), next(iter(dataset))["image"].shape
    (2, TensorShape([256, 8, 8, 1]))
    """
    from keras_moco.augment import central_view

    def resize(batch):
        return {**batch, "image": central_view(batch["image"], image_size)}

    dataset = source.examples().apply(tf.data.experimental.assert_cardinality(source.num_examples))
    return _batched(dataset, resize, source.image_shape, batch_size, drop_remainder=False)


def _batched(dataset, transform, image_shape, batch_size, drop_remainder):
    """Batches and transforms: whole batches, which is fast, if all images have one size, else each alone."""
    if None not in image_shape:
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
        dataset = dataset.map(transform, num_parallel_calls=AUTOTUNE, deterministic=True)
    else:

        def transform_one(example):
            batch_of_one = {name: value[None] for name, value in example.items()}
            return {name: value[0] for name, value in transform(batch_of_one).items()}

        dataset = dataset.map(transform_one, num_parallel_calls=AUTOTUNE, deterministic=True)
        dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    return dataset.prefetch(AUTOTUNE)
