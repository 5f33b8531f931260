"""Several images as one, side by side."""

import numpy as np

from keras_moco.data.shown_bands import take_bands
from keras_moco.evaluation.plot_names import DPI, fit_names
from keras_moco.storage.atomic import replace_when_written

GAP = 4  # white pixels between two cells
LINE = 16  # pixels, the height of a line of text
WHITE = 255
SIDE = 96  # pixels; smaller views are enlarged, or details would be invisible


def to_rgb(image, bands=None, stretch=None):
    """An image `(h, w, C)` with values 0..255 as uint8 `(h, w, 3)`; the others are of `data.shown_bands`.

    Args:
        image: array or tensor.
        bands: as for `shown_bands`.
        stretch: what `stretch_of` returns. Defaults to `None`: values are shown as they are.
    """
    values = take_bands(np.asarray(image), bands)
    if stretch:
        black, white = stretch
        values = (values - black) * (255 / (white - black))
    rounded = np.clip(np.rint(values), 0, 255).astype("uint8")
    return np.broadcast_to(rounded, (*rounded.shape[:2], 3))


def enlarged(image, side):
    """An image `(h, w, 3)` enlarged by the whole factor that makes cells of that side at least `SIDE` pixels wide.

    Example:

    >>> enlarged(np.zeros((32, 32, 3)), side=32).shape, enlarged(np.zeros((224, 224, 3)), side=224).shape
    ((96, 96, 3), (224, 224, 3))
    """
    factor = -(-SIDE // side)
    return np.repeat(np.repeat(image, factor, axis=0), factor, axis=1)


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


def lines(texts, width):
    """Names as images, black on white; long ones are smaller, down to 6 points, and at last shortened in the middle.

    Args:
        texts: list of str.
        width: int, pixels.

    Returns:
        list of uint8 `(16, width, 3)`.

    Example:

    >>> [line.shape for line in lines(["photos/cat.png"], width=200)]
    [(16, 200, 3)]
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = fit_names(texts, width * 72 / DPI - 1, {9: 1, 8: 1, 7: 1, 6: 1})
    # A quarter of a pixel more, or rounding may take a whole one away.
    canvas = FigureCanvasAgg(Figure(((width + 0.25) / DPI, (LINE * len(texts) + 0.25) / DPI), dpi=DPI))
    for row, name in enumerate(names.texts):
        canvas.figure.text(0, 1 - (row + 0.5) / len(texts), name, va="center_baseline", **names.style)
    canvas.draw()
    return list(np.asarray(canvas.buffer_rgba())[..., :3].reshape(len(texts), LINE, width, 3))


def captioned(rows, texts):
    """Rows of cells as one image, each row below a line of text.

    Args:
        rows: lists of cells of the same size, as for `grid`.
        texts: list of str, one for each row.

    Returns:
        uint8 `(height, width, 3)`.

    Example:

    >>> captioned(2 * [3 * [np.zeros((8, 8, 3), "uint8")]], ["first", "second"]).shape
    (52, 32, 3)
    """
    width = grid(rows[:1]).shape[1]
    blocks = [np.concatenate([line, grid([row])]) for line, row in zip(lines(texts, width), rows, strict=True)]
    return grid([[block] for block in blocks])


def save(path, image):
    """Writes an image, uint8 `(h, w, 3)`, as a PNG file, whole or not at all."""
    from matplotlib.image import imsave  # half a second of import time

    return replace_when_written(path, lambda temporary: imsave(temporary, image, format="png"))
