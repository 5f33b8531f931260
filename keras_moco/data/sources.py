"""What a data source is, and how a name becomes one."""

import dataclasses
import difflib
from collections.abc import Callable

import tensorflow as tf

SPLITS = ("train", "test")
FORMS = ("digits", "tfds:<name>[/config]", "folder:<path>")


@dataclasses.dataclass(frozen=True)
class Source:
    """A finite, indexed set of images, one split of it.

    Args:
        name: str. The name given to `open_source`.
        split: str. The split that was opened, e.g. `"train"`.
        num_examples: int. How many images there are.
        image_shape: tuple `(height, width, channels)`. Height and width are `None` where images differ in
            size; channels is 1 or 3.
        class_names: tuple of str, or `None` for unlabelled images.
        read: function of the arguments of `examples` (the seed as a scalar int64 tensor or `None`) to what it
            returns.

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
    read: Callable[[tf.Tensor | None, Callable | None], tf.data.Dataset] = dataclasses.field(repr=False)

    @property
    def num_classes(self):
        """int. Number of classes; 0 for unlabelled images."""
        return len(self.class_names or ())

    def examples(self, seed=None, keep=None):
        """Reads every image once, or those that are wanted.

        Args:
            seed: int, or scalar integer tensor (so that it can be called inside a `tf.data` function).
                Decides the order. Defaults to `None`: a fixed order, in which the n-th example has index n.
            keep: function of a place in that order, a scalar int64 tensor, to a bool tensor: whether to read it. What
                is not kept is not decoded. Defaults to `None`: all are.

        Returns:
            `tf.data.Dataset` of `{"image": uint8 (h, w, c), "label": int32 (), "index": int64 ()}`. A label
            is -1 when the image has none. The same image has the same index in every order.

        Example:

        >>> [int(example["index"]) for example in open_source("digits").examples().take(3)]
        [0, 1, 2]
        """
        return self.read(None if seed is None else tf.cast(seed, tf.int64), keep)


def kept(dataset, keep):
    """The elements of a data set at the places that `keep` wants (see `Source.examples`); all for `None`."""
    if keep is None:
        return dataset
    return dataset.enumerate().filter(lambda place, _: keep(place)).map(lambda _, element: element)


def open_source(name, split="train", data_dir=None):
    """Opens a set of images by name.

    | name | images |
    | --- | --- |
    | `digits` | the 1,797 handwritten 8x8 digits that come with scikit-learn; needs no download |
    | `tfds:<name>[/config]` | a TensorFlow Datasets set, e.g. `tfds:cifar10`; offline once it is prepared |
    | `folder:<path>` | image files in class sub-folders, or in one flat folder without labels |

    Args:
        name: str. One of the forms above.
        split: str. `"train"` or `"test"`. Where a TFDS set has no labelled test split, `"test"` is its
            `validation` split; any other split of a TFDS set can be opened by its own name (e.g.
            `"unlabelled"` of `tfds:stl10`).
        data_dir: str or path. Where TensorFlow Datasets keeps its data sets. Defaults to `None`: its own
            default.

    Returns:
        A `Source`.

    Raises:
        ValueError: The name has none of these forms, or what it names cannot be opened.
    """
    # Each kind is imported where it is opened: TensorFlow Datasets and scikit-learn take seconds to import.
    kind, colon, rest = str(name).partition(":")
    if name == "digits":
        _check_split(name, split)
        from keras_moco.data.digits import open_digits

        return open_digits(split)
    if kind == "tfds" and rest:
        from keras_moco.data.tfds_source import open_tfds

        return open_tfds(rest, split, data_dir)
    if kind == "folder" and rest:
        _check_split(name, split)
        from keras_moco.data.folder import open_folder

        return open_folder(rest, split)
    close = difflib.get_close_matches(kind, ["digits", "tfds", "folder"], n=1)
    way_out = f"Did you mean `{close[0]}{colon}{rest}`?" if close and close[0] != kind else f"Name a set as {FORMS[1]}."
    raise ValueError(f"`name` of a data source must be one of {', '.join(FORMS)}. Received: name={name!r}. {way_out}")


def _check_split(name, split):
    if split not in SPLITS:
        raise ValueError(f"`split` of {name} must be one of {', '.join(SPLITS)}. Received: split={split!r}.")
