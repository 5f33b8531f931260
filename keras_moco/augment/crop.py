"""RandomResizedCrop with torchvision's semantics."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, Range
from keras_moco.augment.resample import crop_weights, resample
from keras_moco.errors import UserError

TRIES = 10  # torchvision's, before it falls back to a central crop


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomResizedCrop(Augmentation):
    """Crops a random box and resizes it to a square, as torchvision's `RandomResizedCrop`.

    The box's area is uniform in `scale` (a fraction of the image's), its aspect (width / height) log-uniform
    in `ratio`, its sides rounded to whole pixels and its corner uniform among the whole pixels that fit. Ten
    boxes are tried; when none fits, the largest central box within `ratio` is taken. Resizing is antialiased
    bilinear, as PIL's, seeing nothing outside the box.

    Args:
        size: int. Side of the square output, pixels.
        scale: (low, high). Range of the crop's area as a fraction of the image's. Defaults to `(0.2, 1.0)`
            (official `main_moco.py`; torchvision's own default, `(0.08, 1.0)`, is the CIFAR demo's).
        ratio: (low, high). Range of width / height. Defaults to `(3/4, 4/3)` (torchvision's).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if `size` or a range cannot be met.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomResizedCrop
    >>> RandomResizedCrop(32)(np.zeros((8, 48, 64, 3), "uint8")).shape
    TensorShape([8, 32, 32, 3])
    """

    num_draws = 2 * TRIES + 2

    def __init__(self, size: int, scale: Range = (0.2, 1.0), ratio: Range = (3 / 4, 4 / 3), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if int(size) < 1:
            raise UserError(
                "`size` must be a positive number of pixels. "
                f"Received: size={size}. Choose the side of the square views."
            )
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(
                "`scale` must be a range (low, high) of fractions of the image's area, above 0 and up to 1. "
                f"Received: scale={scale}. Choose for example (0.2, 1.0)."
            )
        if not 0 < ratio[0] <= ratio[1]:
            raise UserError(
                "`ratio` must be a range (low, high) of positive aspect ratios. "
                f"Received: ratio={ratio}. Choose for example (0.75, 1.333)."
            )
        self.size = int(size)
        self.scale = tuple(map(float, scale))
        self.ratio = tuple(map(float, ratio))

    def boxes(
        self, draws: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """The boxes that the random numbers describe.

        Args:
            draws: uniform random numbers in [0, 1), `(n, num_draws)`: ten areas, ten aspects, top, left.
            height: int or scalar tensor, height of the images.
            width: int or scalar tensor, width of the images.

        Returns:
            `(top, left, height, width)`, each `(n,)` float32 holding whole numbers.
        """
        draws = tf.cast(draws, "float32")
        height, width = tf.cast(height, "float32"), tf.cast(width, "float32")
        low, high = self.scale
        area = height * width * (low + (high - low) * draws[:, :TRIES])
        low, high = map(math.log, self.ratio)
        aspect = tf.exp(low + (high - low) * draws[:, TRIES : 2 * TRIES])
        w, h = tf.round(tf.sqrt(area * aspect)), tf.round(tf.sqrt(area / aspect))  # half to even, as Python
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)  # (n, tries)

        fallback_w, fallback_h = self._fallback(height, width)
        found = tf.reduce_any(fits, axis=1)
        first = tf.argmax(fits, axis=1)[:, None]
        w = tf.where(found, tf.gather(w, first, batch_dims=1)[:, 0], fallback_w)
        h = tf.where(found, tf.gather(h, first, batch_dims=1)[:, 0], fallback_h)

        room_h, room_w = height - h, width - w
        # The minimum guards against float rounding only: random numbers are below 1.
        top = tf.minimum(tf.floor(draws[:, -2] * (room_h + 1)), room_h)
        left = tf.minimum(tf.floor(draws[:, -1] * (room_w + 1)), room_w)
        top = tf.where(found, top, tf.floor(room_h / 2))
        left = tf.where(found, left, tf.floor(room_w / 2))
        return top, left, h, w

    def _fallback(self, height, width):
        """The largest box within `ratio`, `(width, height)`."""
        low, high = self.ratio
        w = tf.where(width / height > high, tf.round(height * high), width)
        h = tf.where(width / height < low, tf.round(width / low), height)
        return w, h

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        height, width = tf.shape(images)[1], tf.shape(images)[2]
        top, left, h, w = self.boxes(draws, height, width)
        if images.shape[0] == 1:
            return self._crop_one(images, top, left, h, w)
        rows = crop_weights(top, h, height, self.size)
        columns = crop_weights(left, w, width, self.size)
        return resample(images, rows, columns)

    def _crop_one(self, images, *box):
        """The same resampling of a batch known to hold one image, without matrices mostly of zeros."""
        top, left, h, w = (tf.cast(side[0], "int32") for side in box)
        cut = images[:, top : top + h, left : left + w]
        return tf.image.resize(cut, [self.size, self.size], antialias=True)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "scale": self.scale, "ratio": self.ratio}
