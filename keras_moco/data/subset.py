"""Some of the images of a source, such as 1 % of them as labelled examples."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_moco.data.arrays import examples_from_arrays
from keras_moco.data.identity import digest_of
from keras_moco.data.source import Source
from keras_moco.errors import UserError


def subset(source: Source, indices: np.ndarray | Sequence[int]) -> Source:
    """A source of some of the images of another one.

    Args:
        source: `Source`.
        indices: whole numbers, the images' indices in `source`, each once; their order does not matter.

    Returns:
        A `Source`. Its images count from 0, in the order of `source`. If images come from large files, all of them are
        read in every epoch.

    Raises:
        ValueError: if there are none, or they are not indices.

    Example:

    >>> from keras_moco.data import open_source
    >>> [int(example["index"]) for example in subset(open_source("digits"), [7, 3, 1000]).examples()]
    [0, 1, 2]
    """
    chosen = np.unique(np.asarray(indices, "int64"))
    if not len(chosen) or len(chosen) < len(indices) or chosen[0] < 0 or chosen[-1] >= source.num_examples:
        raise UserError(
            f"`indices` must be of images, each once, from 0 to {source.num_examples - 1}. "
            f"Received: {len(indices)} indices"
            + (f", {len(chosen)} different ones from {chosen[0]} to {chosen[-1]}" if len(chosen) else "")
            + ". Correct them."
        )

    def identity():
        return {**source.digests, "choice of images": digest_of(chosen)}

    def names(indices):
        return source.files_of(chosen[indices])

    def place_of(index):
        return source.place_of(chosen[index])

    if source.arrays:
        with tf.device("CPU"):
            arrays = tuple(tf.gather(array, chosen) for array in source.arrays())
        return dataclasses.replace(
            source,
            num_examples=len(chosen),
            read=lambda seed: examples_from_arrays(*arrays, seed=seed),
            arrays=lambda: arrays,
            names=names,
            identity=identity,
        )
    places = np.full(source.num_examples, -1, "int64")
    places[chosen] = np.arange(len(chosen))

    def read(seed):
        examples = source.read(seed).filter(lambda example: tf.gather(places, example["index"]) >= 0)
        return examples.map(lambda example: {**example, "index": tf.gather(places, example["index"])})

    return dataclasses.replace(
        source,
        num_examples=len(chosen),
        read=read,
        bad=source.bad.among(chosen) if source.bad else None,
        files=tuple(source.files[index] for index in chosen) if source.files else None,
        names=names,
        place_of=place_of if source.place_of else None,
        identity=identity,
    )


def sample(source, count, seed=0):
    """A source of a number of images of another one, found without reading the others.

    They are chosen at random if images are in memory or in files of their own. Of large files they are the first ones:
    whoever wrote such files has shuffled the images over them.

    Args:
        source: `Source`.
        count: int, at least 1.
        seed: int, decides which images. Defaults to `0`.

    Returns:
        A `Source` of `count` images, or of all if there are no more. They keep their indices.

    Example:

    >>> from keras_moco.data import open_source
    >>> sample(open_source("digits"), count=100).num_examples
    100
    """
    if count >= source.num_examples:
        return source
    order = tf.constant(seed, tf.int64) if source.arrays or source.files else None
    return dataclasses.replace(
        source,
        num_examples=count,
        read=lambda _: source.read(order).take(count),
        arrays=None,
        files=None,
        buffer=None,
        identity=lambda: {**source.digests, "choice of images": digest_of([seed, count])},
    )


def in_file_order(source):
    """A source to look at some images, not to train on: it never fills a shuffle buffer.

    Args:
        source: `Source`.

    Returns:
        The same source if it has no shuffle buffer; otherwise one that is always in the order of the files.

    Example:

    >>> from keras_moco.data import open_source
    >>> source = open_source("digits")  # in memory
    >>> in_file_order(source) is source
    True
    """
    if source.buffer is None:
        return source
    return dataclasses.replace(source, read=lambda _: source.read(None), buffer=None)


def balanced_indices(labels: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """A share of the images with equally many of each class, as far as it has that many.

    The 1 % and 10 % splits of the literature are balanced like this (SimCLR, sec. 4.3: about 12.8 and 128 images a
    class).

    Args:
        labels: int array `(n,)`, classes from 0.
        fraction: float in (0, 1], of all images.
        seed: int, decides which images. Defaults to `0`.

    Returns:
        int64 array, ascending, of `round(fraction * n)` indices, or fewer if a class has too few images.

    Raises:
        ValueError: if that is less than one image for each class, or a class or a label is missing.

    Example:

    >>> balanced_indices([0, 1, 0, 1, 1, 0, 1, 0], fraction=0.5).size
    4
    """
    labels = np.asarray(labels)
    classes = int(labels.max(initial=-1)) + 1
    members = [np.flatnonzero(labels == number) for number in range(classes)]
    wanted = round(fraction * len(labels))
    if len(labels) == 0 or labels.min() < 0 or not all(map(len, members)):
        missing = [number for number, indices in enumerate(members) if not len(indices)]
        raise UserError(
            "Every image must have a label, and every class an image, to be divided by classes. "
            f"Received: {np.count_nonzero(labels < 0)} images without a label, classes without an image: {missing}. "
            "Remove those images and classes."
        )
    if wanted < classes:
        raise UserError(
            "The share of labelled images must hold at least one of each class. "
            f"Received: {100 * fraction:g} % of {len(labels)} images, {wanted}, for {classes} classes. Raise the share."
        )
    random = np.random.default_rng(seed)
    # The remainder of the division goes to classes chosen at random.
    shares = np.full(classes, wanted // classes)
    shares[random.permutation(classes)[: wanted % classes]] += 1
    chosen = [random.permutation(indices)[:share] for indices, share in zip(members, shares, strict=True)]
    return np.sort(np.concatenate(chosen))
