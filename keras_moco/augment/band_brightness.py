"""RandomBandBrightness."""

from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.bands import BANDS, check_bands, for_channels
from keras_moco.augment.base import Augmentation, check_rate
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomBandBrightness(Augmentation):
    """Multiplies each band by a random factor of its own and adds a random offset of its own, clamped to 0..255.

    The factors are uniform in `[max(0, 1 - brightness), 1 + brightness]`, as those of torchvision's `ColorJitter` and
    of the official code of SSL4EO-S12 (Wang et al. 2023), which multiply all bands by one; the offsets are uniform in
    `[-offset, offset]`. One for each band is our choice: the sun, haze and the sensor do not change all alike.

    Args:
        brightness: float, at least 0. Defaults to `0.4` (SSL4EO-S12).
        offset: float, at least 0, in grey levels of 0..255. Defaults to `0.0`: no offsets.
        rate: float. Probability of it, per image. Defaults to `0.8` (SSL4EO-S12).
        bands: int. The most channels that an image may have; an image takes `1 + 2 * bands` random numbers. Defaults
            to `32` (our choice).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if an argument is out of range, or if images have more channels.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomBandBrightness
    >>> layer = RandomBandBrightness(0.4, offset=10, bands=2)
    >>> draws = [[0.0, 1.0, 0.5, 0.5, 0.0]]  # whether, two factors, two offsets
    >>> layer.augment_images(np.full((1, 1, 1, 2), 100.0), draws).numpy().ravel().round(2).tolist()
    [140.0, 90.0]
    """

    def __init__(
        self, brightness: float = 0.4, offset: float = 0.0, rate: float = 0.8, bands: int = BANDS, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, strength in {"brightness": brightness, "offset": offset}.items():
            if not strength >= 0:
                raise UserError(
                    f"`{name}` must be a strength of at least 0. Received: {name}={strength}. Use 0 to skip it."
                )
        self.brightness, self.offset = float(brightness), float(offset)
        self.rate, self.bands = check_rate(rate), check_bands(bands)

    @property
    def num_draws(self) -> int:
        """int. How many random numbers one image takes: whether, and a factor and an offset for each band."""
        return 1 + 2 * self.bands

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return tf.stack(self.augment_planes(tf.unstack(images, axis=-1), draws), axis=-1)

    def augment_planes(self, planes: list[tf.Tensor], draws: tf.Tensor) -> list[tf.Tensor]:
        """The same for a list of bands, each float32 `(n, a, b)`."""
        selected = (draws[:, 0] < self.rate)[:, None]
        factors, offsets = (for_channels(part, len(planes), self) for part in tf.split(draws[:, 1:], 2, axis=1))
        low = max(0.0, 1.0 - self.brightness)
        factors = tf.where(selected, low + (1.0 + self.brightness - low) * factors, 1.0)  # (n, C)
        offsets = tf.where(selected, self.offset * (2.0 * offsets - 1.0), 0.0)
        return [
            tf.clip_by_value(plane * factors[:, band, None, None] + offsets[:, band, None, None], 0.0, 255.0)
            for band, plane in enumerate(planes)
        ]

    def get_config(self) -> dict[str, Any]:
        settings = {"brightness": self.brightness, "offset": self.offset, "rate": self.rate, "bands": self.bands}
        return {**super().get_config(), **settings}
