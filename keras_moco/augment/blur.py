"""RandomGaussianBlur."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, Range, apply_where, as_type, check_rate
from keras_moco.augment.resample import gaussian_weights, resample
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomGaussianBlur(Augmentation):
    """Blurs an image with a Gaussian of random width, edges replicated.

    The official code calls PIL's `GaussianBlur(radius=sigma)`, which approximates a Gaussian by three box
    blurs on whole levels. This is the sampled Gaussian itself. On a photograph, for sigmas from 0.5 to 2, the
    two differ by 0.4 to 0.6 of 255 levels on average, mostly PIL's rounding, and by up to 5; within a few
    pixels of the border, which PIL replicates again before each box, by up to 20. Around sigma 0.3 PIL blurs
    more (1.6 levels on average): a Gaussian that narrow hardly reaches the next pixel.

    Args:
        sigma: (low, high). Range of the standard deviation, uniform, pixels. Defaults to `(0.1, 2.0)`
            (MoCo v2, after SimCLR; official `main_moco.py`).
        rate: float. Probability of it, per image. Defaults to `0.5` (MoCo v2; official `main_moco.py`).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if `sigma` or `rate` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomGaussianBlur
    >>> RandomGaussianBlur(sigma=(1, 1), rate=1)(np.full((1, 4, 4, 1), 7.0)).numpy().round(3).max().item()
    7.0
    """

    num_draws = 2

    def __init__(self, sigma: Range = (0.1, 2.0), rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < sigma[0] <= sigma[1]:
            raise UserError(
                "`sigma` must be a range (low, high) of positive standard deviations. "
                f"Received: sigma={sigma}. Choose for example (0.1, 2.0)."
            )
        self.sigma = tuple(map(float, sigma))
        self.rate = check_rate(rate)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return apply_where(draws[:, 0] < self.rate, self._blur, images, draws[:, 1])

    def _blur(self, images, draws):
        low, high = self.sigma
        sigma = low + (high - low) * draws
        radius = math.ceil(5 * high)  # less than 1e-6 of the weight is beyond it
        rows = gaussian_weights(sigma, tf.shape(images)[1], radius)
        columns = gaussian_weights(sigma, tf.shape(images)[2], radius)
        return tf.ensure_shape(resample(images, rows, columns), images.shape)

    def blur_planes(self, crops: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        """The same for the crops of `Fused`: a weighted sum of neighbours along each axis.

        It is cut off at four standard deviations; less than a ten-thousandth of the weight is beyond.

        Args:
            crops: uint8 or float32 `(n, a, C, b)`.
            draws: uniform random numbers, `(n, 2)`.

        Returns:
            `(n, a, C, b)` of the same type; crops that are not selected for a blur are unchanged.
        """
        low, high = self.sigma
        radius = math.ceil(4 * high)
        distance = tf.range(-radius, radius + 1, dtype="float32")
        sigma = low + (high - low) * draws[:, 1]
        weights = tf.exp(-0.5 * tf.square(distance[None] / sigma[:, None]))
        weights /= tf.reduce_sum(weights, axis=1, keepdims=True)  # (n, 2 radius + 1)
        blurred = tf.cast(crops, "float32")
        for axis in (1, 3):
            blurred = _weigh_neighbours(blurred, weights, radius, axis)
        return tf.where((draws[:, 0] < self.rate)[:, None, None, None], as_type(blurred, crops.dtype), crops)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma, "rate": self.rate}


def _weigh_neighbours(images, weights, radius, axis):
    """Sums of `weights` `(n, 2 radius + 1)` times the neighbours along an axis, its edges replicated."""
    size = images.shape[axis]
    index = tf.clip_by_value(tf.range(-radius, size + radius), 0, size - 1)
    padded = tf.gather(images, index, axis=axis)
    total = 0.0
    for offset in range(2 * radius + 1):
        start, extent = [0] * 4, [-1] * 4
        start[axis], extent[axis] = offset, size
        total += weights[:, offset, None, None, None] * tf.slice(padded, start, extent)
    return total
