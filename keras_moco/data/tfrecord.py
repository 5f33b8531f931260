"""TFRecord files of encoded images as a source."""

import glob
import pathlib
import struct

import tensorflow as tf

from keras_moco.data.pictures import Encoded
from keras_moco.data.sources import SPLITS, Source
from keras_moco.data.streams import shuffled_stream
from keras_moco.errors import UserError

# Of the `tf.train.Example` in each record, as in TensorFlow's own ImageNet scripts.
IMAGE = "image/encoded"
LABEL = "image/class/label"
CLASS_NAMES = "labels.txt"
SPLIT_WORDS = {"train": ("train",), "test": ("test", "validation", "val")}
FILES_AT_ONCE = 16


def open_tfrecord(pattern, split, cache, judge):
    """Opens TFRecord files.

    Each record is a `tf.train.Example` with the feature `image/encoded` (bytes: a JPEG, PNG, BMP or GIF) and, for
    labelled images, `image/class/label` (int64, from 0). Labels are used where a file `labels.txt` lies beside the
    records, with one class name a line. Examples should be shuffled over the files when they are written.

    Args:
        pattern: str, a glob, in which `{split}` stands for `train` and for `test`, `validation` or `val`. Without it,
            all files are the split `train`.
        split: str. `"train"` or `"test"`.
        cache: bool, whether encoded images stay in memory.
        judge: function of the number of images and of what describes one, to a `BadImages`.

    Returns:
        A `Source` of images of any size. The first readable image decides whether all have 1 channel or 3.

    Raises:
        ValueError: if there are no such files, or they are no TFRecords of images.
    """
    name = f"tfrecord:{pattern}"
    files = _find(pattern, split, name)
    num_examples = sum(map(_count, files))
    if not num_examples:
        raise UserError(
            f"TFRecord files must hold records. Received: {name}, {len(files)} files without any. Write them again."
        )
    names_file = pathlib.Path(files[0]).parent / CLASS_NAMES
    class_names = tuple(names_file.read_text(encoding="utf-8").split("\n")) if names_file.is_file() else None
    class_names = tuple(line.strip() for line in class_names if line.strip()) if class_names else None
    features = {IMAGE: tf.io.FixedLenFeature([], tf.string, default_value="")}
    if class_names:
        features[LABEL] = tf.io.FixedLenFeature([], tf.int64, default_value=-1)

    def entries(index, record):
        parsed = tf.io.parse_single_example(record, features)
        label = tf.cast(parsed[LABEL], tf.int32) if class_names else -1
        return {"image": parsed[IMAGE], "label": label, "index": index}

    def read(seed):
        records = tf.data.Dataset.from_tensor_slices(files).interleave(
            tf.data.TFRecordDataset,
            cycle_length=FILES_AT_ONCE,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        return shuffled_stream(records.enumerate().map(entries), num_examples, seed, cache)

    channels = _channels(read(None), name)
    return Source(
        name=name,
        split=split,
        num_examples=num_examples,
        image_shape=(None, None, channels),
        class_names=class_names,
        read=read,
        open=lambda image: Encoded(image, channels),
        bad=judge(num_examples, lambda index: f"record {index} of {name} ({split})"),
    )


def _find(pattern, split, name):
    if "{split}" not in pattern and split != "train":
        raise UserError(
            "A pattern must have `{split}` in it to be opened as "
            f"split={split!r}. Received: {name!r}. Its images are the `train` split."
        )
    for word in SPLIT_WORDS[split]:
        if files := sorted(glob.glob(str(pathlib.Path(pattern.replace("{split}", word)).expanduser()))):
            return files
    raise UserError(
        f"A source of TFRecords must name existing files. Received: {name!r}, split={split!r}, which matches none. "
        f"Correct it, for example to tfrecord:/data/images/{{split}}-*. (Splits are {', '.join(SPLITS)}.)"
    )


def _count(path):
    """Records of a file, from their lengths alone: 8 bytes of length, 4 of checksum, the data, 4 of checksum."""
    size, count, position = pathlib.Path(path).stat().st_size, 0, 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(8)
            position += 16 + (struct.unpack("<Q", header)[0] if len(header) == 8 else size)
            if position > size:
                raise UserError(
                    f"A TFRecord file must be complete, and not compressed. Received: {path}, which ends inside record "
                    f"{count}. Write it again."
                )
            count += 1
    return count


def _channels(examples, name, tries=100):
    """1 if the first readable image is gray, else 3."""
    try:
        for example in examples.take(tries):
            try:
                image = tf.io.decode_image(example["image"], expand_animations=False)
            except tf.errors.InvalidArgumentError:
                continue
            return 1 if image.shape[-1] < 3 else 3
        reason = f"without a readable image in `{IMAGE}` of its first records"
    except (tf.errors.InvalidArgumentError, tf.errors.DataLossError) as error:
        reason = f"whose first records cannot be read: {error.message.splitlines()[0][:200]}"
    raise UserError(
        f"Records must be `tf.train.Example` with a JPEG, PNG, BMP or GIF in the feature `{IMAGE}`. "
        f"Received: {name}, {reason}. Write them so."
    )
