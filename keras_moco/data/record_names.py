"""The names of files from which the images of TFRecords were made, if whoever wrote the records kept them."""

import tensorflow as tf
from google.protobuf.message import DecodeError

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


def _name(data):
    """The name in a record, or `None`."""
    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError:
        return None
    found = (features[name].bytes_list.value for name in FEATURES if name in features)
    return next((values[0].decode(errors="surrogateescape") for values in found if values), None)
