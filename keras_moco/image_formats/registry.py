"""Which formats there are, how a file shows which one it has, and what reads it."""

import importlib.util
import pkgutil
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from keras_moco.errors import UserError, one_line


class Raw(NamedTuple):
    """An image as its file stores it, upright.

    Attributes:
        values: array `(h, w, c)` of numbers. One channel is gray, three are colours, any others are bands.
        white: float, the value of white: what a full channel and a full opacity have. `None` if the file does not say.
        alpha: bool, whether the last channel is the opacity.
    """

    values: np.ndarray
    white: float | None
    alpha: bool = False


class Facts(NamedTuple):
    """What is known of an image file without its pixels.

    Attributes:
        channels: int, without opacity.
        height: int, in pixels, upright.
        width: int, likewise.
        bits: int, of a whole number; 0 for fractions, and where the values have a unit of their own.
        alpha: bool, whether it has an opacity.
        turned: bool, whether it is stored other than upright.
        pages: int, more than 1 for an animation or several pages.
        assumed: str, what was assumed of the file, in words; empty if nothing was.
    """

    channels: int
    height: int
    width: int
    bits: int = 8
    alpha: bool = False
    turned: bool = False
    pages: int = 1
    assumed: str = ""


class Format(NamedTuple):
    """A format of image files.

    Attributes:
        pattern: regular expression of bytes that the content begins with.
        suffixes: tuple of str, what names of such files end in.
        module: str, the module with `read(data, channels)`, which returns a `Raw`, and `facts(data,
            channels)`, which returns `Facts` and may need the beginning of the file only. It is imported when it is
            used.
        needs: tuple of str, modules of the extra `formats` that it takes.
        head: bool, whether `facts` needs the beginning of the file only.
    """

    pattern: bytes
    suffixes: tuple[str, ...]
    module: str = "keras_moco.image_formats.pillow"
    needs: tuple[str, ...] = ()
    head: bool = True


_HEIC = rb".{4}ftyp(heic|heix|hevc|heim|heis|hevm|hevs|mif1|msf1)"

# AVIF comes before HEIC, which has the same container.
FORMATS = {
    "JPEG": Format(rb"\xff\xd8\xff", (".jpg", ".jpeg", ".jpe", ".jfif")),
    "PNG": Format(rb"\x89PNG\r\n\x1a\n", (".png",), "keras_moco.image_formats.png"),
    "BMP": Format(rb"BM", (".bmp",)),
    "GIF": Format(rb"GIF8[79]a", (".gif",)),
    "WebP": Format(rb"RIFF.{4}WEBP", (".webp",)),
    "TIFF": Format(
        rb"II[*+]\0|MM\0[*+]",
        (".tif", ".tiff"),
        "keras_moco.image_formats.tiff",
        needs=("tifffile", "imagecodecs"),
        head=False,
    ),
    "JPEG 2000": Format(
        rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        (".jp2", ".j2k", ".jpf", ".jpx"),
        "keras_moco.image_formats.jpeg2000",
        needs=("imagecodecs",),
        head=False,
    ),
    "PNM": Format(rb"P[1-6]\s", (".ppm", ".pgm", ".pbm", ".pnm"), "keras_moco.image_formats.pnm"),
    "DICOM": Format(
        rb".{128}DICM", (".dcm", ".dicom"), "keras_moco.image_formats.dicom", needs=("pydicom",), head=False
    ),
    "AVIF": Format(rb".{4}ftyp(avi[fs]|.{8,36}avi[fs])", (".avif",)),
    "HEIC": Format(_HEIC, (".heic", ".heif"), "keras_moco.image_formats.heic", needs=("pillow_heif",), head=False),
    "NumPy": Format(rb"\x93NUMPY|PK\x03\x04", (".npy", ".npz"), "keras_moco.image_formats.numpy_files", head=False),
}
SUFFIXES = tuple(suffix for each in FORMATS.values() for suffix in each.suffixes)
NAMES = f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}"
RULE = f"An image file must be a whole {NAMES}."
EXTRA = "pip install 'keras_moco[formats]'"
MOST_BANDS = 32  # a longer axis is one of pixels, where nothing says which it is
HEAD = 2**16  # bytes, of which the beginning of a file consists


def format_of(data: bytes) -> str | None:
    """The name of the format of a file by the first bytes of its content, whatever the file is called.

    Example:

    >>> format_of(b"GIF89a...")
    'GIF'
    """
    head = data[:132]
    return next((name for name, each in FORMATS.items() if re.match(each.pattern, head, re.DOTALL)), None)


def missing_library(name: str) -> str | None:
    """The first library that a format needs and that is not installed; `None` if it can be read."""
    return next((each for each in FORMATS[name].needs if importlib.util.find_spec(each) is None), None)


def read(data: bytes, channels: int | None = None) -> Raw:
    """Reads an image file.

    Args:
        data: bytes, its content.
        channels: int, the channels that are wanted, by which pages of a TIFF may be bands, and the first axis of an
            array. Defaults to `None`: those of the first page, and the last axis.

    Returns:
        `Raw`.

    Raises:
        ValueError: if it has no known format, or its library is not installed.
        Exception: whatever its library raises about a file that is damaged.
    """
    return _module(data).read(data, channels)


def facts_of(data: bytes, channels: int | None = None) -> Facts:
    """What is known of an image file without its pixels; of some formats the first `HEAD` bytes are enough.

    Args:
        data: bytes, its content or the beginning of it.
        channels: int, as for `read`.

    Raises:
        ValueError: if it has no known format, or its library is not installed.
        Exception: whatever its library raises about a file that is damaged.
    """
    return _module(data).facts(data, channels)


def _module(data):
    name = format_of(data)
    if name is None or missing_library(name):
        raise UserError(f"{RULE} Received: {what_is_wrong(data)}. Convert or delete it.")
    return pkgutil.resolve_name(FORMATS[name].module)


def what_is_wrong(data: bytes, decode: Callable[[bytes], np.ndarray] | None = None) -> str:
    """A few words about the bytes of an image that could not be decoded.

    Args:
        data: bytes of the file.
        decode: function of them that decodes an image as one of its set, whose error says more. Defaults to `None`.
    """
    if not data:
        return "an empty file"
    name = format_of(data)
    if name is None:
        return "of no known format"
    if missing := missing_library(name):
        return f"{name}, for which {missing} is missing: {EXTRA}"
    try:
        (decode or read)(data)
    except UserError as error:
        return one_line(str(error))
    except Exception:  # its library has its own words, which name objects in memory
        return f"a damaged, incomplete or too large {name}"
    return f"{name} of other values or channels than the images of the set"
