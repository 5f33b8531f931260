"""PNG of all kinds: Pillow reads those of up to 8 bits and gray ones, TensorFlow colours of 16 bits."""

import io

from PIL import Image

from keras_moco.image_formats import pillow
from keras_moco.image_formats.orient import upright
from keras_moco.image_formats.registry import Raw

BITS = 24  # where the header has the bits of a value
KIND = 25  # and what the channels are:
GRAY, COLOUR, GRAY_ALPHA = 0, 2, 4


def read(data, channels=None):
    """A file as a `Raw`."""
    if data[BITS] != 16 or data[KIND] == GRAY:
        return pillow.read(data)
    import tensorflow as tf  # Pillow keeps 8 bits of colours

    with tf.device("CPU"):
        values = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    with Image.open(io.BytesIO(data)) as image:
        orientation = pillow.orientation(image)
    return Raw(upright(values, orientation), 2.0**16 - 1, values.shape[-1] in (2, 4))


def facts(data, channels=None):
    """The `Facts` of a file, from its beginning."""
    found = pillow.facts(data)
    channels = 1 if data[KIND] in (GRAY, GRAY_ALPHA) else found.channels
    return found._replace(channels=channels, bits=max(8, data[BITS]))


def simple_orientation(data):
    """The orientation, 1 to 8, of a PNG or JPEG of 8 bits without opacity or palette, which TensorFlow reads.

    Returns:
        int; 0 for any other.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.format == "PNG" and (data[BITS] != 8 or data[KIND] not in (GRAY, COLOUR)):
                return 0
            # TensorFlow cannot make CMYK gray.
            return 0 if image.has_transparency_data or image.mode == "CMYK" else pillow.orientation(image)
    except Exception:  # it is damaged, as its decoder will say
        return 1
