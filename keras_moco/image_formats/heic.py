"""HEIC by pillow-heif, which turns images upright and keeps 8 bits."""

import pillow_heif

from keras_moco.image_formats import pillow


def read(data, channels=None):
    """A file as a `Raw`."""
    return pillow.raw(pillow_heif.read_heif(data).to_pillow())


def facts(data, channels=None):
    """The `Facts` of a whole file."""
    return pillow.facts_of_image(pillow_heif.open_heif(data).to_pillow())
