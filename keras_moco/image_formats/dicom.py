"""DICOM by pydicom, in the unit of its rescale slope and intercept; of several frames the first."""

import io

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_windowing, pixel_array

from keras_moco.errors import UserError
from keras_moco.image_formats.registry import Facts, Raw

PALETTE = "PALETTE COLOR"


def read(data, channels=None):
    """A file as a `Raw`. MONOCHROME1, where low values are bright, is inverted."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    stored = pixel_array(dataset, index=0)
    if dataset.PhotometricInterpretation == PALETTE:
        colours = apply_color_lut(stored, dataset)
        return Raw(colours, float(np.iinfo(colours.dtype).max))
    if stored.ndim == 3:
        return Raw(stored, 2.0 ** int(dataset.BitsStored) - 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        stored = sum(_ends(dataset)) - stored.astype("int64")
    return Raw(apply_modality_lut(stored, dataset).astype("float32")[..., None], None)


def windowed(data):
    """A file as a `Raw` of what its own window shows, black to white as 0 to 255 (DICOM PS3.3, C.11.2.1.2).

    Raises:
        ValueError: if it has no window.
    """
    dataset = pydicom.dcmread(io.BytesIO(data))
    if "WindowCenter" not in dataset or "WindowWidth" not in dataset:
        raise UserError("A DICOM file must have a window for --value_range=window. Received: none. Give a range.")
    values = apply_modality_lut(pixel_array(dataset, index=0), dataset)
    shown = apply_windowing(values, dataset).astype("float32")
    # pydicom scales to the range of the stored values, rescaled: the ends are exchanged where the slope is negative.
    black, white = apply_modality_lut(np.array(_ends(dataset)), dataset).astype("float32")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        black, white = white, black
    return Raw(((shown - black) / (white - black) * 255)[..., None], 255.0)


def facts(data, channels=None):
    """The `Facts` of a whole file."""
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    pages = int(dataset.get("NumberOfFrames", 1) or 1)
    colours = dataset.SamplesPerPixel > 1 or dataset.PhotometricInterpretation == PALETTE
    bits = max(8, int(dataset.BitsStored)) if colours else 0
    return Facts(3 if colours else 1, int(dataset.Rows), int(dataset.Columns), bits, pages=pages)


def _ends(dataset):
    """The lowest and the highest value that can be stored."""
    bits, signed = int(dataset.BitsStored), int(dataset.PixelRepresentation)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
