"""Compose: augmentations one after the other."""

import keras

from keras_moco.augment.base import Augmentation
from keras_moco.errors import UserError


@keras.saving.register_keras_serializable(package="keras_moco")
class Compose(Augmentation):
    """Applies augmentations in order; its draws are theirs, side by side.

    Args:
        layers: list of `Augmentation`.
        **kwargs: of `Augmentation`. The draws come from this layer's generator, not from those of `layers`.

    Raises:
        ValueError: if an element of `layers` is no `Augmentation`.

    Example:

    >>> from keras_moco.augment import Compose, RandomGrayscale, RandomHorizontalFlip
    >>> Compose([RandomHorizontalFlip(), RandomGrayscale()]).num_draws
    2
    """

    def __init__(self, layers, **kwargs):
        super().__init__(**kwargs)
        for layer in layers:
            if not isinstance(layer, Augmentation):
                raise UserError(
                    "`layers` must hold `Augmentation` layers only, whose draws can be laid side by side. "
                    f"Received: {layer!r}. Subclass `Augmentation` to wrap another operation."
                )
        self.layers = list(layers)

    @property
    def num_draws(self):
        """int. How many uniform draws one image consumes: the sum over the layers."""
        return sum(layer.num_draws for layer in self.layers)

    def augment(self, images, draws):
        start = 0
        for layer in self.layers:
            images = layer.augment(images, draws[:, start : start + layer.num_draws])
            start += layer.num_draws
        return images

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})
