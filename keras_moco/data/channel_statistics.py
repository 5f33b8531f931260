"""Mean and standard deviation of each channel of a set of images, for the scaling before a network."""

import itertools
import math

import numpy as np

from keras_moco.errors import UserError

SAMPLE = 1024  # images; the mean of natural images varies by about 0.15 between them, so by 0.005 between samples
PIXELS = 2**18  # of an image, at equal distances, that are measured
SMALLEST_STD = 0.001  # as it must be positive, also of a channel that is the same everywhere
DIGITS = 4


class ChannelStatistics:
    """Collects images; all of them have the same weight, whatever their size.

    Args:
        channels: int.

    Example:

    >>> statistics = ChannelStatistics(1)
    >>> statistics.add(np.array([[[0], [255]]], "uint8"))
    >>> statistics.mean, statistics.std
    (array([0.5]), array([0.5]))
    """

    def __init__(self, channels):
        self.images = 0
        self._mean, self._square = np.zeros(channels), np.zeros(channels)

    def add(self, image):
        """Adds an image `(h, w, C)` with values in 0..255."""
        values = thinned(image).reshape(-1, image.shape[-1]) / np.float64(255)
        self.images += 1
        self._mean += values.mean(axis=0)
        self._square += np.square(values).mean(axis=0)

    @property
    def mean(self):
        """float64 `(C,)`, of values in 0..1; NaN of no image."""
        return self._mean / (self.images or math.nan)

    @property
    def std(self):
        """float64 `(C,)`, likewise: over all pixels of all images."""
        return np.sqrt(np.maximum(self._square / (self.images or math.nan) - self.mean**2, 0))


def thinned(image, pixels=PIXELS):
    """At most about `pixels` pixels of an image `(h, w, C)`, at equal distances."""
    step = math.ceil(math.sqrt(image.shape[0] * image.shape[1] / pixels))
    return image[::step, ::step]


def mean_and_std(source, sample=SAMPLE):
    """Mean and standard deviation of each channel, measured on a random sample, which is the same in every run.

    Args:
        source: `Source`.
        sample: int, at least 1, images at most. Defaults to `1024`.

    Returns:
        `(mean, std)`, tuples of one float for each channel, of images in 0..1, with four digits.

    Raises:
        ValueError: if no image can be read, or more are unreadable than allowed.

    Example:

    >>> from keras_moco.data import open_source
    >>> mean_and_std(open_source("digits", "test"))
    ((0.3048,), (0.3756,))
    """
    statistics = ChannelStatistics(source.image_shape[-1])
    for example in itertools.islice(source.examples(seed=0).as_numpy_iterator(), sample):
        statistics.add(example["image"])
    if not statistics.images:
        raise UserError(f"At least one image must be readable. Received: none in {source.name}. Repair them.")
    return tuple(
        tuple(round(float(number), DIGITS) for number in numbers)
        for numbers in (statistics.mean, np.maximum(statistics.std, SMALLEST_STD))
    )
