"""TFRecord files of encoded images as a source."""

import functools
import os

import tensorflow as tf
from absl import logging

from keras_moco.data.attempt import attempt
from keras_moco.data.decode import Files
from keras_moco.data.identity import digest_of
from keras_moco.data.labels import UNLABELLED, check_first_labels, class_of
from keras_moco.data.record_names import describe_record, record_names
from keras_moco.data.shuffle_buffer import ShuffleBuffer, shuffled_stream
from keras_moco.data.source import Source, check_split
from keras_moco.data.split_files import class_names_beside, files_of_other_splits, find_files
from keras_moco.data.tfrecord_features import (
    LABEL,
    check_label,
    decoding_of_records,
    label_spec,
    parser,
    sample_of_records,
)
from keras_moco.data.tfrecord_files import RecordFiles, count_records
from keras_moco.errors import UserError

FILES_ARE = "TFRecords"
CLASS_NAMES = ("labels.txt",)
BLOCK = 256  # records whose labels are read together


def open_tfrecord(pattern, options):
    """Opens TFRecord files.

    Each record is a `tf.train.Example` with the feature `image/encoded` (bytes: an image file) and, for labelled
    images, `image/class/label` (int64, -1 for none); `options` may name others. Labels are used if there is a file
    `labels.txt` beside the records, with one class name a line. They count from 0, or from 1 if one is equal to the
    number of names and none is 0, as TensorFlow's scripts write them for ImageNet. Names in `image/filename` are shown
    and saved by evaluations. Examples should be shuffled over the files when they are written. Files may be compressed
    by gzip or zlib, which is recognised by their content; to count their records, they are decompressed once when they
    are opened.

    Args:
        pattern: str, a glob, in which `{split}` stands for `train` and for `test`, `validation` or `val`. Without it,
            all files are the split `train`.
        options: `Options`.

    Returns:
        A `Source` of images of any size. The first readable image decides how many channels all have, unless
        `channels` is given.

    Raises:
        ValueError: if there are no such files, they are no TFRecords of images, or a label of the first 2,000 records
            is out of range; while they are read, if a later one is.
    """
    name, split = f"tfrecord:{pattern}", options.split
    check_split(name, split)
    files = find_files(pattern, split, "tfrecord", FILES_ARE)
    counted = count_records(files)
    shards = RecordFiles(files, counted.records)
    num_examples = sum(shards.counts)
    if not num_examples:
        raise UserError(
            f"TFRecord files must hold records. Received: {name}, {len(files)} files without any. Write them again."
        )
    buffer = ShuffleBuffer.of(num_examples, counted.num_bytes, options.shuffle_buffer_mib)
    class_names, label = class_names_beside(files, CLASS_NAMES, FILES_ARE), options.tfrecord_label_feature
    if label != LABEL and not class_names:
        logging.warning("%s: no names of classes in labels.txt beside the records, so `%s` is not read", name, label)
    parse = parser(options.tfrecord_image_feature, label if class_names else None)

    def entries(index, parsed):
        label = class_of(parsed["label"], index, first, len(class_names)) if class_names else UNLABELLED
        return {"image": parsed["image"], "label": label, "index": index}

    def read(seed):
        return shuffled_stream(shards.records(parse).enumerate().map(entries), buffer, seed, options.cache)

    def describe(index):
        what = describe_record(shards, index, options.tfrecord_image_feature, decoding)
        return f"record {index} of {name} ({split}; {what})"

    decoding = decoding_of_records(shards.records(), name, options)
    first = _first_label(shards, class_names, label, pattern, name) if class_names else 0
    return Source(
        name=name,
        split=split,
        num_examples=num_examples,
        image_shape=(None, None, decoding.channels),
        class_names=class_names,
        read=read,
        encoded=Files(decoding),
        bad=options.judge(num_examples, describe),
        names=functools.partial(record_names, shards),
        place_of=shards.place_of,
        buffer=buffer,
        identity=lambda: _identity(files, class_names),
        sample=lambda: sample_of_records(shards.records(), options),
    )


def _identity(files, class_names):
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return {
        "names of the files": digest_of(os.path.relpath(file, root) for file in files),
        "sizes of the files": digest_of(os.path.getsize(file) for file in files),
        "names of the classes": digest_of(class_names or ()),
    }


def _first_label(shards, class_names, label, pattern, name):
    """The number from which labels count; if this split does not decide it, the others may."""
    check_label(shards.records(), label, name)

    def parse(batch):
        return tf.io.parse_example(batch, {label: label_spec()})[label]

    def known(batch):
        complete, found = attempt(parse, batch)
        return tf.cond(complete, lambda: found, lambda: tf.fill(tf.shape(batch), tf.constant(UNLABELLED, tf.int64)))

    def labels(shards):
        return shards.records().batch(BLOCK).map(known).as_numpy_iterator()

    others = files_of_other_splits(pattern, shards.paths)
    others = (other for other in others if class_names_beside(other, CLASS_NAMES, FILES_ARE) == class_names)
    others = (labels(RecordFiles(other, count_records(other).records)) for other in others)
    return check_first_labels(labels(shards), class_names, name, others)
