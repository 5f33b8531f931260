"""Folders of image files as a source, and what sources of image files have in common."""

import collections
import concurrent.futures
import functools
import itertools
import os
import pathlib
from typing import NamedTuple

import tensorflow as tf
from absl import logging

from keras_moco.data.arrays import permutation
from keras_moco.data.decode import Files
from keras_moco.data.folder_files import RULE as RULE_FOLDERS
from keras_moco.data.folder_files import walk
from keras_moco.data.identity import digest_of
from keras_moco.data.sample import SIZE, decoding_of, look_at, places
from keras_moco.data.source import Source, check_split, classes_for_test
from keras_moco.data.splits import divide, split_folders
from keras_moco.errors import UserError, one_line
from keras_moco.image_formats.registry import RULE, SUFFIXES, format_of, what_is_wrong
from keras_moco.storage.paths import check_folder, instead_of_file, user_path

PART = 4096  # files that one thread asks the operating system about at a time
HEAD = 132  # bytes that show the format of a file
ENDINGS = 5  # endings of unread files that the log names


class ImageFile(NamedTuple):
    """A file of a source.

    Attributes:
        path: str.
        label: int, -1 for none.
        name: str, the path in its folder, by which it is recognised when the folder has moved.
    """

    path: str
    label: int
    name: str


def open_folder(path, options):
    """Opens the image files below a folder, or several.

    Sub-folders are classes, labelled in the sorted order of their names; images below them are found at any depth. A
    folder that holds its images directly is unlabelled. If a folder has a sub-folder `train`, the splits are `train`
    and `test`; other names for them are in `keras_moco.data.splits.NAMES`. A split that holds only a folder of its own
    name is that folder. Otherwise everything is the `train` split,
    or, with `test_fraction`, divided by `keras_moco.data.splits.is_held_out`. The images of the test split have the
    labels of the training classes of that name. Files and folders whose names begin with a dot are ignored.

    Args:
        path: str, the folder, or several separated by commas, whose images are one set with the classes of all. A path
            that exists with its commas is one folder.
        options: `Options`. With `cache` all files are read into memory, encoded, when the folder is opened.

    Returns:
        A `Source` of images of any size, recognised by content, not by name. The first readable file decides how many
        channels all have, unless `channels` is given. Links are followed, but a folder that is also found elsewhere is
        read once;
        pipes, sockets and devices are skipped. The log says so.

    Raises:
        ValueError: There is no such folder or split, it or a folder in it may not be read, it holds no images, images
            are beside class sub-folders, classes are beside the splits, a class of the test split is none of training,
            or there are a test split and a `test_fraction`.
    """
    name, split = f"folder:{path}", options.split
    check_split(name, split)
    roots = _roots(path, name)
    splits = [split_folders(root, name, _is_image) for root in roots]
    tests = [parts["test"] for parts in splits if "test" in parts]
    if options.test_fraction and tests:
        raise UserError(
            "`test_fraction` must be 0 for images that have a test split. "
            f"Received: test_fraction={options.test_fraction} for {name!r} with {tests[0]}. Omit --test_fraction."
        )
    if split == "test" and not tests and not options.test_fraction:
        raise _no_test_split(name, any(splits))
    # The classes of training are needed for the test split too, whose labels refer to them.
    folders = train = _Folders.of([parts.get("train", root) for root, parts in zip(roots, splits, strict=True)])
    class_names = train.class_names
    if split == "test" and tests:
        folders = _Folders.of(tests)
        _note_overlap(train.roots, tests, name)
        class_names = classes_for_test(train.class_names, folders.class_names, name)
    _note(folders.found, name)  # first, since it shows why there may be no images
    files = _labelled(folders, class_names)
    if options.test_fraction:
        files = divide(files, split, options.test_fraction, name)
    return source_of_files(name, options, files, class_names)


