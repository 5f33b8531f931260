"""Image files of every format, each with what the library that wrote it reads back."""

import io

import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

HEIGHT, WIDTH = 36, 48


def scene(channels=3, dtype="uint8", top=None):
    """An image with something of its own in every corner, from 0 to `top`."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype("float64")
    y, x = y / (HEIGHT - 1), x / (WIDTH - 1)
    bands = (
        [x, y, 1 - x, (x + y) / 2, x * y, 1 - x * y][:channels]
        if channels <= 6
        else [(number * x + (channels - number) * y) / channels for number in range(channels)]
    )
    kind = np.dtype(dtype)
    top = top or (1.0 if kind.kind == "f" else np.iinfo(kind).max)
    values = np.stack(bands, axis=-1) * top
    return values.astype(kind) if kind.kind == "f" else np.round(values).astype(kind)


def by_pillow(image, kind, **options):
    """The bytes of a Pillow image as a file."""
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


def picture(mode="RGB"):
    """The scene as a Pillow image."""
    if mode in ("P", "1"):
        return Image.fromarray(scene(3)).convert(mode)
    channels = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    return Image.fromarray(scene(channels).squeeze(), mode=None)


def tiff(values, **options):
    """The bytes of a TIFF."""
    with io.BytesIO() as file:
        tifffile.imwrite(file, values, **options)
        return file.getvalue()


def array_file(values, compressed=False, **named):
    """The bytes of an `.npy` file, or of an `.npz` file of named arrays."""
    with io.BytesIO() as file:
        if named:
            np.savez(file, **named)
        else:
            np.save(file, values)
        return file.getvalue()


def dicom(values, interpretation="MONOCHROME2", bits=12, compress=False, **more):
    """The bytes of a DICOM file of one frame `(h, w)` or `(h, w, 3)`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns = values.shape[:2]
    dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
    if values.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = interpretation
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = values.dtype.itemsize * 8, bits, bits - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    dataset.PixelData = values.tobytes()
    for name, value in more.items():
        setattr(dataset, name, value)
    if compress:
        dataset.compress(RLELossless, generate_instance_uid=False)
    with io.BytesIO() as file:
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        return file.getvalue()
