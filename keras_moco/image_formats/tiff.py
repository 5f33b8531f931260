"""TIFF by tifffile: any bits, bands and compression; a page for each band or for each row, or the first page."""

import io
from typing import NamedTuple

import numpy as np
import tifffile

from keras_moco.errors import UserError
from keras_moco.image_formats.orient import upright, upright_size
from keras_moco.image_formats.registry import MOST_BANDS, Facts, Raw

WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE, SEPARATED = 0, 1, 3, 5  # kinds of pixels (TIFF 6.0, tag 262)
PREMULTIPLIED, PLAIN_ALPHA = 1, 2  # kinds of further channels (tag 338)
ORIENTATION = 274
YCBCR, JPEG_KINDS = 6, (6, 7)  # YCbCr, which JPEG compression returns as RGB
WHOLE_ARRAYS = ("shaped", "uniform")  # series of pages that tifffile takes for one array
UNKNOWN = "QI"  # its letters for an axis of which nothing is said
OTHERS = (8, 9, 10, 32844, 32845)  # CIELAB and its relatives, LogL, LogLuv


def read(data, channels=None):
    """A file as a `Raw`: its first page, as many gray pages as there are `channels`, or pages that are rows."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        pages = file.pages
        if _rows(file, channels):
            return Raw(file.series[0].asarray(), _of_page(pages[0]).white)
        if channels is None or channels == 1 or len(pages) != channels or pages[0].samplesperpixel != 1:
            return _of_page(pages[0])
        parts = [_of_page(page) for page in pages]
    if len({part.values.shape for part in parts}) > 1:
        raise UserError(f"Pages that are bands must have one size. Received: {_sizes(parts)}. Save them alike.")
    return Raw(np.concatenate([part.values for part in parts], axis=-1), parts[0].white)


def facts(data, channels=None):
    """The `Facts` of a whole file."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page, rows = file.pages[0], _rows(file, channels)
        bits = max(8, page.bitspersample) if page.dtype.kind in "bu" else 0
        if rows:
            return Facts(rows.bands, len(file.pages), page.imagelength, bits, assumed=rows.assumed)
        alpha = _alpha(page) > 0
        colours = page.photometric in (PALETTE, SEPARATED)
        height, width = upright_size(page.imagelength, page.imagewidth, _orientation(page))
        return Facts(
            channels=3 if colours else page.samplesperpixel - alpha,
            height=height,
            width=width,
            bits=bits,
            alpha=alpha,
            turned=_orientation(page) > 1,
            pages=len(file.pages),
        )


class _Rows(NamedTuple):
    """That the pages of a file are the rows of one image: how many bands it has, and what this assumes, in words."""

    bands: int
    assumed: str = ""


def _rows(file, channels):
    """`_Rows` if the pages are rows: tifffile writes an array `(h, w, bands)` as `h` pages of `(w, bands)`.

    It does so unless `planarconfig` says otherwise. The axes in its description decide if there are any; otherwise
    as many bands as there are `channels`; otherwise bands are few, and fewer than rows and columns.
    """
    page, height = file.pages[0], len(file.pages)
    if height == 1 or page.axes != "YX" or page.photometric != BLACK_IS_ZERO:
        return None
    width, bands = page.shape
    may_be_few = 1 < bands <= MOST_BANDS and bands < min(height, width)
    if not (file.is_shaped or may_be_few or bands == channels):
        return None
    series = file.series[0]
    if series.kind not in WHOLE_ARRAYS or series.shape != (height, width, bands):
        return None
    if series.axes.startswith("YX") or bands == channels != height:
        return _Rows(bands)
    if not may_be_few or height == channels or series.axes[0] not in UNKNOWN:
        return None
    text = f"{height} pages of {width} x {bands} pixels are read as one image of {height} x {width} pixels and {bands} "
    return _Rows(bands, f"{text}bands, as tifffile writes an array (h, w, bands); --channels={bands} confirms it")


def _of_page(page):
    values = page.asarray()
    if page.axes not in ("YX", "YXS", "SYX"):
        raise UserError(f"A page of a TIFF must be one image. Received: axes {page.axes}. Save each alone.")
    values = np.moveaxis(values, 0, -1) if page.axes == "SYX" else values
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype.kind not in "buif" or _is_other(page):
        raise UserError(
            "A TIFF must be gray, of colours (RGB, CMYK, a palette, or YCbCr in JPEG) or of bands, of real numbers. "
            f"Received: {page.photometric!r} of type {values.dtype}. Convert it."
        )
    white = 2.0**page.bitspersample - 1 if values.dtype.kind in "bu" else None
    colours = values.shape[-1] - (_alpha(page) > 0)
    if page.photometric == PALETTE:
        values, white = _palette(page)[values[..., 0]], 255.0
    if page.photometric == WHITE_IS_ZERO and white:
        values = np.concatenate([white - values[..., :colours], values[..., colours:]], axis=-1)
    if page.photometric == SEPARATED:  # cyan, magenta, yellow, black
        values = (1 - values[..., :3] / white) * (1 - values[..., 3:4] / white) * white
    alpha = _alpha(page)
    if alpha == PREMULTIPLIED and white:
        opacity = values[..., -1:] / white
        plain = values[..., :-1] / np.where(opacity > 0, opacity, 1)
        values = np.concatenate([plain, values[..., -1:]], axis=-1)
    return Raw(upright(values, _orientation(page)), white, alpha > 0)


def _is_other(page):
    """Whether its colours are neither gray, RGB, CMYK nor bands."""
    return page.photometric in OTHERS or page.photometric == YCBCR and page.compression not in JPEG_KINDS


def _palette(page):
    """The colours of a palette, uint8 `(n, 3)`; as libtiff takes them, of the upper 8 of 16 bits if these are used."""
    colours = np.moveaxis(page.colormap, 0, -1)
    return (colours >> 8 if colours.max() > 255 else colours).astype("uint8")


def _alpha(page):
    """The kind of opacity of the last channel; 0 if it is none."""
    kinds = [int(kind) for kind in page.extrasamples or ()]
    return kinds[-1] if kinds and kinds[-1] in (PREMULTIPLIED, PLAIN_ALPHA) else 0


def _orientation(page):
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag else 1


def _sizes(parts):
    return ", ".join(sorted({" x ".join(map(str, part.values.shape[:2])) for part in parts}))
