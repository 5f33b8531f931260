"""RandomBandDrop."""

from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.bands import BANDS, check_bands, for_channels
from keras_moco.augment.base import Augmentation, check_rate
from keras_moco.errors import UserError

FILLS = ("zero", "mean")


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomBandDrop(Augmentation):
    """Replaces some bands of an image by a constant, never all of them.

    Each band is dropped with the same probability, independently; where all would be, one at random stays. So features
    cannot depend on a single band. The official code of SSL4EO-S12 (Wang et al. 2023) instead sets 1 to 6 of 13 bands
    to 0, of half of the images. An image of one band is never changed.

    Args:
        band_rate: float. Probability of it, per band of an image that is changed. Defaults to `0.25` (our choice;
            SSL4EO-S12 drops 27 % on average).
        rate: float. Probability that an image is changed at all. Defaults to `0.5` (SSL4EO-S12).
        fill: `"zero"` or `"mean"`, the constant: 0, or the mean of the band in this image. Defaults to `"zero"`
            (SSL4EO-S12).
        bands: int. The most channels that an image may have; an image takes `1 + bands` random numbers. Defaults to
            `32` (our choice).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if an argument is out of range, or if images have more channels.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomBandDrop
    >>> layer = RandomBandDrop(band_rate=0.5, bands=3)
    >>> draws = [[0.0, 0.2, 0.7, 0.4]]  # whether, and one for each band
    >>> layer.augment_images(np.full((1, 1, 1, 3), 100.0), draws).numpy().ravel().tolist()
    [0.0, 100.0, 0.0]
    """

    def __init__(
        self, band_rate: float = 0.25, rate: float = 0.5, fill: str = "zero", bands: int = BANDS, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= band_rate <= 1:
            raise UserError(
                "`band_rate` must be the probability, from 0 to 1, that a band is dropped. "
                f"Received: band_rate={band_rate}. Choose a number in that range."
            )
        if fill not in FILLS:
            raise UserError(
                f"`fill` must be {' or '.join(map(repr, FILLS))}. Received: fill={fill!r}. Choose one of them."
            )
        self.band_rate, self.fill = float(band_rate), fill
        self.rate, self.bands = check_rate(rate), check_bands(bands)

    @property
    def num_draws(self) -> int:
        """int. How many random numbers one image takes: whether, and one for each band."""
        return 1 + self.bands

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return tf.stack(self.augment_planes(tf.unstack(images, axis=-1), draws), axis=-1)

    def augment_planes(self, planes: list[tf.Tensor], draws: tf.Tensor) -> list[tf.Tensor]:
        """The same for a list of bands, each float32 `(n, a, b)`."""
        numbers = for_channels(draws[:, 1:], len(planes), self)
        dropped = (draws[:, :1] < self.rate) & (numbers < self.band_rate)  # (n, C)
        last = tf.one_hot(tf.argmax(numbers, axis=1), len(planes), True, False)  # the one that stays, of all
        dropped &= ~(last & tf.reduce_all(dropped, axis=1, keepdims=True))
        return [
            tf.where(dropped[:, band, None, None], self._constant(plane), plane) for band, plane in enumerate(planes)
        ]

    def _constant(self, plane):
        # Not `tf.constant(0.0)`, for which TensorFlow returns the -0.0 that anybody has made before: they are equal.
        return tf.reduce_mean(plane, axis=[1, 2], keepdims=True) if self.fill == "mean" else tf.zeros_like(plane)

    def without_effect(self, channels: int) -> tuple[str, ...]:
        return ("band dropping",) if channels == 1 else ()

    def get_config(self) -> dict[str, Any]:
        settings = {"band_rate": self.band_rate, "rate": self.rate, "fill": self.fill, "bands": self.bands}
        return {**super().get_config(), **settings}
