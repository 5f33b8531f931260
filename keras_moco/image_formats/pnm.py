"""PNM by Pillow, except colours of 16 bits, of which Pillow keeps 8."""

import re

import numpy as np

from keras_moco.image_formats import pillow
from keras_moco.image_formats.registry import Raw

_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"  # between two words; a comment ends with its line
_HEADER = re.compile(rb"P([36])" + (_GAP + rb"(\d{1,9})") * 3 + rb"\s")  # kind, width, height, largest value
_COMMENT = re.compile(rb"#[^\r\n]*")
PLAIN = b"3"  # numbers as text
WHITE = 2**16 - 1


def read(data, channels=None):
    """A file as a `Raw`."""
    header = _deep_colours(data)
    if header is None:
        return pillow.read(data)
    kind, (width, height, largest) = header[1], map(int, header.groups()[1:])
    count = width * height * 3
    if kind == PLAIN:
        words = _COMMENT.sub(b" ", data[header.end() :]).split(None, count)[:count]
        values = np.array(words).astype("uint64") if words else np.zeros(0, "uint64")
    else:
        values = np.frombuffer(data, ">u2", count, header.end())
    if not 0 < largest <= WHITE or values.size != count or not count or values.max() > largest:
        raise ValueError("a PNM file that is incomplete, or has other values than it states")
    # The largest value becomes white, as it does in gray files, which Pillow scales so.
    scaled = values if largest == WHITE else np.round(values * (WHITE / largest))
    return Raw(scaled.astype("uint16").reshape(height, width, 3), float(WHITE))


def facts(data, channels=None):
    """The `Facts` of a file, from its beginning."""
    found = pillow.facts(data)
    return found._replace(bits=16) if _deep_colours(data) else found


def _deep_colours(data):
    """The header of a file with colours of more than 8 bits; `None` of any other."""
    header = _HEADER.match(data)
    return header if header and int(header[4]) > 255 else None
