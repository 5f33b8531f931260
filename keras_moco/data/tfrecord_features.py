"""The features of records that are the image and its label, and what is said where they have other names."""

import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError

from keras_moco.data.labels import UNLABELLED
from keras_moco.data.sample import SIZE, Sample, decoding_of, look_at
from keras_moco.data.source import Options
from keras_moco.errors import UserError
from keras_moco.image_formats.registry import NAMES, format_of

LABEL = "image/class/label"  # the default
TRIES = 100  # records in which a label is looked for
LISTED = 20  # features that a message lists
KINDS = {"bytes_list": "bytes", "int64_list": "int64", "float_list": "float"}
NUMBER = "int64[1]"


def parser(image, label):
    """A function of a serialised `tf.train.Example`, a string scalar, to its image and label.

    Args:
        image: str, name of the feature with the encoded image.
        label: str, name of the feature with the label, or `None` if there are no labels.

    Returns:
        A function to `{"image": string (), "label": int64 ()}`; where there is no such feature, the image is empty and
        the label -1.
    """
    features = {image: tf.io.FixedLenFeature([], tf.string, default_value="")}
    if label:
        features[label] = label_spec()

    def parse(record):
        parsed = tf.io.parse_single_example(record, features)
        unlabelled = tf.constant(UNLABELLED, tf.int64)
        return {"image": parsed[image], "label": parsed[label] if label else unlabelled}

    return parse


def label_spec():
    """The feature of a label, as TensorFlow parses it."""
    return tf.io.FixedLenFeature([], tf.int64, default_value=UNLABELLED)


def decoding_of_records(records, name, options):
    """How the images are decoded, from those of the first records.

    Args:
        records: `tf.data.Dataset` of serialised examples.
        name: str, name of the source, for messages.
        options: `Options`.

    Returns:
        `Decoding`.

    Raises:
        ValueError: if none of the first records has an image in the feature of the options. The message has the
            features of the first one.
    """
    image = options.tfrecord_image_feature
    contents, errors = _contents(records, image)
    if decoding := decoding_of(look_at(contents, options.channels), name, options):
        return decoding
    reason = f"without a readable image in `{image}` of its first records"
    if errors:
        reason = f"whose first records cannot be read: {errors[-1].splitlines()[0][:200]}"
    found = next(filter(None, map(_features_of, records.take(SIZE))), {})
    listed = f"; the first one has {_listed(found)}" if found else ""
    like = [name for name, values in found.items() if name != image and _is_image(values)]
    way_out = f"Give --tfrecord_image_feature={like[0]}." if like else "Write them so, or name another feature."
    raise UserError(
        f"Records must be `tf.train.Example` with a {NAMES} in the feature `{image}`, the --tfrecord_image_feature. "
        f"Received: {name}, {reason}{listed}. {way_out}"
    )


def sample_of_records(records: tf.data.Dataset, options: Options) -> Sample:
    """The images of the first records, as a `Sample`; of a record that cannot be parsed nothing is known.

    Args:
        records: `tf.data.Dataset` of serialised examples.
        options: `Options`.
    """
    return look_at(_contents(records, options.tfrecord_image_feature)[0], options.channels)


def _contents(records, image):
    """The images of the first records, by their indices, as functions; and the messages of those without."""
    parse, contents, errors = parser(image, None), {}, []
    for index, record in enumerate(records.take(SIZE)):
        try:
            encoded = parse(record)["image"].numpy()
        except tf.errors.InvalidArgumentError as error:
            errors.append(error.message)
        else:
            contents[index] = lambda size, encoded=encoded: encoded[:size]
    return contents, errors


def check_label(records, label, name):
    """Refuses records whose labels are no whole numbers, or have another name than the one that was given.

    Records without the feature `LABEL`, the default, are taken as unlabelled, with a warning.

    Args:
        records: `tf.data.Dataset` of serialised examples.
        label: str, name of the feature with the label.
        name: str, name of the source, for messages.

    Raises:
        ValueError: if the first of the records with this feature has something else in it than one int64; or if none
            of the first ones has it, and it is not the default.
    """
    found = [features for record in records.take(TRIES) if (features := _features_of(record))]
    having = next((features for features in found if label in features), None)
    if not found or (having and _kind(having[label]) == NUMBER):
        return
    listed = _listed(having or found[0])
    numbers = [name for name, values in (having or found[0]).items() if name != label and _kind(values) == NUMBER]
    likely = [name for name in numbers if "label" in name or "class" in name] or numbers
    way_out = f"Give --tfrecord_label_feature={likely[0]}." if likely else "Write them so, or rename the names' file."
    if having is None and label == LABEL:
        logging.warning("%s: the first records have no `%s`, so no label, but %s. %s", name, label, listed, way_out)
        return
    raise UserError(
        f"The label of a record must be one int64 in the feature `{label}`, the --tfrecord_label_feature. "
        f"Received: {name}, with a first record that has {listed}. {way_out}"
    )


def _features_of(record):
    """The features of a serialised example, a dict of names to their lists of values; empty if it is none."""
    try:
        return dict(sorted(tf.train.Example.FromString(record.numpy()).features.feature.items()))
    except DecodeError:
        return {}


def _kind(values):
    """The kind and the number of values of a feature, such as `bytes[1]`."""
    field = values.WhichOneof("kind")
    return f"{KINDS[field]}[{len(getattr(values, field).value)}]" if field else "nothing"


def _listed(features):
    texts = [f"`{name}` {_kind(values)}" for name, values in features.items()]
    more = [f"{len(texts) - LISTED} more"] if len(texts) > LISTED else []
    return ", ".join(texts[:LISTED] + more)


def _is_image(values):
    """Whether a feature has one value, and that begins as an image file does."""
    if _kind(values) != "bytes[1]":
        return False
    return format_of(values.bytes_list.value[0]) is not None
