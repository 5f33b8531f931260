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
