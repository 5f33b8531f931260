"""The eight orientations of EXIF, as a transposition and two mirrorings."""

import numpy as np

# Orientation to whether rows and columns are exchanged, and then rows and columns are reversed (EXIF 2.32, table 6).
STEPS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def upright(values, orientation):
    """An array `(h, w, c)` turned upright from an orientation of 1 to 8.

    Example:

    >>> upright(np.array([[[1], [2], [3]]]), 6)[..., 0].tolist()  # to be turned by 90 degrees clockwise
    [[1], [2], [3]]
    """
    exchanged, rows, columns = STEPS.get(orientation, STEPS[1])
    values = values.transpose(1, 0, 2) if exchanged else values
    values = values[::-1] if rows else values
    return np.ascontiguousarray(values[:, ::-1] if columns else values)


def upright_size(height, width, orientation):
    """Height and width, upright, of an image that is stored with an orientation of 1 to 8.

    Example:

    >>> upright_size(10, 20, 6)
    (20, 10)
    """
    exchanged, _, _ = STEPS.get(orientation, STEPS[1])
    return (width, height) if exchanged else (height, width)


def stored_box(box, size, orientation):
    """The box in the stored image that is a box in the upright one.

    Args:
        box: top, left, height and width.
        size: height and width of the stored image.
        orientation: int, 1 to 8.

    Returns:
        list of top, left, height and width.

    Example:

    >>> stored_box([0, 0, 1, 2], (10, 20), 6)  # the upper left corner is the lower left one, turned
    [8, 0, 2, 1]
    """
    exchanged, rows, columns = STEPS[orientation]
    (top, left, height, width), (full_height, full_width) = box, size[::-1] if exchanged else size
    top = full_height - top - height if rows else top
    left = full_width - left - width if columns else left
    return [left, top, width, height] if exchanged else [top, left, height, width]
