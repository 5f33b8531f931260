"""RandomGaussianBlur."""

import math

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation
from keras_moco.augment.resample import gaussian_weights, resample
from keras_moco.augment.selection import apply_where, check_rate


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomGaussianBlur(Augmentation):
    """Blurs an image with a Gaussian of random width, edges replicated.

    The official code calls PIL's `GaussianBlur(radius=sigma)`, which approximates a Gaussian by three box
    blurs on whole levels. This is the sampled Gaussian itself. On a photograph, for sigmas from 0.5 to 2, the
    two differ by 0.4 to 0.6 of 255 levels on average, mostly PIL's rounding, and by up to 5; within a few
    pixels of the border, which PIL replicates anew before each box, by up to 20. Around sigma 0.3 PIL blurs
    more (1.6 levels on average): a Gaussian that narrow hardly reaches the next pixel.

    Args:
        sigma: (low, high). Range of the standard deviation, uniform, pixels. Defaults to `(0.1, 2.0)`
            (MoCo v2, after SimCLR; official `main_moco.py`).
        rate: float. Probability of it, per image. Defaults to `0.5` (MoCo v2; official `main_moco.py`).
        **kwargs: of `Augmentation`.

    Raises:
        ValueError: if `sigma` or `rate` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomGaussianBlur
    >>> RandomGaussianBlur(sigma=(1, 1), rate=1)(np.full((1, 4, 4, 1), 7.0)).numpy().round(3).max().item()
    7.0
    """

    num_draws = 2

    def __init__(self, sigma=(0.1, 2.0), rate=0.5, **kwargs):
        super().__init__(**kwargs)
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError(
                "`sigma` must be a range (low, high) of positive standard deviations. "
                f"Received: sigma={sigma}. Choose for example (0.1, 2.0)."
            )
        self.sigma = tuple(map(float, sigma))
        self.rate = check_rate(rate)

    def augment(self, images, draws):
        return apply_where(draws[:, 0] < self.rate, self._blur, images, draws[:, 1])

    def _blur(self, images, draws):
        low, high = self.sigma
        sigma = low + (high - low) * draws
        radius = math.ceil(5 * high)  # beyond it lies less than 1e-6 of the weight
        rows = gaussian_weights(sigma, tf.shape(images)[1], radius)
        columns = gaussian_weights(sigma, tf.shape(images)[2], radius)
        return tf.ensure_shape(resample(images, rows, columns), images.shape)

    def get_config(self):
        return {**super().get_config(), "sigma": self.sigma, "rate": self.rate}
