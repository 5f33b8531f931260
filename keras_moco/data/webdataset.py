"""Tar files of images and their labels, in the format of WebDataset, as a source."""

import concurrent.futures
import json
import os
from typing import NamedTuple

import numpy as np
from absl import logging

from keras_moco.data.archive_files import archive_source, read_at
from keras_moco.data.arrays import MOST_CLASSES
from keras_moco.data.identity import digest_of
from keras_moco.data.labels import UNLABELLED
from keras_moco.data.source import check_split
from keras_moco.data.split_files import class_names_beside, find_files
from keras_moco.data.tar_files import tar_members
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.registry import SUFFIXES

FILES_ARE = "WebDataset shards"
CLASS_NAMES = ("labels.txt", "classes.txt")
LABEL_FIELDS = ("label", "cls")  # of a file `json`
AT_ONCE = 16  # archives that are listed, and open, at a time


class Shard(NamedTuple):
    """The samples of an archive that have an image.

    Attributes:
        names: list of str, the image's name in the archive.
        places: int64 `(n, 2)`, where the image begins, and its size in bytes.
        labels: int64 `(n,)`, -1 for none.
        members: int, the number of all files in the archive.
        unread: list of str, names of files that are neither image nor label.
        imageless: list of str, names of labels of samples that have no image.
    """

    names: list
    places: np.ndarray
    labels: np.ndarray
    members: int
    unread: list
    imageless: list


def open_webdataset(pattern, options):
    """Opens tar files in the format of WebDataset.

    The files of an archive whose names are equal up to the first dot after the last slash are a sample. What follows
    that dot says what each one is: the image (`jpg`, `png`, ... in any case), or the label, which is a whole number in
    a text file `cls`, or in the field `label` or `cls` of a file `json`. Others, such as captions, are ignored. Labels
    count from 0. The names of classes are in `labels.txt` or `classes.txt` beside the archives, one a line; without
    them, classes are named by their numbers, from 0 to the largest label.

    The headers of the archives are read once, when they are opened; nothing is written. Then each image is read by
    itself, so that images are shuffled completely.

    Args:
        pattern: str, a glob, in which `{split}` stands for `train` and for `test`, `validation` or `val`. Without it,
            all files are the split `train`.
        options: `Options`. With `cache` all images are read into memory, encoded, when the archives are opened.

    Returns:
        A `Source` of images of any size, in the order of the archives' names and of the images in them. The first
        readable image decides how many channels all have.

    Raises:
        ValueError: if there are no such files, one is no complete and uncompressed tar file, a sample has two images, a
            label is no whole number or out of range, or there is no image.
    """
    name = f"webdataset:{pattern}"
    check_split(name, options.split)
    paths = find_files(pattern, options.split, "webdataset", FILES_ARE)
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        shards = list(pool.map(_listed, paths))
    labels = np.concatenate([shard.labels for shard in shards])
    places = np.concatenate([shard.places for shard in shards])
    archive = np.repeat(np.arange(len(paths)), [len(shard.names) for shard in shards])
    files = [f"{path}/{image}" for path, shard in zip(paths, shards, strict=True) for image in shard.names]
    if not files:
        raise UserError(
            f"WebDataset shards must hold images ({' '.join(SUFFIXES)}). "
            f"Received: {name}, {len(paths)} files without any. Correct the pattern."
        )
    class_names = _class_names(paths, labels, files)
    _note(name, paths, shards, labels)

    def contents(index):
        offset, size = map(int, places[index])
        return read_at(paths[archive[index]], offset, size)

    def identity():
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
        return {
            "names of the files": digest_of(os.path.relpath(path, root) for path in paths),
            "sizes of the files": digest_of(os.path.getsize(path) for path in paths),
            "numbers of files in them": digest_of(shard.members for shard in shards),
            "sizes of the images": digest_of(places[:, 1].tolist()),  # tar files are filled up to 10 KiB
            "labels": digest_of(labels.tolist()),
            "names of the classes": digest_of(class_names or ()),
        }

    return archive_source(name, options, contents, files, labels, class_names, identity)


