"""From a source to training batches: two augmented views of each image, in a random order that can be resumed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_moco.data.arrays import permutation
from keras_moco.data.source import Source
from keras_moco.errors import UserError

if TYPE_CHECKING:  # keras-cv takes seconds to import
    from keras_moco.augment.base import Augmentation

AUTOTUNE = tf.data.AUTOTUNE
ENTRIES = ("query", "key", "index", "label", "draws")
PHILOX = 1  # tf.random.Algorithm.PHILOX: the same numbers on every device, from a counter


def steps_per_epoch(source: Source, batch_size: int) -> int:
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
    source: Source,
    augmentation: "Augmentation",
    batch_size: int,
    seed: int = 0,
    first_epoch: int = 0,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
    entries: Sequence[str] = ("query", "key", "index"),
    finish: bool = True,
) -> tf.data.Dataset:
    """Batches of two independently augmented views, without end.

    Every epoch reads all images in a new order and skips the last `num_examples % batch_size` of them, so a batch never
    spans two epochs. The order depends on `(seed, epoch)` alone, and the random numbers of an image on `(seed, epoch)`
    and its place in that order. Nothing else matters: starting at `first_epoch` and `first_step` resumes a stopped run
    exactly, and views depend neither on the batch size nor on how much is done in parallel.

    An unreadable image is skipped, reported to `Source.bad`, and replaced by the next one. If an epoch has too many of
    them to fill its last batches, these take images from the start of its order. Images that `Source.bad` knows already
    are skipped without being opened. For `first_step` to be exact it must know those of the earlier steps; with several
    pipelines each one only knows its own.

    Args:
        source: `Source`.
        augmentation: `Augmentation` whose views all have the same size.
        batch_size: int. Images in a batch (the global batch, over all replicas).
        seed: int. Random seed. Defaults to `0`.
        first_epoch: int. The epoch to start with, counted from 0. Defaults to `0`.
        first_step: int. How many batches of that first epoch to skip. Defaults to `0`.
        context: `tf.distribute.InputContext`, as passed by `Strategy.distribute_datasets_from_function`: this
            pipeline reads, decodes and augments only its worker's images of every batch, and returns batches for
            single replicas. Defaults to `None`: whole batches.
        entries: names of the entries of a batch, such as a model's `required`; others are not computed. Defaults to
            the two views and the index.
        finish: bool. False leaves the second half of the augmentation (`Augmentation.finish`) to the training step,
            which needs `"draws"` for it. Defaults to `True`.

    Returns:
        Infinite `tf.data.Dataset` of `{"query": (b, s, s, c), "key": (b, s, s, c), "index": int64 (b,), "label": int32
        (b,), "draws": float32 (b, 2, num_draws)}` with static shapes; views have values 0..255, uint8 if `Fused` makes
        them of uint8 images, else float32; a label is -1 when the image has none. Use `steps_per_epoch` for the length
        of an epoch.

    Raises:
        ValueError: `batch_size` is larger than the data set, or not divisible by the replicas of `context`;
            `first_step` is larger than the epoch; or an entry is unknown.

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
    # Without it, several workers would allow for a smaller last batch, and lose the static batch size.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return dataset.prefetch(AUTOTUNE)


def labelled_dataset(
    source: Source, augmentation: "Augmentation", batch_size: int, seed: int = 0, first_epoch: int = 0
) -> tf.data.Dataset:
    """Batches of one augmented view with its label, without end: what `fit` takes to train with labels.

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
    """For images in memory: batches are gathered at once, and small images also augmented so."""
    images, labels = source.arrays()
    share = context.get_per_replica_batch_size(batch_size)
    workers, worker = context.num_input_pipelines, context.input_pipeline_id
    local = batch_size // workers // share  # replicas of this worker

    def epoch_batches(epoch, skipped):
        order = permutation(source.num_examples, order_seed(seed, epoch))

        def pick(number):
            """The images that one replica gets in one step, and their random numbers."""
            start = number // local * batch_size + (worker * local + number % local) * share
            draws = random_numbers(seed, epoch, start, share, augmentation.num_draws)[:, :views]
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
        # Large images are copied one by one, and not first as a batch.
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
        """Whether a place in the epoch's order is in this worker's part of its batch."""
        return place % batch_size * workers // batch_size == worker

    def batches(epoch, skipped):
        def with_random_numbers(place, example):
            return {**example, "draws": random_numbers(seed, epoch, place, 1, augmentation.num_draws)[0, :views]}

        order = source.read(order_seed(seed, epoch)).enumerate()
        order = order.filter(is_own) if workers > 1 else order
        order = (order.filter(is_not_known_as_bad) if known.any() else order).map(with_random_numbers)
        passed, wanted = skipped * (batch_size // workers), steps * (batch_size // workers)
        rest = _begun_one_by_one(source, augmentation, order.skip(passed), None)
        # A second round, which reads everything again, only if unreadable images leave the last batches unfilled.
        rounds = _begun_one_by_one(source, augmentation, order.repeat().skip(tf.maximum(passed - good, 0)), None)
        return rest.concatenate(rounds).take(wanted - passed).batch(share, drop_remainder=True)

    return batches


def _begun_one_by_one(source, augmentation, examples, batch_size):
    """The first half of the augmentation, one image at a time."""
    selected = source.opened(examples, lambda decoder, example: augmentation.select(decoder, example["draws"]))

    def begin(example):
        begun = augmentation.begin(example["image"], example["draws"])
        return {"begun": begun, **{name: example[name] for name in ("draws", "index", "label")}}

    begun = selected.map(begin, num_parallel_calls=AUTOTUNE, deterministic=True)
    return begun if batch_size is None else begun.batch(batch_size, drop_remainder=True)


def random_numbers(seed, epoch, place, count, width):
    """Uniform random numbers for the augmentation of `count` consecutive images of an epoch.

    An epoch has one endless stream of numbers, and an image the part of it that its place in the order decides. So the
    numbers of a batch are one call, however the epoch is divided into batches, and a run can resume anywhere.

    Args:
        seed: int, random seed of the run.
        epoch: scalar int64 tensor, at least 0.
        place: scalar int64 tensor, place of the first image in the epoch's order.
        count: int, the number of images.
        width: int, the number of random numbers for each view.

    Returns:
        float32 `(count, 2, width)`, in [0, 1), for two views of each image.

    Example:

    >>> zero, six = tf.constant(0, tf.int64), tf.constant(6, tf.int64)
    >>> whole = random_numbers(seed=3, epoch=zero, place=zero, count=8, width=5)
    >>> part = random_numbers(seed=3, epoch=zero, place=six, count=2, width=5)
    >>> bool(tf.reduce_all(whole[6:] == part))
    True
    """
    blocks = -(-2 * width // 4)  # Philox gives four numbers for one count
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=tf.stack([tf.constant(seed, tf.int64), epoch]))
    counter += tf.stack([tf.cast(place * blocks, tf.uint64), tf.constant(0, tf.uint64)])
    numbers = tf.raw_ops.StatelessRandomUniformV2(shape=[count, 4 * blocks], key=key, counter=counter, alg=PHILOX)
    return tf.reshape(numbers[:, : 2 * width], [count, 2, width])


def order_seed(seed, epoch):
    """The seed of an epoch's order, a scalar int64 tensor, independent of its random numbers for augmentation."""
    return tf.random.stateless_uniform([], [seed, -1 - epoch], minval=None, maxval=None, dtype=tf.int64)
