"""Augmentations one after the other, and two views of the same images."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_moco.augment.base import Augmentation
from keras_moco.augment.images import image_batch
from keras_moco.checks.pixel_range import check_pixels
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class Compose(Augmentation):
    """Applies augmentations in order; its random numbers are theirs, side by side.

    Args:
        layers: list of `Augmentation`.
        **kwargs: arguments of `Augmentation`. Random numbers come from this layer's generator, not from those of
            `layers`.

    Raises:
        ValueError: if an element of `layers` is no `Augmentation`.

    Example:

    >>> from keras_moco.augment import Compose, RandomGrayscale, RandomHorizontalFlip
    >>> Compose([RandomHorizontalFlip(), RandomGrayscale()]).num_draws
    2
    """

    def __init__(self, layers: Sequence[Augmentation], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for layer in layers:
            if not isinstance(layer, Augmentation):
                raise UserError(
                    "`layers` must hold `Augmentation` layers only, whose random numbers can be put side by side. "
                    f"Received: {layer!r}. Subclass `Augmentation` to wrap another operation."
                )
        self.layers = list(layers)

    @property
    def num_draws(self) -> int:
        """int. How many random numbers one image takes: the sum over the layers."""
        return sum(layer.num_draws for layer in self.layers)

    def augment(self, images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        start = 0
        for layer in self.layers:
            images = layer.augment(images, draws[:, start : start + layer.num_draws])
            start += layer.num_draws
        return images

    def without_effect(self, channels: int) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.without_effect(channels)))

    def get_config(self) -> dict[str, Any]:
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Compose":
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})


def two_views(
    augmentation: Augmentation,
    images: tf.types.experimental.TensorLike,
    draws: tf.types.experimental.TensorLike | None = None,
) -> dict[str, tf.Tensor]:
    """Augments every image twice, independently (MoCo v1, sec. 3.3).

    Args:
        augmentation: an `Augmentation`.
        images: `(n, H, W, C)`, values 0..255.
        draws: uniform random numbers in [0, 1), `(n, 2, num_draws)`, that decide everything; None takes new ones
            from the augmentation's own generator.

    Returns:
        dict of `"query"` and `"key"`, each `(n, s, s, C)`, values 0..255, uint8 or float32 as the augmentation gives.

    Raises:
        ValueError: if `images` is no such batch, or `draws` has another shape; or if the images have other values,
            which within a graph fails the step.

    Example:

    >>> import numpy as np
    >>> from keras_moco.augment import moco_cifar, two_views
    >>> views = two_views(moco_cifar(28), np.zeros((8, 32, 32, 3), "uint8"))
    >>> views["query"].shape, views["key"].shape
    (TensorShape([8, 28, 28, 3]), TensorShape([8, 28, 28, 3]))
    """
    images = check_pixels(image_batch(images))
    if draws is None:
        count = tf.shape(images)[0]
        draws = augmentation.get_random_transformation_batch(2 * count)
        draws = tf.reshape(draws, [count, 2, augmentation.num_draws])
    draws = tf.convert_to_tensor(draws)
    if draws.shape.rank != 3 or draws.shape[1] != 2:
        raise UserError(
            "`draws` must hold two rows of uniform random numbers per image, shape (n, 2, num_draws). "
            f"Received: shape={tuple(draws.shape)}, num_draws={augmentation.num_draws}. Reshape them."
        )
    return {
        "query": augmentation.augment_pixels(images, draws[:, 0]),
        "key": augmentation.augment_pixels(images, draws[:, 1]),
    }
