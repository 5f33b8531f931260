"""Large files that hold the images of a split: those that a pattern names, and the names of classes beside them."""

import glob
import itertools
import os
import pathlib

from keras_moco.data.source import SPLITS
from keras_moco.errors import UserError
from keras_moco.storage.paths import check_file, check_folder

SPLIT_WORDS = {"train": ("train",), "test": ("test", "validation", "val")}


def find_files(pattern, split, prefix, files_are):
    """The files of a split.

    Args:
        pattern: str, a glob, in which `{split}` stands for `train` and for `test`, `validation` or `val`. Without it,
            all files are the split `train`.
        split: str, `"train"` or `"test"`.
        prefix: str, the beginning of the source's name, for messages: `tfrecord`.
        files_are: str, what the files are, in the plural, for messages.

    Returns:
        A sorted list of paths, str.

    Raises:
        ValueError: if there are none, one is no file, or a folder may not be read.
    """
    name = f"{prefix}:{pattern}"
    if "{split}" not in pattern and split != "train":
        raise UserError(
            "A pattern must have `{split}` in it to be opened as "
            f"split={split!r}. Received: {name!r}, whose images are the `train` split. Give --split=train."
        )
    for word in SPLIT_WORDS[split]:
        if files := _matching(pattern, word):
            for file in files:
                check_file(file, f"{files_are} must be files.", "Correct the pattern, or move it away.")
            return files
        check_folder(_folder_of(pattern.replace("{split}", word)), f"The folder of {files_are} must be readable.")
    raise UserError(
        f"A source of {files_are} must name existing files. Received: {name!r}, split={split!r}, which matches none. "
        f"Correct it, for example to {prefix}:/data/images/{{split}}-*. (Splits are {', '.join(SPLITS)}.)"
    )


def files_of_other_splits(pattern, files):
    """Lazily, the lists of files of the splits that a pattern also names, other than `files`."""
    words = itertools.chain(*SPLIT_WORDS.values()) if "{split}" in pattern else ()
    return (other for word in words if (other := _matching(pattern, word)) and other != files)


def class_names_beside(files, names, files_are):
    """The class names in a text file beside files of images.

    Args:
        files: list of paths; the text file is in the folder of the first one.
        names: tuple of str, the names that the text file may have; the first one found is read.
        files_are: str, what the files are, in the plural, for messages.

    Returns:
        tuple of str; `None` if there is no such text file, or it is empty.

    Raises:
        ValueError: if it is no text file in UTF-8.
    """
    paths = [pathlib.Path(files[0]).parent / name for name in names]
    path = next(filter(os.path.lexists, paths), None)
    if path is None:
        return None
    rule = f"The names of classes beside {files_are} must be a text file in UTF-8, one name a line."
    way_out = "Write it again, or rename it to go without."
    check_file(path, rule, way_out)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{rule} Received: {path}, {error}. Write it again, or rename it to go without labels."
        ) from error
    return tuple(line.strip() for line in lines if line.strip()) or None


def _matching(pattern, word):
    """The files of the split of that word, sorted."""
    return sorted(glob.glob(str(pathlib.Path(pattern.replace("{split}", word)).expanduser())))


def _folder_of(pattern):
    """The folder that a pattern begins with, before any `*`."""
    folder = pathlib.Path(pattern).expanduser().parent
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder
