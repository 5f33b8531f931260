"""What a data source is, and how a name becomes one."""

import dataclasses
import difflib
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_moco.data.bad_images import BadImages
from keras_moco.data.decode import Pixels, attempt
from keras_moco.data.shuffle_buffer import ShuffleBuffer
from keras_moco.errors import UserError
from keras_moco.storage.paths import user_path

SPLITS = ("train", "test")
FORMS = ("digits", "tfds:<name>[/config]", "folder:<path>", "tfrecord:<glob>")


@dataclasses.dataclass(frozen=True)
class Source:
    """A finite, indexed set of images, one split of it.

    Args:
        name: str. The name given to `open_source`.
        split: str. The split that was opened, e.g. `"train"`.
        num_examples: int. How many images there are, readable or not.
        image_shape: tuple `(height, width, channels)`. Height and width are `None` where images differ in
            size; channels is 1 or 3 where images are decoded, any number where they lie in memory.
        class_names: tuple of str, or `None` for unlabelled images.
        read: function of a seed, a scalar int64 tensor, or of `None` for a fixed order, to a `tf.data.Dataset` of
            `{"image", "label": int32 (), "index": int64 ()}`; `"image"` is what `open` opens.
        open: function of such an `"image"` to a picture (`keras_moco.data.decode`). Defaults to pixels as they are.
        arrays: function without arguments to `(images, labels)`, uint8 `(n, h, w, C)` and int32 `(n,)` tensors, where
            all lie in memory. Defaults to `None`.
        bad: `BadImages`, which hears of unreadable images. Defaults to `None`: there cannot be any.
        files: tuple of str, the path of each image, or `None` where they lie in other files.
        buffer: `ShuffleBuffer` (`keras_moco.data.shuffle_buffer`) that an order fills, or `None` where none is needed.
        licence: str, of the data, or `None` where it does not say.
        identity: function without arguments to a dict of names of what makes the images these, in this order, to a
            digest of each. Defaults to `None`: nothing is known of that.

    Example:

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
    open: Callable = dataclasses.field(default=Pixels, repr=False)
    arrays: Callable | None = dataclasses.field(default=None, repr=False)
    bad: BadImages | None = dataclasses.field(default=None, repr=False)
    files: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    buffer: ShuffleBuffer | None = None
    licence: str | None = None
    identity: Callable | None = dataclasses.field(default=None, repr=False)

    @property
    def num_classes(self):
        """int. Number of classes; 0 for unlabelled images."""
        return len(self.class_names or ())

    @functools.cached_property
    def digests(self):
        """dict, by which a resumed run knows the images again, found at the first use; an empty one if it cannot."""
        return self.identity() if self.identity else {}

    def labels(self):
        """The label of every image, an int32 array `(num_examples,)`; -1 where it has none, or is damaged."""
        if self.arrays:
            return self.arrays()[1].numpy()
        labels = self.read(None).map(lambda example: example["label"]).batch(8192)
        return np.concatenate(list(labels.as_numpy_iterator()))

    def known_labels(self):
        """The labels of all images but those of damaged records, which are lost with them; these are reported.

        Returns:
            `(labels, rows)`: an int32 array as of `labels`, and an int64 array of the rows that they have there.

        Raises:
            ValueError: if too many are lost.
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

    def examples(self, seed=None):
        """Reads and decodes every image once; those that cannot be read are left out and reported.

        Args:
            seed: int, or scalar integer tensor (so that it can be called inside a `tf.data` function).
                Decides the order. Defaults to `None`: a fixed order, in which the n-th example has index n.

        Returns:
            `tf.data.Dataset` of `{"image": uint8 (h, w, c), "label": int32 (), "index": int64 ()}`. A label
            is -1 when the image has none. The same image has the same index in every order.

        Raises:
            ValueError: while it is read, if too many images are unreadable.

        Example:

        >>> [int(example["index"]) for example in open_source("digits").examples().take(3)]
        [0, 1, 2]
        """
        return self.opened(self.read(_tensor(seed)), lambda picture, _: picture.whole())

    def opened(self, examples, function):
        """Replaces the `"image"` of raw examples by `function(picture, example)`, in order and in parallel.

        Args:
            examples: `tf.data.Dataset` of examples as of `read`, which may hold further entries.
            function: of a picture and its example to tensors, in any structure; only what may fail, and little more.

        Returns:
            `tf.data.Dataset` of the same entries, without unreadable images.
        """
        if self.bad is None:

            def load(example):
                return {**example, "image": function(self.open(example["image"]), example)}

            return examples.map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

        def try_to_load(example):
            complete, image = attempt(lambda parts: function(self.open(parts["image"]), parts), example)
            return {**example, "image": image}, complete

        opened = examples.map(try_to_load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        opened = opened.filter(lambda example, complete: self.bad.kept(complete, example["index"]))
        return opened.map(lambda example, _: example)


def _tensor(seed):
    return None if seed is None else tf.cast(seed, tf.int64)


def open_source(
    name, split="train", data_dir=None, cache=False, max_bad_fraction=0.01, strict=False, shuffle_buffer_mib=1024
):
    """Opens a set of images by name.

    | name | images |
    | --- | --- |
    | `digits` | the 1,797 handwritten 8x8 digits that come with scikit-learn; needs no download |
    | `tfds:<name>[/config]` | a TensorFlow Datasets set, e.g. `tfds:cifar10`; offline once it is prepared |
    | `folder:<path>` | image files in class sub-folders, or in one flat folder without labels |
    | `tfrecord:<glob>` | TFRecord files of encoded images (`keras_moco.data.tfrecord`) |

    Arrays of your own: `keras_moco.data.array_source`.

    Args:
        name: str. One of the forms above.
        split: str. `"train"` or `"test"`. Where a TFDS set has no labelled test split, `"test"` is its
            `validation` split; any other split of a TFDS set can be opened by its own name (e.g.
            `"unlabelled"` of `tfds:stl10`).
        data_dir: str or path. Where TensorFlow Datasets keeps its data sets. Defaults to `None`: its own
            default.
        cache: bool. Whether encoded images stay in memory once they are read. Defaults to `False`.
        max_bad_fraction: float in [0, 1). How many of the images may be unreadable; they are left out, and the first
            ten are named in the log. Defaults to `0.01`.
        strict: bool. Whether the first unreadable image is an error. Defaults to `False`.
        shuffle_buffer_mib: int, at least 1. What of the memory a shuffle of images out of large files (TFRecords, TFDS)
            may take, in MiB. Where all of them fit, encoded, they are shuffled completely; else each is drawn out of a
            buffer of so many. The order depends on it. Defaults to `1024`.

    Returns:
        A `Source`.

    Raises:
        ValueError: The name has none of these forms, or what it names cannot be opened.
    """
    # Each kind is imported where it is opened: TensorFlow Datasets and scikit-learn take seconds to import.
    kind, colon, rest = str(name).partition(":")
    judge = functools.partial(BadImages, max_fraction=max_bad_fraction, strict=strict)
    if name == "digits":
        _check_split(name, split)
        from keras_moco.data.digits import open_digits

        return open_digits(split)
    if kind == "tfds" and rest:
        from keras_moco.data.tfds import open_tfds

        return open_tfds(rest, split, data_dir, cache, judge, shuffle_buffer_mib)
    if kind == "folder" and rest:
        _check_split(name, split)
        from keras_moco.data.folder import open_folder

        return open_folder(rest, split, cache, judge)
    if kind == "tfrecord" and rest:
        _check_split(name, split)
        from keras_moco.data.tfrecord import open_tfrecord

        return open_tfrecord(rest, split, cache, judge, shuffle_buffer_mib)
    close = difflib.get_close_matches(kind, ["digits", "tfds", "folder", "tfrecord"], n=1)
    way_out = f"Did you mean `{close[0]}{colon}{rest}`?" if close and close[0] != kind else f"Name a set as {FORMS[1]}."
    if user_path(name).is_dir():
        way_out = f"Did you mean `folder:{name}`?"
    raise UserError(f"`name` of a data source must be one of {', '.join(FORMS)}. Received: name={name!r}. {way_out}")


def _check_split(name, split):
    if split not in SPLITS:
        raise UserError(
            f"`split` of {name} must be one of {', '.join(SPLITS)}. Received: split={split!r}. Choose one of them."
        )


def check_same_classes(train, test):
    """Raises `ValueError` unless two sources have the same classes: a number would stand for another one in each."""
    if test.class_names != train.class_names:
        raise UserError(
            "Training and test images must have the same classes. "
            f"Received: {_listed(train.class_names or ())}; and {_listed(test.class_names or ())}. "
            "Correct the folders, or the files of names."
        )


def _listed(names):
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
