"""NumPy's files: `.npy`, and `.npz` of one array or with one named `image`; `(h, w)`, `(h, w, c)` or `(c, h, w)`."""

import io

import numpy as np

from keras_moco.errors import UserError
from keras_moco.image_formats.registry import MOST_BANDS, Facts, Raw

NAME = "image"
KINDS = "buif"  # bool, whole numbers, fractions


def read(data, channels=None):
    """A file as a `Raw`."""
    values = _array(data)
    if values.ndim not in (2, 3) or values.dtype.kind not in KINDS or not values.size:
        raise UserError(
            "An array of a NumPy file must be an image of numbers, (h, w), (h, w, c) or (c, h, w). "
            f"Received: shape {values.shape} of type {values.dtype}. Save it so."
        )
    if values.dtype == bool:
        values = values.astype("uint8") * 255
    white = {"u1": 255.0, "u2": 2.0**16 - 1}.get(values.dtype.str[1:])
    return Raw(values[..., None] if values.ndim == 2 else _channels_last(values, channels), white)


def facts(data, channels=None):
    """The `Facts` of a whole file."""
    raw = read(data, channels)
    bits = {255.0: 8, 2.0**16 - 1: 16}.get(raw.white, 0)
    height, width, channels = raw.values.shape
    return Facts(channels, height, width, bits)


def _channels_last(values, channels):
    """An array of three axes as `(h, w, c)`."""
    first, middle, last = values.shape
    if last == channels:
        return values
    if first == channels:
        return np.moveaxis(values, 0, -1)
    if first <= MOST_BANDS < last:
        raise UserError(
            f"It must be known which axis of an array has the channels if the last one is longer than {MOST_BANDS}. "
            f"Received: shape {values.shape}, {last} channels of {first} x {middle} pixels, or {first} of {middle} x "
            f"{last}. Give --channels={last} or --channels={first}, or save it as (h, w, c)."
        )
    return values


def _array(data):
    loaded = np.load(io.BytesIO(data), allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    names = loaded.files
    if NAME not in names and len(names) != 1:
        raise UserError(
            f"An .npz file must have one array, or one named `{NAME}`. Received: {', '.join(names) or 'none'}. "
            "Save the image alone."
        )
    return loaded[NAME if NAME in names else names[0]]
