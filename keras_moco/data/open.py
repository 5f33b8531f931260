"""Opens a data source by name; the registry of sources."""

import difflib
import functools
import os
import pkgutil
from pathlib import Path

from keras_moco.checks.ranges import check_number
from keras_moco.data.bad_images import BadImages
from keras_moco.data.source import Options, Source
from keras_moco.data.value_range import AUTO, FULL, check_value_range
from keras_moco.errors import UserError
from keras_moco.storage.paths import StrPath, user_path

# Maps a prefix to the form of the whole name and a function, which takes the rest of the name and `Options`, and
# returns a `Source`. It is imported when it is used: TensorFlow Datasets and scikit-learn take seconds to import.
SOURCES = {
    "digits": ("digits", "keras_moco.data.digits:open_digits"),
    "tfds": ("tfds:<name>[/config]", "keras_moco.data.tfds:open_tfds"),
    "folder": ("folder:<path>", "keras_moco.data.folder:open_folder"),
    "list": ("list:<file>", "keras_moco.data.list_file:open_list"),
    "tfrecord": ("tfrecord:<glob>", "keras_moco.data.tfrecord:open_tfrecord"),
    "webdataset": ("webdataset:<glob>", "keras_moco.data.webdataset:open_webdataset"),
    "zip": ("zip:<path>", "keras_moco.data.zip_archive:open_zip"),
}
# Which prefix the name of a file ends in, for `name_of`.
SUFFIXES = {".zip": "zip", ".csv": "list", ".tar": "webdataset", ".tfrecord": "tfrecord", ".tfrecords": "tfrecord"}
FORMS = tuple(form for form, _ in SOURCES.values())
DIVISIBLE = ("folder", "list")  # sources of named files, of which a share can be held out
FILES = ("folder", "list", "tfrecord", "webdataset", "zip")  # whose images are encoded in any format


