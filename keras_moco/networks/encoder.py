"""The encoder that contrastive learning trains: images in 0..255 -> features -> unit-norm embedding."""

import contextlib
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_moco.errors import UserError
from keras_moco.layers import splittable
from keras_moco.layers.nested import nested_layers
from keras_moco.networks.weights import clone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_block = threading.local()  # every replica traces its step in a thread of its own


@contextlib.contextmanager
def added_losses():
    """Collects what layers add to the loss while an `Encoder` is called (`add_loss`, activity regularizers).

    Yields:
        A list of scalar tensors, extended by every call of an encoder in the block.
    """
    before, _block.losses = getattr(_block, "losses", None), []
    try:
        yield _block.losses
    finally:
        _block.losses = before


@keras.saving.register_keras_serializable(package="keras_moco")
class Encoder(keras.Model):
    """Scaling, backbone, global average pooling, projection head, unit normalisation.

    The scaling is part of the encoder, so users of the model, or of its export, feed unscaled images.

    Args:
        backbone: a built `keras.Model` from images to `(n, h, w, F)` feature maps, `(n, tokens, F)` tokens or `(n, F)`
            features: from `keras_moco.networks`, `keras.applications` (with `include_top=False`), `keras_cv.models`, or
            your own, also a subclassed one. The encoder trains this model, not a copy.
        head: a `keras.Layer` from `(n, F)` to `(n, D)`, such as `linear_head(F)`.
        mean: float or one per channel, for images scaled to 0..1. Defaults to `None`: ImageNet's, or 0 for a backbone
            that scales images itself.
        std: float or one per channel, for images scaled to 0..1. Defaults to `None`: ImageNet's, or 1/255 for a
            backbone that scales images itself, which then receives them in 0..255.
        **kwargs: keyword arguments of `keras.Model`.

    Attributes:
        backbone, head: the arguments. Outside of training steps of this package their BatchNorm layers work as usual.
        mean, std: lists of floats, one per channel.
        full_precision: str, the dtype of scaling, features and embedding, whatever the policy of the backbone.
        image_shape: `(H, W, C)` of the images, `None` where any size is accepted.
        feature_dim: int, `F`, the number of features.
        embedding_dim: int, `D`, the length of an embedding.

    Call arguments:
        images: `(n, H, W, C)` of any numeric dtype, values in 0..255.
        training: bool. Defaults to `False`.

    Call returns:
        `(n, D)` float32 of unit length (float64 where Keras's floatx is).

    Raises:
        ValueError: if the backbone is not built or does not give one tensor of features, or if `mean` or `std` does
            not have one number per channel.

    Example:

    >>> from keras_moco.networks import mlp_head, resnet
    >>> backbone = resnet("resnet18", width=8, input_shape=(32, 32, 3))
    >>> encoder = Encoder(backbone, mlp_head(64, embedding_dim=16))
    >>> encoder(np.zeros((2, 32, 32, 3), "uint8")).shape, encoder.features(np.zeros((2, 32, 32, 3))).shape
    (TensorShape([2, 16]), TensorShape([2, 64]))
    """

    def __init__(
        self,
        backbone: keras.Model,
        head: keras.layers.Layer,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, part in (("backbone", backbone), ("head", head)):
            if not isinstance(part, keras.Layer):
                raise UserError(
                    f"`{name}` must be a Keras model or layer. Received: {part!r}. Make one, such as "
                    f"`{'linear_head(F)' if name == 'head' else 'resnet(...)'}`."
                )
        images = keras.Input(image_shape_of(backbone))
        features_shape = features_shape_of(backbone)
        _check_head(head, features_shape[-1])
        self.backbone = splittable(backbone)
        self.head = splittable(head)
        self.image_shape = images.shape[1:]
        self.feature_dim = features_shape[-1]
        scaled_inside = scales_images(backbone)
        channels = self.image_shape[-1]
        self.mean = per_channel("mean", (0.0 if scaled_inside else IMAGENET_MEAN) if mean is None else mean, channels)
        self.std = per_channel("std", (1 / 255 if scaled_inside else IMAGENET_STD) if std is None else std, channels)
        # Similarities are dot products of unit vectors; half precision would cost them a fifth of a percent.
        self.full_precision = keras.backend.result_type(self.variable_dtype, "float32")
        # As arrays, since TensorFlow makes float32 of Python's numbers on their way to float64.
        self.scaling = layers.Rescaling(
            scale=1 / (255 * np.array(self.std)),
            offset=-np.array(self.mean) / np.array(self.std),
            dtype=self.full_precision,
            name="scaling",
        )
        self.pool = _POOLS[len(features_shape)]()
        self.normalize = layers.UnitNormalization(dtype=self.full_precision, name="unit_norm")
        embedding = self(images).shape
        if len(embedding) != 2:
            raise UserError(
                f"`head` must give one embedding per image, (n, D). Received: output shape {embedding}. Flatten it."
            )
        self.embedding_dim = embedding[-1]

    def features(self, images: Any, training: bool = False) -> Any:
        """Pooled features of the backbone, which transfer to other tasks: `(n, F)`, from images in 0..255."""
        images = self.scaling(ops.cast(images, self.full_precision))
        return ops.cast(self.pool(self.backbone(images, training=training)), self.full_precision)

    def __call__(self, *args, **kwargs):
        embedding = super().__call__(*args, **kwargs)
        # At once: Keras clears them at the next call, which may be that of another replica.
        losses = getattr(_block, "losses", None)
        if losses is not None:
            of_weights = sum(variable.regularizer is not None for variable in self.trainable_weights)
            losses.extend(self.losses[: len(self.losses) - of_weights])  # those of weights come last
        return embedding

    def call(self, images: Any, training: bool = False) -> Any:
        return self.normalize(self.head(self.features(images, training=training), training=training))

    def clone(self, name: str) -> "Encoder":
        """An encoder of that name and of the same architecture, with fresh variables.

        Raises:
            ValueError: if a layer cannot be rebuilt.
        """
        return type(self)(clone(self.backbone), clone(self.head), **{**self._settings(), "name": name})

    def _settings(self):
        return {**keras.layers.Layer.get_config(self), "mean": self.mean, "std": self.std}

    def get_config(self) -> dict[str, Any]:
        parts = {part: keras.saving.serialize_keras_object(getattr(self, part)) for part in ("backbone", "head")}
        return {**self._settings(), **parts}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Encoder":
        parts = {part: keras.saving.deserialize_keras_object(config[part]) for part in ("backbone", "head")}
        return cls(**{**config, **parts})


# From the output of a backbone to features, by its rank: features, tokens, feature maps.
_POOLS = {
    2: layers.Identity,
    3: lambda: layers.GlobalAveragePooling1D(name="pool"),
    4: lambda: layers.GlobalAveragePooling2D(name="pool"),
}


def image_shape_of(backbone):
    """`(H, W, C)` of the images that a backbone takes, `None` where any size is accepted.

    Raises:
        ValueError: if it is not built, or its input is not one batch of images.
    """
    shape = getattr(backbone, "input_shape", None) if hasattr(backbone, "inputs") else None
    if shape is None:  # a subclassed model stores the shape that it was built with
        shape = (backbone.get_build_config() or {}).get("input_shape")
    if not isinstance(shape, tuple | list) or len(shape) != 4 or shape[-1] is None:
        raise UserError(
            "`backbone` must be built, for images (n, H, W, C) with a known number of channels. "
            f"Received: {type(backbone).__name__} {backbone.name!r} of input shape {shape}. Begin it with "
            "`keras.Input((H, W, C))`, or call a subclassed model on `keras.Input((H, W, C))` first."
        )
    return tuple(shape[1:])


def features_shape_of(backbone):
    """Output shape of a backbone: `(n, F)`, `(n, tokens, F)` or `(n, h, w, F)`.

    Raises:
        ValueError: if it has another rank, or several outputs.
    """
    if hasattr(backbone, "inputs"):
        shapes = backbone.output_shape
    else:
        images = keras.Input(image_shape_of(backbone))
        shapes = keras.tree.map_structure(lambda output: output.shape, backbone(images))
    several = (
        list(shapes.values()) if isinstance(shapes, dict) else [shape for shape in shapes if isinstance(shape, tuple)]
    )
    if several:
        raise UserError(
            "`backbone` must have one output, the features to train. "
            f"Received: {len(several)} outputs, of shapes {', '.join(map(str, several))}. "
            "Choose one of them, such as `keras.Model(backbone.inputs, backbone.outputs[-1])`."
        )
    if len(shapes) not in _POOLS or shapes[-1] is None:
        raise UserError(
            "`backbone` must give feature maps (n, h, w, F), tokens (n, tokens, F) or features (n, F). "
            f"Received: output shape {shapes}. Cut it before its classifier."
        )
    return shapes


def _check_head(head, features):
    shape = head.input_shape if hasattr(head, "inputs") else (None, features)
    if shape not in ((None, features), (None, None)):
        raise UserError(
            "`head` must take the features of the backbone. "
            f"Received: a head for inputs {shape}, and {features} features. Make it for them, as "
            f"`linear_head({features})`."
        )


def scales_images(backbone):
    """Whether a backbone scales images in 0..255 itself, as several of `keras.applications` do.

    It does if a `Rescaling` or `Normalization` layer comes before its first layer with trainable weights.
    """
    for layer in nested_layers(backbone)[1:]:
        if isinstance(layer, layers.Rescaling | layers.Normalization):
            return True
        if layer.weights and not isinstance(layer, keras.Model):
            return False
    return False


def per_channel(name, value, channels):
    values = np.atleast_1d(value).astype(float).tolist()
    if len(values) == 3 and channels == 1:
        # Statistics of a colour data set that is read as gray.
        return [sum(values) / 3]
    if len(values) not in (1, channels):
        raise UserError(
            f"`{name}` must be one number or one per channel. "
            f"Received: {len(values)} numbers for images of {channels} channel(s). Correct the number of values."
        )
    return values * (channels // len(values))