def source_of_files(name, options, files, class_names):
    """A `Source` of image files.

    Args:
        name: str, the name of the source.
        options: `Options`.
        files: list of `ImageFile`, at least one of which exists.
        class_names: list of str, empty for unlabelled images.
    """
    cache, paths = options.cache, [file.path for file in files]
    sample = functools.partial(_sample, paths, options.channels)
    decoding = _decoding(sample(), paths, name, options)
    with tf.device("CPU"):
        labels = tf.constant([file.label for file in files])
        images = tf.constant(_contents(paths) if cache else [os.fsencode(path) for path in paths])

    def read(seed):
        order = tf.data.Dataset.from_tensor_slices(permutation(len(files), seed))
        return order.map(lambda index: {"image": images[index], "label": labels[index], "index": index})

    return Source(
        name=name,
        split=options.split,
        num_examples=len(files),
        image_shape=(None, None, decoding.channels),
        # Not every name of a folder is UTF-8; those of classes are written into pictures and tables.
        class_names=tuple(os.fsencode(each).decode(errors="backslashreplace") for each in class_names) or None,
        read=read,
        encoded=Files(decoding) if cache else Files(decoding, content=tf.io.read_file, read=_content),
        bad=options.judge(len(files), lambda index: describe_unreadable(paths[index], decoding)),
        files=tuple(paths),
        identity=lambda: _identity(files),
        sample=sample,
    )


class _Folders(NamedTuple):
    """Folders of classes, or of images, and what is below them."""

    roots: list
    found: list
    class_names: list

    @classmethod
    def of(cls, roots):
        found = walk(roots)
        pairs = ((root, folder) for root, each in zip(roots, found, strict=True) for folder in each.folders)
        names = {os.path.basename(folder) for root, folder in pairs if os.path.dirname(folder) == str(root)}
        return cls(roots, found, sorted(names))


def _roots(path, name):
    """The folders of a name, which exist and can be listed: a list of `pathlib.Path`."""
    parts = path.split(",") if "," in path and not os.path.exists(user_path(path)) else [path]
    for part in parts:
        kind = instead_of_file(user_path(part)) if part else "nothing"
        if kind != "a folder":
            which = f"of which {part!r} is: " if len(parts) > 1 else ""
            raise UserError(
                "`path` of folder:<path> must be an existing folder, or several separated by commas. "
                f"Received: {name!r}, {which}{kind or 'a file'}. Correct it."
            )
        check_folder(user_path(part), RULE_FOLDERS)
    return [user_path(part) for part in parts]


def _no_test_split(name, has_splits):
    """The error for a folder without the sub-folder that is asked for."""
    if has_splits:
        return UserError(
            "A folder must have one of the sub-folders test, val, validation to be opened as split='test'. "
            f"Received: {name!r}, with `train` only. Add one, hold out a share of the images (--test_fraction=0.1), or "
            "open the `train` split (--split=train)."
        )
    return UserError(
        "A folder must have the sub-folders `train` and `test` (or `val`) to be opened as split='test'. "
        f"Received: {name!r}, without `train`, whose images are the `train` split. Give evaluate --split=train to "
        "look at these; or, to measure by labels, hold out a share of them (--test_fraction=0.1), or move some of each "
        "class into `test`, the others into `train`."
    )


def _is_image(path):
    """Whether a file is read: by the ending of its name, or, if it has none, by its first bytes.

    Scanners write DICOM files without an ending, or with a number, the last one of a UID.
    """
    if path.lower().endswith(SUFFIXES):
        return True
    ending = os.path.splitext(path)[1][1:]
    if ending and not ending.isdecimal():
        return False
    try:
        return format_of(_content(path, HEAD)) not in (None, "NumPy")  # any zip file begins as an `.npz` does
    except OSError:
        return False


def _labelled(folders, class_names):
    """The image files with their labels, the numbers of these class names: a list of `ImageFile`, in order."""
    labels, files, loose = {name: label for label, name in enumerate(class_names)}, [], []
    for root, found in zip(folders.roots, folders.found, strict=True):
        start, own = len(os.path.join(root, "")), []
        for path in filter(_is_image, found.files):
            class_name, inner, _ = path[start:].partition(os.sep)
            own.append(ImageFile(path, labels[class_name] if inner else -1, path[start:]))
        files += own
        if direct := [file for file in own if file.label < 0]:
            loose.append(f"{root} with {len(direct)} images")
    if loose and folders.class_names:
        raise UserError(
            "A folder of images must hold either class sub-folders or images, not both. "
            f"Received: {loose[0]} beside {len(folders.class_names)} sub-folders. Move the images."
        )
    files.sort(key=lambda file: file.label)  # a stable sort: within a class by root and path
    filled = {file.label for file in files}
    where, linked = ", ".join(map(str, folders.roots)), _through_links(folders.found)
    for class_name in folders.class_names:
        if labels[class_name] not in filled:
            raise UserError(
                f"Every class sub-folder must hold images ({' '.join(SUFFIXES)}). Received: "
                f"{_path_of(class_name, folders)}, which holds none{linked}. Delete it, or fill it."
            )
    if not files:
        raise UserError(
            f"A folder of images must hold images ({' '.join(SUFFIXES)}). Received: {where}, with none{linked}. "
            "Add some."
        )
    return files


