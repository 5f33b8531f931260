"""The files of a TensorFlow Datasets set: whether they are complete, and their records."""

import os
import pathlib
import re

import tensorflow as tf
import tensorflow_datasets as tfds

from keras_moco.data.identity import digest_of
from keras_moco.data.tfrecord_files import RecordFiles
from keras_moco.errors import UserError
from keras_moco.storage.paths import access_error, check_file, check_folder, instead_of_file

RULE = "A prepared TFDS set must be complete."
FOLDERS = "The folders of TFDS sets must be readable."
DESCRIPTIONS = ("dataset_info.json", "features.json")
BLOCK = 16  # records of a file that TFDS reads before the next file's turn
FILES_AT_ONCE = 16  # TFDS's number for sets without a promised order


def check_readable(where, name):
    """Raises `ValueError` where TFDS would wait for ever, or consider a set absent.

    That is if the folder of all sets, or of this set, is not readable, or if a description is a pipe, not a file.
    """
    for folder in (pathlib.Path(where), _folder_of(where, name)):
        check_folder(folder, FOLDERS)
    for folder in _versions(where, name):
        for path in (folder / file for file in DESCRIPTIONS):
            if path.exists():
                check_file(path, RULE, f"Delete {folder}, and prepare the set again.")


def refuse_half_written(where, name, error):
    """Raises `ValueError` if there are files of a set that TFDS cannot open, with the reason."""
    for folder in _versions(where, name):
        if not any(folder.iterdir()):
            continue
        reason = (
            f"of which TFDS says: {' '.join(str(error).split())[:200].rstrip('.')}"
            if error
            else "which TFDS cannot open"
        )
        for file in DESCRIPTIONS:
            try:
                with open(folder / file, "rb"):
                    pass
            except PermissionError as denied:
                raise access_error(folder / file, RULE, denied) from denied
            except OSError as absent:
                reason = f"where {file} cannot be opened: {absent.strerror}"
                break
        raise UserError(
            f"{RULE} Received: tfds:{name} in {folder}, {reason}. Delete that folder, and prepare the set again."
        ) from error


def check_split(builder, name, split):
    """Raises `ValueError` if a file of a split is missing, or their total size is too small."""
    info = builder.info.splits[split]
    again = f"Delete {builder.data_dir}, and prepare the set again."
    for path in info.filepaths:
        if found := instead_of_file(path):
            raise UserError(f"{RULE} Received: {path} of tfds:{name}, {found}. {again}")
    size = sum(os.path.getsize(path) for path in info.filepaths)
    if size < info.num_bytes:  # 0 in old sets, where it is unknown
        raise UserError(
            f"{RULE} Received: tfds:{name}, whose split {split} holds {size} bytes where {DESCRIPTIONS[0]} says "
            f"{int(info.num_bytes)}, so a file has been cut off. {again}"
        )


def record_files(builder, split):
    """The `RecordFiles` of a split, in the order of TFDS; `None` for another format than TFRecord."""
    if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
        return None
    # A set that is not shuffled promises its own order, which reading several files in parallel would break.
    at_once = 1 if builder.info.disable_shuffling else FILES_AT_ONCE
    parts = builder.info.splits[split].file_instructions
    return RecordFiles([part.filename for part in parts], [part.take for part in parts], at_once, BLOCK)


def encoded_examples(builder, split, records):
    """The examples of a split, a `tf.data.Dataset` of dicts: `"image"`, encoded, and `"label"`, int64, if there is one.

    Args:
        builder: the set's `tfds.core.DatasetBuilder`.
        split: str, the name of a split.
        records: the result of `record_files`. The image of a damaged record is empty, and its label is -1.
    """
    decoders = {"image": tfds.decode.SkipDecoding()}
    if records is None:
        config = tfds.ReadConfig(try_autocache=False, add_tfds_id=False)
        if builder.info.disable_shuffling:
            config.interleave_cycle_length = 1
        return builder.as_dataset(split=split, shuffle_files=False, decoders=decoders, read_config=config).map(_needed)

    def parse(record):
        return _needed(builder.info.features.deserialize_example(record, decoders=decoders))

    spec = tf.data.Dataset.from_tensors("").map(parse).element_spec

    def parse_whole(record):
        empty = {key: tf.constant("" if key == "image" else -1, part.dtype) for key, part in spec.items()}
        return tf.cond(record == "", lambda: empty, lambda: parse(record))

    return records.records(parse_whole)


def identity(builder, split):
    """The digests by which the images of a split are recognised."""
    info = builder.info.splits[split]
    return {
        "name and version of the set": digest_of([builder.info.full_name]),
        "split": digest_of([split]),
        "numbers of images in its files": digest_of(info.shard_lengths),
        "sizes of its files": digest_of(os.path.getsize(path) for path in info.filepaths),
    }


def _needed(example):
    return {key: example[key] for key in ("image", "label") if key in example}


def _versions(where, name):
    """The folders of the versions of a set, sorted."""
    base = _folder_of(where, name)
    folders = sorted([*base.glob("*.*.*"), *base.glob("*/*.*.*")])
    return [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name) and folder.is_dir()]


def _folder_of(where, name):
    return pathlib.Path(where, *name.partition(":")[0].split("/"))