def open_source(
    name: str,
    split: str = "train",
    data_dir: StrPath | None = None,
    cache: bool = False,
    max_bad_fraction: float = 0.01,
    strict: bool = False,
    shuffle_buffer_mib: int = 1024,
    channels: int | None = None,
    value_range: str = "auto",
    background: int = 255,
    test_fraction: float = 0.0,
    tfrecord_image_feature: str = "image/encoded",
    tfrecord_label_feature: str = "image/class/label",
) -> Source:
    """Opens a set of images by name.

    | name | images |
    | --- | --- |
    | `digits` | the 1,797 handwritten 8x8 digits that come with scikit-learn; needs no download |
    | `tfds:<name>[/config]` | a TensorFlow Datasets set, e.g. `tfds:cifar10`; offline once it is prepared |
    | `folder:<path>` | image files in class sub-folders, or in one flat folder without labels; several: `folder:a,b` |
    | `list:<file>` | image files named in a CSV file, with labels or without |
    | `tfrecord:<glob>` | TFRecord files of encoded images (`keras_moco.data.tfrecord`) |
    | `webdataset:<glob>` | tar files in the format of WebDataset (`keras_moco.data.webdataset`) |
    | `zip:<path>` | a zip archive of a folder of image files, which is not unpacked |

    Arrays of your own: `keras_moco.data.array_source`.

    Args:
        name: str. One of the forms above.
        split: str. `"train"` or `"test"`. Where a TFDS set has no labelled test split, `"test"` is its
            `validation` split; any other split of a TFDS set can be opened by its own name (e.g.
            `"unlabelled"` of `tfds:stl10`).
        data_dir: str or path. Where TensorFlow Datasets keeps its data sets. Defaults to `None`: its own
            default.
        cache: bool. Whether encoded images stay in memory once they are read. Defaults to `False`.
        max_bad_fraction: float in [0, 1). How many of the images may be unreadable; they are skipped, and the first
            ten are named in the log. Defaults to `0.01`.
        strict: bool. Whether the first unreadable image is an error. Defaults to `False`.
        shuffle_buffer_mib: int, at least 1. Memory that a shuffle of images in large files (TFRecords, TFDS) may take,
            in MiB. If all of them fit, encoded, they are shuffled completely; otherwise each is drawn from a buffer of
            that size. The order depends on it. Defaults to `1024`.
        channels: int, at least 1, the channels that images get: gray becomes colour by repetition, colour gray by its
            luma, and of a TIFF as many gray pages become bands. Defaults to `None`: those of the first readable file.
        value_range: str, which values of the files become 0..255. `"LOW,HIGH"`: what is outside is clipped;
            `"LOW,HIGH/LOW,HIGH"`: for each channel its own.
            `"percentile:P,Q"`: these percentiles of a sample of 128 files. `"full"`: black to white of each file's own
            type. `"window"`: the window in each DICOM file. `"auto"`: `"full"` if the sample has files of 8 bits, else
            a range that holds all its values (`keras_moco.data.value_range.Measured`); the log says which. Defaults to
            `"auto"`. Images are uint8 for `"full"`, float32 for all others.
        background: int, 0..255, the gray level under transparent images. Defaults to `255`: white.
        test_fraction: float in [0, 1). For a `folder:` or `list:` without a test split: the share of the images that is
            held out as the split `"test"`, chosen by the names of the files (`keras_moco.data.splits.is_held_out`); the
            others are the split `"train"`. Both splits must be opened with the same share. Defaults to `0.0`: none.
        tfrecord_image_feature: str. The feature of TFRecords with the encoded image. Defaults to `"image/encoded"`,
            as TensorFlow's ImageNet scripts write them.
        tfrecord_label_feature: str. The feature of TFRecords with the label, an int64. Defaults to
            `"image/class/label"`, likewise.

    Returns:
        A `Source`.

    Raises:
        ValueError: The name has none of these forms, or what it names cannot be opened.
    """
    prefix, colon, rest = str(name).partition(":")
    form, function = SOURCES.get(prefix, ("", ""))
    if not (form and (rest if ":" in form else name == form)):
        raise _unknown(name, prefix, colon, rest)
    if channels is not None:
        check_number("channels", channels, "at least 1", "Omit it for those of the first image.", whole=True)
    check_number("background", background, "from 0 to 255", "Give a gray level, such as 255 for white.", whole=True)
    check_number("test_fraction", test_fraction, "in [0, 1)", "Give the share of images to hold out, such as 0.1.")
    check_value_range(value_range)
    if test_fraction and prefix not in DIVISIBLE:
        raise UserError(
            f"`test_fraction` must be 0 for other sources than {', '.join(f'{each}:' for each in DIVISIBLE)}. "
            f"Received: test_fraction={test_fraction} for {name!r}. Omit --test_fraction."
        )
    if value_range not in (AUTO, FULL) and prefix not in FILES:
        raise UserError(
            f"`value_range` must be auto or full for other sources than {', '.join(f'{each}:' for each in FILES)}. "
            f"Received: value_range={value_range} for {name!r}. Save its images as files, with such values."
        )
    judge = functools.partial(BadImages, max_fraction=max_bad_fraction, strict=strict)
    options = Options(
        *(split, data_dir, cache, judge, shuffle_buffer_mib, channels, value_range, background, test_fraction),
        *(tfrecord_image_feature, tfrecord_label_feature),
    )
    return pkgutil.resolve_name(function)(rest, options)


def name_of(data: StrPath) -> str:
    """The name of a source, for `open_source`, from such a name, or from the path of a folder or file.

    Args:
        data: a name; or a path of a folder, or of a `.zip`, `.csv`, `.tar` or `.tfrecord` file (of the last two also a
            glob).

    Returns:
        str. What is neither is returned as it is; `open_source` then says what it could be.

    Example:

    >>> name_of("tfds:cifar10"), name_of("shards/*.tar")
    ('tfds:cifar10', 'webdataset:shards/*.tar')
    """
    name = os.fspath(data)
    if name.partition(":")[0] in SOURCES and not isinstance(data, os.PathLike):
        return name
    if user_path(name).is_dir():
        return f"folder:{name}"
    prefix = SUFFIXES.get(Path(name).suffix.lower())
    return f"{prefix}:{name}" if prefix else name


def _unknown(name, prefix, colon, rest):
    """The error for a name without a known form."""
    close = difflib.get_close_matches(prefix, SOURCES, n=1)
    remedy = (
        f"Did you mean `{close[0]}{colon}{rest}`?" if close and close[0] != prefix else f"Name a set as {FORMS[1]}."
    )
    if user_path(name).is_dir():
        remedy = f"Did you mean `folder:{name}`?"
    elif user_path(name).suffix.lower() in (".csv", ".txt"):
        remedy = f"Did you mean `list:{name}`?"
    elif os.sep in name and not colon and not user_path(name).exists():
        remedy = "There is no folder or file of this name either. Correct the path."
    return UserError(f"`name` of a data source must be one of {', '.join(FORMS)}. Received: name={name!r}. {remedy}")