def _path_of(class_name, folders):
    return next(path for root in folders.roots if os.path.isdir(path := os.path.join(root, class_name)))


def _through_links(found):
    again = [path for each in found for path in each.again]
    return f" (its folders are also found elsewhere, without the link {again[0]})" if again else ""


def _note(found, name):
    """Logs what is not read."""
    unread = [path for each in found for path in each.files if not _is_image(path)]
    others = [path for each in found for path in each.others]
    hidden = [path for each in found for path in each.hidden]
    again = [path for each in found for path in each.again]
    links = [path for path in again if os.path.islink(path)]
    folders = [path for path in again if not os.path.islink(path)]
    for paths, reason, remedy in (
        (unread, f"files are not read: {endings(unread)};", f". Convert images to one of {' '.join(SUFFIXES)}"),
        (others, "pipes, sockets or devices, which are no files, are not read,", ""),
        (hidden, "hidden files or folders, whose names begin with a dot, are not read,", ""),
        (links, "links lead to folders that are read already, and are not read again,", ""),
        (folders, "folders are read already by another path, and are not read again,", ""),
    ):
        if paths:
            text = f"{name}: {len(paths)} {reason} the first one: {paths[0]}{remedy}"
            logging.warning("%s", one_line(text))


def _note_overlap(train, tests, name):
    """Logs folders that are in both splits: several folders may be one inside the other, and links lead anywhere."""
    train = [pathlib.Path(os.path.realpath(folder)) for folder in train]
    for folder in tests:
        real = pathlib.Path(os.path.realpath(folder))
        if any(real.is_relative_to(other) or other.is_relative_to(real) for other in train):
            logging.warning(
                "%s: images of the test split are also for training: %s", one_line(name), one_line(str(folder))
            )


def endings(paths):
    """How many files have which ending: the most frequent ones, in words."""
    counts = collections.Counter(os.path.splitext(path)[1].lower() or "without an ending" for path in paths)
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    others = sum(count for _, count in ranked[ENDINGS:])
    named = [f"{count} {ending}" for ending, count in ranked[:ENDINGS]]
    return ", ".join([*named, f"{others} others"] if others else named)


def _identity(files):
    """The digests by which the images are recognised.

    File contents are not read: that would take as long as an epoch. Each size is a call to the file system.
    """

    def size(path):
        try:
            return os.path.getsize(path)
        except OSError:
            return -1

    sizes = in_parallel(size, [file.path for file in files])
    return {
        "names of the files": digest_of(file.name for file in files),
        "classes": digest_of(file.label for file in files),
        "sizes of the files": digest_of(sizes),
    }


def in_parallel(function, paths):
    """`function` of each path: a list. It is called in parts, since a task for each would take longer than the call."""
    parts = [paths[first : first + PART] for first in range(0, len(paths), PART)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(itertools.chain(*pool.map(lambda part: list(map(function, part)), parts)))


def _contents(paths):
    """The bytes of files, read in parallel; of an unreadable one none, so that it fails later as a damaged one does."""

    def content(path):
        try:
            return pathlib.Path(path).read_bytes()
        except OSError:
            return b""

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return list(pool.map(content, paths))


def _sample(paths, channels):
    """A `Sample` of files."""
    chosen = places(len(paths))
    if not any(os.path.exists(paths[place]) for place in chosen):  # of a list; of a folder, none can be read
        existing = (place for place, path in enumerate(paths) if os.path.exists(path))
        chosen = list(itertools.islice(existing, SIZE)) or chosen
    return look_at({place: functools.partial(_content, paths[place]) for place in chosen}, channels)


def _decoding(sample, paths, name, options):
    """How the files are decoded, from a sample of them."""
    decoding = decoding_of(sample, name, options)
    if decoding is None:
        raise UserError(
            f"{RULE} Received: {describe_unreadable(paths[0])}, and none of {len(sample.unread)} files that were tried "
            "can be read. Repair or delete them."
        )
    return decoding


def _content(path, size=None):
    with open(path, "rb") as file:
        return file.read(size)


def describe_unreadable(path, decoding=None):
    """A text that names a file that cannot be read, and says why; `decoding` is the `Decoding` of its set."""
    try:
        return f"{path} ({what_is_wrong(pathlib.Path(path).read_bytes(), decoding and decoding.decode)})"
    except OSError as error:
        return f"{path} ({error.strerror})"