def _number_in_text(content):
    return int(content.decode())


def _number_in_json(content):
    fields = json.loads(content)
    numbers = (fields.get(name) for name in LABEL_FIELDS) if isinstance(fields, dict) else ()
    return next((number for number in numbers if type(number) is int), UNLABELLED)


LABELS = {"cls": _number_in_text, "json": _number_in_json}  # by suffix; the first that there is decides


def _listed(path):
    """The `Shard` of an archive."""
    samples, unread, members = {}, [], tar_members(path)
    for member in members:
        folder, slash, file = member.name.rpartition("/")
        stem, _, suffix = file.partition(".")
        kind = "image" if f".{suffix.lower()}" in SUFFIXES else suffix.lower()
        if not stem or kind not in ("image", *LABELS):
            unread.append(member.name)
            continue
        sample = samples.setdefault(folder + slash + stem, {})
        if kind in sample:
            raise UserError(
                "A sample of a WebDataset must have one image, and one `cls` and `json` at most. "
                f"Received: {path} with {sample[kind].name} and {member.name}. Remove one, or rename its sample."
            )
        sample[kind] = member
    complete = [sample for sample in samples.values() if "image" in sample]
    with open(path, "rb") as file:
        labels = [_label(path, file, sample) for sample in complete]
    return Shard(
        names=[sample["image"].name for sample in complete],
        places=np.array([sample["image"][1:] for sample in complete], "int64").reshape(-1, 2),
        labels=np.array(labels, "int64"),
        members=len(members),
        unread=unread,
        imageless=[next(iter(sample.values())).name for sample in samples.values() if "image" not in sample],
    )


def _label(path, file, sample):
    """The label of a sample, -1 if it has none."""
    for suffix, number_in in LABELS.items():
        if suffix in sample:
            name, offset, size = sample[suffix]
            content = os.pread(file.fileno(), size, offset)
            try:
                label = number_in(content)
            except ValueError:  # also of text that is no UTF-8, and no JSON
                label = None
            if label is None or not (label == UNLABELLED or 0 <= label < MOST_CLASSES):
                raise UserError(
                    f"A label in a WebDataset must be a whole number from 0 to {MOST_CLASSES - 1}, or -1 for none: the "
                    f"text of `cls`, or the field `label` or `cls` of `json`. Received: {content[:40]!r} in {name} of "
                    f"{path}. Write it again, or remove it."
                )
            return label
    return UNLABELLED


def _class_names(paths, labels, files):
    """The names of the classes, a tuple; `None` if there are no labels."""
    largest = int(labels.max(initial=UNLABELLED))
    names = class_names_beside(paths, CLASS_NAMES, FILES_ARE)
    if largest == UNLABELLED:
        return None
    names = names or tuple(map(str, range(largest + 1)))
    if largest >= len(names):
        raise UserError(
            f"Labels must be from 0 to {len(names) - 1}, as there are {len(names)} names of classes beside the shards. "
            f"Received: label {largest} of {files[int(labels.argmax())]}. Add the other names, or rename their file to "
            "go without names."
        )
    return names


def _note(name, paths, shards, labels):
    """Logs what is not read, and what has no label."""
    images = [image for shard in shards for image in shard.names]
    unlabelled = [image for image, label in zip(images, labels, strict=True) if label == UNLABELLED]
    for found, reason in (
        ([each for shard in shards for each in shard.unread], "files are neither image nor label, and are not read"),
        ([each for shard in shards for each in shard.imageless], "samples have no image, and are not read"),
        ([path for path, shard in zip(paths, shards, strict=True) if not shard.names], "shards have no image"),
        (unlabelled if len(unlabelled) < len(images) else [], f"of {len(images)} images have no label"),
    ):
        if found:
            logging.warning("%s: %d %s, the first one: %s", one_line(name), len(found), reason, one_line(found[0]))
