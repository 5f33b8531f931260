"""RandomColorJitter with torchvision's semantics: four operations in a random order."""

import itertools
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation, apply_where, check_rate
from keras_moco.augment.color_map import LUMA, ColorStep, shift_hue
from keras_moco.augment.grayscale import to_gray
from keras_moco.errors import UserError

ORDERS = tuple(itertools.permutations(range(4)))


def adjust_brightness(images, factor):
    """Multiplies pixels `(n, H, W, C)` by `factor` `(n,)`: 0 is black, 1 the image itself."""
    return _scale_and_add(images, factor, tf.zeros_like(factor))


def adjust_contrast(images, factor):
    """Blends with the mean of the gray image: factor 0 is one flat gray, 1 the image itself.

    Of images of other than three channels it is the mean of all channels and pixels: of one, as in torchvision's
    `adjust_contrast`; of others, our choice.
    """
    mean = to_gray(tf.reduce_mean(_pixels(images), axis=1))  # (n, 1): gray is linear, so its mean is the mean's
    return _scale_and_add(images, factor, (1.0 - factor) * mean[:, 0])


def adjust_saturation(images, factor):
    """Blends with the gray image: factor 0 is gray, 1 the image itself. RGB images only."""
    gray = tf.tile(tf.constant(LUMA)[:, None], [1, 3])  # pixel (3,) @ gray (3, 3): its gray, three times
    factor = factor[:, None, None]
    mixed = tf.matmul(_pixels(images), factor * tf.eye(3) + (1.0 - factor) * gray)
    return tf.reshape(tf.clip_by_value(mixed, 0.0, 255.0), tf.shape(images))


def adjust_hue(images, shift):
    """Shifts the hue, in HSV, by `shift` `(n,)` of a full turn, -0.5 to 0.5. RGB images only."""
    planes = tf.transpose(images, [3, 0, 1, 2])  # each channel contiguous
    shifted = tf.stack(shift_hue(tf.unstack(planes), shift), axis=1)
    return tf.transpose(tf.clip_by_value(shifted, 0.0, 255.0), [0, 2, 3, 1])


def _pixels(images):
    """`(n, H, W, C)` as `(n, H * W, C)`."""
    shape = tf.shape(images)
    return tf.reshape(images, [shape[0], shape[1] * shape[2], images.shape[-1]])


def _scale_and_add(images, factor, offset):
    """`factor * images + offset`, clamped; one factor and one offset per image, `(n,)`."""
    # Rows of one image each: TensorFlow broadcasts along one long axis much faster than along three.
    shape = tf.shape(images)
    rows = tf.reshape(images, [shape[0], shape[1] * shape[2] * shape[3]])
    rows = tf.clip_by_value(rows * factor[:, None] + offset[:, None], 0.0, 255.0)
    return tf.reshape(rows, shape)


