"""The encoder that contrastive learning trains: images in 0..255 -> features -> unit-norm embedding."""

import keras
import numpy as np
from keras import initializers, layers, ops

from keras_moco.errors import UserError
from keras_moco.layers import SplitBatchNormalization, splittable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _dense(units, fan_in, **kwargs):
    """A dense layer with the initial weights of PyTorch's `Linear`: U(-1, 1) / sqrt(fan-in), bias too."""
    bound = fan_in**-0.5
    uniform = initializers.RandomUniform(-bound, bound)
    return layers.Dense(units, kernel_initializer=uniform, bias_initializer=uniform.clone(), **kwargs)


def linear_head(features, embedding_dim=128):
    """One dense layer from `features` to `embedding_dim` (MoCo v1; official `moco/builder.py`)."""
    return keras.Sequential([keras.Input((features,)), _dense(embedding_dim, features, name="fc")], name="head")


def mlp_head(features, embedding_dim=128):
    """Dense, ReLU, dense; hidden width `features`, no BatchNorm (MoCo v2, sec. 3; official `moco/builder.py`)."""
    return keras.Sequential(
        [
            keras.Input((features,)),
            _dense(features, features, activation="relu", name="fc1"),
            _dense(embedding_dim, features, name="fc2"),
        ],
        name="head",
    )


def simclr_head(features, embedding_dim=128):
    """Three dense layers, each with BatchNorm, ReLU between them (SimCLR v1's code; official `tf2/model.py`).

    Hidden width `features`; initial weights N(0, 0.01); no biases beside BatchNorm's, and none in the last one.
    """

    def dense(units, name):
        small = initializers.RandomNormal(stddev=0.01)
        return layers.Dense(units, use_bias=False, kernel_initializer=small, name=name)

    return keras.Sequential(
        [
            keras.Input((features,)),
            dense(features, "fc1"),
            SplitBatchNormalization(name="bn1"),
            layers.ReLU(name="relu1"),
            dense(features, "fc2"),
            SplitBatchNormalization(name="bn2"),
            layers.ReLU(name="relu2"),
            dense(embedding_dim, "fc3"),
            SplitBatchNormalization(center=False, name="bn3"),
        ],
        name="head",
    )


HEADS = {"linear": linear_head, "mlp": mlp_head, "simclr": simclr_head}


@keras.saving.register_keras_serializable(package="keras_moco")
class Encoder(keras.Model):
    """Scaling, backbone, global average pooling, projection head, unit normalisation.

    The scaling belongs to the encoder, so whoever uses the model, or its export, feeds images as they are.

    Args:
        backbone: a built `keras.Model` from images to `(n, h, w, F)` feature maps or `(n, F)` features: one of
            `keras_moco.backbones`, of `keras.applications` (with `include_top=False`), `keras_cv.models`, or your own.
            Where it has BatchNorm layers of Keras, the attribute `backbone` is a copy of it in which they can be split.
        head: a `keras.Layer` from `(n, F)` to `(n, D)`, such as `linear_head(F)`; `F` is `backbone.output_shape[-1]`.
        mean: float or one per channel, for images scaled to 0..1. Defaults to ImageNet's.
        std: likewise. Defaults to ImageNet's. Use `mean=0, std=1 / 255` for a backbone that scales by itself.
        **kwargs: of `keras.Model`.

    Attributes:
        full_precision: str, the dtype of scaling, features and embedding, whatever the policy of the backbone.

    Call arguments:
        images: `(n, H, W, C)` of any numeric dtype, values in 0..255.
        training: bool. Defaults to `False`.

    Call returns:
        `(n, D)` float32 of unit length (float64 where Keras's floatx is).

    Raises:
        ValueError: if the backbone does not give features, or `mean` and `std` do not fit its channels.

    Example:

    >>> from keras_moco.backbones import resnet
    >>> backbone = resnet("resnet18", width=8, input_shape=(32, 32, 3))
    >>> encoder = Encoder(backbone, mlp_head(64, embedding_dim=16))
    >>> encoder(np.zeros((2, 32, 32, 3), "uint8")).shape, encoder.features(np.zeros((2, 32, 32, 3))).shape
    (TensorShape([2, 16]), TensorShape([2, 64]))
    """

    def __init__(self, backbone, head, mean=IMAGENET_MEAN, std=IMAGENET_STD, **kwargs):
        super().__init__(**kwargs)
        if len(backbone.output_shape) not in (2, 4):
            raise UserError(
                "`backbone` must give feature maps (n, h, w, F) or features (n, F). "
                f"Received: output shape {backbone.output_shape}. Cut it before its classifier."
            )
        self.backbone = splittable(backbone)
        self.head = splittable(head)
        channels = backbone.input_shape[-1]
        self.mean = _per_channel("mean", mean, channels)
        self.std = _per_channel("std", std, channels)
        # Similarities are dot products of unit vectors; half precision would cost them a fifth of a percent.
        self.full_precision = keras.backend.result_type(self.variable_dtype, "float32")
        # As arrays, since TensorFlow makes float32 of Python's numbers on their way to float64.
        self.scaling = layers.Rescaling(
            scale=1 / (255 * np.array(self.std)),
            offset=-np.array(self.mean) / np.array(self.std),
            dtype=self.full_precision,
            name="scaling",
        )
        self.pool = layers.GlobalAveragePooling2D(name="pool") if len(backbone.output_shape) == 4 else layers.Identity()
        self.normalize = layers.UnitNormalization(dtype=self.full_precision, name="unit_norm")
        self(keras.Input(backbone.input_shape[1:]))

    def features(self, images, training=False):
        """Pooled features of the backbone, what transfers to other tasks.

        Args:
            images: `(n, H, W, C)`, values in 0..255.
            training: bool.

        Returns:
            `(n, F)` float32 (float64 where Keras's floatx is).
        """
        images = self.scaling(ops.cast(images, self.full_precision))
        return ops.cast(self.pool(self.backbone(images, training=training)), self.full_precision)

    def call(self, images, training=False):
        return self.normalize(self.head(self.features(images, training=training), training=training))

    @property
    def embedding_dim(self):
        """int, `D`: the length of an embedding."""
        return self.head.compute_output_shape((None, self.feature_dim))[-1]

    @property
    def feature_dim(self):
        """int, `F`: the number of features."""
        return self.backbone.output_shape[-1]

    @property
    def image_shape(self):
        """`(H, W, C)` of the images, `None` where any size goes."""
        return self.backbone.input_shape[1:]

    def get_config(self):
        return {
            "name": self.name,
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "head": keras.saving.serialize_keras_object(self.head),
            "mean": self.mean,
            "std": self.std,
        }

    @classmethod
    def from_config(cls, config):
        parts = {part: keras.saving.deserialize_keras_object(config[part]) for part in ("backbone", "head")}
        return cls(**{**config, **parts})


def _per_channel(name, value, channels):
    values = np.atleast_1d(value).astype(float).tolist()
    if len(values) == 3 and channels == 1:
        # The statistics of a colour set, read as gray.
        return [sum(values) / 3]
    if len(values) not in (1, channels):
        raise UserError(
            f"`{name}` must be one number or one per channel. "
            f"Received: {len(values)} numbers for images of {channels} channel(s). Correct the number of them."
        )
    return values * (channels // len(values))
