"""A list of image files, a CSV file, as a source."""

import csv
import io
import os
from typing import NamedTuple

from keras_moco.data.folder import ImageFile, in_parallel, source_of_files
from keras_moco.data.source import SPLITS, check_split, classes_for_test
from keras_moco.data.splits import divide, is_split_name, named_for
from keras_moco.errors import UserError
from keras_moco.storage.paths import KINDS, check_file, instead_of_file, user_path

COLUMNS = ("path", "label", "split")
RULE = "A list of images must be a text file in UTF-8 with a path in each line."


class _Line(NamedTuple):
    """A line of a list; `path` is as it is written, `file` from the folder of the list, `number` counts from 1."""

    number: int
    file: str
    path: str
    label: str
    split: str


def open_list(path, options):
    """Opens the image files that are named in a text file.

    The file is CSV in UTF-8, as Python's `csv` reads it: one path a line, relative to the folder of the file or
    absolute, and optionally a label, any text, and a split. The first line may be a header of these columns, `path`,
    `label` and `split`, in any order. Splits have the names that folders may have (`keras_moco.data.splits.NAMES`);
    without that column all images are the `train` split, or, with `test_fraction`, divided by
    `keras_moco.data.splits.is_held_out` of the paths as they are written. Classes are the labels in sorted order, as
    numbers if all are; those of the test split refer to the training classes of that name.

    Args:
        path: str, the file.
        options: `Options`.

    Returns:
        A `Source` of these images in the order of the lines. They are recognised by content, whatever their names end
        in. A missing file counts as an image that cannot be read.

    Raises:
        ValueError: There is no such file or split, or it is no such list; only some lines have a label; a file is
            named twice, or is none; none of the files of the split exists; a class of the test split is none of
            training; or there are a test split and a `test_fraction`.
    """
    name, split = f"list:{path}", options.split
    check_split(name, split)
    path = user_path(path)
    check_file(path, RULE, "Correct it.")
    lines = _lines(path, name)
    parts = _parts(lines, name)
    if options.test_fraction and parts["test"]:
        raise UserError(
            "`test_fraction` must be 0 for images that have a test split. "
            f"Received: test_fraction={options.test_fraction} for {name!r} with a column `split`. Omit --test_fraction."
        )
    chosen = parts["train" if options.test_fraction else split]
    if not chosen:
        raise UserError(
            f"A list must have lines of a split to be opened as split={split!r}. "
            f"Received: {name!r}, with none. Add a column `split` with train and test; or, to measure by labels, hold "
            "out a share of the images (--test_fraction=0.1)."
        )
    class_names = _classes(parts["train"])
    if chosen is not parts["train"]:
        class_names = classes_for_test(class_names, _classes(chosen), name)
    _check_files(chosen, name, path.parent)
    labels = {each: label for label, each in enumerate(class_names)}
    files = [ImageFile(line.file, labels.get(line.label, -1), os.path.normpath(line.path)) for line in chosen]
    if options.test_fraction:
        files = divide(files, split, options.test_fraction, name)
    return source_of_files(name, options, files, class_names)


def _lines(path, name):
    """The lines of a list that are not empty: a list of `_Line`."""
    columns, numbered = _columns(path, name, _rows(path, name))
    lines, folder = [], os.fspath(path.parent)
    for number, row in numbered:
        if len(row) != len(columns):
            raise UserError(
                f"Each line of a list must have the same columns. Received: line {number} of {name!r} with {len(row)}, "
                f"in place of {len(columns)}. Correct it; a path with a comma needs quotation marks."
            )
        cells = dict(zip(columns, row, strict=True))
        file = os.path.normpath(os.path.join(folder, os.path.expanduser(cells["path"])))
        label, split = cells.get("label", "").strip(), cells.get("split", "train").strip()
        lines.append(_Line(number, file, cells["path"], label, split))
    return lines


def _rows(path, name):
    """The rows of a CSV file that are not empty, each with the number of its line."""
    try:
        # Paths need not be UTF-8, and some programs mark a file as UTF-8 by its first bytes.
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        numbered = [(rows.line_num, row) for row in rows if any(cell.strip() for cell in row)]
    except (OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{RULE} Received: {name!r}, {reason}. Correct it.") from error
    if "\0" in text:
        raise UserError(f"{RULE} Received: {name!r}, which is in another encoding, or no text. Save it as UTF-8.")
    if not numbered:
        raise UserError(f"{RULE} Received: {name!r}, which is empty. Write the paths into it.")
    return numbered


def _columns(path, name, numbered):
    """The names of the columns, and the rows without a header."""
    first = numbered[0][1]
    header = [cell.strip().lower() for cell in first]
    is_file = instead_of_file(path.parent / first[0]) is None
    if is_file or not set(header) & set(COLUMNS):
        if not is_file and not os.path.splitext(first[0])[1]:
            raise UserError(
                f"The first line of a list must be a header of {', '.join(COLUMNS)}, or name a file. "
                f"Received: {','.join(first)!r} in {name!r}. Correct it, or write the header above it."
            )
        header, rows = list(COLUMNS[: len(first)]), numbered
    else:
        rows = numbered[1:]
    if "path" not in header or not set(header) <= set(COLUMNS) or len(first) > len(set(header)):
        raise UserError(
            f"The columns of a list must be path and, optionally, label and split. Received: {name!r} with "
            f"{','.join(first)!r}. Rename or delete the others."
        )
    if not rows:
        raise UserError(f"{RULE} Received: {name!r}, a header alone. Write the paths below it.")
    return header, rows


def _parts(lines, name):
    """The lines of each split: a dict of lists."""
    first = {}
    unlabelled = [line.number for line in lines if not line.label]
    if unlabelled and len(unlabelled) < len(lines):
        raise UserError(
            "Either all lines of a list must have a label, or none. "
            f"Received: line {unlabelled[0]} of {name!r} without one. Add it, or delete the line."
        )
    for line in lines:
        if first.setdefault(line.file, line) is not line:
            raise UserError(
                "A list must name each file once. "
                f"Received: {line.file} in the lines {first[line.file].number} and {line.number} of {name!r}. Delete "
                "one of them."
            )
    names = {line.split: line for line in reversed(lines)}
    for split, line in names.items():
        if not is_split_name(split):
            raise UserError(
                "The split of a line must be train, test, or another name of them. "
                f"Received: {split!r} in line {line.number} of {name!r}. Correct it, or delete the line."
            )
    chosen = {split: set(named_for(split, names)) for split in SPLITS}
    return {split: [line for line in lines if line.split in chosen[split]] for split in SPLITS}


def _classes(lines):
    """The names of the classes: a sorted list, empty for unlabelled images."""
    names = {line.label for line in lines} - {""}
    return sorted(names, key=lambda each: (int(each), each)) if all(map(str.isdecimal, names)) else sorted(names)


def _check_files(lines, name, folder):
    """Refuses what is no file, and a list of which no file exists."""
    kinds = in_parallel(instead_of_file, [line.file for line in lines])
    for line, kind in zip(lines, kinds, strict=True):
        if kind in KINDS.values():  # reading a pipe or a device may never end
            raise UserError(
                f"A list must name files. Received: {line.file}, {kind}, in line {line.number} of {name!r}. Delete the "
                "line."
            )
    if all(kinds):
        raise UserError(
            "At least one file of a list must exist. "
            f"Received: {name!r}, of which none of {len(lines)} does, the first one: {lines[0].file}. Correct the "
            f"paths, which are relative to {os.path.abspath(folder)}; columns are separated by commas."
        )
