"""Several images as one, side by side."""

import numpy as np

from keras_moco.data.shown_bands import take_bands
from keras_moco.storage.atomic import replace_when_written

GAP = 4  # white pixels between two cells
WHITE = 255


def to_rgb(image, bands=None):
    """An image `(h, w, C)` with values 0..255 as uint8 `(h, w, 3)`; `bands` are those of `data.shown_bands`."""
    rounded = np.clip(np.rint(take_bands(np.asarray(image), bands)), 0, 255).astype("uint8")
    return np.broadcast_to(rounded, (*rounded.shape[:2], 3))


def grid(rows, gap=GAP):
    """Rows of cells, uint8 `(h, w, 3)`, as one image, with gaps between cells and none around them.

    Args:
        rows: lists of cells of the same size; rows after the first may be shorter.
        gap: int, pixels between two cells. Defaults to `4`.

    Returns:
        uint8 `(height, width, 3)`, white where there is no cell.

    Example:

    >>> grid(2 * [3 * [np.zeros((8, 8, 3), "uint8")]]).shape
    (20, 32, 3)
    """
    height, width, _ = rows[0][0].shape
    image = np.full((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, 3), WHITE, "uint8")
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            image[top : top + height, left : left + width] = cell
    return image


def save(path, image):
    """Writes an image, uint8 `(h, w, 3)`, as a PNG file, whole or not at all."""
    from matplotlib.image import imsave  # half a second of import time

    return replace_when_written(path, lambda temporary: imsave(temporary, image, format="png"))
