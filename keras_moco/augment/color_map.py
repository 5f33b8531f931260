"""Fused colour operations: any sequence of brightness, contrast, saturation and gray is three numbers per image.

Each of these operations blends a pixel with its own gray and with one flat gray:

    x -> own x + gray luma(x) + offset,    luma(x) = 0.299 R + 0.587 G + 0.114 B

    brightness by f    f, 0, 0
    contrast by f      f, 0, (1 - f) mean of luma over the image
    saturation by f    f, 1 - f, 0
    grayscale          0, 1, 0

Since the luma of luma is luma itself, one after the other has this form again. Hue, in HSV, is not. So a whole colour
jitter, in any order, is one such map, a shift of the hue, and another such map.
"""

from typing import NamedTuple

import tensorflow as tf

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L" and torchvision


class ColorStep(NamedTuple):
    """One colour operation of each image of a batch; every field `(n,)`.

    Attributes:
        own: float, weight of the pixel itself.
        gray: float, weight of its luma.
        flat: float, weight of the mean luma of the image.
        shift: float, shift of the hue in full turns; 0 for none.
        is_hue: bool, whether the operation is a shift of the hue.
    """

    own: tf.Tensor
    gray: tf.Tensor
    flat: tf.Tensor
    shift: tf.Tensor
    is_hue: tf.Tensor


class ColorMap(NamedTuple):
    """`x -> own x + gray luma(x) + offset`, one of each `(n,)` per image."""

    own: tf.Tensor
    gray: tf.Tensor
    offset: tf.Tensor

    def __call__(self, planes):
        """Maps a list of channels, each `(n, a, b)` float, and clamps to 0..255."""
        if len(planes) == 3:
            own, shared = _each(self.own), _each(self.gray) * luma(planes) + _each(self.offset)
        else:  # without colours: saturation and grayscale do nothing
            own, shared = _each(self.own + self.gray), _each(self.offset)
        return [tf.clip_by_value(own * plane + shared, 0.0, 255.0) for plane in planes]


def luma(planes):
    """The gray of a list of 3 channels; the mean of other numbers of them."""
    if len(planes) != 3:
        return sum(planes) / len(planes)
    return sum(weight * plane for weight, plane in zip(LUMA, planes, strict=True))


def fuse(steps, mean):
    """The steps one after the other, without clamping between them.

    Args:
        steps: list of `ColorStep`, whose shift of the hue is ignored.
        mean: `(n,)`, mean luma of the images.

    Returns:
        `ColorMap`.
    """
    own, gray, offset = tf.ones_like(mean), tf.zeros_like(mean), tf.zeros_like(mean)
    for step in steps:
        flat = step.flat * ((own + gray) * mean + offset)
        own, gray, offset = (
            step.own * own,
            step.own * gray + step.gray * (own + gray),
            step.own * offset + step.gray * offset + flat,
        )
    return ColorMap(own, gray, offset)


def split_at_hue(steps):
    """Steps before and after each image's hue, with neutral steps in place of the others, and the shift of its hue."""
    before, after = [], []
    passed = tf.zeros_like(steps[0].is_hue)
    for step in steps:
        passed |= step.is_hue
        before.append(_only(step, ~passed))
        after.append(_only(step, passed))
    return before, after, sum(step.shift for step in steps)


def _only(step, where):
    """The step for some images, and a neutral one for the others."""
    neutral = ColorStep(own=1.0, gray=0.0, flat=0.0, shift=0.0, is_hue=False)
    return ColorStep(*(tf.where(where, ours, other) for ours, other in zip(step, neutral, strict=True)))


def shift_hue(planes, shift):
    """Shifts the hue of red, green and blue planes `(n, a, b)` by `shift` `(n,)` full turns, -0.5 to 0.5, in HSV.

    With V the largest channel, C the largest minus the smallest, and h the hue in sixths of a turn from red, the
    channels are V - C clip(2 - d, 0, 1), where d is the distance, on a circle of 6, of h from 3 for red, from -1 for
    green and from 1 for blue. Everything is multiplied by C, so that nothing is divided.
    """
    red, green, blue = planes
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    hue = tf.where(
        value == red,
        green - blue,
        tf.where(value == green, blue - red + 2.0 * chroma, red - green - 2.0 * chroma),
    )  # times chroma, from -3 to 3
    shifted = []
    for start in (-3.0, 1.0, -1.0):
        distance = tf.abs(hue + chroma * _each(start + 6.0 * shift))  # at most 9, so that one fold makes it circular
        distance = tf.minimum(distance, tf.abs(distance - 6.0 * chroma))
        shifted.append(value - tf.clip_by_value(2.0 * chroma - distance, 0.0, chroma))
    return shifted


def _each(number):
    """One number per image `(n,)`, for planes `(n, a, b)`."""
    return number[:, None, None]
