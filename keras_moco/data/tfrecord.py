"""TFRecord files of encoded images as a source."""

import functools
import glob
import itertools
import os
import pathlib

import tensorflow as tf

from keras_moco.data.decode import decoder_of
from keras_moco.data.identity import digest_of
from keras_moco.data.labels import UNLABELLED, check_first_labels, class_of
from keras_moco.data.record_names import record_names
from keras_moco.data.sample import SIZE, decoding_of
from keras_moco.data.shuffle_buffer import ShuffleBuffer, shuffled_stream
from keras_moco.data.source import SPLITS, Source, attempt, check_split
from keras_moco.data.tfrecord_files import RecordFiles, count_records
from keras_moco.errors import UserError
from keras_moco.image_formats.registry import NAMES
from keras_moco.storage.paths import check_file, check_folder

# Features of the `tf.train.Example` in each record, as in TensorFlow's own ImageNet scripts.
IMAGE = "image/encoded"
LABEL = "image/class/label"
IMAGE_FEATURE = tf.io.FixedLenFeature([], tf.string, default_value="")
LABEL_FEATURE = tf.io.FixedLenFeature([], tf.int64, default_value=UNLABELLED)
CLASS_NAMES = "labels.txt"
SPLIT_WORDS = {"train": ("train",), "test": ("test", "validation", "val")}
BLOCK = 256  # records whose labels are read together


def open_tfrecord(pattern, options):
    """Opens TFRecord files.

    Each record is a `tf.train.Example` with the feature `image/encoded` (bytes: an image file) and, for
    labelled images, `image/class/label` (int64, -1 for none). Labels are used if there is a file `labels.txt` beside
    the records, with one class name a line. They count from 0, or from 1 if one is equal to the number of names and
    none is 0, as TensorFlow's scripts write them for ImageNet. Names in `image/filename` are shown and saved by
    evaluations. Examples should be shuffled over the files when they are
    written.

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
    files = _find(pattern, split, name)
    shards = RecordFiles(files, map(count_records, files))
    num_examples = sum(shards.counts)
    if not num_examples:
        raise UserError(
            f"TFRecord files must hold records. Received: {name}, {len(files)} files without any. Write them again."
        )
    num_bytes = sum(pathlib.Path(file).stat().st_size for file in files)
    buffer = ShuffleBuffer.of(num_examples, num_bytes, options.shuffle_buffer_mib)
    class_names = _class_names(files)
    features = {IMAGE: IMAGE_FEATURE, **({LABEL: LABEL_FEATURE} if class_names else {})}

    def entries(index, parsed):
        label = class_of(parsed[LABEL], index, first, len(class_names)) if class_names else -1
        return {"image": parsed[IMAGE], "label": label, "index": index}

    def parse(record):
        return tf.io.parse_single_example(record, features)

    def read(seed):
        return shuffled_stream(shards.records(parse).enumerate().map(entries), buffer, seed, options.cache)

    def describe(index):
        damage = shards.damage_of(index)
        return f"record {index} of {name} ({split}" + (f"; {damage})" if damage else ")")

    decoding = _decoding(shards.records(), name, options)
    first = _first_label(files, class_names, pattern, name) if class_names else 0
    return Source(
        name=name,
        split=split,
        num_examples=num_examples,
        image_shape=(None, None, decoding.channels),
        class_names=class_names,
        read=read,
        open=lambda image: decoder_of(image, decoding),
        decoding=decoding,
        bad=options.judge(num_examples, describe),
        names=functools.partial(record_names, shards),
        buffer=buffer,
        identity=lambda: _identity(files, class_names),
    )


def _identity(files, class_names):
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return {
        "names of the files": digest_of(os.path.relpath(file, root) for file in files),
        "sizes of the files": digest_of(os.path.getsize(file) for file in files),
        "names of the classes": digest_of(class_names or ()),
    }


def _class_names(files):
    """The class names beside the records, a tuple; `None` if there are none."""
    path = pathlib.Path(files[0]).parent / CLASS_NAMES
    if not os.path.lexists(path):
        return None
    rule = "The names of classes beside TFRecords must be a text file in UTF-8, one name a line."
    check_file(path, rule, "Write it again, or rename it to go without labels.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{rule} Received: {path}, {error}. Write it again, or rename it to go without labels."
        ) from error
    return tuple(line.strip() for line in lines if line.strip()) or None


def _first_label(files, class_names, pattern, name):
    """The number from which labels count; if this split does not decide it, the others may."""

    def parse(batch):
        return tf.io.parse_example(batch, {LABEL: LABEL_FEATURE})[LABEL]

    def known(batch):
        complete, found = attempt(parse, batch)
        return tf.cond(complete, lambda: found, lambda: tf.fill(tf.shape(batch), tf.constant(UNLABELLED, tf.int64)))

    def labels(files):
        records = RecordFiles(files, map(count_records, files)).records().batch(BLOCK)
        return records.map(known).as_numpy_iterator()

    words = itertools.chain(*SPLIT_WORDS.values()) if "{split}" in pattern else ()
    others = (other for word in words if (other := _matching(pattern, word)) and other != files)
    others = (other for other in others if _class_names(other) == class_names)
    return check_first_labels(labels(files), class_names, name, map(labels, others))


def _matching(pattern, word):
    """The files of the split of that word, sorted."""
    return sorted(glob.glob(str(pathlib.Path(pattern.replace("{split}", word)).expanduser())))


def _folder_of(pattern):
    """The folder that a pattern begins with, before any `*`."""
    folder = pathlib.Path(pattern).expanduser().parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder


def _find(pattern, split, name):
    if "{split}" not in pattern and split != "train":
        raise UserError(
            "A pattern must have `{split}` in it to be opened as "
            f"split={split!r}. Received: {name!r}, whose images are the `train` split. Give --split=train."
        )
    for word in SPLIT_WORDS[split]:
        if files := _matching(pattern, word):
            for file in files:
                check_file(file, "TFRecords must be files.", "Correct the pattern, or move it away.")
            return files
        check_folder(_folder_of(pattern.replace("{split}", word)), "The folder of TFRecords must be readable.")
    raise UserError(
        f"A source of TFRecords must name existing files. Received: {name!r}, split={split!r}, which matches none. "
        f"Correct it, for example to tfrecord:/data/images/{{split}}-*. (Splits are {', '.join(SPLITS)}.)"
    )


def _decoding(records, name, options):
    """How the images are decoded, from those of the first records."""
    reason = f"without a readable image in `{IMAGE}` of its first records"
    sample = []
    for record in records.take(SIZE):
        try:
            encoded = tf.io.parse_single_example(record, {IMAGE: IMAGE_FEATURE})[IMAGE].numpy()
            sample.append(lambda size, encoded=encoded: encoded[:size])
        except tf.errors.InvalidArgumentError as error:
            reason = f"whose first records cannot be read: {error.message.splitlines()[0][:200]}"
    decoding = decoding_of(sample, name, options)
    if decoding is None:
        raise UserError(
            f"Records must be `tf.train.Example` with a {NAMES} in the feature `{IMAGE}`. "
            f"Received: {name}, {reason}. Write them so."
        )
    return decoding
