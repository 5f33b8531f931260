"""What a data source is: a finite, indexed set of images."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_moco.data.bad_images import BadImages
from keras_moco.data.channel_statistics import mean_and_std
from keras_moco.data.decode import Files, Pixels
from keras_moco.data.shuffle_buffer import ShuffleBuffer
from keras_moco.errors import UserError
from keras_moco.image_formats.decoding import Decoding, Limits

SPLITS = ("train", "test")


class ClassesError(UserError):
    """The classes of training and test images do not fit each other."""


class Options(NamedTuple):
    """What a source is opened with, besides its name; see `keras_moco.data.open_source`.

    Attributes:
        split: str, the split, e.g. `"train"`.
        data_dir: str or path of the folder of TFDS sets, or `None` for TFDS's own default.
        cache: bool, whether encoded images stay in memory.
        judge: function of the number of images, and of a function that describes one, to a `BadImages`.
        shuffle_buffer_mib: int, memory that a shuffle may take, in MiB.
        channels: int, the channels that images get, or `None` for those of the first one.
        value_range: str, which values become 0..255.
        background: int, the gray level under transparent images.
        test_fraction: float in [0, 1), the share of the images that becomes the test split; 0 for none.
        tfrecord_image_feature: str, name of the feature of TFRecords with the encoded image.
        tfrecord_label_feature: str, name of that with the label.
    """

    split: str
    data_dir: Any
    cache: bool
    judge: Callable
    shuffle_buffer_mib: int
    channels: int | None = None
    value_range: str = "auto"
    background: int = 255
    test_fraction: float = 0.0
    tfrecord_image_feature: str = "image/encoded"
    tfrecord_label_feature: str = "image/class/label"


@dataclasses.dataclass(frozen=True)
class Source:
    """A finite, indexed set of images, one split of it.

    Args:
        name: str. The name given to `open_source`.
        split: str. The split that was opened, e.g. `"train"`.
        num_examples: int. How many images there are, readable or not.
        image_shape: tuple `(height, width, channels)`. Height and width are `None` where images differ in
            size.
        class_names: tuple of str, or `None` for unlabelled images.
        read: function of a seed, a scalar int64 tensor, or of `None` for a fixed order, to a `tf.data.Dataset` of
            `{"image", "label": int32 (), "index": int64 ()}`; `"image"` is what `encoded` opens, or an image.
        encoded: `Files` (`keras_moco.data.decode`), which opens such an `"image"`; `None` for images in memory.
        arrays: function without arguments to `(images, labels)`, uint8 `(n, h, w, C)` and int32 `(n,)` tensors, if
            all images are in memory. Defaults to `None`.
        bad: `BadImages`, to which unreadable images are reported. Defaults to `None`: there cannot be any.
        files: tuple of str, the path of each image, in an archive with its name in it; `None` for images that are read
            in the order of large files.
        names: function of indices to a list of names of other images, such as those of the files that they were made
            from; `None` for one without a name. Defaults to `None`: no image has a name.
        place_of: function of an index to a text that says where that image is in large files. Defaults to `None`:
            unknown, or in a file of its own.
        buffer: `ShuffleBuffer` (`keras_moco.data.shuffle_buffer`) that a random order fills, or `None`.
        licence: str, licence of the data, or `None` if it is unknown.
        identity: function without arguments to a dict of digests, of everything that makes the images and their order
            what they are, by its name. Defaults to `None`: unknown.
        sample: function without arguments to a `Sample` (`keras_moco.data.sample`) of the files, those that decide how
            all are decoded. It reads them again. Defaults to `None`: the images are no files.

    Example:

    >>> from keras_moco.data import open_source
    >>> source = open_source("digits")
    >>> source.num_examples, source.image_shape, source.num_classes
    (1437, (8, 8, 1), 10)
    """

    name: str
    split: str
    num_examples: int
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...] | None
    read: Callable[[tf.Tensor | None], tf.data.Dataset] = dataclasses.field(repr=False)
    encoded: Files | None = dataclasses.field(default=None, repr=False)
    arrays: Callable[[], tuple[tf.Tensor, tf.Tensor]] | None = dataclasses.field(default=None, repr=False)
    bad: BadImages | None = dataclasses.field(default=None, repr=False)
    files: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    names: Callable[[list[int]], list[str | None]] | None = dataclasses.field(default=None, repr=False)
    place_of: Callable[[int], str] | None = dataclasses.field(default=None, repr=False)
    buffer: ShuffleBuffer | None = None
    licence: str | None = None
    identity: Callable[[], dict[str, str]] | None = dataclasses.field(default=None, repr=False)
    sample: Callable[[], Any] | None = dataclasses.field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        """int. Number of classes; 0 for unlabelled images."""
        return len(self.class_names or ())

    @property
    def decoding(self) -> Decoding | None:
        """`Decoding` (`keras_moco.image_formats`), by which files become images; `None` for images in memory."""
        return self.encoded.decoding if self.encoded else None

    @functools.cached_property
    def digests(self):
        """dict of digests by which a resumed run recognises the images; empty if `identity` is unknown."""
        return self.identity() if self.identity else {}

    @functools.cached_property
    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel in a sample of the images, in 0..1."""
        return mean_and_std(self)

    def in_range(self, limits: Limits) -> "Source":
        """The same images with other values as black and white, `(low, high)`; of sources of image files only."""
        return dataclasses.replace(self, encoded=self.encoded.in_range(limits))  # type: ignore[union-attr]

    def labels(self) -> np.ndarray:
        """The label of every image, an int32 array `(num_examples,)`; -1 if it has none, or is damaged."""
        if self.arrays:
            return self.arrays()[1].numpy()
        labels = self.read(None).map(lambda example: example["label"]).batch(8192)
        return np.concatenate(list(labels.as_numpy_iterator()))

    def known_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """The labels of all images except damaged records, whose labels are lost; these are reported.

        Returns:
            `(labels, rows)`: an int32 array, and an int64 array of their places among all images.

        Raises:
            ValueError: if too many records are damaged.
        """
        if self.bad is None:
            labels = self.labels()
            return labels, np.arange(len(labels))

        def entries(example):
            image, label = example["image"], example["label"]
            lost = image == "" if image.dtype == tf.string else False
            return label, example["index"], (label < 0) & lost

        parts = list(self.read(None).map(entries).batch(8192).as_numpy_iterator())
        labels, indices, lost = (np.concatenate(part) for part in zip(*parts, strict=True))
        for index in indices[lost]:
            self.bad.report(index)
        return labels[~lost], np.flatnonzero(~lost)

    def files_of(self, indices: Iterable[int]) -> list[str | None]:
        """The path of each image, by its index, or the name of the file from which it was made; `None` if unknown.

        Args:
            indices: iterable of ints.

        Example:

        >>> from keras_moco.data import open_source
        >>> open_source("digits").files_of([7, 3])
        [None, None]
        """
        indices = [int(index) for index in indices]
        if self.files:
            return [self.files[index] for index in indices]
        return self.names(indices) if self.names else [None] * len(indices)

    def examples(self, seed: int | tf.Tensor | None = None) -> tf.data.Dataset:
        """Reads and decodes every image once; unreadable images are skipped and reported.

        Args:
            seed: int, or scalar integer tensor (so that it can be called inside a `tf.data` function).
                Decides the order. Defaults to `None`: a fixed order, in which the n-th example has index n.

        Returns:
            `tf.data.Dataset` of `{"image": uint8 or float32 (h, w, c), "label": int32 (), "index": int64 ()}`. A label
            is -1 when the image has none. The same image has the same index in every order.

        Raises:
            ValueError: while it is read, if too many images are unreadable.

        Example:

        >>> from keras_moco.data import open_source
        >>> [int(example["index"]) for example in open_source("digits").examples().take(3)]
        [0, 1, 2]
        """
        seed = None if seed is None else tf.cast(seed, tf.int64)
        return self.opened(self.read(seed), lambda decoder, _: decoder.whole())

    def opened(self, examples: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
        """Replaces the `"image"` of raw examples by `function(decoder, example)`, in order and in parallel.

        Args:
            examples: `tf.data.Dataset` of examples as from `read`, which may hold further entries.
            function: function of a decoder and its example to tensors, in any structure. It should do little more than
                what may fail.

        Returns:
            `tf.data.Dataset` of the same entries, without unreadable images.
        """
        files = self.encoded
        if files is None:

            def load(example):
                return {**example, "image": function(Pixels(example["image"]), example)}

            return examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        def try_to_load(example):
            complete, image = files.open(example["image"], lambda decoder: function(decoder, example))
            return {**example, "image": image}, complete

        opened = examples.map(try_to_load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        opened = opened.filter(lambda example, complete: self.bad.kept(complete, example["index"]))
        return opened.map(lambda example, _: example)


def check_split(name, split):
    """Raises `ValueError` unless a split is one of those that every source has by these names."""
    if split not in SPLITS:
        raise UserError(
            f"`split` of {name} must be one of {', '.join(SPLITS)}. Received: split={split!r}. Choose one of them."
        )


def classes_for_test(train, test, name):
    """The classes that the labels of a test split refer to: those of training, so that a label means the same in both.

    Args:
        train, test: lists of the names of classes; empty for unlabelled images.
        name: str, the name of the source.

    Returns:
        A list: `train`; `test` if either is empty.

    Raises:
        ClassesError: if a class of the test split is none of training.
    """
    unknown = [each for each in test if each not in set(train)]
    if train and unknown:
        raise ClassesError(
            "The classes of test images must be among those of the training images. "
            f"Received: {name!r}, whose test split has {_listed(unknown)} that training, of {_listed(train)}, does not "
            "have. Rename or remove them, or add training images of them."
        )
    return train if train and test else test


def check_same_classes(train, test):
    """Raises `ClassesError` unless two sources have the same classes: the same label would mean different things."""
    if test.class_names != train.class_names:
        raise ClassesError(
            "Training and test images must have the same classes. "
            f"Received: {_listed(train.class_names or ())}; and {_listed(test.class_names or ())}. "
            "Correct the folders, or the files of names."
        )


def _listed(names):
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
