"""JPEG 2000: Pillow reads gray and colours of up to 8 bits, imagecodecs more bits and any number of bands."""

import struct
from typing import NamedTuple

import imagecodecs

from keras_moco.image_formats import pillow
from keras_moco.image_formats.registry import Facts, Raw

START = b"\xff\x4f\xff\x51"  # of a codestream: two markers (ISO 15444-1, A.4 and A.5)
SIZES = 8  # bytes from there to the right and lower end of the image, then its left and upper end, on a grid of pixels
COMPONENTS = 40  # bytes to the number of components, after which each has three bytes, the first its bits
SIGNED = 0x80
HEADER_BOX, CHANNELS_BOX = b"jp2h", b"cdef"
OPACITY = 1  # a type of channel (I.5.3.6)


class _Header(NamedTuple):
    """What a file says of its values.

    Attributes:
        height: int, in pixels.
        width: int, likewise.
        components: int, channels with opacity.
        bits: int, of a value.
        signed: bool, whether values may be negative.
        alpha: bool, whether the last channel is the opacity.
    """

    height: int
    width: int
    components: int
    bits: int
    signed: bool
    alpha: bool

    @property
    def is_simple(self):
        """Whether Pillow reads it, with palettes and all kinds of colours."""
        return self.components in (1, 3) and self.bits <= 8 and not self.signed


def read(data, channels=None):
    """A file as a `Raw`."""
    header = _header(data)
    if header.is_simple:
        return pillow.read(data)
    values = imagecodecs.jpeg2k_decode(data)
    white = None if header.signed else 2.0**header.bits - 1
    return Raw(values[..., None] if values.ndim == 2 else values, white, header.alpha)


def facts(data, channels=None):
    """The `Facts` of a whole file."""
    header = _header(data)
    if header.is_simple:
        return pillow.facts(data)
    bits = 0 if header.signed else max(8, header.bits)
    return Facts(header.components - header.alpha, header.height, header.width, bits, header.alpha)


def _header(data):
    start = data.index(START)
    right, lower, left, upper = struct.unpack_from(">4I", data, start + SIZES)
    components, depth = struct.unpack_from(">HB", data, start + COMPONENTS)
    inside = dict(_boxes(dict(_boxes(data[:start])).get(HEADER_BOX, b"")))
    entries = struct.iter_unpack(">HHH", inside.get(CHANNELS_BOX, b"")[2:])  # number, type and what it belongs to
    alpha = any(number == components - 1 and kind == OPACITY for number, kind, _ in entries)
    return _Header(lower - upper, right - left, components, (depth & ~SIGNED) + 1, bool(depth & SIGNED), alpha)


def _boxes(data):
    """The boxes of a file or of a box, pairs of their types and contents (I.4)."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        if size < 8:  # to the end of the file, or of more than 4 GiB
            return
        yield kind, data[place + 8 : place + size]
        place += size
