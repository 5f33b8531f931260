"""RandomHorizontalFlip."""

from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, apply_where, check_rate


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomHorizontalFlip(Augmentation):
    """Mirrors an image left to right.

    Args:
        rate: float. Probability of it, per image. Defaults to `0.5` (torchvision's; official `main_moco.py`).
        **kwargs: arguments of `Augmentation`.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomHorizontalFlip
    >>> RandomHorizontalFlip(rate=1)(np.array([[[1.0], [2.0]]])).numpy().ravel().tolist()
    [2.0, 1.0]
    """

    num_draws = 1

    def __init__(self, rate: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = check_rate(rate)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return apply_where(draws[:, 0] < self.rate, _mirror, images)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


def _mirror(images):
    return tf.reverse(images, axis=[2])
