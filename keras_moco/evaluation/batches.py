"""Batches of images with their labels, in all forms of data sets that Keras takes."""

from collections.abc import Mapping

import keras

from keras_moco.checks.pixel_range import check_pixels
from keras_moco.errors import UserError

ARRAYS = 256  # batch size for whole arrays


class Pixels(list):
    """Batches of images that are known to have values in 0..255, however dark they are."""

    has_pixels = True


def named_batches(dataset):
    """The batches of a data set as dictionaries; the images of the first are checked to have values in 0..255.

    Those of `keras_moco.data.evaluation_dataset` and `Pixels` have, and are not checked.

    Args:
        dataset: `tf.data.Dataset`, `keras.utils.PyDataset` or other iterable of batches in any form that `named` takes;
            or whole arrays, `(images, labels)` or a dictionary of them.

    Returns:
        `tf.data.Dataset`, or an iterator, of dictionaries such as `named` returns.

    Raises:
        ValueError: while it is read, if a batch has no images.
    """
    if not hasattr(dataset, "element_spec") or hasattr(dataset, "__next__"):
        return _one_by_one(dataset)
    if not hasattr(dataset, "map"):
        return dataset  # a distributed data set, which Keras takes as it is
    batches = dataset.map(lambda *batch: named(batch))
    # Those of `evaluation_dataset` are known to be pixels. A first batch of dark images could be taken for scaled ones.
    return batches if _has_pixels(dataset) else batches.enumerate().map(_first_checked)


def named(batch):
    """A batch as a dictionary of `"image"` `(b, H, W, C)` and, if it has them, `"label"` and `"index"`, `(b,)`.

    Args:
        batch: such a dictionary, possibly with other keys; `(image, label)` or `(image,)`, as in Keras; or images
            alone. Entries are tensors, arrays, or their specs.

    Raises:
        ValueError: if it has no batch of images, or the labels are not numbers of classes.
    """
    entries = _entries(batch)
    if "image" not in entries:
        raise UserError(
            "Batches must be dictionaries with 'image', or tuples (image, label). "
            f"Received: {_described(batch)}. Map the data set to one of these."
        )
    _check_images(entries["image"])
    if "label" in entries:
        entries["label"] = _classes(entries["label"])
    return entries


def check_batches(name, dataset, image_shape, labelled=True):
    """Raises `ValueError` unless a data set can be read repeatedly, is finite, and has images that fit the encoder.

    Args:
        name: str, the name of the data set in the message.
        dataset: as for `named_batches`.
        image_shape: `(H, W, C)` that the encoder takes, `None` for sides of any size.
        labelled: bool, whether images must have labels. Defaults to `True`.
    """
    if hasattr(dataset, "__next__"):
        raise UserError(
            f"`{name}` must be a data set that can be read after every epoch. "
            f"Received: a {type(dataset).__name__}, which is read once. Give a `tf.data.Dataset`, or a list of batches."
        )
    if hasattr(dataset, "cardinality") and int(dataset.cardinality()) == -1:
        raise UserError(
            f"`{name}` must be finite, or the evaluation never ends. "
            "Received: an infinite data set. Remove `.repeat()`, or add `.take(16)`."
        )
    batch = named(dataset.element_spec) if hasattr(dataset, "element_spec") else named(next(iter(_batches(dataset))))
    if labelled and "label" not in batch:
        raise UserError(
            f"`{name}` must have labels, as dictionaries with 'image' and 'label' or as tuples (image, label). "
            f"Received: batches with {', '.join(map(repr, batch))}. Add labels, or remove this callback."
        )
    shape = tuple(batch["image"].shape[1:]) if _rank(batch["image"]) else image_shape
    if any(None not in sides and sides[0] != sides[1] for sides in zip(shape, image_shape, strict=False)):
        raise UserError(
            f"Images of `{name}` must have the size and the channels that the encoder takes, {tuple(image_shape)}. "
            f"Received: {shape}. Resize them, for example by `keras_moco.augment.central_view`."
        )


def _entries(batch):
    if isinstance(batch, Mapping):
        return {name: batch[name] for name in ("image", "label", "index") if name in batch}
    if isinstance(batch, tuple | list):
        entries = _entries(batch[0]) if batch else {}
        if len(batch) > 1 and batch[1] is not None:
            entries.setdefault("label", batch[1])
        return entries
    return {"image": batch}


def _check_images(images):
    rank = _rank(images)
    if hasattr(images, "ragged_rank") or rank not in (None, 4):
        way_out = "Add `.batch(256)` to the data set." if rank == 3 else "Resize them before they are batched."
        raise UserError(
            "Images must come in batches of one size, (b, height, width, channels). "
            f"Received: a {type(images).__name__} of shape {images.shape}. {way_out}"
        )


def _classes(label):
    rank, kind = _rank(label), getattr(getattr(label, "dtype", None), "name", "")
    if rank == 2 and label.shape[1] == 1:
        return label[:, 0] if hasattr(label, "__getitem__") else label  # a column, as of `keras.datasets`; or its spec
    if rank not in (None, 1) or kind.startswith(("str", "bytes", "object")):
        raise UserError(
            "Labels must be one class number per image, (b,). "
            f"Received: labels of shape {label.shape} and type {kind}. Number the classes: of one-hot labels take "
            '`tf.argmax(label, -1)`, of `image_dataset_from_directory` `label_mode="int"`.'
        )
    return label


def _batches(dataset):
    """The batches of a data set other than `tf.data.Dataset`."""
    if isinstance(dataset, keras.utils.PyDataset):  # over which Python iterates for ever
        return (dataset[number] for number in range(len(dataset)))
    parts = _whole(dataset)
    if parts is None:
        return dataset
    lengths = {name: len(values) for name, values in parts.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"Images and labels must have one length. Received: {lengths}. Take both from the same data.")
    return (
        {name: values[start : start + ARRAYS] for name, values in parts.items()}
        for start in range(0, lengths["image"], ARRAYS)
    )


def _whole(dataset):
    """Whole arrays by name; `None` for any other data set."""
    if isinstance(dataset, list) or not isinstance(dataset, Mapping | tuple) and not hasattr(dataset, "shape"):
        return None
    if isinstance(dataset, tuple) and [_rank(part) for part in dataset] not in ([4], [4, 1], [4, 2]):
        return None  # a tuple of batches
    return named(dataset)


def _one_by_one(dataset):
    for number, batch in enumerate(map(named, _batches(dataset))):
        if number == 0 and not _has_pixels(dataset):
            check_pixels(batch["image"])
        yield batch


def _has_pixels(dataset):
    return getattr(dataset, "has_pixels", False)


def _first_checked(number, batch):
    images = batch["image"]
    images = keras.ops.cond(number == 0, lambda: check_pixels(images), lambda: keras.ops.convert_to_tensor(images))
    return {**batch, "image": images}


def _rank(part):
    """The number of axes of an array, a tensor or its spec; `None` if it is unknown."""
    shape = getattr(part, "shape", None)
    return getattr(shape, "rank", None) if shape is None or hasattr(shape, "rank") else len(shape)


def _described(batch):
    if isinstance(batch, Mapping):
        return f"a dictionary with {', '.join(map(repr, batch)) or 'nothing'}"
    return f"a {type(batch).__name__} of {len(batch)}"
