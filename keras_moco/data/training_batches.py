"""From a source to batches: two augmented views for pre-training, one plain view for evaluation."""

import numpy as np
import tensorflow as tf

from keras_moco.data.arrays import permutation
from keras_moco.errors import UserError

AUTOTUNE = tf.data.AUTOTUNE
ENTRIES = ("query", "key", "index", "label", "draws")
PHILOX = 1  # tf.random.Algorithm.PHILOX: the same numbers on every device, from a counter


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
        raise UserError(
            "`batch_size` must be at least 1 and at most the number of images, or no batch can be filled. "
            f"Received: batch_size={batch_size}, {source.name} ({source.split}) with {source.num_examples} "
            "images. Lower the batch size."
        )
    return source.num_examples // batch_size


def pretrain_dataset(
    source,
    augmentation,
    batch_size,
    seed=0,
    first_epoch=0,
    first_step=0,
    context=None,
    entries=("query", "key", "index"),
    finish=True,
):
    """Batches of two independently augmented views, for ever.

    Every epoch reads all images in a new order and leaves out the last `num_examples % batch_size` of that
    order, so a batch never spans two epochs. The order depends on `(seed, epoch)` alone, and the random draws
    of an image on `(seed, epoch)` and its place in that order: nothing that happened before matters, so starting at
    `first_epoch` and `first_step` continues a stopped run exactly, the batch size does not change the
    views, and neither does how much is done in parallel.

    An unreadable image is left out (`Source.bad` hears of it) and the next one takes its place. Where an epoch has so
    many of them that its last batches could not be filled, these begin its order anew. Those that `Source.bad` already
    knows are passed over without being opened; for `first_step` to be exact it must know those of the steps before, and
    with several pipelines each only knows its own.

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
            to the two views and the index.
        finish: bool. False leaves the second half of the augmentation (`Augmentation.finish`) to the training step,
            which needs `"draws"` for it. Defaults to `True`.

    Returns:
        Infinite `tf.data.Dataset` of `{"query": (b, s, s, c), "key": (b, s, s, c), "index": int64 (b,), "label": int32
        (b,), "draws": float32 (b, 2, num_draws)}` with static shapes; views have values 0..255, uint8 of `Fused`, else
        float32; a label is -1 when the image has none. Use `steps_per_epoch` for the length of an epoch.

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
        raise UserError(
            f"`first_epoch` must be at least 0 and `first_step` from 0 to {steps}, the steps of an epoch. "
            f"Received: first_epoch={first_epoch}, first_step={first_step}. Correct them."
        )
    if not set(entries) <= set(ENTRIES):
        raise UserError(
            f"`entries` must be names out of {', '.join(ENTRIES)}. Received: {', '.join(entries)}. Choose among them."
        )
    context = context or tf.distribute.InputContext()
    views = 2 if {"key", "draws"} & set(entries) else 1
    batches = (_batches_of_arrays if source.arrays else _batches_of_files)(
        source, augmentation, seed, steps, batch_size, context, views
    )

    def epoch_batches(epoch):
        skipped = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        return batches(epoch, skipped)

    def complete(batch):
        begun = batch["begun"]
        if finish:
            begun = [augmentation.finish(view, batch["draws"][:, number]) for number, view in enumerate(begun)]
        everything = {**batch, **dict(zip(("query", "key"), begun, strict=False))}
        return {name: everything[name] for name in entries}

    dataset = tf.data.Dataset.range(first_epoch, np.iinfo("int64").max).flat_map(epoch_batches)
    dataset = dataset.map(complete, num_parallel_calls=AUTOTUNE, deterministic=True)
    # Said because several workers would otherwise prepare for a last batch of another size, and forget the size.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.prefetch(AUTOTUNE)


def labelled_dataset(source, augmentation, batch_size, seed=0, first_epoch=0):
    """Batches of one augmented view with its label, for ever: what `fit` takes to train with labels.

    Args:
        source, augmentation, batch_size, seed, first_epoch: as in `pretrain_dataset`.

    Returns:
        Infinite `tf.data.Dataset` of `(image, label)`, `(b, s, s, c)` with values 0..255 and int32 `(b,)`.

    Raises:
        ValueError: as `pretrain_dataset`.
    """

    def pair(batch):
        return batch["query"], batch["label"]

    return pretrain_dataset(source, augmentation, batch_size, seed, first_epoch, entries=("query", "label")).map(pair)


def _batches_of_arrays(source, augmentation, seed, steps, batch_size, context, views):
    """For images in memory: whole batches are picked, and where images are small, also augmented as such."""
    images, labels = source.arrays()
    share = context.get_per_replica_batch_size(batch_size)
    workers, worker = context.num_input_pipelines, context.input_pipeline_id
    local = batch_size // workers // share  # replicas of this worker

    def epoch_batches(epoch, skipped):
        order = permutation(source.num_examples, order_seed(seed, epoch))

        def pick(number):
            """Which images one replica gets in one step, and their draws."""
            start = number // local * batch_size + (worker * local + number % local) * share
            draws = draws_at(seed, epoch, start, share, augmentation.num_draws)[:, :views]
            index = tf.ensure_shape(order[start : start + share], [share])
            return {"index": index, "label": tf.gather(labels, index), "draws": draws}

        numbers = tf.data.Dataset.range(skipped * local, steps * local)
        return numbers.map(pick, num_parallel_calls=AUTOTUNE, deterministic=True)

    def begin(batch):
        picked = tf.ensure_shape(tf.gather(images, batch["index"]), [share, *source.image_shape])
        begun = tuple(augmentation.begin_batch(picked, batch["draws"][:, number]) for number in range(views))
        return {"begun": begun, **batch}

    def batches(epoch, skipped):
        dataset = epoch_batches(epoch, skipped)
        if augmentation.takes_batches(source.image_shape):
            return dataset.map(begin, num_parallel_calls=AUTOTUNE, deterministic=True)
        # Large images are copied once, and not with their batch before that.
        alone = dataset.unbatch().map(lambda example: {"image": images[example["index"]], **example})
        return _begun_one_by_one(source, augmentation, alone, share)

    return batches


def _batches_of_files(source, augmentation, seed, steps, batch_size, context, views):
    """For images that are read and decoded one by one."""
    share = context.get_per_replica_batch_size(batch_size)
    workers, worker = context.num_input_pipelines, context.input_pipeline_id

    known = np.zeros(source.num_examples, "bool")
    known[list(source.bad.met if source.bad else [])] = True
    good = (source.num_examples - known.sum()) // workers

    def is_not_known_as_bad(_, example):
        return ~tf.gather(known, example["index"])

    def is_own(place, _):
        """Whether a place in the epoch's order falls into this worker's part of its batch."""
        return place % batch_size * workers // batch_size == worker

    def batches(epoch, skipped):
        def draw(place, example):
            return {**example, "draws": draws_at(seed, epoch, place, 1, augmentation.num_draws)[0, :views]}

        order = source.read(order_seed(seed, epoch)).enumerate()
        order = order.filter(is_own) if workers > 1 else order
        order = (order.filter(is_not_known_as_bad) if known.any() else order).map(draw)
        passed, wanted = skipped * (batch_size // workers), steps * (batch_size // workers)
        rest = _begun_one_by_one(source, augmentation, order.skip(passed), None)
        # Another round only where unreadable images leave the last batches unfilled: it would read everything again.
        rounds = _begun_one_by_one(source, augmentation, order.repeat().skip(tf.maximum(passed - good, 0)), None)
        return rest.concatenate(rounds).take(wanted - passed).batch(share, drop_remainder=True)

    return batches


def _begun_one_by_one(source, augmentation, examples, batch_size):
    """The first half of the augmentation, of each image alone."""
    selected = source.opened(examples, lambda picture, example: augmentation.select(picture, example["draws"]))

    def begin(example):
        begun = augmentation.begin(example["image"], example["draws"])
        return {"begun": begun, **{name: example[name] for name in ("draws", "index", "label")}}

    begun = selected.map(begin, num_parallel_calls=AUTOTUNE, deterministic=True)
    return begun if batch_size is None else begun.batch(batch_size, drop_remainder=True)


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
