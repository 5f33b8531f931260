"""RandomRotation."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, apply_where, check_rate
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomRotation(Augmentation):
    """Rotates an image about its centre by a random angle, at the same size.

    The angle is uniform in `[-degrees, degrees]`, as in torchvision's `RandomRotation`; positive is counter-clockwise.
    Interpolation is bilinear, and what comes from outside of the image repeats its edge, as in MONAI's `RandRotate`
    (`mode="bilinear"`, `padding_mode="border"`): black corners would say how far a view was rotated. The pixels are
    moved by Keras's `affine_transform`.

    Args:
        degrees: float, above 0 and up to 180. The largest angle. Defaults to `10.0` (MoCo-CXR, Sowrirajan et al. 2021).
        rate: float. Probability of it, per image. Defaults to `1.0` (torchvision's).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if `degrees` or `rate` is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomRotation
    >>> image = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> RandomRotation(90).augment_images(image[None], [[0.0, 1.0]]).numpy().round(3)[0, ..., 0].tolist()
    [[2.0, 4.0], [1.0, 3.0]]
    """

    num_draws = 2

    def __init__(self, degrees: float = 10.0, rate: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < degrees <= 180:
            raise UserError(
                "`degrees` must be the largest angle, above 0 and up to 180. "
                f"Received: degrees={degrees}. Choose for example 10."
            )
        self.degrees = float(degrees)
        self.rate = check_rate(rate)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        angles = math.radians(self.degrees) * (2.0 * draws[:, 1] - 1.0)
        return apply_where(draws[:, 0] < self.rate, _rotate, images, angles)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "degrees": self.degrees, "rate": self.rate}


def _rotate(images, angles):
    """`(n, H, W, C)` by `(n,)` radians."""
    size = tf.cast(tf.shape(images), "float32")
    x, y = (size[2] - 1.0) / 2.0, (size[1] - 1.0) / 2.0  # the centre
    cos, sin, zero = tf.cos(angles), tf.sin(angles), tf.zeros_like(angles)
    # Where each pixel of the result comes from: (cos x' - sin y', sin x' + cos y') from the centre.
    matrices = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y, zero, zero]
    rotated = keras.ops.image.affine_transform(images, tf.stack(matrices, axis=1), "bilinear", "nearest")
    return tf.ensure_shape(rotated, images.shape)
