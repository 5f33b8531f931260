"""How images in TFRecords are named: by the files they were made from, if the records say so, and by their places."""

import tensorflow as tf
from google.protobuf.message import DecodeError

from keras_moco.image_formats.registry import what_is_wrong

# Features in which names are stored: those of TensorFlow's own ImageNet scripts, and those of TensorFlow Datasets.
FEATURES = ("image/filename", "file_name", "filename", "image/file_name", "image_filename")
TRIES = 100  # records without a name after which no others are read


def record_names(records, indices):
    """The names of images in TFRecords, which are read one by one.

    Args:
        records: `RecordFiles`, whose records are `tf.train.Example`.
        indices: numbers of records.

    Returns:
        list of str, or `None` for a record without a name.
    """
    names: list[str | None] = []
    for data in records.read(indices):
        names.append(_name(data))
        if len(names) == TRIES and not any(names):
            return [None] * len(indices)
    return names


def describe_record(records, index, feature, decoding=None):
    """A text that says where a record is, by its name, if it has one, its number and its file, and what is wrong there.

    Args:
        records: `RecordFiles`, whose records are `tf.train.Example`.
        index: int, the number of an image that cannot be read.
        feature: str, the feature with the encoded image.
        decoding: `Decoding` of the set. Defaults to `None`.
    """
    if damage := records.damage_of(index):
        return damage
    (data,) = records.read([index])
    name, image = _name(data), _first(data, [feature])
    reason = what_is_wrong(image, decoding and decoding.decode) if image else f"without an image in `{feature}`"
    return f"{name + ', ' if name else ''}{records.place_of(index)}: {reason}"


def _name(data):
    """The name in a record, or `None`."""
    found = _first(data, FEATURES)
    return None if found is None else found.decode(errors="surrogateescape")


def _first(data, names):
    """The first value of the first of these features that a serialised example has; `None` without any."""
    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError:
        return None
    found = (features[name].bytes_list.value for name in names if name in features)
    return next((values[0] for values in found if values), None)
