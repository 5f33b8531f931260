"""A folder of image files as a source."""

import concurrent.futures
import functools
import itertools
import os
import pathlib

import tensorflow as tf
from absl import logging

from keras_moco.data.arrays import permutation
from keras_moco.data.decode import decoder_of
from keras_moco.data.folder_files import RULE as RULE_FOLDERS
from keras_moco.data.folder_files import walk
from keras_moco.data.identity import digest_of
from keras_moco.data.sample import decoding_of, places
from keras_moco.data.source import Source, check_split
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats import RULE, SUFFIXES, what_is_wrong
from keras_moco.storage.paths import check_folder, instead_of_file

PART = 4096  # files whose sizes one thread asks for at a time
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val", "validation")}


def open_folder(path, options):
    """Opens the image files below a folder.

    Sub-folders are classes, labelled in the sorted order of their names; images below them are found at any
    depth. A folder that holds its images directly is unlabelled. If `<path>/train` exists, the splits are
    `<path>/train` and `<path>/test` (or `val`, or `validation`); otherwise everything is the `train` split.
    Files and folders whose names begin with a dot are ignored.

    Args:
        path: str, the folder.
        options: `Options`. With `cache` all files are read into memory, encoded, when the folder is opened.

    Returns:
        A `Source` of images of any size, recognised by content, not by name. The first readable file decides how many
        channels all have, unless `channels` is given. Links are followed, but a folder that is also found elsewhere is
        read once;
        pipes, sockets and devices are skipped. The log says so.

    Raises:
        ValueError: There is no such folder or split, it or a folder in it may not be read, it holds no images, or
            images are beside class sub-folders.
    """
    name, split, cache = f"folder:{path}", options.split, options.cache
    check_split(name, split)
    root = _split_folder(pathlib.Path(path).expanduser(), name, split)
    found = walk(root)
    class_names = sorted(os.path.basename(folder) for folder in found.folders if os.path.dirname(folder) == str(root))
    files = _labelled(found, root, class_names)
    _note(found, name)
    paths = [file for file, _ in files]
    decoding = _decoding(paths, name, options)
    with tf.device("CPU"):
        labels = tf.constant([label for _, label in files])
        images = tf.constant(_contents(paths) if cache else [os.fsencode(path) for path in paths])

    def read(seed):
        order = tf.data.Dataset.from_tensor_slices(permutation(len(files), seed))
        return order.map(lambda index: {"image": images[index], "label": labels[index], "index": index})

    return Source(
        name=name,
        split=split,
        num_examples=len(files),
        image_shape=(None, None, decoding.channels),
        class_names=tuple(class_names) or None,
        read=read,
        open=lambda image: decoder_of(image if cache else tf.io.read_file(image), decoding),
        decoding=decoding,
        bad=options.judge(len(files), lambda index: describe_unreadable(paths[index])),
        files=tuple(paths),
        identity=lambda: _identity(root, files),
    )


def _split_folder(root, name, split):
    if (kind := instead_of_file(root)) != "a folder":
        raise UserError(
            f"`path` of folder:<path> must be an existing folder. Received: {name!r}, {kind or 'a file'}. Correct it."
        )
    check_folder(root, RULE_FOLDERS)
    if not (root / "train").is_dir():
        if split == "train":
            return root
        raise UserError(
            "A folder must have the sub-folders `train` and `test` (or `val`) to be opened as "
            f"split={split!r}. "
            f"Received: {name!r}, without `train`, whose images are the `train` split. Give evaluate.py --split=train "
            "to look at these; or move some of each class into `test`, the others into `train`, to measure by labels."
        )
    for folder in SPLIT_FOLDERS[split]:
        if (root / folder).is_dir():
            return root / folder
    raise UserError(
        f"A folder must have one of the sub-folders {', '.join(SPLIT_FOLDERS[split])} to be opened as "
        f"split={split!r}. "
        f"Received: {name!r}, with `train` only. Add one, or open the `train` split (--split=train)."
    )


def _is_image(name):
    return name.lower().endswith(SUFFIXES)


def _labelled(found, root, class_names):
    """The image files and their labels, in order."""
    start = len(os.path.join(root, ""))
    files = [(file, -1) for file in found.files if file.find(os.sep, start) < 0 and _is_image(file)]
    if files and class_names:
        raise UserError(
            "A folder of images must hold either class sub-folders or images, not both. "
            f"Received: {root} with {len(files)} images beside {len(class_names)} sub-folders. Move the "
            "images."
        )
    labels = {name: label for label, name in enumerate(class_names)}
    for file in found.files if class_names else ():
        if _is_image(file) and (class_name := file[start:].partition(os.sep)[0]) in labels:
            files.append((file, labels[class_name]))
    files.sort(key=lambda each: (each[1], each[0]))
    for label in sorted({*labels.values()} - {label for _, label in files}):
        raise UserError(
            f"Every class sub-folder must hold images ({' '.join(SUFFIXES)}). Received: "
            f"{root / class_names[label]}, which holds none{_through_links(found)}. Delete it, or fill it."
        )
    if not files:
        raise UserError(
            f"A folder of images must hold images ({' '.join(SUFFIXES)}). Received: {root}, with none"
            f"{_through_links(found)}. Add some."
        )
    return files


def _through_links(found):
    return f" (its folders are also found elsewhere, without the link {found.again[0]})" if found.again else ""


def _note(found, name):
    """Logs what is not read."""
    unread = [file for file in found.files if not _is_image(file)]
    for paths, reason in (
        (unread, f"files that do not end in {' '.join(SUFFIXES)} are not read"),
        (found.others, "pipes, sockets or devices, which are no files, are not read"),
        (found.again, "links lead to folders that are read already, and are not read again"),
    ):
        if paths:
            logging.warning("%s: %d %s, the first one: %s", one_line(name), len(paths), reason, one_line(paths[0]))


def _identity(root, files):
    """The digests by which the images are recognised.

    File contents are not read: that would take as long as an epoch. Each size is a call to the file system.
    """

    def size(path):
        try:
            return os.path.getsize(path)
        except OSError:
            return -1

    paths, prefix = [path for path, _ in files], len(os.path.join(root, ""))
    parts = [paths[first : first + PART] for first in range(0, len(paths), PART)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sizes = itertools.chain(*pool.map(lambda part: list(map(size, part)), parts))
    return {
        "names of the files": digest_of(path[prefix:] for path in paths),
        "classes": digest_of(label for _, label in files),
        "sizes of the files": digest_of(sizes),
    }


def _contents(paths):
    """The bytes of files, read in parallel; of an unreadable one none, so that it fails later as a damaged one does."""

    def content(path):
        try:
            return pathlib.Path(path).read_bytes()
        except OSError:
            return b""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(content, paths))


def _decoding(paths, name, options):
    """How the files are decoded, from a sample of them."""
    chosen = [paths[place] for place in places(len(paths))]
    decoding = decoding_of([functools.partial(_content, path) for path in chosen], name, options)
    if decoding is None:
        raise UserError(
            f"{RULE} Received: {describe_unreadable(paths[0])}, and none of {len(chosen)} files that were tried can be "
            "read. Repair or delete them."
        )
    return decoding


def _content(path, size=None):
    with open(path, "rb") as file:
        return file.read(size)


def describe_unreadable(path):
    """A text that names a file that cannot be read, and says why."""
    try:
        return f"{path} ({what_is_wrong(pathlib.Path(path).read_bytes())})"
    except OSError as error:
        return f"{path} ({error.strerror})"
