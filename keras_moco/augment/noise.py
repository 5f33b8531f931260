"""RandomNoise."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, Range, check_rate
from keras_moco.augment.compiled import compiled
from keras_moco.errors import UserError

BITS = 24  # of a uniform float32 in [0, 1), at most


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomNoise(Augmentation):
    """Adds Gaussian noise of random strength, independent in every pixel and channel, clamped to 0..255.

    Its mean is 0 and its standard deviation uniform in a range, as in MONAI's `RandGaussianNoise` (with `sample_std`,
    its default). The noise is a pure function of the random numbers: one of them is the seed of TensorFlow's Philox
    generator. Its bits, unlike its floats, are the same whether XLA compiles it or not.

    Args:
        sigma: (low, high). Range of the standard deviation, in grey levels of 0..255. Defaults to `(0.0, 10.0)` (our
            choice; MONAI's default would be `(0.0, 25.5)`).
        rate: float. Probability of it, per image. Defaults to `0.5` (our choice; MONAI's is `0.1`).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if `sigma` or `rate` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomNoise
    >>> noisy = RandomNoise(sigma=(5, 5), rate=1)(np.full((1, 200, 200, 1), 100.0)).numpy()
    >>> bool(abs(noisy.mean() - 100) < 0.2 and abs(noisy.std() - 5) < 0.2)
    True
    """

    num_draws = 3

    def __init__(self, sigma: Range = (0.0, 10.0), rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= sigma[0] <= sigma[1] or not sigma[1]:
            raise UserError(
                "`sigma` must be a range (low, high) of standard deviations in grey levels, from 0 upwards. "
                f"Received: sigma={sigma}. Choose for example (0, 10)."
            )
        self.sigma = tuple(map(float, sigma))
        self.rate = check_rate(rate)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        low, high = self.sigma
        sigmas = low + (high - low) * draws[:, 1]
        seeds = tf.cast(draws[:, 2] * 2**BITS, "int32")

        def augment_one(parts):
            image, selected, sigma, seed = parts
            return tf.cond(selected, lambda: _add_noise(image, sigma, seed), lambda: image)

        # One by one, so that those without noise cost nothing, and that each has a generator of its own.
        parts = (images, draws[:, 0] < self.rate, sigmas, seeds)
        return tf.map_fn(augment_one, parts, fn_output_signature=tf.TensorSpec(images.shape[1:], images.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sigma": self.sigma, "rate": self.rate}


def _add_noise(image, sigma, seed):
    key = tf.stack([0, seed])
    bits = tf.random.stateless_uniform(tf.shape(image), key, None, None, tf.uint32, alg="philox")
    return _add_normal(image, sigma, bits)


@compiled
def _add_normal(image, sigma, bits):
    # The middles of 2**23 equal parts of (-1, 1), all of them exact in float32.
    uniform = (tf.cast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), "float32") + 0.5) * 2.0**-22 - 1.0
    normal = math.sqrt(2.0) * tf.math.erfinv(uniform)  # by the inverse of the distribution function
    return tf.clip_by_value(image + sigma * normal, 0.0, 255.0)
