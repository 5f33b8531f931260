"""RandomGrayscale."""

from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, apply_where, check_rate
from keras_moco.augment.color_map import LUMA, ColorStep


def to_gray(images):
    """The gray of RGB pixels `(..., 3)` as `(..., 1)`; the mean of other numbers of channels."""
    if images.shape[-1] != 3:
        return tf.reduce_mean(images, axis=-1, keepdims=True)
    return tf.tensordot(images, tf.constant(LUMA)[:, None], axes=1)


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomGrayscale(Augmentation):
    """Replaces the colours by their gray (ITU-R 601), keeping three channels.

    Images of other than three channels stay as they are.

    Args:
        rate: float. Probability of it, per image. Defaults to `0.2` (official `main_moco.py`, v1 and v2).
        **kwargs: arguments of `Augmentation`.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomGrayscale
    >>> RandomGrayscale(rate=1)(np.array([[[100.0, 0.0, 0.0]]])).numpy().round(1).ravel()
    array([29.9, 29.9, 29.9], dtype=float32)
    """

    num_draws = 1

    def __init__(self, rate: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate(rate)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        if images.shape[-1] != 3:
            return images
        return apply_where(draws[:, 0] < self.rate, _gray_rgb, images)

    def color_steps(self, draws: tf.Tensor) -> list[ColorStep]:
        """The operation as a list of one `ColorStep`."""
        selected = draws[:, 0] < self.rate
        never, nothing = tf.zeros_like(selected), tf.zeros_like(draws[:, 0])
        gray = tf.cast(selected, "float32")
        return [ColorStep(own=1.0 - gray, gray=gray, flat=nothing, shift=nothing, is_hue=never)]

    def without_effect(self, channels: int) -> tuple[str, ...]:
        return () if channels == 3 else ("grayscale",)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


def _gray_rgb(images):
    return tf.repeat(to_gray(images), 3, axis=-1)
