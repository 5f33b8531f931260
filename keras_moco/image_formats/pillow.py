"""JPEG, BMP, GIF, WebP and AVIF by Pillow; of an animation the first frame."""

import io

import numpy as np
from PIL import Image, ImageOps

from keras_moco.image_formats.orient import upright_size
from keras_moco.image_formats.registry import Facts, Raw

ORIENTATION = 274  # the tag of EXIF
WHOLE = {"1": 1, "L": 1, "LA": 1, "La": 1, "P": 3, "PA": 3, "RGB": 3, "RGBA": 3, "RGBa": 3, "RGBX": 3}
DEEP = {"I": 0, "I;16": 16, "I;16B": 16, "I;16L": 16, "F": 0}  # modes with one channel to the bits of a value
ANIMATED = ("GIF", "WEBP")  # as Pillow calls them; a second picture in a JPEG of a camera is no animation


def read(data, channels=None):
    """A file as a `Raw`."""
    with Image.open(io.BytesIO(data)) as image:
        return raw(image)


def facts(data, channels=None):
    """The `Facts` of a file, from its beginning."""
    with Image.open(io.BytesIO(data)) as image:
        return facts_of_image(image)


def raw(image):
    """A Pillow image as a `Raw`."""
    image.seek(0)
    bits = _bits(image)
    image = ImageOps.exif_transpose(image)
    if image.mode in DEEP:
        return Raw(np.asarray(image)[..., None], 2.0**bits - 1 if bits == 16 else None)
    alpha = image.has_transparency_data
    gray = WHOLE.get(image.mode, 3) == 1
    wanted = ("LA" if gray else "RGBA") if alpha else ("L" if gray else "RGB")
    values = np.asarray(image if image.mode == wanted else image.convert(wanted))
    return Raw(values[..., None] if values.ndim == 2 else values, 255.0, alpha)


def facts_of_image(image):
    """The `Facts` of a Pillow image."""
    turned = orientation(image)
    height, width = upright_size(image.height, image.width, turned)
    return Facts(
        channels=1 if image.mode in DEEP else WHOLE.get(image.mode, 3),
        height=height,
        width=width,
        bits=_bits(image),
        alpha=image.has_transparency_data,
        turned=turned > 1,
        pages=getattr(image, "n_frames", 1) if image.format in ANIMATED else 1,
    )


def _bits(image):
    """The bits of a value; 0 where it is a fraction or has a unit of its own."""
    if image.format == "PPM" and image.mode == "I":
        return 16  # Pillow scales them to 16 bits
    return DEEP.get(image.mode, 8)


def orientation(image):
    """The orientation that EXIF gives, 1 (upright) to 8."""
    # Pillow decodes a whole PNG to look for EXIF after its pixels.
    found = image.getexif().get(ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
    return found if found in range(1, 9) else 1