@keras.saving.register_keras_serializable(package="keras_moco")
class RandomColorJitter(Augmentation):
    """Jitters brightness, contrast, saturation and hue, as torchvision's `ColorJitter`.

    The first three factors are uniform in `[max(0, 1 - x), 1 + x]`, the shift of the hue in `[-hue, hue]` full turns.
    The operations run in a random order, another for every image, with values clamped to 0..255 after each. An
    operation of strength 0 is skipped.

    In images of other than three channels, brightness multiplies all channels by the same factor, contrast blends all
    with one number, the mean of all channels and pixels (of one channel, as torchvision; of others, our choice), and
    saturation and hue do nothing.

    Args:
        brightness: float, at least 0. MoCo v1 and v2 use `0.4` (official `main_moco.py`).
        contrast: float, at least 0. MoCo v1 and v2 use `0.4`.
        saturation: float, at least 0. MoCo v1 and v2 use `0.4`.
        hue: float, 0 to 0.5. MoCo v1 uses `0.4`, v2 `0.1`.
        rate: float. Probability that an image is jittered at all. Defaults to `1.0` (v1; v2 uses `0.8`).
        **kwargs: arguments of `Augmentation`.

    Raises:
        ValueError: if a strength or the rate is out of range.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import RandomColorJitter
    >>> jitter = RandomColorJitter(0.4, 0.0, 0.0, 0.0)
    >>> draws = [[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]]  # whether, in which order, and the four amounts
    >>> jitter.augment_images(np.full((1, 1, 1, 3), 100.0), draws).numpy().ravel().tolist()
    [140.0, 140.0, 140.0]
    """

    num_draws = 6

    def __init__(
        self, brightness: float, contrast: float, saturation: float, hue: float, rate: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        for name, strength in strengths.items():
            if strength < 0 or (name == "hue" and strength > 0.5):
                raise UserError(
                    f"`{name}` must be a strength of at least 0{', up to 0.5' if name == 'hue' else ''}. "
                    f"Received: {name}={strength}. Use 0 to skip it."
                )
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.saturation, self.hue = float(saturation), float(hue)
        self.rate = check_rate(rate)

    def amounts(self, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """What the random numbers `(n, num_draws)` mean.

        Returns:
            `(selected, order, amounts)`: whether an image is jittered, bool `(n,)`; the order of brightness, contrast,
            saturation and hue, 0 to 3, from first to last, int `(n, 4)`; and the factors of the first three and the
            shift of the hue, float `(n, 4)`, not yet in that order.
        """
        strengths = (self.brightness, self.contrast, self.saturation)
        low = tf.constant([max(0.0, 1 - strength) for strength in strengths] + [-self.hue])
        high = tf.constant([1 + strength for strength in strengths] + [self.hue])
        order = tf.minimum(tf.cast(draws[:, 1] * len(ORDERS), "int32"), len(ORDERS) - 1)
        return draws[:, 0] < self.rate, tf.gather(tf.constant(ORDERS), order), low + (high - low) * draws[:, 2:]

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        selected, order, amounts = self.amounts(draws)
        return apply_where(selected, self._jitter, images, order, amounts)

    def _jitter(self, images, order, amounts):
        operations = self._operations(images.shape[-1])
        for slot in range(4):
            operation = order[:, slot]
            amount = tf.gather(amounts, operation, batch_dims=1)
            images = _apply_each(operations, operation, images, amount)
        return images

    def color_steps(self, draws: tf.Tensor) -> list[ColorStep]:
        """The jitter as four `ColorStep`, in each image's own order."""
        selected, order, amounts = self.amounts(draws)
        steps = []
        for slot in range(4):
            amount = tf.gather(amounts, order[:, slot], batch_dims=1)
            brightness, contrast, saturation, hue = (selected & (order[:, slot] == number) for number in range(4))
            steps.append(
                ColorStep(
                    own=tf.where(brightness | contrast | saturation, amount, 1.0),
                    gray=tf.where(saturation, 1.0 - amount, 0.0),
                    flat=tf.where(contrast, 1.0 - amount, 0.0),
                    shift=tf.where(hue, amount, 0.0),
                    is_hue=hue,
                )
            )
        return steps

    def without_effect(self, channels: int) -> tuple[str, ...]:
        colors = {"saturation": self.saturation, "hue": self.hue}
        return () if channels == 3 else tuple(name for name, strength in colors.items() if strength)

    def _operations(self, channels):
        """The four operations in the order of the strengths; None for one that is skipped."""
        color = channels == 3
        return (
            adjust_brightness if self.brightness else None,
            adjust_contrast if self.contrast else None,
            adjust_saturation if self.saturation and color else None,
            adjust_hue if self.hue and color else None,
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "rate": self.rate,
        }


def _apply_each(operations, operation, images, amount):
    """Applies `operations[operation[i]]` to image i, each operation running on its own images only."""
    count = len(operations)
    rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), operation, count)
    parts = tf.dynamic_partition(images, operation, count)
    amounts = tf.dynamic_partition(amount, operation, count)
    results = [
        part if function is None else function(part, part_amount)
        for function, part, part_amount in zip(operations, parts, amounts, strict=True)
    ]
    return tf.ensure_shape(tf.dynamic_stitch(rows, results), images.shape)
