"""RandomGrayscale, and the weights of gray."""

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation
from keras_moco.augment.selection import apply_where, check_rate

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as PIL's "L" and torchvision


def to_gray(images):
    """The gray of RGB pixels `(..., 3)` as `(..., 1)`; pixels of one channel are gray already."""
    if images.shape[-1] == 1:
        return images
    return tf.tensordot(images, tf.constant(LUMA)[:, None], axes=1)


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomGrayscale(Augmentation):
    """Replaces the colours by their gray (ITU-R 601), keeping three channels.

    Images of one channel stay as they are.

    Args:
        rate: float. Probability of it, per image. Defaults to `0.2` (official `main_moco.py`, v1 and v2).
        **kwargs: of `Augmentation`.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomGrayscale
    >>> RandomGrayscale(rate=1)(np.array([[[100.0, 0.0, 0.0]]])).numpy().round(1).ravel()
    array([29.9, 29.9, 29.9], dtype=float32)
    """

    num_draws = 1

    def __init__(self, rate=0.2, **kwargs):
        super().__init__(**kwargs)
        self.rate = check_rate(rate)

    def augment(self, images, draws):
        if images.shape[-1] == 1:
            return images
        return apply_where(draws[:, 0] < self.rate, _gray_rgb, images)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}


def _gray_rgb(images):
    return tf.repeat(to_gray(images), 3, axis=-1)
