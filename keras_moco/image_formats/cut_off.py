"""JPEGs that were cut off and then closed by an end marker, which decoders fill with gray instead of failing."""

import io

import numpy as np
from PIL import Image

JPEG, END = b"\xff\xd8\xff", b"\xff\xd9"
FILLING = 128  # what a decoder makes of the blocks that are missing
MORE = bytes(range(1, 200))  # pixels' data, if there is room for any


def is_cut_off(data: bytes, pixels: np.ndarray) -> bool:
    """Whether the lower part of a JPEG is missing, although the file ends with an end marker.

    Where its last corner is gray, more data are put before the marker: in a complete file they change no pixel. Most
    images are other than gray there, and cost nothing more. In a progressive JPEG, whose missing scans only sharpen the
    image, and in one that lacks less than its last row of blocks, nothing is found.

    Args:
        data: bytes, the content of a file of any format.
        pixels: uint8 `(h, w, C)`, its pixels, upright.

    Example:

    >>> with io.BytesIO() as file:
    ...     Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), "uint8")).save(file, "jpeg")
    ...     whole = file.getvalue()
    >>> half = whole[: len(whole) // 2] + END
    >>> [is_cut_off(each, np.asarray(Image.open(io.BytesIO(each)))) for each in (whole, half)]
    [False, True]
    """
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]  # any of which may have been the last one before it was turned
    if not (data.startswith(JPEG) and data.endswith(END)) or not (corners == FILLING).all(axis=-1).any():
        return False
    as_it_is, with_more = (_decoded(each) for each in (data, data[: -len(END)] + MORE + END))
    return not np.array_equal(as_it_is, with_more)


def _decoded(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)
