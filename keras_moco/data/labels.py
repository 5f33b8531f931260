"""Labels in files: whether they count from 0 or 1, and that none is out of range."""

import numpy as np
import tensorflow as tf
from absl import logging

from keras_moco.checks.graph import require
from keras_moco.errors import UserError

UNLABELLED = -1
CHECKED = 2_000  # records whose labels are checked when a source is opened
DECIDING = 10_000  # records, or 20 for each class, that are read if the first ones do not decide


def check_first_labels(labels, class_names, name, others=()):
    """The number from which labels count, 0 or 1, after a check of the first ones.

    TensorFlow's own scripts count ImageNet's classes from 1, since 0 is the background: then one label is equal to the
    number of names, and none is 0.

    Args:
        labels: iterable of int arrays, the labels of the records in their order.
        class_names: the names of the classes.
        name: str, name of the source, for messages.
        others: iterable of such iterables, for further splits with the same classes, which decide if these do not.

    Returns:
        0 or 1.

    Raises:
        ValueError: if one of these labels is out of range.
    """
    count = len(class_names)
    found = _first_ones(labels, count)
    first = _decided(found, class_names)
    for labels in others if first is None else ():
        first = _decided(_first_ones(labels, count), class_names)
        if first is not None:
            break
    if first is None and (found >= 0).any():
        logging.warning(
            "%s: none of the labels of the first %d records is 0 or %d, so they are taken to count from 0.",
            *(name, len(found), count),
        )
    first = first or 0
    wrong = np.flatnonzero((found != UNLABELLED) & ((found < first) | (found >= first + count)))
    if len(wrong):
        raise UserError(
            f"{_rule(first, count)} Received: label {found[wrong[0]]} of record {wrong[0]} of {name}; the largest of "
            f"the first {len(found)} labels is {found.max()}, and there are {count} names. {WAY_OUT}"
        )
    return first


def class_of(label, index, first, count):
    """The class of a record's label.

    Args:
        label: scalar int64 tensor, -1 for no label.
        index: scalar int64 tensor, the number of the record.
        first: int, the number from which labels count.
        count: int, the number of classes.

    Returns:
        Scalar int32 tensor, from 0, or -1 for no label. A label out of range fails the pipeline, see
        `keras_moco.checks.graph.plain_failures`.
    """
    known = (label == UNLABELLED) | ((label >= first) & (label < first + count))
    check = require(known, _rule(first, count), ("label", label, "of record", index), WAY_OUT)
    with tf.control_dependencies([check] if check is not None else []):
        return tf.cast(tf.where(label == UNLABELLED, label, label - first), tf.int32)


WAY_OUT = (
    "Write it again, or correct the names of the classes; if labels count from 1, a first name `background` keeps them "
    "as they are."
)


def _rule(first, count):
    return f"Labels must be from {first} to {first + count - 1}, as there are {count} classes, or -1 for none."


def _first_ones(labels, count):
    """The labels of the first records, as many as it takes to decide."""
    found, seen, limit = [], 0, max(DECIDING, 20 * count)
    decided = False
    for part in labels:
        found.append(np.asarray(part))
        seen += len(found[-1])
        decided = decided or bool(np.isin(found[-1], (0, count)).any())
        if seen >= (CHECKED if decided else limit):
            break
    return np.concatenate(found) if found else np.zeros(0, "int64")


def _decided(labels, class_names):
    """The number from which labels count; `None` if these labels do not decide it."""
    if (labels == 0).any() or "background" in class_names[0].lower():
        return 0
    return 1 if (labels == len(class_names)).any() else None
